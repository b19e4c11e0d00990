"""Settings of an endpoint: validated on construction, kept as ``config.json`` in its home."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from s2connect.errors import ConfigurationError, InvalidUrl
from s2connect.https import WEBSOCKET_PATH
from s2connect.https.proxy_protocol import network
from s2connect.model.alphabet import as_label
from s2connect.model.common import (
    DEFAULT_S2_VERSION,
    WEBSOCKET,
    Deployment,
    EndpointDescription,
    NodeDescription,
    NodeId,
    Role,
)
from s2connect.model.faults import first_fault
from s2connect.model.local import LocalEndpoint, LocalNode, check_aliases
from s2connect.model.pairing import NodeIdAlias
from s2connect.model.proxy import Proxy
from s2connect.model.url import PAIRING_PORT, BaseUrl, WebSocketUrl, host_as_ascii
from s2connect.store.postgresql.address import STORE_VARIABLE, check_url, has_password, without_password
from s2connect.transports.mqtt.settings import MqttSettings

CONFIG_FILE = "config.json"
INSTANCE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$"

_Settings = TypeVar("_Settings", bound=BaseModel)
_Shown = Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True)]


class NodeConfig(BaseModel):
    """Settings of a node.

    Attributes:
        id: Its UUID; it never changes.
        role: ``CEM`` or ``RM``.
        brand: Shown to the other side's user, as are the next three.
        type: Kind of device, e.g. ``Battery``.
        model_name: Model.
        user_defined_name: The name its user gave it.
        logo_url: URL of a picture.
        alias: Short name in the pairing code; given where the endpoint has several nodes (TOK-03).
        communication_protocols: By preference.
        s2_versions: S2 JSON versions by preference.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True)

    role: Role
    id: NodeId = Field(default_factory=lambda: NodeId(uuid4()))
    brand: _Shown = "s2connect"
    type: _Shown = "Generic"
    model_name: _Shown = "s2connect"
    user_defined_name: _Shown | None = None
    logo_url: str | None = None
    alias: NodeIdAlias | None = None
    communication_protocols: tuple[str, ...] = (WEBSOCKET,)
    s2_versions: tuple[str, ...] = (DEFAULT_S2_VERSION,)

    def node(self) -> LocalNode:
        """Return the node for the protocols."""
        description = NodeDescription(**{name: getattr(self, name) for name in NodeDescription.model_fields})
        return LocalNode(description, self.alias, self.communication_protocols, self.s2_versions)


class PageSettings(BaseModel):
    """The page of `serve` and `bridge run`. At an address of loopback only this machine reaches it.

    Attributes:
        enabled: Whether there is a page.
        bind: Address to listen on; ``*`` is every address. Beyond loopback it is served over the endpoint's TLS, to
            those who log in, from local networks.
        port: TCP port; 0 is any free one. Without it, it is 8480, or any free one where that is taken.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True)

    enabled: bool = True
    bind: Annotated[str, StringConstraints(min_length=1, max_length=255, strip_whitespace=True)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] | None = None


class MetricsSettings(BaseModel):
    """Metrics and health of `serve` at ``http://127.0.0.1:PORT/metrics``, with a page or without.

    Attributes:
        port: TCP port; 0 is any free one. Without it there is none but that of the page.
        bind: Address to listen on; ``*`` is every address. Beyond loopback, whoever reaches it may read ``/metrics``,
            ``/healthz`` and ``/readyz``, without encryption: for the checks of a balancer, in a network of one's own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True)

    port: Annotated[int, Field(ge=0, le=65535)] | None = None
    bind: Annotated[str, StringConstraints(min_length=1, max_length=255, strip_whitespace=True)] = "127.0.0.1"


