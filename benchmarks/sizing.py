"""Sizing on paper: instances, machines, database, broker and reconnect storm of a fleet, out of measured unit costs.

python -m benchmarks sizing --rms 1000000
python -m benchmarks sizing --rms 50000 --period 60 --from run.json --cost cores_per_machine=4
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from benchmarks.storm import Return, back
from s2connect.session.ownership import PROBE_EVERY
from s2connect.store.postgresql.database import POOL_SIZE
from s2connect.transports.backoff import BASE_DELAY

PERFORMANCE: Final = "docs/performance.md"
INSTANCES: Final = "python -m benchmarks instances"


@dataclass(frozen=True)
class Cost:
    """Cost of one unit of work.

    Attributes:
        name: As in ``--cost NAME=VALUE``.
        value: In the unit.
        unit: Its unit.
        what: What it is for.
        source: Where the default comes from.
        figure: The row of a run (``--json``) that has it.
        factor: From the row's unit to this one.
    """

    name: str
    value: float
    unit: str
    what: str
    source: str
    figure: str = ""
    factor: float = 1.0


COSTS: Final = (
    Cost(
        "message_cpu",
        246e-6,
        "s",
        "CPU of an instance for a message and its ReceptionStatus through a link",
        f"{PERFORMANCE}: link WSS ↔ WSS, envelope, 332 B",
        "link WSS ↔ WSS, envelope, 332 B: CPU per message",
        1e-6,
    ),
    Cost(
        "initiation_cpu",
        7.8e-3,
        "s",
        "CPU of an instance for a session initiation with new connections, on PostgreSQL",
        f"{INSTANCES}; 5.4 ms on SQLite in the same run",
        "session initiation: CPU of an instance, PostgreSQL",
        1e-3,
    ),
    Cost(
        "initiation_database_cpu",
        2.2e-3,
        "s",
        "CPU of PostgreSQL for a session initiation",
        INSTANCES,
        "session initiation: CPU of PostgreSQL",
        1e-3,
    ),
    Cost(
        "pairing_cpu",
        15.6e-3,
        "s",
        "CPU of an instance for a pairing",
        INSTANCES,
        "pairing: CPU of an instance, PostgreSQL",
        1e-3,
    ),
    Cost(
        "session_bytes",
        80e3 + 42e3,
        "B",
        "memory of a session that has had 1,000 messages",
        f"benchmarks/README.md: 80 KB of a connected session; {PERFORMANCE}: 42 KB of its messages",
    ),
    Cost("session_files", 1, "", "descriptors of a session", INSTANCES, "descriptors of a session"),
    Cost(
        "initiation_commits",
        2,
        "",
        "commits that wait for the disk, for a session initiation: the token, and who owns the session",
        INSTANCES,
        "session initiation: flushes of PostgreSQL's log",
    ),
    Cost(
        "initiation_transactions",
        3,
        "",
        "further transactions and single statements of a session initiation",
        INSTANCES,
    ),
    Cost("pairing_commits", 1, "", "commits that wait for the disk, for a pairing", INSTANCES),
    Cost("pairing_bytes", 1500, "B", "space of a pairing in the database, with its indexes", "assumed"),
)
"""All unit costs, with what they are where nothing else is given."""


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Load to serve, and what serves it.

    Attributes:
        rms: Resource managers, each with one session.
        period: Seconds between two messages of an RM, and between two of its energy manager.
        lifetime: Seconds that a session lasts.
        new_pairings: Pairings a day.
        zones: Zones, one of which may be lost at any time.
        cores_per_machine: Cores of a machine, one instance on each.
        headroom: Share of a core that stays free while a zone is lost.
        storm_use: Share of a core that a storm may take, with the messages that go on.
        commits: Durable commits a second that the database does with its synchronous standby.
        first_within: Seconds over which RMs spread their first attempt; 2 is that of REC-02.
        broker: Whether the energy managers' programs are behind MQTT brokers.
        broker_rate: Publishes a second that a node of the broker cluster passes on.
    """

    rms: int = 1_000_000
    period: float = 10.0
    lifetime: float = 86_400.0
    new_pairings: float = 1000.0
    zones: int = 3
    cores_per_machine: int = 8
    headroom: float = 0.4
    storm_use: float = 0.9
    commits: float = 10_000.0
    first_within: float = BASE_DELAY
    broker: bool = True
    broker_rate: float = 50_000.0

    def __post_init__(self) -> None:
        """Refuse what cannot be sized. Raises ValueError with the name of the field."""
        for name in ("period", "lifetime", "commits", "broker_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is not positive")
        if self.rms < 0 or self.new_pairings < 0 or self.first_within < 0:
            raise ValueError("rms, new_pairings and first_within are not negative")
        if self.zones < 1 or self.cores_per_machine < 1:
            raise ValueError("zones and cores_per_machine are at least 1")
        if not 0 <= self.headroom < 1 or not 0 < self.storm_use <= 1:
            raise ValueError("headroom and storm_use are shares of a core")


