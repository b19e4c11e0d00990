"""Reader for files of messages: detects their encoding, and names the kind of a file that is no text."""

from __future__ import annotations

import codecs
import re
import sys
from pathlib import Path
from typing import Final

from s2connect.model.text import for_display
from s2connect.service.failures import ExitCode, Failure

MAX_FILE_BYTES: Final = 256 * 1_048_576
"""Largest file that is read; it is in memory as a whole."""

MAX_NAME: Final = 4096
"""Longest file name that is shown, in characters; no system has longer ones."""

STDIN: Final = "-"
"""The name of standard input."""

NO_MESSAGES: Final = "no_messages"
"""Kind of the failure of a file that was read and is no file of messages."""

_SNIFFED: Final = 512
"""Bytes at the begin of a file by which UTF-16 without a byte order mark is detected."""

_of_no_text: Final = re.compile(r"[^\t-\r\x1b\x20-\ud7ff\ue000-\U0010ffff]").search
"""Finds a character that no text log has: control characters, and bytes that are no UTF-8."""

_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark is its beginning
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
)


_UNPACK = "Unpack it first: {} FILE | s2connect validate -"
_CAPTURE = (
    "a capture of packets",
    "S2 goes through TLS, so it cannot be read there. Record it at an end: s2connect serve --record FILE",
)
_KINDS: Final = {
    b"\x1f\x8b": ("packed with gzip", _UNPACK.format("gunzip -c")),
    b"\xfd7zXZ\0": ("packed with xz", _UNPACK.format("xz -dc")),
    b"BZh": ("packed with bzip2", _UNPACK.format("bunzip2 -c")),
    b"\x28\xb5\x2f\xfd": ("packed with zstd", _UNPACK.format("zstd -dc")),
    b"PK\x03\x04": ("a ZIP archive", "Unpack it first."),
    b"\xd4\xc3\xb2\xa1": _CAPTURE,
    b"\xa1\xb2\xc3\xd4": _CAPTURE,
    b"\x4d\x3c\xb2\xa1": _CAPTURE,
    b"\xa1\xb2\x3c\x4d": _CAPTURE,
    b"\n\r\r\n": _CAPTURE,
    b"SQLite format 3\0": (
        "an SQLite database",
        "That of the S2 analyzer: sqlite3 -json FILE 'select * from communication' | s2connect validate -",
    ),
    b"%PDF-": ("a PDF document", ""),
    b"\x89PNG": ("a picture", ""),
    b"\xff\xd8\xff": ("a picture", ""),
    b"\x7fELF": ("a program", ""),
    b"MZ\x90\0": ("a program", ""),
}
"""Kinds of files often passed by mistake, by their first bytes: what it is, and what to do."""

_SHAPES: Final = (
    "Understood are one message, an array of messages, one a line, a log of serve --record, and logs of other software "
    "in which messages stand as JSON."
)


UNCUT: Final = "Where the program with that log runs, set WEBSOCKETS_MAX_LOG_SIZE=1000000; or log messages yourself."
"""Hint for a log in which Python's websockets has cut all messages."""


def shown_name(name: str) -> str:
    """Return the name of a file for messages to a person: in full, without control characters."""
    return "standard input" if name == STDIN else for_display(name, MAX_NAME)


def no_messages(name: str, why: str = "", hint: str = "") -> Failure:
    """Return the failure for a readable file without S2 messages."""
    what = f"There is no message in {shown_name(name)}{why}."
    return Failure(NO_MESSAGES, what, hint or _SHAPES, code=ExitCode.USAGE)


def read_file(name: str) -> str:
    """Read a file, or standard input for ``-``: UTF-8, or UTF-16 or -32 if it begins like that. Blocks.

    Wrong bytes become lone surrogates, which no message may hold.

    Raises:
        Failure: It cannot be read, is too large, or is a file of something else.
    """
    shown = shown_name(name)
    try:
        if name == STDIN:
            data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
        why = getattr(error, "strerror", None) or "no such name is possible"
        hint = "Name the files in it." if isinstance(error, IsADirectoryError) else ""
        raise Failure("unreadable", f"Cannot read {shown}: {why}.", hint, code=ExitCode.USAGE) from None
    if not data:
        raise no_messages(name, ": it is empty")
    for magic, (what, hint) in _KINDS.items():
        if data.startswith(magic):
            raise no_messages(name, f": it is {what}", hint)
    if len(data) > MAX_FILE_BYTES:
        what = f"Cannot read {shown}: it has more than {MAX_FILE_BYTES // 1_048_576} MiB."
        raise Failure("unreadable", what, "Split it; every line is on its own.", code=ExitCode.USAGE)
    encoding = _encoding(data)
    try:
        if encoding == "utf-8":
            text = data.decode(encoding, "surrogateescape")
        else:  # to the last whole character
            text = codecs.getincrementaldecoder(encoding)("surrogatepass").decode(data)
    except UnicodeDecodeError:
        raise no_messages(name, f": it begins like {encoding.upper()}, and is not") from None
    if "\0" in text[:_SNIFFED]:
        text = text.replace("\0", " ")  # a power cut and "copytruncate" leave rows of NUL in text logs
        begin = text.lstrip(" ")[:_SNIFFED]
        if not begin.strip() or _of_no_text(begin):
            raise no_messages(name, ": it is a binary file")
    return text.removeprefix("\ufeff")


def _encoding(data: bytes) -> str:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return encoding
    begin = data[:_SNIFFED]
    if len(begin) > 1 and not any(begin[1::2]) and all(begin[0::2]):
        return "utf-16-le"
    if len(begin) > 1 and not any(begin[0::2]) and all(begin[1::2]):
        return "utf-16-be"
    return "utf-8"
