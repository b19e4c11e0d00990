"""Commands of an endpoint with thousands of pairings, from the start of their process to its end."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness import CODE, Effort, Numbers, Worker, WorkerFailed, in_turns, run_program, workspace
from benchmarks.table import Row, row

PAIRINGS = 20_000
COMMANDS = ("pairings", "status", "pairings --json", "status --json")


@contextmanager
def _service(home: Path) -> Iterator[None]:
    """Run ``s2connect serve`` in the directory, from when it is ready."""
    command = [sys.executable, "-m", "s2connect", "serve", "--json", "--home", str(home)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=CODE.get())
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if '"ready"' not in process.stdout.readline():
            raise WorkerFailed("s2connect serve did not start")
        yield
    finally:
        process.stdin.close()  # which stops it
        process.stdout.read()
        process.stdout.close()
        process.wait()


def measure(effort: Effort) -> Iterator[Row]:
    """The rows of this theme."""
    count = effort.pick(PAIRINGS, PAIRINGS, 2_000)
    smaller = "" if count == PAIRINGS else f"{count:,}"
    with workspace() as directory:
        home = directory / "home"
        with Worker.ours("growth", "home", home=str(home), count=count):
            pass

        def timed(command: str) -> Numbers:
            began = time.perf_counter()
            run_program([sys.executable, "-m", "s2connect", *command.split(), "--home", home])
            return {"seconds": time.perf_counter() - began}

        with _service(home):
            results = in_turns(effort.pick(5, 3, 1), *(lambda command=command: timed(command) for command in COMMANDS))
        for command, found in zip(COMMANDS, results, strict=True):
            yield row(f"s2connect {command}, of {PAIRINGS:,}", "s", "seconds", found, smaller=smaller)
