"""Workers: several instances of one endpoint on this machine, each a process of its own, under one command.

The workers listen at one port, and the kernel spreads the connections; each has the name of an instance. Their parent
process uses the sidecar contract over the standard input and output of each: commands go to the worker that they
concern, events come from all. A worker that ends is started again. When the parent ends, however that happens, the end
of their standard input ends them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from s2connect import read_config
from s2connect.endpoint.config import EndpointConfig
from s2connect.endpoint.instances import INSTANCE_VARIABLE, PORT_VARIABLE, instance_name
from s2connect.endpoint.storage import store_url
from s2connect.errors import ConfigurationError, S2ConnectError, UsageError
from s2connect.model.strict_json import MalformedJson, read_json
from s2connect.service import events
from s2connect.service.commands import PageLink, SetPagePassword, ShowPage
from s2connect.service.control import as_line, control_socket
from s2connect.service.failures import NO_SERVICE, ExitCode, Failure
from s2connect.service.lines import MAX_LINE_BYTES
from s2connect.service.merging import (
    as_event,
    merged_bridge,
    merged_pairings,
    merged_status,
    named_session,
    own_session,
)
from s2connect.service.serve import Form, Process, service_process, until_stopped
from s2connect.service.signals import signal_handlers
from s2connect.service.systemd import Notifier
from s2connect.store.home import Home
from s2connect.store.postgresql.address import STORE_VARIABLE
from s2connect.supervisor import Supervisor

_log = logging.getLogger(__name__)

MAX_WORKERS: Final = 64
"""Workers of one machine, at most: one for each core is enough."""

ANSWER_S: Final = 10.0
"""Seconds for the answer of a worker to a command for all of them; one that is late is left out."""

END_S: Final = 10.0
"""Seconds for a worker to end at once; then it is killed."""

PAGE_COMMANDS: Final = (ShowPage.name, PageLink.name, SetPagePassword.name)
"""Commands for the worker that has the page: the first."""

SESSION_COMMANDS: Final = ("send", "answer", "close")
READY: Final = ("ready", "bridge_ready")
_NOT_FOR_WORKERS: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class _FromWorker(events.Event, name="worker"):
    """An event of a worker, as it came; or one about it."""

    value: dict[str, Any]

    def to_object(self) -> dict[str, Any]:
        return self.value


def for_people(form: Form) -> Form:
    """Return the form for people also of events that come from workers."""

    def show(event: events.Event) -> str | None:
        if not isinstance(event, _FromWorker):
            return form(event)
        value = event.value
        if value["event"] == "worker":
            text = value.get("text") or f"The worker {value['instance']} is {value['state']}."
            return f"{event.time.astimezone():%H:%M:%S}  {text}"
        if value["event"] == "bridge_ready":
            return form(events.BridgeReady(status=value))
        return form(made) if (made := as_event(value)) is not None else None

    return show


class _Answered(events.Result, name="result"):
    """Result that a worker has returned, or all of them."""

    value: dict[str, Any]

    def _members(self) -> dict[str, Any]:
        return {"id": self.id, "ok": True, **self.value}


@dataclass(slots=True)
class Worker:
    """One worker: its process, and those that take its place when it ends.

    Attributes:
        name: Name of its instance.
        words: Its command.
        environment: Its environment.
        report: Called with every event of it.
        ready: Its event ``ready``; None while it does not run.
        starts: How often it was started.
    """

    name: str
    words: Sequence[str]
    environment: dict[str, str]
    report: Callable[[Worker, dict[str, Any]], Any]
    ready: dict[str, Any] | None = None
    starts: int = 0
    error: dict[str, Any] | None = None
    ends: bool = False
    process: asyncio.subprocess.Process | None = None
    _asked: int = 0
    _waiting: dict[int, asyncio.Future[dict[str, Any]]] = field(default_factory=dict)
    _starting: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def run(self) -> None:
        """Run the process until its end; Failure, unless it was to end."""
        if self.ends:
            return
        self.starts += 1
        self.error = None
        async with self._starting:
            self.process = process = await asyncio.create_subprocess_exec(
                *self.words,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=self.environment,
                limit=4 * MAX_LINE_BYTES,
            )
        assert process.stdout is not None
        try:
            while line := await process.stdout.readline():
                await self._take(line)
            code = await process.wait()
        finally:
            self.ready = None
            for waiting in self._waiting.values():
                waiting.cancel()
            self._waiting.clear()
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if not self.ends:
            what = f"a signal ({signal.Signals(-code).name})" if code < 0 else f"the code {code}"
            why = f": {str(self.error['what']).removesuffix('.')}" if self.error is not None else ""
            raise Failure("worker_ended", f"The worker {self.name} ended with {what}{why}.")

    async def _take(self, line: bytes) -> None:
        value = json.loads(line)
        if value.get("event") == "result":
            waiting = self._waiting.pop(value.get("id"), None)
            if waiting is not None and not waiting.done():
                waiting.set_result(value)
            return
        if "event" not in value:
            self.error = value.get("error")
            return
        if value["event"] in READY:
            self.ready = value
            _log.info("the worker %s is ready (process %d)", self.name, self.process.pid if self.process else 0)
        await self.report(self, value)

    async def ask(self, value: dict[str, Any]) -> dict[str, Any]:
        """Have it execute a command and return what that returned; raise ``Failure`` otherwise."""
        process = self.process
        if process is None or process.stdin is None or process.returncode is not None:
            raise Failure(NO_SERVICE, f"The worker {self.name} does not run now.", "It is started again; try later.")
        self._asked += 1
        number = self._asked
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            process.stdin.write(as_line({**value, "id": number}) + b"\n")
            with contextlib.suppress(ConnectionError):
                await process.stdin.drain()
                await asyncio.wait([waiting])  # which leaves it as it is where the caller is cancelled
            if waiting.cancelled() or not waiting.done():
                raise Failure(NO_SERVICE, f"The worker {self.name} ended before it answered.", "Try again.")
            result = waiting.result()
        finally:
            self._waiting.pop(number, None)
        if result.get("ok") is not True:
            raise Failure.from_object(result.get("error"))
        return {name: member for name, member in result.items() if name not in ("event", "time", "id", "ok")}

    async def end(self, *, drain: bool) -> None:
        """End it: after it has handed its sessions over, or at once."""
        self.ends = True
        async with self._starting:  # whoever is cancelled while a process is being started does not wait for its end
            process = self.process
        if process is None or process.returncode is not None:
            return
        if drain:
            with contextlib.suppress(S2ConnectError):
                await self.ask({"command": "stop", "drain": True})
            await process.wait()
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(END_S):
                await process.wait()
        except TimeoutError:
            _log.error("the worker %s does not end; it is killed", self.name)
            with contextlib.suppress(ProcessLookupError):
                process.kill()


class Workers:
    """The workers of one machine, as one service: executes commands, and reports events of all."""

    def __init__(self, process: Process, supervisor: Supervisor) -> None:
        self.workers: list[Worker] = []
        self.first = asyncio.Event()  # set when one has been ready
        self.started = False
        self._process = process
        self._supervisor = supervisor
        self._was_ready: set[str] = set()
        self._codes: list[dict[str, Any]] = []  # that came before all were ready: nobody knows yet where to type them

    def begin(self, workers: Sequence[Worker]) -> None:
        """Start them, and start each again whenever it ends."""
        self.workers = list(workers)
        for worker in workers:
            self._supervisor.keep(partial(self._run, worker), "worker", worker.name)

    async def _run(self, worker: Worker) -> None:
        try:
            await worker.run()
        except Failure as error:
            await self._about(worker, "ended", text=error.what)
            if not self._was_ready and worker.error is not None:
                self._process.stop.failed(Failure.from_object(worker.error))  # it would fail again, and so would all
                return
            raise

    async def report(self, worker: Worker, value: dict[str, Any]) -> None:
        """Report an event of a worker; with the first ``ready`` of all of them that of the service."""
        if value["event"] in READY:
            self._was_ready.add(worker.name)
            self.first.set()
            await self._about(worker, "ready", metrics=value.get("metrics"))
            if len(self._was_ready) == len(self.workers) and not self.started:
                self.started = True
                listed = [{"instance": one.name, "metrics": (one.ready or {}).get("metrics")} for one in self.workers]
                page = (self.workers[0].ready or {}).get("page")
                await self._put({**value, "page": page, "metrics": None, "workers": listed})
                codes, self._codes = self._codes, []
                for code in codes:
                    await self._put(code)
            return
        if "session" in value:
            value = {**value, "session": named_session(worker.name, value["session"])}
        value = {**value, "instance": worker.name}
        if value["event"] == "pairing_code" and not self.started:
            self._codes.append(value)
            return
        await self._put(value)

    async def _about(self, worker: Worker, state: str, **more: object) -> None:
        pid = worker.process.pid if worker.process is not None else None
        about = {"event": "worker", "time": datetime.now(UTC), "instance": worker.name, "state": state}
        await self._put({**about, "pid": pid, **more})

    async def _put(self, value: dict[str, Any]) -> None:
        await self._process.output.put(_FromWorker(value=value))

    # Commands

    async def answer(self, line: bytes | None) -> events.Result:
        """Execute the command of one line; None stands for a line that was too long."""
        identifier: object = None
        try:
            value: object = None
            with contextlib.suppress(MalformedJson):
                value = read_json(line) if line is not None else None
            if not isinstance(value, dict):
                raise Failure("malformed_command", "A line is not a JSON object.", "Write one JSON object a line.")
            identifier = value.pop("id", None)
            return _Answered(id=identifier, value=await self._execute(value))
        except S2ConnectError as error:
            return events.Result(id=identifier, error=Failure.of(error).to_object())

    async def _execute(self, value: dict[str, Any]) -> dict[str, Any]:
        match value.get("command"):
            case "stop":
                self.stop(drain=value.get("drain") is True)
                return {}
            case "status":
                answers = await self._ask_all(value)
                return merged_status([(one.name, found) for one, found in answers if found is not None], self._facts())
            case "pairings":
                answers = await self._ask_all(value)
                if pages := [(one.name, found) for one, found in answers if found is not None]:
                    return merged_pairings(pages)  # otherwise one says why there are none
            case "bridge":
                answers = await self._ask_all(value)
                return {"bridge": merged_bridge([(one.name, found) for one, found in answers if found is not None])}
            case "reload":
                return await self._reload(value)
            case "log":
                answers = await self._ask_all(value)
                lines = [f"{one.name}: {line}" for one, found in answers for line in (found or {}).get("lines", [])]
                return {"lines": lines}
            case command if command in SESSION_COMMANDS:
                name, session = own_session(value.get("session"))
                worker = next((one for one in self.workers if one.name == name), None)
                if worker is None:
                    raise Failure("connection_closed", "There is no such session.")
                return await worker.ask({**value, "session": session})
            case command if command in PAGE_COMMANDS:
                return await self.workers[0].ask(value)
        return await self._any().ask(value)

    def _any(self) -> Worker:
        for worker in self.workers:
            if worker.ready is not None:
                return worker
        raise Failure(NO_SERVICE, "No worker is ready.", "Each is started again by itself; the log says why it ended.")

    async def _ask_all(self, value: dict[str, Any]) -> list[tuple[Worker, dict[str, Any] | None]]:
        """Return what each worker answers; None for one that does not run, fails, or is late."""

        async def ask(worker: Worker) -> dict[str, Any] | None:
            try:
                async with asyncio.timeout(ANSWER_S):
                    return await worker.ask(value)
            except (S2ConnectError, TimeoutError):
                return None

        self._any()
        return list(zip(self.workers, await asyncio.gather(*map(ask, self.workers)), strict=True))

    async def _reload(self, value: dict[str, Any]) -> dict[str, Any]:
        self._any()
        running = [one for one in self.workers if one.ready is not None]
        done = await asyncio.gather(*(one.ask(value) for one in running), return_exceptions=True)
        for worker, result in zip(running, done, strict=True):
            if isinstance(result, S2ConnectError):
                failure = Failure.of(result)
                raise Failure(failure.kind, f"The worker {worker.name}: {failure.what}", failure.hint) from None
            if isinstance(result, BaseException):
                raise result
        first: dict[str, Any] = done[0]  # type: ignore[assignment]  # no exception is left
        return first

    def reload_soon(self) -> None:
        """Have all workers read their settings again, from a signal."""

        async def reload() -> None:
            try:
                await self._reload({"command": "reload"})
            except S2ConnectError as error:
                _log.error("Not reloaded: %s", error)

        self._supervisor.spawn(reload(), "reload")

    def _facts(self) -> list[dict[str, Any]]:
        return [
            {
                "instance": one.name,
                "pid": one.process.pid if one.process is not None and one.process.returncode is None else None,
                "ready": one.ready is not None,
                "restarts": max(0, one.starts - 1),
                "metrics": (one.ready or {}).get("metrics"),
            }
            for one in self.workers
        ]

    def stop(self, *, drain: bool) -> None:
        """End all workers, then the service."""
        if not drain:
            self._process.stop.now()
            return

        async def end() -> None:
            try:
                await asyncio.gather(*(one.end(drain=True) for one in self.workers))
            finally:
                self._process.stop.now()

        self._supervisor.spawn(end(), "drain")

    async def close(self) -> None:
        """End those that still run, at once."""
        await asyncio.gather(*(one.end(drain=False) for one in self.workers))


async def serve_workers(
    path: Path,
    form: Form,
    count: int,
    arguments: Sequence[str],
    *,
    commands: bool,
    codes: bool,
    page: Mapping[str, Any],
    record: Path | None = None,
    metrics_port: int | None = None,
    drain: bool = True,
) -> ExitCode:
    """Run so many instances on this machine until they are stopped. ``arguments`` are those of each ``serve``.

    The first has the page, which shows the pairings of all, and the messages of its own sessions. Each records into a
    file of its own, named like ``record``.

    Raises:
        UsageError: The endpoint has no database, or there are too many workers.
        ConfigurationError: The port is taken.
    """
    home = await asyncio.to_thread(Home.open, path)
    config = await asyncio.to_thread(read_config, home)
    check_workers(config, count, f"Move it there: s2connect store copy --to postgresql://user@host/name --home {path}")
    if metrics_port is None and config.metrics is not None:
        metrics_port = config.metrics.port

    def words(number: int, name: str) -> list[str]:
        found = ["serve", "--json", "--home", str(path), *arguments]
        found += ["--code" if codes and number == 0 else "--no-code"]
        found += _page_words(config, page, commands=commands) if number == 0 else ["--no-page"]
        found += ["--record", str(record_of(record, name))] if record is not None else []
        if metrics_port is not None:
            found += ["--metrics-port", str(metrics_port + number if metrics_port else 0)]
        return found + ([] if drain else ["--no-drain"])

    return await run_workers(home, config, form, count, words, commands=commands, drain=drain)


async def run_workers(
    home: Home,
    config: EndpointConfig,
    form: Form,
    count: int,
    words: Callable[[int, str], list[str]],
    *,
    commands: bool,
    drain: bool,
) -> ExitCode:
    """Run so many instances; ``words`` returns the command of each. Raises as :func:`serve_workers`."""
    with _reserved(config) as port:
        async with service_process(form) as process, Supervisor("s2connect-workers") as supervisor:
            workers, notifier = Workers(process, supervisor), Notifier()
            environment = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_WORKERS}
            made = []
            for number in range(count):
                name = f"{instance_name(config)[:36]}-{number + 1}"
                command = [sys.executable, "-m", "s2connect", *words(number, name)]
                variables = {**environment, INSTANCE_VARIABLE: name, PORT_VARIABLE: str(port)}
                made.append(Worker(name, command, variables, workers.report))
            async with contextlib.AsyncExitStack() as stack:
                stack.push_async_callback(workers.close)
                workers.begin(made)
                waits = supervisor.spawn(workers.first.wait(), "first-worker")
                stops = supervisor.spawn(process.stop.wait(), "stop")
                await asyncio.wait({waits, stops}, return_when=asyncio.FIRST_COMPLETED)
                if waits.done():
                    await stack.enter_async_context(control_socket(home, workers.answer, instance_name(config)))
                    stack.enter_context(signal_handlers({signal.SIGHUP: workers.reload_soon}))
                    if drain:
                        process.stop.drain = partial(workers.stop, drain=True)
                    supervisor.keep(lambda: notifier.keep_alive(lambda: True), "watchdog")
                    notifier.ready(f"{count} workers")
                    await until_stopped(workers.answer, process, commands=commands)
                    notifier.stopping()
    return process.stop.code


def _page_words(config: EndpointConfig, given: Mapping[str, Any], *, commands: bool) -> list[str]:
    """Return the options for the worker that has the page: as ``serve`` has one without workers."""
    from s2connect.service.page import is_installed

    if not given and config.page is None:
        return ["--page" if not commands and is_installed() else "--no-page"]
    words = [] if (enabled := given.get("enabled")) is None else ["--page" if enabled else "--no-page"]
    return [
        *words,
        *(word for name in ("bind", "port") if name in given for word in (f"--page-{name}", str(given[name]))),
    ]


def record_of(record: Path, instance: str) -> Path:
    """Return the file into which a worker records: that which was named, with the worker's name before its suffix."""
    return record.with_name(f"{record.stem}.{instance}{record.suffix}")


