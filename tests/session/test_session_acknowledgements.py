"""The ledger of messages that wait for their ReceptionStatus."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2connect.errors import UsageError
from s2connect.session.acknowledgements import Acknowledged, Acknowledgements


@pytest.mark.rule("MSG-03")
def test_a_message_is_acknowledged_once() -> None:
    ledger = Acknowledgements()
    ledger.sent("m1", now=0)
    assert ledger.acknowledged("m1") is Acknowledged.EXPECTED
    assert ledger.acknowledged("m1") is Acknowledged.UNKNOWN
    assert len(ledger) == 0


def test_an_acknowledgement_after_the_time_is_late_once() -> None:
    ledger = Acknowledgements(timeout=15)
    ledger.sent("m1", now=0)
    ledger.sent("m2", now=1)
    assert ledger.deadline == 15
    assert ledger.expired(14.9) == []
    assert ledger.expired(15) == ["m1"]
    assert ledger.deadline == 16
    assert ledger.acknowledged("m1") is Acknowledged.LATE
    assert ledger.acknowledged("m1") is Acknowledged.UNKNOWN
    assert ledger.acknowledged("m2") is Acknowledged.EXPECTED
    assert ledger.deadline is None


def test_an_id_that_waits_is_not_sent_again_but_may_be_afterwards() -> None:
    ledger = Acknowledgements()
    ledger.sent("m1", now=0)
    with pytest.raises(UsageError):
        ledger.sent("m1", now=1)
    ledger.give_up("m1")
    ledger.sent("m1", now=2)
    assert ledger.acknowledged("m1") is Acknowledged.EXPECTED


def test_what_waits_is_bounded() -> None:
    ledger = Acknowledgements(limit=2)
    ledger.sent("m1", now=0)
    ledger.sent("m2", now=0)
    with pytest.raises(UsageError):
        ledger.sent("m3", now=0)


def test_the_memory_of_what_was_given_up_is_bounded() -> None:
    ledger = Acknowledgements(limit=2)
    for number in range(5):
        ledger.sent(f"m{number}", now=0)
        ledger.give_up(f"m{number}")
    assert [ledger.acknowledged(f"m{number}") for number in range(5)] == [Acknowledged.UNKNOWN] * 3 + [
        Acknowledged.LATE
    ] * 2


@given(st.lists(st.tuples(st.sampled_from("sage"), st.integers(0, 9)), max_size=60))
def test_every_message_is_counted_exactly_once(steps: list[tuple[str, int]]) -> None:
    ledger = Acknowledgements(timeout=5, limit=5)
    waiting: dict[str, int] = {}
    for now, (step, number) in enumerate(steps):
        name = f"m{number}"
        if step == "s":
            if name in waiting or len(waiting) == 5:
                with pytest.raises(UsageError):
                    ledger.sent(name, now=now)
            else:
                ledger.sent(name, now=now)
                waiting[name] = now
        elif step == "a":
            assert (ledger.acknowledged(name) is Acknowledged.EXPECTED) == (waiting.pop(name, None) is not None)
        elif step == "g":
            ledger.give_up(name)
            waiting.pop(name, None)
        else:
            over = [name for name, sent in waiting.items() if sent + 5 <= now]
            assert ledger.expired(now) == over
            for gone in over:
                del waiting[gone]
        assert len(ledger) == len(waiting)
