"""``s2connect bridge run``: the bridge as a service, with the control socket, reloads, metrics and systemd."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections import deque
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from s2connect.bridge.bridge import Bridge, Reloaded
from s2connect.bridge.config import BridgeConfig
from s2connect.bridge.config_checks import UNUSED_BROKER, uses_broker
from s2connect.bridge.config_file import load
from s2connect.bridge.link_state import LinkState, LinkStatus
from s2connect.bridge.preparing import prepare_home
from s2connect.bridge.problems import BridgeFileError, Problem
from s2connect.endpoint.config import bracketed
from s2connect.errors import S2ConnectError, UsageError
from s2connect.model.text import for_display
from s2connect.service import commands, events
from s2connect.service.draining import as_instance, is_worker
from s2connect.service.failures import ExitCode, Failure
from s2connect.service.record import LinkRecorder
from s2connect.service.reloading import reread_result
from s2connect.service.serve import Form, open_control, service_process, until_stopped
from s2connect.service.sidecar import Service
from s2connect.service.signals import Stop, signal_handlers
from s2connect.service.systemd import Notifier
from s2connect.service.workers import check_workers, record_of, run_workers
from s2connect.store.home import Home
from s2connect.supervisor import Supervisor

_log = logging.getLogger(__name__)

MAX_WAITING_CHANGES: Final = 10_000  # changes of links for a slow reader of the output; the oldest are dropped first


class BridgeService(Service):
    """Executes commands on a running bridge: those of an endpoint, ``bridge`` and ``reload``."""

    def __init__(self, bridge: Bridge, sink: events.Sink, stop: Stop, notifier: Notifier, *, show_codes: bool) -> None:
        home = bridge.config.home
        super().__init__(bridge.endpoint, home, sink, stop=stop.now, show_codes=show_codes)
        self._bridge = bridge
        self._notifier = notifier
        self._commands |= {commands.ShowBridge: self._show_bridge}

    def open_connections(self) -> int:
        return 2 * sum(len(route.links) for route in self._bridge.routes.values())

    def unused_broker(self) -> str:
        """Return what to change where no route uses the broker of the file; empty otherwise."""
        config = self._bridge.config
        sides = [side for route in config.routes for side in (route.devices, route.manager)]
        return "" if config.mqtt is None or uses_broker(sides) else f"{UNUSED_BROKER[:1].upper()}{UNUSED_BROKER[1:]}"

    async def _show_bridge(self, command: commands.ShowBridge) -> commands.BridgeStatus:
        return commands.BridgeStatus(bridge=self._bridge.status())

    async def reload(self) -> dict[str, Any]:
        """Read the file again. One that cannot be used raises ``S2ConnectError`` and changes nothing."""
        self._notifier.reloading()
        try:
            config, warnings = await asyncio.to_thread(load, self._bridge.config.file)
            for warning in warnings:
                await self._sink.put(_file_warning(self._bridge.config.file, warning))
            result = _reload_result(await self._bridge.reload(config))
            await self._sink.put(events.Reloaded(result=result))
            return result
        except S2ConnectError as error:
            _log.error("The file was not taken over: %s", error)
            problems = error.problems if isinstance(error, BridgeFileError) else ()
            await self._sink.put(events.ReloadFailed(error=Failure.of(error).to_object(), problems=problems))
            raise
        finally:
            self._notifier.ready(summary(self._bridge))


class _Changes:
    """Queue of changes of links for the output."""

    def __init__(self) -> None:
        self._waiting: deque[events.LinkChanged] = deque(maxlen=MAX_WAITING_CHANGES)
        self._news = asyncio.Event()

    def add(self, route: str, status: LinkStatus) -> None:
        state, reason, retry_in = str(status.state), status.reason, status.retry_in
        changed = events.LinkChanged(route=route, link=status.name, state=state, reason=reason, retry_in=retry_in)
        self._waiting.append(changed)
        self._news.set()

    async def write(self, sink: events.Sink) -> None:
        while True:
            while self._waiting:
                await sink.put(self._waiting.popleft())
            self._news.clear()
            await self._news.wait()


async def run_bridge(
    file: Path,
    form: Form,
    *,
    show_codes: bool,
    record: Path | None = None,
    only: Collection[str] = (),
    page: bool = True,
    metrics_port: int | None = None,
    drain: bool = True,
) -> ExitCode:
    """Run a bridge until it is stopped; SIGHUP reloads its file. Mistakes and failures raise ``S2ConnectError``.

    ``show_codes`` reports a code with every announced pairing, which is not for an output that is kept. Of the routes
    and links, ``only`` those are recorded; empty for all. Without ``page`` there is none. ``metrics_port`` comes before
    that of the file. With ``drain``, and a database that other instances share, SIGTERM hands the links over first.
    """
    # This output is usually kept; codes are returned by the command code.
    async with service_process(lambda event: None if isinstance(event, events.CodeIssued) else form(event)) as process:
        config, warnings = await asyncio.to_thread(load, file)
        _check_names(only, config)
        for warning in warnings:
            await process.output.put(_file_warning(file, warning))
        links = LinkRecorder(await process.record(record), only) if record is not None else None
        changes, notifier = _Changes(), Notifier()
        async with contextlib.AsyncExitStack() as stack:
            bridge = await stack.enter_async_context(Bridge.open(config, on_change=changes.add, record=links))
            service = BridgeService(bridge, process.output, process.stop, notifier, show_codes=show_codes)
            metrics = await _open_metrics(service, bridge, stack, metrics_port)
            home = await asyncio.to_thread(Home.open, config.home)
            worker = is_worker(bridge.endpoint)
            if config.page.enabled and page:
                from s2connect.service.page import is_installed, page_of

                if is_installed() or config.page.model_fields_set:
                    await stack.enter_async_context(page_of(service, home, config.page, bridge))
            if not worker:  # whoever started it answers for all
                await open_control(stack, home, service)
            stack.enter_context(signal_handlers({signal.SIGHUP: service.reload_soon}))
            failures = bridge.endpoint.supervisor.failures
            background = await stack.enter_async_context(Supervisor("s2connect-bridge", failures))
            background.keep(lambda: changes.write(process.output), "changes")
            background.keep(lambda: notifier.keep_alive(bridge.alive), "watchdog")
            process.follow(service, sessions=False)
            settings = bridge.endpoint.config
            hand_over = partial(bridge.drain, wait=settings.drain_wait, rate=settings.drain_rate)
            as_instance(service, process.stop, notifier, hand_over, drain=drain)
            await process.output.put(
                events.BridgeReady(status=bridge.status(), page=service.page_url(), metrics=metrics)
            )
            notifier.ready(summary(bridge))
            await until_stopped(service.answer, process, commands=worker)
            notifier.stopping()
    return process.stop.code


async def _open_metrics(
    service: BridgeService, bridge: Bridge, stack: contextlib.AsyncExitStack, port: int | None
) -> str | None:
    """Open the port of the metrics, where one is set or given; return their URL."""
    kept = bridge.config.metrics
    if port is None:
        if kept is None:
            return None
        port = kept.port
    from s2connect.service.observe import observation_of
    from s2connect.web.metrics import PATH, Metrics

    bind = kept.bind if kept is not None else "127.0.0.1"
    served = await stack.enter_async_context(
        Metrics(observation_of(service, bridge), port, service.page_url, bind=bind)
    )
    return f"http://{'127.0.0.1' if bind == '*' else bracketed(bind)}:{served.port}{PATH}"


async def bridge_workers(
    file: Path, form: Form, count: int, arguments: Sequence[str], *, record: Path | None, drain: bool
) -> ExitCode:
    """Run so many instances of a bridge on this machine. ``arguments`` are those of each ``bridge run``.

    The first has the page. Each records into a file of its own, named like ``record``.

    Raises:
        BridgeFileError: The file has mistakes.
        UsageError: The bridge has no database, or there are too many workers.
        ConfigurationError: The port is taken.
    """
    config, _ = await asyncio.to_thread(load, file)
    settings = await asyncio.to_thread(prepare_home, config)
    check_workers(settings, count, f'Name it in {file}: [endpoint] store = "postgresql://user@host/name"')
    home = await asyncio.to_thread(Home.open, config.home)

    def words(number: int, name: str) -> list[str]:
        found = ["bridge", "run", str(file), "--json", *arguments]
        found += [] if number == 0 else ["--no-page"]
        found += ["--record", str(record_of(record, name))] if record is not None else []
        if config.metrics is not None:
            found += ["--metrics-port", str(config.metrics.port + number)]
        return found + ([] if drain else ["--no-drain"])

    return await run_workers(home, settings, form, count, words, commands=False, drain=drain)


def _check_names(only: Collection[str], config: BridgeConfig) -> None:
    routes = [route.name for route in config.routes]
    for name in only:
        if name.partition("/")[0] not in routes:
            raise UsageError(
                f"{config.file} has no route {for_display(name.partition('/')[0], 60)} to be recorded.",
                hint=f"Name a route ({', '.join(routes)}) or a link as bridge status --json shows it.",
            )


def summary(bridge: Bridge) -> str:
    """Return one line for ``systemctl status``."""
    links = [link for route in bridge.routes.values() for link in route.status()]
    up, elsewhere = (sum(link.state is state for link in links) for state in (LinkState.UP, LinkState.ELSEWHERE))
    others = f", {elsewhere} at other instances" if elsewhere else ""
    failed = f", {len(bridge.failed)} routes do not run" if bridge.failed else ""
    return f"{len(bridge.routes)} routes, {len(links)} links, {up} up{others}{failed}"


def _reload_result(done: Reloaded) -> dict[str, Any]:
    """Return the result of a reload as the command returns it."""
    return {
        "kept": done.kept,
        "updated": [{"route": name, "devices": number} for name, number in done.updated.items()],
        "begun": done.begun,
        "ended": done.ended,
        "failed": [{"route": name, "reason": why} for name, why in done.failed.items()],
        "restart_needed": done.restart,
        **reread_result(done.reread, done.unread),
    }


def _file_warning(file: Path, problem: Problem) -> events.Warned:
    return events.Warned(reason="bridge_file", text=f"{file}: {problem}")
