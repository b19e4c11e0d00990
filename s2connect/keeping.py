"""Keeps the pairings of an endpoint: durable, with their effects on each other and on sessions."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from s2connect.errors import NotPaired, S2ConnectError, UsageError
from s2connect.events import Event, Paired, PairingFailed, SessionFailed, Unpaired, UnpairedBy
from s2connect.live import NodeConnections
from s2connect.model.common import MalformedMessage, NodeId, Role
from s2connect.model.local import LocalEndpoint
from s2connect.model.roles import CommunicationRole
from s2connect.model.secret import AccessToken
from s2connect.model.text import for_display
from s2connect.session.server_core import UNCONFIRMED_LIFETIME, SessionServer
from s2connect.store.base import Pairing, PairKey, Store
from s2connect.store.transfer import PairingTransfer
from s2connect.supervisor import Supervisor
from s2connect.transports.base import Connection

_log = logging.getLogger(__name__)

FAREWELL_TIMEOUT = 15.0
"""Seconds in which a replaced pairing's server is told."""


class Owner(Protocol):
    """What keeping pairings needs of the endpoint."""

    def publish(self, event: Event) -> None:
        """Tell the application."""

    async def unpair_at_server(self, pairing: Pairing, tokens: list[AccessToken]) -> None:
        """Call ``unpair`` at the communication server of a pairing."""


class PairingBook:
    """The pairings of all nodes of an endpoint. It is what the two protocols and the connectors call their keeper."""

    def __init__(
        self,
        store: Store,
        local: Callable[[], LocalEndpoint],
        connections: Mapping[NodeId, NodeConnections],
        session_server: SessionServer,
        owner: Owner,
        supervisor: Supervisor,
    ) -> None:
        self._store = store
        self._local = local
        self._connections = connections
        self._session_server = session_server
        self._owner = owner
        self._supervisor = supervisor
        self._locks: dict[NodeId, asyncio.Lock] = {}

    def _lock(self, node: NodeId) -> asyncio.Lock:
        """Two changes of one node's pairings must not overlap (ROLE-05)."""
        return self._locks.setdefault(node, asyncio.Lock())

    # Pairing (PairingKeeper)

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
            self._expire(pairing)

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
        self._owner.publish(PairingFailed(node=pairing.key.local, peer=pairing.peer, reason="unconfirmed"))

    async def _replaced_by(self, pairing: Pairing) -> list[tuple[Pairing, list[AccessToken]]]:
        """Pairings of an RM with other CEMs, with the tokens to say goodbye with (ROLE-05)."""
        if self._local().nodes[pairing.key.local].description.role is Role.CEM:
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
        self._owner.publish(
            Paired(node=pairing.key.local, peer=pairing.peer, communication_role=pairing.communication_role)
        )
        connections = self._connections[pairing.key.local]
        self._session_server.forget(pairing.key)
        connections.drop(pairing.key.remote, "paired anew", keep_connecting=settled)
        for old, tokens in replaced:
            self._session_server.forget(old.key)
            self._owner.publish(Unpaired(node=old.key.local, peer=old.peer, by=UnpairedBy.REPLACED))
            server = old.communication_role is CommunicationRole.SERVER
            connections.drop(old.key.remote, "paired with another energy manager", ask_to_reconnect=server)
            if not server:
                self._supervisor.spawn(self._farewell(old, tokens), "farewell")
        connections.connect(pairing)

    async def _farewell(self, pairing: Pairing, tokens: list[AccessToken]) -> None:
        """Tell the server of a replaced pairing, as well as it goes; otherwise it would wait for us for ever."""
        try:
            async with asyncio.timeout(FAREWELL_TIMEOUT):
                await self._owner.unpair_at_server(pairing, tokens)
        except (S2ConnectError, TimeoutError) as error:
            _log.info("the former peer %s could not be told: %s", for_display(pairing.peer.title), error)

    def _expire(self, pairing: Pairing) -> None:
        self._supervisor.keep(lambda: self._drop_if_nobody_comes(pairing), "unconfirmed", pairing.key.remote)

    async def _drop_if_nobody_comes(self, pairing: Pairing) -> None:
        """As communication server: an unconfirmed pairing stands only if its token comes within 15 s (PAIRC-06)."""
        await asyncio.sleep(max(0.0, UNCONFIRMED_LIFETIME - (time.time() - pairing.paired_at)))
        async with self._lock(pairing.key.local):
            if any(p == pairing for p in await self._store.pairings_of(pairing.key)):
                await self.drop(pairing)

    async def settle_unconfirmed(self) -> None:
        """At the start: let go of pairings whose client does not come (PAIRC-06)."""
        for pairing in await self._store.pairings():
            if not pairing.confirmed and pairing.communication_role is CommunicationRole.SERVER:
                self._expire(pairing)

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
                await self._owner.unpair_at_server(pairing, tokens)
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
        self._owner.publish(Unpaired(node=node, peer=pairing.peer, by=UnpairedBy.US))
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
            self._owner.publish(Unpaired(node=key.local, peer=pairings[0].peer, by=UnpairedBy.PEER))
        self._connections[key.local].drop(key.remote, "unpaired")

    async def ended_by_peer(self, pairing: Pairing) -> None:
        """The communication server has unpaired (UNP-02)."""
        async with self._lock(pairing.key.local):
            await self._store.remove_pairing(pairing.key, tombstone=False)
        self._owner.publish(Unpaired(node=pairing.key.local, peer=pairing.peer, by=UnpairedBy.PEER))

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

    # Sessions (SessionKeeper, and the owner of live connections)

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
        self._owner.publish(event)
