"""MQTT settings of an endpoint: section ``mqtt`` of its files, and what the transport and its client take."""

from __future__ import annotations

import logging
import re
import ssl
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationInfo,
    field_validator,
)

from s2connect.certs.tls import pinned_client_context, wan_client_context
from s2connect.errors import CertificateRefused, ConfigurationError
from s2connect.model.url import MqttUrl
from s2connect.store.files import read_private
from s2connect.transports.mqtt.parameters import MqttPassword, Protection
from s2connect.transports.mqtt.topics import InvalidTopic, check_client_id, check_group, check_prefix

_log = logging.getLogger(__name__)

MAX_PASSWORD_BYTES = 4096
"""Longest password file of a broker."""

MAX_NODES = 32
"""Nodes of a broker's cluster."""

SETTLE_SECONDS = 0.5
"""Seconds in which a subscription is known at all nodes of a cluster; some tens of milliseconds were measured."""


INSTANCE: Final = "{instance}"
"""Stands for the name of an instance, of which each needs a client id of its own."""


def _first_node(validated: dict[str, Any]) -> str:
    """Return what ``url`` is where it is not given; the empty text, which is none, without ``urls``."""
    return next(iter(validated.get("urls") or ()), "")


def _check_client_id(value: str) -> str:
    check_client_id(value.replace(INSTANCE, "x"))
    return value


