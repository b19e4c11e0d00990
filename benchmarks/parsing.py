"""Reading messages, without a network: the envelope, the schema, the rules; beside s2-python, msgspec and orjson."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from benchmarks.budgets import S2PYTHON
from benchmarks.harness import Effort, Worker, in_turns
from benchmarks.samples import READ, size_of
from benchmarks.table import Row, row

COUNTS = {"small": 4000, "medium": 500, "large": 60}

COMPARED = (
    ("parse", "envelope and schema", S2PYTHON),
    ("both", "envelope, schema and rules", S2PYTHON),
    ("envelope", "envelope alone", "msgspec header"),
    ("parse", "envelope and schema", "msgspec typed"),
    ("parse", "envelope and schema", "orjson"),
)
"""Rows: our function, its name in the table, and the peer beside it; msgspec and orjson check less, or nothing."""


def measure(effort: Effort) -> Iterator[Row]:
    """The rows of this theme."""
    with ExitStack() as stack:
        ours = stack.enter_context(Worker.ours("parsing_worker", "reader"))
        python = effort.python("s2python")
        theirs = stack.enter_context(Worker.peer(python, "s2python_parsing.py", {})) if python else None
        for sample, whole in COUNTS.items():
            count = effort.pick(whole, whole // 4)
            own, peer = in_turns(
                effort.pick(9, 3, 2),
                partial(ours.ask, sample=sample, count=count),
                partial(theirs.ask, sample=sample, count=count) if theirs else None,
            )
            assert own is not None
            beside = {name: own | dict.fromkeys(("envelope", "parse"), own[name]) for name in own}
            if peer:
                beside[S2PYTHON] = {"parse": peer["parse"], "both": peer["parse"]}
            for key, what, name in COMPARED:
                yield row(f"{what}, {size_of(READ[sample])}", "µs", key, own, name, beside.get(name))
