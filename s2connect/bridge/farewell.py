"""Farewell of a link: texts about the end of a side's session, and answers to what comes after the end."""

from __future__ import annotations

from typing import Final

from s2connect import InvalidMessage, for_display
from s2connect.bridge.relay import ENDED
from s2connect.errors import ConnectionClosed
from s2connect.messages import NIL_ID, RECEPTION_STATUS, ReceptionStatusValue, read_message, reception_status
from s2connect.transports import ABNORMAL_CLOSURE

FAREWELL_TIMEOUT: Final = 3.0
"""Seconds to announce the end to the remaining side, before its connection is closed."""


def answer_after_end(text: str, farewell: str) -> str | None:
    """Return the answer to a message received after the end of the relay (MSG-03), empty for none.

    None: it is the ReceptionStatus of the message with the id ``farewell``.
    """
    try:
        message = read_message(text)
    except InvalidMessage as error:
        return reception_status(error.subject_id, error.status, error.label) if error.answerable else ""
    if message.type == RECEPTION_STATUS:
        return None if message.subject_id == farewell else ""
    return reception_status(message.id or NIL_ID, ReceptionStatusValue.TEMPORARY_ERROR, ENDED)


def end_of(title: str, closed: ConnectionClosed) -> str:
    """Return how the session of a side has ended: by its peer, or by the loss of the connection."""
    if closed.code != ABNORMAL_CLOSURE:
        return f"{title} has ended the session ({closed.code})"
    why = f" ({for_display(closed.reason, 100)})" if closed.reason else ""
    return f"the connection to {title} was lost{why}"