def check_workers(config: EndpointConfig, count: int, hint: str) -> None:
    """Raise UsageError where an endpoint cannot have so many workers; ``hint`` says how it gets a database."""
    if store_url(config) is None and not os.environ.get(STORE_VARIABLE):
        raise UsageError(
            "Several workers need a database that they share; this endpoint has its state in its home.", hint=hint
        )
    if not 1 <= count <= MAX_WORKERS:
        raise UsageError(f"There can be 1 to {MAX_WORKERS} workers.", hint="One for each core is enough.")


@contextlib.contextmanager
def _reserved(config: EndpointConfig) -> Iterator[int]:
    """Keep the port for the workers: bound, so that nobody else takes it, and not listening."""
    port = config.listens_on
    with contextlib.ExitStack() as stack:
        try:
            found = socket.getaddrinfo(config.bind, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, _, _, _, where in found:
                try:
                    made = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
                    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                    if family == socket.AF_INET6:
                        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    made.bind((where[0], port, *where[2:]))
                except OSError as error:
                    if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL) and where[0] == "::":
                        continue
                    raise
                port = made.getsockname()[1]
        except OSError as error:
            raise ConfigurationError(
                f"Cannot listen on port {port}: {error.strerror or 'the address cannot be used'}.",
                hint="Does it run already? Otherwise take another one: s2connect config set port PORT",
            ) from None
        yield port
