"""Admission of connections, without I/O: which of them a server takes in, and which make room for others (SEC-03)."""

from __future__ import annotations

import enum
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from s2connect.https.overload import Overload
from s2connect.https.proxy_protocol import Source

MAX_CONNECTIONS = 8192
"""Connections without a session, of one server, where there are descriptors enough."""

MAX_CONNECTIONS_PER_NETWORK = 1024
"""Same, for one network (:func:`~s2connect.https.rate.network_of`); a gateway may pair hundreds of nodes at once."""

MAX_HANDSHAKES = 256
"""TLS handshakes under way, of one server."""

MIN_RESERVE = 32
"""Minimum of descriptors reserved for files and our own connections."""

MAX_RESERVE = 1024
"""Maximum of reserved descriptors; between the two it is an eighth of the process limit."""

PATIENCE = 1.0
"""Seconds after which a connection whose peer owes us bytes makes room for a new one, where room is short."""


class Stage(enum.IntEnum):
    """Progress of a connection towards a session."""

    SILENT = 0
    """TCP connected; the client's first record is missing or incomplete."""
    READY = 1
    """TLS handshake queued here."""
    HANDSHAKE = 2
    """Its TLS handshake is under way."""
    IDLE = 3
    """Waiting for a request, or for the rest of one."""
    BUSY = 4
    """A complete request was received; its response is not sent yet."""
    GONE = 5
    """Closed, or the peer has proved to be paired; not counted any more."""


