"""Links of an application, such as those of a bridge: each is held by one instance of several on one database."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Final, Protocol, TypeVar

from s2connect.endpoint.evening import EvenLinks
from s2connect.endpoint.handover import Handover
from s2connect.endpoint.state import EndpointState, SharedOwners
from s2connect.session.ownership import HANDOVER_WITHIN, LINK_LEASE, Leases, Meeting
from s2connect.session.withholding import DeliveryGuard
from s2connect.store.base import PairKey

_log = logging.getLogger(__name__)

T = TypeVar("T")

AT_ONCE: Final = 200
"""Pairs that one statement is about."""

CLAIMED_AT_ONCE: Final = 200
"""Most links that an instance takes in one go, so that others get theirs."""

IDLE_HOLD: Final = 60.0
"""Seconds without use after which a link is given up that a peer's request took."""

READ_EVERY: Final = 5.0
"""Seconds, at least, between two looks at who holds the links of others."""

LOST: Final = "another instance has the link"
OVER: Final = "the lease of the link is over"
MOVES: Final = "another instance has too few links, and gets this one"


class Releases:
    """Links that this instance is giving up: it takes none of them again before that is done.

    Otherwise what gives up the former hold could come to the database behind what takes the next, and end that.
    """

    def __init__(self, state: EndpointState, shared: SharedOwners) -> None:
        self._state = state
        self._shared = shared
        self._under_way: dict[PairKey, asyncio.Task[None]] = {}

    def begin(self, keys: Collection[PairKey]) -> asyncio.Task[None]:
        """Give links up, in the background. The result is that of :meth:`SharedOwners.release_links`."""
        task = self._state.supervisor.spawn(self._release(keys), "link", expected=logging.DEBUG)
        self._under_way.update(dict.fromkeys(keys, task))
        task.add_done_callback(lambda task: self._done(keys, task))
        return task

    async def _release(self, keys: Collection[PairKey]) -> None:
        await self._shared.release_links(keys)

    def _done(self, keys: Collection[PairKey], task: asyncio.Task[None]) -> None:
        for key in keys:
            if self._under_way.get(key) is task:
                del self._under_way[key]

    async def ended(self, key: PairKey) -> None:
        """Wait until a link is given up, if it is just being."""
        while (task := self._under_way.get(key)) is not None:
            await asyncio.wait([task])


class LinkUser(Protocol):
    """Interface of a link for its hold, which calls it when that changes."""

    @property
    def is_leased(self) -> bool:
        """Return whether nobody's request takes the link, so that an instance has to claim it."""

    @property
    def is_used(self) -> bool:
        """Return whether something goes on that only the holder may do."""

    def hold_changed(self) -> None:
        """Note that the link was claimed here, or that another instance has it, or none any more."""

    def hold_lost(self, reason: str) -> None:
        """End at once what only the holder may do."""

    async def give_up(self, reason: str) -> None:
        """End in good order what only the holder may do, and let the link go; all is done when this returns."""


class LinkHold:
    """Hold of one link, which one instance of several has at a time; :meth:`close` it when the link is no more.

    It comes from ``link_hold`` of ``Endpoint.sharing``.

    Attributes:
        user: User of the link, once there is one.
        until: When this instance has to end what only the holder may do, in seconds of the event loop; infinite where
            another instance says so.
        where: Name of another instance that holds it, as it was seen last; empty if none was.
        guard: Guard of what is received on the link from now on; one that was just taken from another instance delivers
            nothing before that has ended it, or has had the time for it.
    """

    def __init__(self, holds: LinkHolds, key: PairKey) -> None:
        self.key = key
        self.guard: DeliveryGuard = holds.owners
        self.user: LinkUser | None = None
        self.until = -math.inf
        self.where = ""
        self.used_at = -math.inf
        self._holds = holds

    @property
    def is_held(self) -> bool:
        """Return whether this instance holds the link."""
        return self._holds.now() < self.until

    async def take(self, meeting: Meeting | None = None) -> bool:
        """Take the link from whichever instance has it, because its peer came to this one.

        Returns:
            True, also where another instance has taken it again by now, as ``is_held`` says; False where another
            instance awaits that party of the meeting. It keeps the link, ``where`` has its name, and the peer has to be
            led there. It is not named again, unless it awaits the party anew.

        Raises:
            StorageUnavailable: The database cannot be reached.
        """
        return await self._holds.take(self, meeting)

    def let_go(self) -> None:
        """Give the link up, so that another instance has it."""
        self._holds.let_go(self)

    def close(self) -> None:
        """Give the link up for good."""
        self._holds.remove(self)


