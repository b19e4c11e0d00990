"""Aliases, and names written in ASCII."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2connect.model.alphabet import MAX_ALIAS_CHARACTERS, as_label, free_aliases, in_our_alphabet, to_ascii


@pytest.mark.parametrize(
    ("name", "written", "label"),
    [
        ("Wärmepumpe Küche", "Waermepumpe Kueche", "waermepumpe-kueche"),
        ("Großes Öl", "Grosses Oel", "grosses-oel"),
        ("STRAẞE", "STRASsE", "strasse"),
        ("Wa\u0308rme", "Waerme", "waerme"),  # the dots as a character of their own
        ("Café Électrique, ça", "Cafe Electrique, ca", "cafe-electrique-ca"),
        ("Smørrebrød på Ærø", "Smoerrebroed paa Aeroe", "smoerrebroed-paa-aeroe"),
        ("Łódź", "Lodz", "lodz"),
        ("Þór Ðal", "Thor Dal", "thor-dal"),
        ("Čučoriedka İstanbul ığ", "Cucoriedka Istanbul ig", "cucoriedka-istanbul-ig"),
        ("ﬁrst №5", "first No5", "first-no5"),
        ("\uff22\uff41\uff54", "Bat", "bat"),
        ("热泵 2", " 2", "2"),
        ("Тепло", "", ""),
        ("🔋", "", ""),
        ("plain ~ text", "plain ~ text", "plain-text"),
        ("-._", "-._", ""),
    ],
)
def test_names_are_spelled_in_ascii(name: str, written: str, label: str) -> None:
    assert (to_ascii(name), as_label(name)) == (written, label)


@given(st.text())
def test_every_name_becomes_ascii_and_a_label_or_nothing(name: str) -> None:
    assert to_ascii(name).isascii()
    assert re.fullmatch(r"([a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?)?", as_label(name))


@pytest.mark.rule("TOK-03")
def test_aliases_are_short_and_differ_by_more_than_case_and_look_alikes() -> None:
    given_aliases = list(itertools.islice(free_aliases(()), 20_000))
    assert given_aliases[:3] == ["1", "2", "3"]
    assert len(given_aliases[549]) == 2
    assert all(re.fullmatch(r"[0-9A-Z]+", alias) and len(alias) <= MAX_ALIAS_CHARACTERS for alias in given_aliases)
    assert len({in_our_alphabet(alias) for alias in given_aliases}) == len(given_aliases)
    assert next(free_aliases({"i", "2", "aa"})) == "3"
