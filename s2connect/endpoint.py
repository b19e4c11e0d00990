"""Endpoint: the one place that knows all the parts. Hosts nodes, serves and pairs them, keeps their sessions."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from s2connect.certs.tls import ServerContext, wan_client_context
from s2connect.config import CONFIG_FILE, EndpointConfig, NodeConfig, bracketed, checked
from s2connect.errors import (
    ConfigurationError,
    NotInitialised,
    NotPaired,
    S2ConnectError,
    StorageError,
    UsageError,
)
from s2connect.events import (
    CodeWithdrawn,
    Event,
    EventStream,
    Notice,
    Paired,
    PairingFailed,
    SessionFailed,
    Unpaired,
    UnpairedBy,
)
from s2connect.identity import IdentityKeeper
from s2connect.live import Live, NodeConnections
from s2connect.model.common import Deployment, MalformedMessage, NodeId, Role
from s2connect.model.local import LocalNode
from s2connect.model.roles import CommunicationRole
from s2connect.model.secret import AccessToken
from s2connect.model.text import for_display
from s2connect.model.url import BaseUrl, WebSocketUrl
from s2connect.node import Node
from s2connect.pairing import http_client
from s2connect.pairing.code import PairingCode, PairingToken
from s2connect.pairing.server_core import AttemptFailed, PairingServer
from s2connect.rest import PAIRING_PATH, SESSION_PATH, WEBSOCKET_PATH
from s2connect.session.http_client import SessionClient
from s2connect.session.server_core import UNCONFIRMED_LIFETIME, SessionServer
from s2connect.store.base import Pairing, PairKey, Store, Vault
from s2connect.store.home import Home
from s2connect.store.memory import MemoryStore, MemoryVault
from s2connect.store.sqlite import SqliteStore
from s2connect.store.transfer import PairingTransfer
from s2connect.store.vault import open_vault
from s2connect.transports.base import Connection, Transport
from s2connect.transports.websocket import WebSocketTransport

if TYPE_CHECKING:
    from s2connect.serving import Serving

_log = logging.getLogger(__name__)

RENEWAL_CHECK = 6 * 3600.0
"""Seconds between two looks at the age of the leaf certificate (TRUST-01)."""

FAREWELL_TIMEOUT = 15.0
"""Seconds in which a replaced pairing's server is told."""

DATABASE = "state.sqlite"
SECRETS = "secrets"


