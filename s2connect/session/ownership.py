"""Ownership of sessions where several instances serve one endpoint, without I/O: who keeps a session, and for how long.

The row of a pairing names the instance that holds its session, and a generation that each takeover raises. Whoever is
not both has to close its session. An instance looks at the row after it has registered a connection, and whenever it
may have changed: so a takeover that it did not hear of while it opened the connection is seen then.
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

RESYNC_EVERY: Final = 30.0
"""Seconds between two readings of all rows that an instance has sessions for, where no hint has come."""


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
