"""Slices of the work for many sockets that are ready, or end, at once: timers and tasks are not late."""

from __future__ import annotations

import asyncio
import selectors
import sys
from collections import deque
from collections.abc import Callable
from typing import Final
from weakref import WeakKeyDictionary

SLICE: Final = 32
"""Sockets handled in one turn of the loop; each costs some 0.5 ms when thousands of peers vanish at once."""


class SlicedSelector(selectors.DefaultSelector):
    """Selector that reports at most :data:`SLICE` ready sockets at a time, and the rest before it polls again.

    So nobody is passed over for those that are always ready.
    """

    def __init__(self) -> None:
        super().__init__()
        self._left: deque[tuple[selectors.SelectorKey, int]] = deque()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if not self._left:
            self._left.extend(super().select(timeout))
        registered = self.get_map()
        ready: list[tuple[selectors.SelectorKey, int]] = []
        while self._left and len(ready) < SLICE:
            key, events = self._left.popleft()
            # Entries unregistered or changed meanwhile are left out; a later select reports those that are still ready.
            if registered.get(key.fileobj) is key:
                ready.append((key, events))
        return ready


_queues: WeakKeyDictionary[asyncio.AbstractEventLoop, deque[Callable[[], object]]] = WeakKeyDictionary()


def in_slices(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    """Call ``call`` in one of the next turns of a loop: in order, and at most :data:`SLICE` of these calls in a turn.

    For the ends of connections. uvloop handles all sockets that are ready in one turn, however many there are.
    """
    queue = _queues.setdefault(loop, deque())
    queue.append(call)
    if len(queue) == 1:
        loop.call_soon(_do_slice, loop, queue)


def _do_slice(loop: asyncio.AbstractEventLoop, queue: deque[Callable[[], object]]) -> None:
    for _ in range(min(SLICE, len(queue))):
        loop.call_soon(queue.popleft())  # each by itself: the loop reports what one raises
    if queue:
        loop.call_soon(_do_slice, loop, queue)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Make an event loop for a service. An application may use it with ``asyncio.Runner(loop_factory=…)``."""
    if sys.platform == "win32":  # its loop has no selector
        return asyncio.new_event_loop()
    return asyncio.SelectorEventLoop(SlicedSelector())
