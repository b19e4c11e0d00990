"""Load at a fixed rate: all that is due is sent, and what was lost is counted."""

from __future__ import annotations

import asyncio
import gc
from contextlib import AsyncExitStack

from benchmarks.pace import at_rate, of_all
from benchmarks.watch import Watch

QUESTION = {"per_second": 20.0, "seconds": 0.5, "seed": 12}


async def test_every_session_sends_what_is_due_though_one_of_them_is_slow() -> None:
    async def quick() -> None:
        await asyncio.sleep(0)

    async def slow() -> None:
        await asyncio.sleep(0.06)

    numbers, reasons = of_all([await at_rate([quick, quick, slow], QUESTION)])
    assert numbers["rate"] == 30
    assert numbers["max"] >= 0.06
    assert numbers["p50"] < 0.06
    assert not reasons


async def test_a_message_that_fails_is_lost_and_named() -> None:
    async def fail() -> None:
        raise ConnectionError

    numbers, reasons = of_all([await at_rate([fail], QUESTION)])
    assert numbers["lost"] == 10
    assert reasons == {"ConnectionError": 10}


async def test_a_watch_sees_collections_and_a_loop_that_is_held_up() -> None:
    async with AsyncExitStack() as stack:
        watch = Watch(stack, lambda: 0)
        await asyncio.sleep(0)
        gc.collect()
        asyncio.get_running_loop().call_soon(_hold_up)
        await asyncio.sleep(0.1)
        seen = watch.take()
    assert seen["gc_max"] > 0
    assert seen["gc_runs"][2] >= 1
    assert seen["lag_max"] > 0.02


def _hold_up() -> None:
    import time

    time.sleep(0.05)
