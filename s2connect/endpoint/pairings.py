"""Pairings of an endpoint: durable, with their effects on each other and on sessions."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from s2connect.endpoint.connections import ConnectionManager
from s2connect.endpoint.ownership import InstanceOwnership
from s2connect.endpoint.state import EndpointState
from s2connect.errors import NotPaired, PairingReplaced, S2ConnectError, StorageError, UsageError
from s2connect.events import Paired, PairingFailed, Unpaired, UnpairedBy
from s2connect.model.common import WEBSOCKET, MalformedMessage, NodeId, Role
from s2connect.model.roles import CommunicationRole
from s2connect.model.secret import AccessToken
from s2connect.model.text import for_display
from s2connect.pairing.interface import OtherWayRound
from s2connect.session.http_client import SessionClient
from s2connect.session.ownership import Claim
from s2connect.session.server_core import UNCONFIRMED_LIFETIME, Holder, LedTo, SessionServer
from s2connect.session.shared import MemorySessions, SharedOfferingSessions, SharedSessions
from s2connect.store.base import GONE, Pairing, PairKey, Replaced
from s2connect.store.effects import when_durable
from s2connect.store.transfer import PairingTransfer
from s2connect.transports.base import Connection

_log = logging.getLogger(__name__)

T = TypeVar("T")

AGREEMENT = 15.0
"""Seconds for which an unconfirmed pairing in the store counts as one that another instance is agreeing on."""

FOREIGN_ATTEMPT = 30.0
"""Seconds for which an unconfirmed pairing counts as being agreed on at another instance."""

MAX_MADE_HERE = 1000
"""Unconfirmed pairings that are remembered as those of this instance."""

FAREWELL_TIMEOUT = 15.0
"""Seconds for the ``unpair`` at the server of a replaced pairing."""


@dataclass(frozen=True, slots=True)
class _Attempt:
    """Attempt as pairing client, between its agreement and its end."""

    pairing: Pairing
    token: AccessToken = field(repr=False)
    lock: asyncio.Lock


class Pairings:
    """Pairings of all nodes of an endpoint: each change is durable, and then takes effect on sessions.

    Attributes:
        shared: State of session initiation; it forgets pairs whose pairing has changed.
        offers: The same, where several instances share the offers of connections.
        ownership: Sessions and links of this instance; None where it is the only one.
    """

    def __init__(
        self, state: EndpointState, connections: Mapping[NodeId, ConnectionManager], client: SessionClient
    ) -> None:
        self.shared: SharedSessions = MemorySessions(SessionServer(), state.store)
        self.offers: SharedOfferingSessions | None = None
        if state.shared is not None:
            self.shared = self.offers = state.shared.sessions(state.websocket_url, state.supervisor)
        self.ownership: InstanceOwnership | None = None
        if state.shared is not None:
            self.ownership = InstanceOwnership(state, state.shared.owners(), connections)
            self.ownership.on_crossing = self._give_way
        self._state = state
        self._connections = connections
        self._client = client
        self._made_here: OrderedDict[PairKey, float] = OrderedDict()  # unconfirmed pairings, by when they were made
        self._locks: dict[NodeId, asyncio.Lock] = {}
        self._pair_locks: WeakValueDictionary[PairKey, asyncio.Lock] = WeakValueDictionary()
        self._under_way: dict[PairKey, _Attempt] = {}
        self._waiting: Counter[PairKey] = Counter()  # commits waiting for the end of our attempt
        self._refused: set[PairKey] = set()  # pairings of the other side while our attempt was under way
        self._changes: set[asyncio.Task[Any]] = set()

    def _lock(self, node: NodeId) -> asyncio.Lock:
        """Return the lock of a node: two changes of its pairings must not overlap (ROLE-05)."""
        return self._locks.setdefault(node, asyncio.Lock())

    async def _whole(self, node: NodeId, change: Callable[[], Awaitable[T]]) -> T:
        """Complete a change with its effects on sessions, even if the caller is cancelled meanwhile."""

        async def locked() -> T:
            async with self._lock(node):
                return await change()

        task = asyncio.create_task(locked(), name="s2connect-change-of-pairings")
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._state.supervisor.spawn(_ended(task), "change")  # its result is not observed elsewhere
            raise

    async def close(self) -> None:
        """Finish pending changes."""
        await asyncio.gather(*self._changes, return_exceptions=True)

    # Pairing: DurablePairings has the contracts

    async def commit(self, pairing: Pairing, token: AccessToken) -> None:
        """As pairing server: store a pairing and apply its effects (PAIR-10).

        Where the two nodes pair with each other in both directions at the same moment, both sides have to end with the
        same of the two pairings. So they come one after the other: a device refuses one while it is itself the client
        of the other, and an energy manager lets its own attempt end first, which gives way. Where several instances
        share the pairings, nobody waits: that would keep the database waiting, too. The other side repeats its request
        then, until the attempt has given way, also that of another instance.
        """
        key, is_device = pairing.key, self._is_device(pairing.key.local)
        if key in self._under_way and is_device:
            raise OtherWayRound
        if self.ownership is not None and await self._is_agreed_on(key):
            if not is_device:
                self._give_way(key)
                when_durable(partial(self.ownership.announce_crossing, key))
            raise OtherWayRound
        self._waiting[key] += 1
        try:
            async with self._pair_lock(key):
                await self._whole(key.local, lambda: self._save(pairing, token))
        finally:
            self._waiting[key] -= 1
            if not self._waiting[key]:
                del self._waiting[key]

    async def _is_agreed_on(self, key: PairKey) -> bool:
        """Return whether any instance is pairing client of the same pair at this moment, as far as it is stored."""
        if key in self._under_way:
            return True
        made = [p.paired_at for p in await self._state.store.pairings_of(key) if not p.confirmed]
        return any(abs(self._state.wall_time() - paired_at) < AGREEMENT for paired_at in made)

    def _give_way(self, key: PairKey) -> None:
        if key in self._under_way:
            self._refused.add(key)

    def gives_way(self, pairing: Pairing) -> bool:
        return self._waiting[pairing.key] > 0 or pairing.key in self._refused

    async def _save(self, pairing: Pairing, *tokens: AccessToken) -> None:
        alone = self._is_device(pairing.key.local)
        replaced = await self._state.store.save_pairing(pairing, *tokens, alone=alone)
        await self._take_effect(pairing, replaced)

    async def hold(self, pairing: Pairing, token: AccessToken) -> None:
        lock = self._pair_lock(pairing.key)
        await lock.acquire()
        self._under_way[pairing.key] = _Attempt(pairing, token, lock)
        self._made_here[pairing.key] = pairing.paired_at
        if len(self._made_here) > MAX_MADE_HERE:
            self._made_here.popitem(last=False)
        try:
            await self._whole(pairing.key.local, lambda: self._state.store.save_pairing(pairing, token))
        except BaseException:
            self.leave(pairing)
            raise

    async def confirm(self, pairing: Pairing) -> None:
        attempt = self._under_way.get(pairing.key)
        try:
            await self._whole(pairing.key.local, lambda: self._confirm(pairing))
        except NotPaired as error:
            if attempt is not None and pairing.communication_role is CommunicationRole.CLIENT:
                self._state.supervisor.spawn(self._farewell(pairing, [attempt.token]), "farewell")
            raise PairingReplaced(
                f"The pairing with {for_display(pairing.peer.title)} was removed before it was finished."
            ) from error

    async def settle(self, pairing: Pairing) -> Pairing:
        """Confirm a pairing after a session with its token (PAIRC-06), and return it as it is stored now."""
        if not pairing.confirmed:
            await self._whole(pairing.key.local, lambda: self._confirm(pairing, settled=True))
        async with self._lock(pairing.key.local):
            standing = await self._stored(pairing)
        if standing is None:
            raise NotPaired(GONE)
        return standing  # without a further await, so that nothing changes before the caller goes on

    async def _stored(self, pairing: Pairing) -> Pairing | None:
        return next((p for p in await self._state.store.pairings_of(pairing.key) if p.is_same(pairing)), None)

    async def _confirm(self, pairing: Pairing, *, settled: bool = False) -> None:
        replaced = await self._state.store.confirm_pairing(pairing, alone=self._is_device(pairing.key.local))
        if not settled:
            self._end_attempt(pairing)
        if replaced is not None:
            await self._take_effect(pairing, replaced, settled=settled)

    async def drop(self, pairing: Pairing) -> None:
        await self._whole(pairing.key.local, lambda: self._drop(pairing))

    async def _drop(self, pairing: Pairing) -> None:
        dropped = await self._state.store.drop_unconfirmed(pairing)
        self._end_attempt(pairing)
        if dropped:
            self._state.events.publish(PairingFailed(node=pairing.key.local, peer=pairing.peer, reason="unconfirmed"))

    def leave(self, pairing: Pairing) -> None:
        if self._end_attempt(pairing):
            self._wait_for_proof(pairing)

    def _end_attempt(self, pairing: Pairing) -> bool:
        attempt = self._under_way.get(pairing.key)
        if attempt is None or not attempt.pairing.is_same(pairing):
            return False
        del self._under_way[pairing.key]
        self._refused.discard(pairing.key)
        attempt.lock.release()
        return True

    def is_under_way(self, pairing: Pairing) -> bool:
        """Return whether the attempt that agreed on a pairing has not ended yet: no session may use its token."""
        attempt = self._under_way.get(pairing.key)
        if attempt is not None and attempt.pairing.is_same(pairing):
            return True
        if self.ownership is None or pairing.confirmed or self._made_here.get(pairing.key) == pairing.paired_at:
            return False
        return self._state.wall_time() - pairing.paired_at < FOREIGN_ATTEMPT  # at another instance

    def _pair_lock(self, key: PairKey) -> asyncio.Lock:
        """Return the lock of a pair: ends of attempts must not overlap, so that both sides keep the same last one."""
        return self._pair_locks.setdefault(key, asyncio.Lock())

    def _is_device(self, node: NodeId) -> bool:
        """Return whether a node is an RM, which has one energy manager only (ROLE-01)."""
        local = self._state.local.nodes.get(node)
        if local is None:
            raise StorageError("This node has just been removed.")
        return local.description.role is Role.RM

    async def _take_effect(self, pairing: Pairing, replaced: Sequence[Replaced], *, settled: bool = False) -> None:
        for key in (pairing.key, *(one.pairing.key for one in replaced)):
            await self.shared.forget(key)
        when_durable(lambda: self._took_effect(pairing, replaced, settled=settled))

    def _took_effect(self, pairing: Pairing, replaced: Sequence[Replaced], *, settled: bool) -> None:
        if self.ownership is not None:
            self.ownership.announce([pairing.key, *(one.pairing.key for one in replaced)])
        self._state.events.publish(
            Paired(node=pairing.key.local, peer=pairing.peer, communication_role=pairing.communication_role)
        )
        connections = self._connections[pairing.key.local]
        connections.drop(pairing.key.remote, "paired anew", keep_connecting=settled)
        for one in replaced:
            old = one.pairing
            if old.confirmed:
                self._state.events.publish(Unpaired(node=old.key.local, peer=old.peer, by=UnpairedBy.REPLACED))
            else:
                self._state.events.publish(PairingFailed(node=old.key.local, peer=old.peer, reason="replaced"))
            server = old.communication_role is CommunicationRole.SERVER
            connections.drop(old.key.remote, "paired with another energy manager", ask_to_reconnect=server)
            if not server:
                self._state.supervisor.spawn(self._farewell(old, one.tokens), "farewell")
        connections.connect(pairing)

    async def _farewell(self, pairing: Pairing, tokens: Sequence[AccessToken]) -> None:
        """Try to unpair at the server of a replaced pairing, which would otherwise wait for us for ever."""
        try:
            async with asyncio.timeout(FAREWELL_TIMEOUT):
                await self._unpair_at_server(pairing, list(tokens))
        except (S2ConnectError, TimeoutError) as error:
            _log.info("could not unpair at the former peer %s: %s", for_display(pairing.peer.title), error)

    async def _unpair_at_server(self, pairing: Pairing, tokens: list[AccessToken]) -> None:
        assert pairing.initiate_session_url is not None
        await self._state.resolver.first_reachable(
            pairing.initiate_session_url.host, lambda address: self._client.unpair(pairing, tokens, address=address)
        )

    def _wait_for_proof(self, pairing: Pairing) -> None:
        """Let the first session of an unconfirmed pairing decide: ours, or the client's within 15 s (PAIRC-06)."""
        if pairing.communication_role is CommunicationRole.SERVER:
            self._state.supervisor.keep(lambda: self._drop_if_nobody_comes(pairing), "unconfirmed", pairing.key.remote)
        else:
            self._connections[pairing.key.local].connect(pairing)

    async def _drop_if_nobody_comes(self, pairing: Pairing) -> None:
        """As communication server: drop an unconfirmed pairing unless its token comes within 15 s (PAIRC-06)."""
        left = UNCONFIRMED_LIFETIME - (self._state.wall_time() - pairing.paired_at)
        await asyncio.sleep(min(max(0.0, left), UNCONFIRMED_LIFETIME))  # the clock may have been set meanwhile
        await self.drop(pairing)

    async def settle_unconfirmed(self) -> None:
        """At the start: drop unconfirmed pairings whose client does not come (PAIRC-06).

        Where there are several instances, again and again: those that agreed on them may be gone.
        """
        for pairing in await self._state.store.pairings(role=CommunicationRole.SERVER, confirmed=False):
            if self.ownership is None:
                self._wait_for_proof(pairing)
            elif not self.is_under_way(pairing) and self._state.wall_time() - pairing.paired_at > FOREIGN_ATTEMPT:
                await self.drop(pairing)

    # Unpairing

    async def unpair(self, node: NodeId, peer: NodeId, *, forget: bool = False) -> Pairing:
        """End a pairing; arguments and errors as of ``Node.unpair``."""
        key = PairKey(node, peer)
        # Pairings still being agreed on are not ended.
        pairings = [p for p in await self._state.store.pairings_of(key) if not self.is_under_way(p)]
        if not pairings:
            raise NotPaired(f"There is no pairing with {peer}.")
        ours = [p for p in pairings if p.communication_role is CommunicationRole.CLIENT]
        if ours:
            try:
                sent: dict[float, list[AccessToken]] = {}
                while any([sent.get(p.paired_at) != await self._tokens(p) for p in ours]):
                    # Also again: a session that began meanwhile may have got another token.
                    await self._connections[node].end(peer, "unpaired")
                    for pairing in ours:
                        sent[pairing.paired_at] = tokens = await self._tokens(pairing)
                        await self._unpair_at_server(pairing, tokens)
            except S2ConnectError as error:
                if not forget:
                    self._connections[node].connect(ours[0])
                    raise
                _log.warning("could not unpair at the other side: %s", error)
            except asyncio.CancelledError:
                self._connections[node].connect(ours[0])
                raise
        await self._whole(node, lambda: self._end(pairings, UnpairedBy.US))
        for later in await self._state.store.pairings_of(key):
            self._connections[node].connect(later)  # paired again meanwhile
        return pairings[0]

    async def _tokens(self, pairing: Pairing) -> list[AccessToken]:
        try:
            return await self._state.store.candidate_tokens(pairing)
        except NotPaired:
            return []  # removed meanwhile; the remover notifies the server

    async def _end(self, pairings: Sequence[Pairing], by: UnpairedBy) -> None:
        """Remove those pairings of one pair that still exist, and apply the effects."""
        key = pairings[0].key
        server = any(p.communication_role is CommunicationRole.SERVER for p in pairings)
        removed = [p for p in pairings if await self._state.store.remove_pairing(p, tombstone=server)]
        if not removed:
            return
        await self.shared.forget(key)
        if self.ownership is not None:
            self.ownership.announce([key])
        self._state.events.publish(Unpaired(node=key.local, peer=removed[0].peer, by=by))
        self._connections[key.local].drop(
            key.remote, "unpaired", ask_to_reconnect=server and by is UnpairedBy.US, keep_connecting=not server
        )

    async def end_all(self, node: NodeId) -> None:
        """End what pairings a node has left that is removed; one that is being stored comes first."""
        await self._whole(node, lambda: self._end_left(node))

    async def _end_left(self, node: NodeId) -> None:
        for pairing in await self._state.store.pairings(node):
            await self._end([pairing], UnpairedBy.US)

    async def unpaired_by_peer(self, pairing: Pairing) -> None:
        """Unpair for the communication client, which used a token of this pairing (SES-05).

        The token of an unconfirmed pairing shows that the client has nothing older. A later pairing, of which we are
        pairing client at this moment, stays.
        """
        pairings = [pairing]
        if not pairing.confirmed:
            pairings += [p for p in await self._state.store.pairings_of(pairing.key) if p.confirmed]
        await self._whole(pairing.key.local, lambda: self._end(pairings, UnpairedBy.PEER))

    async def ended_by_peer(self, pairing: Pairing) -> None:
        """Remove a pairing that its communication server has ended (UNP-02)."""
        await self._whole(pairing.key.local, lambda: self._end([pairing], UnpairedBy.PEER))

    # A vendor's WAN pairing server and its devices

    async def export_pairing(self, node: NodeId, peer: NodeId) -> bytes:
        """Return a pairing for the device it was made for."""
        confirmed = await self._confirmed(PairKey(node, peer))
        if confirmed is None:
            raise NotPaired(f"There is no pairing with {peer}.")
        return PairingTransfer.of(confirmed, await self._tokens(confirmed)).to_json()

    async def _confirmed(self, key: PairKey) -> Pairing | None:
        return next((p for p in await self._state.store.pairings_of(key) if p.confirmed), None)

    async def discard_pairing(self, node: NodeId, peer: NodeId) -> None:
        """Remove a pairing without telling the peer."""
        await self._whole(node, lambda: self._discard(PairKey(node, peer)))

    async def _discard(self, key: PairKey) -> None:
        for pairing in await self._state.store.pairings_of(key):
            await self._state.store.remove_pairing(pairing, tombstone=False)
        self._connections[key.local].drop(key.remote, "handed over")

    async def import_pairing(self, node: NodeId, data: bytes) -> Pairing:
        """Take over a pairing that the vendor's server has made; errors as of ``Node.import_pairing``."""
        try:
            transfer = PairingTransfer.from_json(data)
        except MalformedMessage as error:
            raise UsageError(f"This is no pairing: {error}.") from None
        if transfer.node_id != node:
            raise UsageError(
                f"This pairing was made for the node {transfer.node_id}, and this is {node}.",
                hint="Take it to the device that has this id; an id is given when a node is made (--id).",
            )
        return await self._whole(node, lambda: self._import(transfer))

    async def _import(self, transfer: PairingTransfer) -> Pairing:
        pairing = transfer.pairing()
        known = await self._confirmed(pairing.key)
        if known is not None and known.is_same(pairing):
            return known  # delivered twice; its tokens have been rotated since
        if known is not None and known.paired_at > pairing.paired_at:
            raise UsageError(
                f"A later pairing with {for_display(pairing.peer.title)} is here already; this one is over.",
                hint="If it is not, unpair the two first, then import it again.",
            )
        await self._save(pairing, *transfer.access_tokens)
        return pairing

    # Sessions: SessionManager has the contracts

    async def admit(self, pairing: Pairing, s2_version: str, protocol: str | None = None) -> str | LedTo | None:
        # A connection over MQTT comes to the instance that offers it.
        may_lead = protocol == WEBSOCKET and self.offers is not None and self._state.config.instance_url is not None
        return await self._connections[pairing.key.local].admit(pairing, s2_version, may_lead=may_lead)

    def holder(self, pairing: Pairing, led_to: LedTo | None) -> Holder | None:
        if led_to is not None:
            return Holder(led_to.instance, self._state.instance_url(led_to.instance))
        if self.offers is None or self._connections[pairing.key.local].preparing_hook is None:
            return None
        name = self.offers.holder
        return Holder(name, self._state.instance_url(name.partition("~")[0]))

    def prepares(self) -> bool:
        return any(connections.preparing_hook is not None for connections in self._connections.values())

    def token_unknown(self, pairing: Pairing, digest: bytes | None) -> None:
        self._connections[pairing.key.local].token_unknown(pairing, digest)

    def token_known(self, pairing: Pairing) -> None:
        self._connections[pairing.key.local].token_known(pairing.key.remote)

    def is_full(self, node: NodeId) -> bool:
        connections = self._connections.get(node)
        return connections is not None and connections.is_full()

    def changes(self, node: NodeId) -> int:
        return self._connections[node].drops

    async def opened(self, connection: Connection, pairing: Pairing, changes: int, claim: Claim | None = None) -> None:
        connections = self._connections.get(pairing.key.local)
        if self.ownership is not None:
            claim = claim or await self.ownership.claim(pairing)
            if connections is not None and claim is not None:
                connections.attach(connection, pairing, claim=claim)
                # The pairing may have ended meanwhile, or another instance taken the session.
                await self.ownership.check(pairing.key)
                return
            connections = None
        standing: Pairing | None = pairing
        while connections is not None and standing is not None:
            if connections.drops == changes:
                # A pairing that is ended at this moment ends the connection, once that is durable.
                connections.attach(connection, standing)
                return
            changes = connections.drops
            # Without the lock, because thousands come at once, and each would wait for the reading of all before it.
            standing = await self._stored(pairing)
        await connection.close(reason="unpaired")


async def _ended(task: asyncio.Task[Any]) -> None:
    await asyncio.shield(task)
