"""Objects that commands and events of the sidecar contract carry, and how they are written as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, dataclass_transform
from uuid import UUID

from pydantic import BaseModel, SerializerFunctionWrapHandler, model_serializer

from s2connect import NodeDescription, NodeId, Pairing, PairKey, Secret
from s2connect.errors import NotPaired, UsageError
from s2connect.model.alphabet import in_our_alphabet, to_ascii
from s2connect.model.common import EndpointDescription, Role
from s2connect.model.roles import CommunicationRole
from s2connect.model.text import for_display

if TYPE_CHECKING:  # a command that only prints needs no sessions
    from s2connect.endpoint.connections import LiveConnection, PeerHistory

MAX_ALIAS: Final = 64  # characters of the longest alias
MAX_NAMED: Final = 20  # most nodes that an error names
MIN_PREFIX: Final = 4  # shortest beginning of a node id that stands for the whole


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
class Entry:
    """Base of what is written as JSON: its subclasses are frozen dataclasses whose members have names."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        dataclass(frozen=True, kw_only=True)(cls)


class Absent(Enum):
    """Value of a member that is left out, which is not the same as null."""

    ABSENT = "absent"


ABSENT: Final = Absent.ABSENT


@dataclass(frozen=True, slots=True)
class PeerId:
    """A node of which only the id is known."""

    id: NodeId

    @property
    def title(self) -> str:
        """Name for a person."""
        return f"node {str(self.id)[:8]}"


Peer = NodeDescription | PeerId


@dataclass(frozen=True, slots=True)
class NodeEntry:
    """One of our nodes, in short."""

    id: NodeId
    role: Role
    alias: str | None


class OwnNode(NodeDescription):
    """One of our nodes, in full."""

    alias: str | None = None
    code_state: str = "none"
    """State of its pairing code; see :attr:`s2connect.Node.code_state`."""
    static_code: bool = False
    """True if it has a static code; see :attr:`s2connect.Node.has_static_code`."""

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {**write(self), "alias": self.alias, "code_state": self.code_state, "static_code": self.static_code}


class Trouble(Entry):
    """Trouble with the access of a pairing, which only a person can end.

    ``reason`` is ``access_refused`` (the peer accepts no token of ours) or ``token_unknown`` (the peer came with one
    that is not known here); ``since`` is when it happened last.
    """

    reason: str
    since: datetime
    text: str

    @classmethod
    def of(cls, history: PeerHistory | None) -> Trouble | None:
        """Return the trouble that a peer's history shows; None for none."""
        if history is None or history.trouble is None:
            return None
        reason, since, text = history.trouble
        return cls(reason=reason, since=since, text=text)


class PairingEntry(Entry):
    """A pairing, made at ``since``. ``connected`` is true while the pair has a session, at whatever instance.

    ``state_since`` is when it was connected, or has not been any more; None if it was not since the service began.
    ``instance`` is another instance that has its session, by the database; None for this one, or where there is none.
    """

    node: NodeId
    peer: NodeDescription
    peer_endpoint: EndpointDescription
    communication_role: CommunicationRole
    since: datetime
    confirmed: bool
    connected: bool
    trouble: Trouble | None = None
    state_since: datetime | None = None
    instance: str | None = None

    @classmethod
    def of(
        cls,
        pairing: Pairing,
        connected: Mapping[PairKey, LiveConnection] = MappingProxyType({}),
        history: Mapping[PairKey, PeerHistory] = MappingProxyType({}),
        elsewhere: Mapping[PairKey, str] = MappingProxyType({}),
    ) -> PairingEntry:
        """Return the entry of a pairing; ``connected`` and ``elsewhere`` are the pairs that have a session."""
        live, known = connected.get(pairing.key), history.get(pairing.key)
        return cls(
            node=pairing.key.local,
            peer=pairing.peer,
            peer_endpoint=pairing.peer_endpoint,
            communication_role=pairing.communication_role,
            since=datetime.fromtimestamp(pairing.paired_at, UTC),
            confirmed=pairing.confirmed,
            connected=live is not None or pairing.key in elsewhere,
            trouble=Trouble.of(known),
            state_since=live.connection.info.since if live is not None else known.ended if known is not None else None,
            instance=elsewhere.get(pairing.key) if live is None else None,
        )


class ExchangedMessage(Entry):
    """A message that its receiver has acknowledged. ``direction`` is ``sent`` or ``received``, seen from here."""

    direction: str
    type: str


class EndedEntry(Entry):
    """A pairing that has ended since the service began. ``by`` is ``us``, ``peer`` or ``replaced``."""

    node: NodeId
    peer: NodeDescription
    by: str
    since: datetime
    text: str


