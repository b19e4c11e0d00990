"""Supervisor: owns background tasks, starts the long-lived ones again after an error, and ends them on close."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Final, Self, TypeVar

from s2connect.errors import S2ConnectError
from s2connect.model.log_limiter import LogLimiter

_log = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_DELAY: Final = 1.0
"""Seconds, at most, until a task that failed is started again; doubled with every failure that follows."""

LONGEST_DELAY: Final = 300.0
"""The longest such delay in seconds. A task is never given up: a gateway has to come back by itself."""

STABLE: Final = 300.0
"""Seconds that a task has to run for its next failure to count as the first one."""

REPORT_EVERY: Final = 60.0
"""Seconds between two reports of the same failure, in the log and as an event; those between are counted."""

TRACEBACK_EVERY: Final = 86_400.0
"""Seconds until the same failure is logged with its traceback again, because logs are rotated."""

MAX_KNOWN: Final = 256
"""Distinct failures remembered; beyond it the oldest is forgotten."""

CLOSE_TIMEOUT: Final = 30.0
"""Seconds for cancelled tasks to end: links and sessions close towards their peers."""


@dataclass(frozen=True, kw_only=True)
class TaskFailure:
    """A background task of this program failed.

    Attributes:
        task: Kind of the task, e.g. ``connector``.
        error: Name of the exception's class. Its text is for the log alone: it may hold anything.
        retry_in: Seconds until the task is started again, None where it is not.
        count: How often it failed in this way since the last report, this time included.
    """

    task: str
    error: str
    retry_in: float | None
    count: int


class FailureLog:
    """Failures of tasks: counted, logged with their traceback once, and published; bounded by time and number.

    ``publish`` is called with every failure that is reported. ``counts`` has all failures so far, by ``task``.
    """

    def __init__(
        self, publish: Callable[[TaskFailure], None] | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._publish = publish
        self.clock = clock
        self._reports = LogLimiter(period=REPORT_EVERY, max_kinds=MAX_KNOWN)
        self._traces = LogLimiter(period=TRACEBACK_EVERY, max_kinds=MAX_KNOWN)

    def failed(
        self,
        task: str,
        error: BaseException,
        *,
        name: str = "",
        retry_in: float | None = None,
        expected: int = logging.WARNING,
    ) -> None:
        """Count a failure and, unless the same was reported within ``REPORT_EVERY``, report it.

        ``task`` is one of few names, none from the network; ``name`` is for the log, and ``expected`` the level at
        which an :class:`S2ConnectError` is logged. It is published only if the task is started again: otherwise the
        caller that began it reports its result.
        """
        self.counts[task] += 1
        now, key = self.clock(), (task, _origin(error))
        count = self._reports.count(key, now)
        if not count:
            return
        trace = self._traces.count(key, now) > 0
        what = f"{name or task} failed" + (f" ({count} such failures)" if count > 1 else "")
        then = "" if retry_in is None else f"; it is started again in {retry_in:.1f} s"
        kind = type(error).__name__
        if isinstance(error, S2ConnectError):
            _log.log(expected, "%s%s: %s", what, then, error)
            if retry_in is None:
                return
        elif trace:
            _log.error("%s because of an error in this program%s", what, then, exc_info=error)
        else:
            _log.error("%s because of the same error again, %s%s", what, kind, then)
        if self._publish is not None:
            try:
                self._publish(TaskFailure(task=task, error=kind, retry_in=retry_in, count=count))
            except Exception:
                _log.exception("The failure of %s could not be published", task)

    def loop_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Report an exception that a callback raised; exception handler of an event loop that is ours alone."""
        error = context.get("exception")
        if isinstance(error, Exception):
            self.failed("callback", error, name=str(context.get("message", "")))
        else:
            loop.default_exception_handler(context)


process_failures: Final = FailureLog()
"""Failures in callbacks and in tasks bound to one connection: its end is reported to its owner."""


