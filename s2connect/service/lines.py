"""Reading and writing lines on file descriptors: bounded, and without blocking the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Self, TextIO

from s2connect.supervisor import Supervisor, process_failures
from s2connect.transports.base import MAX_MESSAGE_BYTES

MAX_LINE_BYTES = MAX_MESSAGE_BYTES + 65_536  # longest line that is read: one S2 message with what is around it
MAX_WAITING_BYTES = 4 * MAX_MESSAGE_BYTES  # for a slow reader of the output; beyond it :meth:`LineWriter.put` waits
MAX_COMMANDS = 1000  # of one source at a time, then nothing more is read; as many as a session has messages
FLUSH_TIMEOUT = 2.0  # seconds in which a reader may take what is still to be written when we end

_CHUNK = 65_536


class LineSplitter:
    """Splits a stream of bytes into lines. A line that is too long becomes None, and its rest is skipped."""

    def __init__(self, limit: int = MAX_LINE_BYTES) -> None:
        self._limit = limit
        self._begun = bytearray()
        self._skipping = False

    def feed(self, data: bytes) -> list[bytes | None]:
        """Take in bytes and return the lines they complete."""
        lines: list[bytes | None] = []
        *complete, rest = data.split(b"\n")
        for piece in complete:
            self._add(piece, lines)
            if not self._skipping:
                lines.append(bytes(self._begun))
            self._begun.clear()
            self._skipping = False
        self._add(rest, lines)
        return lines

    def end(self) -> list[bytes | None]:
        """Return the last line, without its end, when the stream has ended."""
        last, self._begun = self._begun, bytearray()
        return [bytes(last)] if last else []

    def _add(self, piece: bytes, lines: list[bytes | None]) -> None:
        if not self._skipping:
            self._begun += piece
            if len(self._begun) > self._limit:
                self._begun.clear()
                self._skipping = True
                lines.append(None)


async def chunks_of(descriptor: int) -> AsyncGenerator[bytes, None]:
    """Yield the bytes of a pipe, a terminal or a file. The descriptor stays blocking: other processes share it."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    try:
        loop.add_reader(descriptor, readable.set)
        loop.remove_reader(descriptor)
    except PermissionError:  # files and /dev/null are always readable, and cannot be waited for
        while chunk := await asyncio.to_thread(os.read, descriptor, _CHUNK):
            yield chunk
        return
    except (OSError, ValueError):  # it is closed
        return
    while True:
        readable.clear()
        loop.add_reader(descriptor, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(descriptor)
        try:
            chunk = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            continue
        except OSError:  # a terminal that has gone
            return
        if not chunk:
            return
        yield chunk


async def split_lines(chunks: AsyncIterator[bytes], limit: int = MAX_LINE_BYTES) -> AsyncGenerator[bytes | None, None]:
    """Yield the lines of a stream; None for one that is too long."""
    splitter = LineSplitter(limit)
    async for chunk in chunks:
        for line in splitter.feed(chunk):
            yield line
    for line in splitter.end():
        yield line


async def read_lines(descriptor: int, limit: int) -> AsyncGenerator[str, None]:
    """Yield the lines of a file descriptor as text; one longer than ``limit`` bytes is empty. Cancel-safe."""
    async with contextlib.aclosing(chunks_of(descriptor)) as chunks:
        async for line in split_lines(chunks, limit):
            yield (line or b"").decode("utf-8", "replace").strip()


def descriptor_of(stream: TextIO | None) -> int:
    """Return the descriptor of a standard stream; -1 for a closed one, whose number another file may have by now."""
    return stream.fileno() if stream is not None else -1


async def converse(
    chunks: AsyncIterator[bytes], handle: Callable[[bytes | None], Awaitable[None]], *, name: str, grace: float
) -> None:
    """Handle every line of a stream in a task called ``name``, begun in the order of the lines; None is a too long one.

    When the stream has ended, what is under way has ``grace`` seconds to finish.
    """
    slots = asyncio.Semaphore(MAX_COMMANDS)

    async def one(line: bytes | None) -> None:
        try:
            with contextlib.suppress(ConnectionError):  # the caller was cancelled
                await handle(line)
        finally:
            slots.release()

    async with Supervisor(name, process_failures) as tasks:
        async for line in split_lines(chunks):
            if line is None or line.strip():
                await slots.acquire()
                tasks.spawn(one(line), "command")
        await tasks.close(grace=grace)


class LineWriter:
    """Writes lines to a file descriptor from a thread of its own. Use it with ``async with``.

    :meth:`put` waits for the reader at the other end; :meth:`put_nowait` is for what is bounded by other means.
    ``on_broken`` is called once in the event loop when the reader has gone.
    """

    def __init__(self, descriptor: int, on_broken: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._on_broken = on_broken
        self._loop = asyncio.get_running_loop()
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._closing = False
        self._broken = False
        self._room = asyncio.Event()
        self._ended = asyncio.Event()
        # A daemon: a reader that has stopped reading must not keep the process alive.
        self._thread = threading.Thread(target=self._write, name="s2connect-output", daemon=True)

    async def __aenter__(self) -> Self:
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_TIMEOUT):
                await self._ended.wait()

    @property
    def full(self) -> bool:
        """True if the queue is full."""
        return self._bytes > MAX_WAITING_BYTES and not self._broken

    @property
    def ended(self) -> bool:
        """True if nothing is written any more, so that the descriptor can be closed."""
        return self._ended.is_set()

    async def put(self, line: bytes) -> None:
        """Write a line once there is room for it."""
        while self.full:
            self._room.clear()
            await self._room.wait()
        self.put_nowait(line)

    def put_nowait(self, line: bytes) -> None:
        """Write a line, whether there is room or not."""
        with self._changed:
            if self._broken or self._closing:
                return
            self._waiting.append(line + b"\n")
            self._bytes += len(line) + 1
            self._changed.notify()

    def _write(self) -> None:
        try:
            while (block := self._next()) is not None:
                self._write_all(block)
                with self._changed:
                    self._bytes -= len(block)
                self._tell(self._room.set)
        except OSError:
            with self._changed:
                self._broken = True
                self._waiting.clear()
            self._tell(self._room.set)
            self._tell(self._on_broken)
        finally:
            self._tell(self._ended.set)

    def _next(self) -> bytes | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            block = b"".join(self._waiting)
            self._waiting.clear()
            return block or None

    def _write_all(self, block: bytes) -> None:
        left = memoryview(block)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # another process made the descriptor non-blocking
                select.select([], [self._descriptor], [])

    def _tell(self, callback: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has closed meanwhile
            self._loop.call_soon_threadsafe(callback)
