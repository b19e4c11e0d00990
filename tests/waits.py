"""Waits of tests: how slow this machine is, and everything that waits for something, in one place.

A test waits for a condition and never for a time. The seconds that it names are those of a quiet machine; what it is
given is :data:`MARGIN` times as much, and more on a machine that is slow or busy: before the first test as many
processes as there are workers start at once, and the slowest of them sets the factor. ``S2CONNECT_TEST_SLOWNESS`` sets
it by hand. A wait that is long costs nothing where the condition comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable

VARIABLE = "S2CONNECT_TEST_SLOWNESS"

MARGIN = 3.0
"""By so much a wait is longer than what a quiet machine needs: others may come while the tests run."""

QUIET_START = 0.35
"""Seconds that the command needs to load on the machine for which the tests name their seconds."""

SLOWEST = 5.0
"""Beyond this factor a machine is not slow but stuck."""


def measure(workers: int) -> float:
    """Return by what factor processes start slower here than on a quiet machine, so many at once; at least 1."""
    began = time.monotonic()
    starting = [subprocess.Popen([sys.executable, "-c", "import s2connect.cli.app"]) for _ in range(max(1, workers))]
    for process in starting:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(SLOWEST * QUIET_START)
        process.kill()
        process.wait()
    return min(SLOWEST, max(1.0, (time.monotonic() - began) / QUIET_START))


def slowness() -> float:
    """By what factor this machine is slower than a quiet one; 1 where nobody has measured."""
    return float(os.environ.get(VARIABLE) or 1.0)


def slowed(seconds: float) -> float:
    """Seconds for a time limit of ours that shall not end before its work is done, on a slow machine neither."""
    return seconds * slowness()


def patience(seconds: float) -> float:
    """Seconds to wait for what a quiet machine does in so many."""
    return seconds * slowness() * MARGIN


def within(seconds: float) -> asyncio.Timeout:
    """Fail where the block takes longer than a slow machine needs for what a quiet one does in so many seconds."""
    return asyncio.timeout(patience(seconds))


@contextlib.asynccontextmanager
async def at_most(seconds: float) -> AsyncIterator[None]:
    """Leave the block after so many seconds, without an error: for what may never come."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            yield


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until something is so that another task, or a process, brings about."""
    async with within(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def until_still(value: Callable[[], object], seconds: float = 0.2) -> None:
    """Wait until a value has not changed for some time, as where a writer waits for its reader."""
    before: object = object()
    while before != (before := value()):
        await asyncio.sleep(slowed(seconds))


class Deadline:
    """When a loop outside of asyncio gives up."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + patience(seconds)

    def left(self) -> float:
        """Seconds that are left; 0 when it has passed."""
        return max(0.0, self._end - time.monotonic())

    def passed(self) -> bool:
        """Return whether nothing is left."""
        return not self.left()
