"""A proxy in front of PostgreSQL that cuts one connection at a given message of its protocol."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

SOCKET = ".s.PGSQL.5432"


@dataclass
class Cutter:
    """Counts the messages of all connections, and cuts the connection of one of them.

    Attributes:
        side: Whose messages count: ``client`` or ``server``.
        at: Number of the message, from 0 on; it is not passed on. None cuts nothing.
        seen: Messages of that side since it was armed.
        has_cut: Whether a connection has been cut.
    """

    side: str = "client"
    at: int | None = None
    seen: int = 0
    has_cut: bool = False
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    def arm(self, side: str, at: int | None) -> None:
        """Count anew, and cut at that message."""
        self.side, self.at, self.seen, self.has_cut = side, at, 0, False

    def _cuts(self, side: str) -> bool:
        if side != self.side:
            return False
        number, self.seen = self.seen, self.seen + 1
        self.has_cut = self.has_cut or number == self.at
        return number == self.at

    async def pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, side: str, *, starts: bool
    ) -> None:
        """Pass messages on until one is cut, or the connection ends; then end both sides."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = b"" if starts else await reader.readexactly(1)
                starts = False
                length = await reader.readexactly(4)
                body = await reader.readexactly(int.from_bytes(length) - 4)
                if self._cuts(side):
                    break
                writer.write(head + length + body)
                await writer.drain()


@contextlib.asynccontextmanager
async def cutter(directory: Path) -> AsyncIterator[tuple[Cutter, Path]]:
    """A proxy to the server whose socket is in a directory; gives it, and the directory of its own socket."""
    control = Cutter()
    tasks: set[asyncio.Task[None]] = set()

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(str(directory / SOCKET))
        both = [
            asyncio.ensure_future(control.pass_on(reader, back, "client", starts=True)),
            asyncio.ensure_future(control.pass_on(there, writer, "server", starts=False)),
        ]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in both:
                one.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            for end in (writer, back):
                end.transport.abort()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.ensure_future(pipe(reader, writer)))

    with tempfile.TemporaryDirectory(prefix="s2cut") as own:
        server = await asyncio.start_unix_server(accept, str(Path(own) / SOCKET))
        try:
            yield control, Path(own)
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
