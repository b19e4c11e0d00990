"""Cost of the page and of its metrics for the messages of 500 sessions."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from benchmarks.budgets import WITHOUT_PAGE
from benchmarks.harness import Effort, Numbers, Worker, cpu_seconds, pin, workspace
from benchmarks.table import Row

SESSIONS = 500
AT_A_TIME = 64
"""Messages that are under way together."""

SCRAPE_EVERY = 5.0
"""Seconds between two requests of Prometheus."""

SERVER_CORE, CLIENT_CORE = 0, 1


class _Side:
    """A server with its devices, with the page and somebody who looks at it, or without."""

    def __init__(self, directory: Path, stack: ExitStack, count: int, *, page: bool) -> None:
        serving = Worker.ours(
            "endpoint_worker", "serve", home=str(directory / "cem"), nodes=1, paired=count, service=True, page=page
        )
        self._server = stack.enter_context(serving)
        holding = Worker.ours(
            "endpoint_worker", "hold", home=str(directory / "rm"), first=0, count=count, server=self._server.ready
        )
        self._devices = stack.enter_context(holding)
        self._viewer: Worker | None = None
        if page:
            self._viewer = stack.enter_context(
                Worker.ours("endpoint_worker", "look", service=True, page=self._server.ready["page"])
            )
        pin(self._server.pid, SERVER_CORE)
        for other in (self._devices, self._viewer):
            if other is not None:
                pin(other.pid, CLIENT_CORE)

    def measure(self, seconds: float) -> Numbers:
        """Let the devices send as much as the server takes, while somebody looks at the page."""
        with self._looking(seconds):
            before = cpu_seconds([self._server.pid])
            done = self._devices.ask(busy=seconds, at_a_time=AT_A_TIME)
            cpu = cpu_seconds([self._server.pid]) - before
        return {"per_second": done["exchanged"] / done["seconds"], "per_cpu": done["exchanged"] / cpu}

    def idle(self, seconds: float) -> float:
        """Return the share of a core that the server takes while nothing is sent."""
        with self._looking(seconds):
            before = cpu_seconds([self._server.pid])
            time.sleep(seconds)
            return (cpu_seconds([self._server.pid]) - before) / seconds

    @contextmanager
    def _looking(self, seconds: float) -> Iterator[None]:
        if self._viewer is None:
            yield
            return
        with ThreadPoolExecutor(1) as thread:
            looking = thread.submit(self._viewer.ask, look=seconds, scrape_every=SCRAPE_EVERY)
            yield
            if not looking.result()["events"]:
                raise RuntimeError("the page told nothing")


def measure(effort: Effort) -> Iterator[Row]:
    """The rows of this theme."""
    count, rounds = effort.pick(SESSIONS, SESSIONS, 50), effort.pick(40, 12, 1)
    seconds = effort.pick(4, 3, 3)
    smaller = "" if count == SESSIONS else f"{count} sessions"
    with workspace() as directory, ExitStack() as stack:
        sides = {page: _Side(directory / str(page), stack, count, page=page) for page in (False, True)}
        for side in sides.values():
            side.measure(min(3, seconds))  # to warm up
        found: dict[bool, list[Numbers]] = {False: [], True: []}
        for turn in range(rounds):
            for page in (False, True) if turn % 2 == 0 else (True, False):
                found[page].append(sides[page].measure(seconds))
        idle = median(sides[True].idle(seconds) - sides[False].idle(seconds) for _ in range(effort.pick(7, 3, 1)))
    what = f"{SESSIONS} sessions, their page in one browser, Prometheus every {SCRAPE_EVERY:.0f} s"
    yield Row(f"{what}: share of a core that these take, idle", "", idle, smaller=smaller)
    for key, figure in (("per_cpu", "messages a CPU second of the server"), ("per_second", "messages a second")):
        ratios = sorted(b[key] / a[key] for a, b in zip(found[False], found[True], strict=True))
        ours, beside = (median(one[key] for one in found[page]) for page in (True, False))
        yield Row(f"{what}: {figure}", "1/s", ours, WITHOUT_PAGE, beside, smaller)
        yield Row(f"{what}: {figure}, median ratio of {rounds} rounds", "", median(ratios), smaller=smaller)
        spread = ", ".join(f"{ratio:.3f}" for ratio in ratios)
        print(f"{figure}: ratios of the rounds {spread}", file=sys.stderr)
