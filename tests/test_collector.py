"""Garbage collections in a service: none walks all objects, and garbage is found all the same."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from s2connect import FailureLog, Supervisor
from s2connect.collector import GROWTH_BLOCKS, SESSION_BLOCKS, THRESHOLDS, Growth, short_collections

WALKED = 60_000
"""Most objects that one collection may walk: see THRESHOLDS."""


class Clock:
    """Sleep that ends when the test says so."""

    def __init__(self) -> None:
        self.asleep = asyncio.Event()
        self._passed = asyncio.Event()

    async def sleep(self, _: float) -> None:
        self._passed.clear()
        self.asleep.set()
        await self._passed.wait()

    async def pass_time(self) -> None:
        self.asleep.clear()
        self._passed.set()
        await self.asleep.wait()


class Service:
    """A program whose collections are short."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.sessions = 0


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    made = Service()
    running = asyncio.create_task(
        short_collections(lambda: made.sessions, sleep=made.clock.sleep), name="test-collector"
    )
    await made.clock.asleep.wait()
    yield made
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


@pytest.fixture
def walked() -> Iterator[list[int]]:
    """Numbers of objects that full collections walk."""
    numbers: list[int] = []

    def count(phase: str, info: dict[str, Any]) -> None:
        if phase == "start" and info["generation"] == 2:
            numbers.append(len(gc.get_objects()))

    gc.callbacks.append(count)
    yield numbers
    gc.callbacks.remove(count)


class Knot:
    """An object that reference counting does not free."""

    def __init__(self) -> None:
        self.me = self
        self.more = [[] for _ in range(10)]  # type: ignore[var-annotated]


async def test_no_collection_walks_what_has_survived_one(service: Service, walked: list[int]) -> None:
    kept = [[number] for number in range(1_000_000)]
    assert len(kept) > 10 * WALKED
    assert walked
    assert max(walked) < WALKED


async def test_what_is_left_out_is_still_freed_by_reference_counting(service: Service) -> None:
    gone = []

    class Noted:
        def __del__(self) -> None:
            gone.append(self)

    kept = [Noted(), [[number] for number in range(200_000)]]
    assert gc.get_freeze_count() > 100_000
    kept.clear()
    assert len(gone) == 1


async def test_garbage_that_makes_memory_grow_is_found_and_reported(
    service: Service, walked: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    growing = [Knot() for _ in range(150_000)]  # they survive, are left out, and become garbage later
    growing.clear()
    before = gc.get_freeze_count()
    await service.clock.pass_time()
    assert max(walked) > 10 * WALKED
    assert gc.get_freeze_count() < before / 2
    (record,) = [record for record in caplog.records if record.name == "s2connect.collector"]
    assert record.levelno == logging.WARNING
    assert "garbage" in record.getMessage()
    await service.clock.pass_time()
    assert len([record for record in caplog.records if record.name == "s2connect.collector"]) == 1


async def test_sessions_explain_memory_and_nothing_is_walked(service: Service, walked: list[int]) -> None:
    service.sessions = 100_000
    kept = [Knot() for _ in range(150_000)]
    walked.clear()
    await service.clock.pass_time()
    assert not walked
    del kept


async def test_an_error_changes_nothing_for_good_and_it_begins_anew() -> None:
    thresholds, failures, clock = gc.get_threshold(), FailureLog(), Clock()

    def sessions() -> int:
        if not failures.counts:
            raise RuntimeError
        return 0

    async with Supervisor("test", failures, sleep=lambda _: asyncio.sleep(0)) as tasks:
        tasks.keep(lambda: short_collections(sessions, sleep=clock.sleep), "collector")
        await clock.asleep.wait()
        assert failures.counts == {"collector": 1}
        assert gc.get_threshold() == THRESHOLDS
    assert gc.get_threshold() == thresholds


async def test_when_it_ends_all_is_as_before() -> None:
    thresholds, callbacks, clock = gc.get_threshold(), list(gc.callbacks), Clock()
    running = asyncio.create_task(short_collections(lambda: 0, sleep=clock.sleep), name="test-collector")
    await clock.asleep.wait()
    assert gc.get_threshold() != thresholds
    assert gc.get_freeze_count() > 0
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert (gc.get_threshold(), gc.callbacks, gc.get_freeze_count()) == (thresholds, callbacks, 0)


@pytest.mark.parametrize(
    ("blocks", "sessions", "suspicious"),
    [
        (1_000_000, 0, False),
        (2_000_000, 0, False),
        (2_000_001, 0, True),
        (2_000_000 + 4_000 * SESSION_BLOCKS, 4_000, False),
        (2_000_001 + 4_000 * SESSION_BLOCKS, 4_000, True),
    ],
)
def test_memory_that_doubles_beyond_what_sessions_need_is_suspicious(
    blocks: int, sessions: int, suspicious: bool
) -> None:
    assert Growth(1_000_000, 0).is_suspicious(blocks, sessions) is suspicious


def test_a_small_program_may_grow_by_a_fixed_amount_and_the_end_of_sessions_forbids_nothing() -> None:
    assert not Growth(10, 5_000).is_suspicious(10 + GROWTH_BLOCKS, 0)
    assert Growth(10, 5_000).is_suspicious(11 + GROWTH_BLOCKS, 0)
