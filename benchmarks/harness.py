"""Worker processes, certificates and numbers for all themes."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parent.parent
PEERS = Path(__file__).parent / "peers"

Task = dict[str, Any]
Numbers = dict[str, float]


@dataclass(frozen=True)
class Row:
    """One line of the table: medians of ours and of a peer, if it is installed, and what ours should reach."""

    what: str
    unit: str
    ours: float
    peer: float | None = None
    beside: str = ""
    budget: str = ""


@dataclass(frozen=True)
class Effort:
    """Extent of a measurement: the whole run, or one of some minutes."""

    quick: bool

    def pick(self, whole: int, quick: int) -> int:
        """The number that fits the effort."""
        return quick if self.quick else whole


def peer_python(name: str) -> Path | None:
    """The interpreter of a peer's environment (tests/peers.sh), or None."""
    directory = ROOT / ".peers" / name
    return directory / "bin" / "python" if (directory / ".installed").exists() else None


class Worker:
    """A process that takes a task as argument, says a line of JSON when it is ready, and answers lines with lines."""

    def __init__(self, command: Sequence[str | Path], task: Task, **environment: str) -> None:
        self._process = subprocess.Popen(
            [*command, json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | environment,
        )
        self.pid = self._process.pid
        self.ready = self._read()

    @classmethod
    def ours(cls, module: str, kind: str, **task: Any) -> Worker:
        """A worker in this environment: ``benchmarks.<module>`` with a task."""
        return cls([sys.executable, "-m", f"benchmarks.{module}"], {"kind": kind, **task})

    @classmethod
    def peer(cls, python: Path, script: str, environment: dict[str, str], **task: Any) -> Worker:
        """A worker in the environment of a peer."""
        return cls([python, PEERS / script], task, **environment)

    def ask(self, **question: Any) -> Task:
        """Let it do something and wait for the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._read()

    def kill(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.wait()

    def _read(self) -> Task:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker ended with {self._process.wait()}: {self._process.args!r}")
        answer: Task = json.loads(line)
        return answer

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


async def answer_questions(ready: Task, answer: Callable[[Task], Awaitable[Task]]) -> None:
    """The worker's side: say that it is ready, then answer until standard input ends."""
    import asyncio

    print(json.dumps(ready), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await answer(json.loads(line))), flush=True)


def my_task() -> Task:
    """The task of this worker process."""
    task: Task = json.loads(sys.argv[1])
    return task


def memory() -> int:
    """Resident bytes of this process, after a collection."""
    gc.collect()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmRSS")


def cpu_seconds(pids: Sequence[int]) -> float:
    """Return the CPU seconds of these processes so far, with all of their threads."""
    threads = (thread for pid in pids for thread in Path(f"/proc/{pid}/task").iterdir())
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def pin(pid: int, core: int) -> None:
    """Keep a process on one core, on a machine that has so many."""
    if core < (os.cpu_count() or 1):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {core})


@contextlib.contextmanager
def workspace() -> Iterator[Path]:
    """A directory that goes away, with ``ca.pem``, ``chain.pem`` and ``key.pem`` of a server called localhost."""
    from s2connect.certs.authority import CertificateAuthority

    with tempfile.TemporaryDirectory(prefix="s2connect-bench-") as name:
        directory, now = Path(name), datetime.now(UTC)
        authority = CertificateAuthority.create("benchmark", now=now)
        identity = authority.issue(["localhost", "127.0.0.1"], now=now)
        (directory / "ca.pem").write_bytes(authority.to_pem())
        (directory / "chain.pem").write_bytes(identity.chain_pem)
        (directory / "key.pem").write_bytes(identity.key_pem)
        yield directory


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which a share of all lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def in_turns(runs: int, *measures: Callable[[], Numbers] | None) -> list[Numbers | None]:
    """Measure several things alternately, so that a noisy minute hits all of them; medians per key."""
    results: list[list[Numbers]] = [[] for _ in measures]
    for _ in range(runs):
        for measure, collected in zip(measures, results, strict=True):
            if measure is not None:
                collected.append(measure())
            time.sleep(0.05)
    return [{key: median(run[key] for run in runs) for key in runs[0]} if runs else None for runs in results]


def compare(
    what: str,
    unit: str,
    key: str,
    ours: Numbers | None,
    peer: Numbers | None = None,
    beside: str = "",
    budget: str = "",
) -> Row:
    """A line of the table out of results in seconds and bytes, of which the peer's may be missing."""
    factor = {"ms": 1e3, "µs": 1e6, "KB": 1e-3, "MB": 1e-6}.get(unit, 1.0)
    theirs = None if peer is None else peer[key] * factor
    return Row(what, unit, 0.0 if ours is None else ours[key] * factor, theirs, beside, budget)
