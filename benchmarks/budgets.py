"""Budgets: what each figure of the table is to reach, and what it measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

S2PYTHON: Final = "s2-python"
S2AUTH: Final = "s2auth.client"
WEBSOCKETS: Final = "bare websockets relay"
AIOHTTP: Final = "bare aiohttp relay, uvloop"
SCRIPT: Final = "websockets and aiomqtt script"

WITHOUT_PAGE: Final = "the same without page"

BEFORE: Final = "d9753cd"
"""The commit before the message path was rebuilt for speed."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """One figure with its limit.

    Attributes:
        theme: The file of ``benchmarks/`` that measures it.
        figure: The words of the table, with the conditions. They identify the figure, together with the theme.
        unit: Of ours and the peer's value.
        limit: What ours, or its ratio to the peer's value, may be at most.
        peer: What a user would otherwise have, measured in the same run. Empty: the limit is in the unit.
        at_least: The limit is a lower one.
    """

    theme: str
    figure: str
    unit: str
    limit: float
    peer: str = ""
    at_least: bool = False

    def __str__(self) -> str:
        sign, unit = ("≥" if self.at_least else "≤"), ("of peer" if self.peer else self.unit)
        return f"{sign} {self.limit:,.2f} {unit}" if self.peer else f"{sign} {self.limit:,g} {unit}".rstrip()

    def met(self, ours: float, peer: float | None) -> bool | None:
        """Return whether a measured value is within the limit, or None if its peer is missing."""
        if self.peer:
            if not peer:
                return None
            ours /= peer
        return ours >= self.limit if self.at_least else ours <= self.limit


def growth_figure(subject: str, sizes: Sequence[int]) -> str:
    """Return the words for how much the slowest operation of a growth curve grows."""
    return f"growth of the {subject}, {sizes[0]:,} to {sizes[-1]:,}: most of any operation"


def _messages() -> list[Budget]:
    limits = {
        ("332 B", "asyncio"): 0.55,
        ("332 B", "uvloop"): 0.45,
        ("2.7 KB", "asyncio"): 0.60,
        ("2.7 KB", "uvloop"): 0.50,
    }
    return [
        Budget(
            theme="messages",
            figure=f"acknowledged message, rules at both ends, WSS, {size}, {loop}: p50",
            unit="µs",
            limit=limit,
            peer=S2PYTHON,
        )
        for (size, loop), limit in limits.items()
    ]


def _parsing() -> list[Budget]:
    limits = {
        "envelope and schema": {"332 B": 0.30, "2.8 KB": 0.20, "19.9 KB": 0.20},
        "envelope, schema and rules": {"332 B": 0.50, "2.8 KB": 0.30, "19.9 KB": 0.30},
    }
    return [
        Budget(theme="parsing", figure=f"{what}, {size}", unit="µs", limit=limit, peer=S2PYTHON)
        for what, sizes in limits.items()
        for size, limit in sizes.items()
    ]


def _bridge() -> list[Budget]:
    ways = {
        ("WSS ↔ WSS, envelope", WEBSOCKETS): 0.90,
        ("WSS ↔ WSS, rules", WEBSOCKETS): 1.15,
        ("WSS ↔ WSS, envelope, uvloop", AIOHTTP): 1.00,
    }
    found = [
        Budget(theme="bridge", figure=f"link {way}, {size}: {what}", unit="µs", limit=limit, peer=peer)
        for (way, peer), limit in ways.items()
        for size in ("332 B", "2.7 KB")
        for what in ("added p50", "CPU per message")
    ]
    return found + [
        Budget(
            theme="bridge",
            figure=f"link WSS ↔ MQTT sealed, {size}: CPU per message",
            unit="µs",
            limit=0.50,
            peer=SCRIPT,
        )
        for size in ("332 B", "2.7 KB")
    ]


def _fleets() -> list[Budget]:
    sessions, links = "2,000 sessions at 1 message/s, rules, 180 s", "bridge, 500 links WSS ↔ WSS at 1 message/s, 180 s"
    return [
        Budget(theme="fleet", figure=f"{sessions}: p50", unit="ms", limit=30),
        Budget(theme="fleet", figure=f"{sessions}: p99", unit="ms", limit=150),
        Budget(theme="fleet", figure=f"{sessions}: lost", unit="", limit=0),
        Budget(theme="fleet", figure=f"{links}: p50", unit="ms", limit=8),
        Budget(theme="fleet", figure=f"{links}: p99", unit="ms", limit=100),
        Budget(theme="fleet", figure=f"{links}: lost", unit="", limit=0),
    ]


BUDGETS: Final = (
    *_messages(),
    *_parsing(),
    *_bridge(),
    Budget(theme="flood", figure="worst single message within the limits: time of the loop", unit="ms", limit=20),
    *(
        Budget(
            theme="gc",
            figure=f"{count:,} sessions: longest pause by garbage collection",
            unit="ms",
            limit=50,
        )
        for count in (4_000, 10_000)
    ),
    *_fleets(),
    Budget(
        theme="memory",
        figure="session after 1,000 messages, 100 of them instructions, rules: more than idle",
        unit="KB",
        limit=40,
    ),
    Budget(theme="memory", figure="server per idle WSS session, asyncio", unit="KB", limit=50),
    Budget(theme="start", figure="import of the client path", unit="ms", limit=0.40, peer=S2AUTH),
    Budget(theme="start", figure="memory after the import of the client path", unit="MB", limit=0.28, peer=S2AUTH),
    Budget(
        theme="initiation",
        figure="whole session initiations with WSS, new connections, 8 at a time",
        unit="1/s",
        limit=1.5,
        peer=f"commit {BEFORE}",
        at_least=True,
    ),
    Budget(theme="growth", figure=growth_figure("message path", (1, 10_000)), unit="times", limit=1.2),
    Budget(theme="growth", figure=growth_figure("store", (10, 100_000)), unit="times", limit=1.2),
    Budget(
        theme="page",
        figure="500 sessions, their page in one browser, Prometheus every 5 s: messages a second of a core",
        unit="1/s",
        limit=0.95,
        peer=WITHOUT_PAGE,
        at_least=True,
    ),
    Budget(theme="commands", figure="s2connect pairings, of 20,000", unit="s", limit=1),
    Budget(theme="commands", figure="s2connect status, of 20,000", unit="s", limit=1),
)
