"""Texts of a session are withheld while only its peer can tell whether it is still there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2connect.session import withholding
from s2connect.session.withholding import MAX_WITHHELD, SIGN_FOR, Withholding
from tests.session.guards import Guard


class World(Guard):
    """A clock of the test, and a connection that can be asked; and the guard."""

    def __init__(self, *, can_ask: bool = True) -> None:
        super().__init__()
        self.now = 100.0
        self.can_ask = can_ask
        self.asked_at: list[float] = []
        self.answer: Callable[[], None] | None = None
        self.is_paused = False
        self.delivered: list[str] = []
        connection = cast(Any, self)
        self.withholding = Withholding(self, connection, self.pause, self.resume, lambda: self.now)

    # The reader and the connection

    def pause(self) -> None:
        self.is_paused = True

    def resume(self) -> None:
        self.is_paused = False

    def ask(self, call: Callable[[], None]) -> bool:
        if self.can_ask:
            self.asked_at.append(self.now)
            self.answer = call
        return self.can_ask

    # Events of the script

    def come(self, text: str) -> None:
        if not self.withholding.withholds(text, self.come):
            self.delivered.append(text)

    def sign(self) -> None:
        """Let the peer answer the last question."""
        call, self.answer = self.answer, None
        if call is not None:
            call()


def test_a_guard_that_is_certain_asks_nothing() -> None:
    world = World()
    world.come("a")
    assert world.delivered == ["a"]
    assert not world.asked_at


def test_a_text_waits_for_a_sign_which_counts_for_a_while_and_is_renewed_in_time() -> None:
    world = World()
    world.certain = False
    world.come("a")
    world.come("b")
    assert world.delivered == []
    world.sign()
    world.come("c")
    assert world.delivered == ["a", "b", "c"]
    assert len(world.asked_at) == 1
    world.now += SIGN_FOR * 0.6
    for text in "de":
        world.come(text)
    assert world.delivered == list("abcde")
    assert len(world.asked_at) == 2, "one question before the sign counts no more"
    world.sign()
    world.now += SIGN_FOR * 0.6
    world.come("f")
    assert world.delivered == list("abcdef")


def test_a_sign_for_which_was_asked_before_the_text_came_does_not_count() -> None:
    """The answer may have been held up together with the text."""
    world = World()
    world.certain = False
    world.come("a")
    world.sign()
    world.now += SIGN_FOR * 0.6
    world.come("b")
    early = world.answer
    world.now += SIGN_FOR
    world.come("c")
    assert world.answer is not early, "only the answer to the new question is passed on"
    assert world.delivered == ["a", "b"]
    world.sign()
    assert world.delivered == ["a", "b", "c"]


def test_a_sign_that_took_long_is_asked_for_once_more() -> None:
    world = World()
    world.certain = False
    world.come("a")
    for _ in range(2):
        assert world.delivered == []
        world.now += SIGN_FOR * 2
        world.sign()
    assert world.delivered == ["a"]


def test_without_a_sign_all_waits_until_the_instance_would_know_and_no_more_than_some_is_read() -> None:
    world = World()
    world.certain = False
    texts = [str(number) for number in range(MAX_WITHHELD)]
    for text in texts:
        assert not world.is_paused
        world.come(text)
    assert world.is_paused
    assert world.delivered == []
    world.hear()
    assert world.delivered == texts
    assert not world.is_paused


def test_long_texts_pause_it_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(withholding, "WAITING_LIMIT", 100)
    world = World()
    world.certain = False
    for _ in range(3):
        world.come("x" * 40)
    assert world.is_paused


def test_a_transport_that_cannot_ask_delivers() -> None:
    world = World(can_ask=False)
    world.certain = False
    world.come("a")
    assert world.delivered == ["a"]


def test_a_standstill_during_the_question_withholds_it_further() -> None:
    world = World()
    world.certain = False
    world.come("a")
    world.may = False
    world.sign()
    assert world.delivered == []
    assert world.is_paused
    world.settle()
    assert world.delivered == ["a"], "the sign still counts"


def test_at_the_end_what_is_withheld_is_given_back_and_never_delivered() -> None:
    world = World()
    world.certain = False
    world.come("a")
    world.come("b")
    assert world.withholding.end() == ["a", "b"]
    assert world.withholding.end() == []
    world.sign()
    world.hear()
    assert world.delivered == []


STEPS = st.lists(st.sampled_from(["come", "sign", "wait", "doubt", "settle", "lose", "hear"]), max_size=60)


@given(STEPS, st.floats(0.05, 2.0))
def test_nothing_is_lost_or_reordered_and_without_certainty_there_was_a_sign(steps: list[str], wait: float) -> None:
    world = World()
    came: list[str] = []
    signed_until = 0.0
    for step in steps:
        known = len(world.delivered)
        if step == "come" and not world.is_paused:
            came.append(f"{len(came)}")
            world.come(came[-1])
        elif step == "sign":
            if world.answer is not None:
                signed_until = world.asked_at[-1] + SIGN_FOR
            world.sign()
        elif step == "wait":
            world.now += wait
        elif step == "doubt":
            world.may = False
        elif step == "settle":
            world.settle()
        elif step == "lose":
            world.certain = False
        elif step == "hear":
            world.hear()
        assert world.delivered == came[: len(world.delivered)]
        assert len(world.uncertain) <= 1
        if len(world.delivered) > known:
            assert world.may
            assert world.certain or step == "sign" or world.now < signed_until
    world.settle()
    world.hear()
    world.settle()
    assert world.delivered == came
    assert not world.is_paused
