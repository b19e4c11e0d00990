"""Effects of a change that must not begin before it is durable, where it is part of a larger transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Effect = Callable[[], None]

_waiting: ContextVar[list[Effect] | None] = ContextVar("s2connect_effects", default=None)


def when_durable(effect: Effect) -> None:
    """Run an effect of what has just been stored: now, or at the end of the transaction it is part of."""
    waiting = _waiting.get()
    if waiting is None:
        effect()
    else:
        waiting.append(effect)


@contextmanager
def held_back() -> Iterator[list[Effect]]:
    """Hold effects back, also those of tasks begun inside; run them after the COMMIT, or drop them."""
    waiting: list[Effect] = []
    token = _waiting.set(waiting)
    try:
        yield waiting
    finally:
        _waiting.reset(token)
