"""Programs of this package in processes of their own, which write one JSON object a line."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from s2connect.service.failures import Failure
from s2connect.service.lines import MAX_LINE_BYTES

Object = dict[str, Any]

STOP_TIMEOUT = 5.0
"""Seconds for a process to end after its signal; then it is killed."""

MAX_EVENTS = 10_000
"""Events that are kept; beyond it the oldest is forgotten."""


@dataclass(eq=False, repr=False)
class Program:
    """A running ``s2connect`` command with ``--json``. Use it with ``async with``: no process survives the block."""

    name: str
    """For messages to people."""
    arguments: list[str]
    """Of the command."""
    log: Path
    """File for what it writes on standard error."""
    typed: str = ""
    """Its standard input, which then ends."""
    watch: Callable[[Object], None] = lambda event: None
    """Callback for every event; must not raise."""

    def __post_init__(self) -> None:
        self._events: deque[Object] = deque(maxlen=MAX_EVENTS)
        self._news = asyncio.Event()
        self._ended = False

    async def __aenter__(self) -> Self:
        arguments = [sys.executable, "-m", "s2connect", *self.arguments, "--json"]
        self._process = await start(arguments, self.log, output=True)
        self._reader = asyncio.create_task(self._read(), name=f"s2connect-program-{self.name}")
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(ConnectionError):
            stdin.write(self.typed.encode())
            await stdin.drain()
        stdin.close()
        return self

    async def __aexit__(self, *error: object) -> None:
        try:
            await end(self._process, signal.SIGTERM)
        finally:
            await self._reader

    async def wait(self, event: str, **fields: Any) -> Object:
        """Take the first event of a kind with these fields out of those that came, or wait for it.

        Raises:
            Failure: The program ended, or said that it cannot go on.
        """
        while True:
            for found in self._events:
                if found.items() >= {"event": event, **fields}.items():
                    self._events.remove(found)
                    return found
            if self._ended:
                raise self._gone()
            self._news.clear()
            await self._news.wait()

    async def result(self) -> Object:
        """Return the output of a program that ends by itself.

        Raises:
            Failure: It failed.
        """
        await self._reader
        if await self._process.wait() != 0 or not self._events:
            raise self._gone()
        return self._events[-1]

    def _gone(self) -> Failure:
        for event in self._events:
            if "error" in event:
                return Failure.from_object(event["error"])
        return Failure("program_ended", f"The process of the {self.name} ended before it was done.")

    async def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            while line := await self._process.stdout.readline():
                event: Object = json.loads(line)
                self.watch(event)
                self._events.append(event)
                self._news.set()
        finally:
            self._ended = True
            self._news.set()


async def start(arguments: list[str], log: Path, *, output: bool = False) -> asyncio.subprocess.Process:
    """Start a program in a process group of its own, whose standard error goes to a log.

    Its standard output does so, too, unless ``output``; then we read that, and write its standard input.
    """
    descriptor = await asyncio.to_thread(os.open, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    pipe = asyncio.subprocess.PIPE
    try:
        return await asyncio.create_subprocess_exec(
            *arguments,
            stdin=pipe if output else asyncio.subprocess.DEVNULL,
            stdout=pipe if output else descriptor,
            stderr=descriptor,
            start_new_session=True,
            limit=2 * MAX_LINE_BYTES,
        )
    finally:
        os.close(descriptor)


async def end(process: asyncio.subprocess.Process, number: int) -> None:
    """Send a signal to a process that still runs, wait a little, then kill its group; also when cancelled."""
    try:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
        async with asyncio.timeout(STOP_TIMEOUT):
            await process.wait()
    except TimeoutError:
        pass
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
