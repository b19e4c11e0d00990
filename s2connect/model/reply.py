"""HTTP responses, as written and read by the cores."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from s2connect.errors import ProtocolViolation
from s2connect.model.common import MalformedMessage, Wire


class WireList(Wire):
    """A JSON array of objects, to write; :func:`~s2connect.model.common.read_list` reads one."""

    items: tuple[Wire, ...]

    def to_json(self) -> bytes:
        """Write the array."""
        return b"[" + b",".join(item.to_json() for item in self.items) + b"]"


@dataclass(frozen=True, slots=True)
class Reply:
    """Status, and a body where there is one."""

    status: int
    body: Wire | None = None


UNAUTHORIZED = Reply(401)
BUSY = Reply(503)

MAX_RETRY_AFTER = 600.0
"""Longest ``Retry-After`` that is followed, in seconds."""


def retry_after_of(header: str | None) -> float:
    """Return the seconds of a ``Retry-After`` header; 0 if it is missing or a date."""
    text = (header or "").strip()
    return min(float(text), MAX_RETRY_AFTER) if text.isascii() and text.isdigit() and len(text) < 10 else 0.0


@contextlib.contextmanager
def reading(what: str, verb: str = "is") -> Iterator[None]:
    """Raise ProtocolViolation if ``what``, an answer that is read in the block, is malformed."""
    try:
        yield
    except MalformedMessage as error:
        raise ProtocolViolation(f"{what} {verb} not as the standard says: {error}.") from None


def succeeded(status: int) -> bool:
    """Return whether a status means success: any 2xx where the standard lists one (PAIRC-04)."""
    return 200 <= status < 300
