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

VERSION_LIFETIME = 3600.0
"""Seconds for which the version of an API is remembered, once its index was read (S2C-45)."""

MAX_VERSIONS = 1024
"""Servers whose version is remembered."""

_NO_SUCH_OPERATION = (404, 405, 410)

_REFUSALS: dict[SessionErrorReason, str] = {
    SessionErrorReason.INCOMPATIBLE_S2_MESSAGE_VERSIONS: "The two sides speak no common version of the S2 messages.",
    SessionErrorReason.INCOMPATIBLE_COMMUNICATION_PROTOCOLS: "The two sides have no common communication protocol.",
    SessionErrorReason.PARSING_ERROR: "The other side did not understand the session request.",
    SessionErrorReason.OTHER: "The other side is not ready for a session now.",
}


class VersionGone(ProtocolViolation):
    """The server does not have that version of the API, or no longer."""

    kind = ProtocolViolation.kind


class KnownVersions:
    """Versions of the session initiation API of servers, with which a session was initiated lately (S2C-45).

    A server is named by its URL and the fingerprint of its CA, None where it has a public one.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, bytes | None], tuple[str, float]] = {}

    def get(self, url: str, ca_fingerprint: bytes | None, *, now: float) -> str | None:
        """Return the version to use without asking, None to read the index."""
        version, until = self._known.get((url, ca_fingerprint), (None, 0.0))
        return version if now < until else None

    def remember(self, url: str, ca_fingerprint: bytes | None, version: str, *, now: float) -> None:
        """Remember a version that was read from the index."""
        self.forget(url, ca_fingerprint)
        while len(self._known) >= MAX_VERSIONS:
            del self._known[next(iter(self._known))]
        self._known[url, ca_fingerprint] = version, now + VERSION_LIFETIME

    def forget(self, url: str, ca_fingerprint: bytes | None) -> None:
        """Read the index the next time."""
        self._known.pop((url, ca_fingerprint), None)


def read_initiate_answer(
    status: int, body: bytes, *, offered_protocols: Sequence[str], offered_versions: Sequence[str]
) -> InitiateSessionResponse | None:
    """Read the answer to ``initiateSession``; None means 401: try the next token (SESC-01).

    The selected version is in the spelling in which it was offered: ``1.0.0`` selects ``v1.0.0`` (VER-06).

    Raises:
        NoLongerPaired: The pair was unpaired; do not retry (SESC-05).
        SessionRefused: Refused with another reason; retry later.
        ProtocolViolation: Not the schema, or something selected that was not offered (SESC-04); retry later.
        VersionGone: There is no such operation; read the index again if the version was remembered.
    """
    if status == 401:
        return None
    if status == 400:
        raise _refused(body)
    if not succeeded(status):
        kind = VersionGone if status in _NO_SUCH_OPERATION else ProtocolViolation
        raise kind(f"The other side answered the session request initiateSession with HTTP {status}.")
    with reading("The other side's answer to the session request"):
        answer = InitiateSessionResponse.from_json(body)
    if answer.selected_communication_protocol not in offered_protocols:
        raise ProtocolViolation("The other side selected a communication protocol that was not offered.")
    version = spelled_by_peer(offered_versions, answer.selected_s2_message_version)
    if version is None:
        raise ProtocolViolation("The other side selected a version of the S2 messages that was not offered.")
    return answer.model_copy(update={"selected_s2_message_version": version})


def refused_hint(*, connected_before: bool) -> str:
    """Return what to do about a server that accepts none of our tokens (401).

    ``connected_before`` says that it accepted one since this endpoint was opened, so that our state was no old copy.
    """
    if connected_before:
        return (
            "It did until lately: a second copy of this home may have connected in its place, or an older state was "
            "put back there. Stop the copy, or put the newest back; if neither is it, pair the two again."
        )
    return (
        "This home may be an older copy, such as a restored backup, or the state of the other side is. Where the "
        "newest is put back it works again by itself within hours; otherwise pair the two again."
    )


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
