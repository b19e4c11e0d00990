"""``s2connect serve``: the endpoint as a service for people or, with ``--json``, as sidecar of other software."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path

from s2connect import Endpoint
from s2connect.https.acceptor import raise_descriptor_limit
from s2connect.messages.enums import Check
from s2connect.service.control import as_line, control_socket
from s2connect.service.events import Event, Warned
from s2connect.service.failures import ExitCode
from s2connect.service.lines import LineWriter, chunks_of, converse, descriptor_of
from s2connect.service.record import Recorder, open_log
from s2connect.service.sidecar import Service
from s2connect.service.signals import Stop
from s2connect.store.home import Home
from s2connect.transports.tls_buffer import use_small_tls_buffers

_log = logging.getLogger(__name__)

INPUT_GRACE = 2.0
"""Seconds that commands under way may still take when standard input has ended."""

LAST_EVENTS = 2.0
"""Seconds in which the last events are reported after the endpoint has closed."""

Form = Callable[[Event], str | None]
"""Writes an event for the output; None leaves it out."""


def json_form(event: Event) -> str:
    """Return an event as a line of the sidecar contract."""
    try:
        return as_line(event.to_object()).decode("ascii")
    except ValueError:  # a peer's number beyond what a double can hold
        warning = Warned(time=event.time, reason="not_writable", session=getattr(event, "session", None))
        return as_line(warning.to_object()).decode("ascii")


class Output:
    """Events on standard output."""

    def __init__(self, writer: LineWriter, form: Form) -> None:
        self._writer = writer
        self._form = form

    async def put(self, event: Event) -> None:
        """Write an event once there is room."""
        _log.debug("event %s", event.event)
        if (line := self._form(event)) is not None:
            await self._writer.put(line.encode("utf-8", "replace"))

    def put_nowait(self, event: Event) -> None:
        """Write an event whose number is bounded by other means."""
        _log.debug("event %s", event.event)
        if (line := self._form(event)) is not None:
            self._writer.put_nowait(line.encode("utf-8", "replace"))


async def serve(
    path: Path,
    form: Form,
    *,
    commands: bool,
    codes: bool,
    check: Check,
    record: Path | None = None,
    kept: Collection[str] = (),
) -> ExitCode:
    """Run the service of a state directory until it is stopped.

    Args:
        path: The state directory.
        form: Writes events for standard output.
        commands: Read commands from standard input, and stop at its end.
        codes: Issue a code for every node at the start.
        check: Validation level of every message.
        record: File to which every message is appended.
        kept: Types of messages that the command ``answer`` answers.

    Returns:
        The exit code.

    Raises:
        S2ConnectError: The endpoint, or the file for the record, cannot be opened.
    """
    use_small_tls_buffers()  # this process is ours
    raise_descriptor_limit()
    stop = Stop()
    with stop.on_signals():
        async with contextlib.AsyncExitStack() as stack:
            writer = await stack.enter_async_context(LineWriter(descriptor_of(sys.__stdout__), stop.now))
            output = Output(writer, form)
            recorder: Recorder | None = None
            if record is not None:
                descriptor = await asyncio.to_thread(open_log, record)
                stopped = partial(recording_stopped, output, record)
                recorder = await stack.enter_async_context(Recorder(descriptor, stopped))
            service: Service | None = None
            try:
                async with Endpoint.open(path) as endpoint:
                    stack.enter_context(report_callbacks(endpoint))
                    service = Service(
                        endpoint,
                        path,
                        output,
                        stop=stop.now,
                        running=True,
                        show_codes=not commands,
                        check=check,
                        recorder=recorder,
                        kept=kept,
                    )
                    async with control_socket(await asyncio.to_thread(Home.open, path), service.answer):
                        await output.put(service.ready())
                        service.follow()
                        if codes:
                            await service.issue_codes()
                        await _until_stopped(service, output, stop, commands=commands)
            finally:
                if service is not None:
                    await service.finish(LAST_EVENTS)
    if stop.error is not None:
        raise stop.error
    return stop.code


@contextlib.contextmanager
def report_callbacks(endpoint: Endpoint) -> Iterator[None]:
    """Report exceptions of callbacks of the event loop like those of failed tasks."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(endpoint.supervisor.failures.loop_exception)
    try:
        yield
    finally:
        loop.set_exception_handler(None)


def recording_stopped(output: Output, record: Path) -> None:
    """Report that a record cannot be written any more."""
    text = f"Recording has stopped: {record} cannot be written any more. The service goes on."
    output.put_nowait(Warned(reason="recording_stopped", text=text))


async def _until_stopped(service: Service, output: Output, stop: Stop, *, commands: bool) -> None:
    async def handle(line: bytes | None) -> None:
        await output.put(await service.answer(line))

    async def listen() -> None:
        try:
            await converse(
                chunks_of(descriptor_of(sys.__stdin__)), handle, name="s2connect-cli-command", grace=INPUT_GRACE
            )
        except Exception as error:
            stop.failed(error)
        stop.now()

    listener = asyncio.create_task(listen(), name="s2connect-cli-input") if commands else None
    try:
        await stop.wait()
    finally:
        if listener is not None:
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)