class LinkHolds:
    """Links of this instance that are no pairings: taken for a peer that comes, or held by lease.

    Args:
        state: Has the supervisor.
        shared: Owners of links.
        releases: Links that are being given up.
        wake: Has the tasks of the instance look at links soon.
        owners: Guard of all that this instance holds.
    """

    def __init__(
        self,
        state: EndpointState,
        shared: SharedOwners,
        releases: Releases,
        wake: Callable[[], None],
        owners: DeliveryGuard,
    ) -> None:
        self.owners = owners
        self.now = asyncio.get_running_loop().time
        self._releases = releases
        self._state = state
        self._shared = shared
        self._wake = wake
        self._known: dict[PairKey, LinkHold] = {}
        self._leases = Leases()
        self._taken: dict[PairKey, int] = {}
        self._taking: dict[PairKey, bool] = {}  # by whether another one took it meanwhile
        self._even = EvenLinks(state, shared, self._leases.held, self._give_up)
        self._read_at = -math.inf

    def add(self, key: PairKey) -> LinkHold:
        """Return the hold of a link."""
        hold = self._known[key] = LinkHold(self, key)
        self._wake()
        return hold

    def remove(self, hold: LinkHold) -> None:
        if self._known.get(hold.key) is hold:
            del self._known[hold.key]
        self.let_go(hold)

    def let_go(self, hold: LinkHold) -> None:
        if self._dropped(hold.key):
            self._release([hold.key])

    async def take(self, hold: LinkHold, meeting: Meeting | None) -> bool:
        key = hold.key
        self._taking[key] = False
        try:
            await self._releases.ended(key)
            row, former = await self._shared.take_link(key, meeting)
        finally:
            doubtful = self._taking.pop(key, False)
        if row.owner != self._shared.instance:
            self._dropped(key)
            hold.where = row.owner
            return False
        if self._known.get(key) is not hold:
            self._release([key])
            return True
        self._leases.released(key)
        self._taken[key] = row.generation
        hold.until, hold.where, hold.used_at = math.inf, "", self.now()
        if former not in (None, self._shared.instance):
            hold.guard = self._handed_over()
        if doubtful:
            await self.review([key])
        return True

    def _handed_over(self) -> Handover:
        handover = Handover(self.owners)
        asyncio.get_running_loop().call_later(HANDOVER_WITHIN, handover.over)
        return handover

    def _dropped(self, key: PairKey) -> bool:
        """Note that a link is not held here any more; return whether it was."""
        leased, taken = self._leases.released(key), self._taken.pop(key, None) is not None
        if (hold := self._known.get(key)) is not None:
            hold.until = -math.inf
        return leased or taken

    def _release(self, keys: Collection[PairKey]) -> None:
        self._releases.begin(keys)

    def _lose(self, key: PairKey, reason: str, where: str = "") -> None:
        if not self._dropped(key) or (hold := self._known.get(key)) is None:
            return
        hold.where = where
        _log.info("the link %s %s ends here: %s%s", key.local, key.remote, reason, f" ({where})" if where else "")
        if hold.user is not None:
            hold.user.hold_lost(reason)

    # Called by the tasks of the instance

    def hinted(self, key: PairKey) -> bool:
        """Note that another instance may have taken a link; return whether that concerns this one."""
        if key in self._taking:
            self._taking[key] = True
        return key in self._taken or self._leases.holds(key, now=self.now())

    def held(self) -> list[PairKey]:
        """Return the links that this instance holds."""
        return [*self._leases.held(), *self._taken]

    async def review(self, keys: Iterable[PairKey]) -> None:
        """Lose those links that are another's now."""
        mine = [key for key in keys if key in self._taken or self._leases.holds(key, now=self.now())]
        before = {key: self._taken.get(key) for key in mine}
        rows = await self._shared.links(mine) if mine else {}
        for key, generation in before.items():
            if self._taken.get(key) != generation:
                continue  # taken anew meanwhile
            row = rows.get(key)
            if row is None or row.owner != self._shared.instance or generation not in (None, row.generation):
                self._lose(key, LOST, row.owner if row is not None else "")

    async def read(self) -> None:
        """See who holds the links that are not held here, now and then."""
        now = self.now()
        if not self._known or now < self._read_at:
            return
        self._read_at = now + READ_EVERY
        rows = await self._shared.links_of({key.local for key in self._known})
        for key, hold in list(self._known.items()):
            row, generation = rows.get(key), self._taken.get(key)
            mine = row is not None and row.owner == self._shared.instance
            if generation is not None or self._leases.holds(key, now=self.now()):
                continue
            where = "" if row is None or row.is_over or mine else row.owner
            if where != hold.where:
                hold.where = where
                if hold.user is not None:
                    hold.user.hold_changed()

    async def renew(self) -> None:
        """Lengthen what is held, and give up what has not been used for a while."""
        now = self.now()
        for hold in self._known.values():
            if hold.user is not None and hold.user.is_used:
                hold.used_at = now
        idle = [key for key in self._taken if self._is_idle(key)]
        idle += [key for key in self._leases.held() if key not in self._known or not self._is_leased(self._known[key])]
        for key in idle:
            self._dropped(key)
        for some in batches(idle):
            await asyncio.wait([self._releases.begin(some)])
        for some in batches(list(self._taken)):
            await self._shared.renew_taken({key: self._taken[key] for key in some if key in self._taken})
        for some in batches(self._leases.held()):
            asked_at = self.now()
            kept = await self._shared.renew_links(some)
            for key in self._leases.renewed(some, kept, asked_at=asked_at):
                self._leases.granted([key], asked_at=asked_at)  # so that it is lost below
                self._lose(key, LOST)
            self._set(kept, asked_at)

    def _is_idle(self, key: PairKey) -> bool:
        hold = self._known.get(key)
        return hold is None or self.now() - hold.used_at > IDLE_HOLD

    @staticmethod
    def _is_leased(hold: LinkHold) -> bool:
        return hold.user is not None and hold.user.is_leased

    def _set(self, keys: Iterable[PairKey], asked_at: float) -> None:
        for key in keys:
            if (hold := self._known.get(key)) is not None and self._leases.holds(key, now=self.now()):
                hold.until, hold.where = asked_at + LINK_LEASE, ""

    def freed(self) -> None:
        """Note that an instance has given links up."""
        self._even.freed()

    async def claim(self) -> bool:
        """Claim links that nobody holds; return whether there may be more. Give some up where others have too few."""
        now = self.now()
        leased = [key for key, hold in self._known.items() if self._is_leased(hold)]
        free = [k for k in leased if k not in self._taken and not self._leases.holds(k, now=now)]
        if not leased or self._state.draining:
            return False
        most = await self._even.may_take(partial(self._shared.count_held, leased))
        if not free or not most:
            return False
        asked_at = self.now()
        granted = await self._shared.claim_free_links(free, min(most, CLAIMED_AT_ONCE))
        self._leases.granted(granted, asked_at=asked_at)
        self._set(granted, asked_at)
        self._even.took(len(granted))
        for key in granted:
            if (hold := self._known.get(key)) is None:
                self._dropped(key)
                self._release([key])
            elif hold.user is not None:
                hold.user.hold_changed()
        return len(granted) >= CLAIMED_AT_ONCE

    async def _give_up(self, key: PairKey) -> None:
        hold = self._known.get(key)
        if hold is None or hold.user is None or not self._leases.holds(key, now=self.now()):
            return
        await hold.user.give_up(MOVES)
        await self._releases.ended(key)

    def expire(self) -> None:
        """Lose the links whose lease is over."""
        for key in self._leases.expired(now=self.now()):
            if (hold := self._known.get(key)) is not None:
                hold.until = -math.inf
                _log.info("the link %s %s ends here: %s", key.local, key.remote, OVER)
                if hold.user is not None:
                    hold.user.hold_lost(OVER)

    def lose_all(self, reason: str) -> None:
        """Lose all links: they may be another instance's by now, and nobody can tell."""
        for key in self.held():
            self._lose(key, reason)

    async def close(self) -> None:
        """Give up all. Raises StorageUnavailable."""
        held = self.held()
        for key in held:
            self._dropped(key)
        for some in batches(held):
            await self._shared.release_links(some)


def batches(items: Iterable[T]) -> Iterator[list[T]]:
    """Iterate over items in lists of :data:`AT_ONCE` at most."""
    each = iter(items)
    while some := list(islice(each, AT_ONCE)):
        yield some
