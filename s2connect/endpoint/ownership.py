"""Ownership of sessions and links by this instance, where several serve one endpoint on one database."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Final
from uuid import UUID

from s2connect.endpoint.connections import ConnectionManager, LiveConnection
from s2connect.endpoint.evening import EvenLinks
from s2connect.endpoint.handover import Handover
from s2connect.endpoint.holding import LinkHolds, Releases, batches
from s2connect.endpoint.state import EndpointState, SharedOwners
from s2connect.errors import StorageError
from s2connect.events import PairingsChanged
from s2connect.model.common import NodeId
from s2connect.model.roles import CommunicationRole
from s2connect.session.ownership import (
    BEAT_EVERY,
    HANDOVER_WITHIN,
    LINK_RENEWAL,
    PROBE_EVERY,
    RESYNC_EVERY,
    Claim,
    Hearing,
    Leases,
    Outage,
    Standing,
    Standstill,
    invalid,
)
from s2connect.session.withholding import DeliveryGuard
from s2connect.store.base import Pairing, PairKey

_log = logging.getLogger(__name__)

CERTAIN_WITHIN: Final = 5.0
"""Seconds for which nothing is delivered after a standstill where the database does not tell whose the sessions are."""

AGAIN_AFTER: Final = 1.0
"""Seconds until something is tried again for which the database was not there."""

CLAIM_EVERY: Final = 3.0
"""Seconds between two looks for links that nobody holds."""

MAX_LEFT: Final = 10_000
"""Most hints of other instances that have ended a session which are kept for the sessions that follow."""

LINKS_AT_ONCE: Final = 200
"""Most links that an instance takes in one go, so that others get theirs."""

IDLE_LINK: Final = 60.0
"""Seconds after which a link is given up that is not used."""

MOVES: Final = "the session goes on at another instance"
"""Reason for ending the session of a link that another instance is to have."""

CLOSE_WITHIN: Final = 3.0
"""Seconds for the last word to the database when the endpoint closes."""

UNCONFIRMED: Final = "The database does not confirm what is written, as where its synchronous standby is gone."

LOST: Final = "the database of this endpoint is lost"
"""Reason for closing sessions whose owner nobody knows any more."""


class InstanceOwnership:
    """Sessions and links of this instance, and the tasks that keep to the rows of the database.

    Attributes:
        app_links: Links of the application.
        exchanges: Whether instances tell each other that pairings have changed.
        on_crossing: Called with a pair whose other node pairs with this endpoint, at another instance, while an attempt
            of this endpoint is under way.
    """

    def __init__(
        self, state: EndpointState, shared: SharedOwners, connections: Mapping[NodeId, ConnectionManager]
    ) -> None:
        self._on_nodes: Callable[[], Awaitable[None]] = _nothing
        self._on_resync: Callable[[], Awaitable[None]] = _nothing
        self._state = state
        self._shared = shared
        self._connections = connections
        self._started = False
        self._now = asyncio.get_running_loop().time
        self._outage = Outage(state.config.store_outage_limit, now=self._now())
        self._unconfirmed = False  # as it was noticed last
        self._leases = Leases()
        self._standstill = Standstill(now=self._now())
        self._hearing = Hearing()
        self._handovers: dict[PairKey, tuple[int, Handover]] = {}  # with the generation of the claim
        self._left: dict[
            PairKey, int
        ] = {}  # generations of sessions that others have ended before there was a handover
        self._withheld: list[Callable[[], None]] = []  # to be called when no claim is in doubt any more
        self._uncertain: list[Callable[[], None]] = []  # to be called when this instance hears of takeovers again
        self._since: dict[PairKey, float] = {}  # when each link was taken
        self._wanted: set[PairKey] = set()
        self._even = EvenLinks(state, shared, self._leases.held, self._give_up)
        self._doubtful: set[PairKey] = set()
        self._unused: set[Claim] = set()  # claims that are stored, and had no session at the last look
        self._doubt, self._resync, self._links, self._nodes, self._stood_still = (asyncio.Event() for _ in range(5))
        self._releases = Releases(state, shared)
        self.app_links = LinkHolds(state, shared, self._releases, self._links.set, self)
        self.exchanges = False
        self.on_crossing: Callable[[PairKey], None] = lambda _: None
        self._marks = ""

    @property
    def store_trouble(self) -> str:
        """A sentence while nothing new can be taken because of the database; empty otherwise."""
        if self._outage.is_lost:
            return "The database does not answer."
        return "" if self._shared.confirms else UNCONFIRMED

    def prepare(
        self, on_nodes: Callable[[], Awaitable[None]], on_resync: Callable[[], Awaitable[None]], *, alone: bool
    ) -> None:
        """Set what is called when nodes may have changed, and when all is read again: both may raise StorageError.

        ``alone`` is an endpoint that is no instance of its name, such as that of a command beside a service.
        """
        self._on_nodes, self._on_resync = on_nodes, on_resync
        if alone:
            self._shared.instance = f"{self._shared.instance}~{secrets.token_hex(4)}"

    def start(self) -> None:
        """Begin the tasks, which end with the supervisor. Idempotent."""
        if self._started:
            return
        self._started = True
        self._standstill = Standstill(now=self._now())
        supervisor = self._state.supervisor
        supervisor.keep(lambda: self._shared.listen(self._hinted, self._listening, self._heard), "instance-hints")
        supervisor.keep(self._keep_reviewing, "instance-review")
        supervisor.keep(self._keep_beating, "instance-beat")
        supervisor.keep(self._keep_certain, "instance-standstill")
        supervisor.keep(self._keep_resyncing, "instance-resync")
        supervisor.keep(self._keep_nodes, "instance-nodes")
        supervisor.keep(self._keep_links, "instance-links")
        supervisor.keep(self._keep_leases, "instance-leases")
        supervisor.keep(self._keep_probing, "instance-probe")

    async def close(self) -> None:
        """Give up what this instance holds, once its sessions have ended, so that others go on with it at once."""
        held = self._leases.held()
        for key in held:
            self._leases.released(key)
        if not self._started or self._is_another():
            return
        try:
            async with asyncio.timeout(CLOSE_WITHIN):
                await self.app_links.close()
                if held:
                    await self._shared.release_links(held)
                await self._shared.disown(await self._shared.owned())
        except (StorageError, TimeoutError) as error:
            _log.info("what this instance held runs out by itself: %s", error)

    def _is_another(self) -> bool:
        """Return whether another process is the instance of this name now, to which the rows belong."""
        return self._state.presence is not None and self._state.presence.is_lost

    # Sessions

    async def elsewhere(self, keys: Collection[PairKey] | None = None) -> Mapping[PairKey, str]:
        """Return the pairs, or those among ``keys``, whose session is at another instance, by its name.

        Raises StorageUnavailable.
        """
        found = await self._shared.elsewhere(keys)
        return {key: name for key, name in found.items() if self._live(key) is None}

    async def claim(self, pairing: Pairing) -> Claim | None:
        """Make this instance the owner of a pairing's session; None where the pairing is no more.

        Register the connection with the claim then, and :meth:`check` it. Raises StorageUnavailable.
        """
        return await self._shared.claim(pairing)

    async def check(self, key: PairKey) -> None:
        """Read the rows of a pair again whose connection has just been registered, and end it where they say so."""
        try:
            await self._review([key])
        except StorageError as error:
            _log.info("the owner of a session is read later: %s", error)
            self._look_at([key])

    def _look_at(self, keys: Iterable[PairKey]) -> None:
        self._doubtful.update(keys)
        self._hearing.doubted()
        self._doubt.set()

    async def _review(self, keys: Collection[PairKey]) -> None:
        """End the sessions of pairs that are another's now."""
        live = [one for key in keys if (one := self._live(key)) is not None and one.claim is not None]
        if not live:
            return
        rows = await self._shared.rows([one.pairing.key for one in live])
        for claim, how in invalid([one.claim for one in live if one.claim is not None], rows):
            one = self._live(claim.key)
            if one is not None and one.claim == claim:  # not a later one
                self._end(one, how)

    def _live(self, key: PairKey) -> LiveConnection | None:
        connections = self._connections.get(key.local)
        return None if connections is None else connections.live(key.remote)

    def _is_live(self, claim: Claim) -> bool:
        live = self._live(claim.key)
        return live is not None and live.claim == claim

    def _end(self, live: LiveConnection, how: Standing) -> None:
        key, connections = live.pairing.key, self._connections[live.pairing.key.local]
        server = live.pairing.communication_role is CommunicationRole.SERVER
        _log.info("the session of %s with %s ends here: %s", key.local, key.remote, how.value)
        if how is Standing.TAKEN:
            connections.give_up(live, how.value)
        else:
            connections.drop(
                key.remote,
                how.value,
                ask_to_reconnect=server and how is Standing.ENDED,
                keep_connecting=how is Standing.REPLACED,
            )

    # Hints

    def _listening(self) -> None:
        self._hearing.missed()
        self._resync.set()

    def _heard(self, asked_at: float) -> None:
        self._hearing.heard(asked_at=asked_at)
        if self._uncertain and self.is_certain():
            uncertain, self._uncertain = self._uncertain, []
            for call in uncertain:
                call()

    def _hinted(self, hint: str) -> None:
        match hint.split():
            case ["pairing", local, remote]:
                with contextlib.suppress(ValueError):
                    self._look_at([PairKey(NodeId(UUID(local)), NodeId(UUID(remote)))])
            case ["pairings", local, remote, instance] if self.exchanges and instance != self._shared.instance:
                with contextlib.suppress(ValueError):
                    self._state.events.publish(PairingsChanged(node=NodeId(UUID(local)), peer=NodeId(UUID(remote))))
            case ["crossing", local, remote]:
                with contextlib.suppress(ValueError):
                    self.on_crossing(PairKey(NodeId(UUID(local)), NodeId(UUID(remote))))
            case ["link", local, remote]:
                with contextlib.suppress(ValueError):
                    key = PairKey(NodeId(UUID(local)), NodeId(UUID(remote)))
                    if self.app_links.hinted(key):
                        self._look_at([key])
            case ["left", local, remote, generation]:
                with contextlib.suppress(ValueError):
                    self._handed_over(PairKey(NodeId(UUID(local)), NodeId(UUID(remote))), int(generation))
            case ["nodes"]:
                self._nodes.set()
            case ["links"]:
                self._even.freed()
                self.app_links.freed()
                self._links.set()

    async def _keep_reviewing(self) -> None:
        while True:
            await self._doubt.wait()
            self._doubt.clear()
            heard = self._hearing.heard_at
            keys, self._doubtful = self._doubtful, set()
            try:
                for some in batches(keys):
                    await self._review(some)
                    await self.app_links.review(some)
                    await asyncio.sleep(0)  # what ends begins to do so
                    await self._shared.hand_over(some)
                self._hearing.reviewed(since=heard if self._doubtful else None)
            except StorageError as error:
                _log.debug("owners are read later: %s", error)
                self._look_at(keys)
                await asyncio.sleep(AGAIN_AFTER)

    async def _keep_nodes(self) -> None:
        while True:
            await self._nodes.wait()
            self._nodes.clear()
            try:
                await self._on_nodes()
            except StorageError as error:
                _log.debug("the nodes are read later: %s", error)
                self._nodes.set()
                await asyncio.sleep(AGAIN_AFTER)

    async def _keep_resyncing(self) -> None:
        while True:
            await _woken(self._resync, RESYNC_EVERY * random.uniform(0.8, 1.0))  # noqa: S311 - spreads load
            try:
                await self._read_all()
            except StorageError as error:
                _log.debug("all is read again later: %s", error)
                if not self._hearing.is_settled:
                    await asyncio.sleep(AGAIN_AFTER)
                    self._resync.set()

    async def _read_all(self) -> None:
        self._nodes.set()
        self._links.set()
        gaps = self._hearing.gaps
        await self._review_all()
        await asyncio.sleep(0)  # what ends begins to do so
        self._hearing.settled(gaps)
        unused = set[Claim]()
        for some_claims in batches(await self._shared.owned()):
            unused.update(claim for claim in some_claims if not self._is_live(claim))
            await asyncio.sleep(0)
        # One of them may be a claim whose connection is just being registered; at the next look it is.
        if (ended := unused & self._unused) and not self._is_another():
            for some_claims in batches(ended):
                await self._shared.disown(some_claims)
        self._unused = unused - ended
        await self._compare_pairings()
        await self._on_resync()

    async def _review_all(self) -> None:
        for some in batches(claim.key for claim in self._claims()):
            await self._review(some)
        for some_links in batches(self.app_links.held()):
            await self.app_links.review(some_links)

    async def _compare_pairings(self) -> None:
        """Look whether pairings have changed of which no hint has come."""
        if not self.exchanges:
            return
        marks = await self._shared.marks_of_pairings()
        if marks != self._marks:
            self._marks = marks
            self._state.events.publish(PairingsChanged(node=None, peer=None))

    def announce(self, keys: Iterable[PairKey]) -> None:
        """Have the other instances look at the pairings of pairs, in the background."""
        if not self.exchanges:
            return
        for key in set(keys):
            self._state.supervisor.spawn(self._shared.announce_pairings(key), "announce", expected=logging.DEBUG)

    def announce_crossing(self, key: PairKey) -> None:
        """Have the instance whose attempt with a pair is under way know that the other node pairs, too."""
        self._state.supervisor.spawn(self._shared.announce_crossing(key), "announce", expected=logging.DEBUG)

    def _claims(self) -> list[Claim]:
        return [
            one.claim
            for connections in list(self._connections.values())
            for one in connections.peers().values()
            if one.claim is not None
        ]

    # Handovers and standstills

    def guard(self, claim: Claim | None) -> DeliveryGuard:
        """Return the guard of a session that has just begun, with this claim."""
        if claim is None:
            return self
        if claim.former in (None, claim.owner):  # it may have been another's a moment before
            pending = self._handovers.get(claim.key)
            return self if pending is None else pending[1]
        if self._left.pop(claim.key, -1) >= claim.generation:
            return self
        handover = Handover(self)
        self._handovers[claim.key] = claim.generation, handover
        asyncio.get_running_loop().call_later(HANDOVER_WITHIN, self._end_handover, claim.key, handover)
        return handover

    def _end_handover(self, key: PairKey, handover: Handover) -> None:
        if self._handovers.get(key, (0, None))[1] is handover:
            del self._handovers[key]
        handover.over()

    def _handed_over(self, key: PairKey, generation: int) -> None:
        since, handover = self._handovers.get(key, (0, None))
        if handover is None:
            if len(self._left) >= MAX_LEFT:
                self._left.clear()
            self._left[key] = generation
        elif generation >= since:
            self._end_handover(key, handover)

    def may_deliver(self) -> bool:
        """Return whether the sessions of this instance are known to be its: False after it stood still."""
        if not self._started or not self._standstill.is_in_doubt(now=self._now()):
            return True
        self._stood_still.set()
        return False

    def when_it_may(self, call: Callable[[], None]) -> None:
        """Call ``call`` when they are, or when the database does not tell for :data:`CERTAIN_WITHIN` seconds."""
        self._withheld.append(call)

    def is_certain(self) -> bool:
        """Return whether this instance would know of a takeover: not while it hears nothing of the database."""
        return not self._started or self._hearing.is_certain(now=self._now())

    def when_certain(self, call: Callable[[], None]) -> None:
        """Call ``call`` when it would know again."""
        self._uncertain.append(call)

    async def _keep_beating(self) -> None:
        while True:
            await asyncio.sleep(BEAT_EVERY)
            if self._standstill.beat(now=self._now()):
                self._stood_still.set()

    async def _keep_certain(self) -> None:
        """After a standstill, end what is another instance's now, before anything that came meanwhile is delivered."""
        while True:
            await self._stood_still.wait()
            self._stood_still.clear()
            count = self._standstill.count
            with contextlib.suppress(StorageError, TimeoutError):
                async with asyncio.timeout(CERTAIN_WITHIN):
                    await self._review_all()
            await asyncio.sleep(0)  # what ends begins to do so
            self._standstill.settled(count)
            withheld, self._withheld = self._withheld, []
            for call in withheld:
                call()

    # Links

    def holds(self, key: PairKey) -> bool:
        """Return whether this instance may connect to the server of a pairing."""
        return self._leases.holds(key, now=self._now())

    def want(self, key: PairKey) -> None:
        """Take the link of a pair soon, unless another instance holds it."""
        self._wanted.add(key)
        self._links.set()

    def look(self) -> None:
        """Look for links soon: more nodes connect."""
        self._even.look_again()
        self._links.set()
        self.start()

    async def acquire(self, key: PairKey) -> bool:
        """Take the link of a pair now; return whether this instance holds it. Raises StorageUnavailable."""
        if self.holds(key):
            return True
        await self._releases.ended(key)
        asked_at = self._now()
        if not await self._shared.claim_link(key):
            return False
        self._take([key], asked_at)
        return True

    def let_go(self, key: PairKey) -> None:
        """Give the link of a pair up, whose connection has ended and is not opened again by itself."""
        if not self._is_used(key) and self._leases.released(key):
            self._releases.begin([key])

    def _take(self, keys: Collection[PairKey], asked_at: float) -> None:
        self._leases.granted(keys, asked_at=asked_at)
        self._since.update(dict.fromkeys(keys, asked_at))

    def _is_used(self, key: PairKey) -> bool:
        connections = self._connections.get(key.local)
        return connections is not None and connections.uses_link(key.remote)

    async def _keep_links(self) -> None:
        renew_at = self._now() + LINK_RENEWAL
        while True:
            await _woken(self._links, CLAIM_EVERY * random.uniform(0.7, 1.0))  # noqa: S311 - spreads load
            try:
                if self._now() >= renew_at:
                    renew_at = self._now() + LINK_RENEWAL
                    await self._renew_links()
                    await self.app_links.renew()
                await self._claim_links()
                await self.app_links.read()
                if await self.app_links.claim():
                    self._links.set()
            except StorageError as error:
                _log.debug("links are looked at later: %s", error)
                await asyncio.sleep(AGAIN_AFTER)

    async def _renew_links(self) -> None:
        idle = [
            key
            for key in self._leases.held()
            if not self._is_used(key) and self._now() - self._since.get(key, 0.0) > IDLE_LINK
        ]
        for key in idle:
            self._leases.released(key)
        if idle:
            await asyncio.wait([self._releases.begin(idle)])
        held = self._leases.held()
        for some in batches(held):
            asked_at = self._now()
            kept = await self._shared.renew_links(some)
            for key in self._leases.renewed(some, kept, asked_at=asked_at):
                self._lose(key, "another instance has the link")
        kept_links = set(held)
        self._since = {key: since for key, since in self._since.items() if key in kept_links}

    async def _claim_links(self) -> None:
        wanted, self._wanted = self._wanted, set()
        try:
            await self._claim(wanted)
        except StorageError:
            self._wanted |= wanted
            raise

    async def _claim(self, wanted: Collection[PairKey]) -> None:
        asked_at = self._now()
        for key in wanted:
            await self._releases.ended(key)
        granted = [key for key in wanted if await self._shared.claim_link(key)]
        nodes = [node for node, connections in self._connections.items() if connections.connects]
        if nodes:
            most = await self._even.may_take(partial(self._shared.count_links, nodes), len(granted))
            if most:
                granted += await self._shared.claim_links(nodes, wanted, min(most, LINKS_AT_ONCE))
        self._take(granted, asked_at)
        self._even.took(len(granted))
        for key in granted:
            if (connections := self._connections.get(key.local)) is not None:
                connections.connect_pair(key)
        if len(granted) >= LINKS_AT_ONCE:
            self._links.set()

    async def _give_up(self, key: PairKey) -> None:
        if (connections := self._connections.get(key.local)) is not None:
            await connections.end_link(key.remote, MOVES)
        if self._leases.released(key):
            await asyncio.wait([self._releases.begin([key])])

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(AGAIN_AFTER)
            self.app_links.expire()
            for key in self._leases.expired(now=self._now()):
                self._lose(key, "the lease of the link is over")

    def _lose(self, key: PairKey, reason: str) -> None:
        _log.info("%s no longer connects to %s: %s", key.local, key.remote, reason)
        if (connections := self._connections.get(key.local)) is not None:
            connections.lose_link(key.remote, reason)

    # The database

    async def _keep_probing(self) -> None:
        while True:
            await asyncio.sleep(PROBE_EVERY)
            asked_at = self._now()
            try:
                await self._shared.probe()
            except StorageError as error:
                if self._outage.failed():
                    limit = f"{self._outage.limit:.0f} s"
                    _log.error("the database is lost; sessions go on for %s: %s", limit, error)
                    self._state.notice("store_lost", f"{error.what} Nothing new is taken; sessions go on for {limit}.")
                self._end_orphans()
            else:
                if self._outage.answered(now=asked_at):
                    _log.warning("the database answers again")
                    self._state.notice("store_back", "The database answers again.")
                    self._resync.set()
                await self._shared.check_confirms()
                self._notice_unconfirmed()

    def _notice_unconfirmed(self) -> None:
        """Report that the database reads and confirms nothing. Sessions stay: nobody can take one over, either."""
        was, self._unconfirmed = self._unconfirmed, not self._shared.confirms
        if self._unconfirmed and not was:
            self._state.notice("store_unconfirmed", f"{UNCONFIRMED} Nothing new is taken; sessions go on.")
        elif was and not self._unconfirmed:
            self._state.notice("store_back", "The database confirms again what is written.")
            self._resync.set()

    def _end_orphans(self) -> None:
        """End all sessions where the database has been lost for too long: they may be another instance's now."""
        if not self._outage.is_over_limit(now=self._now()):
            return
        for connections in list(self._connections.values()):
            for live in connections.peers().values():
                server = live.pairing.communication_role is CommunicationRole.SERVER
                connections.give_up(live, LOST, ask_to_reconnect=server)
        self.app_links.lose_all(LOST)


async def _nothing() -> None:
    pass


async def _woken(event: asyncio.Event, within: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within):
            await event.wait()
    event.clear()
