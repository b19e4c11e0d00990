"""Output of commands as documents show it, compared with what the commands write."""

from __future__ import annotations

import re
from collections.abc import Iterable

CODE = re.compile(r"\b(?:\w{1,5}-)?(?:[0-9A-HJKMNP-TV-Z]{4} ?){3}(?![0-9A-Z])")
"""A pairing code, as programs show it."""

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")

_DIFFERS = (
    (CODE, "CODE"),
    (re.compile(r"\b\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)?)?"), "TIME"),
    (re.compile(r"\b\d\d:\d\d(:\d\d)?\b"), "TIME"),
    (re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "ID"),
    (re.compile(r"\bid [0-9a-f]{8}\b"), "id ID"),
    (re.compile(r"(?<=:)([3-5]\d{4}|6[0-5]\d{3})\b"), "PORT"),  # one that the system picked
    (re.compile(r"\b\d+(\.\d+)? (ms|s|min|h)\b"), "DURATION"),
    (re.compile(r"\b\d+(/\d+){3,}\b"), "COUNTS"),
    (re.compile(r"(?<=\S) {2,}"), "  "),  # between columns, as wide as their cells
)
"""Patterns of values that differ from run to run: codes, times, ids, ports, durations and counts of messages."""


def plain(output: str) -> str:
    """Return what a terminal shows without colours."""
    return _CONTROL.sub("", output)


def normalised(text: str) -> list[str]:
    """Return the lines of an output with words in the places of what differs from run to run."""
    text = plain(text)
    for pattern, word in _DIFFERS:
        text = pattern.sub(word, text)
    return [line for line in map(str.rstrip, text.splitlines()) if line]


def lacking(shown: str, written: str) -> str | None:
    """Return the first line of a document that a command has not written, in this order; None if it wrote them all.

    An ellipsis in a line stands for any text.
    """
    lines: Iterable[str] = iter(normalised(written))
    for line in normalised(shown):
        pattern = re.compile(".*".join(map(re.escape, line.split("…"))))
        if not any(pattern.fullmatch(each) for each in lines):
            return line
    return None
