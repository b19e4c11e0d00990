"""Signals that end a service or have it read its file again."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Iterator, Mapping
from functools import partial
from typing import Any

from s2connect.service.failures import ExitCode


@contextlib.contextmanager
def signal_handlers(handlers: Mapping[signal.Signals, Callable[[], object]]) -> Iterator[None]:
    """Call handlers in the event loop for signals that come during the block."""
    loop = asyncio.get_running_loop()
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


async def until_terminated(work: Coroutine[Any, Any, None], *, name: str) -> bool:
    """Run a coroutine until its end or SIGTERM, which cancels it; return True for the latter."""
    task = asyncio.create_task(work, name=name)
    with signal_handlers({signal.SIGTERM: task.cancel}):
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    if not task.cancelled():
        task.result()
    return task.cancelled()


class Stop:
    """Request to end a service, with the exit code and the unexpected error that was the reason, if there is one.

    ``drain`` is called with the first SIGTERM, and has to end in :meth:`now`; the second ends the service at once.
    """

    def __init__(self) -> None:
        self._requested = asyncio.Event()
        self.code = ExitCode.OK
        self.error: BaseException | None = None
        self.drain: Callable[[], object] | None = None

    def now(self, code: ExitCode = ExitCode.OK) -> None:
        """End the service; the first request counts."""
        if not self._requested.is_set():
            self.code = code
            self._requested.set()

    def terminate(self) -> None:
        """End the service, after :attr:`drain` where there is one that has not begun."""
        drain, self.drain = self.drain, None
        if drain is None:
            self.now()
        else:
            drain()

    def failed(self, error: BaseException) -> None:
        """End the service because of an error."""
        self.error = self.error or error
        self.now(ExitCode.FAILED)

    async def wait(self) -> None:
        """Wait for the request."""
        await self._requested.wait()

    def on_signals(self) -> contextlib.AbstractContextManager[None]:
        """End the service on SIGINT at once, and on SIGTERM."""
        return signal_handlers({signal.SIGINT: partial(self.now, ExitCode.INTERRUPTED), signal.SIGTERM: self.terminate})
