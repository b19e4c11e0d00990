"""Somebody between a program and PostgreSQL: forwards the bytes of a socket, cuts it, or falls silent."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

SOCKET = ".s.PGSQL.5432"


class Requests:
    """Messages of one client, read along: which statements go in which round trip (PostgreSQL's protocol, version 3).

    Attributes:
        trips: The statements of each round trip; the last one is not complete.
    """

    def __init__(self) -> None:
        self.trips: list[list[str]] = [[]]
        self._data = bytearray()
        self._begun = False
        self._prepared: dict[bytes, str] = {}

    def feed(self, data: bytes) -> None:
        """Read more of what the client sends."""
        self._data += data
        while len(self._data) >= 5:
            kind, start = (self._data[:1], 1) if self._begun else (b"", 0)  # the first message has no kind
            end = start + int.from_bytes(self._data[start : start + 4], "big")
            if len(self._data) < end:
                return
            self._message(bytes(kind), bytes(self._data[start + 4 : end]))
            del self._data[:end]
            self._begun = True

    def _message(self, kind: bytes, content: bytes) -> None:
        first, _, rest = content.partition(b"\0")
        match kind:
            case b"P":  # Parse
                self._prepared[first] = rest.partition(b"\0")[0].decode()
            case b"B":  # Bind
                self.trips[-1].append(self._prepared[rest.partition(b"\0")[0]])
            case b"Q":
                self.trips[-1].append(first.decode())
        if kind in (b"Q", b"S"):  # Query, Sync: the client waits for the answer
            self.trips.append([])


class Wire:
    """Forwards connections to the server of a URL.

    Attributes:
        cut_at: What a client sends and then is cut off: before it reaches the server, or after it where ``after`` is
            set, before the answer. Happens ``times`` times.
        silent: Nothing passes any more in either direction, and nothing is closed.
        refuses: Nobody is connected any more.
        seen: Number of such moments so far.
        requests: What clients have sent, one entry for each connection.
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
        self.requests: list[Requests] = []
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

    def trips(self) -> list[list[str]]:
        """Return the statements of each round trip since the last call, those of each connection in their order."""
        found = [trip for one in self.requests for trip in one.trips[:-1]]
        for one in self.requests:
            del one.trips[:-1]
        return found

    async def _copy(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, cut: Callable[[], object] | None = None
    ) -> None:
        if cut is not None:
            self.requests.append(requests := Requests())
        while data := await source.read(65536):
            if cut is not None:
                requests.feed(data)
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