class EndpointConfig(BaseModel):
    """Settings of an endpoint.

    Attributes:
        deployment: ``LAN`` or ``WAN``: where the nodes run.
        host: Name under which peers reach this endpoint; in the certificate and in every URL (VER-04).
        port: TCP port of pairing, sessions and WebSockets.
        bind: Address to listen on; None listens on all.
        listen_port: TCP port to listen on, where a balancer or router leads ``port`` to another one; None for ``port``.
        balancers: WAN: addresses and networks of load balancers, such as ``192.0.2.0/28``. Their connections have to
            begin with a header of PROXY protocol 2; the client that it names counts for limits and logs. Whoever has
            such an address can pose as any client to those.
        balancers_only: Whether nobody else may connect.
        tls: ``own``; or ``balancer``, which ends TLS and reaches this endpoint without it, in a network where nobody
            else can listen: tokens pass there in the clear (VER-05). Nobody but the balancers may connect then.
        name: Shown to the other side's user.
        logo_url: URL of a picture.
        nodes: Its nodes.
        certificate: WAN: PEM file with the certificate chain, leaf first; None makes the endpoint its own CA.
        private_key: WAN: PEM file with the key of the leaf.
        trust_anchors: PEM file with CAs to trust beside those of the system, for servers in the WAN.
        vault: Where secrets are kept: ``keyring``, ``files``, or ``auto``, which ``init`` settles.
        store: ``postgresql://user@host:5432/name``: keep nodes, pairings and secrets in this database, which several
            instances of a WAN endpoint may share; None keeps them in the home. A URL with a password belongs in the
            environment variable ``S2CONNECT_STORE``, or the password in ``PGPASSWORD`` or ``PGPASSFILE``.
        store_key_file: File with the key that seals the secrets in the database, made by ``s2connect store key``; None
            for that of the environment (``S2CONNECT_STORE_KEY``).
        instance: Name of this instance, if several share the database.
        instance_url: WebSocket URL that leads to one instance, such as ``wss://{instance}.i.example.com``, where
            ``{instance}`` stands for its name: for sessions that one instance has prepared, such as those of a bridge.
            Balancer and certificate need the names. None for the common URL; another instance that is met there has to
            prepare the session anew.
        drain_wait: Seconds, at most, for which an instance that was asked to end serves what was begun.
        drain_rate: Sessions a second that it then asks to connect to other instances.
        store_outage_limit: Seconds for which sessions live on where the database is lost.
        advertise: Whether a LAN endpoint with a ``.local`` name is published by DNS-SD (DISC-02).
        server: Whether it runs a server at all; without one it hosts devices only, which wait at energy managers to be
            paired (ROLE-04, LP-01).
        mqtt: The MQTT broker, where sessions may be over MQTT.
        proxy: ``http://host:port`` of the HTTP proxy towards WAN endpoints; None for that of the environment
            (``HTTPS_PROXY``, ``NO_PROXY``). One with a password belongs there.
        proxy_exceptions: Hosts and domains that are reached without it. What is local always is.
        allow_private_addresses: Let this WAN endpoint connect to private addresses and to its own machine, and accept
            self-signed certificates there. For tests, and for a WAN that is one private network. It opens this attack:
            whoever may type a pairing URL, and every paired peer by the URLs it gives for sessions, makes the endpoint
            connect into its own network, and learns from the errors what is there. A LAN endpoint does not need it.
        wan_pairing_server: This server is run by the vendor in the WAN for nodes that are in the LAN (ROLE-03 a). It
            pairs with WAN clients only, has a certificate of a public CA, and ``deployment`` stays ``LAN``.
        page: The page of the service; None for that of `serve` without ``--json``, on loopback.
        metrics: Metrics of `serve` on a port of their own; None for none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True)

    deployment: Deployment = Deployment.LAN
    host: str = Field(default_factory=lambda: default_host())
    port: Annotated[int, Field(ge=0, le=65535)] = PAIRING_PORT
    bind: str | None = None
    listen_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    balancers: tuple[str, ...] = ()
    balancers_only: bool = False
    tls: Literal["own", "balancer"] = "own"
    name: _Shown | None = None
    logo_url: str | None = None
    nodes: tuple[NodeConfig, ...] = ()
    certificate: Path | None = None
    private_key: Path | None = None
    trust_anchors: Path | None = None
    vault: Literal["auto", "keyring", "files"] = "auto"
    store: str | None = None
    store_key_file: Path | None = None
    instance: Annotated[str, StringConstraints(pattern=INSTANCE_NAME)] | None = None
    instance_url: str | None = None
    drain_wait: Annotated[float, Field(ge=0, le=3600)] = 30.0
    drain_rate: Annotated[float, Field(gt=0, le=100_000)] = 100.0
    store_outage_limit: Annotated[float, Field(ge=0, le=86_400)] = 300.0
    advertise: bool = True
    server: bool = True
    wan_pairing_server: bool = False
    allow_private_addresses: bool = False
    mqtt: MqttSettings | None = None
    proxy: str | None = None
    proxy_exceptions: tuple[str, ...] = ()
    page: PageSettings | None = None
    metrics: MetricsSettings | None = None

    @field_validator("proxy")
    @classmethod
    def _proxy(cls, value: str | None) -> str | None:
        if value is not None:
            check_proxy(value)
        return value

    @field_validator("store")
    @classmethod
    def _store(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                check_url(value)
            except ConfigurationError as error:
                raise ValueError(f"{error.what} {error.hint}".rstrip(".")) from None
            if has_password(value):
                raise ValueError(f"a URL with a password belongs in the environment variable {STORE_VARIABLE}")
        return value

    @field_validator("balancers")
    @classmethod
    def _balancers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(network(one)) for one in value)

    @field_validator("host")
    @classmethod
    def _host(cls, value: str) -> str:
        try:
            host = host_as_ascii(value.strip().strip("[]"))
            BaseUrl(f"https://{bracketed(host)}/")
        except InvalidUrl as error:
            raise ValueError(error.what) from None
        return host

    @field_validator("instance_url")
    @classmethod
    def _instance_url(cls, value: str | None) -> str | None:
        if value is not None:
            at_instance(value, "a")
        return value

    @model_validator(mode="after")
    def _together(self) -> Self:
        check_aliases(node.node() for node in self.nodes)
        if len({node.id for node in self.nodes}) != len(self.nodes):
            raise ValueError("two nodes have the same id")
        if len(self.nodes) > 1 and any(node.alias is None for node in self.nodes):
            raise ValueError("every node needs an alias where there are several (TOK-03)")
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("certificate and private_key belong together")
        if self.balancers and self.deployment is not Deployment.WAN and not self.wan_pairing_server:
            raise ValueError("balancers need deployment WAN: in the LAN the address of a connection says who is near")
        if self.balancers_only and not self.balancers:
            raise ValueError("balancers_only needs balancers")
        if self.tls == "balancer" and (self.deployment is not Deployment.WAN or not self.balancers):
            raise ValueError("tls at a balancer needs deployment WAN and balancers")
        has_certificate = self.certificate is not None or self.tls == "balancer"
        if self.store is not None and (self.deployment is not Deployment.WAN or not has_certificate):
            raise ValueError("store needs deployment WAN and a certificate, because all instances have one public name")
        if self.instance_url is not None and self.store is None:
            raise ValueError("instance_url needs store: without it there is one instance only")
        if not self.server and (
            self.deployment is not Deployment.LAN or any(node.role is not Role.RM for node in self.nodes)
        ):
            raise ValueError("only LAN endpoints that host nothing but RMs may do without a server (ROLE-04)")
        if self.wan_pairing_server and (self.deployment is not Deployment.LAN or self.certificate is None):
            raise ValueError("wan_pairing_server needs deployment LAN and a certificate of a public CA")
        return self

    def with_environment(self) -> Self:
        """Return the settings with the store of the environment (``S2CONNECT_STORE``), if one is named there.

        Raises:
            ConfigurationError: It cannot be used, or not with these settings.
        """
        if not (url := os.environ.get(STORE_VARIABLE)):
            return self
        store = without_password(check_url(url))
        checked(
            lambda: type(self).model_validate(self.model_dump() | {"store": store}),
            f"With the database of --store or {STORE_VARIABLE}",
        )
        return self.model_copy(update={"store": store})

    def endpoint(self) -> LocalEndpoint:
        """Return the endpoint for the protocols."""
        nodes = [node.node() for node in self.nodes]
        return LocalEndpoint(
            EndpointDescription(name=self.name, logo_url=self.logo_url, deployment=self.deployment),
            self.deployment,
            {node.id: node for node in nodes},
        )

    @property
    def connects_to_internet_only(self) -> bool:
        """True if private addresses are refused: in the WAN strangers choose them (ROLE-03)."""
        in_wan = self.deployment is Deployment.WAN or self.wan_pairing_server
        return in_wan and not self.allow_private_addresses

    @property
    def is_own_ca(self) -> bool:
        """True if the endpoint signs its own certificates; not where a balancer has the certificate."""
        return self.certificate is None and self.tls == "own"

    @property
    def has_certificate(self) -> bool:
        """True if there is a certificate; False where the balancer has it, and no other is named here."""
        return self.certificate is not None or self.tls == "own"

    @property
    def listens_on(self) -> int:
        """TCP port to listen on, which is not that of the URLs where something leads there."""
        return self.port if self.listen_port is None else self.listen_port

    def to_json(self) -> bytes:
        """Return the settings as JSON that people can edit."""
        return self.model_dump_json(indent=2, exclude_none=True).encode("utf-8") + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read settings; ConfigurationError names the setting with the first mistake."""
        return checked(lambda: cls.model_validate_json(data), CONFIG_FILE)


