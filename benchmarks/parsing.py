"""Reading messages, without a network: the envelope, the schema, the rules; beside s2-python, msgspec and orjson."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

from benchmarks.harness import Effort, Row, Worker, in_turns, peer_python
from benchmarks.samples import READ, size_of

COUNTS = {"small": 4000, "medium": 500, "large": 60}


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
            compared = (
                ("envelope", "envelope", "msgspec header", "≤ 1 µs" if sample == "small" else ""),
                ("envelope", "envelope", "orjson", ""),
                (
                    "parse",
                    "envelope and schema",
                    "s2-python",
                    "≤ 0.3 of peer" if sample == "small" else "≤ 0.2 of peer",
                ),
                ("parse", "envelope and schema", "msgspec typed", ""),
                ("parse", "envelope and schema", "msgspec generic", ""),
                ("parse", "envelope and schema", "orjson", ""),
                ("rules", "rules alone", "", ""),
                (
                    "both",
                    "envelope, schema and rules",
                    "s2-python",
                    "≤ 0.5 of peer" if sample == "small" else "≤ 0.3 of peer",
                ),
            )
            found = (own or {}) | ({"s2-python": peer["parse"]} if peer else {})
            for key, what, name, budget in compared:
                beside = found[name] * 1e6 if name in found else None
                rows.append(Row(f"{what}, {size_of(READ[sample])}", "µs", found[key] * 1e6, beside, name, budget))
    return rows