@dataclass(frozen=True)
class Sizing:
    """Needs of a fleet.

    Attributes:
        messages: Messages a second, each with its ReceptionStatus.
        cores: Cores that messages and session initiations take in normal operation.
        instances: Instances in all zones.
        machines: Machines in all zones.
        use: Share of a core that an instance takes in normal operation.
        use_without_zone: The same after the loss of a zone.
        sessions: Sessions of an instance after the loss of a zone.
        memory: Bytes for the sessions of an instance then.
        files: Descriptors of the sessions of an instance then.
        commits: Durable commits a second in normal operation.
        transactions: All transactions and single statements a second in normal operation.
        connections: Connections to the database at most.
        database_bytes: Space of all pairings.
        publishes: Publishes a second that the brokers take in.
        broker_nodes: Nodes of the broker cluster, with one zone to spare.
        lost: RMs that a lost zone leaves without a session.
        by_instances: Session initiations a second that the remaining instances can do beside all messages.
        by_database: Session initiations a second that the commits of the database allow.
        database_cores: Cores of the database that a storm takes.
    """

    messages: float
    cores: float
    instances: int
    machines: int
    use: float
    use_without_zone: float
    sessions: float
    memory: float
    files: float
    commits: float
    transactions: float
    connections: int
    database_bytes: float
    publishes: float
    broker_nodes: int
    lost: float
    by_instances: float
    by_database: float
    database_cores: float

    @property
    def initiations(self) -> float:
        """Session initiations a second in a storm."""
        return min(self.by_instances, self.by_database)

    def storm(self, first_within: float, *, busy: bool) -> Return:
        """Return how the lost RMs come back. Arguments as for :func:`benchmarks.storm.storm`."""
        return back(self.lost, self.initiations, first_within=first_within, busy=busy)


def costs(**given: float) -> dict[str, float]:
    """Return the unit costs, some of them given."""
    return {cost.name: cost.value for cost in COSTS} | given


CONNECTIONS: Final = POOL_SIZE + 3
"""Connections of an instance to the database: those of the pool, of LISTEN, of its name, and of the vault."""

IDLE: Final = 4.5
"""Statements a second of an instance that does nothing: whether it hears the database, what has expired, and its sign
of life."""

IDLE_COMMITS: Final = 1 / PROBE_EVERY
"""Those among them that wait for the disk and the standby: whether the database confirms what is written."""


def size(fleet: Fleet, unit: Mapping[str, float]) -> Sizing:
    """Compute what a fleet needs."""
    messages = 2 * fleet.rms / fleet.period
    initiations, pairings = fleet.rms / fleet.lifetime, fleet.new_pairings / 86_400
    of_messages = messages * unit["message_cpu"]
    cores = of_messages + initiations * unit["initiation_cpu"] + pairings * unit["pairing_cpu"]
    # After the loss of a zone the others carry all of it.
    remaining_zones = max(1, fleet.zones - 1)
    per_zone = max(1, math.ceil(cores / (1 - fleet.headroom) / remaining_zones))
    remaining, instances = per_zone * remaining_zones, per_zone * fleet.zones
    sessions = fleet.rms / remaining
    lost = fleet.rms / fleet.zones if fleet.zones > 1 else float(fleet.rms)
    free = max(0.0, fleet.storm_use * remaining - of_messages)
    by_instances = free / unit["initiation_cpu"]
    of_idling = IDLE_COMMITS * instances
    by_database = max(0.0, fleet.commits - of_idling) / unit["initiation_commits"]
    publishes = 2 * messages if fleet.broker else 0.0
    nodes = math.ceil(publishes / fleet.broker_rate / remaining_zones) * fleet.zones
    return Sizing(
        messages=messages,
        cores=cores,
        instances=instances,
        machines=math.ceil(per_zone / fleet.cores_per_machine) * fleet.zones,
        use=cores / instances,
        use_without_zone=cores / remaining,
        sessions=sessions,
        memory=sessions * unit["session_bytes"],
        files=sessions * unit["session_files"],
        commits=initiations * unit["initiation_commits"] + pairings * unit["pairing_commits"] + of_idling,
        transactions=initiations * (unit["initiation_commits"] + unit["initiation_transactions"]) + IDLE * instances,
        connections=CONNECTIONS * instances,
        database_bytes=fleet.rms * unit["pairing_bytes"],
        publishes=publishes,
        broker_nodes=nodes,
        lost=lost,
        by_instances=by_instances,
        by_database=by_database,
        database_cores=min(by_instances, by_database) * unit["initiation_database_cpu"],
    )


