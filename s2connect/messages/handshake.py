"""The handshake of plain S2 over WebSocket, which S2 Connect sessions do not have. Sans-I/O."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from s2connect.errors import ProtocolViolation, S2ConnectError, SessionRefused
from s2connect.messages.catalogue import BETA, V1, parse_message
from s2connect.messages.envelope import (
    HANDSHAKES,
    NIL_ID,
    RECEPTION_STATUS,
    SESSION_REQUEST,
    InvalidMessage,
    Message,
    ReceptionStatusValue,
    read_message,
    reception_status,
)
from s2connect.messages.general import EnergyManagementRole, Handshake, HandshakeResponse
from s2connect.model.common import Role, choose_version, spelled_by_peer
from s2connect.model.text import for_display

HANDSHAKE_TIMEOUT: Final = 15.0
"""Seconds from the connection to the end of the handshake."""

MAX_REFUSED: Final = 20
"""Messages out of place that are answered before the handshake is given up."""

MAX_NAMED_VERSIONS: Final = 5
"""Versions of a peer that an error names."""

VERSIONS: Final = {Role.RM: (BETA,), Role.CEM: (BETA, V1)}
"""Default versions, best first.

A device names no other version than the one that is deployed, because energy managers in the field choose the first or
the highest of its list without speaking it, and one of them fails at a leading ``v``.
"""

INCOMPATIBLE: Final = "IncompatibleS2MessageVersions"
"""``reason`` of the :class:`SessionRefused` for want of a common version, as the standard spells it elsewhere."""


@dataclass(frozen=True, slots=True)
class Step:
    """Actions after a received text, in this order.

    Attributes:
        send: Texts to be sent.
        deliver: The text, where it is none of the handshake and belongs to the session.
        error: Why the connection has to be closed; raised by the driver of the handshake.
        farewell: Reason for the close frame; says nothing but what the standard or this module enumerates.
    """

    send: tuple[str, ...] = ()
    deliver: str | None = None
    error: S2ConnectError | None = None
    farewell: str = ""


class PlainHandshake:
    """One side of the handshake, from the open WebSocket to the agreed version.

    Both sides say what they are in a ``Handshake``; the energy manager then names the version in a
    ``HandshakeResponse``. Each message is answered by a ReceptionStatus (MSG-03). Energy managers in the field differ:
    some send no ``Handshake`` of their own, some send it after their response, some acknowledge a message only after
    the next. So it is done, and the session may begin,

    - for the device as soon as it has taken a ``HandshakeResponse``;
    - for the energy manager as soon as its response is acknowledged, or followed by any other message of the device.

    What still belongs to the handshake then, a late ReceptionStatus or the energy manager's late ``Handshake``, is
    kept from the session until the deadline: give every text to :meth:`received` until :meth:`settled`.

    Anything else that comes before it is done is answered ``INVALID_CONTENT`` and dropped; after :data:`MAX_REFUSED` of
    those the handshake fails. A ``SessionRequest`` is answered ``OK`` and ends it.

    Args:
        role: Ours.
        message_ids: Two new identifiers (MSG-05).
        now: The time, in seconds of a clock that never goes back.
        versions: What we speak, best first, at least one (VER-06); None for :data:`VERSIONS`.
        timeout: Seconds until the deadline.

    Attributes:
        role: Ours.
        deadline: When the handshake has to be done, and after which nothing is kept from the session.
        version: The agreed version in the peer's spelling; empty until then.
        done: Whether the session may begin.
    """

    def __init__(
        self,
        role: Role,
        *,
        message_ids: tuple[str, str],
        now: float,
        versions: Iterable[str] | None = None,
        timeout: float = HANDSHAKE_TIMEOUT,
    ) -> None:
        self.role = role
        self.deadline = now + timeout
        self.version = ""
        self.done = False
        self._versions = VERSIONS[role] if versions is None else tuple(versions)
        self._handshake_id, self._response_id = message_ids
        self._unanswered = {self._handshake_id}
        self._introduced = False
        self._refused = 0

    def begin(self) -> str:
        """Return the first text to be sent, our ``Handshake``."""
        return Handshake(
            message_id=self._handshake_id,
            role=EnergyManagementRole(self.role.value),
            supported_protocol_versions=list(self._versions),
        ).to_json()

    def settled(self, now: float) -> bool:
        """Return whether texts need not be given to :meth:`received` any more."""
        return self.done and (now >= self.deadline or (not self._unanswered and self._introduced))

    def received(self, text: str) -> Step:
        """Return the actions for a text of the peer."""
        if self.done:
            return self._late(text)
        try:
            message = read_message(text)
            if message.type == RECEPTION_STATUS:
                return self._acknowledged(message)
            if message.type in HANDSHAKES:
                parsed = parse_message(message, BETA)
                if isinstance(parsed, Handshake):
                    return self._introduction(parsed)
                assert isinstance(parsed, HandshakeResponse)
                return self._response(parsed)
            message.body  # noqa: B018 - strict reading belongs before any other answer
        except InvalidMessage as error:
            return self._refusal(error.subject_id, error.status, error.label) if error.answerable else Step()
        identifier = message.id or NIL_ID
        if message.type == SESSION_REQUEST:
            return self._ended(message, identifier)
        if self.version:
            self.done = True
            return Step(deliver=text)
        return self._refusal(identifier, ReceptionStatusValue.INVALID_CONTENT, "the handshake comes first")

    # The messages

    def _introduction(self, handshake: Handshake) -> Step:
        identifier = handshake.message_id
        if handshake.role.value == self.role.value:
            return Step(
                send=(self._no(identifier, "both sides have the same role"),),
                error=ProtocolViolation(
                    f"The other side is {_A_ROLE[self.role]} as well.",
                    hint="Connect a device with an energy manager; check which of the two was set up with which role.",
                ),
                farewell="both sides have the same role",
            )
        if self._introduced:
            return self._refusal(identifier, ReceptionStatusValue.INVALID_CONTENT, "a second Handshake")
        self._introduced = True
        if self.role is Role.RM:
            return Step(send=(_ok(identifier),))
        offered = handshake.supported_protocol_versions or []
        chosen = choose_version(self._versions, offered)
        if chosen is None:
            return self._incompatible(identifier, offered)
        self.version = chosen
        self._unanswered.add(self._response_id)
        response = HandshakeResponse(message_id=self._response_id, selected_protocol_version=chosen)
        return Step(send=(_ok(identifier), response.to_json()))

    def _response(self, response: HandshakeResponse) -> Step:
        identifier, chosen = response.message_id, response.selected_protocol_version
        if self.role is Role.CEM:
            return self._refusal(
                identifier, ReceptionStatusValue.INVALID_CONTENT, "the energy manager chooses the version"
            )
        if all(spelled_by_peer([chosen], own) is None for own in self._versions):
            return self._incompatible(identifier, [chosen])
        self.version = chosen
        self.done = True
        return Step(send=(_ok(identifier),))

    def _acknowledged(self, message: Message) -> Step:
        subject = message.subject_id
        self._unanswered.discard(subject or NIL_ID)
        # Nothing depends on an energy manager's Handshake, so a device can ignore it.
        decisive = self._response_id if self.role is Role.CEM else self._handshake_id
        if subject != decisive:
            return Step()
        if message.status == ReceptionStatusValue.OK:
            self.done = bool(self.version)
            return Step()
        label = message.label or ""
        shown = for_display(f"{message.status}: {label}" if label else f"{message.status}", 200)
        return Step(
            error=SessionRefused(
                f"The other side refused the handshake ({shown}).", reason="Other", additional_info=label
            ),
            farewell="handshake refused",
        )

    def _ended(self, message: Message, identifier: str) -> Step:
        label = message.body.get("diagnostic_label")
        return Step(
            send=(_ok(identifier),),
            error=SessionRefused(
                "The other side ended the session during the handshake.",
                reason="Other",
                additional_info=label if isinstance(label, str) else "",
            ),
            farewell="as requested",
        )

    def _late(self, text: str) -> Step:
        try:
            message = read_message(text)
        except InvalidMessage:
            return Step(deliver=text)
        if message.type == RECEPTION_STATUS and message.subject_id in self._unanswered:
            self._unanswered.discard(message.subject_id)
            return Step()
        if message.type == "Handshake" and not self._introduced:
            try:
                parsed = parse_message(message, BETA)
            except InvalidMessage:
                return Step(deliver=text)
            if isinstance(parsed, Handshake) and parsed.role.value != self.role.value:
                self._introduced = True
                return Step(send=(_ok(parsed.message_id),))
        return Step(deliver=text)

    # Refusing

    def _incompatible(self, identifier: str, offered: list[str]) -> Step:
        ours = ", ".join(self._versions)
        theirs = ", ".join(for_display(text, 40) for text in offered[:MAX_NAMED_VERSIONS]) or "none"
        return Step(
            send=(self._no(identifier, "no common version"),),
            error=SessionRefused(
                f"There is no common version of S2 JSON: this side has {ours}, the other {theirs}.",
                reason=INCOMPATIBLE,
                hint="One of the two devices needs a software update.",
            ),
            farewell="no common version",
        )

    def _refusal(self, identifier: str, status: ReceptionStatusValue, label: str) -> Step:
        self._refused += 1
        answer = reception_status(identifier, status, label)
        if self._refused <= MAX_REFUSED:
            return Step(send=(answer,))
        return Step(
            send=(answer,),
            error=ProtocolViolation("The other side sends messages, but no handshake."),
            farewell="handshake expected",
        )

    @staticmethod
    def _no(identifier: str, label: str) -> str:
        return reception_status(identifier, ReceptionStatusValue.INVALID_CONTENT, label)


_A_ROLE: Final = {Role.CEM: "an energy manager (CEM)", Role.RM: "a device (RM)"}


def _ok(identifier: str) -> str:
    return reception_status(identifier, ReceptionStatusValue.OK)
