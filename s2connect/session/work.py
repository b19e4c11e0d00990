"""Measurement of the work that one text of a peer takes, for its budget."""

from __future__ import annotations

from time import monotonic, thread_time
from typing import Final

LONG: Final = 4096
"""Characters of a text from which on its work is measured by the clock of the processor. That clock takes system calls,
which cost a fifth of all the work for a short text, so that of those the time that passes is taken instead."""

MOST_FOR_SHORT: Final = 0.01
"""Seconds that a short text can take. If more passed, this process was not running in between."""


def begin_work(size: int) -> float:
    """Return when the work for a text of so many characters begins, for :func:`work_since`."""
    return monotonic() if size < LONG else thread_time()


def work_since(begun: float, size: int) -> float:
    """Return the seconds of a processor that the work for a text of so many characters has taken."""
    if size >= LONG:
        return thread_time() - begun
    passed = monotonic() - begun
    return passed if passed < MOST_FOR_SHORT else MOST_FOR_SHORT
