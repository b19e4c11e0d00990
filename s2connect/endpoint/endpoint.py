"""Endpoint: the one place that knows all the parts. Hosts nodes, serves and pairs them, keeps their sessions."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from s2connect.certs.tls import ServerContext, wan_client_context
from s2connect.endpoint.certificate import CertificateManager
from s2connect.endpoint.config import CONFIG_FILE, EndpointConfig, NodeConfig, bracketed, checked
from s2connect.endpoint.connections import ConnectionManager, LiveConnection, first_reachable
from s2connect.endpoint.node import Node
from s2connect.endpoint.pairing import PairingManager
from s2connect.endpoint.pairings import Pairings
from s2connect.endpoint.resolver import Resolver
from s2connect.errors import (
    ConfigurationError,
    NotInitialised,
    StorageError,
    UsageError,
)
from s2connect.events import (
    Event,
    EventHub,
    EventStream,
    Notice,
    TaskFailed,
)
from s2connect.https import PAIRING_PATH, SESSION_PATH, WEBSOCKET_PATH
from s2connect.model.common import MQTT, Deployment, EndpointDescription, NodeDescription, NodeId, Role
from s2connect.model.local import LocalNode
from s2connect.model.proxy import Proxies
from s2connect.model.secret import AccessToken
from s2connect.model.url import BaseUrl, WebSocketUrl
from s2connect.pairing.server_core import PairingServer
from s2connect.session.http_client import SessionClient
from s2connect.session.server_core import SessionServer
from s2connect.store.base import Pairing, PairKey, Store, Vault
from s2connect.store.home import Home
from s2connect.store.memory import MemoryStore, MemoryVault
from s2connect.store.sqlite import SqliteStore
from s2connect.store.vault import open_vault
from s2connect.supervisor import FailureLog, Supervisor, TaskFailure
from s2connect.transports.base import Transport
from s2connect.transports.websocket import WebSocketTransport

if TYPE_CHECKING:
    from zeroconf.asyncio import AsyncZeroconf

    from s2connect.endpoint.local_network import LocalNetwork
    from s2connect.endpoint.server import Server
    from s2connect.transports.mqtt.transport import MqttTransport

_log = logging.getLogger(__name__)

RENEWAL_CHECK = 30.0
"""Seconds between two checks of the leaf certificate's age (TRUST-01): many devices set their clock late."""

RENEWAL_PAUSE = 6 * 3600.0
"""Seconds before renewal is retried after an attempt that gave no better leaf."""

DATABASE = "state.sqlite"
SECRETS = "secrets"


