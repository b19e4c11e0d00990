"""Homes and running services for the tests of the command."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cli_kit import Running, SilentServer, make_home


@pytest.fixture
def cem(tmp_path: Path) -> Path:
    return make_home(tmp_path / "cem", "cem", "--name", "House manager")


@pytest.fixture
def rm(tmp_path: Path) -> Path:
    return make_home(tmp_path / "rm", "rm", "--name", "Battery")


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    """Start ``s2connect serve`` on a home; all are ended with the test."""
    running: list[Running] = []

    def begin(home: Path, *arguments: str, **options: object) -> Running:
        running.append(Running(home, *arguments, **options))  # type: ignore[arg-type]  # passed on
        return running[-1]

    yield begin
    for one in running:
        one.kill()


@pytest.fixture
def silent_server() -> Iterator[SilentServer]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield SilentServer(server)
