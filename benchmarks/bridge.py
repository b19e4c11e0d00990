"""A link of the bridge beside relays that check nothing: from a message to its ReceptionStatus, and back through it."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.budgets import AIOHTTP, SCRIPT, WEBSOCKETS
from benchmarks.harness import Effort, Task, Worker, in_turns, peer_python, pin, workspace
from benchmarks.samples import SAMPLES, size_of
from benchmarks.table import Row
from s2connect.https.server import free_port

MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
CORE = 1
"""Processor that a whole way runs on: to wake another core costs a virtual machine more than any relay does."""

WINDOW = 16
"""Messages under way in the measurement of throughput; a broker lets 20 be."""


@dataclass(frozen=True)
class Way:
    """One way from end to end.

    Attributes:
        relay: ``ours``, ``aiohttp``, ``websockets`` or ``aiomqtt``; empty for none, the ends meet by themselves.
        near: How the device is connected.
        far: How the energy manager is connected.
        brokers: How many MQTT brokers there are.
        task: For the relay.
        slow: Whether a message takes tens of milliseconds, so that a few have to do.
    """

    relay: str
    near: str = "wss"
    far: str = "wss"
    brokers: int = 0
    task: Task = field(default_factory=dict)
    slow: bool = False


def _ours(acceptor: str = "wss", far: str = "wss", *, check: str = "envelope", **task: Any) -> Way:
    near, brokers = ("mqtt" if acceptor == "mqtt" else "wss"), (acceptor == "mqtt") + (far == "mqtt")
    return Way("ours", near, far, brokers, {"acceptor": acceptor, "check": check, "protection": "sealed", **task})


OVER_WSS = {
    "direct": Way(""),
    "envelope": _ours(),
    "rules": _ours(check="rules"),
    WEBSOCKETS: Way("websockets"),
    "envelope, uvloop": _ours(uvloop=True),
    AIOHTTP: Way("aiohttp", task={"uvloop": True}),
}
OVER_MQTT = {
    "sealed": _ours("wss", "mqtt"),
    "sealed, uvloop": _ours("wss", "mqtt", uvloop=True),
    SCRIPT: Way("aiomqtt", "wss", "topics", 1),
    "two brokers, sealed": _ours("mqtt", "mqtt"),
    "Mosquitto's bridge": Way("", "topics", "topics", 2, slow=True),
}


@contextlib.contextmanager
def _mosquitto(directory: Path, *options: str) -> Iterator[tuple[int, int]]:
    """A broker on loopback with TLS 1.3: its port and its process."""
    assert MOSQUITTO is not None
    port = free_port()
    file = directory / f"mosquitto-{port}.conf"
    lines = (
        f"listener {port} 127.0.0.1",
        f"certfile {directory / 'chain.pem'}",
        f"keyfile {directory / 'key.pem'}",
        "tls_version tlsv1.3",
        f"user {getpass.getuser()}",
        "allow_anonymous true",
        "persistence false",
        "set_tcp_nodelay true",
        "log_dest none",
        *options,
    )
    file.write_text("\n".join(lines) + "\n")
    process = subprocess.Popen([MOSQUITTO, "-c", file], stderr=subprocess.DEVNULL)
    try:
        pin(process.pid, CORE)
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(10)


def _bridged_to(port: int, directory: Path) -> tuple[str, ...]:
    return (
        "connection benchmark",
        f"address localhost:{port}",
        "topic bench/# both 1",
        "bridge_protocol_version mqttv50",
        f"bridge_cafile {directory / 'ca.pem'}",
        "bridge_tls_version tlsv1.3",
        "cleansession true",
    )


def _set_up(stack: ExitStack, way: Way, directory: Path) -> Measure | None:
    """Everything of one way; returns what measures it, None where a part is not installed."""
    python = peer_python("aiomqtt")
    if (way.brokers and MOSQUITTO is None) or (way.relay == "aiomqtt" and python is None):
        return None
    task: Task = {"directory": str(directory), "near": way.near, "far": way.far, "protection": "plain", **way.task}
    pids: list[int] = []
    if way.brokers:
        port, pid = stack.enter_context(_mosquitto(directory))
        task["far_broker"] = task["near_broker"] = f"mqtts://localhost:{port}"
        pids.append(pid)
    if way.brokers == 2:
        bridge = () if way.relay else _bridged_to(port, directory)
        port, pid = stack.enter_context(_mosquitto(directory, *bridge))
        task["near_broker"] = f"mqtts://localhost:{port}"
        pids.append(pid)
    ends = stack.enter_context(Worker.ours("bridge_worker", "ends", **task | {"uvloop": False}))
    pin(ends.pid, CORE)
    at = ends.ready
    if way.relay == "aiomqtt":
        assert python is not None
        relay = stack.enter_context(Worker.peer(python, "aiomqtt_relay.py", {}, **task))
    elif way.relay:
        relay = stack.enter_context(Worker.ours("bridge_worker", way.relay, at=at, **task))
    if way.relay:
        pin(relay.pid, CORE)
        pids.append(relay.pid)
        at = relay.ready
    ends.ask(connect=[at])
    return lambda **question: ends.ask(pids=pids, window=WINDOW, **question)


Measure = Callable[..., dict[str, float]]
Number = Callable[[dict[str, float], dict[str, float]], float]

ADDED: tuple[str, str, Number] = ("added p50", "µs", lambda result, direct: (result["p50"] - direct["p50"]) * 1e6)
P50: tuple[str, str, Number] = ("round trip p50", "µs", lambda result, _: result["p50"] * 1e6)
P99: tuple[str, str, Number] = ("round trip p99", "µs", lambda result, _: result["p99"] * 1e6)
CPU: tuple[str, str, Number] = ("CPU per message", "µs", lambda result, _: result["cpu"] * 1e6)
BUSY: tuple[str, str, Number] = (
    f"CPU per message, {WINDOW} under way",
    "µs",
    lambda result, _: result["busy_cpu"] * 1e6,
)
RATE: tuple[str, str, Number] = (f"messages, {WINDOW} under way", "1/s", lambda result, _: result["rate"])

Line = tuple[str, str, str, tuple[tuple[str, str, Number], ...]]

WSS_TABLE: tuple[Line, ...] = (
    ("link WSS ↔ WSS, envelope", "envelope", WEBSOCKETS, (ADDED, P99, CPU, BUSY, RATE)),
    ("link WSS ↔ WSS, rules", "rules", WEBSOCKETS, (ADDED, CPU)),
    ("link WSS ↔ WSS, envelope, uvloop", "envelope, uvloop", AIOHTTP, (ADDED, CPU)),
)
MQTT_TABLE: tuple[Line, ...] = (
    ("link WSS ↔ MQTT sealed", "sealed", SCRIPT, (P50, P99, CPU, RATE)),
    ("link WSS ↔ MQTT sealed, uvloop", "sealed, uvloop", SCRIPT, (P50, CPU)),
    ("link MQTT ↔ MQTT sealed", "two brokers, sealed", "Mosquitto's bridge", (P50, P99, CPU, RATE)),
)


def measure(effort: Effort) -> Iterator[Row]:
    """The rows of this theme."""
    for ways, table in ((OVER_WSS, WSS_TABLE), (OVER_MQTT, MQTT_TABLE)):
        mine = {
            name: way for name, way in ways.items() if effort.peers or (way.relay in ("ours", "") and way.brokers < 2)
        }
        with workspace() as directory, ExitStack() as stack:
            running = {name: _set_up(stack, way, directory) for name, way in mine.items()}
            for sample in SAMPLES:
                yield from _rows(effort, mine, running, sample, table)


def _rows(
    effort: Effort, ways: dict[str, Way], running: dict[str, Measure | None], sample: str, table: Sequence[Line]
) -> Iterator[Row]:
    runs, count = effort.pick(9, 3, 1), effort.pick(600, 300)
    asks = [
        ask and (lambda ask=ask, slow=way.slow: ask(sample=sample, count=count // 10 if slow else count))
        for way, ask in zip(ways.values(), running.values(), strict=True)
    ]
    for warm_up in asks:
        if warm_up:
            warm_up()
    results = dict(zip(ways, in_turns(runs, *asks), strict=True))
    direct = results.get("direct") or {}
    for label, mine, beside, numbers in table:
        own, theirs = results.get(mine), results.get(beside)
        if own is None:
            continue
        for what, unit, of in numbers:
            name = f"{label}, {size_of(SAMPLES[sample])}: {what}"
            yield Row(name, unit, of(own, direct), beside, of(theirs, direct) if theirs else None)
