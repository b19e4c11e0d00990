"""Extraction of S2 messages from files: bare, in an array, one per line, or in a log of ours or of others.

A text log states facts in the line of a message: time, direction, role, wording.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby, islice
from typing import Any, Final, NamedTuple

from s2connect.model.common import Role
from s2connect.service.failures import ExitCode, Failure

MAX_WASTE: Final = 8
"""Limit of characters read without result, as a multiple of those of the file."""

FREE_WASTE: Final = 1_048_576
"""Characters that may be read without result in any file."""

EVERY_WASTE: Final = 64
"""Fixed cost of each reading without result, in characters."""

FIRST_WINDOW: Final = 4096
"""Characters searched first for the end of a JSON value."""

LONGEST_TOKEN: Final = 12
"""Longest JSON token, other than strings, that a cut makes unreadable: an escaped pair of surrogates."""

MAX_PREFIX: Final = 200
"""Characters examined before a message."""

MAX_WRAPPERS: Final = 6
"""Levels of objects, lists and strings around a message that are searched."""

MAX_ENTRIES: Final = 1_000_000
"""Messages of one file."""

RAWEST: Final = ("message", "msg", "s2_msg")
"""Members in which wrappers carry the message; of several, the first is closest to the wire."""

MARKS: Final = ("message_type", "message_id", "subject_message_id")
"""Members that identify an S2 message, even an invalid one."""


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


class Entry(NamedTuple):
    """A message, an event of a log, or other text in a file."""

    line: int  # from 1 on
    text: str | None  # as it is in the file; None for an event of a log
    record: Record | None = None  # None outside a log
    broken: bool = False  # no JSON, so its end is unknown
    other: bool = False  # nothing of an S2 message: text, or other JSON


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
_ANALYZER_EVENTS: Final = {"SESSION_STARTED": "session_opened", "SESSION_ENDED": "session_closed"}
_decode = json.JSONDecoder().raw_decode  # finds the end of a value; its content is validated later
_skip_space = re.compile(r"[ \t\n\r]*").match
_skip_between = re.compile(r"[ \t\n\r,]*").match
_NEXT_LINE: Final = re.compile(r"\n(?=[^\s}\],\"])")
"""End of text that is not JSON, at the latest: before a line that cannot continue it."""
_looks_like_json = re.compile(r"\{|\[\s*[{\[\"]|\[\s*$|\"\s*\{").match
_begins_json = re.compile(r"\"(?=\s*[{\[]\s*(?:\\\"|\{))|\{").search
"""Possible begin of an object in a line of text, or of one in a string."""
_marked = re.compile("|".join(MARKS)).search


def is_log(entries: list[Entry]) -> bool:
    """Return whether the messages of a file are embedded in other text, so that other text is no mistake."""
    return any(entry.record is not None for entry in entries)


def entries_of(content: str) -> Iterator[Entry]:
    """Yield the entries of a file, in its order.

    They come from JSON values that follow each other, the elements of arrays, and the messages in wrappers and strings.
    Text between them is searched for objects, line by line. Broken JSON is one entry, up to the next line that begins
    with something else. Of a message that several loggers wrote, only the first is taken.

    Raises:
        Failure: There are too many messages in it, or too much broken JSON.
    """
    budget = _Budget(FREE_WASTE + MAX_WASTE * len(content))
    for number, entry in enumerate(_Scan(content, budget).run(), 1):
        if number > MAX_ENTRIES:
            what = f"There are more than {MAX_ENTRIES:,} messages in the file."
            raise Failure("unreadable", what, "Split it.", code=ExitCode.USAGE)
        yield entry


@dataclass
class _Budget:
    """State shared by the scans of all texts of a file, including those in strings."""

    waste: int
    phrases: dict[tuple[str | None, ...], str] = field(default_factory=dict)


class _Scan:
    """Scan of one text: a file, or a string in it."""

    def __init__(self, content: str, budget: _Budget, outer: Record = NO_RECORD, depth: int = 0) -> None:
        self._content = content
        self._budget = budget
        self._outer = outer
        self._depth = depth
        self._line, self._counted = 1, 0
        self._line_begin = self._line_seen = 0
        self._line_end = -1

    def run(self) -> Iterator[Entry]:
        at, length = _skip(self._content, 0, _skip_between), len(self._content)
        text_from: int | None = None  # begin of text without JSON, which is one entry whatever its length
        while at < length:
            entries, end = self._at(at, after_text=text_from)
            if entries is None:
                text_from = at if text_from is None else text_from
            elif text_from is not None:
                yield self._other(text_from, at)
                text_from = None
            for entry in entries or ():
                yield entry._replace(line=self._line_of(entry.line))
            at = _skip(self._content, end, _skip_between)
        if text_from is not None:
            yield self._other(text_from, length)

    def _at(self, at: int, *, after_text: int | None) -> tuple[list[Entry] | None, int]:
        """Return the entries at a position (None for other text), and the position to continue from."""
        if self._content[at] not in '{["':
            return self._text(at)
        if (found := self._read(at)) is not None:
            value, end = found
            record = self._facts_before(after_text, at) if after_text is not None else self._outer
            entries = sorted(self._values(at, end, value, record, self._depth), key=lambda entry: entry.line)
            return entries, end
        begin, _ = self._line_around(at)
        if self._content[begin:at].strip() or not _looks_like_json(self._content[at : at + 80]):
            return self._text(at)
        following = _NEXT_LINE.search(self._content, at)
        end = following.start() if following else len(self._content)
        if _marked(self._content, at, end) is None:
            return None, end
        return [Entry(at, self._content[at:end].rstrip(), broken=True)], end

    def _other(self, begin: int, end: int) -> Entry:
        return Entry(self._line_of(begin), self._content[begin:end].rstrip(), broken=True, other=True)

    def _read(self, at: int) -> tuple[Any, int] | None:
        """Return the JSON value at a position and its end, or None. Failure if too much was read without result."""
        size = FIRST_WINDOW
        while True:
            window = self._content[at : at + size]  # a failure costs time in proportion to the text
            try:
                value, end = _decode(window)
            except json.JSONDecodeError as error:
                open_ended = error.msg.startswith("Unterminated")
                cut = open_ended or error.pos > len(window) - LONGEST_TOKEN
                if cut and at + size < len(self._content):
                    size *= 8
                    continue
                wasted = len(window) if open_ended else error.pos + 1
                break
            except (ValueError, RecursionError):  # too many digits, or too deep
                wasted = len(window)
                break
            return value, at + end
        self._budget.waste -= wasted + EVERY_WASTE
        if self._budget.waste < 0:
            what = f"Too much of the file looks like JSON and is none, the last of it in line {self._line_of(at)}."
            hint = "A file holds one message, an array of messages, one message a line, or a log of messages."
            raise Failure("unreadable", what, hint, code=ExitCode.USAGE)
        return None

    def _text(self, at: int) -> tuple[list[Entry] | None, int]:
        """Return the next messages in the rest of a line of text, and the position to continue from."""
        begin = at
        line_begin, end = self._line_around(at)
        while begin < end and (candidate := _begins_json(self._content, begin, end)) is not None:
            begin = candidate.start()
            if (found := self._read(begin)) is None:
                begin += 1
                continue
            value, after = found
            if _marked(self._content, begin, after) is None:
                begin = after
                continue
            prefix = self._prefix(line_begin, begin)
            if is_frame(prefix) and frame_is_cut(self._content, begin, after):
                return None, end
            entries = self._values(begin, after, value, facts_of(prefix, self._outer), self._depth)
            kept = [one for one in entries if not one.other and not self._is_repeated(one, prefix)]
            return kept or None, after
        mark = _marked(self._content, at, end)
        brace = self._content.find("{", at, mark.start()) if mark is not None else -1
        if brace < 0 or is_frame(prefix := self._prefix(line_begin, brace)):
            return None, max(end, begin)
        return [Entry(brace, self._content[brace:end].rstrip(), facts_of(prefix, self._outer), broken=True)], end

    def _facts_before(self, text_from: int, at: int) -> Record:
        """Return the facts that the preceding line of text states about JSON at the begin of a line."""
        before = self._content[max(text_from, at - MAX_PREFIX) : at].rstrip().rpartition("\n")[2]
        stated = facts_of(before) != NO_RECORD._replace(foreign=True) and self._line_around(at)[0] > text_from
        return facts_of(before, self._outer) if stated else self._outer

    def _prefix(self, line_begin: int, at: int) -> str:
        """Return the text of a line before a position, its middle left out if it is long."""
        first = min(line_begin + MAX_PREFIX, at)
        return self._content[line_begin:first] + self._content[max(at - MAX_PREFIX, first) : at]

    def _is_repeated(self, entry: Entry, prefix: str) -> bool:
        """Return whether another logger, or another line of the same one, has the same message before."""
        try:
            message, _ = _decode(entry.text or "")
        except (ValueError, RecursionError):
            return False
        kind, own, subject, status = (_text(message, name) for name in (*MARKS, "status"))
        if own is None and subject is None:
            return False
        phrase = phrase_of(prefix)
        return self._budget.phrases.setdefault((kind, own, subject, status), phrase) != phrase

    def _line_of(self, at: int) -> int:
        self._line += self._content.count("\n", self._counted, at)
        self._counted = at
        return self._line

    def _line_around(self, at: int) -> tuple[int, int]:
        """Return begin and end of the line of a position; positions never go back to an earlier line."""
        if at > self._line_end:
            found = self._content.rfind("\n", self._line_seen, at)
            self._line_begin = found + 1 if found >= 0 else self._line_begin
            end = self._content.find("\n", at)
            self._line_end = end if end >= 0 else len(self._content)
            self._line_seen = at
        return self._line_begin, self._line_end

    def _values(self, begin: int, end: int, value: Any, record: Record, depth: int) -> list[Entry]:
        """Return the messages in a JSON value, each with its position. A value without any is ``other``."""
        marked = depth < MAX_WRAPPERS and _marked(self._content, begin, end) is not None
        found: list[Entry] = []
        if isinstance(value, list) and (marked or depth == self._depth):
            parts = zip(value, _parts(self._content, begin), strict=True)
            for scalar, group in groupby(parts, key=lambda part: not isinstance(part[0], dict | list | str)):
                for element, (_, place) in islice(group, 1 if scalar else None):  # consecutive scalars are one entry
                    found += self._values(*place, element, record, depth + 1)
            return found
        if isinstance(value, dict):
            if (entry := self._object(begin, end, value, record)) is not None:
                return [entry]
            found = self._wrapped(begin, value, record, depth) if marked else []
        elif isinstance(value, str) and marked:
            inner = _Scan(value, self._budget, record._replace(foreign=True), depth + 1).run()
            found = [
                one._replace(line=begin, record=(one.record or record)._replace(foreign=True))
                for one in inner
                if not one.other
            ]
        return found or [Entry(begin, self._content[begin:end], other=True)]

    def _wrapped(self, begin: int, value: dict[str, Any], outer: Record, depth: int) -> list[Entry]:
        """Return the messages in the members of an object that is no message itself; of equal ones the rawest."""
        record = _facts(value, outer)
        members = dict(_parts(self._content, begin))  # of equal names the last counts
        for names in (*((name,) for name in RAWEST), members.keys() - set(RAWEST)):
            places = [(*members[name], value[name]) for name in members if name in names]
            entries = [one for place in places for one in self._values(*place, record, depth + 1)]
            if found := [one for one in entries if not one.other]:
                return found
        return []

    def _object(self, begin: int, end: int, value: dict[str, Any], outer: Record) -> Entry | None:
        """Classify an object by itself: a message, a line of our own log, an event; None for anything else."""
        if "origin" in value and not {"msg", "s2_msg"}.isdisjoint(value):  # the S2 analyzer
            state = _ANALYZER_EVENTS.get(str(value.get("message_type")))
            return Entry(begin, None, _facts(value, outer)._replace(event=state)) if state is not None else None
        if not value.keys().isdisjoint(MARKS):
            return Entry(begin, self._content[begin:end], outer if outer != NO_RECORD else None)
        own = "session" in value
        if not own and "event" not in value:
            return None
        record = _facts(value, outer)._replace(
            direction=direction_of(value.get("direction")) or _text(value, "direction"), foreign=not own
        )
        message = value.get("message")
        if own and "message" in value:
            at, after = dict(_parts(self._content, begin))["message"]
            return Entry(begin, message if isinstance(message, str) else self._content[at:after], record)
        return Entry(begin, None, record) if _marked(self._content, begin, end) is None else None


def _facts(value: Mapping[str, Any], outer: Record) -> Record:
    """Return the facts that an object around a message states, combined with those of the objects around it."""

    def first(*names: str) -> Any:
        return next((value[name] for name in names if value.get(name) is not None), None)

    session = first("session", "session_id")
    if session is None and "cem_id" in value and "rm_id" in value:
        session = f"{value['cem_id']} {value['rm_id']}"
    return Record(
        session=session if isinstance(session, str) else outer.session,
        time=time_of(first("time", "timestamp", "@timestamp", "ts", "t")) or outer.time,
        direction=direction_of(first("direction", "dir")) or direction_of(value.get("type")) or outer.direction,
        role=_text(value, "role") or outer.role,
        event=_text(value, "event"),
        s2_version=_text(value, "s2_version"),
        reason=_text(value, "reason"),
        sender=role_of(first("origin", "sender", "from", "dir")) or outer.sender,
        foreign=True,
    )


def _skip(text: str, at: int, skip: Callable[[str, int], re.Match[str] | None] = _skip_space) -> int:
    found = skip(text, at)
    assert found is not None, "it matches nothing as well"
    return found.end()


def _text(value: Any, name: str) -> str | None:
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, str) else None


def _parts(text: str, at: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the name, and begin and end of the value, of each part of the object or list at a position."""
    is_object = text[at] == "{"
    at = _skip(text, at + 1)
    while text[at] not in "]}":
        name = ""
        if is_object:
            name, at = _decode(text, at)
            at = _skip(text, _skip(text, at) + 1)
        _, end = _decode(text, at)
        yield name, (at, end)
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)


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
