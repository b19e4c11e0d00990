"""Reading messages, without a network: the envelope, the schema, the rules; beside s2-python, msgspec and orjson."""

from __future__ import annotations

import json
from contextlib import ExitStack
from functools import partial

from benchmarks.harness import Effort, Row, Worker, in_turns, peer_python, take
from benchmarks.samples import READ

COUNTS = {"small": 4000, "medium": 500, "large": 60}


def _size(sample: str) -> str:
    length = len(json.dumps(READ[sample], separators=(",", ":")))
    return f"{length} B" if length < 1000 else f"{length / 1000:.1f} KB"


def measure(effort: Effort) -> list[Row]:
    """The rows of this theme."""
    rows: list[Row] = []
    with ExitStack() as stack:
        ours = stack.enter_context(Worker.ours("parsing_worker", "reader"))
        python = peer_python("s2python")
        theirs = stack.enter_context(Worker.peer(python, "s2python_parsing.py", {})) if python else None
        for sample, whole in COUNTS.items():
            count = effort.pick(whole, whole // 4)
            own, peer = in_turns(
                effort.pick(7, 3),
                partial(ours.ask, sample=sample, count=count),
                partial(theirs.ask, sample=sample, count=count) if theirs else None,
            )
            beside = {
                "s2-python": take(peer, "parse", 1e6),
                **{
                    name: take(own, name, 1e6)
                    for name in ("msgspec header", "msgspec generic", "msgspec typed", "orjson")
                },
            }
            compared = (
                ("envelope", "envelope", "msgspec header", "≤ 1 µs" if sample == "small" else ""),
                ("envelope", "envelope", "orjson", ""),
                ("parse", "envelope and schema", "s2-python", "≤ 0.5 of peer"),
                ("parse", "envelope and schema", "msgspec typed", ""),
                ("parse", "envelope and schema", "msgspec generic", ""),
                ("parse", "envelope and schema", "orjson", ""),
                ("rules", "rules alone", "", ""),
                ("both", "envelope, schema and rules", "s2-python", ""),
            )
            rows += [
                Row(f"{what}, {_size(sample)}", "µs", take(own, key, 1e6) or 0.0, beside.get(name), name, budget)
                for key, what, name, budget in compared
            ]
    return rows
