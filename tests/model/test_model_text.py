"""Text from the network on a person's screen."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2connect.model.text import for_display


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Grünstrom ⚡ 😀", "Grünstrom ⚡ 😀"),
        ("", ""),
        ("a\x1b[2Jb", "a [2Jb"),
        ("line\nlog line: forged", "line log line: forged"),
        ("a\r\n\t b", "a b"),
        ("\x00\x07", ""),
        ("gpj\u202egnp.exe", "gpj gnp.exe"),
        ("\u2066a\u2069", "a"),
        ("a\u200bb\u200db\ufeffc", "a b b c"),
        ("a\u2028b\u2029c", "a b c"),
        ("\ud800x", "x"),
        ("\ue000\U000f0000x", "x"),
        ("\U000e0041x", "x"),
        ("\x9b31mred", "31mred"),
        ("  many   spaces  ", "many spaces"),
    ],
)
def test_what_a_terminal_would_obey_is_not_shown(text: str, shown: str) -> None:
    assert for_display(text) == shown


def test_long_texts_are_cut_and_say_so() -> None:
    assert for_display("x" * 80) == "x" * 80
    assert for_display("x" * 81) == "x" * 79 + "…"
    assert for_display("x" * 10_000_000, 10) == "x" * 9 + "…"
    assert for_display(" " * 1000 + "x", 10).endswith("…")


@given(st.text(max_size=400), st.integers(2, 100))
def test_the_length_is_bounded_and_nothing_invisible_is_left(text: str, limit: int) -> None:
    shown = for_display(text, limit)
    assert len(shown) <= limit
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert shown == for_display(shown, limit)