class Refusal(enum.Enum):
    """Reason for which a connection is refused."""

    NETWORK = "too many from one network"
    ALL = "too many in all"
    DESCRIPTORS = "too few descriptors left for this process"
    BUSY = "more than get their turn soon"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one server; half of the handshakes under way are those of one network at most."""

    connections: int = MAX_CONNECTIONS
    per_network: int = MAX_CONNECTIONS_PER_NETWORK
    handshakes: int = MAX_HANDSHAKES

    @classmethod
    def for_descriptors(cls, number: int) -> Limits:
        """Return the limits for a number of descriptors: half of them for strangers, a quarter for one network."""
        return cls(
            connections=min(MAX_CONNECTIONS, max(number // 2, 1)),
            per_network=min(MAX_CONNECTIONS_PER_NETWORK, max(number // 4, 1)),
        )


def reserve_of(descriptors: int) -> int:
    """Return how many of the descriptors that a process may open are kept from strangers."""
    return min(max(descriptors // 8, MIN_RESERVE), MAX_RESERVE)


@dataclass(eq=False, slots=True)
class ConnectionEntry:
    """Entry of one connection in the admission, in its stage ``since`` then.

    ``evict`` is called where it has to make room; the owner of the connection sets it. ``source`` is the address of the
    client where a balancer named it.
    """

    network: str
    since: float
    stage: Stage = Stage.SILENT
    evict: Callable[[], object] | None = None
    source: Source | None = None


class _Network:
    """Connections of one network; those with input pending from the peer by stage, oldest first."""

    __slots__ = ("count", "owing")

    def __init__(self) -> None:
        self.count = 0
        self.owing: dict[Stage, dict[ConnectionEntry, None]] = {Stage.SILENT: {}, Stage.HANDSHAKE: {}, Stage.IDLE: {}}

    def owed(self) -> int:
        """Number of connections with input pending from the peer."""
        return sum(map(len, self.owing.values()))


class Admission:
    """Counts connections from their acceptance on, and decides about new ones.

    Where room is short, a new connection replaces one whose peer owes us bytes: of one that has sent nothing
    first, then of one whose handshake or request has not come on for :data:`PATIENCE`, the oldest first. It is one of
    its own network where that is at its bound, else one of the network that has most of them. So connections that stay
    idle do not lock out those that ask, from wherever both come.

    How many begin, and how many may wait for that, follows what the server is able to do
    (:class:`~s2connect.https.overload.Overload`).
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.overload = Overload()
        self._networks: dict[str, _Network] = {}
        self._count = 0
        self._handshakes: dict[ConnectionEntry, None] = {}
        self._ready: OrderedDict[str, deque[ConnectionEntry]] = OrderedDict()
        self._waiting = 0

    def __len__(self) -> int:
        """Connections that count."""
        return self._count

    def admit(
        self, network: str, *, now: float, scarce: bool = False
    ) -> tuple[ConnectionEntry | Refusal, ConnectionEntry | None]:
        """Decide about a new connection, before anything is spent on it; ``scarce`` if descriptors are running out.

        Returns its entry, or why it is refused; and the entry that has to make room for it, which counts no more.
        """
        if not self.overload.takes(network, waiting=self._waiting) and self._longest_but(network) is None:
            return Refusal.BUSY, None
        own = self._networks.get(network)
        victim = refusal = None
        if (own.count if own else 0) >= self.limits.per_network:
            victim, refusal = self._victim(own, now), Refusal.NETWORK
        elif scarce or self._count >= self.limits.connections:
            most = max(self._networks.values(), key=_Network.owed, default=None)
            victim = self._victim(most, now)
            refusal = Refusal.DESCRIPTORS if scarce else Refusal.ALL
        if refusal is not None:
            if victim is None:
                return refusal, None
            self.leave(victim)
        entry = ConnectionEntry(network, now)
        own = self._networks.setdefault(network, _Network())
        own.count += 1
        own.owing[Stage.SILENT][entry] = None
        self._count += 1
        return entry, victim

    def ready(self, entry: ConnectionEntry, *, now: float) -> tuple[bool, ConnectionEntry | None]:
        """Queue the TLS handshake of a connection whose client has sent its first message.

        Returns whether it may wait; and the entry that has to make room for it. Both count no more otherwise.
        """
        victim = None
        if not self.overload.takes(entry.network, waiting=self._waiting):
            longest = self._longest_but(entry.network)
            if longest is None:
                self.leave(entry)
                return False, None
            victim = self._ready[longest].pop()
            self.leave(victim)
        self._move(entry, Stage.READY, now)
        self._ready.setdefault(entry.network, deque()).append(entry)
        return True, victim

    def _longest_but(self, network: str) -> str | None:
        """Return the network with the longest queue of handshakes, if two or more longer than the given one."""
        if self._waiting <= len(self._ready):
            return None  # one of each
        for entries in self._ready.values():
            while entries and entries[-1].stage is not Stage.READY:
                entries.pop()  # it has left
        longest = max(self._ready, key=lambda name: len(self._ready[name]), default=None)
        if longest is None or len(self._ready[longest]) <= len(self._ready.get(network, ())) + 1:
            return None
        return longest

    def next_handshake(self, *, now: float) -> tuple[ConnectionEntry | None, ConnectionEntry | None]:
        """Return the connection whose handshake begins now (round robin over networks), and the one that makes room.

        Where no more may begin, a few do all the same, of the networks that have fewest connections and no handshake
        under way: so crowds, and peers that stall, hold up their own networks and no others.
        """
        for network in self._in_turn():
            if not self.overload.begins(network, now=now):
                break
            begun = self._begin(network, now)
            if begun is not None:
                return begun
        calm = [
            name for name in list(self._ready) if self._waits(name) and not self._networks[name].owing[Stage.HANDSHAKE]
        ]
        if calm and self.overload.begins_beyond(now=now):
            begun = self._begin(min(calm, key=lambda name: self._networks[name].count), now)
            if begun is not None:
                return begun
        return None, None

    def _begin(self, network: str, now: float) -> tuple[ConnectionEntry, ConnectionEntry | None] | None:
        """Begin the next handshake of a network, unless its bounds are full of handshakes that come on."""
        own = self._networks[network].owing[Stage.HANDSHAKE]
        victim = None
        if len(own) >= max(self.limits.handshakes // 2, 1):
            victim = next(iter(own))
        elif len(self._handshakes) >= self.limits.handshakes:
            victim = next(iter(self._handshakes))
        if victim is not None:
            if now - victim.since < PATIENCE:
                return None
            self.leave(victim)
        entry = self._ready[network].popleft()
        self._ready.move_to_end(network)
        self._move(entry, Stage.HANDSHAKE, now)
        self._handshakes[entry] = None
        return entry, victim

    def _in_turn(self) -> Iterator[str]:
        """Yield the networks with handshakes that wait: first those of peers that were offered a session."""
        for network in list(self.overload.expected):
            if self._waits(network):
                yield network
        for network in list(self._ready):
            if not self.overload.is_expected(network) and self._waits(network):
                yield network

    def _waits(self, network: str) -> bool:
        """Return whether a handshake of a network waits; forgets those that have left."""
        waiting = self._ready.get(network)
        if waiting is None:
            return False
        while waiting and waiting[0].stage is not Stage.READY:
            waiting.popleft()
        if not waiting:
            del self._ready[network]
        return bool(waiting)

    @property
    def waiting(self) -> bool:
        """Return whether a handshake waits for its turn."""
        return bool(self._ready)

    def idle(self, entry: ConnectionEntry, *, now: float) -> None:
        """Note that the handshake is done, or a response sent: a request is expected now."""
        self._move(entry, Stage.IDLE, now)

    def busy(self, entry: ConnectionEntry, *, now: float) -> None:
        """Note that a complete request was received."""
        self._move(entry, Stage.BUSY, now)

    def leave(self, entry: ConnectionEntry) -> None:
        """Stop counting a connection that has ended, or whose peer has proved to be paired. Idempotent."""
        self.overload.end(entry)
        if entry.stage is Stage.GONE:
            return
        own = self._networks[entry.network]
        self._waiting -= entry.stage is Stage.READY
        if entry.stage in own.owing:
            del own.owing[entry.stage][entry]
        self._handshakes.pop(entry, None)
        own.count -= 1
        self._count -= 1
        if not own.count:
            del self._networks[entry.network]
            self._ready.pop(entry.network, None)
        entry.stage = Stage.GONE

    def _move(self, entry: ConnectionEntry, stage: Stage, now: float) -> None:
        if entry.stage is Stage.GONE:
            return
        owing = self._networks[entry.network].owing
        if entry.stage in owing:
            del owing[entry.stage][entry]
        self._handshakes.pop(entry, None)
        self._waiting += (stage is Stage.READY) - (entry.stage is Stage.READY)
        entry.stage, entry.since = stage, now
        if stage is not Stage.READY:
            self.overload.step(entry, now=now)
        if stage in owing:
            owing[stage][entry] = None

    @staticmethod
    def _victim(network: _Network | None, now: float) -> ConnectionEntry | None:
        for stage, entries in network.owing.items() if network is not None else ():
            oldest = next(iter(entries), None)
            if oldest is not None and (stage is Stage.SILENT or now - oldest.since >= PATIENCE):
                return oldest
        return None