class SessionEntry(Entry):
    """An open session. ``messages`` counts those received; ``first_message`` is None until one is acknowledged."""

    session: str
    node: NodeId
    peer: NodeDescription
    protocol: str
    s2_version: str
    since: datetime
    messages: int
    first_message: ExchangedMessage | None = None


@dataclass(frozen=True, slots=True)
class NotFound:
    """Reason why others cannot find this endpoint in the network."""

    reason: str
    text: str


def _without_null(value: NodeDescription | EndpointDescription) -> dict[str, Any]:
    return {name: member for name, member in vars(value).items() if member is not None}


def to_value(value: object) -> Any:
    """Return an object of a command or an event as JSON has it; made for the argument ``default`` of ``json.dumps``."""
    match value:
        case PairingEntry():  # there may be many
            return {
                **vars(value),
                "node": str(value.node),
                "peer": _without_null(value.peer) | {"id": str(value.peer.id)},
                "peer_endpoint": _without_null(value.peer_endpoint),
                "since": rfc3339(value.since),
                "trouble": None if value.trouble is None else to_value(value.trouble),
            }
        case BaseModel():
            return value.model_dump(mode="json", by_alias=False, exclude_none=True)
        case UUID():
            return str(value)
        case Secret():  # on its way to a service of ours
            return value.reveal()
        case datetime():
            return rfc3339(value)
    if not dataclasses.is_dataclass(value):
        raise TypeError(f"JSON has no form for {type(value).__name__}")
    members = {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    return {name: member for name, member in members.items() if member is not ABSENT}


def rfc3339(at: datetime) -> str:
    """Return a point in time as text, in UTC and with milliseconds."""
    at = at if at.tzinfo is UTC else at.astimezone(UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def name_of(peer: Peer) -> str:
    """Return the name of a peer, fit for a terminal."""
    return for_display(peer.title, 40) or "a peer without a name"


def read_alias(text: str) -> str:
    """Return an alias as codes have it; ``UsageError`` if it has other characters than letters and digits."""
    spelled = to_ascii(text.strip())
    if not spelled.isalnum() or len(spelled) > MAX_ALIAS:
        what = f"{for_display(text, 60)} is no alias: it has up to {MAX_ALIAS} letters and digits, without blanks."
        raise UsageError(what, hint="A number or two letters are best, because people type it.")
    return spelled


def own_node(nodes: Sequence[OwnNode], wanted: str | None) -> OwnNode:
    """Return our node of an alias, in any case, id or name; without one, the only node. ``UsageError`` names them."""
    folded = in_our_alphabet(wanted or "")
    found = [one for one in nodes if wanted is None or wanted in (str(one.id), one.alias)] or [
        one for one in nodes if one.alias is not None and in_our_alphabet(one.alias) == folded
    ]
    if not found and wanted is not None:
        known = fitting(nodes, wanted)
        found = [one for one in nodes if one in known]
    if len(found) != 1:
        names = ", ".join(f"{one.alias or one.id} ({name_of(one)}, {one.role})" for one in nodes[:MAX_NAMED])
        names += ", …" if len(nodes) > MAX_NAMED else ""
        if wanted is None:
            raise UsageError(f"Which node of this endpoint? There are: {names}.", hint="Name it with --node.")
        what = "Several nodes fit" if found else "There is no node"
        raise UsageError(f"{what} {for_display(wanted, 60)} here; there are: {names}.")
    return found[0]


def find_pairing(pairings: Sequence[PairingEntry], wanted: str) -> PairingEntry:
    """Find a pairing by id, its beginning, or name of the peer; ``NotPaired`` for none, ``UsageError`` for several."""
    peers = fitting([pairing.peer for pairing in pairings], wanted)
    found = [pairing for pairing in pairings if pairing.peer in peers]
    if not found:
        raise NotPaired(f"There is no pairing with {for_display(wanted)}.")
    if len({(pairing.node, pairing.peer.id) for pairing in found}) > 1:
        raise UsageError(
            f"Several pairings fit {for_display(wanted)}.",
            hint="Name the id of the other side, and with --node our own; both are listed by: s2connect pairings",
        )
    return found[0]


def fitting(peers: Sequence[NodeDescription], wanted: str) -> list[NodeDescription]:
    """Return the peers that a person means by an id, the beginning of it, or a name."""
    text = wanted.strip()
    name = text.casefold()
    return (
        [peer for peer in peers if str(peer.id) == text.lower()]
        or [peer for peer in peers if name in (peer.title.casefold(), for_display(peer.title).casefold())]
        or [peer for peer in peers if len(text) >= MIN_PREFIX and str(peer.id).startswith(text.lower())]
    )
