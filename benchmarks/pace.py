"""Load at a fixed rate, which does not depend on how the other side fares, and as much as it takes."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from itertools import cycle

from benchmarks.harness import Numbers, Task, percentile

GRACE = 15.0
"""Seconds for the last acknowledgements."""


async def at_rate(exchanges: Sequence[Callable[[], Awaitable[object]]], question: Task) -> Task:
    """Let each of these exchange ``per_second`` acknowledged messages for ``seconds``, in phases drawn with ``seed``.

    A message that is due while the last one of its session is not acknowledged is sent as soon as that is. An exchange
    that fails is a lost message, and so is one without an acknowledgement in the end.
    """
    chance, step = random.Random(question["seed"]), 1.0 / question["per_second"]
    spans, late, lost = list[float](), list[float](), Counter[str]()
    clock, sent = time.perf_counter, 0
    gc.collect()
    gc.freeze()  # a thousand devices in a process are the benchmark's, and so would be its pauses
    gc.disable()
    begin = clock() + 0.5
    end = begin + question["seconds"]

    async def go_on(exchange: Callable[[], Awaitable[object]], due: float) -> None:
        nonlocal sent
        while due < end:
            await asyncio.sleep(due - clock())
            began = clock()
            late.append(began - due)
            sent += 1
            try:
                await exchange()
            except Exception as error:
                lost[type(error).__name__] += 1
            else:
                spans.append(clock() - began)
            due += step

    tasks = [asyncio.create_task(go_on(each, begin + step * chance.random())) for each in exchanges]
    await asyncio.wait(tasks, timeout=question["seconds"] + GRACE)
    lost["no acknowledgement"] += sent - len(spans) - lost.total()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    gc.enable()
    return {"spans": spans, "late": percentile(late, 0.99), "sent": sent, "lost": dict(+lost)}


async def as_fast_as_possible(exchanges: Sequence[Callable[[], Awaitable[object]]], question: Task) -> Task:
    """Let ``at_a_time`` of these exchange a message at a time, in turns, for the seconds that ``busy`` says."""
    turns, clock, exchanged = cycle(exchanges), time.perf_counter, 0
    begin = clock()
    end = begin + question["busy"]

    async def go_on() -> None:
        nonlocal exchanged
        while clock() < end:
            await next(turns)()
            exchanged += 1

    await asyncio.gather(*(go_on() for _ in range(question["at_a_time"])))
    return {"exchanged": exchanged, "seconds": clock() - begin}


def of_all(answers: Sequence[Task]) -> tuple[Numbers, dict[str, int]]:
    """Sum up what several processes have measured: the numbers, and the reasons of what was lost."""
    spans = sorted(span for answer in answers for span in answer["spans"])
    reasons = sum((Counter(answer["lost"]) for answer in answers), Counter[str]())
    numbers = {
        "p50": percentile(spans, 0.5) if spans else float("inf"),
        "p99": percentile(spans, 0.99) if spans else float("inf"),
        "max": spans[-1] if spans else float("inf"),
        "lost": float(reasons.total()),
        "late": max(answer["late"] for answer in answers),
        "rate": float(sum(answer["sent"] for answer in answers)),
    }
    return numbers, dict(reasons)
