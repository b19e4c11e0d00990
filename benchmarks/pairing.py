"""Pairing: what it takes beyond the mandatory second, and how many a second over many nodes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

from benchmarks import s2auth
from benchmarks.harness import Effort, Worker, in_turns, workspace
from benchmarks.table import Row, row

NODES = 200
SECOND = 1.0
"""PAIR-02."""


def measure(effort: Effort) -> Iterator[Row]:
    """The rows of this theme."""
    with workspace() as directory, ExitStack() as stack:
        server = stack.enter_context(
            Worker.ours("endpoint_worker", "serve", home=str(directory / "cem"), nodes=NODES, paired=0)
        )
        task = {"server": server.ready, "first": 0, "count": NODES}
        client = stack.enter_context(Worker.ours("endpoint_worker", "pair", home=str(directory / "rm"), **task))
        workers = s2auth.server_and_client(stack, directory, clients=NODES) if effort.peers else None
        theirs = workers[1] if workers else None

        one, their_one = in_turns(
            effort.pick(3, 1),
            lambda: client.ask(count=5, at_a_time=1),
            (lambda: theirs.ask(count=20, at_a_time=1)) if theirs else None,
        )
        many, their_many = in_turns(
            effort.pick(2, 1),
            lambda: client.ask(seconds=effort.pick(8, 5), at_a_time=NODES),
            (lambda: theirs.ask(count=effort.pick(NODES, 60), at_a_time=20)) if theirs else None,
        )
    beyond = one and {"p50": one["p50"] - SECOND}
    yield row("pairing beyond the mandatory second", "ms", "p50", beyond, "s2auth", their_one)
    yield row(f"pairings, {NODES} nodes at a time (s2auth: 20)", "1/s", "rate", many, "s2auth", their_many)
