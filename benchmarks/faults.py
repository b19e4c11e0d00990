"""Long run of injected faults: instances on one database behind a balancer, and devices that send numbered messages.

python -m benchmarks faults --faults 10000 --seed 1 --report faults.json

Each fault is drawn from the seed and its number. The report is written after each fault; the same command goes on where
it ended. A fault has healed when every device has had a message acknowledged that it sent after the fault's end.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.balancer import Balancer
from benchmarks.endpoint_worker import server_pairing
from benchmarks.harness import Worker, percentile, workspace
from benchmarks.instances_worker import seed
from benchmarks.journals import Checker, Tail
from s2connect.https.server import free_port

if TYPE_CHECKING:
    from tests.postgresql import Cluster
    from tests.store.postgresql_wire import Wire

KEY: Final = base64.b64encode(bytes(range(32))).decode()
HEALED_WITHIN: Final = 180.0
"""Seconds after which a device that has no acknowledged message counts as locked out."""


@dataclass
class Report:
    """Result of a run, as far as it has come.

    Attributes:
        seed: Of all faults.
        instances: Number of instances.
        devices: Number of devices.
        messages: Acknowledged messages.
        found: Numbers of lost, duplicated and reordered messages, of sessions beside another, of devices locked out.
        examples: Some of them.
        faults: All faults: number, kind, seconds that they lasted, and seconds until they had healed.
    """

    seed: int
    instances: int
    devices: int
    messages: int = 0
    found: dict[str, int] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)
    faults: list[dict[str, Any]] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the report in Markdown."""
        names = ("lost", "duplicated", "reordered", "two sessions", "locked out")
        rows = [
            f"{len(self.faults):,} faults, seed {self.seed}: {self.messages:,} messages of {self.devices} devices were"
            f" acknowledged at {self.instances} instances; "
            + ", ".join(f"{self.found.get(name, 0)} {name}" for name in names),
            "",
            "| fault | number | healed, p50 | p99 | most |",
            "| --- | ---: | ---: | ---: | ---: |",
        ]
        kinds = Counter(fault["kind"] for fault in self.faults)
        for kind in (*sorted(kinds), "all"):
            spans = [fault["healed"] for fault in self.faults if kind in (fault["kind"], "all")]
            if spans:
                p50, p99 = percentile(spans, 0.5), percentile(spans, 0.99)
                rows.append(f"| {kind} | {len(spans):,} | {p50:.2f} s | {p99:.2f} s | {max(spans):.2f} s |")
        return rows + ([""] if self.examples else []) + self.examples


@dataclass
class Instance:
    """One instance, with its way to the database.

    Attributes:
        worker: Its process.
        wire: What is between it and the database.
        lives: Number of processes so far.
    """

    worker: Worker
    wire: Wire
    lives: int = 1


