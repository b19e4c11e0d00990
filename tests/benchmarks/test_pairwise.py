"""Comparison of two commits: each worker runs the code of its commit, and the ratios are of pairs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks.harness import CODE, ROOT, Effort, run_program
from benchmarks.pairwise import Pairs, compare
from benchmarks.table import Row
from benchmarks.trees import NoSuchCommit, name_of, tree, workers_of

PRINT = (sys.executable, "-c", "import s2connect as s; print(s.VALUE, getattr(s, 'NEW', ''))")


def _git(repository: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *identity, *arguments], cwd=repository, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository of two commits, whose package has another value in each, and a new one in the second."""
    package = tmp_path / "repository" / "s2connect"
    package.mkdir(parents=True)
    _git(package.parent, "init", "--quiet", "--initial-branch=main")
    for text in ("VALUE = 10\n", "VALUE = 5\nNEW = 3\n"):
        (package / "__init__.py").write_text(text)
        _git(package.parent, "add", "s2connect/__init__.py")
        _git(package.parent, "commit", "--quiet", "--message", text)
    return package.parent


@pytest.fixture(autouse=True)
def trivial(monkeypatch: pytest.MonkeyPatch) -> None:
    """A theme that prints what the package of its commit says."""
    module = ModuleType("benchmarks.trivial")

    def measure(_: Effort) -> Iterator[Row]:
        value, *new = run_program(PRINT).split()
        yield Row("value", "ms", float(value))
        if new:
            yield Row("new", "ms", float(new[0]))
        else:
            run_program([sys.executable, "-c", "raise SystemExit(3)"])

    module.measure = measure  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "benchmarks.trivial", module)


def test_two_commits_are_compared_in_turns_and_what_one_cannot_do_is_named(repository: Path) -> None:
    *_, value, new = compare("HEAD~1", "HEAD", ["trivial"], 3, repository)
    a, b = name_of("HEAD~1", repository), name_of("HEAD", repository)
    assert a != b
    assert value == "| value | ms | 10.0 | 5.00 | 0.50 | 0.50 | 0.50 |"
    assert new == f"| new | ms | not in {a} | 3.00 |  |  |  |"


def test_without_a_second_commit_the_files_are_compared_as_they_are(repository: Path) -> None:
    (repository / "s2connect" / "__init__.py").write_text("VALUE = 40\n")
    *_, value = compare("HEAD", "", ["trivial"], 1, repository)
    assert value.startswith("| new |")
    (repository / "s2connect" / "__init__.py").write_text("VALUE = 40\nNEW = 6\n")
    *_, value, new = compare("HEAD", "", ["trivial"], 1, repository)
    assert value == "| value | ms | 5.00 | 40.0 | 8.00 | 8.00 | 8.00 |"
    assert new == "| new | ms | 3.00 | 6.00 | 2.00 | 2.00 | 2.00 |"


def test_a_tree_has_the_package_of_its_commit_and_goes_away(repository: Path) -> None:
    with tree("HEAD~1", repository) as directory, workers_of(directory):
        assert CODE.get() == directory
        assert run_program(PRINT).split() == ["10"]
        assert (directory / "benchmarks" / "harness.py").samefile(ROOT / "benchmarks" / "harness.py")
    assert CODE.get() == ROOT
    assert not directory.exists()
    listed = subprocess.run(["git", "worktree", "list"], cwd=repository, capture_output=True, check=True)
    assert listed.stdout.count(b"\n") == 1


def test_a_commit_that_is_not_there_is_named(repository: Path) -> None:
    with pytest.raises(NoSuchCommit, match="no commit 0123abc"):
        list(compare("0123abc", "", ["trivial"], 1, repository))


def test_the_ratio_is_the_median_of_the_pairs_not_that_of_the_medians() -> None:
    pairs = Pairs("µs", ({0: 1.0, 1: 10.0, 2: 100.0}, {0: 2.0, 1: 10.0, 2: 50.0, 3: 7.0}))
    assert pairs.ratios() == [0.5, 1.0, 2.0]
    assert pairs.as_line("x", "a", "b") == "| x | µs | 10.0 | 8.50 | 1.00 | 0.50 | 2.00 |"
