"""Fleets at a fixed rate: sessions of a server, and links of a bridge, with their clients on the same cores."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from benchmarks.harness import Effort, Task, Worker, ask_all, workspace
from benchmarks.pace import of_all
from benchmarks.table import Row

SESSIONS, LINKS, SECONDS = 2000, 500, 180
PROCESSES = 2
AT_A_TIME = 50
"""Links that are opened together: an offer holds for 30 seconds."""


def measure(effort: Effort) -> Iterator[Row]:
    """The rows of this theme."""
    seconds = effort.pick(SECONDS, 20, 3)
    sessions, links = effort.pick(SESSIONS, 400, 20), effort.pick(LINKS, 100, 10)
    what = f"{SESSIONS:,} sessions at 1 message/s, rules, {SECONDS} s"
    yield from _rows(what, *_sessions(sessions, seconds), "" if sessions == SESSIONS else f"{sessions}, {seconds} s")
    what = f"bridge, {LINKS} links WSS ↔ WSS at 1 message/s, {SECONDS} s"
    yield from _rows(what, *_links(links, seconds), "" if links == LINKS else f"{links}, {seconds} s")


def _rows(what: str, answers: list[Task], seen: Task, smaller: str) -> Iterator[Row]:
    numbers, reasons = of_all(answers)
    if reasons:
        print(f"{what}: lost {reasons}", file=sys.stderr)
    for key in ("p50", "p99", "max"):
        yield Row(f"{what}: {key}", "ms", numbers[key] * 1e3, smaller=smaller)
    yield Row(f"{what}: lost", "", numbers["lost"], smaller=smaller)
    yield Row(f"{what}: sent", "", numbers["rate"], smaller=smaller)
    yield Row(f"{what}: longest lag of the loop", "ms", seen["lag_max"] * 1e3, smaller=smaller)
    yield Row(f"{what}: CPU of the loop in one go, at most", "ms", seen["stretch"] * 1e3, smaller=smaller)
    yield Row(f"{what}: longest pause by garbage collection", "ms", seen["gc_max"] * 1e3, smaller=smaller)
    yield Row(f"{what}: share of a core of the process", "", seen["share"], smaller=smaller)


def _load(server: Worker, clients: list[Worker], seconds: int) -> tuple[list[Task], Task]:
    before = server.ask()["cpu"]
    answers = ask_all(clients, per_second=1.0, seconds=seconds, seed=12)
    seen = server.ask()
    return answers, seen | {"share": (seen["cpu"] - before) / seconds}


def _sessions(count: int, seconds: int) -> tuple[list[Task], Task]:
    """An endpoint as a service, and endpoints of devices in processes of their own."""
    with workspace() as directory, ExitStack() as stack:
        home = str(directory / "cem")
        serving = Worker.ours("endpoint_worker", "serve", home=home, nodes=1, paired=count, service=True)
        server = stack.enter_context(serving)
        share = count // PROCESSES

        def devices(number: int) -> Worker:
            task = {"home": str(directory / f"rm-{number}"), "first": number * share, "count": share}
            return stack.enter_context(Worker.ours("endpoint_worker", "hold", server=server.ready, **task))

        return _load(server, [devices(number) for number in range(PROCESSES)], seconds)


def _links(count: int, seconds: int) -> tuple[list[Task], Task]:
    """A bridge as a service, and both ends of all links in one process."""
    with workspace() as directory, ExitStack() as stack:
        task: dict[str, Any] = {"directory": str(directory), "near": "wss", "far": "wss", "protection": "plain"}
        ends = stack.enter_context(Worker.ours("bridge_worker", "ends", **task))
        task |= {"at": ends.ready, "acceptor": "wss", "check": "envelope", "service": True}
        bridge = stack.enter_context(Worker.ours("bridge_worker", "ours", **task))
        ends.ask(connect=[bridge.ready])
        left = count - 1
        while left:
            now = min(left, AT_A_TIME)
            ends.ask(connect=bridge.ask(links=now)["at"])
            left -= now
        return _load(bridge, [ends], seconds)
