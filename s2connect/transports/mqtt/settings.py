"""How an endpoint reaches its MQTT broker."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from s2connect.certs.tls import pinned_client_context, wan_client_context
from s2connect.errors import ConfigurationError
from s2connect.model.url import MqttUrl
from s2connect.transports.mqtt.details import MqttPassword, Protection
from s2connect.transports.mqtt.topics import InvalidTopic, TopicSpace, check_client_id

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttSettings:
    """One broker, and who we are there.

    Attributes:
        url: ``mqtts://`` or ``wss://``.
        client_id: MQTT client id, of this endpoint only: two that share one end each other's connection (MQ-16).
        prefix: Topic prefix of the sessions that this endpoint offers.
        username: For the broker, None for none.
        password: For the broker, None for none.
        ca_file: PEM file with the one CA that the broker's certificate has to come from, for a broker in the local
            network; None to trust the CAs of the system (MQ-18).
        certificate_file: PEM file with the certificate and chain of this client, None for none.
        key_file: PEM file with its key; None where it is in ``certificate_file``.
        protection: ``plain`` shows every message to the broker: only for one that belongs to one of the two parties and
            whose other users are meant to read (MQ-07).
        group: Name of the shared subscription of several instances of one gateway, None for a single one (MQ-11).
        minimum_tls: ``1.2`` lets a broker in whose TLS is old; it is logged (MQ-18).
    """

    url: MqttUrl
    client_id: str
    prefix: str = "s2"
    username: str | None = None
    password: MqttPassword | None = None
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    protection: Protection = Protection.SEALED
    group: str | None = None
    minimum_tls: Literal["1.3", "1.2"] = "1.3"

    def __post_init__(self) -> None:
        TopicSpace(self.prefix)
        try:
            check_client_id(self.client_id)
        except InvalidTopic:
            raise ConfigurationError(
                "The MQTT client id cannot be used.",
                hint="It has 1 to 64 letters, digits, '.', '_', ':', '@', '-', and is not 'open'.",
            ) from None
        if self.password is not None and self.username is None:
            raise ConfigurationError("There is a password for the MQTT broker, but no user name.")

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


def _no_pass_phrase() -> str:
    """Keeps OpenSSL from asking at the terminal."""
    return ""


def _read_ca(file: Path) -> bytes:
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
