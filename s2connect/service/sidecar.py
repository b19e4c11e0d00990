"""What an endpoint reports and is told, as JSON objects: the sidecar contract of ``docs/command.md``.

The same code serves standard input, the control socket, and commands for which no service runs.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from s2connect import LATER, Endpoint, Node, NodeDescription, NodeId, Pairing, PairKey, Session, events
from s2connect.discovery.resolve import is_local_name
from s2connect.errors import ConnectionClosed, NotPaired, S2ConnectError, UsageError
from s2connect.messages.checks import Check
from s2connect.messages.envelope import Message, write_message
from s2connect.model.common import Deployment
from s2connect.model.strict_json import MalformedJson, read_json
from s2connect.model.text import for_display
from s2connect.model.url import BaseUrl
from s2connect.service.certificates import describe
from s2connect.service.failures import STOPPING, Failure, no_service
from s2connect.service.record import Recorder
from s2connect.session.answers import ANSWER_WITHIN, MAX_RETRIES, Later
from s2connect.store.home import Home
from s2connect.supervisor import Supervisor

_log = logging.getLogger(__name__)

Object = dict[str, Any]

ENOUGH_LEFT = 60.0
"""Seconds that a code has to be valid still to be shown again to somebody who is asked for it now."""

ALL_TYPES = "all"
"""Stands for every type of message."""

MIN_PREFIX = 4
"""Shortest beginning of a node id that stands for the whole."""


class Sink(Protocol):
    """Where events go."""

    async def put(self, event: Object) -> None:
        """Take an event once there is room."""

    def put_nowait(self, event: Object) -> None:
        """Take an event whose number is bounded by other means."""


class Nowhere:
    """A sink for when nobody follows."""

    async def put(self, event: Object) -> None:
        """Forget it."""

    def put_nowait(self, event: Object) -> None:
        """Forget it."""


class _Open:
    def __init__(self, name: str, node: Node, session: Session) -> None:
        self.name = name
        self.node = node
        self.session = session
        self.messages = 0


class Service:
    """Executes commands on an endpoint and reports what happens there.

    Args:
        endpoint: An open endpoint.
        home: Its state directory.
        sink: Where events go.
        stop: What the command ``stop`` does.
        running: Whether this is the service, or a command that opened the endpoint for itself.
        show_codes: Tell a code with every announced pairing; otherwise whoever reads the events asks for one.
        check: How much of every message is judged.
        recorder: Writes down every message of every session.
        kept: Types of messages that the command ``answer`` answers; :data:`ALL_TYPES` stands for all.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        home: Path,
        sink: Sink | None = None,
        *,
        stop: Callable[[], None] | None = None,
        running: bool = False,
        show_codes: bool = False,
        check: Check = Check.RULES,
        recorder: Recorder | None = None,
        kept: Collection[str] = (),
    ) -> None:
        self.endpoint = endpoint
        self._home = home
        self._sink: Sink = sink or Nowhere()
        self._stop = stop
        self._running = running
        self._show_codes = show_codes
        self._check = check
        self._recorder = recorder
        self._kept_types = frozenset(kept)
        self._codes: dict[NodeId, tuple[str, datetime]] = {}
        self._devices: dict[NodeId, Object] = {}
        self._not_found: Object | None = None
        self._events = endpoint.events()
        self._sessions: dict[str, _Open] = {}
        self._named = 0
        self._supervisor = Supervisor("s2connect-cli", endpoint.supervisor.failures)
        self._commands = {
            "code": self._code,
            "nodes": self._look_at,
            "announce": self._announce_pairing,
            "pair": self._pair,
            "send": self._send,
            "answer": self._answer_message,
            "close": self._close,
            "unpair": self._unpair,
            "status": self._status,
            "stop": self._stop_command,
        }

    # Following

    def follow(self, *, sessions: bool = True) -> None:
        """Report events and, unless somebody else does, take the sessions of all nodes, until the endpoint closes."""
        self._supervisor.keep(lambda: self._follow(self._events), "report")
        if not sessions:
            return
        for node in self.endpoint.nodes.values():
            self._supervisor.keep(partial(self._take_sessions, node), "sessions", node.id)

    async def finish(self, timeout: float) -> None:
        """After the endpoint has closed: let the last events be reported."""
        await self._supervisor.close(grace=timeout)

    def ready(self) -> Object:
        """The event that tells that the service is up."""
        endpoint = self.endpoint
        return event_object(
            "ready",
            deployment=str(endpoint.config.deployment),
            pairing_url=self._url(endpoint.pairing_url),
            session_url=self._url(endpoint.session_url),
            nodes=[_node_object(node) for node in endpoint.nodes.values()],
        )

    async def issue_codes(self) -> None:
        """Issue a dynamic code for every node, but for those with a sticker: there it would be tried in its place."""
        for node in self.endpoint.nodes.values():
            if not self._has_sticker(node):
                await self._issue(node, None)

    @staticmethod
    def _has_sticker(node: Node) -> bool:
        """Return whether a static code is what counts now (errata S2C-06)."""
        code = node.valid_pairing_code()
        return code is not None and code.expires_in is None

    async def _follow(self, stream: events.EventStream) -> None:
        async for event in stream:
            match event:
                case events.DeviceWaits():
                    self._devices[event.peer.id] = peer_object(event.peer)
                case events.Paired() | events.CodeWithdrawn():
                    self._codes.pop(event.node, None)
                case events.Notice(kind="name_conflict" | "not_advertised"):
                    self._not_found = {"reason": event.kind, "text": event.sentence}
                case events.TaskFailed(task="advertise"):
                    self._not_found = {"reason": "task_failed", "text": event.sentence}
                case events.Advertised():
                    self._not_found = None
            found = _from_endpoint(event)
            match event, found:
                case events.PairingAnnounced(), dict() if self._show_codes:
                    found |= self._code_to_show(self.endpoint.node(event.node))
                case ((events.DeviceGone() | events.CodeMissingAtDevice()), dict()):
                    found["peer"] = self._devices.get(event.peer, found["peer"])
            if isinstance(event, events.DeviceGone):
                self._devices.pop(event.peer, None)
            if found is not None:
                await self._sink.put(found)

    def _code_to_show(self, node: Node) -> Object:
        """The code that was issued last, while it is valid, or a fresh one; none where the device has a sticker."""
        known = self._codes.get(node.id)
        if known is None or known[1] < datetime.now(UTC) + timedelta(seconds=ENOUGH_LEFT):
            if self._has_sticker(node):
                return {"code": None, "expires_at": None}
            known = self._make_code(node, None)
        return {"code": known[0], "expires_at": _rfc3339(known[1])}

    def _make_code(self, node: Node, token: str | None) -> tuple[str, datetime]:
        code = node.issue_pairing_code(token=token)
        assert code.expires_in is not None, "a dynamic code expires"
        made = self._codes[node.id] = str(code), datetime.now(UTC) + timedelta(seconds=code.expires_in)
        return made

    async def _take_sessions(self, node: Node) -> None:
        answer = self._answer_for if self._kept_types else None
        async for session in node.sessions(check=self._check, answer=answer):
            self._named += 1
            name = f"s{self._named}"
            try:
                opened = _Open(name, node, session)
                if self._recorder is not None:  # before the session runs for the first time
                    self._recorder.session_opened(name, session, str(node.id), peer_object(session.peer))
            except Exception:
                await session.close()  # no program would read it
                raise
            self._sessions[name] = opened
            self._supervisor.spawn(self._receive(opened), "session", name)

    async def _receive(self, opened: _Open) -> None:
        session = opened.session
        failure: Exception | None = None
        try:
            async with session:
                await self._sink.put(
                    event_object(
                        "session_opened",
                        session=opened.name,
                        node=str(opened.node.id),
                        peer=peer_object(session.peer),
                        protocol=session.info.protocol,
                        s2_version=session.info.s2_version,
                    )
                )
                async for message in session:
                    opened.messages += 1
                    fields: Object = {"session": opened.name, "direction": "received", "message": message.body}
                    if self._kept(message):
                        fields["answer_within"] = ANSWER_WITHIN
                    # A slow reader of our output slows the session down here.
                    await self._sink.put(event_object("message", **fields))
                await session.wait_closed()
        except Exception as error:
            failure = error  # it costs this session, and no other
        finally:
            del self._sessions[opened.name]
            if self._recorder is not None:
                self._recorder.session_closed(opened.name, session, str(opened.node.id), peer_object(session.peer))
        await self._sink.put(
            event_object(
                "session_closed",
                session=opened.name,
                reason=str(session.end_reason),
                node=str(opened.node.id),
                peer=peer_object(session.peer),
                messages=opened.messages,
            )
        )
        if failure is not None:
            raise failure

    # Commands

    async def answer(self, line: bytes | None) -> Object:
        """Execute the command of one line; None stands for a line that was too long.

        Sends on one session keep the order in which they were begun: nothing is awaited before the session's own turn.
        """
        identifier: object = None
        try:
            if line is None:
                raise Failure("line_too_long", "A command was longer than one line may be, and was skipped.")
            try:
                command = read_json(line)
            except MalformedJson:
                raise Failure("malformed_command", "A line is not JSON.", "Write one JSON object a line.") from None
            if not isinstance(command, dict):
                raise Failure("malformed_command", "A line is not a JSON object.", "Write one JSON object a line.")
            identifier = command.get("id")
            returned = await self.perform(command)
            return {**event_object("result"), "id": identifier, "ok": True, **returned}
        except S2ConnectError as error:
            failure = Failure.of(error)
        except Failure as error:
            failure = error
        except Exception as error:
            _log.exception("A command failed unexpectedly")
            what = f"An unexpected error stopped the command ({type(error).__name__})."
            failure = Failure("unexpected", what, "Its details are in the log of the service.")
        except asyncio.CancelledError:
            self._sink.put_nowait(_failed(identifier, Failure(STOPPING, "The service stopped before it was done.")))
            raise
        return _failed(identifier, failure)

    async def perform(self, command: Object) -> Object:
        """Execute a command.

        Returns:
            What its result says beside ``ok``.

        Raises:
            Failure: The command is unknown, or only a running service can do it.
            S2ConnectError: It failed.
        """
        name = command.get("command")
        execute = self._commands.get(name) if isinstance(name, str) else None
        if execute is None:
            known = ", ".join(self._commands)
            raise Failure("unknown_command", "A command has a name that is unknown.", f"Known commands: {known}.")
        _log.debug("command %s", name)
        return await execute(command)

    async def _code(self, command: Object) -> Object:
        node = self._node(command)
        token = _text(command, "token", optional=True)
        if command.get("static", False) is True:
            code = await node.set_static_code(token)
            return await self._show(node, str(code), None)
        if not self._running:
            raise no_service("A code that is valid for a few minutes needs the running service.")
        return await self._issue(node, token)

    async def _issue(self, node: Node, token: str | None) -> Object:
        return await self._show(node, *self._make_code(node, token))

    async def _show(self, node: Node, code: str, expires: datetime | None) -> Object:
        shown: Object = {"node": str(node.id), "code": code, "expires_at": _rfc3339(expires) if expires else None}
        await self._sink.put(event_object("pairing_code", **shown))
        return {**shown, "pairing_url": self._url(self.endpoint.pairing_url)}

    async def _pair(self, command: Object) -> Object:
        node = self._node(command)
        code = _text(command, "code")
        force = command.get("force", False) is True
        waiting, server_node = _node_id(command, "peer"), _node_id(command, "server_node")
        address = _text(command, "connect_to", optional=True)
        try:
            if waiting is not None:
                pairing = await node.pair_waiting(waiting, code)
            else:
                url = _text(command, "url")
                pairing = await node.pair(url, code, address=address, server_node=server_node, force=force)
        except UsageError:
            raise
        except S2ConnectError as error:
            await self._sink.put(event_object("pairing_failed", node=str(node.id), reason=error.kind))
            raise
        return pairing_object(pairing)

    async def _look_at(self, command: Object) -> Object:
        url = BaseUrl.from_user(_text(command, "url"))
        endpoint, nodes = await self.endpoint.look_at(url, address=_text(command, "connect_to", optional=True))
        described = endpoint.model_dump(mode="json", by_alias=False, exclude_none=True)
        return {"endpoint": described, "nodes": [peer_object(node) for node in nodes]}

    async def _announce_pairing(self, command: Object) -> Object:
        node, peer = self._node(command), _node_id(command, "peer")
        if peer is None:
            raise UsageError("The command needs peer, which is the id of the other side's node.")
        cancel = command.get("cancel", False) is True
        url = _text(command, "url", optional=True)
        if url is None:
            self.endpoint.announce_waiting(peer, cancel=cancel)
        else:
            tell = node.cancel_announcement if cancel else node.announce_pairing
            await tell(url, peer, address=_text(command, "connect_to", optional=True))
        return {}

    async def _send(self, command: Object) -> Object:
        opened = self._session(command)
        message = command.get("message")
        if not isinstance(message, dict):
            raise UsageError("The command has no message, which is a JSON object.")
        text, _ = write_message(message)
        retries = command.get("retries", 0)
        if type(retries) is not int or not 0 <= retries <= MAX_RETRIES:
            raise UsageError(f"The command's retries are a number from 0 to {MAX_RETRIES}.")

        def tell(message: Message) -> None:
            self._sink.put_nowait(event_object("message", session=opened.name, direction="sent", message=message.body))

        return {"message_id": await opened.session.send(text, retries=retries, leaving=tell)}

    async def _answer_message(self, command: Object) -> Object:
        opened = self._session(command)
        status, label = (_text(command, name, optional=True) or "" for name in ("status", "label"))
        opened.session.answer(_text(command, "message_id"), status or "OK", label)
        return {}

    def _kept(self, message: Message) -> bool:
        """Return whether a message is left for the program that reads the events to answer."""
        return message.type in self._kept_types or ALL_TYPES in self._kept_types

    def _answer_for(self, session: Session, message: Message) -> Later | None:
        return LATER if self._kept(message) else None

    async def _close(self, command: Object) -> Object:
        await self._session(command).session.close()
        return {}

    async def _unpair(self, command: Object) -> Object:
        pairings = await self.endpoint.pairings()
        if command.get("node") is not None:
            node = self._node(command)
            pairings = [p for p in pairings if p.key.local == node.id]
        found = find_pairing([pairing_object(p) for p in pairings], _text(command, "peer"))
        node = self.endpoint.node(NodeId(UUID(found["node"])))
        forget = command.get("forget", False) is True
        return pairing_object(await node.unpair(NodeId(UUID(found["peer"]["id"])), forget=forget))

    async def _status(self, command: Object) -> Object:
        endpoint = self.endpoint
        connected = endpoint.connected()
        return {
            "service": {"running": self._running, "pid": os.getpid() if self._running else None},
            "endpoint": {
                "name": endpoint.config.name,
                "deployment": str(endpoint.config.deployment),
                "host": endpoint.config.host,
                "pairing_url": self._url(endpoint.pairing_url),
                "session_url": self._url(endpoint.session_url),
                "advertised": self._advertised(),
                "not_found": self._not_found,
                "certificate": await asyncio.to_thread(self._certificate),
            },
            "nodes": [{**peer_object(node.description), "alias": node.alias} for node in endpoint.nodes.values()],
            "pairings": [pairing_object(p, connected) for p in await endpoint.pairings()],
            "sessions": [
                {
                    "session": opened.name,
                    "node": str(opened.node.id),
                    "peer": peer_object(opened.session.peer),
                    "protocol": opened.session.info.protocol,
                    "s2_version": opened.session.info.s2_version,
                    "since": _rfc3339(opened.session.info.since),
                    "messages": opened.messages,
                }
                for opened in self._sessions.values()
            ],
            "waiting": [peer_object(node) for node in endpoint.waiting()],
        }

    def _url(self, url: BaseUrl) -> str | None:
        """A URL of ours; None where no server answers it."""
        return str(url) if self.endpoint.config.server else None

    def _advertised(self) -> str | None:
        """The name under which others see this endpoint in the network now."""
        config = self.endpoint.config
        local = config.deployment is Deployment.LAN and is_local_name(config.host)
        if not self._running or not config.advertise or not config.server or not local or self._not_found is not None:
            return None
        return config.host.partition(".")[0]

    def _certificate(self) -> Object:
        return describe(Home.open(self._home), self.endpoint.config)

    async def _stop_command(self, command: Object) -> Object:
        if self._stop is None:
            raise no_service("No service is running.")
        self._stop()
        return {}

    # Arguments

    def _node(self, command: Object) -> Node:
        name = _text(command, "node", optional=True)
        if name is None:
            return self.endpoint.node()
        with suppress(ValueError):
            return self.endpoint.node(NodeId(UUID(name)))
        return self.endpoint.node(alias=name)

    def _session(self, command: Object) -> _Open:
        name = _text(command, "session")
        if name not in self._sessions:
            raise ConnectionClosed(reason="there is no such session")
        return self._sessions[name]


