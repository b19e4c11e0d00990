"""Herd of paired devices: accepted rate of an energy manager by offered load, and time until all are back.

``python -m benchmarks.herd`` prints the curve and the return as CSV; see ``--help``.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from benchmarks.harness import Effort, Task, Worker, ask_all, workspace
from benchmarks.table import Row

PROCESSES: Final = 2
RATES: Final = (25, 50, 100, 200, 400, 800, 1600, 3200)
"""Offered attempts a second for the curve."""


class Herd:
    """The server and the processes of its devices."""

    def __init__(self, server: Worker, parts: Sequence[Worker]) -> None:
        self.server = server
        self.parts = parts

    def ask(self, **question: object) -> list[Task]:
        """Send a task to all processes of devices at the same time."""
        return ask_all(self.parts, **question)

    def vanish(self) -> None:
        """Kill the processes of all devices at once."""
        for part in self.parts:
            part.kill()


@contextmanager
def herd(directory: Path, count: int) -> Iterator[Herd]:
    """Start a server that is paired with ``count`` devices, and the devices."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with ExitStack() as stack:
            # The server has priority over everything but the devices, where the rights allow it.
            task = {"home": str(directory / "cem"), "nodes": 1, "paired": count, "service": True, "nice": -8}
            server = stack.enter_context(Worker.ours("endpoint_worker", "serve", **task))
            share = count // PROCESSES
            parts = [
                stack.enter_context(
                    Worker.ours("herd_worker", "devices", server=server.ready, first=n * share, count=share)
                )
                for n in range(PROCESSES)
            ]
            yield Herd(server, parts)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def added(answers: Sequence[Task]) -> Counter[str]:
    """Sum the results of the attempts over all processes."""
    return sum((Counter(answer["fates"]) for answer in answers), Counter())


def curve(rates: Sequence[int], seconds: float, count: int) -> Iterator[Task]:
    """Measure the accepted rate by offered load; each attempt is a new device's, and none is repeated."""
    with workspace() as directory, herd(directory, count) as devices:
        devices.ask(do="offer", rate=20, seconds=2.0)
        for rate in rates:
            before = devices.server.ask()
            answers = devices.ask(do="offer", rate=rate / PROCESSES, seconds=seconds)
            lag = devices.server.ask()
            spent = lag["cpu"] - before["cpu"]
            yield {
                "offered": round(sum(answer["offered"] for answer in answers)),
                "accepted": round(sum(answer["rate"] for answer in answers), 1),
                "per_cpu_second": round(sum(answer["fates"].get("connected", 0) for answer in answers) / spent, 1),
                "p50": round(max(answer["spans"]["p50"] for answer in answers), 2),
                "p99": round(max(answer["spans"]["p99"] for answer in answers), 2),
                "lag_p50": round(lag["lag_p50"], 3),
                "lag_max": round(lag["lag_max"], 3),
                "fates": dict(added(answers)),
            }


def back(count: int, patience: float, every: float = 1.0) -> Iterator[Task]:
    """Connect all devices at the same moment, keep them; then drop all at once."""
    with workspace() as directory, herd(directory, count) as devices:
        devices.server.ask()
        began = time.monotonic()
        devices.ask(do="come")
        while True:
            time.sleep(every)
            seen, answers = devices.server.ask(), devices.ask(do="look")
            spent = time.monotonic() - began
            yield {
                "seconds": round(spent, 1),
                "connected": seen["connected"],
                "lag_p50": round(seen["lag_p50"], 3),
                "lag_max": round(seen["lag_max"], 3),
                "fates": dict(added(answers)),
            }
            if seen["connected"] >= count or spent > patience:
                break
        full = devices.server.ask(memory=True)
        devices.server.ask()
        began = time.monotonic()
        devices.vanish()
        gone = devices.server.ask(until_connected=0, seconds=60.0)
        yield {
            "seconds": round(time.monotonic() - began, 1),
            "connected": gone["connected"],
            "lag_p50": round(gone["lag_p50"], 3),
            "lag_max": round(gone["lag_max"], 3),
            "fates": {"vanished": full["connected"], "kilobytes before": full["bytes"] // 1000},
        }


def measure(effort: Effort) -> Iterator[Row]:
    """The rows of this theme."""
    points = list(curve(RATES[: effort.pick(8, 6)], effort.pick(12, 5), effort.pick(8000, 2000)))
    best = max(point["accepted"] for point in points)
    yield Row("session initiations a second, best of any load", "1/s", best)
    worst = min(point["accepted"] for point in points if point["offered"] >= best)
    yield Row(f"with up to {points[-1]['offered']:,} a second offered", "1/s", worst, "at the best load", best)
    count = effort.pick(2000, 400)
    *coming, gone = back(count, 300.0)
    yield Row(
        f"{count:,} devices at once: all back after", "s", coming[-1]["seconds"], "at the best rate", count / best
    )
    yield Row("longest lag of the loop meanwhile", "s", max(point["lag_max"] for point in coming))
    yield Row(f"longest lag of the loop when {count:,} vanish at once", "s", gone["lag_max"])


def main() -> None:
    """Print the curve, or the return of a herd, as CSV."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.herd", description=__doc__)
    parser.add_argument("what", choices=["curve", "back"])
    parser.add_argument("--devices", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=10.0, help="a point of the curve, or 'back' at most")
    parser.add_argument("--rates", type=int, nargs="*", default=RATES)
    arguments = parser.parse_args()
    points = (
        curve(arguments.rates, arguments.seconds, arguments.devices)
        if arguments.what == "curve"
        else back(arguments.devices, arguments.seconds)
    )
    for number, point in enumerate(points):
        if number == 0:
            print(",".join(point))
        print(",".join(f'"{value}"' if isinstance(value, dict) else str(value) for value in point.values()), flush=True)


if __name__ == "__main__":
    main()
