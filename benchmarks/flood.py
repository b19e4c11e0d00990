"""Highest cost of one message, and effect on other devices of a bridge while one device floods it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from benchmarks.harness import Effort, Worker, workspace
from benchmarks.table import Row

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


def measure(effort: Effort) -> Iterator[Row]:
    """The rows of this theme."""
    with Worker.ours("flood_worker", "costs") as worker:
        table = worker.ask()["costs"]
    yield Row("worst single message within the limits: time of the loop", "ms", 1000 * table[0][2])
    for name, size, seconds in table[: effort.pick(8, 4, 0)]:
        yield Row(f"one message: {name}, {size / 1000:.0f} kB", "ms", 1000 * seconds)
    if effort.peers:
        for noticed in under_attack(ATTACKS, seconds=effort.pick(6, 2)):
            what = f"one device floods with {noticed.attack}"
            yield Row(f"{what}: round trip of others, p99", "ms", 1000 * noticed.p99)
            yield Row(f"{what}: the loop works in one go, at most", "ms", 1000 * noticed.stretch)
