"""The bucket of each address (SEC-03)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2connect.https.rate import AddressLimiter, network_of

pytestmark = pytest.mark.rule("SEC-03")


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::ffff:c000:207", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("fe80::2%eth1", "fe80::/64"),
        ("::1", "::/64"),
        ("/run/socket", "/run/socket"),
        ("", ""),
        ("192.0.2.999", "192.0.2.999"),
    ],
)
def test_what_counts_as_one_address(address: str, network: str) -> None:
    assert network_of(address) == network


def ask(limiter: AddressLimiter, address: str, *, now: float, cost: float = 1) -> bool:
    """A request as the server handles it: looked at first, charged afterwards."""
    if not limiter.allows(address, now=now):
        return False
    limiter.charge(address, cost, now=now)
    return True


def test_an_address_has_a_burst_and_then_its_refill() -> None:
    limiter = AddressLimiter(burst=3, refill=0.5)
    assert [ask(limiter, "192.0.2.7", now=10) for _ in range(4)] == [True, True, True, False]
    assert not ask(limiter, "192.0.2.7", now=11.9)
    assert ask(limiter, "192.0.2.7", now=12)
    assert not ask(limiter, "192.0.2.7", now=12)
    assert [ask(limiter, "192.0.2.7", now=1000) for _ in range(4)] == [True, True, True, False]


def test_being_turned_away_costs_nothing_and_being_refused_is_paid_back() -> None:
    limiter = AddressLimiter(burst=2, refill=1)
    assert ask(limiter, "192.0.2.7", now=0, cost=4)
    for now in (0, 1, 2, 2.9):
        assert not ask(limiter, "192.0.2.7", now=now)
    assert ask(limiter, "192.0.2.7", now=3)


def test_addresses_do_not_pay_for_each_other() -> None:
    limiter = AddressLimiter(burst=1, refill=0)
    assert ask(limiter, "192.0.2.7", now=0)
    assert ask(limiter, "192.0.2.8", now=0)
    assert not ask(limiter, "::ffff:192.0.2.7", now=0)


def test_one_subscriber_with_a_whole_network_of_addresses_is_one() -> None:
    limiter = AddressLimiter(burst=5, refill=0)
    assert sum(ask(limiter, f"2001:db8:0:1::{n:x}", now=0) for n in range(100)) == 5
    assert ask(limiter, "2001:db8:0:2::1", now=0)


def test_the_table_is_bounded_and_the_longest_uncharged_goes_first() -> None:
    limiter = AddressLimiter(burst=2, refill=0, max_addresses=3)
    for n in range(3):
        limiter.charge(f"192.0.2.{n}", 1, now=n)
    assert ask(limiter, "192.0.2.0", now=3)
    assert ask(limiter, "192.0.2.3", now=4)
    assert not ask(limiter, "192.0.2.0", now=5), "still remembered"
    assert [ask(limiter, "192.0.2.1", now=6) for _ in range(3)] == [True, True, False], "forgotten, and so full again"
    for n in range(10_000):
        assert ask(limiter, f"198.51.{n // 250}.{n % 250}", now=7)
    assert len(limiter._buckets) == 3


def test_looking_leaves_no_trace() -> None:
    limiter = AddressLimiter()
    for n in range(250):
        assert limiter.allows(f"192.0.2.{n}", now=0)
    assert not limiter._buckets


@given(st.lists(st.tuples(st.integers(0, 64), st.sampled_from([0.25, 1.0, 4.0])), max_size=80))
def test_no_pattern_of_requests_gets_more_than_burst_and_refill(pattern: list[tuple[int, float]]) -> None:
    """Beyond that, one request can overdraw by no more than its own cost."""
    limiter = AddressLimiter(burst=10, refill=2)
    now = begin = 100.0
    spent = 0.0
    for wait, cost in pattern:
        now += wait / 64
        if ask(limiter, "192.0.2.7", now=now, cost=cost):
            spent += cost
        assert spent <= 10 + 2 * (now - begin) + 3