def checked(make: Callable[[], _Settings], place: str) -> _Settings:
    """Make settings; turn the first mistake into a ConfigurationError that names it."""
    try:
        return make()
    except ValidationError as error:
        setting, what = first_fault(error)
        raise ConfigurationError(f"{place}: {f'{setting}: ' if setting else ''}{what}.") from None


def check_proxy(url: str) -> None:
    """Check the URL of a proxy as it may stand in settings; ValueError if it is none, or holds a password."""
    try:
        proxy = Proxy.parse(url)
    except ConfigurationError as error:
        raise ValueError(f"{error.what} {error.hint}".rstrip(".")) from None
    if proxy.credentials is not None:
        raise ValueError("a user and password of the proxy belong in the environment variable HTTPS_PROXY")


def at_instance(template: str, instance: str) -> WebSocketUrl:
    """Return the URL of WebSockets at an instance (S2C-48): ``instance_url`` of the settings with its name.

    Raises:
        ValueError: It is no such URL.
    """
    text = template.replace("{instance}", instance.lower())
    if "{" in text or "}" in text:
        raise ValueError("it has braces; only {instance} is replaced, by the name of the instance")
    try:
        url = WebSocketUrl(text)
    except InvalidUrl as error:
        raise ValueError(error.what) from None
    parts = urlsplit(url)
    if parts.path not in ("", "/") or parts.query:
        raise ValueError("it has to be a URL without a path, such as wss://{instance}.i.example.com")
    return WebSocketUrl(f"wss://{bracketed(url.host)}:{url.port}{WEBSOCKET_PATH}")


def bracketed(host: str) -> str:
    """Return a host as written in a URL."""
    return f"[{host}]" if ":" in host else host


def default_host() -> str:
    """Return a name for an endpoint: that of the machine, made unique in the LAN by four random characters (VER-04)."""
    return f"{as_label(socket.gethostname().partition('.')[0]) or 's2'}-{secrets.token_hex(2)}.local"
