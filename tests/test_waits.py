"""Waits are as long as the machine needs, and end where what is waited for never comes."""

from __future__ import annotations

import time

import pytest

from tests import waits


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(waits.VARIABLE, "2.5")


def test_a_slow_machine_has_more_time() -> None:
    assert waits.slowed(0.4) == 1.0
    assert waits.patience(2) == 5 * waits.MARGIN


def test_a_measured_machine_is_not_faster_than_a_quiet_one_and_not_slower_than_a_stuck_one() -> None:
    assert 1.0 <= waits.measure(1) <= waits.SLOWEST


async def test_a_condition_is_waited_for() -> None:
    asked = 0

    def condition() -> bool:
        nonlocal asked
        asked += 1
        return asked == 3

    await waits.until(condition)
    assert asked == 3


async def test_a_condition_that_never_comes_fails() -> None:
    with pytest.raises(TimeoutError):
        await waits.until(lambda: False, seconds=0.01)


def test_a_deadline_passes() -> None:
    deadline = waits.Deadline(0.01)
    assert not deadline.passed()
    assert 0 < deadline.left() <= waits.patience(0.01)
    time.sleep(deadline.left())
    assert deadline.passed()
    assert deadline.left() == 0.0
