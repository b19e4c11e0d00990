"""Highest cost of one message, and effect on other devices of a bridge while one device floods it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from benchmarks.harness import Effort, Row, Worker, workspace
from benchmarks.worst import all_types, hostile_texts, rich_messages, with_escape
from s2connect.bridge.relay import Policy, Relay
from s2connect.messages.catalogue import V1
from s2connect.messages.enums import Check
from s2connect.model.common import Role

ATTACKS = (
    "opening brackets",
    "900 kB of brackets",
    "unknown members",
    "faulty elements",
    "richest PowerForecast",
    "richest PEBC.PowerConstraints",
    "tiny",
    "measurements",
    "unknown answers",
)


class Noticed(NamedTuple):
    """Measurements under an attack: round trips of the honest devices, texts sent by the hostile one, work of the loop.

    ``stretch`` is how long the bridge's loop worked at most before it came to another task, in seconds of a processor:
    that does not depend on what else the machine does, as the round trips do.
    """

    attack: str
    p50: float
    p99: float
    longest: float
    rounds: int
    sent: int
    stretch_p99: float
    stretch: float


def under_attack(attacks: Sequence[str], *, seconds: float, check: str = "rules") -> Iterator[Noticed]:
    """Flood a bridge with each kind of text in turn, after a run without an attack."""
    with workspace() as directory:
        task = {"directory": str(directory), "check": check}
        with (
            Worker.ours("flood_worker", "honest", **task) as honest,
            Worker.ours("flood_worker", "bridge", manager=honest.ready["manager"], **task) as bridge,
            Worker.ours("flood_worker", "evil", port=bridge.ready["port"], **task) as evil,
        ):
            honest.ask(port=bridge.ready["port"])
            for attack in ("", *attacks):
                evil.ask(attack=attack)
                bridge.ask()
                seen = honest.ask(seconds=seconds)
                loop = bridge.ask()
                yield Noticed(
                    attack or "nothing",
                    p50=seen["p50"],
                    p99=seen["p99"],
                    longest=seen["max"],
                    rounds=seen["n"],
                    sent=evil.ask()["sent"],
                    stretch_p99=loop["p99"],
                    stretch=loop["max"],
                )


def cost(text: str) -> float:
    """Return the CPU seconds of a link with ``check = "rules"`` for a text, best of three."""
    best = float("inf")
    for _ in range(3):
        relay = Relay({Role.RM: V1, Role.CEM: V1}, Policy(check=Check.RULES))
        begun = time.thread_time()
        relay.received(Role.RM, text, now=0.0)
        best = min(best, time.thread_time() - begun)
    return best


def dearest() -> Iterator[tuple[str, int, float]]:
    """Return kind, length and cost of the costliest text of every message type and every hostile kind."""
    for name, kind in all_types():
        candidates = list(rich_messages(kind)) or [json.dumps({"message_type": name, "message_id": "m-1"})]
        found = max(((cost(text), text) for text in candidates), key=lambda each: each[0])
        escaped = with_escape(found[1])
        yield name, len(found[1]), max(found[0], cost(escaped))
    for name, text in hostile_texts():
        yield name, len(text), cost(text)


def measure(effort: Effort) -> Iterator[Row]:
    """The rows of this theme."""
    table = sorted(dearest(), key=lambda each: -each[2])
    for name, size, seconds in table[: effort.pick(len(table), 5)]:
        yield Row(f"one message: {name}, {size / 1000:.0f} kB", "ms CPU", 1000 * seconds, budget="50")
    for noticed in under_attack(ATTACKS, seconds=effort.pick(10, 2)):
        what = f"one device floods with {noticed.attack}"
        yield Row(f"{what}: round trip of others, p99", "ms", 1000 * noticed.p99, budget="50")
        yield Row(f"{what}: the loop works in one go, at most", "ms CPU", 1000 * noticed.stretch, budget="50")
