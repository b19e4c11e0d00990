"""Work for the most expensive messages, in calls of Python functions: few, however many values they have."""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from benchmarks.worst import all_types, rich_messages
from s2connect.messages import schema
from s2connect.messages.catalogue import BETA, V1, parse
from s2connect.messages.envelope import InvalidMessage

MOST = 3000
"""Calls that may be made to read a message of up to 32,768 values again."""

DURATION = r'"(duration|transition_duration|max_pause_before|progress)":1\b'


def calls_of(work: Callable[[], object]) -> int:
    """Number of calls of functions of the second reading."""
    count = 0

    def note(frame: FrameType, event: str, _: Any) -> None:
        nonlocal count
        count += event == "call" and frame.f_code.co_filename == schema.__file__

    sys.setprofile(note)
    try:
        work()
    except InvalidMessage:
        pass
    finally:
        sys.setprofile(None)
    return count


def read_again(text: str) -> Iterator[tuple[str, str]]:
    """Variants of a valid text that have to be read again, each with an element of another kind, or all of them."""
    yield "a duration with a fraction in every element", re.sub(DURATION, r'"\1":1.0', text)
    yield "a duration beyond all bounds in every element", re.sub(DURATION, r'"\1":1e300', text)
    yield "null in every element", re.sub(r'"(running_costs|transition_costs)":(\{[^}]*\}|1)', r'"\1":null', text)
    if "true" in text:
        yield "the last choice is none", "tree".join(text.rsplit("true", 1))
    yield "the last number is none", ':"x"'.join(text.rsplit(":1", 1))
    yield "the last text is empty", re.sub(r'"[^"]*"([^"]*)$', r'""\1', text)


@pytest.mark.rule("SEC-03")
@pytest.mark.parametrize(("name", "kind"), list(all_types()), ids=[name for name, _ in all_types()])
def test_of_a_message_that_is_read_again_few_elements_are_looked_at_one_by_one(name: str, kind: type) -> None:
    first = itertools.islice(rich_messages(kind), 3)
    richest = max(first, key=lambda text: text.count(","), default="{}")
    for what, variant in read_again(richest):
        version = BETA if "null" in what else V1
        assert calls_of(lambda: parse(variant, version)) < MOST, what  # noqa: B023 - called at once


@pytest.mark.rule("SEC-03", "MSG-08")
def test_a_duration_that_nobody_writes_is_taken_a_few_times_in_a_message() -> None:
    element = {"duration": 1e300, "power_values": [{"commodity_quantity": "OIL.FLOW_RATE", "value_expected": 1}]}
    message = {"message_type": "PowerForecast", "message_id": "m-1", "start_time": "2026-01-01T00:00:00Z"}
    taken = parse(json.dumps(message | {"elements": [element] * 100}))
    assert taken.elements[99].duration == int(1e300)  # type: ignore[attr-defined]
    with pytest.raises(InvalidMessage, match="elements: has too many durations"):
        parse(json.dumps(message | {"elements": [element] * 288}))
