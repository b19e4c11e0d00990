"""``s2connect serve``: the endpoint as a service for people or, with ``--json``, as sidecar of other software."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from s2connect import Endpoint, PageSettings
from s2connect.collector import short_collections
from s2connect.endpoint.config import bracketed, checked
from s2connect.errors import ConfigurationError, StorageUnavailable
from s2connect.https.acceptor import raise_descriptor_limit
from s2connect.messages.enums import Check
from s2connect.service.control import as_line, control_socket
from s2connect.service.draining import as_instance, is_worker
from s2connect.service.events import Event, Sink, Warned
from s2connect.service.failures import ExitCode
from s2connect.service.lines import LineWriter, chunks_of, converse, descriptor_of
from s2connect.service.record import Recorder, open_log
from s2connect.service.setup import refuse_bridge
from s2connect.service.sidecar import Service
from s2connect.service.signals import Stop, signal_handlers
from s2connect.service.systemd import Notifier
from s2connect.store.home import Home
from s2connect.supervisor import Supervisor, process_failures
from s2connect.transports.tls_buffer import free_transports_at_once, use_small_tls_buffers

_log = logging.getLogger(__name__)

INPUT_GRACE = 2.0  # seconds that commands under way may still take when standard input has ended
LAST_EVENTS = 2.0  # seconds in which the last events are reported after the endpoint has closed
Form = Callable[[Event], str | None]  # writes an event for the output; None leaves it out


def json_form(event: Event) -> str:
    """Return an event as a line of the sidecar contract."""
    try:
        return as_line(event.to_object()).decode("ascii")
    except ValueError:  # a peer's number beyond what a double can hold
        warning = Warned(time=event.time, reason="not_writable", session=getattr(event, "session", None))
        return as_line(warning.to_object()).decode("ascii")


class Output(Sink):
    """Events on standard output."""

    def __init__(self, writer: LineWriter, form: Form) -> None:
        self._writer = writer
        self._form = form

    async def put(self, event: Event) -> None:
        if (line := self._line(event)) is not None:
            await self._writer.put(line)

    def put_nowait(self, event: Event) -> None:
        if (line := self._line(event)) is not None:
            self._writer.put_nowait(line)

    def _line(self, event: Event) -> bytes | None:
        _log.debug("event %s", event.event)
        line = self._form(event)
        return None if line is None else line.encode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Process:
    """A process that runs a service. ``stack`` is left when the service has closed."""

    stop: Stop
    output: Output
    stack: contextlib.AsyncExitStack

    async def record(self, path: Path) -> Recorder:
        """Return a recorder that writes into a file, or raise ``S2ConnectError`` if it cannot be opened."""

        def stopped() -> None:
            text = f"Recording has stopped: {path} cannot be written any more. The service goes on."
            self.output.put_nowait(Warned(reason="recording_stopped", text=text))

        return await self.stack.enter_async_context(Recorder(await asyncio.to_thread(open_log, path), stopped))

    def follow(self, service: Service, *, sessions: bool = True) -> None:
        """Report the events of a service, those of its end, too, and exceptions of callbacks of the event loop."""
        loop, background = asyncio.get_running_loop(), service.endpoint.supervisor
        background.keep(lambda: short_collections(service.open_connections), "collector")
        loop.set_exception_handler(background.failures.loop_exception)
        self.stack.callback(loop.set_exception_handler, None)
        self.stack.push_async_callback(service.finish, LAST_EVENTS)
        service.follow(sessions=sessions)


class _EndpointService(Service):
    """Service of ``serve``: tells systemd of its reloads."""

    notifier = Notifier({})

    async def reload(self) -> dict[str, Any]:
        self.notifier.reloading()
        try:
            return await super().reload()
        finally:
            self.notifier.ready(self.summary())

    def summary(self) -> str:
        """Return one line for ``systemctl status``."""
        nodes, sessions = len(self.endpoint.nodes), self.open_connections()
        return f"{nodes} node{'' if nodes == 1 else 's'}, {sessions} session{'' if sessions == 1 else 's'}"


@contextlib.asynccontextmanager
async def service_process(form: Form) -> AsyncIterator[Process]:
    """Make this process that of a service, whose events are written to standard output; raise what has ended it."""
    use_small_tls_buffers()  # this process is ours
    free_transports_at_once()
    raise_descriptor_limit()
    _log.debug("the event loop is of %s", type(asyncio.get_running_loop()).__module__.partition(".")[0])
    stop = Stop()
    with stop.on_signals():
        async with LineWriter(descriptor_of(sys.__stdout__), stop.now) as writer, contextlib.AsyncExitStack() as stack:
            yield Process(stop, Output(writer, form), stack)
    if stop.error is not None:
        raise stop.error


async def serve(
    path: Path,
    form: Form,
    *,
    commands: bool,
    codes: bool,
    check: Check,
    record: Path | None = None,
    kept: Collection[str] = (),
    page: Mapping[str, Any] | None = None,
    metrics_port: int | None = None,
    drain: bool = True,
) -> ExitCode:
    """Run the service of a state directory until it is stopped.

    With ``commands`` it reads those from standard input, and stops at its end; with ``codes`` it issues a code for
    every node at the start. Messages of the types ``kept`` are answered by the command ``answer``. ``page`` has
    settings of the page that come before those of the state directory, and so does ``metrics_port``. With ``drain``,
    and a database that other instances share, SIGTERM hands the sessions over to them first.
    """
    async with service_process(form) as process:
        recorder = await process.record(record) if record is not None else None
        home = await asyncio.to_thread(Home.open, path)
        await asyncio.to_thread(refuse_bridge, home)
        async with Endpoint.open(path) as endpoint:
            output, stop = process.output, process.stop.now
            service = _EndpointService(
                endpoint, path, output, stop=stop, show_codes=not commands, check=check, recorder=recorder, kept=kept
            )
            service.notifier = notifier = Notifier()
            async with contextlib.AsyncExitStack() as stack:
                metrics = await _open_metrics(service, stack, metrics_port)
                await _open_page(service, home, stack, page or {}, commands=commands or is_worker(endpoint))
                if not is_worker(endpoint):  # whoever started it answers for all
                    await open_control(stack, home, service)
                await output.put(replace(service.ready(), metrics=metrics))
                if unused := service.unused_broker():
                    _log.warning("%s", unused)
                    await output.put(Warned(reason="broker_unused", text=unused))
                # A vendor's pairing server pairs for devices, and is none: it opens no sessions in their place.
                process.follow(service, sessions=not endpoint.config.wan_pairing_server)
                stack.enter_context(signal_handlers({signal.SIGHUP: service.reload_soon}))
                if codes:
                    await service.issue_codes()
                endpoint.supervisor.keep(lambda: notifier.keep_alive(lambda: True), "watchdog")
                config = endpoint.config
                hand_over = partial(endpoint.drain, wait=config.drain_wait, rate=config.drain_rate)
                as_instance(service, process.stop, notifier, hand_over, drain=drain)
                notifier.ready(service.summary())
                stack.callback(notifier.stopping)
                await until_stopped(service.answer, process, commands=commands)
    return process.stop.code


async def open_control(stack: contextlib.AsyncExitStack, home: Home, service: Service) -> None:
    """Open the control socket. With a database the home may be read only: then there is none."""
    try:
        await stack.enter_async_context(control_socket(home, service.answer, service.endpoint.instance))
    except StorageUnavailable as error:
        if service.endpoint.instance is None:
            raise
        _log.warning("No command reaches this service: %s", error.what)


async def _open_metrics(service: Service, stack: contextlib.AsyncExitStack, port: int | None) -> str | None:
    """Open the port of the metrics, where one is set or given; return their URL."""
    kept = service.endpoint.config.metrics
    if port is None and (kept is None or (port := kept.port) is None):
        return None
    from s2connect.service.observe import observation_of
    from s2connect.web.metrics import PATH, Metrics

    bind = kept.bind if kept is not None else "127.0.0.1"
    try:
        served = Metrics(observation_of(service), port, service.page_url, bind=bind)
        metrics = await stack.enter_async_context(served)
    except ConfigurationError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        hint = "Choose another port: --metrics-port, or s2connect config set metrics.port"
        raise ConfigurationError(f"The metrics: {error.what}", hint=hint) from error
    return f"http://{'127.0.0.1' if bind == '*' else bracketed(bind)}:{metrics.port}{PATH}"


async def _open_page(
    service: Service, home: Home, stack: contextlib.AsyncExitStack, given: Mapping[str, Any], *, commands: bool
) -> None:
    """Open the page, unless it is switched off. A sidecar has one only where that is asked for."""
    kept = service.endpoint.config.page
    known = {} if kept is None else kept.model_dump()
    settings = checked(lambda: PageSettings.model_validate({**known, **given}), "the page")
    asked_for = bool(given) or kept is not None
    if not settings.enabled or (commands and not asked_for):
        return
    from s2connect.service.page import is_installed, page_of

    if asked_for or is_installed():
        await stack.enter_async_context(page_of(service, home, settings))


async def until_stopped(
    answer: Callable[[bytes | None], Awaitable[Event]], process: Process, *, commands: bool
) -> None:
    """Wait until a service is stopped; with ``commands`` execute those of standard input, whose end stops it."""

    async def handle(line: bytes | None) -> None:
        await process.output.put(await answer(line))

    async def listen() -> None:
        chunks = chunks_of(descriptor_of(sys.__stdin__))
        try:
            await converse(chunks, handle, name="s2connect-cli-command", grace=INPUT_GRACE)
        except Exception as error:
            process.stop.failed(error)
        process.stop.now()

    async with Supervisor("s2connect-cli", process_failures) as tasks:
        if commands:
            tasks.spawn(listen(), "input")
        await process.stop.wait()
