"""Endpoint: the one place that knows all the parts. Hosts nodes, serves and pairs them, keeps their sessions."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Collection, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2connect.certs.tls import ServerContext, wan_client_context
from s2connect.config import CONFIG_FILE, EndpointConfig, NodeConfig, bracketed, checked
from s2connect.errors import (
    ConfigurationError,
    NotInitialised,
    NotReachable,
    PairingExpired,
    PairingRefused,
    S2ConnectError,
    StorageError,
    UsageError,
    WrongPairingCode,
)
from s2connect.events import (
    CodeMissingAtDevice,
    CodeWithdrawn,
    Event,
    EventStream,
    Notice,
    Paired,
    PairingFailed,
    Unpaired,
)
from s2connect.identity import IdentityKeeper
from s2connect.keeping import PairingBook
from s2connect.live import Live, NodeConnections, first_reachable
from s2connect.model.common import MQTT, Deployment, EndpointDescription, NodeDescription, NodeId, Role
from s2connect.model.local import LocalNode
from s2connect.model.pairing import WaitForPairingAction, WaitForPairingError
from s2connect.model.proxy import Proxies
from s2connect.model.secret import AccessToken
from s2connect.model.url import BaseUrl, WebSocketUrl
from s2connect.node import Node
from s2connect.pairing import http_client
from s2connect.pairing.code import PairingCode, PairingToken
from s2connect.pairing.server_core import AttemptFailed, PairingServer
from s2connect.rest import PAIRING_PATH, SESSION_PATH, WEBSOCKET_PATH
from s2connect.rest.client import HttpsClient
from s2connect.session.http_client import SessionClient
from s2connect.session.server_core import SessionServer
from s2connect.store.base import Pairing, PairKey, Store, Vault
from s2connect.store.home import Home
from s2connect.store.memory import MemoryStore, MemoryVault
from s2connect.store.sqlite import SqliteStore
from s2connect.store.vault import open_vault
from s2connect.transports.base import Transport
from s2connect.transports.websocket import WebSocketTransport

if TYPE_CHECKING:
    from zeroconf.asyncio import AsyncZeroconf

    from s2connect.lan import LocalNetwork, Names
    from s2connect.serving import Serving
    from s2connect.transports.mqtt.transport import MqttTransport

_log = logging.getLogger(__name__)

RENEWAL_CHECK = 6 * 3600.0
"""Seconds between two looks at the age of the leaf certificate (TRUST-01)."""

LONG_POLL_PATIENCE = 5.0
"""Seconds after the end of the user's patience until what was typed for a waiting device is withdrawn."""

DATABASE = "state.sqlite"
SECRETS = "secrets"


