"""Processes that are killed at each step of their work in turn: before it, or once it is done.

They are forks of this one, which cost less than to start each anew.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

Work = Callable[[int, bool, int], Coroutine[Any, Any, None]]
"""Work of a process: it kills itself at a step, numbered from 1, ``True`` after it, and writes what is done to a file
descriptor."""


@dataclass(frozen=True)
class Killed:
    """End of a process at a step; the last one of each kind was not killed: it has no step of that number.

    Attributes:
        done: What it wrote.
    """

    step: int
    after: bool
    done: bytes


def killed_at_each_step(prepare: Callable[[], Coroutine[Any, Any, None]], work: Work) -> Iterator[Killed]:
    """Run work in a process of its own for each step, each time prepared anew, until it is done without a kill.

    Call it where no event loop runs, and no thread.
    """
    for after in (False, True):
        step, alive = 0, False
        while not alive:
            step += 1
            asyncio.run(prepare())
            read, write = os.pipe()
            child = os.fork()
            if not child:
                asyncio.run(work(step, after, write))
                os._exit(0)
            os.close(write)
            with os.fdopen(read, "rb") as pipe:
                done = pipe.read()
            _, status = os.waitpid(child, 0)
            alive = not os.WIFSIGNALED(status)
            yield Killed(step, after, done)