def table(fleet: Fleet, unit: Mapping[str, float]) -> str:
    """Return the sizing of a fleet as a table in Markdown."""
    found = size(fleet, unit)
    return "\n".join(
        f"| {name} | {value} |"
        for name, value in (
            ("of a fleet", f"{fleet.rms:,} RMs, a message each way every {fleet.period:g} s, {fleet.zones} zones"),
            ("---", "---:"),
            ("messages a second, each with its status", f"{found.messages:,.0f}"),
            ("cores busy with them", f"{found.cores:,.1f}"),
            ("instances, one on each core", f"{found.instances:,}"),
            (f"machines with {fleet.cores_per_machine} cores", f"{found.machines:,}"),
            ("use of an instance's core", f"{found.use:.0%}"),
            ("without one zone", f"{found.use_without_zone:.0%}"),
            ("sessions of an instance, without one zone", f"{found.sessions:,.0f}"),
            ("their memory", f"{found.memory / 1e9:,.2f} GB"),
            ("their descriptors", f"{found.files:,.0f}"),
            ("PostgreSQL: durable commits a second", f"{found.commits:,.1f}"),
            ("all transactions and single statements a second", f"{found.transactions:,.0f}"),
            ("connections at most", f"{found.connections:,}"),
            ("space of all pairings", f"{found.database_bytes / 1e9:,.2f} GB"),
            ("broker cluster: publishes a second", f"{found.publishes:,.0f}"),
            (f"nodes that do {fleet.broker_rate:,.0f} publishes a second each", f"{found.broker_nodes:,}"),
            ("loss of a zone: RMs without a session", f"{found.lost:,.0f}"),
            ("session initiations a second of the remaining instances", f"{found.by_instances:,.0f}"),
            ("of the database", f"{found.by_database:,.0f}"),
            ("cores that they take of the database", f"{found.database_cores:,.0f}"),
            *(row for first in sorted({fleet.first_within, 60.0}) for row in _storm(first, found)),
        )
    )


def _storm(first_within: float, found: Sizing) -> list[tuple[str, str]]:
    returns = {
        "REC-02": found.storm(first_within, busy=False),
        "our client's back-off": found.storm(first_within, busy=True),
    }
    name = f"first attempts over {first_within:g} s"
    return [
        (f"{name}: attempts a second at most", f"{returns['REC-02'].peak:,.0f}"),
        *(
            (f"{name}, {whose}: half are back, all are", f"{_seconds(one.half)}, {_seconds(one.all)}")
            for whose, one in returns.items()
        ),
    ]


def _seconds(value: float) -> str:
    return "never" if math.isinf(value) else f"{value:,.0f} s"


def from_run(text: str) -> dict[str, float]:
    """Return the unit costs that a run measured: what ``python -m benchmarks --json`` wrote."""
    rows: list[dict[str, Any]] = json.loads(text)["rows"]
    measured = {one["figure"]: one["ours"] for one in rows if one["ours"] is not None}
    return {cost.name: measured[cost.figure] * cost.factor for cost in COSTS if cost.figure in measured}


def sources() -> str:
    """Return all unit costs with their defaults and sources, a line each."""
    return "\n".join(f"{one.name:24} {one.value:<12g} {one.unit:2} {one.what} ({one.source})" for one in COSTS)


def _given(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    if name not in costs():
        raise argparse.ArgumentTypeError(f"no unit cost: {name}; there are {', '.join(costs())}")
    return name, float(value)


def main(argv: Sequence[str]) -> int:
    """Print the table of a fleet."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks sizing",
        description=f"{__doc__}\nUnit costs:\n{sources()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    usual = Fleet()
    for field in fields(Fleet):
        default = getattr(usual, field.name)
        name = f"--{field.name.replace('_', '-')}"
        if isinstance(default, bool):
            parser.add_argument(name, action=argparse.BooleanOptionalAction, default=default)
        else:
            parser.add_argument(name, type=type(default), default=default, metavar="N", help=f"{default:g}")
    parser.add_argument("--from", dest="runs", type=Path, nargs="+", default=[], metavar="FILE", help="runs (--json)")
    parser.add_argument("--cost", type=_given, action="append", default=[], metavar="NAME=VALUE")
    arguments = parser.parse_args(argv)
    measured: dict[str, float] = {}
    for run in arguments.runs:
        measured |= from_run(run.read_text("utf-8"))
    try:
        fleet = Fleet(**{field.name: getattr(arguments, field.name) for field in fields(Fleet)})
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(table(fleet, costs(**measured, **dict(arguments.cost))))
    return 0


def shown(cost: Cost) -> str:
    """Return the value of a unit cost for people, with three digits."""
    factor, unit = {"s": (1e6, " µs"), "B": (1e-3, " KB")}.get(cost.unit, (1.0, ""))
    return f"{float(f'{cost.value * factor:.3g}'):,g}{unit}"