class MqttSettings(BaseModel):
    """The MQTT broker of an endpoint and its account there, for nodes that speak ``X-MQTT5-0``.

    Attributes:
        url: ``mqtts://`` or ``wss://``. Where there are ``urls``, it is the first of them if it is not given.
        urls: Nodes of a cluster, beside ``url``. They are tried in an order by chance, and one that is lost comes last.
        settle: Seconds that a subscription at one node of a cluster takes to be known at the others, which no broker
            says: a session opens that much later. None is :data:`SETTLE_SECONDS` with several nodes, and 0 with one.
        client_id: MQTT client id, of this endpoint only: two that share one end each other's connection (MQ-16). None
            until :meth:`complete` makes it of the host name. ``{instance}`` in it and in ``username`` is the name of
            the instance, where several serve one endpoint.
        gateway: Name in the topics of the static sessions that this endpoint opens, and of its lists of devices, in
            place of the client id: the same for all instances, because the programs at the broker know one (MQ-19).
        prefix: Topic prefix of the sessions that this endpoint offers.
        username: For the broker, None for none.
        password_file: File with the password, which only its owner may read.
        ca_file: PEM file with the one CA that the broker's certificate has to come from, for a broker in the local
            network; None to trust the CAs of the system (MQ-18).
        certificate_file: PEM file with the certificate and chain of this client, None for none.
        key_file: PEM file with its key; None where it is in ``certificate_file``.
        protection: ``plain`` shows every message to the broker: only for one that belongs to one of the two parties and
            whose other users are meant to read (MQ-07).
        group: Name of the shared subscription of several instances of one gateway, None for a single one (MQ-11).
        minimum_tls: ``1.2`` lets a broker in whose TLS is old; it is logged (MQ-18).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True)

    urls: Annotated[tuple[MqttUrl, ...], Field(min_length=1, max_length=MAX_NODES)] | None = None
    url: MqttUrl = Field(default_factory=_first_node, validate_default=True)
    settle: Annotated[float, Field(ge=0, le=5)] | None = None
    client_id: Annotated[str, AfterValidator(_check_client_id)] | None = None
    gateway: Annotated[str, AfterValidator(check_client_id)] | None = None
    prefix: Annotated[str, AfterValidator(check_prefix)] = "s2"
    username: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    protection: Protection = Protection.SEALED
    group: Annotated[str, AfterValidator(check_group)] | None = None
    minimum_tls: Literal["1.3", "1.2"] = "1.3"
    _password: MqttPassword | None = PrivateAttr(None)

    @field_validator("url")
    @classmethod
    def _alike(cls, value: MqttUrl, info: ValidationInfo) -> MqttUrl:
        if any(one.is_websocket is not value.is_websocket for one in info.data.get("urls") or ()):
            raise ValueError("all nodes are mqtts://, or all are wss://")
        return value

    @field_validator("password_file")
    @classmethod
    def _has_user(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("username") is None:
            raise ValueError("there is a password, but no username")
        return value

    @property
    def nodes(self) -> tuple[MqttUrl, ...]:
        """The URLs of all nodes, each once."""
        return tuple(dict.fromkeys((self.url, *(self.urls or ()))))

    @property
    def is_shared_id(self) -> bool:
        """True if all instances have the same client id, so that there may be one only."""
        return self.client_id is not None and INSTANCE not in self.client_id

    @property
    def opens_as(self) -> str:
        """The name by which programs at the broker know this endpoint: its gateway, or its client id."""
        return self.gateway or self.client_id or ""

    @property
    def settle_seconds(self) -> float:
        """Seconds from a subscription until all nodes know of it; 0 for a broker that is no cluster."""
        if self.settle is not None:
            return self.settle
        return SETTLE_SECONDS if len(self.nodes) > 1 else 0.0

    def at(self, node: MqttUrl) -> Self:
        """Return these settings for a connection to one node."""
        return self if node == self.url else self.model_copy(update={"url": node})

    @property
    def password(self) -> MqttPassword | None:
        """The password, None for none; it stands in no settings file."""
        return self._password

    def with_password(self, password: MqttPassword | None) -> Self:
        """Return these settings with a password that does not come from a file."""
        made = self.model_copy()
        made._password = password
        return made

    def complete(self, host: str, instance: str = "") -> Self:
        """Return these settings with a client id and the password of the file. Reads it: call this in a thread.

        Args:
            host: Host name of the endpoint, of which the client id is made where none is set.
            instance: Name of this instance, where several serve the endpoint; part of the client id then.

        Raises:
            ConfigurationError: There is no password file, or the client id is none with the name of the instance.
            StorageError: It cannot be read, or others can read it.
        """
        end = f"-{instance}" if instance else ""
        named = self.client_id or f"s2-{re.sub('[^0-9a-zA-Z.-]', '-', host)}"[: 64 - len(end)] + end
        try:
            client_id = check_client_id(named.replace(INSTANCE, instance))
        except InvalidTopic as error:
            raise ConfigurationError(f"The MQTT client id of this instance cannot be used: {error}.") from None
        username = self.username and self.username.replace(INSTANCE, instance)
        made = self.model_copy(update={"client_id": client_id, "username": username})
        if self.password_file is not None:
            content = read_private(self.password_file, MAX_PASSWORD_BYTES)
            if content is None:
                raise ConfigurationError(f"The password of the MQTT broker, {self.password_file}, is missing.")
            made._password = MqttPassword(content.decode("utf-8", "replace").rstrip("\r\n"))
        return made

    def context(self) -> ssl.SSLContext:
        """Build the TLS context. Takes up to 15 ms and reads files: call it in a thread, once.

        Raises:
            ConfigurationError: A file cannot be read, or holds something else.
        """
        context = wan_client_context() if self.ca_file is None else pinned_client_context(_read_ca(self.ca_file))
        context.set_alpn_protocols(["http/1.1" if self.url.is_websocket else "mqtt"])
        if self.minimum_tls == "1.2":
            _log.warning("TLS 1.2 is allowed for the MQTT broker %s, by its configuration", self.url.host)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.certificate_file is not None:
            try:
                context.load_cert_chain(self.certificate_file, self.key_file, password=_no_pass_phrase)
            except OSError as error:  # ssl.SSLError is one
                reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
                raise ConfigurationError(
                    f"The certificate for the MQTT broker, {self.certificate_file}, cannot be used"
                    f" ({reason or 'no PEM'}).",
                    hint="It has to be PEM, with its key beside it or in key_file, without a pass phrase.",
                ) from None
        return context


NO_BROKER: Final = "Check that the broker runs, and that this machine reaches it. It is tried again."
"""Hint where a broker cannot be reached."""

_UNKNOWN_CA: Final = (
    "is not of the CA that is known here",
    "Where the broker has a new CA: put it into the file that ca_file names, then "
    "reload. Otherwise somebody may be in between.",
)
_OF_BROKER: Final = {
    "pin": _UNKNOWN_CA,
    "untrusted": _UNKNOWN_CA,
    "expired": (
        "has expired",
        "Renew it at the broker, which has to read it again; or set the clock here.",
    ),
    "name": ("is made out to another name", "The url of the broker has to have a name that is in its certificate."),
}


def refused_broker(where: str, error: CertificateRefused) -> CertificateRefused:
    """Return the error for a broker's certificate, in words that are about a broker: nobody is paired with it."""
    if error.reason not in _OF_BROKER:
        return error
    what, hint = _OF_BROKER[error.reason]
    return CertificateRefused(f"The certificate of the broker {where} {what}.", reason=error.reason, hint=hint)


def _no_pass_phrase() -> str:
    """Keep OpenSSL from asking at the terminal."""
    return ""


def _read_ca(file: Path) -> bytes:
    from cryptography import x509  # takes long to load
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        certificates = x509.load_pem_x509_certificates(file.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"The CA of the MQTT broker, {file}, cannot be read ({error.strerror}).") from None
    except ValueError:
        certificates = []
    if len(certificates) != 1:
        raise ConfigurationError(
            f"The CA of the MQTT broker, {file}, holds {len(certificates)} certificates.",
            hint="It has to hold exactly one CA certificate as PEM text.",
        )
    return certificates[0].public_bytes(Encoding.DER)
