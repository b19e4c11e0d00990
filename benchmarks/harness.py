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
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Final, Literal

ROOT = Path(__file__).parent.parent
PEERS = Path(__file__).parent / "peers"

Task = dict[str, Any]
Numbers = dict[str, float]


def peer_python(name: str) -> Path | None:
    """The interpreter of a peer's environment (tests/peers.sh), or None."""
    directory = ROOT / ".peers" / name
    return directory / "bin" / "python" if (directory / ".installed").exists() else None


@dataclass(frozen=True)
class Effort:
    """Extent of a measurement.

    Attributes:
        kind: ``whole`` for the table of the documents, ``quick`` for one of some minutes, ``piece`` for the short
            pieces of which a comparison of two commits has many.
    """

    kind: Literal["whole", "quick", "piece"] = "whole"

    @property
    def peers(self) -> bool:
        """True if peers are measured, too; a comparison of two commits needs none."""
        return self.kind != "piece"

    def pick(self, whole: int, quick: int, piece: int | None = None) -> int:
        """Return the number that fits the effort; a piece is as a quick run unless it has a number of its own."""
        return {"whole": whole, "quick": quick, "piece": quick if piece is None else piece}[self.kind]

    def python(self, name: str) -> Path | None:
        """Return the interpreter of a peer's environment, None if it is not installed or not wanted."""
        return peer_python(name) if self.peers else None


CODE: Final[ContextVar[Path]] = ContextVar("CODE", default=ROOT)
"""Directory with the packages ``s2connect`` and ``benchmarks`` for our workers: see :mod:`benchmarks.trees`."""


class WorkerFailed(Exception):
    """A worker process has ended before its answer."""


class Worker:
    """A process that takes a task as argument, says a line of JSON when it is ready, and answers lines with lines.

    Raises:
        WorkerFailed: It ended instead; the text is the end of what it wrote to standard error.
    """

    def __init__(
        self, command: Sequence[str | Path], task: Task, environment: dict[str, str] | None = None, cwd: Path = ROOT
    ) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        self._process = subprocess.Popen(
            [*command, json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=cwd,
            env=os.environ | (environment or {}),
        )
        self.pid = self._process.pid
        self.ready = self._read()

    @classmethod
    def ours(cls, module: str, kind: str, **task: Any) -> Worker:
        """A worker in this environment: ``benchmarks.<module>`` with a task."""
        return cls([sys.executable, "-m", f"benchmarks.{module}"], {"kind": kind, **task}, cwd=CODE.get())

    @classmethod
    def peer(cls, python: Path, script: str, environment: dict[str, str], **task: Any) -> Worker:
        """A worker in the environment of a peer."""
        return cls([python, PEERS / script], task, environment)

    def ask(self, **question: Any) -> Task:
        """Let it do something and wait for the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._read()

    @property
    def has_ended(self) -> bool:
        """True if the process has ended."""
        return self._process.poll() is not None

    def log(self) -> str:
        """Return what it has written to standard error."""
        file = self._log.fileno()
        return os.pread(file, os.fstat(file).st_size, 0).decode(errors="replace")

    def kill(self) -> None:
        """Kill the process, and close what led to it."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._log.close()

    def _read(self) -> Task:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            raise WorkerFailed(f"{self.log()[-1500:]}\na worker ended with {status}")
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
        self._log.close()


def run_program(command: Sequence[str | Path]) -> str:
    """Run a program with the code of :data:`CODE`; return what it printed, or raise :class:`WorkerFailed`."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=CODE.get())
    if done.returncode != 0:
        raise WorkerFailed(f"{done.stderr[-1500:]}\n{' '.join(map(str, command))[:200]} ended with {done.returncode}")
    return done.stdout


def ask_all(workers: Sequence[Worker], **question: Any) -> list[Task]:
    """Let several workers do the same at the same time."""
    with ThreadPoolExecutor(len(workers)) as threads:
        return list(threads.map(lambda worker: worker.ask(**question), workers))


async def answer_questions(ready: Task, answer: Callable[[Task], Awaitable[Task]]) -> None:
    """The worker's side: say that it is ready, then answer until standard input ends."""
    import asyncio

    print(json.dumps(ready), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await answer(json.loads(line))), flush=True)


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a worker on the loop that its task names: asyncio's, uvloop, or that of ``s2connect serve`` (``service``)."""
    import asyncio

    from benchmarks.watch import service_loop

    task, factory = my_task(), asyncio.new_event_loop
    if task.get("service"):
        factory = service_loop
    elif task.get("uvloop"):
        from uvloop import new_event_loop as factory
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)


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
