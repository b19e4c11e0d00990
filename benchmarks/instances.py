"""Several instances on one PostgreSQL: what they do together, beside one of them and beside SQLite.

The two cores are shared by instances, database and devices, so the rate of two is not twice that of one; the CPU
that an instance takes for a session initiation says whether they disturb each other.
"""

from __future__ import annotations

import base64
import contextlib
import os
import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.harness import Effort, Numbers, Task, Worker, ask_all, cpu_seconds, in_turns, pin, workspace
from benchmarks.table import Row, row
from s2connect.https.server import free_port

if TYPE_CHECKING:
    from tests.postgresql import Cluster

ADDRESSES: Final = ("127.0.0.1", "127.0.0.2")
"""One of each instance; all use the same port, as behind a balancer."""

DEVICES: Final = 400
AT_A_TIME: Final = 16
KEY: Final = base64.b64encode(bytes(range(32))).decode()


@contextlib.contextmanager
def postgresql() -> Iterator[Cluster | None]:
    """Run a PostgreSQL that flushes to disk; None where it, or psycopg, is not installed."""
    import pytest

    from tests.postgresql import Cluster, need_postgresql

    try:
        need_postgresql()
    except (pytest.skip.Exception, pytest.fail.Exception):
        yield None
        return
    cluster = Cluster(durable=True, max_connections="200", shared_buffers="128MB")
    try:
        cluster.make_template()
        yield cluster
    finally:
        cluster.close()


@dataclass
class Cloud:
    """Instances of one cloud.

    Attributes:
        instances: Their processes.
        cluster: Their database, None for SQLite.
        task: What devices have to know.
    """

    instances: list[Worker]
    cluster: Cluster | None
    store: str
    directory: Path
    task: Task = field(default_factory=dict)

    def devices(self, stack: ExitStack, kind: str, *, first: int, count: int, at: int | None = None) -> Worker:
        """Start devices: at one of the instances, or at all."""
        module = "herd_worker" if kind == "devices" else "instances_worker"
        home = self.directory / f"{kind}-{first}-{len(self.instances)}-{time.monotonic_ns()}"
        addresses = list(ADDRESSES[: len(self.instances)]) if at is None else [ADDRESSES[at]]
        return stack.enter_context(
            Worker.ours(
                module,
                kind,
                directory=str(self.directory),
                home=str(home),
                host="localhost",
                address=addresses[0],
                addresses=addresses,
                server=self.instances[0].ready,
                first=first,
                count=count,
            )
        )

    def counters(self) -> Numbers:
        """Return what instances and database have done so far."""
        seen = [one.ask() for one in self.instances]
        found = {name: float(sum(one[name] for one in seen)) for name in ("cpu", "trips")}
        if self.cluster is not None:
            time.sleep(1.1)  # a backend reports once a second
            name = self.store.partition("@/")[2].partition("?")[0]
            of_database = f"SELECT xact_commit FROM pg_stat_database WHERE datname = '{name}'"
            found["transactions"] = float(self.cluster.sql(of_database)[0][0])
            found["flushes"] = float(self.cluster.sql("SELECT wal_sync FROM pg_stat_wal")[0][0])
            found["database_cpu"] = _cpu_of(self.cluster)
        return found


def _cpu_of(cluster: Cluster) -> float:
    first = (cluster.data / "postmaster.pid").read_text("ascii").split()[0]
    found = subprocess.run(["pgrep", "-P", first], capture_output=True, text=True, check=False).stdout.split()
    total = 0.0
    for pid in (first, *found):
        with contextlib.suppress(OSError):
            total += cpu_seconds([int(pid)])
    return total


def _cloud(
    stack: ExitStack, directory: Path, count: int, cluster: Cluster | None, *, paired: int, nodes: int = 1
) -> Cloud:
    """Start instances, each on a core of its own."""
    os.environ["S2CONNECT_STORE_KEY"] = KEY
    store = cluster.new_database() if cluster is not None else ""
    port, instances = free_port(), list[Worker]()
    for number in range(count):
        task: dict[str, Any] = {
            "directory": str(directory),
            "home": str(directory / f"cem-{time.monotonic_ns()}"),
            "store": store,
            "name": f"i{number}",
            "port": port,
            "address": ADDRESSES[number],
            "nodes": nodes,
            "paired": 0 if number else paired,
            "service": True,
        }
        instances.append(stack.enter_context(Worker.ours("instances_worker", "instance", **task)))
        pin(instances[-1].pid, number)
    return Cloud(instances, cluster, store, directory)


