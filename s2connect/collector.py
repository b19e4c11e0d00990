"""Python's garbage collector in a service with many sessions: no collection stops the event loop noticeably."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, NoReturn

_log = logging.getLogger(__name__)

THRESHOLDS: Final = (1000, 8, 4)
"""``gc.set_threshold``: a collection every 1,000 new objects, every ninth and every 45th time of older ones, too. So
some 50,000 objects are walked at most, in some 10 ms."""

CHECK_EVERY: Final = 60.0
"""Seconds between two looks at the memory in use."""

GROWTH_BLOCKS: Final = 500_000
"""Blocks of memory that may be added without a reason: some 50 MB."""

SESSION_BLOCKS: Final = 1_500
"""Blocks of memory that a session explains: twice those of one with a full history."""

_ELDEST: Final = 2  # generation


@dataclass(frozen=True, slots=True)
class Growth:
    """Memory in use when all objects were last walked, and the sessions then. Sans-I/O.

    Attributes:
        blocks: As ``sys.getallocatedblocks`` counts them.
        sessions: Number of open ones.
    """

    blocks: int
    sessions: int

    def is_suspicious(self, blocks: int, sessions: int) -> bool:
        """Return whether so much memory was added that there must be garbage: it doubled, beyond what sessions need."""
        explained = SESSION_BLOCKS * max(0, sessions - self.sessions)
        return blocks - self.blocks > max(GROWTH_BLOCKS, self.blocks) + explained


async def short_collections(
    sessions: Callable[[], int], *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> NoReturn:
    """Keep the pauses of Python's garbage collector short in this process, until cancelled: for programs of their own.

    A collection of the eldest generation walks all objects: with 4,000 sessions it stops the loop for more than a
    second. Meanwhile, what has survived one is left out of all later ones (``gc.freeze``), and is freed by reference
    counting alone. That is enough for sessions and connections. Should memory grow beyond what sessions explain, there
    is garbage among what was left out: then all is walked once, and the log says how long it took and what was found.

    Args:
        sessions: Returns the number of open sessions; called once a minute.
        sleep: Waits so many seconds.
    """
    thresholds = gc.get_threshold()
    try:
        growth = _walk_all(sessions())
        gc.callbacks.append(_leave_survivors_out)
        gc.set_threshold(*THRESHOLDS)
        while True:
            await sleep(CHECK_EVERY)
            now = sessions()
            if growth.is_suspicious(sys.getallocatedblocks(), now):
                began = time.perf_counter()
                before, growth = sys.getallocatedblocks(), _walk_all(now)
                what = (
                    "Memory has grown to %d blocks with %d sessions. Of them, garbage were %d; to find it took %.2f s"
                )
                _log.warning(what, before, now, before - growth.blocks, time.perf_counter() - began)
    finally:
        if _leave_survivors_out in gc.callbacks:
            gc.callbacks.remove(_leave_survivors_out)
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def _walk_all(sessions: int) -> Growth:
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.collect()  # of nothing: Python puts its next one off until a quarter of what this one has walked is new
    return Growth(sys.getallocatedblocks(), sessions)


def _leave_survivors_out(phase: str, info: dict[str, Any]) -> None:
    if phase == "stop" and info["generation"] == _ELDEST:
        gc.freeze()
