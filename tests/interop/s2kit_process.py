"""A device or an energy manager made with s2-kit, as a process (tests/interop/s2kit, built by tests/peers.sh)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from s2connect.model.common import NodeId
from tests.interop.peer_processes import ROOT
from tests.waits import within

PROGRAM = ROOT / ".peers" / "s2kit" / "target" / "debug" / "s2kit-peer"
CODE = "s2kitCode2345"


class Failed(Exception):
    """s2-kit has failed; the text is its own."""


class S2Kit:
    """A running s2-kit program, and its events so far.

    Attributes:
        id: Its node.
        events: What it has told, each with ``event``.
    """

    def __init__(self, process: asyncio.subprocess.Process, node: NodeId) -> None:
        assert process.stdout is not None
        self.id = node
        self.events: list[dict[str, Any]] = []
        self._output = process.stdout
        self._told = asyncio.Condition()

    async def listen(self) -> None:
        """Collect the events of the program until its end."""
        async for line in self._output:
            sys.stdout.write(line.decode())
            async with self._told:
                self.events.append(json.loads(line))
                self._told.notify_all()

    async def until(self, event: str, *, times: int = 1) -> dict[str, Any]:
        """Wait until an event was printed a number of times; return the last one.

        Raises:
            Failed: It has given up before.
        """
        async with within(20), self._told:
            while True:
                found = self.all(event)
                if len(found) >= times:
                    return found[times - 1]
                if failed := self.all("failed"):
                    raise Failed(failed[0]["error"])
                await self._told.wait()

    def all(self, event: str) -> list[dict[str, Any]]:
        return [told for told in self.events if told["event"] == event]


@contextlib.asynccontextmanager
async def s2kit(**settings: str | int) -> AsyncIterator[S2Kit]:
    """Run the program. Settings: see ``Settings`` in its source; ``id`` and ``code`` have values unless given."""
    if not PROGRAM.exists():
        pytest.skip("s2-kit's program is not built; tests/peers.sh builds it with Rust 1.94 or later, and fails in CI")
    node = NodeId(uuid4())
    process = await asyncio.create_subprocess_exec(
        PROGRAM, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    peer = S2Kit(process, node)
    listening = asyncio.create_task(peer.listen(), name="s2kit-output")
    try:
        process.stdin.write(json.dumps({"id": str(node), "code": CODE, **settings}).encode() + b"\n")
        yield peer
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await listening
        await process.communicate()
