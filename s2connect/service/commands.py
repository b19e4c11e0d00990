"""Commands of the sidecar contract of ``docs/command.md``, and what each returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from datetime import datetime
from functools import cache
from typing import Annotated, Any, ClassVar, Generic, TypeVar, get_args

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from s2connect import NodeDescription, NodeId
from s2connect.endpoint.certificate import Certificates
from s2connect.errors import UsageError
from s2connect.model.common import EndpointDescription, Role
from s2connect.service.failures import Failure
from s2connect.service.objects import (
    ABSENT,
    Absent,
    EndedEntry,
    Entry,
    NotFound,
    OwnNode,
    PairingEntry,
    SessionEntry,
    to_value,
)
from s2connect.service.settings import ChangedSettings
from s2connect.session.answers import MAX_RETRIES
from s2connect.store.backup_file import Passphrase

_Result = TypeVar("_Result")
_Text = Annotated[str, Field(min_length=1)]
_Flag = Annotated[bool, BeforeValidator(lambda value: value is True)]


class IssuedCode(Entry):
    """A pairing code; with ``expires_at`` None it stays valid."""

    node: NodeId
    code: str
    expires_at: datetime | None
    pairing_url: str | None


class RemoteNodes(Entry):
    """An endpoint and its nodes, as they present themselves."""

    endpoint: EndpointDescription
    nodes: list[NodeDescription]


class SentMessage(Entry):
    """A message that the peer has acknowledged."""

    message_id: str


class WorkerStatus(Entry):
    """State of a worker of a service. ``pid`` is None while it does not run, ``sessions`` where it does not answer."""

    instance: str
    pid: int | None
    ready: bool
    restarts: int
    sessions: int | None = None
    metrics: str | None = None


class ServiceStatus(Entry):
    """State of the service. ``pid`` is None if it is not running; ``workers`` are those of ``--workers``, if any."""

    running: bool
    pid: int | None
    workers: list[WorkerStatus] | Absent = ABSENT


class BrokerStatus(Entry):
    """State of the connection to the MQTT broker. ``suspicion`` hints at a second client with our client id.

    ``unused`` says what to change, where no session can go over it.
    """

    where: str
    client_id: str
    connected: bool
    error: str | None
    suspicion: str | None
    unused: str | None = None


class EndpointStatus(Entry):
    """State of the endpoint. ``advertised`` is its name in the network, None if it is not advertised.

    ``page`` is the URL of the page, None if there is none.
    """

    name: str | None
    deployment: str
    host: str
    pairing_url: str | None
    session_url: str | None
    advertised: str | None
    not_found: NotFound | None
    certificate: Certificates
    broker: BrokerStatus | None = None
    page: str | None = None


class PairingPage(Entry):
    """Some pairings of very many, oldest first; ``total`` is the number of all.

    ``before`` is where the older ones go on, for the command ``pairings``; None where there are none.
    """

    pairings: list[PairingEntry]
    total: int
    before: int | None


class FullStatus(Entry):
    """State of the service, its endpoint, nodes, pairings and sessions, and the devices that wait to be paired.

    ``pairings`` are some of ``pairings_total``; ``pairings_before`` is where the older ones go on, None where all are
    there. ``pairings_of_nodes`` has the number of each node by its id.
    """

    service: ServiceStatus
    endpoint: EndpointStatus
    nodes: list[OwnNode]
    pairings: list[PairingEntry]
    sessions: list[SessionEntry]
    waiting: list[NodeDescription]
    ended: list[EndedEntry] = field(default_factory=list)
    pairings_total: int | None = None
    pairings_before: int | None = None
    pairings_of_nodes: dict[str, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        # Short, because asyncio.run makes the repr of its main task, with its result, twice.
        return f"FullStatus({len(self.pairings)} pairings, {len(self.sessions)} sessions)"


class BridgeStatus(Entry):
    """Status of a bridge, as :meth:`s2connect.bridge.Bridge.status` returns it."""

    bridge: dict[str, Any]


class ReloadResult(Entry):
    """Result of ``reload``: names of routes, what became of them, and sections that need a restart."""

    reloaded: dict[str, Any]


class PageStatus(Entry):
    """State of the page of the service. ``url`` is None if it has none, and ``certificate_sha256`` without TLS."""

    url: str | None
    has_password: bool
    certificate_sha256: str | None = None


class PageLinkIssued(Entry):
    """A one-time link to the page."""

    url: str
    expires_at: datetime


class BackupMade(Entry):
    """A backup. ``file`` is in the state directory and has to be moved away: the next start removes it."""

    file: str
    made_at: datetime
    pairings: int
    left_out: list[str]


class LogLines(Entry):
    """The latest lines of the log of a process, the oldest first."""

    lines: list[str]


class HostedNodes(Entry):
    """The nodes of this endpoint after a change, and the one that was added or changed."""

    node: NodeId
    nodes: list[OwnNode]


class RemovedNode(Entry):
    """A node that was removed, the pairings that ended with it, and the nodes that are left."""

    node: NodeId
    pairings: list[PairingEntry]
    nodes: list[OwnNode]


class ExportedPairing(Entry):
    """A pairing for the device with the id ``node``. ``pairing`` is JSON and holds its access token: a secret."""

    node: NodeId
    peer: NodeDescription
    pairing: str = field(repr=False)


class Command(Entry, Generic[_Result]):
    """A command that returns a ``_Result``. ``node`` is an id or alias; it can be left out if there is one node."""

    name: ClassVar[str]

    def __init_subclass__(cls, name: str) -> None:
        super().__init_subclass__()
        cls.name = name

    def to_object(self) -> dict[str, Any]:
        """Return the command as an object for ``json.dumps`` with ``to_value``."""
        return {"command": self.name, **to_value(self)}

    def read_result(self, value: Mapping[str, Any]) -> _Result:
        """Read what a service returned, or raise ``Failure`` if it is not what this version returns."""
        (kind,) = get_args(type(self).__orig_bases__[0])  # type: ignore[attr-defined]  # of every generic class
        try:
            result: _Result = _adapter(kind).validate_python(None if kind is type(None) else value)
        except ValidationError:
            what = f"The service does not answer the command {self.name} as this version does."
            raise Failure("unexpected", what, "Restart the service, so that it runs this version.") from None
        return result


class Code(Command[IssuedCode], name="code"):
    """Issue a dynamic pairing code, or set a static one."""

    node: _Text | None = None
    static: _Flag = False
    token: _Text | None = None


class Nodes(Command[RemoteNodes], name="nodes"):
    """List the nodes of an endpoint in the local network."""

    url: _Text
    connect_to: _Text | None = None


class Announce(Command[None], name="announce"):
    """Have the other side show its code. Without a URL it is a device that waits here."""

    peer: NodeId
    node: _Text | None = None
    cancel: _Flag = False
    url: _Text | None = None
    connect_to: _Text | None = None


class Pair(Command[PairingEntry], name="pair"):
    """Pair with the server of ``url``, or with the device ``peer`` that waits here."""

    code: _Text
    url: _Text | None = None
    peer: NodeId | None = None
    node: _Text | None = None
    server_node: NodeId | None = None
    connect_to: _Text | None = None
    force: _Flag = False


class Send(Command[SentMessage], name="send"):
    """Send a message. Done when the peer has acknowledged it with ``OK``."""

    session: _Text
    message: dict[str, Any]
    retries: Annotated[int, Field(strict=True, ge=0, le=MAX_RETRIES)] = 0


class Answer(Command[None], name="answer"):
    """Answer a received message."""

    session: _Text
    message_id: _Text
    status: _Text | None = None
    label: _Text | None = None


class Close(Command[None], name="close"):
    """Close a session."""

    session: _Text


class Unpair(Command[PairingEntry], name="unpair"):
    """End a pairing; with ``forget`` also if the other side cannot be reached."""

    peer: _Text
    node: _Text | None = None
    forget: _Flag = False


class ExportPairing(Command[ExportedPairing], name="export_pairing"):
    """On a vendor's WAN pairing server: return a pairing for the device that it was made for."""

    peer: _Text
    node: _Text | None = None