def find_pairing(pairings: list[Object], wanted: str) -> Object:
    """Find a pairing by the id of the peer, the beginning of it, or the name of the peer.

    Args:
        pairings: As from :func:`pairing_object`.
        wanted: What a person typed.

    Raises:
        NotPaired: None fits.
        UsageError: Several fit.
    """
    found = fitting(pairings, wanted)
    if not found:
        raise NotPaired(f"There is no pairing with {for_display(wanted)}.")
    if len({(p["node"], p["peer"]["id"]) for p in found}) > 1:
        raise UsageError(f"Several pairings fit {for_display(wanted)}.", hint="Name the id of the peer, and the node.")
    return found[0]


def fitting(entries: list[Object], wanted: str) -> list[Object]:
    """Those whose ``peer`` a person means by an id, the beginning of it, or a name."""
    text = wanted.strip()
    found = [p for p in entries if p["peer"]["id"] == text.lower()]
    if not found:
        found = [p for p in entries if text.casefold() in _names(p["peer"])]
    if not found and len(text) >= MIN_PREFIX:
        found = [p for p in entries if p["peer"]["id"].startswith(text.lower())]
    return found


def _names(peer: Object) -> set[str]:
    name = title(peer)
    return {name.casefold(), for_display(name).casefold()}


def title(peer: Object) -> str:
    """Name of a peer for a person; hostile until cleaned."""
    if "brand" not in peer:
        return f"node {str(peer['id'])[:8]}"
    return str(peer.get("user_defined_name") or f"{peer['brand']} {peer['model_name']}")


