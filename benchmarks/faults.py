"""Long run of injected faults: instances on one database behind a balancer, and devices; all send numbered messages.

python -m benchmarks faults --faults 10000 --seed 1 --report faults.json

Faults of one connection are injected at many devices at the same time, and between them faults of the whole site, one
at a time. A fault counts where it was injected on a session that was alive, and when its devices have had a message
acknowledged that they sent after its end, or have not within three minutes. The report is written every few seconds;
the same command goes on where it ended, also after SIGINT or SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks import faults_connections, faults_site
from benchmarks.faults_report import Report
from benchmarks.faults_site import OF_BROKERS, Site
from benchmarks.harness import ROOT, workspace
from benchmarks.journals import Healing

KEY: Final = base64.b64encode(bytes(range(32))).decode()

HEALED_WITHIN: Final = 180.0
"""Seconds after which a device that has no acknowledged message counts as locked out, until it has one."""

REST: Final = 4.0
"""Seconds between two faults of the whole site, at most."""

READ_EVERY: Final = 0.1
SAVE_EVERY: Final = 10.0

KINDS: Final = (*faults_connections.KINDS, *faults_site.KINDS)
"""Kinds of faults."""


class Run:
    """One run: injects faults until the report has enough of them, or it is stopped.

    Args:
        site: What they are injected into.
        report: What goes on.
        faults: How many it is to have.
        at_once: Faults of one connection at the same time, at most.
    """

    def __init__(self, site: Site, report: Report, faults: int, at_once: int) -> None:
        self.stopped = False
        self._site = site
        self._report = report
        self._faults = faults
        self._at_once = at_once
        self._number = report.next_number
        self._busy: dict[int, bool] = {}  # devices with a fault, and whether one of the whole site was beside it
        self._under_way = 0
        self._of_site = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._locked_out: list[Healing] = []
        self._before = report.messages, dict(report.errors)
        site.checker.found.update(report.found)
        site.checker.examples = report.examples

    async def inject(self, save: Callable[[Report], None]) -> None:
        """Inject the faults, and wait until all have healed."""
        reading = asyncio.create_task(self._read(save), name="faults-reading")
        try:
            kinds = self._report.kinds
            injecting = [
                self._inject_into_site([kind for kind in kinds if kind in faults_site.KINDS]),
                self._inject_into_connections([kind for kind in kinds if kind in faults_connections.KINDS]),
            ]
            await _first_error(reading, *injecting)
            await _first_error(reading, *self._tasks)
            await asyncio.sleep(5.0)
        finally:
            reading.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(reading, *self._tasks, return_exceptions=True)
            self._update()
            save(self._report)

    def _is_over(self) -> bool:
        return self.stopped or len(self._report.faults) + self._under_way >= self._faults

    def _next(self) -> tuple[int, random.Random]:
        number, self._number = self._number, self._number + 1
        self._under_way += 1
        return number, random.Random(f"{self._report.seed}:{number}")

    def _update(self) -> None:
        self._site.read()
        report, checker = self._report, self._site.checker
        for one in list(self._locked_out):
            if one.at is not None:
                self._locked_out.remove(one)
                checker.found.subtract({"locked out": 1, "late": -1})
                checker.examples.append(f"late: device {one.device} was back after {one.at - one.since:.0f} s")
        report.messages, report.found = self._before[0] + checker.messages, dict(checker.found)
        errors = self._before[1]
        report.errors = {text: errors.get(text, 0) + self._site.errors[text] for text in {*errors, *self._site.errors}}

    async def _read(self, save: Callable[[Report], None]) -> None:
        saved = time.monotonic()
        while True:
            await asyncio.sleep(READ_EVERY)
            self._update()
            if ended := self._site.ended():
                raise RuntimeError(f"ended by themselves: {ended}")
            if time.monotonic() > saved + SAVE_EVERY:
                saved = time.monotonic()
                save(self._report)

    async def _inject_into_connections(self, kinds: Sequence[str]) -> None:
        with_proxy = len(self._site.devices) - self._site.over_mqtt
        while kinds and not self._is_over():
            free = [device for device in self._site.alive() if device < with_proxy and device not in self._busy]
            if not free or len(self._busy) >= self._at_once:
                await asyncio.sleep(READ_EVERY / 2)
                continue
            number, chance = self._next()
            self._busy[device := chance.choice(free)] = self._of_site
            task = asyncio.create_task(self._connection(number, chance, chance.choice(kinds), device), name="fault")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            await asyncio.sleep(0)

    async def _connection(self, number: int, chance: random.Random, kind: str, device: int) -> None:
        began = time.monotonic()
        site = self._site
        since = await faults_connections.KINDS[kind](site.balancer, site.devices[device], chance)
        if since is None:
            self._under_way -= 1
            del self._busy[device]
            return
        healed = await self._healed(number, kind, [site.checker.heal(device, since)])
        more = {"device": device, "beside": self._busy.pop(device)}
        self._add(number, kind, began, since, healed, **more)

    async def _inject_into_site(self, kinds: Sequence[str]) -> None:
        while kinds and not self._is_over():
            free = set(self._site.alive()) - self._busy.keys()
            if not free:
                await asyncio.sleep(READ_EVERY)
                continue
            number, chance = self._next()
            kind = chance.choice(kinds)
            self._of_site, self._busy = True, dict.fromkeys(self._busy, True)
            began = time.monotonic()
            rest = await faults_site.KINDS[kind](self._site, chance)
            since = time.monotonic()
            # A device with a fault of its own heals by that.
            healing = [self._site.checker.heal(device, since) for device in free - self._busy.keys()]
            healed = await self._healed(number, kind, healing)
            if rest is not None:
                await rest
            self._of_site = False
            self._add(number, kind, began, since, healed)
            await asyncio.sleep(chance.uniform(0.0, REST))

    async def _healed(self, number: int, kind: str, healings: Sequence[Healing]) -> float:
        """Wait until all have healed; return the seconds until the last one had."""
        since = healings[0].since if healings else 0.0
        while left := [one for one in healings if one.at is None]:
            if time.monotonic() > since + HEALED_WITHIN:
                checker = self._site.checker
                checker.found["locked out"] += len(left)
                self._locked_out += left
                checker.examples.append(f"locked out: {[one.device for one in left]} after fault {number}, {kind}")
                return HEALED_WITHIN
            await asyncio.sleep(READ_EVERY)
        return max((one.at - since for one in healings if one.at is not None), default=0.0)

    def _add(self, number: int, kind: str, began: float, since: float, healed: float, **more: Any) -> None:
        self._under_way -= 1
        times = {"at": began, "lasted": since - began, "healed": healed}
        self._report.faults.append(
            {"number": number, "kind": kind, **{name: round(time, 3) for name, time in times.items()}, **more}
        )


async def _first_error(reading: asyncio.Task[None], *work: Any) -> None:
    """Wait for all work; raise what ends it or the reading first."""
    tasks = [asyncio.ensure_future(one) for one in work]
    waiting: set[asyncio.Future[Any]] = {*tasks}
    try:
        while waiting:
            done, _ = await asyncio.wait({reading, *waiting}, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                one.result()
            waiting -= done
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def inject(report: Report, faults: int, at_once: int, save: Callable[[Report], None]) -> None:
    """Inject faults until the report has so many of them."""
    from tests import waits

    os.environ["S2CONNECT_STORE_KEY"] = KEY
    os.environ.setdefault(waits.VARIABLE, str(waits.SLOWEST))  # databases and brokers start beside all the rest
    began = {"revision": revision(), "began": datetime.now(UTC).isoformat("T", "seconds"), "first": report.next_number}
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(workspace())
        running = faults_site.running(directory, report.instances, report.devices, report.over_mqtt)
        site = await stack.enter_async_context(running)
        report.runs.append(began)
        run = Run(site, report, faults, at_once)
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, setattr, run, "stopped", True)
        await run.inject(save)


def revision() -> str:
    """Return the commit of the program, with ``+`` where files differ from it; empty where there is none."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faults", type=int, default=100, metavar="N", help="in all (100)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--instances", type=int, default=2, metavar="N", help="(2)")
    parser.add_argument("--devices", type=int, default=24, metavar="N", help="(24)")
    parser.add_argument("--mqtt", type=int, default=0, metavar="N", help="of these over MQTT, with two brokers (0)")
    parser.add_argument("--at-once", type=int, metavar="N", help="faults of one connection (half of the devices)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--report", type=Path, metavar="FILE", help="write it every few seconds, and go on with it")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the table of a report, inject nothing")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Inject faults and print the report; 1 if a message or a device was lost."""
    arguments = parse(argv)
    if arguments.table:
        print("\n".join(Report.read(arguments.table).lines()))
        return 0
    kinds = arguments.kinds or [kind for kind in KINDS if arguments.mqtt or kind not in OF_BROKERS]
    report = Report(arguments.seed, arguments.instances, arguments.devices, arguments.mqtt, kinds)
    if arguments.report and arguments.report.exists():
        report = Report.read(arguments.report)
    began = time.monotonic(), len(report.faults)

    def save(now: Report) -> None:
        rate = (len(now.faults) - began[1]) / max(time.monotonic() - began[0], 1.0)
        found = now.found or "nothing lost"
        print(f"{len(now.faults)} faults, {rate:.2f}/s, {now.messages} messages: {found}", file=sys.stderr, flush=True)
        if arguments.report:
            now.write(arguments.report)

    asyncio.run(inject(report, arguments.faults, arguments.at_once or report.devices // 2, save))
    print("\n".join(report.lines()))
    return 1 if any(number for name, number in report.found.items() if name != "late") else 0