class ImportPairing(Command[PairingEntry], name="import_pairing"):
    """On the device: take over a pairing that the vendor's server has exported."""

    pairing: _Text = field(repr=False)
    node: _Text | None = None


class DiscardPairing(Command[PairingEntry], name="discard_pairing"):
    """On a vendor's WAN pairing server: remove a pairing that the device has, without unpairing at the other side."""

    peer: _Text
    node: _Text | None = None


class Configure(Command[ChangedSettings], name="configure"):
    """Change settings by name; null takes one back to its default. ``node`` names the node whose settings these are."""

    settings: dict[_Text, str | None]
    node: _Text | None = None


class AddNode(Command[HostedNodes], name="add_node"):
    """Add a node, with the ``node_id`` of a device elsewhere or a new one. Of several each without alias gets one."""

    role: Role
    node_id: NodeId | None = None  # "id" is that of the command
    brand: _Text | None = None
    type: _Text | None = None
    model_name: _Text | None = None
    user_defined_name: _Text | None = None
    alias: _Text | None = None

    def members(self) -> dict[str, Any]:
        """Return what is given of the settings of the node."""
        given = {**vars(self), "id": self.node_id, "node_id": None}
        return {name: value for name, value in given.items() if value is not None}


class RemoveNode(Command[RemovedNode], name="remove_node"):
    """End the pairings of a node and remove it; with ``forget`` also if another side cannot be reached."""

    node: _Text
    forget: _Flag = False


