"""The event loop of services: uvloop where it can be used, and asyncio's otherwise."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from s2connect.service.event_loop import new_event_loop
from s2connect.service.failures import Failure
from s2connect.transports.slices import new_event_loop as new_asyncio_loop
from tests.command import Running, make_home

pytest.importorskip("uvloop", reason="uvloop is not installed")


def made(choice: str) -> str:
    with contextlib.closing(new_event_loop(choice)) as loop:  # type: ignore[arg-type]
        return type(loop).__module__.partition(".")[0]


@pytest.fixture
def without_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)


def test_uvloop_is_the_default_and_either_can_be_chosen() -> None:
    assert [made(choice) for choice in ("auto", "uvloop", "asyncio")] == ["uvloop", "uvloop", "asyncio"]


@pytest.mark.usefixtures("without_uvloop")
def test_where_uvloop_is_missing_asyncio_takes_its_place_unless_it_was_chosen() -> None:
    with contextlib.closing(new_event_loop("auto")) as loop, contextlib.closing(new_asyncio_loop()) as sliced:
        assert type(loop) is type(sliced)
    with pytest.raises(Failure, match="uvloop cannot be used") as failed:
        new_event_loop("uvloop")
    assert "--loop asyncio" in failed.value.hint


def broken(directory: Path) -> dict[str, str]:
    """Environment with a uvloop that is no good for this machine."""
    (directory / "uvloop.py").write_text("raise OSError('wrong processor')\n")
    return {"PYTHONPATH": str(directory)}


def test_a_service_says_which_loop_it_runs_on(tmp_path: Path, start: Callable[..., Running]) -> None:
    home = make_home(tmp_path / "cem", "cem")
    for arguments, expected in (((), "uvloop"), (("--loop", "asyncio"), "asyncio")):
        service = start(home, "--verbose", *arguments)
        service.ready()
        service.process.send_signal(signal.SIGINT)  # Ctrl-C
        assert service.ended() == 130
        assert f"the event loop is of {expected}" in service.errors


def test_a_service_runs_where_uvloop_is_broken(tmp_path: Path, start: Callable[..., Running]) -> None:
    service = start(make_home(tmp_path / "cem", "cem"), env=broken(tmp_path))
    service.ready()
    service.process.send_signal(signal.SIGTERM)
    assert service.ended() == 0
    assert "asyncio's loop takes its place: wrong processor" in service.errors


def test_a_loop_that_cannot_be_had_ends_the_command_with_the_one_that_helps(
    tmp_path: Path, start: Callable[..., Running]
) -> None:
    service = start(make_home(tmp_path / "cem", "cem"), "--loop", "uvloop", env=broken(tmp_path))
    assert service.ended() == 2
    assert "was never awaited" not in service.errors
