"""Session initiation: the request alone, and the whole way to an open WebSocket on new connections."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks import s2auth
from benchmarks.budgets import BEFORE
from benchmarks.harness import Effort, Numbers, Worker, in_turns, workspace
from benchmarks.table import Row, row
from benchmarks.trees import NoSuchCommit, tree, workers_of

DEVICES = 64
AT_A_TIME = 8


def measure(effort: Effort) -> Iterator[Row]:
    """The rows of this theme."""
    if effort.peers:
        yield from _request_alone(effort)
    yield from _whole(effort)


def _server(stack: ExitStack, directory: Path) -> Worker:
    task = {"home": str(directory / "cem"), "nodes": 1, "paired": DEVICES}
    return stack.enter_context(Worker.ours("endpoint_worker", "serve", **task))


def _request_alone(effort: Effort) -> Iterator[Row]:
    # Imported here: a worker's module, which takes its time.
    from benchmarks.endpoint_worker import HOST, node_id, token

    runs, count = effort.pick(5, 3), effort.pick(400, 100)
    with workspace() as directory, ExitStack() as stack:
        server = _server(stack, directory)
        url = f"{server.ready['session_url']}v1/initiateSession".replace(HOST, "localhost")
        task = {"url": url, "ca": server.ready["ca"], "token": token(0).reveal(), "node": str(node_id("cem-0"))}
        ours, theirs = stack.enter_context(Worker.ours("endpoint_worker", "post", **task)), None
        if (workers := s2auth.server_and_client(stack, directory, clients=1)) is not None:
            paired = workers[1].ask(count=1, at_a_time=1, with_token=True)
            url = f"{workers[0].ready['pairing_url']}v1/initiateSession"
            task = {"ca": str(directory / "ca.pem"), "token": paired["access_token"], "node": s2auth.NODE}
            theirs = stack.enter_context(Worker.ours("endpoint_worker", "post", url=url, **task))
        posting = [
            (lambda worker=worker, n=n: worker.ask(count=count, at_a_time=n)) if worker else None
            for n in (1, AT_A_TIME)
            for worker in (ours, theirs)
        ]
        one, their_one, busy, their_busy = in_turns(runs, *posting)
    yield row("initiateSession alone, kept alive: p50", "ms", "p50", one, "s2auth", their_one)
    yield row(f"initiateSession alone, kept alive, {AT_A_TIME} at a time", "1/s", "rate", busy, "s2auth", their_busy)


def _initiator(stack: ExitStack, directory: Path) -> Callable[[int], Callable[[int], Numbers]]:
    """Start server and devices; the result gives, for so many at a time, what initiates so many sessions."""
    task = {"home": str(directory / "rm"), "server": _server(stack, directory).ready, "count": DEVICES}
    devices = stack.enter_context(Worker.ours("endpoint_worker", "initiate", **task))
    return lambda at_a_time: lambda count: devices.ask(count=count, at_a_time=at_a_time)


def _whole(effort: Effort) -> Iterator[Row]:
    """Rows of whole session initiations, beside the same with the commit before."""
    runs, count = effort.pick(9, 3, 1), effort.pick(200, DEVICES)
    with workspace() as directory, workspace() as other, ExitStack() as stack:
        ours, before = _initiator(stack, directory), None
        if effort.peers:
            try:
                with workers_of(stack.enter_context(tree(BEFORE))):
                    before = _initiator(stack, other)
            except NoSuchCommit as error:
                print(error, file=sys.stderr)
        asks = [
            one and (lambda one=one, n=n: one(n)(max(DEVICES, count))) for n in (1, AT_A_TIME) for one in (ours, before)
        ]
        alone, alone_before, busy, busy_before = in_turns(runs, *asks)
    name, whole = f"commit {BEFORE}", "whole session initiations with WSS, new connections"
    yield row(f"{whole}, one by one: p50", "ms", "p50", alone, name, alone_before)
    yield row(f"{whole}, {AT_A_TIME} at a time", "1/s", "rate", busy, name, busy_before)
