"""Log of a command on standard error: its form (text, JSON, journal) and its level, as a whole and for each part."""

from __future__ import annotations

import json
import logging
import os
import pkgutil
import sys
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Final, Literal, get_args

import s2connect
from s2connect.errors import UsageError
from s2connect.model.log_context import current_peer
from s2connect.model.text import for_display

LogFormat = Literal["auto", "text", "json", "journal"]

LEVELS: Final = ("debug", "info", "warning", "error", "critical")
MAX_LINE: Final = 2000
"""Longest message of a line, in characters: a peer may have a say in it."""

KEPT_LINES: Final = 300
"""Latest lines that a process keeps, for ``doctor --bundle``."""

LIBRARIES: Final = ("aiohttp", "asyncio", "keyring", "mqtt", "websockets", "zeroconf")
_PRIORITIES = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}  # of syslog


class _Clean(logging.Formatter):
    """Lines without control characters, whatever a peer called itself."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - of the base class
        record.message = for_display(record.message, MAX_LINE)
        return super().formatMessage(record) + "".join(
            f" [{name} {value}]" for name, value in _context(record).items() if value not in record.message
        )


class _Journal(_Clean):
    """Lines as journald takes them from standard error: each begins with its priority, and has no date."""

    def __init__(self) -> None:
        super().__init__("%(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_PRIORITIES.get(record.levelno, 6)}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines())


class _Json(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "part": record.name,
            "message": for_display(record.getMessage(), MAX_LINE),
            **_context(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


class _Latest(logging.Handler):
    """Keeps the latest lines of this process."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.setFormatter(_text())

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.lines.append(self.format(record))
        except Exception:
            self.handleError(record)


def _text() -> logging.Formatter:
    return _Clean("%(asctime)s %(levelname)s %(name)s: %(message)s")


def _context(record: logging.LogRecord) -> dict[str, str]:
    peer = getattr(record, "peer", "") or current_peer.get()
    found = {"peer": peer, "link": getattr(record, "link", "")}
    return {name: for_display(str(value)) for name, value in found.items() if value}


@cache
def _latest() -> _Latest:
    return _Latest()


def latest_lines() -> list[str]:
    """Return the latest lines of the log of this process, the oldest first."""
    return list(_latest().lines)


def log_to_stderr(verbose: bool, *, otherwise: int, form: LogFormat = "text", levels: str = "") -> None:
    """Log to standard error, and keep the latest lines.

    Args:
        verbose: Everything, unless ``levels`` says less.
        otherwise: Level without ``verbose`` and ``levels``.
        form: ``auto`` is ``journal`` where standard error is the journal of systemd, otherwise ``text``.
        levels: A level, levels of parts (``transports=debug``), or both with commas between.

    Raises:
        UsageError: ``levels`` has an unknown level or part.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_formatter(form))
    level = logging.DEBUG if verbose else otherwise
    parts = read_levels(levels)
    level = parts.pop("", level)
    logging.basicConfig(handlers=[handler, _latest()], level=level)
    logging.getLogger("s2connect").setLevel(level)
    # It logs every packet that it cannot send, with a traceback.
    logging.getLogger("zeroconf").setLevel(logging.WARNING if verbose else logging.CRITICAL)
    for name, each in parts.items():
        logging.getLogger(name).setLevel(each)


def _formatter(form: LogFormat) -> logging.Formatter:
    if form not in get_args(LogFormat):
        raise UsageError(f"There is no form of the log {for_display(form, 40)}: {', '.join(get_args(LogFormat))}.")
    if form == "auto":
        form = "journal" if is_journal(os.environ) else "text"
    return _text() if form == "text" else _Json() if form == "json" else _Journal()


def is_journal(variables: Mapping[str, str]) -> bool:
    """Return whether standard error is connected to the journal of systemd."""
    try:
        found = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return variables.get("JOURNAL_STREAM", "") == f"{found.st_dev}:{found.st_ino}"


def read_levels(text: str) -> dict[str, int]:
    """Read levels by name of a logger; that without a part has the name ``""``. UsageError if there is no such."""
    found: dict[str, int] = {}
    for item in filter(None, (each.strip() for each in text.split(","))):
        part, equals, level = item.rpartition("=")
        if level.lower() not in LEVELS:
            what = f"There is no level {for_display(level, 40)} of the log."
            raise UsageError(what, hint=f"Levels: {', '.join(LEVELS)}. With parts: info,transports=debug")
        found[_logger_of(part) if equals else ""] = logging.getLevelNamesMapping()[level.upper()]
    return found


def _logger_of(part: str) -> str:
    rooms = sorted(
        module.name for module in pkgutil.iter_modules(s2connect.__path__) if not module.name.startswith("_")
    )
    first, _, rest = part.removeprefix("s2connect.").partition(".")
    if part == "s2connect":
        return part
    if first == "mqtt" and not rest:
        return "s2connect.transports.mqtt"
    if first in rooms:
        return "s2connect." + part.removeprefix("s2connect.")
    if first in LIBRARIES and not part.startswith("s2connect."):
        return part
    what = f"There is no part {for_display(part, 60)} of the log."
    raise UsageError(what, hint=f"Parts: {', '.join(rooms)}; of libraries: {', '.join(LIBRARIES)}.")
