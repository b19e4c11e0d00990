"""Core of the communication client's session initiation, without I/O (SESC)."""

from __future__ import annotations

from collections.abc import Sequence

from s2connect.errors import NoLongerPaired, ProtocolViolation, SessionError, SessionRefused
from s2connect.model.common import MalformedMessage, spelled_by_peer
from s2connect.model.reply import reading, succeeded
from s2connect.model.session_init import (
    CommunicationDetails,
    CommunicationDetailsErrorMessage,
    InitiateSessionResponse,
    SessionErrorReason,
)
from s2connect.model.text import for_display

_REFUSALS: dict[SessionErrorReason, str] = {
    SessionErrorReason.INCOMPATIBLE_S2_MESSAGE_VERSIONS: "The two sides speak no common version of the S2 messages.",
    SessionErrorReason.INCOMPATIBLE_COMMUNICATION_PROTOCOLS: "The two sides have no common communication protocol.",
    SessionErrorReason.PARSING_ERROR: "The other side did not understand the session request.",
    SessionErrorReason.OTHER: "The other side is not ready for a session now.",
}


def read_initiate_answer(
    status: int, body: bytes, *, offered_protocols: Sequence[str], offered_versions: Sequence[str]
) -> InitiateSessionResponse | None:
    """Read the answer to ``initiateSession``; None means 401: try the next token (SESC-01).

    The selected version is in the spelling in which it was offered: ``1.0.0`` selects ``v1.0.0`` (VER-06).

    Raises:
        NoLongerPaired: The pair was unpaired; do not retry (SESC-05).
        SessionRefused: Refused with another reason; retry later.
        ProtocolViolation: Not the schema, or something selected that was not offered (SESC-04); retry later.
    """
    if status == 401:
        return None
    if status == 400:
        raise _refused(body)
    if not succeeded(status):
        raise ProtocolViolation(f"The other side answered the session request initiateSession with HTTP {status}.")
    with reading("The other side's answer to the session request"):
        answer = InitiateSessionResponse.from_json(body)
    if answer.selected_communication_protocol not in offered_protocols:
        raise ProtocolViolation("The other side selected a communication protocol that was not offered.")
    version = spelled_by_peer(offered_versions, answer.selected_s2_message_version)
    if version is None:
        raise ProtocolViolation("The other side selected a version of the S2 messages that was not offered.")
    return answer.model_copy(update={"selected_s2_message_version": version})


def read_confirm_answer(status: int, body: bytes, *, protocol: str) -> CommunicationDetails:
    """Read the answer to ``confirmAccessToken`` (SES-04).

    Raises:
        SessionRefused: 401, the token was confirmed too late; retry later with all tokens.
        ProtocolViolation: Not the schema, or details of another protocol; retry later.
    """
    if status == 401:
        raise SessionRefused("The other side did not accept the new access token.", reason="Other")
    if not succeeded(status):
        raise ProtocolViolation(f"The other side answered the confirmation with HTTP {status}.")
    with reading("The other side's connection details", "are"):
        details = CommunicationDetails.from_json(body)
    if details.communication_protocol != protocol:
        raise ProtocolViolation("The other side sent connection details of another protocol than it had selected.")
    return details


def _refused(body: bytes) -> SessionError:
    try:
        message = CommunicationDetailsErrorMessage.from_json(body)
    except MalformedMessage:
        message = CommunicationDetailsErrorMessage(error_message=SessionErrorReason.OTHER)
    if message.error_message is SessionErrorReason.NO_LONGER_PAIRED:
        return NoLongerPaired("The other side has removed the pairing.")
    info = for_display(message.additional_info or "", 200)
    what = _REFUSALS[message.error_message]
    return SessionRefused(
        f"{what[:-1]}: {info}" if info else what, reason=message.error_message.value, additional_info=info
    )
