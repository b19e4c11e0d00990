"""Driver of a core: passes its events on and calls it at its deadlines."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

_Event = TypeVar("_Event")


class _Core(Protocol[_Event]):
    events: list[_Event]

    def next_deadline(self) -> float | None: ...


class Driver(Generic[_Event]):
    """Driver of a core. Call :meth:`after` after each call of the core, and :meth:`close` in the end.

    ``tick`` is called with the time of the loop at the core's deadline, and ``every`` so many seconds before it.
    """

    def __init__(
        self,
        core: _Core[_Event],
        on_event: Callable[[_Event], None],
        tick: Callable[[float], None],
        every: float = math.inf,
    ) -> None:
        self._core = core
        self._on_event = on_event
        self._on_tick = tick
        self._every = every
        self._timer: asyncio.TimerHandle | None = None
        self.closed = False

    def after(self) -> None:
        """Pass events on, and set the timer."""
        events, self._core.events = self._core.events, []
        for event in events:
            self._on_event(event)
        deadline = self._core.next_deadline()
        if self._timer is None and deadline is not None and not self.closed:
            loop = asyncio.get_running_loop()
            now = loop.time()
            self._timer = loop.call_at(min(max(deadline, now + 0.05), now + self._every), self._tick)

    def close(self) -> None:
        """Stop the timer for good."""
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = None
        self._on_tick(asyncio.get_running_loop().time())
        self.after()
