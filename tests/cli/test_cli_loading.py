"""Simulators and the demonstration are loaded by their own commands only."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

RARE = ("s2connect.simulate", "s2connect.demo", "s2connect.contrib", "s2connect.diagnostics")


def _loaded(*arguments: str) -> set[str]:
    """Modules of the package that a command loads; a service ends with its input."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "s2connect", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return set(re.findall(r"^import time:.*\| +(s2connect[\w.]*)$", done.stderr, re.MULTILINE))


def _rare(modules: set[str]) -> list[str]:
    return sorted(module for module in modules if module.startswith(RARE))


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["bridge", "run", "--help"]])
def test_help_loads_neither_simulators_nor_the_demonstration(arguments: list[str]) -> None:
    loaded = _loaded(*arguments)
    assert "s2connect.cli.app" in loaded
    assert "s2connect.model.common" not in loaded, "it brings pydantic, a third of the time that help takes"
    assert not _rare(loaded)


def test_a_service_loads_neither_simulators_nor_the_demonstration(tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    settings = ["--role", "cem", "--host", "127.0.0.1", "--bind", "127.0.0.1", "--port", "0"]
    assert not _rare(_loaded("init", "--home", home, *settings))
    loaded = _loaded("serve", "--home", home, "--json")
    assert "s2connect.endpoint.server" in loaded
    assert not _rare(loaded)
