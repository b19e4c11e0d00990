"""Facts that the page, the metrics and programs show of a running service: frozen, complete, nothing secret.

Every text of a peer is as it came: clean it (:func:`s2connect.model.text.for_display`) where it is shown.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, Literal
from uuid import UUID

from pydantic import BaseModel

from s2connect.model.common import NodeDescription, NodeId, Role
from s2connect.model.roles import CommunicationRole

MAX_PEERS: Final = 1000
"""Peers, and links, of one snapshot: those that need a person first. ``more`` says how many are left out."""

MAX_REFUSALS: Final = 10
"""Last refusals that are kept of one peer."""

US: Final = "us"
PEER: Final = "peer"


class PeerState(StrEnum):
    """State of a pairing."""

    CONNECTED = "connected"
    """The peer was heard within its heartbeat."""
    SILENT = "silent"
    """There is a connection, and nothing was heard for longer than the heartbeat; it is about to end."""
    ELSEWHERE = "elsewhere"
    """The session is at another instance of this endpoint."""
    TRYING = "trying"
    """We connect to the peer: now, or at ``next_try``."""
    WAITING = "waiting"
    """The peer has to connect to us."""
    REFUSED = "refused"
    """The peer accepts none of our tokens; a person has to act."""
    UNCONFIRMED = "unconfirmed"
    """The last answer of the pairing was lost; the first session settles it."""
    IDLE = "idle"
    """No application takes sessions here."""


class CodeState(StrEnum):
    """State of the pairing code of a node. The code itself is no fact: the command ``code`` shows it."""

    NONE = "none"
    VALID = "valid"
    STATIC = "static"
    """Valid until it is replaced, as on a sticker."""
    USED = "used"
    """A pairing was made with it; the next one needs a new code."""
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"
    """Too many attempts failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A message whose ReceptionStatus is not ``OK``.

    Attributes:
        at: When.
        by: Who refused it: ``us`` (a bridge or this endpoint) or ``peer``.
        type: Message type; empty where it could not be read.
        status: Of the ReceptionStatus.
        label: Its ``diagnostic_label``; empty for none.
    """

    at: datetime
    by: str
    type: str
    status: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Messages between us and one peer, ReceptionStatuses not counted, since the service began.

    Attributes:
        received: Number of messages of the peer.
        sent: Number of messages to it.
        received_last_minute: Of the last 60 seconds.
        sent_last_minute: Of the last 60 seconds.
        slowest_acknowledgement: Longest time until the peer acknowledged a message within the last hour, in seconds;
            None where it acknowledged none.
        unacknowledged: Messages to the peer that it did not acknowledge in time.
        refused_by_us: Messages of the peer that were refused here, by status.
        refused_by_peer: Messages that the peer refused, by status.
        refusals: The last ones, newest first.
    """

    received: int = 0
    sent: int = 0
    received_last_minute: int = 0
    sent_last_minute: int = 0
    slowest_acknowledgement: float | None = None
    unacknowledged: int = 0
    refused_by_us: Mapping[str, int] = field(default_factory=dict)
    refused_by_peer: Mapping[str, int] = field(default_factory=dict)
    refusals: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionFacts:
    """An open connection.

    Attributes:
        protocol: Communication protocol.
        s2_version: Version of S2 JSON.
        address: Address of the peer; empty where there is none.
        since: When it came up.
        heard_ago: Seconds since the last frame of the peer; None where the transport cannot tell.
        heartbeat: Seconds of silence after which the peer counts as gone; None where there is no heartbeat.
    """

    protocol: str
    s2_version: str
    address: str
    since: datetime
    heard_ago: float | None
    heartbeat: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tries:
    """Attempts to connect, where it is we who connect.

    Attributes:
        last: When the last attempt ended, if any did.
        error: Kind of its error; empty if it succeeded.
        sentence: Its error, for a person.
        next: When the next one begins; None where none is planned, or one is under way.
        can_try_now: Whether :meth:`Observation.try_now` would begin one at once.
    """

    last: datetime | None = None
    error: str = ""
    sentence: str = ""
    next: datetime | None = None
    can_try_now: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerFacts:
    """A pairing, and its session.

    Attributes:
        key: Stable name for :meth:`Observation.try_now`, messages and curves.
        node: Our node.
        peer: The peer as it describes itself.
        endpoint_name: Name of the peer's endpoint; empty for none.
        communication_role: Our role: a client connects to the peer.
        paired_since: When it was paired.
        state: Its state.
        since: Since when it is connected or not connected; the start of the service where it never was.
        last_connected: When its last connection ended; None while it is connected, or if there was none yet.
        missing: Which side is missing, as a sentence; empty while connected.
        helps: What helps, as a sentence with the command; empty where nothing has to be done.
        connection: Open connection, if any.
        tries: Attempts to connect.
        traffic: Messages.
    """

    key: str
    node: NodeId
    peer: NodeDescription
    endpoint_name: str
    communication_role: CommunicationRole
    paired_since: datetime
    state: PeerState
    since: datetime
    last_connected: datetime | None = None
    missing: str
    helps: str
    connection: ConnectionFacts | None
    tries: Tries
    traffic: Traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class SideFacts:
    """One side of a link of a bridge.

    Attributes:
        key: Stable name for messages and curves.
        role: Role of the peer: RM for the device, CEM for the energy manager.
        title: Name of the peer.
        peer: The peer as it describes itself, where it is paired by S2 Connect.
        paired: Whether it is paired, or needs no pairing.
        opens: Who opens the session: ``bridge`` or ``peer``; empty while it is not paired.
        connected: The peer was heard within its heartbeat.
        connection: Open connection, if any.
        traffic: Messages; "us" is the bridge.
    """

    key: str
    role: Role
    title: str
    peer: NodeDescription | None
    paired: bool
    opens: Literal["bridge", "peer", ""]
    connected: bool
    connection: ConnectionFacts | None
    traffic: Traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkFacts:
    """A link of a bridge.

    Attributes:
        key: Stable name for :meth:`Observation.try_now`.
        route: Name of its route.
        name: Its name.
        state: One of :class:`s2connect.bridge.link_state.LinkState`.
        since: Since when it is in this state.
        reason: Why; empty where the state says it all.
        missing: Which side is missing, as a sentence; empty while the link is up.
        helps: What helps, as a sentence with the command; empty where nothing has to be done.
        times_up: How often it was up.
        queued: Messages that wait to be sent, in both directions.
        tries: Attempts of the bridge to connect.
        device: Side of the device.
        manager: Side of the energy manager.
    """

    key: str
    route: str
    name: str
    state: str
    since: datetime
    reason: str
    missing: str
    helps: str
    times_up: int
    queued: int
    tries: Tries
    device: SideFacts
    manager: SideFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteFacts:
    """A route of a bridge.

    Attributes:
        name: Its name.
        devices: Type of the side of the devices.
        manager: Type of the side of the energy manager.
        check: Validation level of its messages.
        links: Number of its links.
        up: Number of those that are up.
        node: Our node that devices pair with, where the side of the devices is S2 Connect.
        failed: Why it does not run; empty if it does.
    """

    name: str
    devices: str
    manager: str
    check: str
    links: int
    up: int
    node: NodeId | None
    failed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeFacts:
    """Pairing code of one of our nodes, without the code.

    Attributes:
        state: Its state.
        since: Since when; None where that is not known.
        expires: When a valid one expires; None for one that does not.
        helps: What helps where there is none; empty otherwise.
    """

    state: CodeState = CodeState.NONE
    since: datetime | None = None
    expires: datetime | None = None
    helps: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """One of our nodes."""

    id: NodeId
    role: Role
    alias: str | None
    description: NodeDescription
    code: CodeFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFacts:
    """An endpoint that was found in the local network. All texts are a stranger's.

    Attributes:
        name: Name that it gives itself; empty for none.
        instance: Instance name, unique in the network.
        roles: Roles that it hosts.
        pairing_url: Where to pair; empty where it has no server for it.
        host: Host name.
        addresses: Addresses, best first.
        nodes: Its nodes as they describe themselves, where it has told.
        ours: It is this endpoint.
        paired: A node of it is paired with one of ours.
    """

    name: str
    instance: str
    roles: tuple[Role, ...]
    pairing_url: str
    host: str
    addresses: tuple[str, ...]
    nodes: tuple[NodeDescription, ...]
    ours: bool
    paired: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedPairing:
    """A pairing that has ended since the service began.

    Attributes:
        node: Our node.
        peer: The peer as it described itself.
        by: Who ended it: ``us``, ``peer`` or ``replaced``.
        at: When.
        sentence: What happened, for a person.
        helps: The next step.
    """

    node: NodeId
    peer: NodeDescription
    by: str
    at: datetime
    sentence: str
    helps: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned:
    """A warning of the service.

    Attributes:
        at: When it came last.
        kind: Stable name.
        sentence: For a person.
        count: How often it came.
    """

    at: datetime
    kind: str
    sentence: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFacts:
    """The certificate that is served.

    Attributes:
        expires: When it expires.
        left: Seconds until then; negative afterwards.
        due: Seconds until its end is warned of; negative afterwards.
        own_ca: Whether it is of the endpoint's own certificate authority, and is renewed by itself.
        warning: What to do, where a person has to; empty otherwise.
    """

    expires: datetime
    left: float
    due: float
    own_ca: bool
    warning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceFacts:
    """The running service.

    Attributes:
        kind: ``serve`` or ``bridge``.
        version: Version of this program.
        since: When it began.
        name: Name of the endpoint; empty for none.
        deployment: ``LAN`` or ``WAN``.
        host: Host name.
        pairing_url: URL that a user types at the other side; empty without a server.
        session_url: Base URL of session initiation; empty without a server.
        advertised: Name under which it is advertised in the local network; empty if it is not.
        not_found: Why others cannot find it there; empty if they can, or if that is not wanted.
        tasks_failed: Failures of background tasks.
    """

    kind: Literal["serve", "bridge"]
    version: str
    since: datetime
    name: str
    deployment: str
    host: str
    pairing_url: str
    session_url: str
    advertised: str
    not_found: str
    tasks_failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All facts at one time.

    Attributes:
        at: The time.
        service: The service.
        certificate: The certificate that is served; None without a server.
        nodes: Our nodes.
        peers: Pairings, those that need a person first.
        more_peers: Pairings that are left out.
        routes: Routes of a bridge.
        links: Links of a bridge, those that need a person first.
        more_links: Links that are left out.
        ended: Pairings that have ended, newest first.
        found: Endpoints in the local network.
        more_found: Those that are left out.
        found_note: Why nothing can be found there; empty otherwise.
        waiting: Devices without a server that wait here to be paired.
        warnings: Warnings, newest first.
    """

    at: datetime
    service: ServiceFacts
    certificate: CertificateFacts | None = None
    nodes: tuple[NodeFacts, ...] = ()
    peers: tuple[PeerFacts, ...] = ()
    more_peers: int = 0
    routes: tuple[RouteFacts, ...] = ()
    links: tuple[LinkFacts, ...] = ()
    more_links: int = 0
    ended: tuple[EndedPairing, ...] = ()
    found: tuple[FoundFacts, ...] = ()
    more_found: int = 0
    found_note: str = ""
    waiting: tuple[NodeDescription, ...] = ()
    warnings: tuple[Warned, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A message that was received or sent.

    Attributes:
        number: Counts up; the argument of :meth:`Observation.messages`.
        at: When.
        key: Of the peer (:class:`PeerFacts`) or the side of a link (:class:`SideFacts`).
        title: Name of that peer.
        direction: ``received`` from the peer or ``sent`` to it.
        type: Message type; empty where it could not be read.
        status: Of a ReceptionStatus; empty otherwise.
        size: Characters.
        text: The text, cut to :data:`~s2connect.web.ring.MAX_TEXT` characters.
    """

    number: int
    at: datetime
    key: str
    title: str
    direction: Literal["received", "sent"]
    type: str
    status: str
    size: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Power within one step of time.

    Attributes:
        at: Begin of the step, in seconds since the epoch.
        low: Least value, in the unit of the quantity.
        high: Greatest value.
        last: Last value.
    """

    at: float
    low: float
    high: float
    last: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Values of one quantity of one device over the last hour.

    Attributes:
        key: Of the peer, or of the side of the device of a link.
        title: Name of the device.
        quantity: Commodity quantity of the standard, e.g. ``ELECTRIC.POWER.L1``.
        unit: Its unit.
        step: Seconds between two points.
        points: Oldest first; none where no value came.
    """

    key: str
    title: str
    quantity: str
    unit: str
    step: float
    points: tuple[Point, ...]


def to_object(value: object) -> Any:
    """Return facts as an object of JSON: dataclasses as objects by field, times as RFC 3339 in UTC."""
    return json.loads(write_json(value))


def write_json(value: object) -> str:
    """Write facts as JSON."""
    return json.dumps(value, default=_member, ensure_ascii=False, separators=(",", ":"))


def _member(value: object) -> Any:
    match value:
        case BaseModel():
            return value.model_dump(mode="json", by_alias=False, exclude_none=True)
        case UUID():
            return str(value)
        case datetime():
            return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        case Mapping():
            return dict(value)
    if not dataclasses.is_dataclass(value):
        raise TypeError(f"JSON has no form for {type(value).__name__}")
    return {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
