"""Journals of a long run: what is lost, doubled, out of order or of two sessions is found, and nothing else."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.journals import SETTLED, Checker, Line, Tail, parse

LATER = 1000.0


def conversation(messages: int, device: int = 0, begin: float = 0.0, session: str = "a") -> list[Line]:
    """A device sends so many messages, and each arrives and is acknowledged."""
    lines = []
    for number in range(1, messages + 1):
        at = begin + number
        lines += [
            (at, "sent", device, number, "-"),
            (at + 0.1, "delivered", device, number, session),
            (at + 0.2, "acknowledged", device, number, "-"),
        ]
    return lines


def found(lines: list[Line]) -> dict[str, int]:
    checker = Checker()
    checker.take(lines, LATER)
    checker.take([], LATER)
    return dict(checker.found)


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 3), st.integers(0, 1_000_000))
def test_what_is_in_order_is_in_order_however_the_journals_are_read(messages: int, devices: int, seed: int) -> None:
    lines = sorted(line for device in range(devices) for line in conversation(messages, device))
    checker, rest, now, chance = Checker(), lines, 0.0, random.Random(seed)
    while rest:
        now += chance.uniform(0, 5)
        # Lines older than a second are all read; of later ones only some. A device's own are in one journal.
        late = chance.random()
        read = [
            line
            for line in rest
            if line[0] <= now - 1
            or (line[1] != "delivered" and line[0] <= now - late)
            or (line[1] == "delivered" and line[0] <= now and chance.random() < 0.5)
        ]
        rest = [line for line in rest if line not in read]
        checker.take(read, now)
    checker.take([], LATER)
    checker.take([], LATER)
    assert not checker.found
    assert checker.messages == messages * devices
    assert checker.acknowledged == {device: float(messages) for device in range(devices)}


def test_a_message_that_was_acknowledged_and_not_delivered_is_lost() -> None:
    lines = [line for line in conversation(5) if line[1:4] != ("delivered", 0, 3)]
    assert found(lines) == {"lost": 1}


def test_a_message_that_was_not_acknowledged_may_have_arrived_or_not() -> None:
    lines = [line for line in conversation(5) if line[1:4] != ("acknowledged", 0, 3)]
    assert found(lines) == {}
    assert found([line for line in lines if line[1:4] != ("delivered", 0, 3)]) == {}


def test_a_message_that_is_delivered_twice_or_late_is_found() -> None:
    assert found([*conversation(5), (9.0, "delivered", 0, 5, "a")]) == {"duplicated": 1}
    late = [line for line in conversation(5) if line[1:4] != ("delivered", 0, 3)]
    assert found([*late, (9.0, "delivered", 0, 3, "a")]) == {"reordered": 1}


def test_a_session_that_delivers_after_its_successor_is_found() -> None:
    lines = [line if line[3] != 3 or line[4] == "-" else (*line[:4], "b") for line in conversation(5)]
    assert found(lines) == {"two sessions": 2}, "messages 4 and 5, in the former session"
    assert found([line if line[3] < 3 or line[4] == "-" else (*line[:4], "b") for line in conversation(5)]) == {}


def test_a_journal_is_read_by_whole_lines(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    tail = Tail(file)
    assert tail.lines() == []
    file.write_text("1.5 sent 0 1 -\n2.5 deliv")
    assert tail.lines() == [(1.5, "sent", 0, 1, "-")]
    with file.open("a") as more:
        more.write("ered 0 1 a\n")
    assert tail.lines() == [parse("2.5 delivered 0 1 a")]
    assert tail.lines() == []
    tail.close()


def test_the_last_seconds_wait_for_the_other_journals() -> None:
    checker = Checker()
    checker.take([(10.0, "sent", 0, 1, "-"), (10.2, "acknowledged", 0, 1, "-")], 10.3)
    assert checker.acknowledged == {0: 10.0}
    checker.take([(10.1, "delivered", 0, 1, "a")], 10.3 + SETTLED)
    checker.take([], LATER)
    assert not checker.found
    assert checker.messages == pytest.approx(1)


def test_a_device_has_healed_with_the_acknowledgement_of_what_it_sent_afterwards() -> None:
    checker = Checker()
    healing, later = checker.heal(0, 2.5), checker.heal(0, 99.0)
    checker.take(conversation(2), LATER)
    assert healing.at is None, "sent before"
    checker.take(conversation(2, device=1, begin=2), LATER)
    assert healing.at is None, "another device"
    checker.take(conversation(2, begin=2), LATER)
    assert healing.at == pytest.approx(3.2)
    assert later.at is None


def test_messages_to_a_device_are_another_conversation_than_those_of_it() -> None:
    assert found([*conversation(5), *conversation(5, device=~0)]) == {}
    checker = Checker()
    lines = [line for line in conversation(5, device=~3) if line[1:4] != ("delivered", ~3, 3)]
    checker.take(lines, LATER)
    checker.take([], LATER)
    assert checker.examples == ["lost: message 3 to device 3, acknowledged at 3.200"]
