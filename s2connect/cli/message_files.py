"""Messages in files: one, an array, one a line, or a recorded conversation; told apart by what is in the file."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from s2connect.cli.failures import ExitCode, Failure
from s2connect.model.text import for_display

MAX_FILE_BYTES: Final = 256 * 1_048_576
"""Largest file that is read; it is in memory as a whole."""

MAX_BROKEN: Final = 1000
"""Places of a file that may be no JSON. To find each takes as long as the file is large."""

STDIN: Final = "-"
"""The name of standard input."""


class Record(NamedTuple):
    """What a log says beside a message.

    Attributes:
        session: Name of the session.
        time: When it was sent or had come, if the log says so.
        direction: ``received`` or ``sent``, by whoever wrote the log.
        role: Role of whoever wrote the log.
        event: ``session_opened``, ``session_closed`` or another event, where there is no message.
        s2_version: Where a session was opened: its version.
        reason: Where a session was closed: why.
    """

    session: str
    time: datetime | None
    direction: str | None
    role: str | None
    event: str | None
    s2_version: str | None
    reason: str | None


class Entry(NamedTuple):
    """Something in a file that should be a message.

    Attributes:
        line: Where it begins, from 1 on.
        text: The text of the message, as it is in the file; None for an event of a log.
        record: What the log says about it, where the file is one.
        broken: It is no JSON, so nobody knows where it ends.
    """

    line: int
    text: str | None
    record: Record | None = None
    broken: bool = False


def shown_name(name: str) -> str:
    """What a person is told that the file is called."""
    return "standard input" if name == STDIN else for_display(name, 200)


def read_file(name: str) -> str:
    """The content of a file, or of standard input for ``-``. Blocks.

    Bytes that are no UTF-8 become what no message may hold.

    Raises:
        Failure: It cannot be read, or is too large.
    """
    shown = shown_name(name)
    try:
        if name == STDIN:
            data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise Failure("unreadable", f"Cannot read {shown}: {why}.", code=ExitCode.USAGE) from None
    if len(data) > MAX_FILE_BYTES:
        what = f"Cannot read {shown}: it has more than {MAX_FILE_BYTES // 1_048_576} MiB."
        raise Failure("unreadable", what, "Split it; every line is on its own.", code=ExitCode.USAGE)
    return data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")


_decode = json.JSONDecoder().raw_decode  # tells where a value ends; what is in it is judged by others
_NEXT_TOP: Final = re.compile(r"\n(?=[{\[])")
_skip_space = re.compile(r"[ \t\n\r]*").match


def entries_of(content: str) -> Iterator[Entry]:
    """What is in a file, in its order: JSON values that follow each other; arrays are taken apart.

    What is no JSON is one entry, up to the next line that begins with a bracket or brace.

    Raises:
        Failure: There is too much of that.
    """
    at, line, counted, broken = 0, 1, 0, 0
    while (at := _after_space(content, at)) < len(content):
        line, counted = line + content.count("\n", counted, at), at
        try:
            value, end = _decode(content, at)
        except (ValueError, RecursionError):
            following = _NEXT_TOP.search(content, at)
            end = following.end() if following else len(content)
            broken += 1
            if broken > MAX_BROKEN:
                what = f"More than {MAX_BROKEN} places of a file are no JSON, the last one in line {line}."
                hint = "A file holds one message, an array of messages, one message a line, or a log of serve --record."
                raise Failure("unreadable", what, hint, code=ExitCode.USAGE) from None
            yield Entry(line, content[at:end].rstrip(), broken=True)
        else:
            if isinstance(value, list):
                yield from _elements(content, at, line)
            else:
                yield _entry(content, at, end, line, value)
        at = end


def _after_space(text: str, at: int) -> int:
    found = _skip_space(text, at)
    assert found is not None, "it matches nothing as well"
    return found.end()


def _elements(text: str, at: int, line: int) -> Iterator[Entry]:
    counted = at
    at = _after_space(text, at + 1)
    while text[at] != "]":
        value, end = _decode(text, at)
        line, counted = line + text.count("\n", counted, at), at
        yield _entry(text, at, end, line, value)
        at = _after_space(text, end)
        if text[at] == ",":
            at = _after_space(text, at + 1)


def _entry(text: str, begin: int, end: int, line: int, value: Any) -> Entry:
    if not isinstance(value, dict) or "message_type" in value or not {"session", "direction", "event"} & value.keys():
        return Entry(line, text[begin:end])
    time, direction, event = (_text(value, name) for name in ("time", "direction", "event"))
    moment = None
    with suppress(ValueError):
        moment = datetime.fromisoformat(time or "")
    if moment is not None and moment.tzinfo is None:
        moment = None
    role, version, reason = (_text(value, name) for name in ("role", "s2_version", "reason"))
    record = Record(_text(value, "session") or "", moment, direction, role, event, version, reason)
    message = value.get("message")
    if "message" not in value:
        return Entry(line, None, record)
    return Entry(line, message if isinstance(message, str) else _member(text, begin, "message"), record)


def _text(value: dict[str, Any], name: str) -> str | None:
    found = value.get(name)
    return found if isinstance(found, str) else None


def _member(text: str, at: int, wanted: str) -> str:
    """The text of the last member with a name of the object that begins there."""
    found = ""
    at = _after_space(text, at + 1)
    while text[at] != "}":
        name, at = _decode(text, at)
        begin = _after_space(text, _after_space(text, at) + 1)
        _, at = _decode(text, begin)
        if name == wanted:
            found = text[begin:at]
        at = _after_space(text, at)
        if text[at] == ",":
            at = _after_space(text, at + 1)
    return found
