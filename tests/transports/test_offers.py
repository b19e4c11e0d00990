"""Offers of a communication server: one connection, at most 30 seconds."""

from __future__ import annotations

import pytest

from s2connect.errors import SessionRefused
from s2connect.transports.offers import OfferTable


def table() -> OfferTable[str]:
    made: OfferTable[str] = OfferTable()
    made.add("token", "value", now=0)
    return made


@pytest.mark.rule("SES-04", "WS-02")
def test_an_offer_is_used_once() -> None:
    offers = table()
    assert offers.get("token", now=1) == "value"
    assert offers.take("token", now=1) == "value"
    assert offers.take("token", now=1) is None
    assert offers.get("token", now=1) is None


@pytest.mark.rule("SES-04", "WS-02")
def test_an_offer_is_void_after_30_seconds() -> None:
    offers = table()
    assert offers.add("late", "value", now=0) == 30
    assert offers.take("token", now=29.9) == "value"
    assert offers.get("late", now=30) is None
    assert offers.take("late", now=30) is None
    assert len(offers) == 0


@pytest.mark.rule("WS-02")
@pytest.mark.parametrize("presented", ["", "x", "\udce4", "TOKEN"])
def test_a_wrong_key_takes_nothing(presented: str) -> None:
    offers = table()
    assert offers.take(presented, now=0) is None
    assert len(offers) == 1


@pytest.mark.rule("SEC-03")
def test_offers_are_bounded_and_expired_ones_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s2connect.transports.offers.MAX_OFFERS", 2)
    offers = table()
    offers.add("second", "value", now=0)
    with pytest.raises(SessionRefused):
        offers.add("third", "value", now=29)
    offers.add("third", "value", now=30)
    assert len(offers) == 1


@pytest.mark.rule("SEC-01")
def test_the_table_does_not_keep_the_key_itself() -> None:
    assert "token" not in repr(vars(table()))
