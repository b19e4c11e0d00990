"""Cost of the page and of its metrics for the messages of 500 sessions."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
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

    def measure(self, seconds: float, *, looking: bool) -> Numbers:
        """Let the devices send as much as the server takes, while somebody looks at the page or nobody does."""
        with self._looking(seconds) if looking else nullcontext():
            before = cpu_seconds([self._server.pid])
            done = self._devices.ask(busy=seconds, at_a_time=AT_A_TIME)
            cpu = cpu_seconds([self._server.pid]) - before
        return {"rate": done["exchanged"] / done["seconds"], "cpu": cpu / done["seconds"]}

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
    count, rounds = effort.pick(SESSIONS, SESSIONS, 50), effort.pick(15, 5, 1)
    seconds = effort.pick(8, 5, 3)
    smaller = "" if count == SESSIONS else f"{count} sessions"
    with workspace() as directory, ExitStack() as stack:
        without, with_page = (_Side(directory / str(page), stack, count, page=page) for page in (False, True))
        kinds = {"without": (without, False), "unseen": (with_page, False), "seen": (with_page, True)}
        for side, looking in kinds.values():
            side.measure(min(3, seconds), looking=looking)  # to warm up
        found = list[_Round]()
        for _ in range(rounds):
            with_page.measure(1.5, looking=False)  # with its next event the server sees that nobody looks any more
            found.append(
                _Round(**{name: side.measure(seconds, looking=looking) for name, (side, looking) in kinds.items()})
            )
    what = f"{SESSIONS} sessions, their page in one browser, Prometheus every {SCRAPE_EVERY:.0f} s"
    ours, beside = (median(values) for values in zip(*(one.of_a_core for one in found), strict=True))
    yield Row(f"{what}: messages a second of a core", "1/s", ours, WITHOUT_PAGE, beside, smaller)
    ratios = sorted(ours / beside for ours, beside in (one.of_a_core for one in found))
    for name, ratio in (("lowest", ratios[0]), ("median", median(ratios)), ("highest", ratios[-1])):
        yield Row(f"{what}: {name} ratio of {rounds} rounds", "", ratio, smaller=smaller)
    yield Row(f"{what}: share of a core for page and metrics", "", median(one.share for one in found), smaller=smaller)
    more = median(one.per_message("unseen") - one.per_message("without") for one in found)
    yield Row(f"{what}: more CPU of a message", "µs", more * 1e6, smaller=smaller)
    ours, beside = (median(getattr(one, kind)["rate"] for one in found) for kind in ("seen", "without"))
    yield Row(f"{what}: messages a second, as the machine was", "1/s", ours, WITHOUT_PAGE, beside, smaller)


@dataclass(frozen=True)
class _Round:
    """One measurement of each kind: without a page, with one that nobody sees, and with one that is seen."""

    without: Numbers
    unseen: Numbers
    seen: Numbers

    def per_message(self, kind: str) -> float:
        """Return the CPU seconds of a message, of a kind without somebody who looks."""
        numbers: Numbers = getattr(self, kind)
        return numbers["cpu"] / numbers["rate"]

    @property
    def share(self) -> float:
        """Share of a core that page and metrics take from time to time, whatever is sent."""
        return max(0.0, self.seen["cpu"] - self.seen["rate"] * self.per_message("unseen"))

    @property
    def of_a_core(self) -> tuple[float, float]:
        """Messages a second that a core of the server would take, with page and without.

        It does not depend on how much of the core others took meanwhile; what the page takes by the clock is counted in
        full.
        """
        return (1 - self.share) / self.per_message("unseen"), 1 / self.per_message("without")
