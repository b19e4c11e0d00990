"""Endpoint table, from records and the clock of the test, without I/O."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2connect.discovery.endpoint_table import (
    ENTRIES_PER_TICK,
    MAX_ENDPOINTS,
    RECONFIRM_SECONDS,
    SETTLE_SECONDS,
    EndpointTable,
    in_turn,
)
from s2connect.discovery.txt import SERVICE_TYPE, encode_txt
from s2connect.model.common import Role
from s2connect.model.url import BaseUrl
from tests.discovery.advertisements import advertisement

TXT = encode_txt(advertisement("ems.local"))
NAME = f"Ems.{SERVICE_TYPE}"
KEY = NAME.lower()


def see(
    table: EndpointTable,
    now: float,
    name: str = NAME,
    *,
    ttl: float = 4500,
    host: str = "ems.local.",
    address: str = "10.0.0.1",
) -> None:
    table.pointer(name, None, ttl, now)
    table.pointer(name, Role.CEM, ttl, now)
    table.service(name, host, 120, now)
    table.text(name, TXT, ttl, now)
    table.addresses(host, [address], 120, now, whole=True)


def settle(table: EndpointTable, now: float) -> float:
    now += SETTLE_SECONDS
    table.tick(now)
    return now


@pytest.mark.rule("DISC-08")
def test_an_endpoint_is_reported_once_its_records_are_there() -> None:
    table = EndpointTable()
    table.tick(0)
    see(table, 1)
    assert table.tick(1)[0] == set()
    assert table.tick(1 + SETTLE_SECONDS)[0] == {KEY}
    assert table.tick(2)[0] == set()
    found = table.endpoints[KEY]
    assert (found.instance, found.roles, found.addresses) == ("Ems", {Role.CEM}, ("10.0.0.1",))


@pytest.mark.rule("DISC-04")
def test_the_url_is_that_of_the_text_wherever_the_service_record_points() -> None:
    table = EndpointTable()
    see(table, 0, host="elsewhere.local.")
    table.service(NAME, "evil.local.", 120, 0)
    table.addresses("evil.local.", ["10.0.0.66"], 120, 0, whole=True)
    settle(table, 0)
    found = table.endpoints[KEY]
    assert found.pairing_url == BaseUrl("https://ems.local:8443/pairing/")
    assert found.longpolling_url is None or found.longpolling_url.host == "ems.local"


@pytest.mark.rule("DISC-08")
def test_the_same_again_is_no_change_and_another_text_is_one() -> None:
    table = EndpointTable()
    see(table, 0)
    now = settle(table, 0)
    see(table, now)
    assert table.tick(now + 1)[0] == set()
    table.text(NAME, encode_txt(advertisement("ems.local", name="New")), 4500, now + 1)
    assert table.tick(now + 2)[0] == {KEY}
    assert table.endpoints[KEY].name == "New"


@pytest.mark.rule("DISC-08")
def test_a_goodbye_is_reported_at_once() -> None:
    table = EndpointTable()
    see(table, 0)
    now = settle(table, 0)
    table.pointer(NAME, None, 0, now)
    assert table.tick(now)[0] == {KEY}
    assert not table.endpoints
    assert len(table) == 0


@pytest.mark.rule("DISC-08")
def test_who_is_silent_is_asked_again_and_then_gone() -> None:
    table = EndpointTable()
    see(table, 0)
    settle(table, 0)
    asked = [now for now in range(1, 200) if NAME in table.tick(now)[1].services and table.endpoints]
    assert asked == [96, 108]
    assert not table.endpoints


@pytest.mark.rule("DISC-08")
def test_who_answers_stays() -> None:
    table = EndpointTable()
    see(table, 0)
    settle(table, 0)
    for now in range(1, 10_000):
        _, wanted = table.tick(now)
        if wanted.services:
            table.service(NAME, "ems.local.", 120, now)
            table.addresses("ems.local.", ["10.0.0.1"], 120, now, whole=True)
        if wanted.search:
            table.pointer(NAME, None, 4500, now)
            table.pointer(NAME, Role.CEM, 4500, now)
        assert table.endpoints[KEY].addresses == ("10.0.0.1",)
    assert table.endpoints[KEY].roles == {Role.CEM}


def test_who_does_not_confirm_in_time_is_gone() -> None:
    table = EndpointTable()
    see(table, 0)
    now = settle(table, 0)
    table.reconfirm(now)
    assert table.tick(now)[1].services == [NAME]
    assert table.tick(now + RECONFIRM_SECONDS)[0] == {KEY}


@pytest.mark.rule("DISC-09")
def test_a_new_address_replaces_the_old_one() -> None:
    table = EndpointTable()
    see(table, 0)
    now = settle(table, 0) + 5
    table.addresses("ems.local.", ["10.0.0.2"], 120, now, whole=True)
    assert table.tick(now + 1)[0] == {KEY}
    assert table.endpoints[KEY].addresses == ("10.0.0.2",)


def test_searches_become_rare_and_a_new_network_makes_them_frequent_again() -> None:
    table = EndpointTable()
    searches = [now for now in range(10_000) if table.tick(now)[1].search]
    assert searches[:6] == [0, 1, 3, 7, 15, 31]
    assert searches[-1] - searches[-2] == 3600
    table.network_changed(10_000)
    assert [now for now in range(10_000, 10_010) if table.tick(now)[1].search] == [10_000, 10_001, 10_003, 10_007]


def test_an_endpoint_whose_records_never_come_is_asked_for_and_dropped() -> None:
    table = EndpointTable()
    table.pointer(NAME, None, 4500, 0)
    asked = [t / 4 for t in range(60) if table.tick(t / 4)[1].services]
    assert asked == [0.25, 1.25, 3.25]
    assert len(table) == 0


@pytest.mark.rule("DISC-03")
def test_a_refused_text_is_reported_once_and_hides_the_endpoint() -> None:
    table = EndpointTable()
    see(table, 0)
    now = settle(table, 0)
    assert table.text(NAME, b"", 4500, now) is not None
    assert table.text(NAME, b"", 4500, now) is None
    assert table.tick(now + 1)[0] == {KEY}
    assert not table.endpoints
    see(table, now + 2)
    assert table.tick(now + 3)[0] == {KEY}


@pytest.mark.rule("SEC-03")
def test_a_flood_fills_no_more_than_the_table_and_does_not_displace_who_is_known() -> None:
    table = EndpointTable()
    see(table, 0)
    now = settle(table, 0)
    for number in range(10_000):
        see(table, now, f"evil-{number}.{SERVICE_TYPE}", host=f"evil-{number}.local.")
    assert len(table) == MAX_ENDPOINTS
    assert table.overflow == 10_000 - (MAX_ENDPOINTS - 1)
    assert KEY in table.endpoints


@pytest.mark.rule("SEC-03")
def test_a_hundred_endpoints_of_one_address_stand_behind_the_first_ones_of_others() -> None:
    table = EndpointTable()
    for number in range(100):
        host = f"evil-{number % 50}.local."
        see(table, 0, f"evil-{number}.{SERVICE_TYPE}", host=host, address="10.0.0.66")
    now = settle(table, 0)
    for number, name in enumerate("abc"):
        see(table, now, f"{name}.{SERVICE_TYPE}", host=f"{name}.local.", address=f"10.0.0.{number}")
    settle(table, now)
    found = [one.instance for one in in_turn(table.endpoints.values())]
    assert found[:5] == ["evil-0", "a", "b", "c", "evil-1"]
    assert len(found) == 103


@pytest.mark.rule("SEC-03")
def test_names_without_records_make_way_and_are_asked_for_a_few_at_a_time() -> None:
    table = EndpointTable()
    for number in range(10_000):
        table.pointer(f"evil-{number}.{SERVICE_TYPE}", None, 4500, 0)
    assert len(table.tick(1)[1].services) == ENTRIES_PER_TICK
    see(table, 2)
    assert KEY in table.tick(3)[0]


@pytest.mark.rule("SEC-03")
@pytest.mark.parametrize("label", ["\ufffd" * 63, "a" * 64, "a..b", "", ".".join(["a" * 60] * 5)])
def test_names_that_cannot_be_written_in_a_query_are_not_kept(label: str) -> None:
    table = EndpointTable()
    see(table, 0, f"{label}.{SERVICE_TYPE}")
    assert len(table) == 0
    see(table, 0, host=f"{label}.local.")
    assert not table.tick(1)[1].hosts


_names = st.sampled_from([f"{label}.{SERVICE_TYPE}" for label in "abAB"] + ["elsewhere.local."])
_hosts = st.sampled_from(["a.local.", "b.local.", "B.local."])
_ttls = st.sampled_from([0, 1, 120, 4500, 2**31])
_steps = st.one_of(
    st.tuples(st.just("pointer"), _names, st.none() | st.sampled_from(Role), _ttls),
    st.tuples(st.just("service"), _names, _hosts, _ttls),
    st.tuples(st.just("text"), _names, st.sampled_from([TXT, b"", b"\xff"]), _ttls),
    st.tuples(st.just("addresses"), _hosts, st.lists(st.sampled_from(["10.0.0.1", "fd00::1", "10.0.0.2"])), _ttls),
    st.tuples(st.just("network_changed")),
    st.tuples(st.just("reconfirm")),
    st.tuples(st.just("tick")),
)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.1, 1.0, 60.0, 5000.0]), _steps), max_size=40))
def test_whatever_arrives_the_table_is_true_to_its_word_and_falls_silent(
    steps: list[tuple[float, tuple[object, ...]]],
) -> None:
    table = EndpointTable(capacity=2)
    now, reported = 0.0, dict(table.endpoints)
    for wait, (what, *arguments) in steps:
        now += wait
        if what == "addresses":
            table.addresses(*arguments, now, whole=True)  # type: ignore[arg-type, misc]  # drawn to fit
        elif what == "tick":
            changed, _ = table.tick(now)
            differing = {
                k for k in reported.keys() | table.endpoints.keys() if reported.get(k) != table.endpoints.get(k)
            }
            assert differing <= changed
            reported = dict(table.endpoints)
        else:
            getattr(table, str(what))(*arguments, now)
        assert len(table) <= 2
    ticks = 0
    while len(table) and ticks < 1000:
        due = table.next_tick()
        assert due < math.inf
        now = max(now, due)
        table.tick(now)
        ticks += 1
    assert not table.endpoints, "left alone, every endpoint is forgotten"
