"""Power cuts and full disks on purpose: a command is run once for each system call with which it changes a directory.

``strace`` makes the n-th such call fail, or kills the process in place of it. What the command left behind is then
looked at. A kill is no real power cut (the kernel keeps what was written and not synced), so tests of durability also
look at the order of calls: :func:`changes` lists them.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.waits import patience

CHANGING_CALLS = (
    "write",
    "pwrite64",
    "ftruncate",
    "fallocate",
    "fsync",
    "fdatasync",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "symlink",
    "unlink",
    "unlinkat",
    "mkdir",
    "mkdirat",
    "rmdir",
    "chmod",
    "fchmod",
)
"""Calls that change files. Creating a file is not among them: it is empty until its first write, which is. Nor is
``writev``, so that a command can tell how far it is."""

FILLING_CALLS = ("write", "pwrite64", "ftruncate", "fallocate", "fsync", "fdatasync", "rename")
"""Those of them that fail for want of space."""

_CALL = re.compile(r"^(\d+) +(\w+)\((.*)$")


@dataclass(frozen=True)
class Change:
    """One change of the directory.

    Attributes:
        call: Name of the system call.
        nth: Which one of this name it is in its thread, from 1.
        arguments: What strace shows of the call, paths included.
        before: How many calls of each name the same thread made before.
    """

    call: str
    nth: int
    arguments: str
    before: Counter[str]

    def __str__(self) -> str:
        return f"{self.call} #{self.nth} ({self.arguments})"


@dataclass(frozen=True)
class Outcome:
    """Result of a run with a fault: the change that was hit, the directory, the exit code, what was printed."""

    change: Change
    home: Path
    returncode: int
    output: str
    errors: str


def require_strace() -> None:
    """Skip the test where strace is missing; in continuous integration it must be there."""
    if shutil.which("strace") is None:
        if os.environ.get("CI"):
            pytest.fail("strace must be installed in continuous integration")
        pytest.skip("strace is not installed")


def changes(command: Sequence[str], home: Path) -> list[Change]:
    """Run a command to its successful end and list how it changes a directory, in order.

    Args:
        command: Program and arguments; ``{home}`` in them stands for the directory.
        home: The directory.
    """
    log = home.with_name(f"{home.name}.strace")
    result = _strace(command, home, ["--seccomp-bpf", "-y", "-s", "0", "-o", str(log)])
    assert result.returncode == 0, f"the command fails without a fault: {result.stdout}{result.stderr}"
    counts: dict[str, Counter[str]] = {}
    found = []
    for line in log.read_text().splitlines():
        if match := _CALL.match(line):
            thread, call, arguments = match.groups()
            seen = counts.setdefault(thread, Counter())
            if str(home) in arguments:
                found.append(Change(call, seen[call] + 1, arguments, seen.copy()))
            seen[call] += 1
    assert found, "the command does not change the directory"
    return found


def kill_points(
    command: Sequence[str],
    directory: Path,
    prepare: Callable[[Path], object],
    check: Callable[[Outcome], object],
    *,
    thorough: bool = False,
) -> int:
    """Kill the command before each of its changes of its home, and check what is left each time.

    The command must do the same each time, and change the home from one thread. Calls are counted by name and thread,
    so what it prints it should print with ``os.writev``, which is not counted.

    Args:
        command: Program and arguments; ``{home}`` in them stands for the home, a copy of its own for each run.
        directory: Where the copies are made.
        prepare: Fills a home once; all copies are of that.
        check: Called for each kill, in the calling thread.
        thorough: At really every change; otherwise, where one call follows another of its name on the same file several
            times, as the frames of a transaction do, at the first and the last of them only.

    Returns:
        How many kills there were.
    """

    def checked(outcome: Outcome) -> None:
        assert outcome.returncode == -signal.SIGKILL, f"was not killed at {outcome.change}: {outcome}"
        check(outcome)

    return _each(command, directory, prepare, checked, _kill, CHANGING_CALLS, thorough)


def full_disk_points(
    command: Sequence[str],
    directory: Path,
    prepare: Callable[[Path], object],
    check: Callable[[Outcome], object],
    *,
    stays_full: bool,
    thorough: bool = False,
) -> int:
    """Let each change of the home fail for want of space, once or from there on; otherwise as :func:`kill_points`."""
    fault = _stays_full if stays_full else _full_once
    return _each(command, directory, prepare, check, fault, FILLING_CALLS, thorough)


def _kill(change: Change) -> list[str]:
    # With --seccomp-bpf strace 6.1 injects no signals.
    return ["-e", f"inject={change.call}:error=EIO:signal=SIGKILL:when={change.nth}"]


def _full_once(change: Change) -> list[str]:
    return ["--seccomp-bpf", "-e", f"inject={change.call}:error=ENOSPC:when={change.nth}"]


def _stays_full(change: Change) -> list[str]:
    options = ["--seccomp-bpf"]
    for call in FILLING_CALLS:
        options += ["-e", f"inject=?{call}:error=ENOSPC:when={change.before[call] + 1}+"]
    return options


def _each(
    command: Sequence[str],
    directory: Path,
    prepare: Callable[[Path], object],
    check: Callable[[Outcome], object],
    fault: Callable[[Change], list[str]],
    calls: Sequence[str],
    thorough: bool,
) -> int:
    require_strace()
    template = directory / "template"
    prepare(template)

    def copy(name: str) -> Path:
        return Path(shutil.copytree(template, directory / name))

    def run(number: int, change: Change) -> Outcome:
        home = copy(f"run-{number}")
        result = _strace(command, home, ["-o", "/dev/null", *fault(change)])
        return Outcome(change, home, result.returncode, result.stdout, result.stderr)

    found = changes(command, copy("dry-run"))
    found = [change for change in (found if thorough else _ends_of_runs(found)) if change.call in calls]
    with ThreadPoolExecutor(2) as pool:
        for outcome in pool.map(run, range(len(found)), found):
            check(outcome)
            shutil.rmtree(outcome.home)
    return len(found)


def _ends_of_runs(found: Sequence[Change]) -> list[Change]:
    def kind(number: int) -> tuple[str, str] | None:
        if not 0 <= number < len(found):
            return None
        return found[number].call, found[number].arguments.partition(",")[0]

    return [change for number, change in enumerate(found) if not kind(number - 1) == kind(number) == kind(number + 1)]


def _strace(command: Sequence[str], home: Path, options: Sequence[str]) -> subprocess.CompletedProcess[str]:
    # A question mark, because some machines do not have all of these calls.
    traced = ",".join(f"?{call}" for call in CHANGING_CALLS)
    return subprocess.run(
        ["strace", "-f", "-qq", "-e", f"trace={traced}", *options, "--"]
        + [part.replace("{home}", str(home)) for part in command],
        capture_output=True,
        text=True,
        timeout=patience(60),
        check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
