"""Facts in a line of a text log beside its message: time, direction, role, wording."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from s2connect.model.common import Role

MAX_PREFIX: Final = 200
"""Characters examined before a message."""


class Record(NamedTuple):
    """Facts that a log records beside a message."""

    session: str = ""  # empty where the log has no names
    time: datetime | None = None  # of sending or receipt; without a time zone if the log has none
    direction: str | None = None  # "received" or "sent", from the side that wrote the log
    role: str | None = None  # of the side that wrote the log
    event: str | None = None  # "session_opened", "session_closed" or another one, if there is no message
    s2_version: str | None = None  # of an opened session
    reason: str | None = None  # for the end of a closed session
    sender: Role | None = None  # if the log names it
    foreign: bool = False  # the log is not of `serve --record`: it may have other lines, and a handshake


NO_RECORD: Final = Record()
"""Record of a message without a log."""

_SENT: Final = frozenset({"sending", "sent", "send", "out", "outgoing", "outbound", "tx", "transmit", ">", "->", ">>"})
_RECEIVED: Final = frozenset(
    {"receiving", "received", "receive", "recv", "in", "incoming", "inbound", "rx", "got", "<", "<-", "<<"}
)
_find_time = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:\s?(?:Z|[+-]\d\d:?\d\d))?(?![\d:])"
).search
_find_words = re.compile(
    r"(?i)\b(?:sending|sent|send|outgoing|outbound|tx|receiving|received|receive|recv|incoming|inbound|rx|got)\b"
    r"|[<>](?= (?:TEXT|BINARY|CONT)\b)|(?<!\S)(?:<-|->|<<|>>)(?=\s*$)"
).findall
_find_way = re.compile(r"\b(RM|CEM)\s?(?:->|=>|\u2192|to)\s?(?:RM|CEM)\b|\bfrom (?:the )?(RM|CEM)\b").findall
is_frame = re.compile(r"[<>] (?:TEXT|BINARY|CONT)\b").search
"""Matches the prefix of a message in the debug log of Python's websockets, which mostly cuts its middle."""
_frame_size = re.compile(r"'?\s*\[(\d{1,12}) bytes").match
_strip_digits = re.compile(r"[\d\W_]+").sub


def direction_of(word: Any) -> str | None:
    """Return ``sent`` or ``received`` for one of the usual words for it."""
    word = word.casefold() if isinstance(word, str) else None
    return "sent" if word in _SENT else "received" if word in _RECEIVED else None


def role_of(word: Any) -> Role | None:
    """Return the role that a word names, or that of the sender in ``rm>cem``."""
    word = word.upper().partition(">")[0] if isinstance(word, str) else None
    return Role(word) if word in tuple(Role) else None


def time_of(value: Any) -> datetime | None:
    """Parse a point in time as logs write it: ISO 8601, also with a comma; seconds or milliseconds since 1970."""
    try:
        if isinstance(value, str):
            return datetime.fromisoformat(value.replace(",", ".").replace(" Z", "Z").replace(" +", "+"))
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 1e9:
            return datetime.fromtimestamp(value / 1000 if value > 1e11 else value, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    return None


def facts_of(prefix: str, outer: Record = NO_RECORD) -> Record:
    """Return the facts in the text before a message in its line, combined with those of an object around them."""
    prefix = prefix[:MAX_PREFIX] + prefix[MAX_PREFIX:][-MAX_PREFIX:]
    found, words, ways = _find_time(prefix), _find_words(prefix), _find_way(prefix)
    return outer._replace(
        time=(time_of(found.group()) if found is not None else None) or outer.time,
        direction=(direction_of(words[-1]) if words else None) or outer.direction,
        sender=(role_of("".join(ways[-1])) if ways else None) or outer.sender,
        foreign=True,
    )


def phrase_of(prefix: str) -> str:
    """Return the words before a message without times and numbers, by which two lines about one message differ."""
    return _strip_digits(" ", prefix[-MAX_PREFIX:])


def frame_is_cut(text: str, begin: int, end: int) -> bool:
    """Return whether the JSON is a cut part of its frame: a text cut in the middle of a string may still be JSON."""
    size = _frame_size(text, end)
    return size is None or int(size.group(1)) != len(text[begin:end].encode("utf-8", "surrogateescape"))
