"""Rates, refusals, the ring of messages, curves, acknowledgement times: cores, in virtual time."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2connect.messages.general import CommodityQuantity, PowerMeasurement, PowerValue
from s2connect.session.acknowledgements import Acknowledgements
from s2connect.session.latencies import BOUNDS, STEPS, WINDOW, Latencies
from s2connect.web.facts import MAX_REFUSALS
from s2connect.web.meter import OTHER, STEP, Meter, Rate
from s2connect.web.power import POINTS, READ_PER_STEP, Curve, Curves
from s2connect.web.power import STEP as POWER_STEP
from s2connect.web.ring import MAX_TEXT, MessageRing

PEER = Meter("k", "t")

L1 = CommodityQuantity.ELECTRIC_POWER_L1

gaps = st.lists(st.floats(0.0, 90.0), max_size=60)


@given(gaps, st.floats(0.0, 200.0))
def test_a_rate_counts_what_came_within_a_minute(pauses: list[float], then: float) -> None:
    rate, now, times = Rate(), 1000.0, list[float]()
    for pause in pauses:
        now += pause
        rate.count(now)
        times.append(now)
    now += then
    shown = rate.last_minute(now)
    assert rate.total == len(times)
    assert sum(at > now - 60.0 + STEP for at in times) <= shown <= sum(at > now - 60.0 - 1e-6 for at in times)


@given(st.lists(st.tuples(st.floats(0.0, 900.0), st.floats(0.0, 30.0)), max_size=60), st.floats(0.0, 5000.0))
def test_the_slowest_acknowledgement_is_of_the_last_hour(added: list[tuple[float, float]], then: float) -> None:
    latencies, now = Latencies(), 500.0
    all_of: list[tuple[float, float]] = []
    for pause, seconds in added:
        now += pause
        latencies.add(seconds, now)
        all_of.append((now, seconds))
    now += then
    shown = latencies.slowest(now)
    sure = [seconds for at, seconds in all_of if at > now - WINDOW]
    at_most = [seconds for at, seconds in all_of if at > now - WINDOW - WINDOW / STEPS - 1e-6]
    assert (shown is not None) or not sure
    if shown is not None:
        assert max(sure, default=0.0) <= shown <= max(at_most)
    assert sum(latencies.counts) == len(added)
    assert math.isclose(latencies.total, sum(seconds for _, seconds in added))


@pytest.mark.parametrize(("seconds", "place"), [(0.0, 0), (BOUNDS[0], 0), (0.006, 1), (10.0, 10), (10.1, 11)])
def test_the_histogram_has_each_time_by_its_upper_bound(seconds: float, place: int) -> None:
    latencies = Latencies()
    latencies.add(seconds, 0.0)
    assert latencies.counts.index(1) == place


def test_a_ledger_tells_how_long_each_acknowledgement_took_and_what_was_overdue() -> None:
    ledger = Acknowledgements(timeout=4.0)
    ledger.sent("a", now=10.0)
    assert ledger.latencies is None, "nothing is measured where nobody wants to know"
    ledger.latencies = Latencies()
    ledger.sent("b", now=11.0)
    ledger.sent("c", now=11.5)
    ledger.acknowledged("b", 12.0)
    ledger.acknowledged("b", 13.0)
    ledger.acknowledged("a", 12.5)
    assert ledger.latencies.slowest(13.0) == 2.5
    assert math.isclose(ledger.latencies.total, 3.5)
    assert ledger.expired(20.0) == ["c"]
    assert ledger.latencies.overdue == 1


def test_refusals_are_counted_by_status_and_the_last_ones_kept() -> None:
    meter = Meter("k", "t")
    for number in range(2 * MAX_REFUSALS):
        meter.refuse("peer", "PowerMeasurement", "INVALID_DATA", f"no {number}", float(number))
    meter.refuse("us", "", "MADE_UP", "x" * 100_000, 99.0)
    assert meter.refused_by_peer == {"INVALID_DATA": 2 * MAX_REFUSALS}
    assert meter.refused_by_us == {OTHER: 1}
    assert len(meter.refusals) == MAX_REFUSALS
    assert len(meter.refusals[-1].label) < 1000


def message(identifier: str, kind: str = "FRBC.StorageStatus", **more: Any) -> str:
    return json.dumps({"message_type": kind, "message_id": identifier, **more})


@given(st.lists(st.integers(0, 3 * MAX_TEXT), max_size=30), st.integers(0, 40))
def test_the_ring_keeps_the_last_messages_and_no_long_ones(sizes: list[int], after: int) -> None:
    ring = MessageRing(8)
    for number, size in enumerate(sizes, 1):
        ring.add(float(number), PEER, "received", "Type", None, "x" * size)
    kept = list(ring.newest_first(after))
    assert [one.number for one in kept] == [n for n in range(len(sizes), 0, -1) if n > after][:8]
    assert [one.size for one in kept] == [sizes[one.number - 1] for one in kept]
    assert all(len(one.text) == min(one.size, MAX_TEXT) for one in kept)
    assert ring.count == len(sizes)


def test_the_type_of_a_message_is_found_when_somebody_looks() -> None:
    ring = MessageRing()
    ring.add(0.0, PEER, "sent", "", "", message("m1"))
    status = '{"message_type":"ReceptionStatus","subject_message_id":"m1","status":"OK"}'
    ring.add(0.0, PEER, "sent", "", "", status)
    ring.add(0.0, PEER, "received", "", "", "garbage")
    assert [(one.type, one.status) for one in ring.newest_first()] == [
        ("", ""),
        ("ReceptionStatus", "OK"),
        ("FRBC.StorageStatus", ""),
    ]
    assert ring.find(PEER, "sent", "m1") == "ReceptionStatus", "the newest that has the id"
    assert ring.find(PEER, "received", "m1") == ""
    assert ring.find(Meter("k", "t"), "sent", "m1") == ""


@given(st.lists(st.tuples(st.floats(0.0, 200.0), st.floats(-1e6, 1e6)), max_size=300), st.floats(0.0, 4000.0))
def test_a_curve_has_an_hour_of_points_with_the_extremes_of_each_step(
    added: list[tuple[float, float]], then: float
) -> None:
    curve, now, steps = Curve(), 10_000.0, dict[int, list[float]]()
    for pause, value in added:
        now += pause
        step = int(now / POWER_STEP)
        curve.add(step, value)
        steps.setdefault(step, []).append(value)
    now += then
    first = int(now / POWER_STEP) - POINTS + 1
    wanted = [
        (step * POWER_STEP, min(values), max(values), values[-1]) for step, values in steps.items() if step >= first
    ]
    assert list(curve.points(now)) == wanted
    assert len(wanted) <= POINTS


def measured(*values: tuple[object, object]) -> dict[str, Any]:
    return {"values": [{"commodity_quantity": quantity, "value": value} for quantity, value in values]}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"values": None},
        {"values": [None, 1, "x", {}, {"commodity_quantity": "ELECTRIC.POWER.L1"}]},
        measured(("NO.SUCH", 1.0)),
        measured(("ELECTRIC.POWER.L1", "inf")),
        measured(("ELECTRIC.POWER.L1", float("nan"))),
        measured(("ELECTRIC.POWER.L1", 10**400)),
        measured(([], 1)),
        measured((L1, None)),
    ],
)
def test_what_is_no_value_makes_no_curve(body: dict[str, Any]) -> None:
    curves = Curves()
    curves.add("k", "t", lambda: body, 0.0)
    assert [one for *_, found in curves.devices() for one in found] == []


quantities = st.sampled_from([L1, CommodityQuantity.ELECTRIC_POWER_L2, CommodityQuantity.ELECTRIC_POWER_L3])


@given(
    st.lists(st.tuples(st.integers(0, 2), st.lists(st.tuples(quantities, st.floats(-9, 9)), min_size=1, max_size=4)))
)
def test_measurements_that_were_read_already_make_the_same_curves(
    sent: list[tuple[int, list[tuple[CommodityQuantity, float]]]],
) -> None:
    curves, now = Curves(), 0.0
    for steps, values in sent:
        now += steps * POWER_STEP
        read = [PowerValue(commodity_quantity=quantity, value=value) for quantity, value in values]
        message = PowerMeasurement(measurement_timestamp=datetime.now(UTC), values=read)
        curves.add("typed", "t", lambda message=message: message, now)  # type: ignore[misc]
        curves.add("members", "t", lambda values=values: measured(*values), now)  # type: ignore[misc]
    found = [{quantity: list(curve.points(now)) for quantity, curve in one.items()} for *_, one in curves.devices()]
    assert not sent or found[0] == found[1]


def test_a_device_that_measures_all_the_time_is_read_a_bounded_number_of_times() -> None:
    curves, reads = Curves(), list[float]()

    def body(value: float) -> dict[str, Any]:
        reads.append(value)
        return measured((L1, value))

    for number in range(1000):
        curves.add("k", "t", lambda value=float(number): body(value), 5.0)  # type: ignore[misc]
    assert len(reads) == READ_PER_STEP
    ((_, _, found),) = curves.devices()
    assert list(found[L1].points(5.0)) == [(0.0, 0.0, 999.0, 999.0)], "the last one counts"
    assert len(reads) == READ_PER_STEP + 1


def test_the_number_of_curves_is_bounded_and_a_device_that_is_gone_makes_room() -> None:
    curves = Curves(2)
    for key in ("a", "b", "c"):
        curves.add(key, key, lambda: measured((L1, 1)), 0.0)
    assert [key for key, *_ in curves.devices()] == ["a", "b"]
    assert curves.left_out == 1
    curves.remove("a")
    curves.remove("none")
    curves.add("c", "c", lambda: measured((L1, 1)), 0.0)
    assert [key for key, *_ in curves.devices()] == ["b", "c"]
