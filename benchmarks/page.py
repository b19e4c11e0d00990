"""Cost of the page and of its metrics for the messages of 500 sessions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
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

WINDOW = 1.0
"""Seconds of one measurement of the CPU of a message: short, so that what disturbs one disturbs its neighbour, too."""

FEW = 50
"""Messages a second of all sessions, where the page's own share is measured."""

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

    def busy(self, seconds: float, *, looking: bool = False) -> Numbers:
        """Let the devices send as much as the server takes, while somebody looks at the page or nobody does.

        Return the messages a second, and the CPU seconds of the server for a message.
        """
        with self._looking(seconds) if looking else nullcontext():
            before = cpu_seconds([self._server.pid])
            done = self._devices.ask(busy=seconds, at_a_time=AT_A_TIME)
            cpu = cpu_seconds([self._server.pid]) - before
        return {"rate": done["exchanged"] / done["seconds"], "cpu": cpu / done["exchanged"]}

    def quiet(self, seconds: float, *, looking: bool) -> float:
        """Let the devices send a little, so that the page changes all the time; return the share of a core in use."""
        with self._looking(seconds) if looking else nullcontext():
            before, begun = cpu_seconds([self._server.pid]), time.perf_counter()
            self._devices.ask(per_second=FEW / SESSIONS, seconds=seconds, seed=1)
            return (cpu_seconds([self._server.pid]) - before) / (time.perf_counter() - begun)

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
    count, rounds = effort.pick(SESSIONS, SESSIONS, 50), effort.pick(40, 12, 2)
    smaller = "" if count == SESSIONS else f"{count} sessions"
    with workspace() as directory, ExitStack() as stack:
        without, with_page = (_Side(directory / str(page), stack, count, page=page) for page in (False, True))
        for side in (without, with_page):
            side.busy(effort.pick(5, 5, 2))  # to warm up; what is kept of the first messages is kept
        pairs = list[tuple[Numbers, Numbers]]()
        for turn in range(rounds):
            # A B, then B A: what drifts within a round hits both.
            found = {side: side.busy(WINDOW) for side in ((without, with_page) if turn % 2 else (with_page, without))}
            pairs.append((found[with_page], found[without]))
        whole = effort.pick(30, 15, 5)
        alone = with_page.quiet(whole, looking=False)  # first, because the server sees late that nobody looks any more
        share = max(0.0, with_page.quiet(whole, looking=True) - alone)
        seen = list[tuple[Numbers, Numbers]]()
        for _ in range(effort.pick(8, 3, 1)):
            seen.append((with_page.busy(whole / 5, looking=True), without.busy(whole / 5)))
            with_page.busy(WINDOW)  # with its next event the server sees that nobody looks any more
    what = f"{SESSIONS} sessions, their page in one browser, Prometheus every {SCRAPE_EVERY:.0f} s"
    ours, beside = (median(one["cpu"] for one in of) for of in zip(*pairs, strict=True))
    ratios = sorted((1 - share) * other["cpu"] / one["cpu"] for one, other in pairs)
    ratio = median(ratios)
    yield Row(f"{what}: messages a second of a core", "1/s", ratio / beside, WITHOUT_PAGE, 1 / beside, smaller)
    for name, value in (("lower quarter", len(ratios) // 4), ("upper quarter", len(ratios) * 3 // 4)):
        yield Row(f"{what}: ratio of {rounds} rounds, {name}", "", ratios[value], smaller=smaller)
    yield Row(f"{what}: share of a core for page and metrics", "%", share * 100, smaller=smaller)
    yield Row(f"{what}: CPU of a message, nobody looking", "µs", ours * 1e6, WITHOUT_PAGE, beside * 1e6, smaller)
    for key, name, unit, factor in (
        ("cpu", "CPU of a message, page and metrics in it", "µs", 1e6),
        ("rate", "messages a second, as the machine was", "1/s", 1.0),
    ):
        ours, beside = (median(one[key] * factor for one in of) for of in zip(*seen, strict=True))
        yield Row(f"{what}: {name}", unit, ours, WITHOUT_PAGE, beside, smaller)
