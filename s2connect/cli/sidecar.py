"""The other end of the sidecar contract: starts ``s2connect serve --json`` and talks with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from s2connect.cli.failures import Failure
from s2connect.cli.lines import MAX_LINE_BYTES

Object = dict[str, Any]

STOP_TIMEOUT = 5.0
"""Seconds a sidecar may take to end after its input has ended; then it is killed."""

MAX_EVENTS = 10_000
"""Events kept for whoever waits for one; the oldest go first."""


class Sidecar:
    """A running sidecar. Use it with ``async with``: the process never survives the block.

    Args:
        name: For messages to people.
        home: Its state directory, made by ``s2connect init``.
        log: File for what it writes on standard error.
        verbose: Whether it logs in detail.
    """

    def __init__(self, name: str, home: Path, log: Path, *, verbose: bool = False) -> None:
        self.name = name
        self._home = home
        self._log = log
        self._verbose = verbose
        self._events: deque[Object] = deque(maxlen=MAX_EVENTS)
        self._news = asyncio.Condition()
        self._results: dict[str, asyncio.Future[Object]] = {}
        self._commands = 0
        self._ended = False

    async def __aenter__(self) -> Self:
        arguments = ["serve", "--json", "--home", str(self._home), *(["--verbose"] if self._verbose else [])]
        self._process = await start(arguments, self._log)
        self._reader = asyncio.create_task(self._read(), name=f"s2connect-sidecar-{self.name}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await end(self._process)
        await self._reader

    async def wait(self, event: str, **fields: Any) -> Object:
        """Take the first event of a kind with these fields out of those that came, or wait for it.

        Raises:
            Failure: The sidecar ended, or said that it cannot go on.
        """
        async with self._news:
            while True:
                for found in self._events:
                    if found.get("event") == event and all(found.get(k) == v for k, v in fields.items()):
                        self._events.remove(found)
                        return found
                if self._ended:
                    raise self._gone()
                await self._news.wait()

    async def message(self, message_type: str) -> Object:
        """Wait for a message that the sidecar received."""
        async with self._news:
            while True:
                for found in self._events:
                    if found.get("direction") == "received" and found["message"].get("message_type") == message_type:
                        self._events.remove(found)
                        message: Object = found["message"]
                        return message
                if self._ended:
                    raise self._gone()
                await self._news.wait()

    async def command(self, command: str, **fields: Any) -> Object:
        """Have a command executed and return its result.

        Raises:
            Failure: It failed, or the sidecar ended.
        """
        assert self._process.stdin is not None
        self._commands += 1
        identifier = str(self._commands)
        result: asyncio.Future[Object] = asyncio.get_running_loop().create_future()
        self._results[identifier] = result
        line = json.dumps({"command": command, "id": identifier, **fields})
        try:
            if self._ended:
                raise self._gone()
            self._process.stdin.write(line.encode("ascii") + b"\n")
            await self._process.stdin.drain()
            answer = await result
        except ConnectionError:
            raise self._gone() from None
        finally:
            del self._results[identifier]
        if answer["ok"] is not True:
            raise Failure.from_object(answer.get("error"))
        return answer

    def _gone(self) -> Failure:
        for event in self._events:
            if "error" in event:
                return Failure.from_object(event["error"])
        return Failure("sidecar_ended", f"The process of the {self.name} ended before it was done.")

    async def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            while line := await self._process.stdout.readline():
                event: Object = json.loads(line)
                waiting = self._results.get(str(event.get("id"))) if event.get("event") == "result" else None
                if waiting is not None and not waiting.done():
                    waiting.set_result(event)
                    continue
                async with self._news:
                    self._events.append(event)
                    self._news.notify_all()
        finally:
            self._ended = True
            for waiting in self._results.values():
                if not waiting.done():
                    waiting.set_exception(self._gone())
            async with self._news:
                self._news.notify_all()


async def start(arguments: list[str], log: Path) -> asyncio.subprocess.Process:
    """Start the command in a process group of its own."""
    descriptor = await asyncio.to_thread(os.open, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "s2connect",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=descriptor,
            start_new_session=True,
            limit=2 * MAX_LINE_BYTES,
        )
    finally:
        os.close(descriptor)


def terminate(process: asyncio.subprocess.Process) -> None:
    """Ask a process to end, if it still runs."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)


async def end(process: asyncio.subprocess.Process) -> None:
    """Wait a little for the end of a process, then kill its group; also when cancelled."""
    try:
        async with asyncio.timeout(STOP_TIMEOUT):
            await process.wait()
    except TimeoutError:
        pass
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
