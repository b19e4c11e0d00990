"""Endpoint: hosts nodes, and wires the parts that serve, pair and connect them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from s2connect.certs.tls import ServerContext, wan_client_context
from s2connect.endpoint.config import EndpointConfig, NodeConfig
from s2connect.endpoint.connections import ConnectionManager, LiveConnection, PeerHistory
from s2connect.endpoint.connector import Connector, session_client
from s2connect.endpoint.draining import HandOver, drain
from s2connect.endpoint.hosted import described, find_node, with_added
from s2connect.endpoint.instances import cluster, join
from s2connect.endpoint.mqtt import mqtt_transport
from s2connect.endpoint.node import Node
from s2connect.endpoint.pairing import CodeStatus, PairingManager
from s2connect.endpoint.pairings import Pairings
from s2connect.endpoint.rereading import FileReader, Reread, load_certificate
from s2connect.endpoint.resolver import Resolver
from s2connect.endpoint.settings import Settings
from s2connect.endpoint.sharing import Sharing, sharing_of
from s2connect.endpoint.state import EndpointState
from s2connect.endpoint.stopping import until_signal
from s2connect.endpoint.storage import open_storage
from s2connect.errors import ConfigurationError, NotPaired, NotReachable, UsageError
from s2connect.events import EventStream, Unpaired
from s2connect.model.common import MQTT, WEBSOCKET, Deployment, EndpointDescription, NodeDescription, NodeId, Role
from s2connect.model.local import LocalNode
from s2connect.model.pairing import WaitForPairingAction
from s2connect.model.proxy import Proxies
from s2connect.model.secret import Secret
from s2connect.model.url import BaseUrl
from s2connect.session.session import Session
from s2connect.store.base import Page, Pairing, PairKey
from s2connect.store.home import Home
from s2connect.store.sqlite import SqliteStore
from s2connect.transports.base import Transport, installed_transport
from s2connect.transports.websocket import WebSocketTransport

if TYPE_CHECKING:
    from zeroconf.asyncio import AsyncZeroconf

    from s2connect.endpoint.backup import Backup
    from s2connect.endpoint.certificate import CertificateManager, Certificates
    from s2connect.endpoint.local_network import LocalNetwork
    from s2connect.endpoint.server import Server
    from s2connect.store.postgresql.cluster import Cluster
    from s2connect.transports.mqtt.transport import MqttTransport

_log = logging.getLogger(__name__)


class Endpoint:
    """An endpoint: use :meth:`open` with ``async with``.

    Attributes:
        nodes: Its nodes by id.
        supervisor: Owner of its background tasks, which end with it.
        proxies: The HTTP proxy towards the internet.
        mqtt: The transport over MQTT, for its status and for static sessions (MQ-19); None where there is none.
        sharing: What the instances on one database share, for an application; None without one.
    """

    def __init__(
        self,
        state: EndpointState,
        certificates: CertificateManager,
        tls: ServerContext,
        home: Home | None,
        settings: Settings,
        *,
        serve: bool,
        zeroconf: AsyncZeroconf | None,
    ) -> None:
        self.nodes: dict[NodeId, Node] = {}
        self.supervisor = state.supervisor
        self.proxies = state.proxies
        self.mqtt: MqttTransport | None = None
        self.sharing: Sharing | None = None
        self._state = state
        self._certificates = certificates
        self._tls = tls
        self._home = home
        self._settings = settings
        self._serve = serve
        self._websocket = WebSocketTransport(state.websocket_url)
        self._transports: dict[str, Transport] = {WEBSOCKET: self._websocket}
        self._client = session_client(state, self._transports)
        self._connections: dict[NodeId, ConnectionManager] = {}
        self._on_session: Callable[[Session], None] | None = None
        self._on_nodes: Callable[[Sequence[Node]], None] | None = None
        self._pairings = Pairings(state, self._connections, self._client)
        if self._pairings.ownership is not None:
            self._pairings.ownership.prepare(self._nodes_changed, self._pairings.settle_unconfirmed, alone=not serve)
        self._pairing = PairingManager(state, self._pairings, certificates)
        self._server: Server | None = None
        self._lan: LocalNetwork | None = None
        self._files = FileReader(state, certificates, tls, self._client)
        if serve and self.config.deployment is Deployment.LAN and not self.config.wan_pairing_server:
            from s2connect.endpoint.local_network import LocalNetwork  # loads zeroconf

            self._lan = LocalNetwork(state, self._pairing, self._connections, zeroconf)

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
            home: State directory, made by ``s2connect init`` or :func:`create_home`. None keeps everything in memory.
            config: Settings; None reads those of the home.
            serve: Listen. Without it the endpoint can only be pairing client and communication client.
            listen: Listen from the start; otherwise :meth:`listen` does, for an application that has much to prepare
                before it can take sessions.
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
            from_home = config is None
            storage = await open_storage(stack, opened, config)
            config = storage.config
            proxies = Proxies.of(config.proxy, config.proxy_exceptions, os.environ)
            resolver = Resolver(
                addresses or {}, zeroconf, public_only=config.connects_to_internet_only, proxies=proxies
            )
            stack.push_async_callback(resolver.close)
            state = EndpointState(
                config=config,
                local=config.endpoint(),
                store=storage.store,
                vault=storage.vault,
                shared=storage.shared,
                presence=storage.presence,
                pki=await asyncio.to_thread(wan_client_context, config.trust_anchors),
                proxies=proxies,
                resolver=resolver,
                port=config.port,
            )
            certificates, tls = await asyncio.to_thread(load_certificate, config, opened, storage.vault)
            settings = Settings(state, opened, storage.nodes, from_home=from_home)
            endpoint = cls(state, certificates, tls, opened, settings, serve=serve, zeroconf=zeroconf)
            endpoint.sharing = sharing_of(state, storage, endpoint._pairings.ownership)
            stack.push_async_callback(endpoint._close)
            if serve:
                await join(state, lambda: len(endpoint.connected()))
            await endpoint._start()
            if listen:
                await endpoint.listen()
            yield endpoint

    async def _start(self) -> None:
        await self._files.start()
        await self._start_transports(self.config.nodes)
        for local in self._state.local.nodes.values():
            await self._add_node(local)
        self.supervisor.keep(lambda: self._certificates.renew_in_time(self._tls, self._state.notice), "renewal")

    async def listen(self) -> None:
        """Listen and advertise, if the endpoint was opened without; does nothing if it does so already.

        Raises:
            ConfigurationError: The port is taken.
        """
        if self._state.ready:
            return
        if self._serve and self.config.server:
            from s2connect.endpoint.server import Server  # a device that only connects does without a server

            server = Server(
                self._state, self._tls, self._pairing, self._pairings, self._transports, self._websocket, self._lan
            )
            await server.start()
            self._server = server
            if self.config.listen_port is None:
                self._state.port = server.port
        self._state.ready = True
        if self._lan is not None:
            self._lan.start(served=self._server is not None)
        await self._pairings.settle_unconfirmed()
        if self._serve and self._pairings.ownership is not None:
            self._pairings.ownership.start()
        if self._serve and (doubt := self._certificates.doubt()) is not None:
            self._state.notice("clock", doubt)
        if self.config.deployment is Deployment.WAN and self.config.is_own_ca and self._serve:
            self._state.notice(
                "own_ca_in_wan",
                "This WAN endpoint has no certificate of a public CA; peers will refuse it unless they trust its own "
                "CA (ca.pem).",
            )

    async def _start_transports(self, nodes: Iterable[NodeConfig]) -> None:
        """Start what the nodes name and is not there yet. Names that nothing stands for are passed over."""
        names = {name for node in nodes for name in node.communication_protocols} - self._transports.keys()
        if self.mqtt is None and (self.config.mqtt is not None or MQTT in names):
            self.mqtt = self._transports[MQTT] = await mqtt_transport(self._state)
            self.mqtt.start()
        for name in names - {MQTT}:
            transport = await asyncio.to_thread(installed_transport, name, self.config)
            if transport is not None:
                self._transports[name] = transport

    async def _add_node(self, local: LocalNode) -> Node:
        if local.id in self.nodes:  # another instance has made it, too, and that was heard of meanwhile
            return self.nodes[local.id]
        connections = self._connections[local.id] = ConnectionManager(self._state, local.id)
        connections.on_session = self._on_session
        connections.links = self._pairings.ownership
        connector = Connector(self._state, connections, self._pairings, self._client)
        node = self.nodes[local.id] = Node(self._state, self._pairing, self._pairings, connector, self._lan)
        await self._pairing.restore_static_code(local)
        return node

    async def _close(self) -> None:
        self._state.ready = False
        if self._lan is not None:
            await self._lan.withdraw()
        await asyncio.gather(*(c.close() for c in self._connections.values()))
        await self._pairings.close()
        if self._pairings.ownership is not None:
            await self._pairings.ownership.close()
        await self.supervisor.close()
        for name, transport in self._transports.items():
            try:
                await transport.close()
            except Exception:  # it may be of another package
                _log.exception("The transport %s could not be closed", name)
        if self._server is not None:
            await self._server.close()
        self._state.events.close()

    @property
    def instance(self) -> str | None:
        """Name of this instance; None where no database is shared with others."""
        return self._state.presence.name if self._state.presence is not None else None

    async def cluster(self) -> Cluster | None:
        """Return the status of all instances on the database; None without one. Raises StorageUnavailable."""
        return await cluster(self._state)

    async def elsewhere(self, keys: Collection[PairKey] | None = None) -> Mapping[PairKey, str]:
        """Return the pairs whose session is at another instance, with its name. Raises StorageUnavailable."""
        return {} if self._pairings.ownership is None else await self._pairings.ownership.elsewhere(keys)

    async def drain(self, *, wait: float = 30.0, rate: float = 100.0, hand_over: HandOver | None = None) -> int:
        """Serve what was begun, for ``wait`` seconds at most; then have the peers go elsewhere, ``rate`` a second.

        ``hand_over`` does the latter at a given rate, where an application has connections without sessions.
        """
        offers = self._pairings.offers
        return await drain(self._state, self._connections, offers, self._server, hand_over, wait=wait, rate=rate)

    # Nodes

    def node(self, node_id: NodeId | None = None, *, role: Role | None = None, alias: str | None = None) -> Node:
        """Return the node of that id, role or alias; without any, the only one.

        Raises:
            UsageError: None or several fit.
        """
        return self.nodes[find_node(self._state.local, self.nodes, node_id, role, alias)]

    async def create_node(self, node: NodeConfig) -> Node:
        """Add a node and keep it in the settings. The errors are those of :meth:`create_nodes`."""
        return (await self.create_nodes([node]))[0]

    async def create_nodes(self, nodes: Sequence[NodeConfig], *, alias_alone: bool = False) -> list[Node]:
        """Add nodes and keep them in the settings, which are written once: all of them, or none.

        Where there are several nodes then, each without an alias gets one, also one that was there before (TOK-03).
        With ``alias_alone`` also the only one does, so that its codes stay valid when others come.

        Raises:
            ConfigurationError: An id or alias is taken, or a transport cannot be used.
            StorageError: The settings could not be written.
        """
        if not nodes:
            return []
        async with self._settings.lock:
            await self._start_transports(nodes)
            shared = self.sharing is not None
            await self._settings.change_nodes(lambda known: with_added(known, nodes, shared, also_alone=alias_alone))
        added = [await self._add_node(self._state.local.nodes[node.id]) for node in nodes]
        if self._lan is not None and self._state.ready:
            self._lan.nodes_changed()
        return added

    async def remove_node(self, node: NodeId, *, forget: bool = False) -> list[Pairing]:
        """Remove a node: end its pairings, then its sessions, and take it out of the settings.

        Args:
            node: Its id.
            forget: End pairings also where the other side cannot be reached.

        Returns:
            The pairings that were.

        Raises:
            UsageError: There is no such node, or no other one.
            NetworkError, TrustError, PeerError: A communication server was not reached; the node stays, and so does the
                pairing with that server.
            StorageError: The settings could not be written; the node stays.
        """
        removed = self.node(node)
        if len(self.nodes) == 1:
            raise UsageError("This is the only node of the endpoint, which needs one.")
        ended = {}
        for pairing in await self.pairings(node):
            with contextlib.suppress(NotPaired):  # it has just ended
                ended[pairing.key] = await removed.unpair(pairing.key.remote, forget=forget)
        async with self._settings.lock:
            await self._settings.change_nodes(lambda nodes: [known for known in nodes if known.id != node])
        del self.nodes[node]
        await self._connections[node].close()  # it stays, for what is under way
        await self._pairing.forget(node)
        await self._pairings.end_all(node)
        if self._lan is not None and self._state.ready:
            self._lan.nodes_changed()
        return list(ended.values())

    async def _nodes_changed(self) -> None:
        """Take over the nodes that another instance has added, changed or removed."""
        async with self._settings.lock:
            if (config := await self._settings.reread_nodes()) == self.config:
                return
            await self._start_transports(config.nodes)
            self._settings.apply(config)
        for node in [node for node in self.nodes if node not in self._state.local.nodes]:
            del self.nodes[node]
            await self._connections[node].close()
        added = [await self._add_node(node) for node in self._state.local.nodes.values() if node.id not in self.nodes]
        if self._on_nodes is not None:
            self._on_nodes(added)

    def watch_nodes(self, on_nodes: Callable[[Sequence[Node]], None] | None) -> None:
        """Call ``on_nodes`` when another instance has changed the nodes, with those that are new; None for nobody."""
        self._on_nodes = on_nodes

    async def describe_node(self, node: NodeConfig) -> None:
        """Change the description of a node. The errors are those of :meth:`describe_nodes`."""
        await self.describe_nodes([node])

    async def describe_nodes(self, nodes: Sequence[NodeConfig]) -> None:
        """Change the descriptions of nodes, with one write of the settings; peers get them with their next session.

        An alias that is left out stays.

        Raises:
            ConfigurationError: There is no such node, or its new settings cannot be used.
            StorageError: The settings could not be written; nothing is changed.
        """
        changed = {node.id: node for node in nodes}
        if missing := next((node for node in changed if node not in self.nodes), None):
            raise ConfigurationError(f"There is no node {missing}.")
        if not changed:
            return
        async with self._settings.lock:
            await self._settings.change_nodes(lambda nodes: [described(one, changed.get(one.id)) for one in nodes])

    async def change_settings(self, change: Callable[[EndpointConfig], EndpointConfig]) -> None:
        """Change the settings in the home; ``change`` runs in a thread. Names and nodes count at once, else a restart.

        Raises:
            UsageError: The settings do not come from a home.
            ConfigurationError, StorageError: They cannot be used, or not be written; nothing is changed.
        """
        await self._settings.change(change)

    async def keep_settings(self) -> None:
        """Write the settings to the home if those there are others: an application may have its own place for them.

        Raises:
            ConfigurationError, StorageError: Those in the home cannot be read, or not be written.
        """
        await self._settings.keep()

    @property
    def config(self) -> EndpointConfig:
        """Its settings."""
        return self._state.config

    @property
    def pairing_url(self) -> BaseUrl:
        """The URL that a user types at the other side."""
        return self._state.pairing_url()

    @property
    def session_url(self) -> BaseUrl:
        """Base URL of session initiation."""
        return self._state.session_url()

    @property
    def ca_fingerprint(self) -> bytes | None:
        """SHA-256 of our own CA certificate, if the endpoint is its own CA (TRUST-07)."""
        return self._certificates.ca_fingerprint

    @property
    def certificate_expires(self) -> datetime:
        """Time at which the certificate expires that is served now."""
        return self._tls.identity.not_valid_after

    @property
    def certificate_warned_from(self) -> datetime:
        """Time from which on the end of that certificate is warned of."""
        return self._tls.identity.warned_from

    def certificates(self) -> Certificates:
        """Return the facts of its certificates, of the leaf as it is served now. Blocks: call it in a thread."""
        from s2connect.endpoint.certificate import Certificates, read_certificates, served

        if not self.config.has_certificate:
            return Certificates(False, None, None)
        if self._home is None:
            return served(Certificates(self.config.is_own_ca, None, None), self._tls.identity)
        return served(read_certificates(self._home, self.config), self._tls.identity)

    @property
    def tls(self) -> ServerContext:
        """TLS side of its server, with the certificate that is in force; for further servers of the same program."""
        return self._tls

    def events(self) -> EventStream:
        """Return the stream of the events from now on."""
        return self._state.events.follow()

    async def pairings(self, node: NodeId | None = None, *, newest: int | None = None) -> list[Pairing]:
        """Return the pairings of all nodes, or of one; with ``newest`` at most so many, those that were made last."""
        return await self._state.store.pairings(node, newest=newest)

    async def pairings_page(self, most: int, *, node: NodeId | None = None, before: int | None = None) -> Page:
        """Return the newest pairings, at most so many, of all nodes or of one; ``before`` is that of a page before."""
        return await self._state.store.page(most, local=node, before=before)

    async def pairing_counts(self) -> dict[NodeId, int]:
        """Return the number of pairings of each node that has any."""
        return await self._state.store.counts()

    async def pairings_with(self, beginning: str, *, node: NodeId | None = None) -> list[Pairing]:
        """Return the pairings with a peer whose id is this text in small letters, or begins with it; of many, some."""
        return await self._state.store.beginning_with(beginning, local=node)

    async def code_statuses(self) -> dict[NodeId, CodeStatus]:
        """Return the pairing codes of all nodes and their states; StorageError where those are in a database."""
        return await self._pairing.code_statuses(self._state.local.nodes.values())

    def connected(self) -> dict[PairKey, LiveConnection]:
        """Return the open connections."""
        return {
            PairKey(node, remote): live
            for node, connections in self._connections.items()
            for remote, live in connections.peers().items()
        }

    async def run_until_stopped(self, *, log_level: int | str | None = None) -> signal.Signals:
        """Wait for SIGTERM or SIGINT (Ctrl-C), and return it; leave the context then, which closes all in order.

        A second signal, while that goes on, ends the process at once.

        Args:
            log_level: Such as ``"INFO"``: log to standard error from this level on, unless logging is set up already.

        Raises:
            UsageError: It is not awaited in the main thread, which alone gets signals.
        """
        return await until_signal(log_level)

    @property
    def has_server(self) -> bool:
        """True if it has a server for others: not a device that only connects, and not what was opened without."""
        return self._serve and self.config.server

    @property
    def store_trouble(self) -> str:
        """A sentence about that database while nothing new can be taken because of it; empty otherwise."""
        return "" if self._pairings.ownership is None else self._pairings.ownership.store_trouble

    @property
    def is_ready(self) -> bool:
        """True if it serves requests now, or could where it has no server, and does not drain."""
        return self._state.ready and not self._state.draining

    def history(self) -> dict[PairKey, PeerHistory]:
        """Return the connections and attempts so far, of the peers that had any since the endpoint was opened."""
        return {
            PairKey(node, remote): history
            for node, connections in self._connections.items()
            for remote, history in connections.history.items()
        }

    def ended_pairings(self) -> list[Unpaired]:
        """Return the last pairings that have ended since the endpoint was opened, newest first."""
        return list(reversed(self._state.events.ended))

    def takes_sessions(self, node: NodeId) -> bool:
        """Return whether an application takes the sessions or connections of a node."""
        return self._connections[node].is_started

    @property
    def reconnects(self) -> int:
        """Number of connections with a peer that had one before."""
        return sum(connections.reconnects for connections in self._connections.values())

    def try_now(self, key: PairKey) -> bool:
        """As communication client: end the pause before the next attempt to connect. False if there is none."""
        connections = self._connections.get(key.local)
        return connections is not None and connections.try_now(key.remote)

    def watch_sessions(self, on_session: Callable[[Session], None] | None) -> None:
        """Call ``on_session`` with every session of any node before a message passes on it; None for nobody."""
        self._on_session = on_session
        for connections in self._connections.values():
            connections.on_session = on_session

    async def backup(self, passphrase: Secret | str) -> Backup:
        """Return a backup of the state directory in this moment, for ``s2connect restore``; sessions go on.

        Args:
            passphrase: 12 to 1024 characters, without which the file is of no use.

        Raises:
            UsageError: The endpoint is in memory only, or the passphrase is too short or too long.
            StorageError: Something could not be read, or is larger than a backup can be.
        """
        from s2connect.endpoint.backup import passphrase_of, take

        phrase = passphrase_of(passphrase)
        if self._home is None:
            raise UsageError("This endpoint has no state directory.")
        if not isinstance(self._state.store, SqliteStore):
            raise UsageError(
                "The state of this endpoint is not in a state directory.",
                hint="A database is backed up with PostgreSQL's own means: pg_dump, or a base backup.",
            )
        return await take(self._home, self.config, self._state.vault, self._state.store, phrase)

    # The local network

    async def look_at(
        self, url: BaseUrl, *, address: str | None = None
    ) -> tuple[EndpointDescription, list[NodeDescription]]:
        """Return the description of a LAN endpoint and of its nodes (LAN-01). The texts are a stranger's.

        Raises:
            NetworkError, TrustError, PeerError: It does not answer, e.g. because it is in another subnet or in the WAN.
        """
        from s2connect.pairing import lan_http

        async with self._pairing.unpaired(url, address) as http:
            return await lan_http.look_at(http, url)

    def waiting(self) -> list[NodeDescription]:
        """Return the devices without a server that wait here to be paired (LP-02); see :meth:`Node.pair_waiting`."""
        return self._lan.waiting() if self._lan is not None else []

    def announce_waiting(self, peer: NodeId, *, cancel: bool = False) -> None:
        """Announce to a waiting device that its code is about to be needed, or cancel that (LP-04).

        Raises:
            NotReachable: It does not wait here (any more).
        """
        if self._lan is None:
            raise NotReachable("The device does not wait here.")
        actions = WaitForPairingAction
        self._lan.ask(peer, actions.CANCEL_PREPARE_PAIRING if cancel else actions.PREPARE_PAIRING)

    # Certificate

    async def renew_certificate(self) -> None:
        """Use a new leaf of the same CA from now on; pairings and sessions stay (TRUST-01).

        Raises:
            StorageError: It could not be stored; the old one stays.
            ConfigurationError: The operator's files cannot be used; the old ones stay.
        """
        await self._certificates.renew_served(self._tls)

    async def reread_files(self) -> Reread:
        """Use files of the settings whose content has changed: certificates, trust anchors, the broker's password.

        Pairings and sessions stay, but for sessions over the broker, which begin anew where its files have changed.
        """
        async with self._settings.lock:
            return await self._files.reread(self.mqtt)
