"""Measurements of a server by itself: the lag of its event loop, and the pauses by the garbage collector."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from importlib import import_module
from typing import Final

from benchmarks.harness import Task, percentile

TICK: Final = 0.01
"""Seconds between two measurements of the loop's lag."""


def service_loop() -> asyncio.AbstractEventLoop:
    """Make the event loop that ``s2connect serve`` runs on, in a commit of any age."""
    try:
        loop: asyncio.AbstractEventLoop = import_module("s2connect.service.event_loop").new_event_loop("auto")
    except ImportError:
        loop = import_module("s2connect.transports.slices").new_event_loop()
    return loop


class Watch:
    """Lag of the event loop, measured every 10 ms, and the longest pause by the garbage collector.

    The process is treated as ``s2connect serve`` treats its own, in a commit of any age. ``sessions`` returns how many
    are open. ``take`` returns what was seen since the last time, in seconds; ``stretch`` is the CPU that the loop took
    at most from one look to the next, which does not depend on what else the machine does, as the lag does.
    """

    def __init__(self, stack: AsyncExitStack, sessions: Callable[[], int]) -> None:
        self._lags: list[float] = []
        self._pause = self._pause_cpu = self._stretch = 0.0
        self._collections = [0, 0, 0]
        self._began = self._began_cpu = 0.0
        gc.callbacks.append(self._collecting)
        stack.callback(gc.callbacks.remove, self._collecting)
        stack.callback(asyncio.create_task(self._watch(), name="benchmark-lag").cancel)
        with contextlib.suppress(ImportError):
            keeping = import_module("s2connect.collector").short_collections(sessions)
            stack.callback(asyncio.create_task(keeping, name="benchmark-collector").cancel)

    def _collecting(self, phase: str, details: dict[str, int]) -> None:
        if phase == "start":
            self._began, self._began_cpu = time.perf_counter(), time.thread_time()
        else:
            self._pause = max(self._pause, time.perf_counter() - self._began)
            self._pause_cpu = max(self._pause_cpu, time.thread_time() - self._began_cpu)
            self._collections[details["generation"]] += 1

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            before, cpu = loop.time(), time.thread_time()
            await asyncio.sleep(TICK)
            self._lags.append(loop.time() - before - TICK)
            self._stretch = max(self._stretch, time.thread_time() - cpu)

    def take(self) -> Task:
        seen, self._lags = self._lags or [0.0], []
        pauses = {"gc_max": self._pause, "gc_cpu": self._pause_cpu, "stretch": self._stretch}
        self._pause = self._pause_cpu = self._stretch = 0.0
        collections, self._collections = self._collections, [0, 0, 0]
        lags = {"lag_max": max(seen), "lag_p99": percentile(seen, 0.99), "lag_p50": percentile(seen, 0.5)}
        return lags | pauses | {"gc_runs": collections, "cpu": time.process_time()}
