"""Signals that end a program, and its log, for applications of the library."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
from typing import Final

from s2connect.errors import UsageError

STOPPING: Final = (signal.SIGTERM, signal.SIGINT)

_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


async def until_signal(log_level: int | str | None = None) -> signal.Signals:
    """Wait for SIGTERM or SIGINT (Ctrl-C), and return it: for programs without an endpoint.

    Before and after it signals act as usual.

    Args:
        log_level: Such as ``"INFO"``: log to standard error from this level on, unless logging is set up already.

    Raises:
        UsageError: It is not awaited in the main thread, which alone gets signals.
    """
    if threading.current_thread() is not threading.main_thread():
        raise UsageError(
            "Signals come to the main thread only.", hint="In another one wait for an asyncio.Event of your own."
        )
    if log_level is not None:
        logging.basicConfig(format=_FORMAT, level=log_level)  # does nothing where logging is set up
    loop = asyncio.get_running_loop()
    came: asyncio.Future[signal.Signals] = loop.create_future()

    def stop(number: signal.Signals) -> None:
        if not came.done():
            came.set_result(number)

    with contextlib.ExitStack() as stack:
        for number in STOPPING:
            try:
                loop.add_signal_handler(number, stop, number)
                stack.callback(loop.remove_signal_handler, number)
            except NotImplementedError:  # Windows
                before = signal.signal(number, lambda n, _: loop.call_soon_threadsafe(stop, signal.Signals(n)))
                stack.callback(signal.signal, number, before)
        return await came
