"""JSON from strangers (SEC-04)."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2connect.model.strict_json import MAX_DEPTH, MalformedJson, read_json
from tests import strategies

pytestmark = pytest.mark.rule("SEC-04")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"nonsense",
        b"{",
        b"[1,]",
        b'{"a":1,}',
        b"{'a':1}",
        b"{a:1}",
        b"// comment\n1",
        b"1 2",
        b"\xef\xbb\xbf{}",
        b'{"a":1,"a":2}',
        b'{"a":1,"\\u0061":2}',
        b'[{"x":{"b":1,"b":1}}]',
        b"NaN",
        b"[NaN]",
        b"Infinity",
        b"-Infinity",
        b'{"x":-Infinity}',
        b"1e999",
        b"[-1e999]",
        b'{"x":123456789e400}',
        b'"\xff"',
        b'"\xc0\xaf"',
        b'"\xed\xa0\x80"',
        b"{\x00}",
        '{"a":1}'.encode("utf-16"),
        b'"\\ud800"',
        b'"\\udfff\\ud800"',
        b'{"\\uD834":1}',
        b'"a\nb"',
        b'"\x00"',
        b"1" * 5000,
        b"[" + b"-" + b"9" * 100_000 + b"]",
        b"01",
        b"+1",
        b".5",
        b"0x10",
        b"True",
    ],
    ids=lambda data: repr(data[:24]),
)
def test_what_is_not_json_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedJson) as caught:
        read_json(data)
    assert len(str(caught.value)) < 60
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"{}", {}),
        (b" [1, 2.5, true, null] ", [1, 2.5, True, None]),
        ('{"ä":"⚡😀"}'.encode(), {"ä": "⚡😀"}),
        (b'"\\ud83d\\ude00"', "😀"),
        (b'"\\\\ud800"', "\\ud800"),
        (b'{"a":{"a":1}}', {"a": {"a": 1}}),
        (b'{"a":1,"A":2}', {"a": 1, "A": 2}),
        (b"12345678901234567890123", 12345678901234567890123),
        (b"1e308", 1e308),
        (b"1e-999", 0.0),
        ('{"x":1}', {"x": 1}),
    ],
)
def test_what_is_json_is_read(data: bytes | str, value: Any) -> None:
    assert read_json(data) == value


def _nested(depth: int, opening: str = "[", closing: str = "]") -> bytes:
    return (opening * depth + "1" + closing * depth).encode()


def test_the_deepest_nesting_is_read_and_one_more_is_not() -> None:
    assert read_json(_nested(MAX_DEPTH))
    assert read_json(_nested(MAX_DEPTH, '{"a":', "}"))
    with pytest.raises(MalformedJson, match="deep"):
        read_json(_nested(MAX_DEPTH + 1))
    with pytest.raises(MalformedJson, match="deep"):
        read_json(_nested(MAX_DEPTH + 1, '{"a":', "}"))


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 500, 5_000, 30_000])
def test_brackets_in_strings_do_not_hide_the_depth(depth: int) -> None:
    """Each level carries closing brackets in a string, so that a count of brackets alone stays at one."""
    for opening, closing in (('["]",', "]"), ('{"]":', "}"), ('{"}}":0,"a":', "}")):
        with pytest.raises(MalformedJson):
            read_json(_nested(depth, opening, closing))


@pytest.mark.parametrize("data", [b"[" * 200_000, b'{"a":' * 100_000, b"[" * 60 + b"{" * 60])
def test_endless_nesting_is_malformed_and_not_a_crash(data: bytes) -> None:
    with pytest.raises(MalformedJson):
        read_json(data)


@pytest.mark.timeout(5)
@pytest.mark.parametrize("data", ['"' + '\\"' * 30_000, '"' + '\\"' * 30_000 + "\\", '"' * 60_001, '"\\' * 30_000])
def test_unclosed_strings_take_no_longer_than_closed_ones(data: str) -> None:
    with pytest.raises(MalformedJson):
        read_json("[" * 65 + data)


def test_many_brackets_side_by_side_or_in_strings_are_no_nesting() -> None:
    assert len(read_json(b"[" + b",".join([b"[]"] * 5000) + b"]")) == 5000
    assert len(read_json(json.dumps(["[" * 30, "{" * 30, "["]))) == 3


def _depth(value: Any) -> int:
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    return 0


def _check(value: Any) -> None:
    assert _depth(value) <= MAX_DEPTH
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_malformed(data: bytes) -> None:
    with contextlib.suppress(MalformedJson):
        _check(read_json(data))


@given(
    st.lists(
        st.sampled_from(
            ["{", "}", "[", "]", ",", ":", '"', '"a"', "1", "e9", "1e999", "-", "NaN", "\\u", "d800", "true", " ", "é"]
        ),
        max_size=40,
    ).map("".join)
)
def test_any_mixture_of_what_json_is_made_of_is_a_value_or_malformed(text: str) -> None:
    for data in (text, text.encode()):
        with contextlib.suppress(MalformedJson):
            _check(read_json(data))


@given(st.text(max_size=60))
def test_any_text_is_a_value_or_malformed(text: str) -> None:
    for data in (text, f'"{text}"'):
        with contextlib.suppress(MalformedJson):
            _check(read_json(data))


def test_lone_surrogates_in_a_text_are_malformed() -> None:
    with pytest.raises(MalformedJson):
        read_json('"\ud800"')


@given(strategies.json_values)
def test_every_json_value_is_read_as_it_was_written(value: Any) -> None:
    assert read_json(json.dumps(value)) == value
    assert read_json(json.dumps(value, ensure_ascii=False).encode()) == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_finite_numbers_are_read(value: float) -> None:
    assert math.isfinite(read_json(repr(value)))
