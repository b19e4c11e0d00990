"""Messages over WSS: to the ReceptionStatus beside s2-python, and echo beside the bare libraries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.budgets import S2PYTHON
from benchmarks.harness import Effort, Numbers, Worker, cpu_seconds, in_turns, workspace
from benchmarks.samples import SAMPLES, size_of
from benchmarks.table import Row, row

ACKNOWLEDGED = "acknowledged message, rules at both ends, WSS"


@dataclass(frozen=True)
class Pair:
    """A server and its client."""

    server: Worker
    client: Worker

    def measure(self, sample: str, count: int) -> Numbers:
        """Return times of round trips, and the CPU of both ends for each."""
        pids = (self.server.pid, self.client.pid)
        before = cpu_seconds(pids)
        numbers = self.client.ask(sample=sample, count=count)
        return numbers | {"cpu": (cpu_seconds(pids) - before) / count}


def _pair(stack: ExitStack, what: str, directory: Path, python: Path | None, *, deflate: bool) -> Pair | None:
    """Start both ends; ``what`` may end with ``uvloop``. Return None where a peer is not to be had."""
    what, _, loop = what.partition(", ")
    task = {"what": what, "directory": str(directory), "deflate": deflate, "uvloop": loop == "uvloop"}
    if what != S2PYTHON:
        server = stack.enter_context(Worker.ours("messages_worker", "server", **task))
        client = stack.enter_context(Worker.ours("messages_worker", "client", server=server.ready, **task))
        return Pair(server, client)
    if python is None:
        return None
    script, environment = "s2python_messages.py", {"SSL_CERT_FILE": str(directory / "ca.pem")}
    server = stack.enter_context(Worker.peer(python, script, environment, kind="server", **task))
    client = stack.enter_context(Worker.peer(python, script, environment, kind="client", server=server.ready, **task))
    return Pair(server, client)


def measure(effort: Effort) -> Iterator[Row]:
    """The rows of this theme."""
    yield from _rows(
        effort, ("session", "session, uvloop", S2PYTHON, "connection", "aiohttp", "websockets"), deflate=False
    )
    if effort.kind == "whole":
        yield from _rows(effort, ("session", S2PYTHON), deflate=True)


def _rows(effort: Effort, whats: tuple[str, ...], *, deflate: bool) -> Iterator[Row]:
    runs, count = effort.pick(9, 3, 1), effort.pick(1000, 300, 500)
    python = effort.python("s2python")
    if not effort.peers:
        whats = tuple(what for what in whats if what not in ("aiohttp", "websockets"))
    with workspace() as directory, ExitStack() as stack:
        pairs = {what: _pair(stack, what, directory, python, deflate=deflate) for what in whats}
        for sample in SAMPLES:

            def once(pair: Pair, count: int, sample: str = sample) -> Callable[[], Numbers]:
                return lambda: pair.measure(sample, count)

            for pair in filter(None, pairs.values()):
                once(pair, count // 2)()  # warm up
            results = in_turns(runs, *(once(pair, count) if pair else None for pair in pairs.values()))
            found = dict(zip(pairs, results, strict=True))
            theirs, size = found[S2PYTHON], size_of(SAMPLES[sample])
            for what, loop in (("session", "asyncio"), ("session, uvloop", "uvloop")):
                if what in found:
                    label = f"{ACKNOWLEDGED}{', deflate' if deflate else ''}, {size}, {loop}"
                    yield row(f"{label}: p50", "µs", "p50", found[what], S2PYTHON, theirs)
                    yield row(f"{label}: p99", "µs", "p99", found[what], S2PYTHON, theirs)
                    yield row(f"{label}: CPU of both ends", "µs", "cpu", found[what], S2PYTHON, theirs)
            for beside in ("aiohttp", "websockets"):
                if beside in found:
                    yield row(f"echo, WSS, {size}: p50", "µs", "p50", found["connection"], beside, found[beside])
            if "aiohttp" not in found and "connection" in found:
                yield row(f"echo, WSS, {size}: p50", "µs", "p50", found["connection"])