class SetAlias(Command[HostedNodes], name="set_alias"):
    """Give a node another alias."""

    node: _Text
    alias: _Text


_Newest = Annotated[int, Field(strict=True, ge=1)]


class Status(Command[FullStatus], name="status"):
    """Return the state of everything; of very many pairings only the ``newest``, and those that matter."""

    newest: _Newest | None = None


class Pairings(Command[PairingPage], name="pairings"):
    """Return the newest pairings, of all nodes or of one, or those ``before`` a page.

    With ``others`` the newest have those beside them that matter, which come again on a later page.
    """

    newest: _Newest | None = None
    node: _Text | None = None
    before: Annotated[int, Field(strict=True, ge=0)] | None = None
    others: _Flag = False


class FindPairing(Command[PairingEntry], name="find_pairing"):
    """Return the pairing with a peer: id, beginning of an id, or name."""

    peer: _Text
    node: _Text | None = None


class ShowLog(Command[LogLines], name="log"):
    """Return the latest lines of the log of the service."""


class Stop(Command[None], name="stop"):
    """Stop the service; with ``drain`` after its sessions were handed over to other instances, if there are any."""

    drain: _Flag = False


class ShowBridge(Command[BridgeStatus], name="bridge"):
    """Return the status of a bridge."""


class Reload(Command[ReloadResult], name="reload"):
    """Have a service read its settings again: those of an endpoint, or the file of a bridge."""


class ShowPage(Command[PageStatus], name="page"):
    """Return the state of the page."""


class PageLink(Command[PageLinkIssued], name="page_link"):
    """Issue a one-time link to the page."""


class SetPagePassword(Command[None], name="page_password"):
    """Set the password of the page or, without one, remove it. All who are logged in are logged out."""

    password: _Text | None = field(default=None, repr=False)


class MakeBackup(Command[BackupMade], name="backup"):
    """Make a backup of the running endpoint."""

    passphrase: Passphrase


@cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def read(kind: type[Command[Any]], value: dict[str, Any]) -> Command[Any]:
    """Read the members of a command; raise ``UsageError`` if one is missing or of another type."""
    try:
        command: Command[Any] = _adapter(kind).validate_python(value)  # type: ignore[arg-type]  # it can be hashed
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        raise UsageError(_demand(str(fault["loc"][0]), fault["type"])) from None
    return command


def _demand(member: str, fault: str) -> str:
    match member:
        case "message":
            return "The command has no message, which is a JSON object."
        case "passphrase":
            return f"The command's passphrase has to be {Passphrase.described}."
        case "newest" | "before":
            return f"The command's {member} is a whole number that is not negative, and newest not 0."
        case "retries":
            return f"The command's retries are a number from 0 to {MAX_RETRIES}."
        case "role":
            return "The command's role is CEM or RM."
        case _ if fault == "uuid_parsing":
            return f"The command's {member} is not the id of a node."
    return f"The command needs {member}, which is a text."
