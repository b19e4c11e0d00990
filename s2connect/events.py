"""Events of an endpoint, for applications."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from s2connect.model.common import EndpointDescription, NodeDescription, NodeId, Role
from s2connect.model.log_limiter import LogLimiter
from s2connect.model.roles import CommunicationRole
from s2connect.model.url import BaseUrl
from s2connect.supervisor import TaskFailure

_log = logging.getLogger(__name__)

MAX_WAITING_EVENTS = 1000
"""Events kept for a stream that is not read; the oldest go first."""


MAX_ENDED = 50
"""Last pairings that have ended that an endpoint remembers; the oldest go first."""


class UnpairedBy(StrEnum):
    """Side that ended a pairing."""

    US = "us"
    PEER = "peer"
    REPLACED = "replaced"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Event of an endpoint.

    Attributes:
        at: Wall-clock time.
    """

    at: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired(Event):
    """A pairing was stored. ``peer`` is from the network: clean its texts before display."""

    node: NodeId
    peer: NodeDescription
    communication_role: CommunicationRole


@dataclass(frozen=True, slots=True, kw_only=True)
class PairingFailed(Event):
    """A pairing attempt on one of our nodes failed.

    ``reason`` is ``wrong_code``, ``refused_by_client``, ``expired``, ``out_of_order``, ``malformed``, ``unconfirmed``,
    ``replaced`` (another pairing of the node was finished first) or ``not_stored`` (it could not be stored here, e.g.
    because the disk is full; the log says why).
    """

    node: NodeId
    peer: NodeDescription
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeWithdrawn(Event):
    """A pairing code was withdrawn after too many failed attempts (TOK-05); issue a new one."""

    node: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class PairingAnnounced(Event):
    """The user of another device is about to pair with one of our nodes: show its code (LAN-03, LP-05).

    Attributes:
        node: Our node.
        peer: The other node, and ``peer_endpoint`` its endpoint, as they present themselves; None where only the
            ``url`` of the server is known, at which a device of ours waits.
    """

    node: NodeId
    peer: NodeDescription | None
    peer_endpoint: EndpointDescription | None
    url: BaseUrl | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PairingAnnouncementCancelled(Event):
    """An announced pairing will not come, or was announced too long ago (LAN-04)."""

    node: NodeId
    peer: NodeId | None
    url: BaseUrl | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceWaits(Event):
    """A device without a server waits here to be paired (LP-02): ``Node.pair_waiting`` does it with its code."""

    peer: NodeDescription


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceGone(Event):
    """A waiting device has gone."""

    peer: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeMissingAtDevice(Event):
    """A waiting device was asked to pair and has no valid code (LP-05)."""

    peer: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpaired(Event):
    """A pairing is over (UNP-03)."""

    node: NodeId
    peer: NodeDescription
    by: UnpairedBy

    @property
    def sentence(self) -> str:
        """Return what happened as a sentence for a person, without the name of the peer."""
        name = "energy manager" if self.peer.role is Role.CEM else "device"
        match self.by:
            case UnpairedBy.PEER:
                return f"The {name} has ended the pairing."
            case UnpairedBy.REPLACED:
                return f"The pairing with the {name} was replaced by another one."
        return f"The pairing with the {name} was ended on this side."


