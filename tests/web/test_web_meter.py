"""Rates, refusals, the ring of messages, curves, acknowledgement times: cores, in virtual time."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2connect.messages.catalogue import Reading
from s2connect.messages.envelope import Message
from s2connect.messages.general import CommodityQuantity, PowerMeasurement, PowerValue
from s2connect.session.acknowledgements import Acknowledgements
from s2connect.session.latencies import BOUNDS, STEPS, WINDOW, Latencies
from s2connect.session.observers import Direction
from s2connect.web.facts import MAX_REFUSALS
from s2connect.web.meter import OTHER, STEP, Meter, Rate
from s2connect.web.power import MAX_TEXT as MAX_MEASUREMENT
from s2connect.web.power import POINTS, READS_PER_SECOND, Curves, values_of
from s2connect.web.power import STEP as POWER_STEP
from s2connect.web.ring import MAX_PER_SECOND, MAX_TEXT, REFILL, MessageRing
from s2connect.web.watches import Journal, SessionWatch

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


def test_the_ring_keeps_a_bounded_number_a_second_and_says_so() -> None:
    ring, now, kept = MessageRing(), 100.0, 0
    for number in range(100_000):  # 10,000 a second
        now += 0.0001
        if now >= ring.due:
            ring.refill(now)
        if ring.left > 0:
            ring.add(now, PEER, "received", "Type", None, str(number))
            kept += 1
    assert kept == pytest.approx(len(ring.entries) + 10 * MAX_PER_SECOND, abs=2 * REFILL * MAX_PER_SECOND)
    assert ring.leaves_out(now)
    assert not ring.leaves_out(now + 2 * REFILL), "nothing more has come"
    assert [one.number for one in ring.newest_first()][:3] == [kept, kept - 1, kept - 2]
    assert now - next(iter(ring.entries))[0] >= 4.0, "they are of some seconds, not of a moment"
    ring.refill(now + 10.0)
    ring.refill(now + 20.0)
    assert not ring.leaves_out(now + 20.0)
    assert ring.left == ring.entries.maxlen, "a conversation that begins is kept wholly"


def measurement(*values: tuple[object, object], read: bool = False) -> Message:
    if read:
        given = [PowerValue(commodity_quantity=quantity, value=value) for quantity, value in values]  # type: ignore[arg-type]
        parsed = PowerMeasurement(measurement_timestamp=datetime.now(UTC), values=given)
        return Message("", "PowerMeasurement", "m", reading=Reading(parsed))
    body = {"values": [{"commodity_quantity": quantity, "value": value} for quantity, value in values]}
    return Message(json.dumps(body), "PowerMeasurement", "m")


@given(st.lists(st.tuples(st.floats(0.0, 200.0), st.floats(-1e6, 1e6)), max_size=300), st.floats(0.0, 4000.0))
def test_a_curve_has_an_hour_of_points_with_the_extremes_of_each_step(
    added: list[tuple[float, float]], then: float
) -> None:
    curves, now, steps = Curves(), 10_000.0, dict[int, list[float]]()
    for pause, value in added:
        now += pause
        curves.device("k", "t", now).add(values_of(measurement((L1, value))))
        steps.setdefault(int(now / POWER_STEP), []).append(value)
    now += then
    first = int(now / POWER_STEP) - POINTS + 1
    wanted = [
        (step * POWER_STEP, min(values), max(values), values[-1]) for step, values in steps.items() if step >= first
    ]
    for _ in range(2):  # looking changes nothing
        found = [list(curve.points(now)) for *_, curves_of in curves.devices() for curve in curves_of.values()]
        assert found == ([wanted] if added else [])
    assert len(wanted) <= POINTS


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"values":null}',
        '{"values":[null,1,"x",{},{"commodity_quantity":"ELECTRIC.POWER.L1"}]}',
        measurement(("NO.SUCH", 1.0)).text,
        measurement((L1, "inf")).text,
        measurement((L1, math.nan)).text,
        measurement((L1, 10**400)).text,
        measurement(([], 1)).text,
        measurement((L1, None)).text,
        "[" * 10_000,
        measurement((L1, 1.0)).text + " " * MAX_MEASUREMENT,
        measurement((L1, 1.0)).text[:-1] + ', "x": "\ud800"}',
    ],
)
def test_what_is_no_value_makes_no_curve(text: str) -> None:
    curves = Curves()
    curves.device("k", "t", 0.0).add(values_of(Message(text, "PowerMeasurement", "m")))
    assert [one for *_, found in curves.devices() for one in found] == []


quantities = st.sampled_from([L1, CommodityQuantity.ELECTRIC_POWER_L2, CommodityQuantity.ELECTRIC_POWER_L3])


@given(
    st.lists(st.tuples(st.integers(0, 2), st.lists(st.tuples(quantities, st.floats(-9, 9)), min_size=1, max_size=4)))
)
def test_measurements_of_any_quantities_make_the_same_curves_read_already_or_not(
    sent: list[tuple[int, list[tuple[CommodityQuantity, float]]]],
) -> None:
    curves, step = Curves(), 0
    wanted = dict[CommodityQuantity, dict[int, list[float]]]()
    for steps, values in sent:
        step += steps
        now = step * POWER_STEP
        for read in (True, False):
            curves.device(str(read), "t", now).add(values_of(measurement(*values, read=read)))
        for quantity, value in values:
            wanted.setdefault(quantity, {}).setdefault(step, []).append(value)
    now = step * POWER_STEP
    expected = {
        quantity: [(at * POWER_STEP, min(values), max(values), values[-1]) for at, values in by_step.items()]
        for quantity, by_step in wanted.items()
    }
    found = [{quantity: list(curve.points(now)) for quantity, curve in one.items()} for *_, one in curves.devices()]
    assert found == ([expected, expected] if sent else [])


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_of_a_fleet_that_measures_all_the_time_some_are_read_of_each_device_and_all_where_somebody_looks() -> None:
    journal, clock = Journal(), Clock()
    watches = {key: SessionWatch(Meter(key, key), journal, "received", clock) for key in map(str, range(100))}
    reads, looked = 0, "7"

    def shown() -> dict[str, list[tuple[float, float, float, float]]]:
        return {key: list(of[L1].points(clock.now)) for key, _, of in journal.curves.devices() if of}

    for second in range(60):
        journal.curves.look([looked], clock.now)
        for tenth in range(10):  # 1,000 measurements a second
            for key, watch in watches.items():
                given = measurement((L1, float(10 * second + tenth)))
                before = journal.curves.left
                watch.note("received", given)
                watch.note("sent", Message("", "ReceptionStatus", None, given.id, "OK"))
                reads += key != looked and journal.curves.left < before
            clock.now = 1000.0 + second + (tenth + 1) / 10
    assert reads < 60 * READS_PER_SECOND + 3 * 2 * 100, "each device costs a bounded share of the fleet's"
    found = shown()
    assert found.keys() == watches.keys()
    assert all(len(points) == 3 for points in found.values()), "each has each of its points"
    last = found[looked][-1]
    assert (last[1], last[2], last[3]) == (400.0, 599.0, 599.0), "nothing is left out where somebody looks"


@pytest.mark.parametrize(("measurements", "answers"), [("sent", "received"), ("received", "sent")])
def test_measurements_that_are_answered_later_cost_no_more(measurements: Direction, answers: Direction) -> None:
    journal, clock = Journal(), Clock()
    watch = SessionWatch(Meter("k", "t"), journal, measurements, clock)
    for _ in range(2 * READS_PER_SECOND):
        given = [measurement((L1, 1.0)), measurement((L1, 2.0))]
        for one in given:
            watch.note(measurements, one)
        for one in given:
            watch.note(answers, Message("", "ReceptionStatus", None, one.id, "OK"))
    assert journal.curves.left >= 0


def test_a_few_devices_are_read_wholly() -> None:
    journal, clock = Journal(), Clock()
    watch = SessionWatch(Meter("k", "t"), journal, "received", clock)
    for number in range(600):  # ten a second
        clock.now += 0.1
        given = measurement((L1, float(number)))
        watch.note("received", given)
        watch.note("sent", Message("", "ReceptionStatus", None, given.id, "OK"))
    ((_, _, found),) = journal.curves.devices()
    assert [last for *_, last in found[L1].points(clock.now)][-1] == 599.0
    assert sum(high - low for _, low, high, _ in found[L1].points(clock.now)) >= 590.0


def test_a_message_that_was_left_out_is_counted_and_a_refusal_is_kept() -> None:
    journal, meter, clock = Journal(), Meter("k", "t"), Clock()
    watch = SessionWatch(meter, journal, "received", clock)
    for number in range(5000):
        watch.note("received", Message("{}", "FRBC.StorageStatus", f"m{number}"))
        watch.note("sent", Message("{}", "ReceptionStatus", None, f"m{number}", "OK"))
    watch.note("received", Message("{}", "PowerForecast", "x"))
    watch.note("sent", Message("{}", "ReceptionStatus", None, "x", "INVALID_CONTENT", "why"))
    assert meter.received.total == 5001
    assert next(journal.ring.newest_first()).status == "INVALID_CONTENT"
    assert [(one.by, one.type, one.label) for one in meter.refusals] == [("us", "PowerForecast", "why")]


def test_the_number_of_curves_is_bounded_and_a_device_that_is_gone_makes_room() -> None:
    curves, one = Curves(2), values_of(measurement((L1, 1.0)))

    def shown() -> list[str]:
        return [key for key, _, found in curves.devices() if found]

    for key in ("a", "b", "c"):
        curves.device(key, key, 0.0).add(one)
    assert shown() == ["a", "b"]
    assert curves.left_out == 1
    curves.remove("a")
    curves.remove("none")
    assert shown() == ["b", "c"]


def test_a_device_that_has_sent_nothing_for_an_hour_makes_room() -> None:
    curves, one, now = Curves(2), values_of(measurement((L1, 1.0))), 0.0
    for key in ("a", "b"):
        curves.device(key, key, now).add(one)
    assert [key for key, _, found in curves.devices() if found] == ["a", "b"]
    for _ in range(POINTS):
        now += POWER_STEP
        curves.device("b", "b", now).add(one)
        curves.device("c", "c", now).add(one)
    shown = [key for key, _, found in curves.devices() if any(list(curve.points(now)) for curve in found.values())]
    assert shown == ["b", "c"], "links of a bridge come and go"
