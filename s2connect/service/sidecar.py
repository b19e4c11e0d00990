"""The service of an endpoint: executes the commands of ``docs/command.md`` and reports its events.

The same code serves standard input, the control socket, and commands for which no service runs.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from s2connect import (
    Endpoint,
    EndpointConfig,
    Node,
    NodeConfig,
    NodeDescription,
    NodeId,
    PairingCode,
    Session,
    read_config,
)
from s2connect import events as endpoint_events
from s2connect.discovery.resolve import is_local_name
from s2connect.endpoint.config import checked
from s2connect.errors import S2ConnectError, UsageError
from s2connect.messages.enums import Check
from s2connect.model.common import Deployment
from s2connect.model.strict_json import MalformedJson, read_json
from s2connect.model.url import BaseUrl
from s2connect.service import commands, events, page_access, transfer
from s2connect.service.commands import Command
from s2connect.service.events import Event, Sink
from s2connect.service.failures import STOPPING, Failure, no_service
from s2connect.service.objects import (
    ABSENT,
    EndedEntry,
    NodeEntry,
    NotFound,
    OwnNode,
    PairingEntry,
    own_node,
    read_alias,
)
from s2connect.service.open_sessions import OpenSessions
from s2connect.service.pairing_list import find, listed
from s2connect.service.record import Recorder
from s2connect.service.reloading import reconfigure, reread_result
from s2connect.service.settings import ChangedSettings, changed, checked_settings, result_of
from s2connect.service.setup import start_command
from s2connect.service.status import broker_status, certificates, entries, log_lines, own_entry, unused_broker
from s2connect.store.files import temporary, write_private
from s2connect.store.home import Home
from s2connect.supervisor import Supervisor

if TYPE_CHECKING:
    from s2connect.web.observation import Observation
    from s2connect.web.server import PageServer

_log = logging.getLogger(__name__)

_Result = TypeVar("_Result")

ENOUGH_LEFT = 60.0  # seconds that a code must still be valid to be shown again


class Service:
    """Executes commands on an open endpoint and reports its events.

    ``stop`` executes the command of that name; without it a command has opened the endpoint for itself. With
    ``show_codes`` a code is reported with every announced pairing. ``kept`` and ``drive`` are as of
    :class:`~s2connect.service.open_sessions.OpenSessions`.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        home: Path,
        sink: Sink | None = None,
        *,
        stop: Callable[[], None] | None = None,
        show_codes: bool = False,
        check: Check = Check.RULES,
        recorder: Recorder | None = None,
        kept: Collection[str] = (),
        drive: Callable[[Session], Awaitable[None]] | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._home = home
        self._sink = sink or Sink()
        self._stop = stop
        self._running = stop is not None
        self._show_codes = show_codes
        self._devices: dict[NodeId, NodeDescription] = {}
        self._not_found: NotFound | None = None
        self._events = endpoint.events()
        self.drain: Callable[[], None] | None = None
        self.page: PageServer | None = None
        self.observation: Observation | None = None
        self._takes_sessions = False
        self._supervisor = Supervisor("s2connect-cli", endpoint.supervisor.failures)
        self._sessions = OpenSessions(
            self._sink, self._supervisor, check=check, recorder=recorder, kept=frozenset(kept), drive=drive
        )
        self._commands: dict[type[Command[Any]], Callable[[Any], Awaitable[Any]]] = {
            commands.Code: self._code,
            commands.Nodes: self._list_nodes,
            commands.Announce: self._announce_pairing,
            commands.Pair: self._pair,
            commands.Send: self._sessions.send,
            commands.Answer: self._sessions.answer,
            commands.Close: self._sessions.close,
            commands.Unpair: self._unpair,
            **transfer.commands_of(endpoint),
            commands.Configure: self._configure,
            commands.AddNode: self._add_node,
            commands.RemoveNode: self._remove_node,
            commands.SetAlias: self._set_alias,
            commands.Status: self._status,
            commands.Pairings: self._pairings,
            commands.FindPairing: self._find_pairing,
            commands.ShowLog: log_lines,
            commands.MakeBackup: self._make_backup,
            commands.Reload: self._reload,
            commands.Stop: self._stop_service,
            commands.ShowPage: lambda _: page_access.show(self.page, self._home),
            commands.PageLink: lambda _: page_access.issue_link(self.page, self._home, running=self._running),
            commands.SetPagePassword: lambda one: page_access.set_password(self.page, self._home, one.password),
        }

    # Events

    def follow(self, *, sessions: bool = True) -> None:
        """Report events until the endpoint closes, and take the sessions of all nodes unless others do."""
        self._supervisor.keep(lambda: self._follow(self._events), "report")
        self._takes_sessions = sessions
        self.endpoint.watch_nodes(self._nodes_changed)
        self._take_sessions_of(self.endpoint.nodes.values())

    def _take_sessions_of(self, nodes: Iterable[Node]) -> None:
        if self._takes_sessions:
            for node in nodes:
                self._supervisor.keep(partial(self._sessions.take, node), "sessions", node.id)

    def _nodes_changed(self, added: Sequence[Node]) -> None:
        """Take over nodes that another instance has changed."""
        self._sink.put_nowait(events.NodesChanged(nodes=self._node_entries()))
        self._take_sessions_of(added)

    def page_url(self) -> str | None:
        """Return the URL of the page; None without one."""
        return self.page.url if self.page is not None else None

    def open_connections(self) -> int:
        """Return the number of open connections."""
        return len(self.endpoint.connected())

    async def finish(self, timeout: float) -> None:
        """Report the last events after the endpoint has closed."""
        await self._supervisor.close(grace=timeout)

    def ready(self) -> events.Ready:
        """Return the event that the service is running."""
        endpoint = self.endpoint
        return events.Ready(
            deployment=str(endpoint.config.deployment),
            pairing_url=self._url(endpoint.pairing_url),
            session_url=self._url(endpoint.session_url),
            nodes=self._node_entries(),
            page=self.page_url(),
        )

    def _node_entries(self) -> list[NodeEntry]:
        return [NodeEntry(node.id, node.role, node.alias) for node in self.endpoint.nodes.values()]

    def unused_broker(self) -> str:
        """Return what to change where no session can go over the configured MQTT broker; empty otherwise."""
        return unused_broker(self.endpoint.config)

    async def _own_nodes(self) -> list[OwnNode]:
        codes = await self.endpoint.code_statuses()
        nodes = [self.endpoint.nodes[one] for one in codes if one in self.endpoint.nodes]
        return [own_entry(node, codes[node.id]) for node in nodes]

    async def issue_codes(self) -> None:
        """Issue a dynamic code for every node without a static one, which the dynamic one would replace.

        A code of another instance is shown instead, as long as enough is left of it.
        """
        for node in list(self.endpoint.nodes.values()):
            code, expires = await self._code_to_show(node)
            if code is not None:
                await self._show(node, code, expires)

    async def _follow(self, stream: endpoint_events.EventStream) -> None:
        async for event in stream:
            if (reported := await self._report(event)) is not None:
                await self._sink.put(reported)

    async def _report(self, event: endpoint_events.Event) -> Event | None:
        match event:
            case endpoint_events.DeviceWaits():
                self._devices[event.peer.id] = event.peer
            case endpoint_events.Notice(kind="name_conflict" | "not_advertised" | "copy_of_this_endpoint"):
                self._not_found = NotFound(event.kind, event.sentence)
            case endpoint_events.TaskFailed(task="advertise"):
                self._not_found = NotFound("task_failed", event.sentence)
            case endpoint_events.Advertised():
                self._not_found = None
        reported = events.from_endpoint(event)
        match reported:
            case events.PairingAnnounced() if self._show_codes:
                code, expires = await self._code_to_show(self.endpoint.node(reported.node))
                return replace(reported, code=code, expires_at=expires)
            case events.DeviceGone():
                return replace(reported, peer=self._devices.pop(reported.peer.id, reported.peer))
            case events.Warned(reason="code_missing_at_device", peer=peer) if peer is not ABSENT:
                return replace(reported, peer=self._devices.get(peer.id, peer))
        return reported

    async def _code_to_show(self, node: Node) -> tuple[str | None, datetime | None]:
        """Return the dynamic code that is valid, or a new one; None if the static one counts (errata S2C-06)."""
        code = await node.current_or_new_pairing_code(left=ENOUGH_LEFT)
        return (None, None) if code.expires_in is None else (str(code), _end_of(code))

    # Commands

    async def answer(self, line: bytes | None) -> events.Result:
        """Execute the command of one line; None stands for a line that was too long.

        Sends on one session keep the order in which they were begun: nothing is awaited before the session's own turn.
        """
        identifier: object = None
        try:
            if line is None:
                raise Failure("line_too_long", "A command was longer than one line may be, and was skipped.")
            value: object = None
            with suppress(MalformedJson):
                value = read_json(line)
            if not isinstance(value, dict):
                raise Failure("malformed_command", "A line is not a JSON object.", "Write one JSON object a line.")
            identifier = value.get("id")
            return events.Result(id=identifier, returned=await self.ask(self._read(value)))
        except S2ConnectError as error:
            failure = Failure.of(error)
        except Exception as error:
            _log.exception("A command failed unexpectedly")
            what = f"An unexpected error stopped the command ({type(error).__name__})."
            failure = Failure("unexpected", what, "Its details are in the log of the service.")
        except asyncio.CancelledError:
            self._sink.put_nowait(_failed(identifier, Failure(STOPPING, "The service stopped before it was done.")))
            raise
        return _failed(identifier, failure)

    def _read(self, value: dict[str, Any]) -> Command[Any]:
        kinds = {kind.name: kind for kind in self._commands}
        name = value.get("command")
        if not isinstance(name, str) or name not in kinds:
            known = f"Known commands: {', '.join(kinds)}."
            raise Failure("unknown_command", "A command has a name that is unknown.", known)
        return commands.read(kinds[name], value)

    async def ask(self, command: Command[_Result]) -> _Result:
        """Execute a command, or raise ``S2ConnectError``: a :class:`Failure` if only a running service can do it."""
        _log.debug("command %s", command.name)
        result: _Result = await self._commands[type(command)](command)
        return result

    async def _code(self, command: commands.Code) -> commands.IssuedCode:
        node = self._node(command.node)
        if command.static:
            return await self._show(node, str(await node.set_static_code(command.token)), None)
        if not self._running:
            raise no_service("A code that is valid for a few minutes needs the running service.", self._start_command())
        code = await node.new_pairing_code(token=command.token)
        return await self._show(node, str(code), _end_of(code))

    async def _show(self, node: Node, code: str, expires: datetime | None) -> commands.IssuedCode:
        await self._sink.put(events.CodeIssued(node=node.id, code=code, expires_at=expires))
        return commands.IssuedCode(
            node=node.id, code=code, expires_at=expires, pairing_url=self._url(self.endpoint.pairing_url)
        )

    async def _pair(self, command: commands.Pair) -> PairingEntry:
        node = self._node(command.node)
        try:
            if command.peer is not None:
                pairing = await node.pair_waiting(command.peer, command.code)
            elif command.url is not None:
                pairing = await node.pair(
                    command.url,
                    command.code,
                    address=command.connect_to,
                    server_node=command.server_node,
                    force=command.force,
                )
            else:
                raise UsageError("The command needs url, which is a text.")
        except S2ConnectError as error:
            if not isinstance(error, UsageError):
                await self._sink.put(events.PairingFailed(node=node.id, reason=error.kind))
            raise
        return PairingEntry.of(pairing)

    async def _list_nodes(self, command: commands.Nodes) -> commands.RemoteNodes:
        endpoint, nodes = await self.endpoint.look_at(BaseUrl.of_pairing(command.url), address=command.connect_to)
        return commands.RemoteNodes(endpoint=endpoint, nodes=list(nodes))

    async def _announce_pairing(self, command: commands.Announce) -> None:
        node = self._node(command.node)
        if command.url is None:
            self.endpoint.announce_waiting(command.peer, cancel=command.cancel)
        else:
            announce = node.cancel_announcement if command.cancel else node.announce_pairing
            await announce(command.url, command.peer, address=command.connect_to)

    async def _unpair(self, command: commands.Unpair) -> PairingEntry:
        found = await self._find_pairing(command)
        ended = await self.endpoint.node(found.node).unpair(found.peer.id, forget=command.forget)
        return PairingEntry.of(ended)

    async def _find_pairing(self, command: commands.FindPairing | commands.Unpair) -> PairingEntry:
        return await find(self.endpoint, command.peer, self._id_of(command.node))

    async def _pairings(self, command: commands.Pairings) -> commands.PairingPage:
        node, counts = self._id_of(command.node), await self.endpoint.pairing_counts()
        pairings, before = await listed(
            self.endpoint, newest=command.newest, node=node, before=command.before, with_others=command.others
        )
        total = sum(counts.values()) if node is None else counts.get(node, 0)
        return commands.PairingPage(pairings=pairings, total=total, before=before)

    def _id_of(self, name: str | None) -> NodeId | None:
        return None if name is None else self._node(name).id

    async def _add_node(self, command: commands.AddNode) -> commands.HostedNodes:
        await self._check_free_to_change()
        members = command.members()
        if command.alias is not None:
            members["alias"] = read_alias(command.alias)
        node = await self.endpoint.create_node(checked(lambda: NodeConfig.model_validate(members), "the node"))
        self._take_sessions_of([node])
        return await self._hosted(node)

    async def _remove_node(self, command: commands.RemoveNode) -> commands.RemovedNode:
        await self._check_free_to_change()
        node = self._node(command.node)
        ended = await self.endpoint.remove_node(node.id, forget=command.forget)
        hosted = await self._hosted(node)
        return commands.RemovedNode(node=node.id, pairings=await entries(ended), nodes=hosted.nodes)

    async def _set_alias(self, command: commands.SetAlias) -> commands.HostedNodes:
        await self._check_free_to_change()
        node = self._node(command.node)
        known = next(one for one in self.endpoint.config.nodes if one.id == node.id)
        members = {**known.model_dump(), "alias": read_alias(command.alias)}
        await self.endpoint.describe_node(checked(lambda: NodeConfig.model_validate(members), "the node"))
        return await self._hosted(node)

    async def _hosted(self, changed: Node) -> commands.HostedNodes:
        """Report the nodes after a change of one of them."""
        await self._sink.put(events.NodesChanged(nodes=self._node_entries()))
        return commands.HostedNodes(node=changed.id, nodes=await self._own_nodes())

    async def _configure(self, command: commands.Configure) -> ChangedSettings:
        await self._check_free_to_change("settings")

        def change(config: EndpointConfig) -> EndpointConfig:
            raw = json.loads(config.to_json())
            return checked_settings(changed(raw, command.settings, command.node))

        await self.endpoint.change_settings(change)
        return result_of(command.settings)

    async def _check_free_to_change(self, what: str = "nodes") -> None:
        """Refuse to change the nodes of a bridge, which makes them by its file."""
        if await asyncio.to_thread(lambda: Home(self._home).is_of_bridge):
            raise UsageError(f"The {what} of a bridge follow from its file: change that, and reload the bridge.")

    async def _status(self, command: commands.Status) -> commands.FullStatus:
        endpoint = self.endpoint
        config = endpoint.config
        pairings, before = await listed(endpoint, newest=command.newest, with_others=True)
        counts = await endpoint.pairing_counts()
        return commands.FullStatus(
            service=commands.ServiceStatus(running=self._running, pid=os.getpid() if self._running else None),
            endpoint=commands.EndpointStatus(
                name=config.name,
                deployment=str(config.deployment),
                host=config.host,
                pairing_url=self._url(endpoint.pairing_url),
                session_url=self._url(endpoint.session_url),
                advertised=self._advertised(),
                not_found=self._not_found,
                certificate=await asyncio.to_thread(certificates, endpoint, self._home, running=self._running),
                broker=broker_status(endpoint, self.unused_broker()) if self._running else None,
                page=self.page.url if self.page is not None else None,
            ),
            nodes=await self._own_nodes(),
            pairings=pairings,
            pairings_total=sum(counts.values()),
            pairings_before=before,
            pairings_of_nodes={str(node): count for node, count in counts.items()},
            sessions=self._sessions.entries(),
            waiting=list(endpoint.waiting()),
            ended=[
                EndedEntry(node=one.node, peer=one.peer, by=str(one.by), since=one.at, text=one.sentence)
                for one in endpoint.ended_pairings()
            ],
        )

    def _url(self, url: BaseUrl) -> str | None:
        """Return a URL of ours; None without a server."""
        return str(url) if self.endpoint.config.server else None

    def _advertised(self) -> str | None:
        """Return the name under which others see this endpoint in the network."""
        config = self.endpoint.config
        local = config.deployment is Deployment.LAN and is_local_name(config.host)
        if not self._running or not config.advertise or not config.server or not local or self._not_found is not None:
            return None
        return config.host.partition(".")[0]

    async def _make_backup(self, command: commands.MakeBackup) -> commands.BackupMade:
        made = await self.endpoint.backup(command.passphrase)
        # In the state directory, because a service may be allowed to write nowhere else.
        file = temporary(self._home / "backup")
        await asyncio.to_thread(write_private, file, made.file)
        return commands.BackupMade(
            file=str(file), made_at=made.made_at, pairings=made.pairings, left_out=list(made.left_out)
        )

    async def _reload(self, command: commands.Reload) -> commands.ReloadResult:
        if not self._running:
            raise no_service("Only a running service reads its settings again.", self._start_command())
        return commands.ReloadResult(reloaded=await self.reload())

    async def reload(self) -> dict[str, Any]:
        """Read the settings, and the files that they name, again. Raises ``S2ConnectError`` and changes nothing then.

        What cannot change while the service runs is named in the result.
        """
        try:
            stored = await asyncio.to_thread(lambda: read_config(Home.open(self._home)))
            described, restart = await reconfigure(self.endpoint, stored)
            files = await self.endpoint.reread_files()
        except S2ConnectError as error:
            _log.error("The settings were not taken over: %s", error)
            await self._sink.put(events.ReloadFailed(error=Failure.of(error).to_object(), problems=()))
            raise
        result = {"described": described, "restart_needed": restart, **reread_result(files.changed, files.failed)}
        await self._sink.put(events.Reloaded(result=result))
        return result

    def reload_soon(self) -> None:
        """Read everything again, from a signal."""

        async def reload() -> None:
            with suppress(S2ConnectError):
                await self.reload()

        self._supervisor.spawn(reload(), "reload")

    async def _stop_service(self, command: commands.Stop) -> None:
        if self._stop is None:
            raise no_service("No service is running.", self._start_command())
        if command.drain and self.drain is not None:
            self.drain()
        else:
            self._stop()

    def _start_command(self) -> str:
        return start_command(Home(self._home))

    def _node(self, name: str | None) -> Node:
        return self.endpoint.nodes[own_node([own_entry(node) for node in self.endpoint.nodes.values()], name).id]


def _end_of(code: PairingCode) -> datetime:
    """Return when a dynamic code expires, which was read just now."""
    assert code.expires_in is not None, "a dynamic code expires"
    return datetime.now(UTC) + timedelta(seconds=code.expires_in)


def _failed(identifier: object, failure: Failure) -> events.Result:
    _log.debug("a command failed: %s", failure.kind)
    return events.Result(id=identifier, error=failure.to_object())