def name_of(peer: Object) -> str:
    """Return the name of a peer, fit for a terminal."""
    return for_display(title(peer), 40) or "a peer without a name"


def peer_object(node: NodeDescription) -> Object:
    """A node for programs."""
    return node.model_dump(mode="json", by_alias=False, exclude_none=True)


def pairing_object(pairing: Pairing, connected: object = ()) -> Object:
    """A pairing for programs.

    Args:
        pairing: The pairing.
        connected: Keys of the pairs that have a session now.
    """
    keys: Any = connected
    return {
        "node": str(pairing.key.local),
        "peer": peer_object(pairing.peer),
        "peer_endpoint": pairing.peer_endpoint.model_dump(mode="json", by_alias=False, exclude_none=True),
        "communication_role": str(pairing.communication_role),
        "since": _rfc3339(datetime.fromtimestamp(pairing.paired_at, UTC)),
        "confirmed": pairing.confirmed,
        "connected": PairKey(pairing.key.local, pairing.key.remote) in keys,
    }


def _node_object(node: Node) -> Object:
    return {"id": str(node.id), "role": str(node.role), "alias": node.alias}


def _from_endpoint(event: events.Event) -> Object | None:
    match event:
        case events.Paired():
            fields = _about(event) | {"communication_role": str(event.communication_role)}
            return event_object("paired", at=event.at, **fields)
        case events.PairingFailed():
            return event_object("pairing_failed", at=event.at, reason=event.reason, **_about(event))
        case events.Unpaired():
            return event_object("unpaired", at=event.at, by=str(event.by), **_about(event))
        case events.PairingAnnounced():
            peer = peer_object(event.peer) if event.peer is not None else None
            fields = {"url": str(event.url)} if event.url is not None else {}
            return event_object("prepare_pairing", at=event.at, node=str(event.node), peer=peer, **fields)
        case events.PairingAnnouncementCancelled():
            peer = {"id": str(event.peer)} if event.peer is not None else None
            return event_object("cancel_prepare_pairing", at=event.at, node=str(event.node), peer=peer)
        case events.DeviceWaits():
            return event_object("device_waiting", at=event.at, peer=peer_object(event.peer))
        case events.DeviceGone():
            return event_object("device_gone", at=event.at, peer={"id": str(event.peer)})
        case events.CodeMissingAtDevice():
            return event_object("warning", at=event.at, reason="code_missing_at_device", peer={"id": str(event.peer)})
        case events.CodeWithdrawn():
            return event_object("warning", at=event.at, reason="code_withdrawn", node=str(event.node))
        case events.SessionFailed():
            fields = _about(event) | {"text": event.sentence, "retry_in": event.retry_in}
            return event_object("warning", at=event.at, reason=event.kind, **fields)
        case events.Notice():
            return event_object("warning", at=event.at, reason=event.kind, text=event.sentence)
        case events.TaskFailed():
            fields = {"text": event.sentence, "retry_in": event.retry_in, "task": event.task, "error": event.error}
            return event_object("warning", at=event.at, reason="task_failed", **fields)
    return None


def _about(event: events.Paired | events.PairingFailed | events.Unpaired | events.SessionFailed) -> Object:
    return {"node": str(event.node), "peer": peer_object(event.peer)}


def event_object(name: str, *, at: datetime | None = None, **fields: Any) -> Object:
    """An event for programs."""
    return {"event": name, "time": _rfc3339(at or datetime.now(UTC)), **fields}


def _failed(identifier: object, failure: Failure) -> Object:
    _log.debug("a command failed: %s", failure.kind)
    return {**event_object("result"), "id": identifier, "ok": False, "error": failure.to_object()}


def _rfc3339(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _text(command: Object, name: str, *, optional: bool = False) -> Any:
    value = command.get(name)
    if value is None and optional:
        return None
    if not isinstance(value, str) or not value:
        raise UsageError(f"The command needs {name}, which is a text.")
    return value


def _node_id(command: Object, name: str) -> NodeId | None:
    text = _text(command, name, optional=True)
    try:
        return None if text is None else NodeId(UUID(text))
    except ValueError:
        raise UsageError(f"The command's {name} is not the id of a node.") from None