class Endpoint:
    """An endpoint: use :meth:`open` with ``async with``.

    Attributes:
        config: Its settings.
        nodes: Its nodes by id.
    """

    def __init__(
        self,
        config: EndpointConfig,
        store: Store,
        vault: Vault,
        identity: IdentityKeeper,
        home: Home | None,
        addresses: Mapping[str, str],
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
        self._locks: dict[NodeId, asyncio.Lock] = {}
        self._connections: dict[NodeId, NodeConnections] = {}
        self._tls: ServerContext | None = None
        self._serving: Serving | None = None
        self._ready = False
        self._port = config.port
        self._pairing_server = PairingServer(
            lambda: self._local,
            session_url=lambda: self.session_url,
            wan_clients_only=config.wan_pairing_server,
        )
        self._session_server = SessionServer()
        self._websocket = WebSocketTransport(self._websocket_url)
        self._transports: dict[str, Transport] = {self._websocket.name: self._websocket}

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
    ) -> AsyncIterator[Endpoint]:
        """Open an endpoint until the context ends; then it withdraws, ends its sessions and stops, in this order.

        Args:
            home: State directory, made by ``s2connect init`` or :func:`create_home`. None keeps everything in memory:
                for tests and for software that shall forget.
            config: Settings; None reads those of the home.
            serve: Listen. Without it the endpoint can only be pairing client and communication client.
            addresses: Where to connect to for a host name, instead of resolving it.

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
            endpoint = cls(config, store, vault, identity, opened, addresses or {})
            stack.push_async_callback(endpoint._close)
            await endpoint._start(serve=serve)
            yield endpoint

    async def _start(self, *, serve: bool) -> None:
        self._pki = await asyncio.to_thread(wan_client_context, self.config.trust_anchors)
        shown = await asyncio.to_thread(self._identity.load)
        self._tls = ServerContext(shown)
        client = SessionClient(self._store, self._transports, self._pki)
        self._client = client
        for local in self._local.nodes.values():
            await self._add_node(local)
        if serve:
            await self._listen()
        self._ready = True
        self._spawn(self._keep_identity_fresh(), "renewal")
        await self._settle_unconfirmed()
        if self.config.deployment is Deployment.WAN and self.config.is_own_ca and serve:
            self._publish(
                Notice(
                    kind="own_ca_in_wan",
                    sentence="This WAN endpoint has no certificate of a public CA; peers will refuse it unless they "
                    "trust its own CA (ca.pem).",
                )
            )

    async def _add_node(self, local: LocalNode) -> Node:
        connections = NodeConnections(
            lambda: self._local, local, self._store, self._client, self, self._address_of_pairing
        )
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
            owner=self,
            endpoint=lambda: self._local,
            ready=lambda: self._ready,
            pairing_server=self._pairing_server,
            session_server=self._session_server,
            store=self._store,
            transports=self._transports,
            websocket=self._websocket,
        )
        self._port = self._serving.port

    async def _close(self) -> None:
        self._ready = False
        await asyncio.gather(*(c.close() for c in self._connections.values()))
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._websocket.close()
        if self._serving is not None:
            await self._serving.close()
        for stream in self._streams:
            stream.close()

    def _spawn(self, work: object, name: str) -> None:
        async def run() -> None:
            try:
                await work  # type: ignore[misc]  # a coroutine of ours
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
        settings = self.config.model_dump()
        settings["nodes"] = [*self.config.nodes, node]
        config = checked(lambda: EndpointConfig.model_validate(settings), "the new node")
        if self._home is not None:
            await asyncio.to_thread(self._home.write_private, CONFIG_FILE, config.to_json())
        self.config, self._local = config, config.endpoint()
        return await self._add_node(self._local.nodes[node.id])

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

    def withdraw_code(self, node: NodeId) -> None:
        """See :meth:`Node.withdraw_pairing_code`."""
        self._pairing_server.withdraw_code(node)

    def attempt_failed(self, failed: AttemptFailed) -> None:
        """An attempt on one of our nodes ended without a pairing."""
        self._publish(PairingFailed(node=failed.node, peer=failed.peer, reason=failed.reason))
        if failed.code_withdrawn:
            self._publish(CodeWithdrawn(node=failed.node))

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
            keeper=self,
            pki=self._pki,
            session_url=self.session_url if self._port else None,
            ca_fingerprint=self.ca_fingerprint if self.config.deployment is Deployment.LAN else None,
            address=self._addresses.get(url.host),
            server_node=server_node,
            force=force,
        )

    # Pairing: keeping (PairingKeeper)

    async def commit(self, pairing: Pairing, token: AccessToken) -> None:
        """As pairing server: store a pairing and give it its effects (PAIR-10)."""
        async with self._lock(pairing.key.local):
            replaced = await self._replaced_by(pairing)
            await self._store.save_pairing(pairing, token, replaces=[p.key for p, _ in replaced])
            self._took_effect(pairing, replaced)

    async def hold(self, pairing: Pairing, token: AccessToken) -> None:
        """As pairing client: store it as unconfirmed (PAIRC-06)."""
        await self._store.save_pairing(pairing, token)
        if pairing.communication_role is CommunicationRole.SERVER:
            self._spawn(self._drop_if_nobody_comes(pairing), "unconfirmed")

    async def confirm(self, pairing: Pairing, *, settled: bool = False) -> None:
        """As pairing client: the pairing stands."""
        async with self._lock(pairing.key.local):
            replaced = await self._replaced_by(pairing)
            await self._store.confirm_pairing(pairing.key, replaces=[p.key for p, _ in replaced])
            self._took_effect(pairing, replaced, settled=settled)

    async def settle(self, pairing: Pairing) -> None:
        """An unconfirmed pairing proved to stand by its first session (PAIRC-06)."""
        await self.confirm(pairing, settled=True)

    async def drop(self, pairing: Pairing) -> None:
        """An unconfirmed pairing does not stand."""
        await self._store.drop_unconfirmed(pairing.key)
        self._publish(PairingFailed(node=pairing.key.local, peer=pairing.peer, reason="unconfirmed"))

    async def _replaced_by(self, pairing: Pairing) -> list[tuple[Pairing, list[AccessToken]]]:
        """Pairings of an RM with other CEMs, with the tokens to say goodbye with (ROLE-05)."""
        if self._local.nodes[pairing.key.local].description.role is Role.CEM:
            return []
        others = [
            p
            for p in await self._store.pairings(pairing.key.local)
            if p.confirmed and p.key.remote != pairing.key.remote
        ]
        return [(p, await self._store.candidate_tokens(p.key)) for p in others]

    def _took_effect(
        self, pairing: Pairing, replaced: Sequence[tuple[Pairing, list[AccessToken]]], *, settled: bool = False
    ) -> None:
        self._publish(Paired(node=pairing.key.local, peer=pairing.peer, communication_role=pairing.communication_role))
        connections = self._connections[pairing.key.local]
        self._session_server.forget(pairing.key)
        connections.drop(pairing.key.remote, "paired anew", keep_connecting=settled)
        for old, tokens in replaced:
            self._session_server.forget(old.key)
            self._publish(Unpaired(node=old.key.local, peer=old.peer, by=UnpairedBy.REPLACED))
            server = old.communication_role is CommunicationRole.SERVER
            connections.drop(old.key.remote, "paired with another energy manager", ask_to_reconnect=server)
            if not server:
                self._spawn(self._farewell(old, tokens), "farewell")
        connections.connect(pairing)

    async def _farewell(self, pairing: Pairing, tokens: list[AccessToken]) -> None:
        """Tell the server of a replaced pairing, as well as it goes; otherwise it would wait for us for ever."""
        try:
            async with asyncio.timeout(FAREWELL_TIMEOUT):
                await self._client.unpair(pairing, tokens, address=self._address_of_pairing(pairing))
        except (S2ConnectError, TimeoutError) as error:
            _log.info("the former peer %s could not be told: %s", for_display(pairing.peer.title), error)

    async def _drop_if_nobody_comes(self, pairing: Pairing) -> None:
        """As communication server: an unconfirmed pairing stands only if its token comes within 15 s (PAIRC-06)."""
        await asyncio.sleep(max(0.0, UNCONFIRMED_LIFETIME - (time.time() - pairing.paired_at)))
        async with self._lock(pairing.key.local):
            if any(p == pairing for p in await self._store.pairings_of(pairing.key)):
                await self.drop(pairing)

    async def _settle_unconfirmed(self) -> None:
        for pairing in await self._store.pairings():
            if not pairing.confirmed and pairing.communication_role is CommunicationRole.SERVER:
                self._spawn(self._drop_if_nobody_comes(pairing), "unconfirmed")

    # Unpairing

    async def unpair(self, node: NodeId, peer: NodeId, *, forget: bool = False) -> Pairing:
        """See :meth:`Node.unpair`."""
        key = PairKey(node, peer)
        connections = self._connections[node]
        pairings = await self._store.pairings_of(key)
        if not pairings:
            raise NotPaired(f"There is no pairing with {peer}.")
        pairing = pairings[0]
        server = pairing.communication_role is CommunicationRole.SERVER
        if not server:
            await connections.end(peer, "unpaired")
            try:
                tokens = await self._store.candidate_tokens(key, confirmed=pairing.confirmed)
                await self._client.unpair(pairing, tokens, address=self._address_of_pairing(pairing))
            except S2ConnectError as error:
                if not forget:
                    connections.connect(pairing)
                    raise
                _log.warning("the other side could not be told: %s", error)
            except asyncio.CancelledError:
                connections.connect(pairing)
                raise
        async with self._lock(node):
            await self._store.remove_pairing(key, tombstone=server)
        self._session_server.forget(key)
        self._publish(Unpaired(node=node, peer=pairing.peer, by=UnpairedBy.US))
        if server:
            connections.drop(peer, "unpaired", ask_to_reconnect=True)
        return pairing

    async def unpaired_by_peer(self, key: PairKey) -> None:
        """The communication client unpairs (SES-05)."""
        pairings = await self._store.pairings_of(key)
        async with self._lock(key.local):
            await self._store.remove_pairing(key, tombstone=True)
        self._session_server.forget(key)
        if pairings:
            self._publish(Unpaired(node=key.local, peer=pairings[0].peer, by=UnpairedBy.PEER))
        self._connections[key.local].drop(key.remote, "unpaired")

    async def ended_by_peer(self, pairing: Pairing) -> None:
        """The communication server has unpaired (UNP-02)."""
        async with self._lock(pairing.key.local):
            await self._store.remove_pairing(pairing.key, tombstone=False)
        self._publish(Unpaired(node=pairing.key.local, peer=pairing.peer, by=UnpairedBy.PEER))

    # A vendor's WAN pairing server and its devices

    async def export_pairing(self, node: NodeId, peer: NodeId) -> bytes:
        """See :meth:`Node.export_pairing`."""
        key = PairKey(node, peer)
        confirmed = [p for p in await self._store.pairings_of(key) if p.confirmed]
        if not confirmed:
            raise NotPaired(f"There is no pairing with {peer}.")
        return PairingTransfer.of(confirmed[0], await self._store.candidate_tokens(key)).to_json()

    async def discard_pairing(self, node: NodeId, peer: NodeId) -> None:
        """See :meth:`Node.discard_pairing`."""
        async with self._lock(node):
            await self._store.remove_pairing(PairKey(node, peer), tombstone=False)
        self._connections[node].drop(peer, "handed over")

    async def import_pairing(self, node: NodeId, data: bytes) -> Pairing:
        """See :meth:`Node.import_pairing`."""
        try:
            transfer = PairingTransfer.from_json(data)
        except MalformedMessage as error:
            raise UsageError(f"This is no pairing: {error}.") from None
        if transfer.node_id != node:
            raise UsageError("This pairing was made for another node.")
        pairing, tokens = transfer.pairing(), transfer.access_tokens
        await self.commit(pairing, tokens[-1])
        return pairing

    # Sessions (SessionKeeper, Owner)

    async def admit(self, pairing: Pairing, s2_version: str) -> str | None:
        """Whether the application of the node is ready (SES-01)."""
        return await self._connections[pairing.key.local].admit(pairing, s2_version)

    async def opened(self, connection: Connection) -> None:
        """A communication client has connected."""
        key = PairKey(connection.info.local, connection.info.remote)
        pairing = next(iter(await self._store.pairings_of(key)), None)
        if pairing is None or key.local not in self._connections:
            await connection.close(reason="unpaired")
            return
        self._connections[key.local].attach(connection, pairing)

    def session_failed(self, event: SessionFailed) -> None:
        """No session came about."""
        self._publish(event)

    def _address_of_pairing(self, pairing: Pairing) -> str | None:
        return self._addresses.get(pairing.initiate_session_url.host) if pairing.initiate_session_url else None

    # Housekeeping

    def _lock(self, node: NodeId) -> asyncio.Lock:
        """Two changes of one node's pairings must not overlap (ROLE-05)."""
        return self._locks.setdefault(node, asyncio.Lock())

    def _publish(self, event: Event) -> None:
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
                self._publish(Notice(kind="certificate_not_renewed", sentence=str(error)))


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