@dataclass(frozen=True, slots=True, kw_only=True)
class PairingsChanged(Event):
    """Another instance of this endpoint has made or ended pairings, where instances tell each other.

    Attributes:
        node: Our node; None where it may be any.
        peer: The other node, likewise.
    """

    node: NodeId | None
    peer: NodeId | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenUnknown(Event):
    """A paired peer came with an access token that is not known here. At most once an hour for each peer.

    This state or that of the peer may be an older copy, or two copies of one run. Whoever knows the ids of both nodes
    can cause it, too.

    Attributes:
        sentence: For a person.
    """

    node: NodeId
    peer: NodeDescription
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFailed(Event):
    """No session came about. With ``retry_in`` None it is not tried again: the user has to act (SESC-05).

    Attributes:
        kind: ``kind`` of the error.
        sentence: For a person.
        retry_in: Seconds until the next try.
    """

    node: NodeId
    peer: NodeDescription
    kind: str
    sentence: str
    retry_in: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Advertised(Event):
    """This endpoint is advertised in the local network under that name (DISC-01)."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFailed(TaskFailure, Event):
    """A background task of this program failed; published once a minute for the same failure, with nothing secret."""

    @property
    def sentence(self) -> str:
        """Return the event as a sentence for a person."""
        times = f" {self.count} times" if self.count > 1 else ""
        return f"A background task ({self.task}) failed{times} with {self.error}. The log has the details."


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice(Event):
    """Notice for an operator.

    Attributes:
        kind: Stable name.
        sentence: For a person.
    """

    kind: str
    sentence: str


__all__ = [
    "UnpairedBy",
    "EventStream",
    *(name for name, value in globals().items() if isinstance(value, type) and issubclass(value, Event)),
]


class EventStream:
    """Events since its creation; an async iterator that ends when the endpoint closes."""

    def __init__(self) -> None:
        self._waiting: deque[Event] = deque(maxlen=MAX_WAITING_EVENTS)
        self._news = asyncio.Event()
        self._closed = False

    def publish(self, event: Event) -> None:
        """Add an event."""
        self._waiting.append(event)
        self._news.set()

    def close(self) -> None:
        """End the stream after the events that wait."""
        self._closed = True
        self._news.set()

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event:
        while not self._waiting:
            if self._closed:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._waiting.popleft()


class EventHub:
    """Publishes events to subscribers and the log.

    Args:
        clock: Seconds of a clock that never goes back.

    Attributes:
        ended: Pairings that have ended and were not made again, the last ones.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._streams: list[EventStream] = []
        self.ended: deque[Unpaired] = deque(maxlen=MAX_ENDED)
        self._paired: dict[NodeId, NodeId] = {}  # with which each node was paired last
        self._clock = clock
        self._failed_lines = LogLimiter()

    def follow(self) -> EventStream:
        """Return a stream of the events from now on."""
        stream = EventStream()
        self._streams.append(stream)
        return stream

    def leave(self, stream: EventStream) -> None:
        """Stop adding events to a stream."""
        self._streams.remove(stream)

    def publish(self, event: Event) -> None:
        """Log an event and add it to all streams."""
        match event:
            case Paired():
                self._forget_ended(event)
                self._paired[event.node] = event.peer.id
                _log.info(
                    "%s is paired with %s as communication %s", event.node, event.peer.id, event.communication_role
                )
            case Unpaired():
                self._forget_ended(event)
                if event.by is not UnpairedBy.REPLACED or self._paired.get(event.node) != event.peer.id:
                    self.ended.append(event)
                what = "%s is no longer paired with %s, ended by %s"
                if event.by is UnpairedBy.PEER:
                    name = "energy manager" if event.peer.role is Role.CEM else "device"
                    what += f": if the user of the {name} did not mean that, the two have to be paired again"
                _log.log(
                    logging.WARNING if event.by is UnpairedBy.PEER else logging.INFO,
                    what,
                    event.node,
                    event.peer.id,
                    event.by,
                )
            case PairingFailed():
                # By reason alone: strangers control the number of attempts and of nodes (SEC-03).
                more = self._failed_lines.due(event.reason, self._clock())
                if more is not None:
                    _log.warning(
                        "%s tried in vain to pair with %s: %s%s", event.peer.id, event.node, event.reason, more
                    )
            case CodeWithdrawn():
                _log.warning("the pairing code of %s was withdrawn after too many failed attempts", event.node)
            case TokenUnknown():
                _log.warning("%s: %s", event.node, event.sentence)
            case Notice():
                _log.warning("%s", event.sentence)
        for stream in self._streams:
            stream.publish(event)

    def _forget_ended(self, event: Paired | Unpaired) -> None:
        pair = event.node, event.peer.id
        for ended in [one for one in self.ended if (one.node, one.peer.id) == pair]:
            self.ended.remove(ended)

    def close(self) -> None:
        """End all streams."""
        for stream in self._streams:
            stream.close()
