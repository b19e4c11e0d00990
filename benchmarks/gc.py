"""Pauses by the garbage collector in a server with thousands of sessions."""

from __future__ import annotations

import time
from collections.abc import Iterator

from benchmarks.harness import Effort, workspace
from benchmarks.herd import Herd, herd
from benchmarks.table import Row

STAY: int = 20
"""Seconds of idle sessions that are measured after all have come."""


def measure(effort: Effort) -> Iterator[Row]:
    """The rows of this theme."""
    sizes = {4_000: effort.pick(4_000, 400, 100), 10_000: effort.pick(10_000, 1_000, 200)}
    with workspace() as directory, herd(directory, max(sizes.values())) as devices:
        begun = 0
        for wanted, count in sizes.items():
            pause, cpu, lag = _come(devices, begun, count, effort.pick(STAY, 5, 2))
            begun, smaller = count, "" if count == wanted else f"{count} sessions"
            yield Row(f"{wanted:,} sessions: longest pause by garbage collection", "ms", pause * 1e3, smaller=smaller)
            yield Row(f"{wanted:,} sessions: CPU of the longest garbage collection", "ms", cpu * 1e3, smaller=smaller)
            yield Row(f"{wanted:,} sessions: longest lag of the loop while idle", "ms", lag * 1e3, smaller=smaller)
        devices.vanish()
        gone = devices.server.ask(until_connected=0, seconds=60.0)
    count = sizes[10_000]
    yield Row(f"{count:,} sessions vanish at once: longest pause by garbage collection", "ms", gone["gc_max"] * 1e3)
    yield Row(f"{count:,} sessions vanish at once: longest lag of the loop", "ms", gone["lag_max"] * 1e3)


def _come(devices: Herd, first: int, count: int, stay: float) -> tuple[float, float, float]:
    """Let all devices below ``count`` connect and stay.

    Return the longest pause and its CPU, which the priority of the devices does not lengthen, and the lag once all had
    come.
    """
    share = len(devices.parts)
    devices.server.ask()
    devices.ask(do="come", first=first // share, until=count // share)
    coming = devices.server.ask(until_connected=count, seconds=600.0)
    if coming["connected"] < count:
        raise RuntimeError(f"only {coming['connected']} of {count} sessions came")
    time.sleep(stay)
    staying = devices.server.ask()
    pause, cpu = (max(coming[key], staying[key]) for key in ("gc_max", "gc_cpu"))
    return pause, cpu, staying["lag_max"]