class Endpoint:
    """An endpoint: use :meth:`open` with ``async with``.

    Attributes:
        config: Its settings.
        nodes: Its nodes by id.
        book: Its pairings, for its nodes.
    """

    def __init__(
        self,
        config: EndpointConfig,
        store: Store,
        vault: Vault,
        identity: IdentityKeeper,
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
        self._identity = identity
        self._home = home
        self._addresses = dict(addresses)
        self._streams: list[EventStream] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._zeroconf = zeroconf
        self._names: Names | None = None
        self._lan: LocalNetwork | None = None
        self._connections: dict[NodeId, NodeConnections] = {}
        self._tls: ServerContext | None = None
        self._serving: Serving | None = None
        self._ready = False
        self._port = config.port
        self._config_lock = asyncio.Lock()
        self._pairing_server = PairingServer(
            lambda: self._local,
            session_url=lambda: self.session_url,
            wan_clients_only=config.wan_pairing_server,
        )
        self._session_server = SessionServer()
        self.book = PairingBook(store, lambda: self._local, self._connections, self._session_server, self)
        self._websocket = WebSocketTransport(self._websocket_url)
        self._transports: dict[str, Transport] = {self._websocket.name: self._websocket}
        self._mqtt: MqttTransport | None = None
        self._proxies = Proxies.of(config.proxy, config.proxy_exceptions, os.environ)

    # Opening and closing

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        home: Path | str | None = None,
        *,
        config: EndpointConfig | None = None,
        serve: bool = True,
        addresses: Mapping[str, str] | None = None,
        zeroconf: AsyncZeroconf | None = None,
    ) -> AsyncIterator[Endpoint]:
        """Open an endpoint until the context ends; then it withdraws, ends its sessions and stops, in this order.

        Args:
            home: State directory, made by ``s2connect init`` or :func:`create_home`. None keeps everything in memory:
                for tests and for software that shall forget.
            config: Settings; None reads those of the home.
            serve: Listen. Without it the endpoint can only be pairing client and communication client.
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
            identity = IdentityKeeper(config, opened, vault)
            endpoint = cls(config, store, vault, identity, opened, addresses or {}, zeroconf)
            stack.push_async_callback(endpoint._close)
            await endpoint._start(serve=serve)
            yield endpoint

    async def _start(self, *, serve: bool) -> None:
        self._pki = await asyncio.to_thread(wan_client_context, self.config.trust_anchors)
        shown = await asyncio.to_thread(self._identity.load)
        self._tls = ServerContext(shown)
        if self.config.mqtt is not None or any(MQTT in n.communication_protocols for n in self.config.nodes):
            await self._start_mqtt()
        client = SessionClient(self._store, self._transports, self._pki, proxies=self._proxies)
        self._client = client
        for local in self._local.nodes.values():
            await self._add_node(local)
        if serve and self.config.deployment is Deployment.LAN and not self.config.wan_pairing_server:
            from s2connect.lan import LocalNetwork  # loads DNS-SD

            self._lan = LocalNetwork(
                self.config,
                lambda: self._local,
                self,
                pki=self._pki,
                ready=lambda: self._ready,
                zeroconf=self._zeroconf,
            )
        if serve and self.config.server:
            await self._listen()
        self._ready = True
        if self._lan is not None:
            self._lan.start(self.pairing_url if self._serving else None, self._port)
        self.spawn(self._keep_identity_fresh(), "renewal")
        await self.book.settle_unconfirmed()
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
            settings = await asyncio.to_thread(self.config.mqtt.settings, self.config.host)
        self._mqtt = MqttTransport(
            settings,
            role_of=lambda node: self._local.nodes[node].description.role,
            guest_context=lambda: wan_client_context(self.config.trust_anchors),
        )
        self._transports[self._mqtt.name] = self._mqtt
        self._mqtt.start()

    async def _add_node(self, local: LocalNode) -> Node:
        connections = NodeConnections(lambda: self._local, local, self._store, self._client, self.book, self._routes_of)
        self._connections[local.id] = connections
        node = self.nodes[local.id] = Node(self, local, connections)
        token = await asyncio.to_thread(self._vault.get, _static_name(local.id))
        if token is not None:
            self._issue(local, PairingToken(token.decode("ascii")), None)
        return node

    async def _listen(self) -> None:
        from s2connect.serving import Serving  # a device that only connects does without a server

        assert self._tls is not None
        self._serving = await Serving.start(
            self.config,
            self._tls,
            keeper=self.book,
            on_failed=self._attempt_failed,
            endpoint=lambda: self._local,
            ready=lambda: self._ready,
            pairing_server=self._pairing_server,
            session_server=self._session_server,
            store=self._store,
            transports=self._transports,
            websocket=self._websocket,
            lan=self._lan,
        )
        self._port = self._serving.port

    async def _close(self) -> None:
        self._ready = False
        if self._lan is not None:
            await self._lan.withdraw()
        await asyncio.gather(*(c.close() for c in self._connections.values()))
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._websocket.close()
        if self._mqtt is not None:
            await self._mqtt.close()
        if self._serving is not None:
            await self._serving.close()
        if self._names is not None:
            await self._names.close()
        for stream in self._streams:
            stream.close()

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run something in a task that ends with the endpoint; its errors are logged."""

        async def run() -> None:
            try:
                await work
            except S2ConnectError as error:
                _log.warning("%s: %s", name, error)

        task = asyncio.create_task(run(), name=f"s2connect-{name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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
        """Add a node and keep it in the settings.

        Raises:
            ConfigurationError: Its id or alias is taken, or an alias is missing.
            StorageError: The settings could not be written.
        """
        async with self._config_lock:
            await self._write_config([*self.config.nodes, node])
        if MQTT in node.communication_protocols and self._mqtt is None:
            await self._start_mqtt()
        added = await self._add_node(self._local.nodes[node.id])
        if self._lan is not None and self._ready:
            self._lan.nodes_changed()
        return added

    async def describe_node(self, node: NodeConfig) -> None:
        """Change how a node presents itself, and keep it in the settings; peers learn it with their next session.

        Raises:
            ConfigurationError: There is no such node, or its new settings cannot be used.
            StorageError: The settings could not be written; nothing is changed.
        """
        if node.id not in self.nodes:
            raise ConfigurationError(f"There is no node {node.id}.")
        async with self._config_lock:
            await self._write_config([node if known.id == node.id else known for known in self.config.nodes])
        self.nodes[node.id].described(self._local.nodes[node.id])

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
        return self._identity.ca_fingerprint

    def events(self) -> EventStream:
        """Follow what happens from now on."""
        stream = EventStream()
        self._streams.append(stream)
        return stream

    async def pairings(self, node: NodeId | None = None) -> list[Pairing]:
        """All pairings of all nodes, or of one."""
        return await self._store.pairings(node)

    def connected(self) -> dict[PairKey, Live]:
        """What is connected now."""
        return {
            PairKey(node, remote): live
            for node, connections in self._connections.items()
            for remote, live in connections.peers().items()
        }

    # Codes

    def issue_code(self, local: LocalNode, token: str | None, lifetime: float | None) -> PairingCode:
        """See :meth:`Node.issue_pairing_code`."""
        return self._issue(local, _token(token), lifetime)

    def _issue(self, local: LocalNode, token: PairingToken, lifetime: float | None) -> PairingCode:
        now = asyncio.get_running_loop().time()
        return self._pairing_server.issue_code(local, token, now=now, lifetime=lifetime)

    async def set_static_code(self, local: LocalNode, token: str | None) -> PairingCode:
        """See :meth:`Node.set_static_code`."""
        chosen = _token(token)
        code = self._issue(local, chosen, None)
        await asyncio.to_thread(self._vault.put, _static_name(local.id), chosen.reveal().encode("ascii"))
        return code

    def valid_code(self, local: LocalNode) -> PairingCode | None:
        """See :meth:`Node.valid_pairing_code`."""
        now = asyncio.get_running_loop().time()
        issued = self._pairing_server.own_token(local.id, now=now)
        if issued is None:
            return None
        left = issued.expires_at - now if issued.expires_at is not None else None
        return PairingCode(issued.token, local.alias, left)

    def withdraw_code(self, node: NodeId) -> None:
        """See :meth:`Node.withdraw_pairing_code`."""
        self._pairing_server.withdraw_code(node)

    def _attempt_failed(self, failed: AttemptFailed) -> None:
        self.publish(PairingFailed(node=failed.node, peer=failed.peer, reason=failed.reason))
        if failed.code_withdrawn:
            self.publish(CodeWithdrawn(node=failed.node))

    # Pairing: initiator

    async def pair(
        self,
        local: LocalNode,
        url: BaseUrl,
        code: PairingCode,
        *,
        address: str | None = None,
        server_node: NodeId | None = None,
        force: bool = False,
    ) -> Pairing:
        """See :meth:`Node.pair`."""
        if address is not None:
            self._addresses[url.host] = address
        return await http_client.pair(
            self._local,
            local,
            url,
            code,
            keeper=self.book,
            pki=self._pki,
            session_url=self.session_url if self._port and self.config.server else None,
            ca_fingerprint=self.ca_fingerprint if self.config.deployment is Deployment.LAN else None,
            addresses=await self._addresses_of(url.host),
            proxy=self._proxies.towards(url.host),
            server_node=server_node,
            force=force,
        )

    # The local network

    async def look_at(
        self, url: BaseUrl, *, address: str | None = None
    ) -> tuple[EndpointDescription, list[NodeDescription]]:
        """Ask a LAN endpoint what it is and which nodes it hosts (LAN-01). What it says is a stranger's text.

        Raises:
            NetworkError, TrustError, PeerError: It does not tell, e.g. because it is in another subnet or in the WAN.
        """
        from s2connect.pairing.lan_http import get_endpoint, get_nodes

        async with self._stranger(url, address) as http:
            version = await http.api_version(url)
            return await get_endpoint(http, url, version), await get_nodes(http, url, version)

    async def announce(
        self, local: LocalNode, url: BaseUrl, server_node: NodeId, *, address: str | None, cancel: bool
    ) -> None:
        """See :meth:`Node.announce_pairing` and :meth:`Node.cancel_announcement`."""
        from s2connect.pairing.lan_http import cancel_prepare_pairing, prepare_pairing

        async with self._stranger(url, address) as http:
            version = await http.api_version(url)
            if cancel:
                await cancel_prepare_pairing(http, url, version, node=local.id, server_node=server_node)
            else:
                own = self._local.description
                await prepare_pairing(http, url, version, node=local.description, endpoint=own, server_node=server_node)

    @contextlib.asynccontextmanager
    async def _stranger(self, url: BaseUrl, address: str | None) -> AsyncIterator[HttpsClient]:
        """A connection to a server before pairing: nothing secret may be sent on it."""
        addresses = [address] if address is not None else await self._addresses_of(url.host)
        _, route = await http_client.authenticate(url, self._pki, addresses=addresses)
        async with HttpsClient(route) as http:
            yield http

    def waiting(self) -> list[NodeDescription]:
        """Devices without a server that wait here to be paired (LP-02); see :meth:`Node.pair_waiting`."""
        return self._lan.waiting() if self._lan is not None else []

    def announce_waiting(self, peer: NodeId, *, cancel: bool = False) -> None:
        """Tell a waiting device that its user is about to be asked for its code, or take that back (LP-04).

        Raises:
            NotReachable: It does not wait here (any more).
        """
        if self._lan is None:
            raise NotReachable("The device does not wait here.")
        actions = WaitForPairingAction
        self._lan.ask(peer, actions.CANCEL_PREPARE_PAIRING if cancel else actions.PREPARE_PAIRING)

    async def pair_waiting(self, local: LocalNode, peer: NodeId, code: PairingCode, *, timeout: float) -> Pairing:
        """See :meth:`Node.pair_waiting`."""
        name = "The device"
        if self._lan is None:
            raise NotReachable(f"{name} does not wait here.")
        now = asyncio.get_running_loop().time()
        self._pairing_server.expect(local, peer, code.token, now=now, lifetime=timeout + LONG_POLL_PATIENCE)
        stream = self.events()
        try:
            self._lan.ask(peer, WaitForPairingAction.REQUEST_PAIRING)
            async with asyncio.timeout(timeout):
                async for event in stream:
                    match event:
                        case Paired() if event.node == local.id and event.peer.id == peer:
                            made = await self._store.pairings_of(PairKey(local.id, peer))
                            return made[0]
                        case PairingFailed() if event.node == local.id and event.peer.id == peer:
                            raise WrongPairingCode("The code is not the one of the device.")
                        case CodeMissingAtDevice() if event.peer == peer:
                            raise PairingRefused(
                                f"{name} has no valid pairing code now.",
                                reason=WaitForPairingError.NO_VALID_TOKEN_ON_PAIRING_CLIENT.value,
                                hint="Ask for a new code at the device.",
                            )
        except TimeoutError as error:
            raise PairingExpired(f"{name} did not come to be paired in time.") from error
        finally:
            self._streams.remove(stream)
            self._pairing_server.withdraw_expected(local.id, peer)
        raise NotReachable("This endpoint is stopping.")

    def has_valid_token(self, node: NodeId) -> bool:
        """Whether a node of ours has issued a code that is valid now (LP-05)."""
        return self._pairing_server.own_token(node, now=asyncio.get_running_loop().time()) is not None

    def start_pairing(self, node: NodeId, url: BaseUrl) -> None:
        """Pair a node as responder and pairing client, with the code it has issued itself (LP-05, ROLE-03 b)."""
        self.spawn(self._pair_as_responder(self._local.nodes[node], url), "long-poll-pairing")

    async def _pair_as_responder(self, local: LocalNode, url: BaseUrl) -> None:
        issued = self._pairing_server.own_token(local.id, now=asyncio.get_running_loop().time())
        if issued is None:
            return
        try:
            pairing = await self.pair(local, url, PairingCode(issued.token))
        except WrongPairingCode:
            self._pairing_server.own_token_used(local, None, issued)
            raise
        self._pairing_server.own_token_used(local, pairing.peer, issued)

    # Addresses

    async def _addresses_of(self, host: str) -> list[str]:
        """Where to connect to for a host, best first; empty where the operating system shall say it (DISC-06)."""
        if host in self._addresses:
            return [self._addresses[host]]
        if not host.endswith(".local"):
            return []
        if self._names is None:
            from s2connect.lan import Names  # loads DNS-SD

            self._names = Names(self._zeroconf)
        return await self._names.addresses(host)

    async def _routes_of(self, pairing: Pairing) -> list[str]:
        return await self._addresses_of(pairing.initiate_session_url.host) if pairing.initiate_session_url else []

    def addresses_changed(self, own: Collection[str]) -> None:
        """This machine has these addresses now."""
        for connections in self._connections.values():
            connections.addresses_changed(own)

    def seen(self, host: str, addresses: Collection[str]) -> None:
        """An endpoint of that host name was seen in the network, with these addresses."""
        for connections in self._connections.values():
            connections.seen(host, addresses)

    async def refuse_server(self, url: BaseUrl) -> None:
        """Long-polling is over for good with a server (LP-06)."""
        await self._store.refuse_server(url)

    async def refused_servers(self) -> list[BaseUrl]:
        """Servers with which long-polling is over for good."""
        return await self._store.refused_servers()

    async def unpair_at_server(self, pairing: Pairing, tokens: list[AccessToken]) -> None:
        """Call ``unpair`` at the communication server of a pairing."""
        addresses: list[str | None] = [*await self._routes_of(pairing)] or [None]
        await first_reachable(addresses, lambda address: self._client.unpair(pairing, tokens, address=address))

    # Housekeeping

    def publish(self, event: Event) -> None:
        """Log an event and tell all who follow."""
        match event:
            case Paired():
                _log.info(
                    "%s is paired with %s as communication %s", event.node, event.peer.id, event.communication_role
                )
            case Unpaired():
                _log.info("%s is no longer paired with %s, ended by %s", event.node, event.peer.id, event.by)
            case PairingFailed():
                _log.warning("%s tried in vain to pair with %s: %s", event.peer.id, event.node, event.reason)
            case CodeWithdrawn():
                _log.warning("the pairing code of %s was withdrawn after too many failed attempts", event.node)
            case Notice():
                _log.warning("%s", event.sentence)
        for stream in self._streams:
            stream.publish(event)

    async def renew_certificate(self) -> None:
        """Show a new leaf of the same CA from now on; pairings and sessions stay (TRUST-01).

        Raises:
            StorageError: It could not be stored; the old one stays.
            ConfigurationError: The operator's files cannot be used; the old ones stay.
        """
        assert self._tls is not None
        identity = await asyncio.to_thread(self._identity.renew)
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


def _token(text: str | None) -> PairingToken:
    if text is None:
        return PairingToken.generate()
    return PairingCode.parse(text).token


def _static_name(node: NodeId) -> str:
    return f"static-code-{node}"


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
            IdentityKeeper(config, home, vault).create_ca()
        # Last: a directory without settings is not set up, and the next call starts over.
        home.write_private(CONFIG_FILE, config.to_json())
    return config
