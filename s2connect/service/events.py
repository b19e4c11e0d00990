"""Events of the sidecar contract of ``docs/command.md``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

from s2connect import NodeDescription, NodeId, events
from s2connect.model.roles import CommunicationRole
from s2connect.service.objects import ABSENT, Absent, Entry, NodeEntry, Peer, PeerId, to_value

if TYPE_CHECKING:  # an endpoint needs nothing of the bridge
    from s2connect.bridge.problems import Problem


class Event(Entry):
    """Something that happened. Fields without a value are null; absent ones are left out."""

    event: ClassVar[str]
    time: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __init_subclass__(cls, name: str) -> None:
        super().__init_subclass__()
        cls.event = name

    def to_object(self) -> dict[str, Any]:
        """Return the event as an object for ``json.dumps`` with :func:`~s2connect.service.objects.to_value`."""
        return {"event": self.event, "time": self.time, **self._members()}

    def _members(self) -> dict[str, Any]:
        members: dict[str, Any] = to_value(self)
        del members["time"]
        return members


class Ready(Event, name="ready"):
    """The service is running."""

    deployment: str
    pairing_url: str | None
    session_url: str | None
    nodes: list[NodeEntry]
    page: str | None = None
    metrics: str | None = None


class NodesChanged(Event, name="nodes"):
    """The nodes of the endpoint, or their aliases, have changed."""

    nodes: list[NodeEntry]


class CodeIssued(Event, name="pairing_code"):
    """There is a new pairing code; with ``expires_at`` None it stays valid."""

    node: NodeId
    code: str
    expires_at: datetime | None


class PairingAnnounced(Event, name="prepare_pairing"):
    """A user is about to type the code of a node elsewhere."""

    node: NodeId
    peer: NodeDescription | None
    url: str | Absent = ABSENT
    code: str | Absent | None = ABSENT
    expires_at: datetime | Absent | None = ABSENT


class AnnouncementCancelled(Event, name="cancel_prepare_pairing"):
    """An announced pairing will not come."""

    node: NodeId
    peer: PeerId | None


class DeviceWaiting(Event, name="device_waiting"):
    """A device without a server waits here to be paired."""

    peer: NodeDescription


class DeviceGone(Event, name="device_gone"):
    """A device does not wait any more."""

    peer: Peer


class Paired(Event, name="paired"):
    """A pairing stands."""

    node: NodeId
    peer: NodeDescription
    communication_role: CommunicationRole


class PairingFailed(Event, name="pairing_failed"):
    """A pairing that was begun here failed."""

    node: NodeId
    reason: str


class AttemptFailed(Event, name="pairing_failed"):
    """A pairing that a peer has begun failed."""

    reason: str
    node: NodeId
    peer: NodeDescription


class Unpaired(Event, name="unpaired"):
    """A pairing has ended."""

    by: str
    node: NodeId
    peer: NodeDescription


class SessionOpened(Event, name="session_opened"):
    """A session has begun."""

    session: str
    node: NodeId
    peer: NodeDescription
    protocol: str
    s2_version: str


class MessagePassed(Event, name="message"):
    """A message was received or sent. One with ``answer_within`` (seconds) waits for the command ``answer``."""

    session: str
    direction: str
    message: Any
    answer_within: float | Absent = ABSENT


class SessionClosed(Event, name="session_closed"):
    """A session has ended. ``messages`` is the number of those received."""

    session: str
    reason: str
    node: NodeId
    peer: NodeDescription
    messages: int


class Warned(Event, name="warning"):
    """A warning for an operator."""

    reason: str
    node: NodeId | Absent = ABSENT
    peer: Peer | Absent = ABSENT
    text: str | Absent = ABSENT
    retry_in: float | Absent | None = ABSENT
    task: str | Absent = ABSENT
    error: str | Absent = ABSENT
    session: str | Absent | None = ABSENT


class Result(Event, name="result"):
    """Result of the command ``id``: what it returned, or the error."""

    id: Any
    returned: Any = None
    error: dict[str, Any] | None = None

    def _members(self) -> dict[str, Any]:
        if self.error is not None:
            return {"id": self.id, "ok": False, "error": self.error}
        returned = {} if self.returned is None else to_value(self.returned)
        return {"id": self.id, "ok": True, **returned}


class BridgeReady(Event, name="bridge_ready"):
    """The bridge is running."""

    status: dict[str, Any]
    page: str | None = None
    metrics: str | None = None

    def _members(self) -> dict[str, Any]:
        return {**self.status, "page": self.page, "metrics": self.metrics}


class LinkChanged(Event, name="link"):
    """A link of a bridge has another state."""

    route: str
    link: str
    state: str
    reason: str
    retry_in: float | None


class Reloaded(Event, name="reloaded"):
    """The service has read its settings again."""

    result: dict[str, Any]

    def _members(self) -> dict[str, Any]:
        return self.result


class ReloadFailed(Event, name="reload_failed"):
    """The settings that were read again cannot be used; everything stays as it is."""

    error: dict[str, Any]
    problems: Sequence[Problem]


def from_endpoint(event: events.Event) -> Event | None:
    """Return an event of the endpoint as one of the contract, None for one that is not in it."""
    time = event.at
    match event:
        case events.Paired(node=node, peer=peer, communication_role=role):
            return Paired(time=time, node=node, peer=peer, communication_role=role)
        case events.PairingFailed():
            return AttemptFailed(time=time, reason=event.reason, node=event.node, peer=event.peer)
        case events.Unpaired():
            return Unpaired(time=time, by=event.by, node=event.node, peer=event.peer)
        case events.PairingAnnounced(node=node, peer=announced, url=url):
            return PairingAnnounced(time=time, node=node, peer=announced, url=ABSENT if url is None else str(url))
        case events.PairingAnnouncementCancelled(node=node, peer=gone):
            return AnnouncementCancelled(time=time, node=node, peer=None if gone is None else PeerId(gone))
        case events.DeviceWaits():
            return DeviceWaiting(time=time, peer=event.peer)
        case events.DeviceGone():
            return DeviceGone(time=time, peer=PeerId(event.peer))
        case events.CodeMissingAtDevice():
            return Warned(time=time, reason="code_missing_at_device", peer=PeerId(event.peer))
        case events.CodeWithdrawn():
            return Warned(time=time, reason="code_withdrawn", node=event.node)
        case events.SessionFailed(node=node, peer=peer, kind=kind, sentence=text, retry_in=retry_in):
            return Warned(time=time, reason=kind, node=node, peer=peer, text=text, retry_in=retry_in)
        case events.TokenUnknown(node=node, peer=peer, sentence=text):
            return Warned(time=time, reason="token_unknown", node=node, peer=peer, text=text)
        case events.Notice():
            return Warned(time=time, reason=event.kind, text=event.sentence)
        case events.TaskFailed(task=task, error=error, sentence=text, retry_in=retry_in):
            return Warned(time=time, reason="task_failed", text=text, retry_in=retry_in, task=task, error=error)
    return None


class Sink:
    """Destination of events; this one discards them."""

    async def put(self, event: Event) -> None:
        """Take an event once there is room."""

    def put_nowait(self, event: Event) -> None:
        """Take an event whose number is bounded by other means."""
