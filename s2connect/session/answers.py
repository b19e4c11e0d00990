"""Answers of applications to messages (MSG-03), and effects of the peer's refusals (MSG-07). Sans-I/O."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections import OrderedDict
from enum import Enum
from typing import Final

from s2connect.errors import MessageRefused, UsageError
from s2connect.messages.envelope import MAX_LABEL_CHARACTERS, Message, ReceptionStatusValue, read_message, write_message
from s2connect.model.text import for_display

ANSWER_WITHIN: Final = 3.0
"""Seconds from its receipt in which an application answers a message that it keeps (:data:`LATER`). Software in the
field waits for five, and a bridge in between for four."""

REMEMBERED_FOR: Final = 3600.0
"""Seconds for which a message that was refused with ``PERMANENT_ERROR`` is not sent again: the peer may be mended
(errata S2C-44)."""

MAX_REMEMBERED: Final = 64
"""Permanently refused messages remembered for one pair; beyond it the oldest is forgotten."""

MAX_GIVEN_UP: Final = 1000
"""Messages of one pair whose answer nobody waits for any more, which may still be ``PERMANENT_ERROR``; as many as can
wait at the same time."""

FIRST_RETRY: Final = 1.0
"""Seconds after which a message that was refused with ``TEMPORARY_ERROR`` is sent again; doubled each time."""

LAST_RETRY: Final = 8.0
"""Longest pause between two attempts, in seconds."""

MAX_RETRIES: Final = 10
"""Most repeats of one message."""

_REFUSALS: Final = frozenset(
    {ReceptionStatusValue.INVALID_CONTENT, ReceptionStatusValue.TEMPORARY_ERROR, ReceptionStatusValue.PERMANENT_ERROR}
)


class RefuseMessage(Exception):
    """An application refuses a message: raised by the ``answer`` of a session (MSG-03).

    ``INVALID_CONTENT``: what the message says cannot be done. ``TEMPORARY_ERROR``: send it again later.
    ``PERMANENT_ERROR``: never send it again; it ends the session.

    Args:
        status: One of these.
        label: Why, for the developers of the peer; they read it in their log.

    Raises:
        UsageError: ``status`` is another one.
    """

    def __init__(self, status: ReceptionStatusValue | str, label: str = "") -> None:
        try:
            self.status = ReceptionStatusValue(status)
        except ValueError:
            self.status = ReceptionStatusValue.OK
        if self.status not in _REFUSALS:
            raise UsageError(f"An application refuses a message with {', '.join(sorted(_REFUSALS))}.")
        self.label = label.encode("utf-8", "replace").decode()[:MAX_LABEL_CHARACTERS]
        super().__init__(f"{self.status}: {self.label}" if self.label else str(self.status))


class Later(Enum):
    """The type of :data:`LATER`."""

    LATER = "later"


LATER: Final = Later.LATER
"""Result of a handler that answers a message later, with ``Session.answer`` within :data:`ANSWER_WITHIN`."""


def decision(returned: object) -> bool:
    """Return whether an application keeps a message, from what its ``answer`` has returned.

    Raises:
        UsageError: It is neither None nor :data:`LATER`: a refusal that was returned and not raised, or the coroutine
            of an ``async def``, must not count as ``OK``.
    """
    if returned is not None and returned is not LATER:
        if inspect.iscoroutine(returned):
            returned.close()
        raise UsageError(
            f"The answer of an application is None or LATER, not a {type(returned).__name__}.",
            hint="It is no coroutine, and raises RefuseMessage to refuse.",
        )
    return returned is LATER


class PermanentRefusals:
    """Messages that a peer refused with ``PERMANENT_ERROR`` (MSG-07), through all sessions of a pair.

    Two messages are the same if only their ``message_id`` differs.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, tuple[float, str]] = OrderedDict()
        self._given_up: OrderedDict[str | None, bytes] = OrderedDict()

    def add(self, message: Message, label: str, *, now: float) -> None:
        """Remember a message and the label of its refusal; ``now`` never goes back."""
        self._add(_content(message), label, now)

    def give_up(self, message: Message) -> None:
        """Note a message whose answer is not waited for any more: it may come late."""
        self._given_up[message.id] = _content(message)
        if len(self._given_up) > MAX_GIVEN_UP:
            self._given_up.popitem(last=False)

    def add_late(self, message_id: str, label: str, *, now: float) -> None:
        """Remember a message that was given up, and is refused late; no error for an unknown one."""
        key = self._given_up.pop(message_id, None)
        if key is not None:
            self._add(key, label, now)

    def _add(self, key: bytes, label: str, now: float) -> None:
        self._known.pop(key, None)
        self._known[key] = now + REMEMBERED_FOR, label[:MAX_LABEL_CHARACTERS]
        if len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)

    def label_of(self, message: Message, *, now: float) -> str | None:
        """Return the label of a message's permanent refusal; None for a message that may be sent."""
        while self._known and next(iter(self._known.values()))[0] <= now:
            self._known.popitem(last=False)
        entry = self._known.get(_content(message)) if self._known else None
        return None if entry is None else entry[1]


def retry_pause(attempt: int, chance: float) -> float:
    """Return the seconds before a message, sent again so often already, is sent once more (MSG-07).

    ``chance``, from 0 to 1, spreads senders over the second half of the pause.
    """
    pause = min(LAST_RETRY, FIRST_RETRY * 2.0 ** min(attempt, MAX_RETRIES))
    return pause * (0.5 + chance / 2)


def with_new_id(message: Message) -> Message:
    """Return the same message under a new ``message_id``: one id has one ReceptionStatus."""
    text, _ = write_message({**message.body, "message_id": None})
    return read_message(text)


def refused(status: str, label: str, what: str) -> MessageRefused:
    """Return the error about a message of ours that was refused; ``what`` says by whom."""
    shown = for_display(f"{status}: {label}" if label else status, 200)
    return MessageRefused(f"{what} ({shown}).", status=status, label=label)


def _content(message: Message) -> bytes:
    body = {name: value for name, value in message.body.items() if name != "message_id"}
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode("ascii")).digest()
