"""Memory of a server per idle session, beside a bare websockets server, and whether idle sessions stay."""

from __future__ import annotations

import time
from contextlib import ExitStack

from benchmarks.harness import Effort, Row, Worker, workspace

TWO_PINGS = 65
"""Seconds in which every connection is pinged twice (WS-04)."""

PROCESSES = 2
WARM = 20


def _ours(sessions: int, *, wait: bool) -> tuple[float, int]:
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


def measure(effort: Effort) -> list[Row]:
    """The rows of this theme."""
    sessions = effort.pick(1000, 200)
    ours, lost = _ours(sessions, wait=not effort.quick)
    waited = "at once" if effort.quick else f"after {TWO_PINGS} s"
    return [
        Row(
            f"memory of the server per idle session, of {sessions}",
            "KB",
            ours / 1000,
            _bare(sessions) / 1000,
            "websockets",
            "≤ 45 KB",
        ),
        Row(f"idle sessions lost {waited}, of {sessions + WARM}", "", lost, budget="0"),
    ]
