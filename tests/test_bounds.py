"""The lower bounds of what pyproject.toml asks for, with which `.ci/run` runs the suite."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from tests.waits import patience

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def bounds() -> dict[str, str]:
    command: list[str | Path] = [sys.executable, REPOSITORY / ".ci" / "lowest.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=patience(20))
    return dict(line.split("==") for line in done.stdout.split())


def test_every_requirement_has_a_lower_bound(bounds: dict[str, str]) -> None:
    assert {"aiohttp", "typer", "paho-mqtt", "s2-python", "pytest"} <= bounds.keys()


def test_what_is_installed_is_not_older_than_the_bound(bounds: dict[str, str]) -> None:
    for name, bound in bounds.items():
        try:
            installed = version(name)
        except PackageNotFoundError:  # of an extra that this machine has no use for
            continue
        assert _numbers(installed) >= _numbers(bound), name


def _numbers(text: str) -> list[int]:
    return [int(part) if part.isdigit() else 0 for part in text.split(".")]