class Endpoint:
    """An endpoint: use :meth:`open` with ``async with``.

    Attributes:
        config: Its settings.
        nodes: Its nodes by id.
        book: Its pairings, for its nodes.
        supervisor: Owns its background tasks; they end with it.
    """

    def __init__(
        self,
        config: EndpointConfig,
        store: Store,
        vault: Vault,
        identity: CertificateManager,
        home: Home | None,
        addresses: Mapping[str, str],
        zeroconf: AsyncZeroconf | None,
    ) -> None:
        """Use :meth:`open`."""
        self.config = config
        self.nodes: dict[NodeId, Node] = {}
        self._local = config.endpoint()
        self._store = store
        self._vault = vault
        self._certificates = identity
        self._home = home
        self._events = EventHub()
        self.supervisor = Supervisor("s2connect", FailureLog(self.task_failed))
        self._zeroconf = zeroconf
        self._lan: LocalNetwork | None = None
        self._connections: dict[NodeId, ConnectionManager] = {}
        self._tls: ServerContext | None = None
        self._server: Server | None = None
        self._ready = self._serve = False
        self._port = config.port
        self._config_lock = asyncio.Lock()
        self._pairing_server = PairingServer(
            lambda: self._local,
            session_url=lambda: self.session_url,
            wan_clients_only=config.wan_pairing_server,
        )
        self._session_server = SessionServer()
        self.book = Pairings(store, lambda: self._local, self._connections, self._session_server, self, self.supervisor)
        self._websocket = WebSocketTransport(self._websocket_url)
        self._transports: dict[str, Transport] = {self._websocket.name: self._websocket}
        self._mqtt: MqttTransport | None = None
        self._proxies = Proxies.of(config.proxy, config.proxy_exceptions, os.environ)
        self._resolver = Resolver(
            addresses,
            zeroconf,
            public_only=config.connects_to_internet_only,
            through_proxy=lambda host: self._proxies.towards(host) is not None,
        )

    # Opening and closing

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        home: Path | str | None = None,
        *,
        config: EndpointConfig | None = None,
        serve: bool = True,
        listen: bool = True,
        addresses: Mapping[str, str] | None = None,
        zeroconf: AsyncZeroconf | None = None,
    ) -> AsyncIterator[Endpoint]:
        """Open an endpoint until the context ends; then withdraw its records, end its sessions and stop, in this order.

        Args:
            home: State directory, made by ``s2connect init`` or :func:`create_home`. None keeps everything in memory:
                for tests and for software that shall forget.
            config: Settings; None reads those of the home.
            serve: Listen. Without it the endpoint can only be pairing client and communication client.
            listen: Listen from the start; otherwise once :meth:`listen` is called, for an application that has much to
                prepare before it can take sessions.
            addresses: Where to connect to for a host name, instead of resolving it.
            zeroconf: An instance to find and be found with, instead of one of our own; it is not closed here.

        Raises:
            ConfigurationError: A setting cannot be used, or the port is taken.
            StorageError: The home cannot be used, or another process has it.
        """
        async with contextlib.AsyncExitStack() as stack:
            opened: Home | None = None
            if home is not None:
                opened = await asyncio.to_thread(Home.open, Path(home))
                lock = opened.lock()
                await asyncio.to_thread(lock.__enter__)
                stack.callback(lock.__exit__, None, None, None)
            if config is None:
                if opened is None:
                    raise UsageError("An endpoint needs a home or settings.")
                config = await asyncio.to_thread(read_config, opened)
            store: Store
            vault: Vault
            if opened is None:
                vault, store = MemoryVault(), MemoryStore()
            else:
                vault, _ = await asyncio.to_thread(open_vault, config.vault, opened.path / SECRETS)
                store = await SqliteStore.open(opened.path / DATABASE, vault)
            stack.push_async_callback(store.close)
            identity = CertificateManager(config, opened, vault)
            endpoint = cls(config, store, vault, identity, opened, addresses or {}, zeroconf)
            stack.push_async_callback(endpoint._close)
            await endpoint._start(serve=serve)
            if listen:
                await endpoint.listen()
            yield endpoint

    async def _start(self, *, serve: bool) -> None:
        self._pki = await asyncio.to_thread(wan_client_context, self.config.trust_anchors)
        shown = await asyncio.to_thread(self._certificates.load)
        self._tls = ServerContext(shown)
        if self.config.mqtt is not None or any(MQTT in n.communication_protocols for n in self.config.nodes):
            await self._start_mqtt()
        self._pairing_manager = PairingManager(
            self.config,
            lambda: self._local,
            self,
            supervisor=self.supervisor,
            server=self._pairing_server,
            book=self.book,
            store=self._store,
            vault=self._vault,
            events=self._events,
            resolver=self._resolver,
            proxies=self._proxies,
            pki=self._pki,
            session_url=lambda: self.session_url if self._port and self.config.server else None,
        )
        client = SessionClient(
            self._store, self._transports, self._pki, proxies=self._proxies, addresses_of=self._resolver.of
        )
        self._client = client
        for local in self._local.nodes.values():
            await self._add_node(local)
        if serve and self.config.deployment is Deployment.LAN and not self.config.wan_pairing_server:
            from s2connect.endpoint.local_network import LocalNetwork  # loads DNS-SD

            self._lan = LocalNetwork(
                self.config,
                lambda: self._local,
                self,
                supervisor=self.supervisor,
                pairing=self._pairing_manager,
                store=self._store,
                pki=self._pki,
                ready=lambda: self._ready,
                zeroconf=self._zeroconf,
            )
            self._pairing_manager.open_to(self._lan)
        self._serve = serve
        self.supervisor.keep(self._keep_identity_fresh, "renewal")

    async def listen(self) -> None:
        """Listen and advertise, if the endpoint was opened without; does nothing if it does so already.

        Raises:
            ConfigurationError: The port is taken.
        """
        if self._ready:
            return
        serve = self._serve
        if serve and self.config.server:
            await self._listen()
        self._ready = True
        if self._lan is not None:
            self._lan.start(self.pairing_url if self._server else None, self._port)
        await self.book.settle_unconfirmed()
        if serve and (doubt := self._certificates.doubt()) is not None:
            self.publish(Notice(kind="clock", sentence=doubt))
        if self.config.deployment is Deployment.WAN and self.config.is_own_ca and serve:
            self.publish(
                Notice(
                    kind="own_ca_in_wan",
                    sentence="This WAN endpoint has no certificate of a public CA; peers will refuse it unless they "
                    "trust its own CA (ca.pem).",
                )
            )

    async def _start_mqtt(self) -> None:
        """Sessions over MQTT: over our own broker where one is configured, otherwise over those that peers name."""
        from s2connect.transports.mqtt.transport import MqttTransport

        settings = None
        if self.config.mqtt is not None:
            settings = await asyncio.to_thread(self.config.mqtt.complete, self.config.host)
        self._mqtt = MqttTransport(
            settings,
            role_of=lambda node: self._local.nodes[node].description.role,
            guest_context=lambda: wan_client_context(self.config.trust_anchors),
            addresses_of=self._resolver.of if self.config.connects_to_internet_only else None,
            failures=self.supervisor.failures,
        )
        self._transports[self._mqtt.name] = self._mqtt
        self._mqtt.start()

    async def _add_node(self, local: LocalNode) -> Node:
        connections = ConnectionManager(
            lambda: self._local,
            local,
            self._store,
            self._client,
            self.book,
            self._routes_of,
            supervisor=self.supervisor,
        )
        self._connections[local.id] = connections
        node = self.nodes[local.id] = Node(self, self._pairing_manager, local, connections)
        await self._pairing_manager.restore_static_code(local)
        return node

    async def _listen(self) -> None:
        from s2connect.endpoint.server import Server  # a device that only connects does without a server

        assert self._tls is not None
        self._server = await Server.start(
            self.config,
            self._tls,
            manager=self.book,
            supervisor=self.supervisor,
            on_failed=self._pairing_manager.attempt_failed,
            endpoint=lambda: self._local,
            ready=lambda: self._ready,
            pairing_server=self._pairing_server,
            session_server=self._session_server,
            store=self._store,
            transports=self._transports,
            websocket=self._websocket,
            lan=self._lan,
        )
        self._port = self._server.port

    async def _close(self) -> None:
        self._ready = False
        if self._lan is not None:
            await self._lan.withdraw()
        await asyncio.gather(*(c.close() for c in self._connections.values()))
        await self.book.close()
        await self.supervisor.close()
        await self._websocket.close()
        if self._mqtt is not None:
            await self._mqtt.close()
        if self._server is not None:
            await self._server.close()
        await self._resolver.close()
        self._events.close()

    # What applications ask

    def node(self, node_id: NodeId | None = None, *, role: Role | None = None, alias: str | None = None) -> Node:
        """The node of that id, role or alias; without any, the only one.

        Raises:
            UsageError: None or several fit.
        """
        found = [
            node
            for node in self.nodes.values()
            if (node_id is None or node.id == node_id)
            and (role is None or node.role is role)
            and (alias is None or node.alias == alias)
        ]
        if len(found) != 1:
            names = ", ".join(f"{n.alias or n.id} ({n.role})" for n in self.nodes.values()) or "none"
            raise UsageError(f"{'Several nodes fit' if found else 'There is no such node'}; nodes here: {names}.")
        return found[0]

    async def create_node(self, node: NodeConfig) -> Node:
        """Add a node and keep it in the settings. The errors are those of :meth:`create_nodes`."""
        return (await self.create_nodes([node]))[0]

    async def create_nodes(self, nodes: Sequence[NodeConfig]) -> list[Node]:
        """Add nodes and keep them in the settings, which are written once: all of them, or none.

        Raises:
            ConfigurationError: An id or alias is taken, or an alias is missing.
            StorageError: The settings could not be written.
        """
        if not nodes:
            return []
        async with self._config_lock:
            await self._write_config([*self.config.nodes, *nodes])
        if self._mqtt is None and any(MQTT in node.communication_protocols for node in nodes):
            await self._start_mqtt()
        added = [await self._add_node(self._local.nodes[node.id]) for node in nodes]
        if self._lan is not None and self._ready:
            self._lan.nodes_changed()
        return added

    async def describe_node(self, node: NodeConfig) -> None:
        """Change how a node presents itself, and keep it in the settings. See :meth:`describe_nodes`."""
        await self.describe_nodes([node])

    async def describe_nodes(self, nodes: Sequence[NodeConfig]) -> None:
        """Change how nodes present themselves, with one write of the settings; peers learn it with their next session.

        Raises:
            ConfigurationError: There is no such node, or its new settings cannot be used.
            StorageError: The settings could not be written; nothing is changed.
        """
        changed = {node.id: node for node in nodes}
        if missing := next((node for node in changed if node not in self.nodes), None):
            raise ConfigurationError(f"There is no node {missing}.")
        if not changed:
            return
        async with self._config_lock:
            await self._write_config([changed.get(known.id, known) for known in self.config.nodes])
        for node in changed:
            self.nodes[node].described(self._local.nodes[node])

    async def _write_config(self, nodes: Sequence[NodeConfig]) -> None:
        settings = {**self.config.model_dump(), "nodes": nodes}
        config = checked(lambda: EndpointConfig.model_validate(settings), "the nodes")
        if self._home is not None:
            await asyncio.to_thread(self._home.write_private, CONFIG_FILE, config.to_json())
        self.config, self._local = config, config.endpoint()

    @property
    def pairing_url(self) -> BaseUrl:
        """What a user types at the other side."""
        return BaseUrl(f"https://{bracketed(self.config.host)}:{self._port}{PAIRING_PATH}")

    @property
    def session_url(self) -> BaseUrl:
        """Base URL of session initiation."""
        return BaseUrl(f"https://{bracketed(self.config.host)}:{self._port}{SESSION_PATH}")

    def _websocket_url(self) -> WebSocketUrl:
        return WebSocketUrl(f"wss://{bracketed(self.config.host)}:{self._port}{WEBSOCKET_PATH}")

    @property
    def proxies(self) -> Proxies:
        """The HTTP proxy towards the internet."""
        return self._proxies

    @property
    def mqtt(self) -> MqttTransport | None:
        """The transport over MQTT, for its status and for static sessions (MQ-19); None where there is none."""
        return self._mqtt

    @property
    def ca_fingerprint(self) -> bytes | None:
        """SHA-256 of our own CA certificate, if the endpoint is its own CA (TRUST-07)."""
        return self._certificates.ca_fingerprint

    def events(self) -> EventStream:
        """Follow what happens from now on."""
        return self._events.follow()

    async def pairings(self, node: NodeId | None = None) -> list[Pairing]:
        """All pairings of all nodes, or of one."""
        return await self._store.pairings(node)

    def connected(self) -> dict[PairKey, LiveConnection]:
        """What is connected now."""
        return {
            PairKey(node, remote): live
            for node, connections in self._connections.items()
            for remote, live in connections.peers().items()
        }

    # The local network

    async def look_at(
        self, url: BaseUrl, *, address: str | None = None
    ) -> tuple[EndpointDescription, list[NodeDescription]]:
        """Ask a LAN endpoint what it is and which nodes it hosts (LAN-01). What it says is a stranger's text.

        Raises:
            NetworkError, TrustError, PeerError: It does not tell, e.g. because it is in another subnet or in the WAN.
        """
        return await self._pairing_manager.look_at(url, address=address)

    def waiting(self) -> list[NodeDescription]:
        """Devices without a server that wait here to be paired (LP-02); see :meth:`Node.pair_waiting`."""
        return self._pairing_manager.waiting()

    def announce_waiting(self, peer: NodeId, *, cancel: bool = False) -> None:
        """Tell a waiting device that its user is about to be asked for its code, or take that back (LP-04).

        Raises:
            NotReachable: It does not wait here (any more).
        """
        self._pairing_manager.announce_waiting(peer, cancel=cancel)

    # Addresses

    async def _routes_of(self, pairing: Pairing) -> list[str]:
        return await self._resolver.of(pairing.initiate_session_url.host) if pairing.initiate_session_url else []

    def addresses_changed(self, own: Collection[str]) -> None:
        """This machine has these addresses now."""
        for connections in self._connections.values():
            connections.addresses_changed(own)

    def seen(self, host: str, addresses: Collection[str]) -> None:
        """An endpoint of that host name was seen in the network, with these addresses."""
        for connections in self._connections.values():
            connections.seen(host, addresses)

    async def unpair_at_server(self, pairing: Pairing, tokens: list[AccessToken]) -> None:
        """Call ``unpair`` at the communication server of a pairing."""
        addresses: list[str | None] = [*await self._routes_of(pairing)] or [None]
        await first_reachable(addresses, lambda address: self._client.unpair(pairing, tokens, address=address))

    # Housekeeping

    def publish(self, event: Event) -> None:
        """Log an event and tell all who follow."""
        self._events.publish(event)

    def task_failed(self, failure: TaskFailure) -> None:
        """Publish that a background task failed, which was logged before."""
        self.publish(TaskFailed(task=failure.task, error=failure.error, retry_in=failure.retry_in, count=failure.count))

    async def renew_certificate(self) -> None:
        """Show a new leaf of the same CA from now on; pairings and sessions stay (TRUST-01).

        Raises:
            StorageError: It could not be stored; the old one stays.
            ConfigurationError: The operator's files cannot be used; the old ones stay.
        """
        assert self._tls is not None
        identity = await asyncio.to_thread(self._certificates.renew)
        self._tls.replace(identity)
        _log.info("a new leaf certificate is in use until %s", identity.not_valid_after)

    async def _keep_identity_fresh(self) -> None:
        assert self._tls is not None
        while True:
            await asyncio.sleep(RENEWAL_CHECK)
            if not self._tls.identity.needs_renewal(datetime.now(UTC)):
                continue
            try:
                await self.renew_certificate()
            except (StorageError, ConfigurationError) as error:
                self.publish(Notice(kind="certificate_not_renewed", sentence=str(error)))
            if self._tls.identity.needs_renewal(datetime.now(UTC)):
                await asyncio.sleep(RENEWAL_PAUSE)


def read_config(home: Home) -> EndpointConfig:
    """Read the settings of a home.

    Raises:
        NotInitialised: It has none.
        ConfigurationError: They cannot be used.
        StorageError: They cannot be read.
    """
    data = home.read(CONFIG_FILE)
    if data is None:
        raise NotInitialised(f"{home.path} is not set up.")
    return EndpointConfig.from_json(data)


def create_home(path: Path, config: EndpointConfig) -> EndpointConfig:
    """Set up a state directory: settings, vault and, where it needs one, its own CA. Blocks; call it in a thread.

    Returns:
        The settings as stored, with the vault that was chosen.

    Raises:
        UsageError: It is set up already.
        StorageError: It cannot be written.
    """
    home = Home.create(path)
    with home.lock():
        if home.read(CONFIG_FILE) is not None:
            raise UsageError(f"{path} is set up already.")
        vault, kind = open_vault(config.vault, path / SECRETS)
        config = config.model_copy(update={"vault": kind})
        if config.is_own_ca:
            CertificateManager(config, home, vault).create_ca()
        # Last: a directory without settings is not set up, and the next call starts over.
        home.write_private(CONFIG_FILE, config.to_json())
    return config