class Site:
    """Instances, database, balancer and devices, and the faults that they have."""

    def __init__(self, directory: Path, cluster: Cluster, store: str, devices: int, balancer: Balancer) -> None:
        self.cluster = cluster
        self.balancer = balancer
        self.instances: list[Instance] = []
        self.journals: list[Tail] = []
        self.checker = Checker()
        self._directory = directory
        self._store = store
        self._devices = devices
        self._port = balancer.port
        self._clients: list[Worker] = []

    def _journal(self) -> Path:
        path = self._directory / f"journal-{len(self.journals)}"
        self.journals.append(Tail(path))
        return path

    async def begin(self, wires: Sequence[Wire]) -> None:
        """Start the instances, then the devices."""
        await seed({"store": self._store}, (server_pairing(number) for number in range(self._devices)))
        for number, wire in enumerate(wires):
            self.instances.append(Instance(await self._start(number, 1, wire), wire))
            self.balancer.addresses.append(_address(number))
        task: dict[str, Any] = {
            "directory": str(self._directory),
            "home": str(self._directory / "devices"),
            "journal": str(self._journal()),
            "devices": self._devices,
            "pause": 0.05,
            "from": 0,
            "address": "127.0.0.1",
            "server": self.instances[0].worker.ready,
        }
        self._clients.append(await asyncio.to_thread(lambda: Worker.ours("faults_worker", "clients", **task)))

    async def _start(self, number: int, life: int, wire: Wire) -> Worker:
        task: dict[str, Any] = {
            "directory": str(self._directory),
            "home": str(self._directory / f"home-{number}-{life}"),
            "journal": str(self._journal()),
            "store": wire.through,
            "name": f"i{number}-{life}",
            "port": self._port,
            "address": _address(number),
            "devices": self._devices,
        }
        return await asyncio.to_thread(lambda: Worker.ours("faults_worker", "instance", **task))

    async def close(self) -> None:
        """End all processes."""
        for worker in (*self._clients, *(one.worker for one in self.instances)):
            worker.kill()

    async def read(self) -> None:
        """Read what is new in the journals."""
        lines = [line for tail in self.journals for line in tail.lines()]
        self.checker.take(lines, time.monotonic())

    async def healed(self, since: float) -> set[int]:
        """Wait until every device has had a message acknowledged that it sent later; return those that have not."""
        until = time.monotonic() + HEALED_WITHIN
        while True:
            await self.read()
            late = {n for n in range(self._devices) if self.checker.acknowledged.get(n, 0.0) <= since}
            if not late or time.monotonic() > until:
                return late
            await asyncio.sleep(0.05)

    # Faults

    async def killed(self, chance: random.Random) -> Awaitable[None]:
        """Kill an instance; another process takes its place, for which nobody waits."""
        number = chance.randrange(len(self.instances))
        one = self.instances[number]
        one.worker.kill()
        one.lives += 1

        async def replace() -> None:
            one.worker = await self._start(number, one.lives, one.wire)

        return asyncio.ensure_future(replace())

    async def stopped(self, chance: random.Random) -> None:
        """Stop an instance without ending it, for some seconds, at times for half a minute."""
        pid = chance.choice(self.instances).worker.pid
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(30.0 if chance.random() < 0.02 else chance.uniform(0.5, 8.0))
        os.kill(pid, signal.SIGCONT)

    async def left_behind(self, chance: random.Random) -> None:
        """Stop an instance while its devices go to another one, so that it wakes up with sessions that are not its."""
        number = chance.randrange(len(self.instances))
        pid = self.instances[number].worker.pid
        os.kill(pid, signal.SIGSTOP)
        self.balancer.take_down(_address(number))
        await asyncio.sleep(30.0 if chance.random() < 0.05 else chance.uniform(1.0, 8.0))
        os.kill(pid, signal.SIGCONT)
        self.balancer.down.discard(_address(number))

    async def database_crashed(self, chance: random.Random) -> None:
        """Crash the database; it starts again."""
        await asyncio.to_thread(self.cluster.stop, "immediate")
        await asyncio.sleep(chance.uniform(0.0, 2.0))
        await asyncio.to_thread(self.cluster.start)

    async def database_silent(self, chance: random.Random) -> None:
        """Let nothing pass between an instance and the database."""
        wire = chance.choice(self.instances).wire
        wire.silent = True
        await asyncio.sleep(chance.uniform(0.5, 8.0))
        wire.silent = False

    async def balancer_cut(self, chance: random.Random) -> None:
        """Cut all connections of the devices, or some."""
        self.balancer.cut(chance, chance.choice((1.0, 0.3)))

    async def silent_cut(self, chance: random.Random) -> None:
        """Let nothing pass on some connections, which end only then."""
        silent = self.balancer.silence(chance, 0.5)
        await asyncio.sleep(chance.uniform(0.5, 6.0))
        self.balancer.end(silent)

    async def slow_peers(self, chance: random.Random) -> None:
        """Hold everything up that passes on any connection."""
        self.balancer.delay = chance.uniform(0.05, 0.4)
        await asyncio.sleep(chance.uniform(0.5, 4.0))
        self.balancer.delay = 0.0

    @property
    def kinds(self) -> dict[str, Callable[[random.Random], Awaitable[Awaitable[None] | None]]]:
        """All kinds of faults. One that has not been cleared up when it is over returns what does that."""
        return {
            "instance killed": self.killed,
            "instance stopped": self.stopped,
            "instance left behind": self.left_behind,
            "database crashed": self.database_crashed,
            "database silent": self.database_silent,
            "balancer cut": self.balancer_cut,
            "silent cut": self.silent_cut,
            "slow peers": self.slow_peers,
        }


