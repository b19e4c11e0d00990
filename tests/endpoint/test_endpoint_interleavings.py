"""Pairing, pairing again, unpairing and sessions of one device at once: what was reported is what the stores hold."""

from __future__ import annotations

import itertools
import random
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2connect.model.common import Deployment
from s2connect.pairing import http_client as pairing_client
from s2connect.session import http_client as session_client
from s2connect.store import sqlite
from s2connect.store.base import Store
from s2connect.store.memory import MemoryVault
from tests.bridge.virtual_time import run_virtual
from tests.endpoint.interleavings import Choose, OpenStore, World, explore, memory_store, play

T = TypeVar("T")
LAN, WAN = Deployment.LAN, Deployment.WAN
BEFORE = [(), ("rm+c1",)]
CALLS = ["rm+c1", "rm+c2", "c1+rm", "c2+rm", "rm-c1", "c1-rm"]


def once(
    choose: Choose,
    before: Sequence[str],
    calls: Sequence[str],
    device: Deployment,
    open_store: OpenStore = memory_store,
) -> tuple[World, list[str]]:
    random.seed(0)  # the delays between two attempts to connect
    world = World(choose)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairing_client, "HttpsClient", world.http)
        patch.setattr(session_client, "HttpsClient", world.http)
        results = run_virtual(play(world, before, calls, device=device, open_store=open_store))
    return world, results


def try_all(before: Sequence[str], calls: Sequence[str], device: Deployment, deviations: int) -> int:
    def run(choose: Choose) -> list[int]:
        world, _ = once(choose, before, calls, device)
        return world.schedule.degrees

    return sum(1 for _ in explore(run, deviations=deviations))


PAIRS = [(a, b) for number, a in enumerate(CALLS) for b in CALLS[number:]]
"""Every two calls; the same twice is a user who is impatient."""

TELLING = [("rm+c1", "rm+c2"), ("rm+c1", "c1+rm"), ("rm+c1", "c1-rm")]
"""Those that have failed: with another energy manager, from both sides, and while the peer unpairs."""

RULES = pytest.mark.rule("ROLE-05", "ROLE-06", "PAIR-10", "PAIRC-06", "SES-03", "SESC-02")


@RULES
@pytest.mark.parametrize("device", [LAN, WAN])
@pytest.mark.parametrize("calls", TELLING, ids=" ".join)
def test_two_calls_at_once_report_what_the_stores_hold(calls: Sequence[str], device: Deployment) -> None:
    assert try_all(("rm+c1",), calls, device, 1) > 5


@RULES
@pytest.mark.long
@pytest.mark.parametrize(("before", "device"), list(zip(BEFORE, [LAN, WAN], strict=True)), ids=["unpaired", "paired"])
@pytest.mark.parametrize("calls", PAIRS, ids=" ".join)
def test_every_two_calls_at_once(calls: Sequence[str], before: Sequence[str], device: Deployment) -> None:
    assert try_all(before, calls, device, 1) > 5


@RULES
@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("calls", "device"), list(zip(TELLING, [LAN, WAN, LAN], strict=True)))
def test_two_calls_that_change_places_twice(calls: Sequence[str], device: Deployment) -> None:
    assert try_all(("rm+c1",), calls, device, 2) > 50


class InLine(Executor):
    """Does everything at once, where it is asked for."""

    def submit(self, work: Callable[..., T], /, *arguments: object, **more: object) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(work(*arguments, **more))
        except BaseException as error:
            future.set_exception(error)
        return future


def any_order(
    before: Sequence[str],
    calls: Sequence[str],
    device: Deployment,
    order: Sequence[int],
    open_store: OpenStore = memory_store,
) -> None:
    rest = iter(order)
    once(lambda among: next(rest, 0) % among, before, calls, device, open_store)


orders = st.lists(st.integers(0, 5), max_size=150)
several_calls = st.lists(st.sampled_from(CALLS), min_size=2, max_size=4)


@RULES
@settings(max_examples=60, deadline=None)
@given(before=st.sampled_from(BEFORE), calls=several_calls, device=st.sampled_from([LAN, WAN]), order=orders)
def test_several_calls_in_any_order(
    before: Sequence[str], calls: list[str], device: Deployment, order: list[int]
) -> None:
    any_order(before, calls, device, order)


@RULES
@pytest.mark.long
@settings(max_examples=1000, deadline=None)
@given(before=st.sampled_from(BEFORE), calls=several_calls, device=st.sampled_from([LAN, WAN]), order=orders)
def test_several_calls_in_many_orders(
    before: Sequence[str], calls: list[str], device: Deployment, order: list[int]
) -> None:
    any_order(before, calls, device, order)


@RULES
@settings(max_examples=10, deadline=None)
@given(calls=several_calls, device=st.sampled_from([LAN, WAN]), order=orders)
def test_several_calls_in_any_order_on_disk(calls: list[str], device: Deployment, order: list[int]) -> None:
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite, "ThreadPoolExecutor", lambda *_, **__: InLine())
        names = itertools.count()

        async def open_store() -> Store:
            return await sqlite.SqliteStore.open(Path(directory) / f"{next(names)}.sqlite", MemoryVault())

        any_order(("rm+c1",), calls, device, order, open_store)
