"""Ownership of sessions where several instances serve one endpoint, without I/O: who keeps a session, and for how long.

The row of a pairing has the name of the instance that owns its session, and a generation that each takeover raises. A
session whose claim is not that of the row is closed. An instance reads the row after it has registered a connection,
and whenever the row may have changed. The first finds a takeover whose hint came while the connection was opened. An
instance that cannot read the row keeps its sessions for a bounded time (WS-06, errata S2C-47).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from s2connect.store.base import PairKey

LINK_LEASE: Final = 30.0
"""Seconds for which an instance may connect to the server of a pairing, from the moment it has asked for that."""

LINK_RENEWAL: Final = 10.0
"""Seconds between two renewals."""

PROBE_EVERY: Final = 5.0
"""Seconds between two looks whether the database answers."""

BEAT_EVERY: Final = 0.2
"""Seconds between two beats of a process, ..."""

STANDSTILL: Final = 0.6
"""... and without one after which it counts as having stood still: stopped, swapped out, or on a machine that slept."""

HANDOVER_WITHIN: Final = 1.0
"""Seconds, at most, for which nothing is delivered of a session that another instance had, until that has ended it.
Longer than a standstill: whoever does not hear of the takeover within them knows that it may have missed it."""

HEARD_FOR: Final = 0.8
"""Seconds for which it counts that nothing was heard of a takeover, from the question on that the database answered.
Shorter than a handover: whoever has the session by then delivers nothing yet."""

RESYNC_EVERY: Final = 30.0
"""Seconds between two readings of all rows that an instance has sessions for, where no hint has come."""


FRESH_COUNTS: Final = 5.0
"""Seconds for which the counts of links are not read again, whatever happens."""

FIRST_TURN: Final = 2.0
"""Seconds for which links that were given up are left to the instances that have too few."""

LEFT_ALONE: Final = 10.0
"""Seconds for which nobody takes them beyond its share, nor whoever has given up any to even them out."""

MOST_LEFT_ALONE: Final = 120.0
"""Seconds after which they are taken for a while all the same, where instances give up some all the time."""

GIVEN_UP_PART: Final = 10
"""Part of its links that an instance gives up at once: a tenth."""

BEYOND_PART: Final = 20
"""Part of its share that it takes beyond it at once: a twentieth."""

LONGEST_PAUSE: Final = 3600.0
"""Most seconds between two times at which links are given up that nobody takes."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Claim of an instance to the session of a pairing: valid while the row has its owner and generation.

    Attributes:
        former: The instance that had the session before; it may be the same.
    """

    key: PairKey
    paired_at: float
    owner: str
    generation: int
    former: str | None = field(default=None, compare=False)

    def is_newer(self, other: Claim) -> bool:
        """Return whether this claim was made after another of the same pair."""
        return (self.paired_at, self.generation) > (other.paired_at, other.generation)


@dataclass(frozen=True, slots=True)
class SessionRow:
    """Owner of the session of one pairing, as it is stored. A pair may have a second, unconfirmed pairing."""

    paired_at: float
    owner: str | None
    generation: int


@dataclass(frozen=True, slots=True)
class LinkRow:
    """Owner of a link, as it is stored. Each takeover raises the generation.

    Attributes:
        is_over: Whether its lease has run out.
    """

    owner: str
    generation: int
    is_over: bool


@dataclass(frozen=True, slots=True)
class Meeting:
    """Meeting of the two parties of a link that each come to whichever instance: one waits there for the other.

    Attributes:
        party: The one that has come, where it can be led to the instance at which it is awaited; empty otherwise.
        awaits: The one that is awaited here, unless the first one is led away.
        within: Seconds for which it is.
    """

    party: str
    awaits: str
    within: float


class Standing(Enum):
    """Standing of a claim: the value is the reason for closing its session."""

    VALID = ""
    TAKEN = "the session goes on at another instance"
    REPLACED = "paired anew"
    ENDED = "unpaired"


def standing(claim: Claim, rows: Iterable[SessionRow]) -> Standing:
    """Return the standing of a claim by the rows of its pair."""
    rows = list(rows)
    for row in rows:
        if row.paired_at == claim.paired_at:
            is_valid = (row.owner, row.generation) == (claim.owner, claim.generation)
            return Standing.VALID if is_valid else Standing.TAKEN
    return Standing.REPLACED if rows else Standing.ENDED


def invalid(claims: Iterable[Claim], rows: Mapping[PairKey, Collection[SessionRow]]) -> list[tuple[Claim, Standing]]:
    """Return the claims that count no more, by the rows of their pairs."""
    found = ((claim, standing(claim, rows.get(claim.key, ()))) for claim in claims)
    return [(claim, how) for claim, how in found if how is not Standing.VALID]


class Leases:
    """Links of one instance: pairs to whose servers it alone connects, each until its lease is over.

    The lease in the database begins when that has the request; here it begins when the request is made, so it is over
    here first. Times are those of a clock that never goes back.
    """

    def __init__(self) -> None:
        self._until: dict[PairKey, float] = {}

    def __len__(self) -> int:
        return len(self._until)

    def held(self) -> list[PairKey]:
        """Return the pairs, also those whose lease may be over."""
        return list(self._until)

    def holds(self, key: PairKey, *, now: float) -> bool:
        """Return whether this instance may connect."""
        return now < self._until.get(key, now)

    def granted(self, keys: Iterable[PairKey], *, asked_at: float) -> None:
        """Add leases, or lengthen them, that were asked for at that time."""
        for key in keys:
            self._until[key] = asked_at + LINK_LEASE

    def renewed(self, asked: Iterable[PairKey], kept: Collection[PairKey], *, asked_at: float) -> list[PairKey]:
        """Lengthen the leases that the database has kept; return those that it has given to others meanwhile."""
        lost = [key for key in asked if key not in kept and self._until.pop(key, None) is not None]
        self.granted((key for key in kept if key in self._until), asked_at=asked_at)
        return lost

    def released(self, key: PairKey) -> bool:
        """Give a lease up; return whether there was one."""
        return self._until.pop(key, None) is not None

    def expired(self, *, now: float) -> list[PairKey]:
        """Drop the leases that are over, and return their pairs."""
        over = [key for key, until in self._until.items() if until <= now]
        for key in over:
            del self._until[key]
        return over


class Standstill:
    """Standstill of this process: others may have taken over what it holds, and it has heard nothing of that.

    It beats every :data:`BEAT_EVERY` seconds. After a beat that is long overdue everything that it holds is in doubt,
    from the first look at it on, until the rows were read again.
    """

    def __init__(self, *, now: float) -> None:
        self._beat = now
        self._count = 0
        self._settled = 0

    def beat(self, *, now: float) -> bool:
        """Note a beat; return whether all is in doubt."""
        doubtful = self.is_in_doubt(now=now)
        self._beat = now
        return doubtful

    def is_in_doubt(self, *, now: float) -> bool:
        """Return whether another instance may have what this one holds."""
        if now - self._beat > STANDSTILL:
            self._beat = now
            self._count += 1
        return self._count != self._settled

    @property
    def count(self) -> int:
        """Number of standstills so far."""
        return self._count

    def settled(self, count: int) -> None:
        """Note that the rows were read, which began after so many standstills."""
        self._settled = count


class Hearing:
    """Hearing of takeovers: whether this process would know by now if another had taken one of its sessions.

    It does after the database has answered it on the connection of the hints, which come in order, for
    :data:`HEARD_FOR` seconds from the question on; not before the rows were read after a gap in the hints. While a hint
    waits until its rows are read, only what was heard before it counts: it may have been held up on its way.
    """

    def __init__(self) -> None:
        self._heard = float("-inf")
        self._doubted: float | None = None
        self._gaps = 0
        self._settled = -1

    def is_certain(self, *, now: float) -> bool:
        """Return whether it would know."""
        since = self._heard if self._doubted is None else min(self._heard, self._doubted)
        return now < since + HEARD_FOR and self.is_settled

    def heard(self, *, asked_at: float) -> None:
        """Note that all hints have come of what was done before that time."""
        self._heard = asked_at

    def missed(self) -> None:
        """Note that hints may have been missed."""
        self._gaps += 1

    @property
    def gaps(self) -> int:
        """Number of gaps so far."""
        return self._gaps

    @property
    def is_settled(self) -> bool:
        """True if all rows were read after the last gap."""
        return self._gaps == self._settled

    def settled(self, gaps: int) -> None:
        """Note that all rows were read, which began after so many gaps."""
        self._settled = gaps

    @property
    def heard_at(self) -> float:
        """Time before which all hints have come of what was done."""
        return self._heard

    def doubted(self) -> None:
        """Note that a hint waits until its rows are read."""
        if self._doubted is None:
            self._doubted = self._heard

    def reviewed(self, *, since: float | None) -> None:
        """Note that rows were read for all hints; others have come since that time, which is one of ``heard_at``."""
        self._doubted = since


@dataclass(frozen=True, slots=True)
class LinkCounts:
    """Number of links, and of those that each living instance holds which takes new ones."""

    links: int
    held: Mapping[str, int]

    @property
    def share(self) -> int:
        """Most links of an instance where all have the same number."""
        return -(-self.links // max(1, len(self.held)))

    @property
    def least(self) -> int:
        """Fewest links of an instance then."""
        return self.links // max(1, len(self.held))

    @property
    def free(self) -> int:
        """Number of links that none of them holds."""
        return max(0, self.links - sum(self.held.values()))

    def surplus(self, held: int, me: str) -> int:
        """Return how many links an instance has too many while others have too few."""

        def beyond(each: int) -> int:
            missing = sum(max(0, each - number) for name, number in self.held.items() if name != me)
            return min(held - each, missing)

        return max(0, beyond(self.least), beyond(self.share))


class Shares:
    """Even shares of links: how many an instance takes, and how many it gives up where others have too few.

    Links that were given up are left to the others for a while. If nobody takes them, because an instance lives that
    connects to nobody, this one takes them back, and waits twice as long before it gives up any more.
    """

    def __init__(self) -> None:
        self._share = self._least = 0
        self._freed_at = self._first_freed_at = self._gave_at = float("-inf")
        self._gave = self._beyond = False
        self._pause = RESYNC_EVERY
        self._alive: frozenset[str] = frozenset()
        self.read_at = float("-inf")

    def is_stale(self, *, now: float) -> bool:
        """Return whether the counts have to be read again."""
        age = now - self.read_at
        return age > RESYNC_EVERY or (age > FRESH_COUNTS and (self._beyond or self._freed_at > self.read_at))

    def look_again(self) -> None:
        """Have the counts read again: this instance serves other nodes now."""
        self.read_at = float("-inf")

    def freed(self, *, now: float) -> None:
        """Note that an instance has given links up, for any reason: so that may happen all the time."""
        if now - self._freed_at >= 2 * LEFT_ALONE:
            self._first_freed_at = now
        if now - self._first_freed_at < MOST_LEFT_ALONE:
            self._freed_at = now

    def read(self, counts: LinkCounts, held: int, *, me: str, now: float) -> int:
        """Take counts in; return how many of the links held this instance has to give up now."""
        self.read_at, self._share, self._least, self._beyond = now, counts.share, counts.least, False
        if (alive := frozenset(counts.held)) != self._alive:
            self._alive, self._pause = alive, RESYNC_EVERY
        # Others take those first that are free; where they do not, no more may be.
        surplus = min(counts.surplus(held, me), max(1, held // GIVEN_UP_PART)) - counts.free
        if surplus <= 0 or me not in alive or now - self._gave_at < self._pause * 0.9:
            return 0
        self._gave_at, self._gave = now, True
        return surplus

    def may_take(self, held: int, *, now: float) -> int:
        """Return how many links this instance may take of those that nobody holds.

        Beyond its share it takes them slowly, and not at once, so that the others have time to take theirs.
        """
        freed, gave = now - self._freed_at, now - self._gave_at
        if gave < LEFT_ALONE or freed < FIRST_TURN:
            return max(self._least - held, 0)
        if freed < LEFT_ALONE:
            return max(self._share - held, 0)
        return max(self._share - held, self._share // BEYOND_PART, 1)

    def took(self, number: int, held: int) -> None:
        """Note that so many links were taken, and how many are held now."""
        self._beyond = number > 0 and held > self._share  # there may be fewer instances than were counted
        if self._gave and number and held > self._share:
            self._gave, self._pause = False, min(2 * self._pause, LONGEST_PAUSE)


class Outage:
    """Time for which the database has not answered. Sessions live on for a while, and end after that.

    Args:
        limit: Seconds.
        now: Time at which the database has answered.
    """

    def __init__(self, limit: float, *, now: float) -> None:
        self.limit = limit
        self._answered = now
        self._failing = False

    @property
    def is_lost(self) -> bool:
        """True if the last look got no answer."""
        return self._failing

    def answered(self, *, now: float) -> bool:
        """Note an answer; return whether that ends an outage."""
        was, self._failing = self._failing, False
        self._answered = max(self._answered, now)
        return was

    def failed(self) -> bool:
        """Note that there was no answer; return whether that begins an outage."""
        was, self._failing = self._failing, True
        return not was

    def is_over_limit(self, *, now: float) -> bool:
        """Return whether sessions have to end: nobody knows any more whose they are."""
        return self._failing and now - self._answered >= self.limit