def _address(number: int) -> str:
    return f"127.0.0.{number + 2}"


async def inject(report: Report, faults: int, kinds: Sequence[str], save: Callable[[Report], None]) -> None:
    """Inject faults until the report has so many of them."""
    from benchmarks.instances import postgresql
    from tests.store.postgresql_wire import wire

    os.environ["S2CONNECT_STORE_KEY"] = KEY
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(workspace())
        cluster = stack.enter_context(postgresql())
        if cluster is None:
            raise RuntimeError("PostgreSQL or psycopg is not installed")
        store = cluster.new_database()
        balancer = await stack.enter_async_context(Balancer.running(free_port()))
        wires = [await stack.enter_async_context(wire(store)) for _ in range(report.instances)]
        site = Site(directory, cluster, store, report.devices, balancer)
        stack.push_async_callback(site.close)
        site.checker.found.update(report.found)
        site.checker.examples = report.examples
        before = report.messages
        await site.begin(wires)
        if late := await site.healed(0.0):
            raise RuntimeError(f"devices {sorted(late)} have no session at the beginning")
        while len(report.faults) < faults:
            number = len(report.faults)
            chance = random.Random(f"{report.seed}:{number}")
            kind = chance.choice(sorted(kinds))
            await asyncio.sleep(chance.uniform(0.0, 1.0))
            began = time.monotonic()
            rest = await site.kinds[kind](chance)
            end = time.monotonic()
            late = await site.healed(end)
            healed = time.monotonic() - end
            if rest is not None:
                await rest
            if late:
                site.checker.found["locked out"] += len(late)
                site.checker.examples.append(f"locked out: devices {sorted(late)} after fault {number}, {kind}")
            fault = {"number": number, "kind": kind, "lasted": round(end - began, 3), "healed": round(healed, 3)}
            report.faults.append(fault)
            report.messages, report.found = before + site.checker.messages, dict(site.checker.found)
            save(report)
        await asyncio.sleep(5.0)
        await site.read()
        report.messages, report.found = before + site.checker.messages, dict(site.checker.found)
        save(report)


def main(argv: Sequence[str]) -> int:
    """Inject faults and print the report; 1 if a message or a device was lost."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faults", type=int, default=100, metavar="N", help="in all (100)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--instances", type=int, default=2)
    parser.add_argument("--devices", type=int, default=12)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--report", type=Path, metavar="FILE", help="write it after each fault, and go on with it")
    arguments = parser.parse_args(argv)
    report = Report(arguments.seed, arguments.instances, arguments.devices)
    if arguments.report and arguments.report.exists():
        report = Report(**json.loads(arguments.report.read_text("utf-8")))

    def save(now: Report) -> None:
        fault = now.faults[-1] if now.faults else {}
        print(f"{fault} {now.found}", file=sys.stderr, flush=True)
        if arguments.report:
            with tempfile.NamedTemporaryFile("w", dir=arguments.report.parent, delete=False) as file:
                json.dump(asdict(now), file, indent=1)
            Path(file.name).replace(arguments.report)

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(inject(report, arguments.faults, arguments.kinds, save))
    print("\n".join(report.lines()))
    return 1 if report.found else 0


KINDS: Final = (
    "instance killed",
    "instance stopped",
    "instance left behind",
    "database crashed",
    "database silent",
    "balancer cut",
    "silent cut",
    "slow peers",
)
"""Names of :attr:`Site.kinds`."""
