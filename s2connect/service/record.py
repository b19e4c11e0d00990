"""``--record`` of ``serve`` and ``bridge run``: every message as one line of a file, for ``s2connect replay``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Self

from s2connect import NodeId
from s2connect.bridge.recording import ObservedConnection
from s2connect.errors import StorageUnavailable
from s2connect.messages.envelope import Message
from s2connect.model.common import Role
from s2connect.service.lines import LineWriter
from s2connect.service.objects import rfc3339, to_value
from s2connect.session.observers import Direction, Observer
from s2connect.session.session import SessionEnd
from s2connect.store.files import open_private, unavailable
from s2connect.transports.base import Connection


def open_log(path: Path) -> int:
    """Open a file to append to, 0600, unless others can read it; an unfinished last line gets its end. Blocks."""
    try:
        descriptor = open_private(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            os.write(descriptor, b"\n")
    except OSError as error:
        what = unavailable("open", path, error).what
        raise StorageUnavailable(
            what, hint="Name another file for the record, in a directory that is there."
        ) from error
    return descriptor


class Recorder:
    """Writes messages into a file of :func:`open_log`, from a thread of its own. Use it with ``async with``.

    What cannot be written soon enough is left out, and a line of the file says how much that was. When the file cannot
    be written any more, recording stops and ``on_broken`` is called in the event loop; sessions go on. A line is
    written as a whole or, after a crash, is the last one.
    """

    def __init__(self, descriptor: int, on_broken: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._writer = LineWriter(descriptor, on_broken)
        self._left_out = 0

    async def __aenter__(self) -> Self:
        await self._writer.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._write_left_out()
        await self._writer.__aexit__()
        if self._writer.ended:
            os.close(self._descriptor)

    def opened(self, name: str, node: NodeId, role: Role, peer: object, s2_version: str) -> Observer:
        """Write that a session was opened, and return the writer of its messages. ``role`` is our own."""
        self._put(name, "session_opened", node=node, role=role, peer=peer, s2_version=s2_version)

        def observe(direction: Direction, message: Message) -> None:
            head = {"time": _now(), "session": name, "direction": direction, "node": str(node), "role": str(role)}
            # As it was on the wire; outside strings, where alone they can be, the ends of lines mean nothing.
            text = message.text.replace("\r", " ").replace("\n", " ")
            self._put_line(f'{json.dumps(head)[:-1]}, "message": {text}}}')

        return observe

    def closed(self, name: str, node: NodeId, role: Role, peer: object, reason: SessionEnd) -> None:
        """Write that a session has ended."""
        self._put(name, "session_closed", node=node, role=role, peer=peer, reason=reason)

    def _put(self, name: str, event: str, **about: object) -> None:
        self._put_line(json.dumps({"time": _now(), "session": name, "event": event, **about}, default=to_value))

    def _put_line(self, line: str) -> None:
        if self._writer.full:
            self._left_out += 1
            return
        self._write_left_out()
        self._writer.put_nowait(line.encode("utf-8", "replace"))

    def _write_left_out(self) -> None:
        if self._left_out:
            lost = {"time": _now(), "session": "", "event": "left_out", "lines": self._left_out}
            self._left_out = 0
            self._writer.put_nowait(json.dumps(lost).encode("ascii"))


class LinkRecorder:
    """Recorder of the links of a bridge, or ``only`` of those: each side of a link is recorded as a session of ours."""

    def __init__(self, recorder: Recorder, only: Collection[str] = ()) -> None:
        self._recorder = recorder
        self._only = frozenset(only)
        self._count = 0

    def __call__(self, link: str, title: str, role: Role, connection: Connection) -> Connection:
        """Return a connection that records its messages; a :data:`s2connect.bridge.recording.Record`."""
        if self._only and not {link, link.partition("/")[0]} & self._only:
            return connection
        self._count += 1
        name, info = f"{link} {role.lower()} {self._count}", connection.info
        node, own, peer = info.local, role.other, {"id": str(info.remote), "role": str(role), "title": title}
        observer = self._recorder.opened(name, node, own, peer, info.s2_version)
        return ObservedConnection(connection, observer, partial(self._recorder.closed, name, node, own, peer))


def _now() -> str:
    return rfc3339(datetime.now(UTC))
