"""Memory of a server: per idle session, beside a bare websockets server, and what 1,000 messages add to a session."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from benchmarks.harness import Effort, Worker, workspace
from benchmarks.samples import DETAILS, READ, SELECTION
from benchmarks.table import Row

TWO_PINGS = 65
"""Seconds in which every connection is pinged twice (WS-04)."""

PROCESSES = 2
WARM = 20
"""Sessions that come first, so that what a process needs once is not counted."""


def _idle(sessions: int, *, wait: bool) -> tuple[float, int]:
    """Return bytes for each session of an endpoint, and how many sessions were lost."""
    with workspace() as directory, ExitStack() as stack:
        total = WARM + sessions
        server = stack.enter_context(
            Worker.ours("endpoint_worker", "serve", home=str(directory / "cem"), nodes=1, paired=total)
        )

        def connect(name: str, first: int, count: int) -> None:
            task = {"home": str(directory / name), "server": server.ready, "first": first, "count": count}
            stack.enter_context(Worker.ours("endpoint_worker", "hold", **task))

        connect("warm", 0, WARM)
        before = server.ask()["bytes"]
        share = sessions // PROCESSES
        for number in range(PROCESSES):
            connect(f"rm-{number}", WARM + number * share, share)
        time.sleep(1)
        after = server.ask()["bytes"]
        if wait:
            time.sleep(TWO_PINGS)
        return (after - before) / (PROCESSES * share), total - server.ask()["connected"]


def _bare(sessions: int) -> float:
    """Return bytes for each connection of a bare websockets server."""
    with workspace() as directory, ExitStack() as stack:
        task = {"what": "websockets", "directory": str(directory), "deflate": True}
        server = stack.enter_context(Worker.ours("messages_worker", "server", **task))

        def connect(size: int) -> None:
            stack.enter_context(Worker.ours("messages_worker", "crowd", server=server.ready, size=size, **task))

        connect(WARM)
        before = server.ask()["bytes"]
        share = sessions // PROCESSES
        for _ in range(PROCESSES):
            connect(share)
        time.sleep(1)
        grown: int = server.ask()["bytes"] - before
        return grown / (PROCESSES * share)


def _used(sessions: int, of_device: int, of_manager: int) -> float:
    """Return bytes that a session of the server has grown by after so many messages of each end."""
    with workspace() as directory, ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(2))
        task = {"what": "session", "directory": str(directory), "deflate": False}
        server = stack.enter_context(Worker.ours("messages_worker", "server", **task))

        def converse(count: int) -> int:
            """Let new sessions begin and exchange messages; return the bytes that these took."""
            offers = server.ask(offers=count)["offers"]
            crowd = stack.enter_context(Worker.ours("messages_worker", "crowd", offers=offers, **task))
            crowd.ask(message=DETAILS)
            server.ask(message=SELECTION, latest=count)
            crowd.ask(message=READ["medium"])
            before: int = server.ask()["bytes"]
            ends = ((crowd, of_device), (server, of_manager))
            asked = [threads.submit(end.ask, count=messages, latest=count) for end, messages in ends]
            for one in asked:
                one.result()
            after: int = server.ask()["bytes"]
            return after - before

        converse(WARM // 2)
        return converse(sessions) / sessions


def measure(effort: Effort) -> Iterator[Row]:
    """The rows of this theme."""
    sessions = effort.pick(1000, 200, 60)
    ours, lost = _idle(sessions, wait=effort.kind == "whole")
    figure = "server per idle WSS session, asyncio"
    yield Row(figure, "KB", ours / 1000)
    if effort.peers:
        yield Row(figure, "KB", ours / 1000, "websockets", _bare(sessions) / 1000)
        waited = f"after {TWO_PINGS} s" if effort.kind == "whole" else "at once"
        yield Row(f"idle sessions lost {waited}, of {sessions + WARM}", "", lost)
    count = effort.pick(50, 30, 20)
    used = _used(count, 900, 100) / 1000
    yield Row("session after 1,000 messages, 100 of them instructions, rules: more than idle", "KB", used)
    if effort.peers:
        used = _used(count, 1000, 1000) / 1000
        yield Row("session after 1,000 messages of the device and 1,000 instructions: more than idle", "KB", used)
