"""Code of a commit for our workers: its ``s2connect`` with the ``benchmarks`` of this tree, on this interpreter."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness import CODE, ROOT


class NoSuchCommit(Exception):
    """The repository does not hold this commit."""


def name_of(commit: str, repository: Path = ROOT) -> str:
    """Return the abbreviated hash of a commit, or raise :class:`NoSuchCommit`."""
    command = ("git", "rev-parse", "--verify", "--quiet", "--short", f"{commit}^{{commit}}")
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NoSuchCommit(f"there is no commit {commit} in {repository}")
    return done.stdout.strip()


@contextmanager
def tree(commit: str = "", repository: Path = ROOT) -> Iterator[Path]:
    """Make a directory with the package as of a commit and these benchmarks; without a commit as the files are now.

    Workers that start in it (:func:`workers_of`) import both from there, and the rest from where this interpreter does.

    Raises:
        NoSuchCommit: As it says.
    """
    with tempfile.TemporaryDirectory(prefix="s2connect-bench-") as name:
        directory = Path(name)
        (directory / "benchmarks").symlink_to(ROOT / "benchmarks")
        if commit:
            command = ("git", "archive", name_of(commit, repository), "s2connect")
            packed = subprocess.run(command, cwd=repository, capture_output=True, check=True).stdout
            with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
                archive.extractall(directory, filter="data")
        else:
            (directory / "s2connect").symlink_to(repository / "s2connect")
        # Compile now, so that the first run of this tree is no slower than the others.
        compiling = (sys.executable, "-m", "compileall", "-q", str(directory / "s2connect"))
        subprocess.run(compiling, check=False)
        yield directory


@contextmanager
def workers_of(directory: Path) -> Iterator[None]:
    """Let workers that are started within use the code of this directory."""
    before = CODE.set(directory)
    try:
        yield
    finally:
        CODE.reset(before)
