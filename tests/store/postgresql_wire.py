"""Somebody between a program and PostgreSQL: forwards the bytes of a socket, cuts it, or falls silent."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

SOCKET = ".s.PGSQL.5432"


class Wire:
    """Forwards connections to the server of a URL.

    Attributes:
        cut_at: What a client sends and then is cut off: before it reaches the server, or after it where ``after`` is
            set, before the answer. Happens ``times`` times.
        silent: Nothing passes any more in either direction, and nothing is closed.
        refuses: Nobody is connected any more.
        seen: Number of such moments so far.
    """

    def __init__(self, directory: Path, url: str) -> None:
        self.directory = directory
        self.url = url
        self.lead_to(Path(parse_qs(urlsplit(url).query)["host"][0]))
        self.cut_at = b""
        self.after = False
        self.times = 1
        self.silent = False
        self.refuses = False
        self.seen = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def through(self) -> str:
        """URL that leads through this wire."""
        return f"{self.url.partition('?')[0]}?host={self.directory}"

    def lead_to(self, directory: Path) -> None:
        """Connect to the server whose socket is in a directory, from the next connection on."""
        self._upstream = directory / SOCKET

    def cut(self) -> None:
        """End all connections."""
        for task in list(self._tasks):
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(asyncio.CancelledError):  # asyncio's server logs it as an error
            await self._forward(reader, writer)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self.refuses:
                raise ConnectionRefusedError
            to_reader, to_writer = await asyncio.open_unix_connection(self._upstream)
        except OSError:  # the server does not run
            writer.transport.abort()
            return
        back = asyncio.ensure_future(self._copy(to_reader, writer))
        try:
            await self._copy(reader, to_writer, cut=back.cancel)
        except ConnectionError:
            pass
        finally:
            back.cancel()
            await asyncio.gather(back, return_exceptions=True)
            for one in (writer, to_writer):
                one.close()
                with contextlib.suppress(ConnectionError):
                    await one.wait_closed()

    async def _copy(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, cut: Callable[[], object] | None = None
    ) -> None:
        while data := await source.read(65536):
            while self.silent:
                await asyncio.sleep(0.01)
            if cut is not None and self.cut_at and self.cut_at in data and self.seen < self.times:
                self.seen += 1
                cut()  # no answer passes any more
                if self.after:
                    sink.write(data)
                    await sink.drain()
                    await asyncio.sleep(0.1)  # for the server to do it
                return
            sink.write(data)
            await sink.drain()
        sink.close()


@contextlib.asynccontextmanager
async def wire(url: str) -> AsyncIterator[Wire]:
    """Run such a wire to the server of a URL."""
    with tempfile.TemporaryDirectory(prefix="s2w") as name:
        made = Wire(Path(name), url)
        server = await asyncio.start_unix_server(made._serve, Path(name) / SOCKET)
        try:
            yield made
        finally:
            made.silent = False
            server.close()
            for task in list(made._tasks):
                task.cancel()
            await asyncio.gather(*made._tasks, return_exceptions=True)
            await server.wait_closed()