def _origin(error: BaseException) -> object:
    """Return class and origin of an exception, which identify a fault."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return type(error), trace and (trace.tb_frame.f_code.co_filename, trace.tb_lineno)


class Supervisor:
    """Owns background tasks. They end with :meth:`close`, or with the context.

    Args:
        name: Begins the names of its tasks.
        failures: Reports failures; it may be shared.
        sleep: Waits so many seconds.
        chance: Uniform in [0, 1), spreads the delays.
    """

    def __init__(
        self,
        name: str,
        failures: FailureLog | None = None,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.failures = failures if failures is not None else FailureLog()
        self._name = name
        self._sleep = sleep
        self._chance = chance
        self._tasks: dict[asyncio.Task[Any], tuple[str, int]] = {}
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def running(self) -> int:
        """Number of running tasks."""
        return len(self._tasks)

    def spawn(
        self, work: Coroutine[Any, Any, T], task: str, about: object = "", *, expected: int = logging.WARNING
    ) -> asyncio.Task[T]:
        """Run a coroutine once. Its failure is reported; after :meth:`close` it is cancelled before it begins.

        ``task`` is its kind (see :class:`TaskFailure`), ``about`` a further name for the log: text from the network has
        to be cleaned. ``expected`` is the level at which an :class:`S2ConnectError` is logged.
        """
        name = f"{self._name}-{task}-{about}" if about else f"{self._name}-{task}"
        made = asyncio.create_task(work, name=name)
        self._tasks[made] = task, expected
        made.add_done_callback(self._done)
        if self._closed:
            made.cancel()
        return made

    def keep(self, work: Callable[[], Coroutine[Any, Any, None]], task: str, about: object = "") -> asyncio.Task[None]:
        """Run a coroutine until it returns or is cancelled. After every error, which is reported, it is started again.

        One with which it answers its cancellation ends it, too.

        ``work`` makes it, able to begin anew wherever it failed; the rest is as in :meth:`spawn`. The task that is
        returned goes through all its lives.
        """
        return self.spawn(self._keep(work, task), task, about)

    async def _keep(self, work: Callable[[], Coroutine[Any, Any, None]], task: str) -> None:
        me, clock, failures = asyncio.current_task(), self.failures.clock, 0
        assert me is not None
        while True:
            began = clock()
            try:
                return await work()
            except asyncio.CancelledError as error:
                if me.cancelling():
                    raise
                failure: BaseException = error  # only what it awaited was cancelled
            except Exception as error:
                if me.cancelling():
                    raise  # on the way to its end
                failure = error
            if clock() - began >= STABLE:
                failures = 0
            delay = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(failures, 16)) * (1 + self._chance()) / 2
            failures += 1
            self.failures.failed(task, failure, name=me.get_name(), retry_in=delay)
            del failure  # with its traceback, which holds this frame
            await self._sleep(delay)

    def _done(self, made: asyncio.Task[Any]) -> None:
        task, expected = self._tasks.pop(made)
        if not made.cancelled():
            error = made.exception()
        elif made.cancelling():
            return
        else:
            error = asyncio.CancelledError("something that it waited for was cancelled")
        if error is not None:
            self.failures.failed(task, error, name=made.get_name(), expected=expected)

    async def end(self, tasks: Iterable[asyncio.Task[Any]]) -> set[asyncio.Task[Any]]:
        """Cancel tasks and wait until they have ended, except for the caller's; cancelled itself, wait no longer.

        Those that did not end within ``CLOSE_TIMEOUT`` are logged and returned.
        """
        ending = {task for task in tasks if not task.done() and task is not asyncio.current_task()}
        for task in ending:
            task.cancel()
        if not ending:
            return ending
        _, left = await asyncio.wait(ending, timeout=CLOSE_TIMEOUT)
        for task in left:
            _log.error("%s was cancelled and does not end within %.0f s", task.get_name(), CLOSE_TIMEOUT)
        return left

    async def close(self, *, grace: float = 0.0) -> None:
        """End all tasks but the caller's, after ``grace`` seconds for them to end by themselves. Idempotent.

        None begins afterwards.
        """
        me = asyncio.current_task()
        if grace and (running := self._tasks.keys() - {me}):
            await asyncio.wait(running, timeout=grace)
        self._closed = True
        stuck: set[asyncio.Task[Any]] = set()
        while ending := [task for task in self._tasks if not task.done() and task not in stuck and task is not me]:
            stuck |= await self.end(ending)  # the end of one may have begun another