def _initiations(cloud: Cloud, parts: list[Worker], seconds: float) -> Numbers:
    """Let devices initiate sessions; return the rate, and what one initiation takes."""
    before = cloud.counters()
    answers = ask_all(parts, do="laps", at_a_time=AT_A_TIME // len(parts), seconds=seconds)
    after = cloud.counters()
    count = sum(answer["count"] for answer in answers)
    if not count:
        raise RuntimeError(f"no session: {answers}")
    each = {name: (after[name] - before[name]) / count for name in before}
    return {"rate": sum(answer["count"] / answer["seconds"] for answer in answers), **each}


CLOUDS: Final = ("SQLite", "1 instance", "2 instances")


def measure(effort: Effort) -> Iterator[Row]:
    """The rows of this theme."""
    with _many_files(), workspace() as directory, postgresql() as cluster:
        if cluster is None:
            yield Row("session initiations, PostgreSQL, 1 instance", "1/s", None)
            return
        yield from _rates(effort, directory, cluster)
        yield from _pairings(effort, directory, cluster)
        yield from _updates(effort, directory, cluster)
        yield from _messages(effort, directory, cluster)
        yield from idle(directory, cluster, effort.pick(2000, 300, 20))
        yield from storm(directory, cluster, effort.pick(2000, 300, 20))


@contextlib.contextmanager
def _many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _rates(effort: Effort, directory: Path, cluster: Cluster) -> Iterator[Row]:
    seconds, count = effort.pick(8, 4, 1), effort.pick(DEVICES, DEVICES, 40)
    with ExitStack() as stack:
        clouds = [
            _cloud(
                stack, directory, 2 if name == "2 instances" else 1, None if name == "SQLite" else cluster, paired=count
            )
            for name in CLOUDS
        ]
        share = count // 2
        parts = [[cloud.devices(stack, "devices", first=n * share, count=share) for n in (0, 1)] for cloud in clouds]
        asks = [
            (lambda cloud=cloud, part=part: _initiations(cloud, part, seconds))
            for cloud, part in zip(clouds, parts, strict=True)
        ]
        sqlite, one, two = in_turns(effort.pick(5, 2, 1), *asks)
    what = "session initiations, PostgreSQL"
    yield row(f"{what}, 1 instance", "1/s", "rate", one, "SQLite", sqlite)
    yield row(f"{what}, 2 instances on two cores", "1/s", "rate", two, "1 instance", one)
    yield row("session initiation: CPU of an instance, PostgreSQL", "ms", "cpu", one, "SQLite", sqlite)
    yield row("session initiation: CPU of an instance, 2 instances", "ms", "cpu", two, "1 instance", one)
    yield row("session initiation: CPU of PostgreSQL", "ms", "database_cpu", one)
    yield row("session initiation: round trips to PostgreSQL", "", "trips", one)
    yield row("session initiation: transactions of PostgreSQL", "", "transactions", one)
    yield row("session initiation: flushes of PostgreSQL's log", "", "flushes", one)


def _pairings(effort: Effort, directory: Path, cluster: Cluster) -> Iterator[Row]:
    nodes, seconds = effort.pick(100, 60, 4), effort.pick(10, 5, 2)
    results: list[Numbers] = []
    for used in (None, cluster):
        with ExitStack() as stack:
            cloud = _cloud(stack, directory, 1, used, paired=0, nodes=nodes)
            devices = cloud.devices(stack, "pair", first=0, count=nodes)
            before = cloud.counters()
            found = devices.ask(seconds=seconds)
            after = cloud.counters()
            each = {name: (after[name] - before[name]) / found["count"] for name in before}
            results.append({"rate": found["rate"], **each})
    sqlite, ours = results
    yield row(f"pairings, PostgreSQL, {nodes} nodes at a time", "1/s", "rate", ours, "SQLite", sqlite)
    yield row("pairing: CPU of an instance, PostgreSQL", "ms", "cpu", ours, "SQLite", sqlite)
    yield row("pairing: round trips to PostgreSQL", "", "trips", ours)
    yield row("pairing: flushes of PostgreSQL's log", "", "flushes", ours)


def _updates(effort: Effort, directory: Path, cluster: Cluster) -> Iterator[Row]:
    """Rows of one durable UPDATE."""
    seconds, paired = effort.pick(4, 2, 1), effort.pick(100, 100, 10)
    for at_a_time in (1, 8):
        results = []
        with ExitStack() as stack:
            cloud = _cloud(stack, directory, 1, cluster, paired=paired)
            for store in ("", cloud.store):
                task = {"directory": str(directory), "home": str(directory / f"up-{time.monotonic_ns()}")}
                updating = Worker.ours("instances_worker", "update", store=store, count=paired, **task)
                results.append(stack.enter_context(updating).ask(seconds=seconds, at_a_time=at_a_time))
        sqlite, ours = results
        yield row(f"activating tokens, PostgreSQL, {at_a_time} at a time", "1/s", "rate", ours, "SQLite", sqlite)


def _messages(effort: Effort, directory: Path, cluster: Cluster) -> Iterator[Row]:
    """Rows of acknowledged messages, the devices' ends of the sessions on the same cores."""
    seconds, count = effort.pick(8, 4, 1), effort.pick(40, 20, 4)
    with ExitStack() as stack:
        asks = []
        for number in (1, 2):
            cloud = _cloud(stack, directory, number, cluster, paired=count)
            share = count // 2
            parts = [cloud.devices(stack, "hold", first=n * share, count=share, at=n % number) for n in (0, 1)]

            def send(cloud: Cloud = cloud, parts: list[Worker] = parts) -> Numbers:
                before = cloud.counters()["cpu"]
                answers = ask_all(parts, busy=seconds, at_a_time=8)
                sent = sum(answer["exchanged"] for answer in answers)
                rate = sum(answer["exchanged"] / answer["seconds"] for answer in answers)
                return {"rate": rate, "cpu": (cloud.counters()["cpu"] - before) / sent}

            asks.append(send)
        one, two = in_turns(effort.pick(5, 2, 1), *asks)
    yield row("acknowledged messages, rules, 2 instances on two cores", "1/s", "rate", two, "1 instance", one)
    yield row("message: CPU of an instance, 2 instances", "µs", "cpu", two, "1 instance", one)


def idle(directory: Path, cluster: Cluster, count: int) -> Iterator[Row]:
    """Rows of so many idle sessions over two instances."""
    with ExitStack() as stack:
        cloud = _cloud(stack, directory, 2, cluster, paired=count + 40)
        cloud.devices(stack, "devices", first=count, count=40).ask(do="come")
        _wait(cloud, 40, 60)
        before = [one.ask(memory=True) for one in cloud.instances]
        for number in (0, 1):
            cloud.devices(stack, "devices", first=number * count // 2, count=count // 2).ask(do="come")
        _wait(cloud, count + 40, 60 + count / 20)
        after = [one.ask(memory=True) for one in cloud.instances]
    came = sum(one["connected"] for one in after) - sum(one["connected"] for one in before)

    def each(name: str) -> float:
        return float(sum(b[name] - a[name] for a, b in zip(before, after, strict=True)) / came)

    yield Row(f"{count:,} idle sessions over two instances: came", "", came)
    yield Row("memory of a session, two instances", "KB", each("bytes") / 1000)
    yield Row("descriptors of a session", "", each("files"))


def _wait(cloud: Cloud, count: int, seconds: float) -> float:
    """Wait until so many sessions are open in all; return how long it took, infinite where it does not happen."""
    began = time.monotonic()
    while (spent := time.monotonic() - began) < seconds:
        if sum(one.ask()["connected"] for one in cloud.instances) >= count:
            return spent
        time.sleep(0.1)
    return float("inf")


def storm(directory: Path, cluster: Cluster, count: int) -> Iterator[Row]:
    """Rows of clients that come at once, and come back after the loss of one of two instances."""
    patience = 60 + count / 10
    with ExitStack() as stack:
        cloud = _cloud(stack, directory, 2, cluster, paired=count)
        parts = [cloud.devices(stack, "devices", first=n * count // 2, count=count // 2) for n in (0, 1)]
        ask_all(parts, do="come")
        coming = _wait(cloud, count, patience)
        lost = cloud.instances.pop()
        lost.kill()
        began = time.monotonic()
        while sum(part.ask(do="look")["connected"] for part in parts) > 0.9 * count and time.monotonic() < began + 10:
            time.sleep(0.05)
        ask_all(parts, do="again")
        back = _wait(cloud, count, patience)
    yield Row(f"{count:,} clients at once on two instances: all are in after", "s", coming)
    yield Row(f"{count // 2:,} of them when one instance is killed: all are back after", "s", back)


def main(argv: list[str]) -> int:
    """Measure only idle sessions, so many of them."""
    import argparse

    from benchmarks.table import HEAD

    parser = argparse.ArgumentParser(prog="python -m benchmarks.instances", description=main.__doc__)
    parser.add_argument("--idle", type=int, default=10_000, metavar="N", help="idle sessions over two instances")
    arguments = parser.parse_args(argv)
    with _many_files(), workspace() as directory, postgresql() as cluster:
        if cluster is None:
            print("PostgreSQL or psycopg is not installed.")
            return 1
        print(HEAD)
        for found in idle(directory, cluster, arguments.idle):
            print(found.as_line(), flush=True)
    return 0


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
