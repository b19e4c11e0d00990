"""One line a minute for each peer and kind."""

from __future__ import annotations

import pytest

from s2connect.model.log_limiter import MAX_KINDS, PERIOD, LogLimiter


def test_one_line_a_minute_of_each_kind_and_the_next_says_how_many_there_were() -> None:
    lines = LogLimiter()
    assert lines.due("a", 0.0) == ""
    assert [lines.due("a", at) for at in (0.0, 1.0, PERIOD - 0.1)] == [None] * 3
    assert lines.due("b", 1.0) == ""
    assert lines.due("a", PERIOD) == " (3 more such lines were not logged)"
    assert lines.due("a", PERIOD + 1) is None
    assert lines.due("a", 3 * PERIOD) == " (1 more such lines were not logged)"
    assert lines.due("a", 5 * PERIOD) == ""


@pytest.mark.rule("SEC-03")
def test_the_kinds_are_bounded() -> None:
    lines = LogLimiter()
    for number in range(3 * MAX_KINDS):
        assert lines.due(number, 0.0) == ""
    assert len(lines._kinds) == MAX_KINDS
