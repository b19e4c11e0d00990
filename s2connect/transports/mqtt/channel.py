"""One session over MQTT: opening, order, sealing, liveness, end. No I/O (MQ-07 ... MQ-16).

A driver feeds a channel with what arrives on its inbound topic and with the time, publishes what
:meth:`Channel.packets` returns after every call, in that order and on one connection, and calls
:meth:`Channel.tick` at :meth:`Channel.deadline`. Every call returns the events that follow from it.
"""

from __future__ import annotations

import base64
import math
from enum import Enum
from typing import Any

from s2connect.errors import UsageError
from s2connect.messages.envelope import (
    RECEPTION_STATUS,
    InvalidMessage,
    ReceptionStatusValue,
    read_message,
    reception_status,
)
from s2connect.model.common import Role
from s2connect.transports.mqtt.frames import (
    MAX_SEQ,
    Frame,
    FrameKind,
    InvalidFrame,
    Packet,
    read_boot,
    read_control,
    read_frame,
    read_version,
    write_control,
    write_frame,
)
from s2connect.transports.mqtt.parameters import (
    Answered,
    ChannelLimits,
    Closed,
    CloseReason,
    Event,
    Opened,
    Received,
    SessionParameters,
    SessionToken,
)
from s2connect.transports.mqtt.publish import Alike
from s2connect.transports.mqtt.sealing import TAG_BYTES, NotAuthentic, Sealer, open_proof, session_key
from s2connect.transports.mqtt.topics import Direction


class State(Enum):
    """State of a channel."""

    NEW = "new"
    """The driver subscribes to the inbound topic and then calls ``start``."""
    OPENING = "opening"
    """Waits for the peer: the client for ``accept``, the server of static mode for the first frame after it."""
    OPEN = "open"
    CLOSED = "closed"


# Python 3.11 looks a member up more slowly than it opens a short message.
_NEW, _OPENING, _OPEN, _CLOSED, _DATA = State.NEW, State.OPENING, State.OPEN, State.CLOSED, FrameKind.DATA


class Channel:
    """Core of a session, common to :class:`ClientChannel` and :class:`ServerChannel`.

    Attributes:
        asked: Number of our pings.
        closed: The end, None before it.
        version: S2 version, empty before it is known.
        inbound_topic: The driver subscribes to it: QoS 1, No Local, Retain Handling 2.
    """

    def __init__(
        self, parameters: SessionParameters, role: Role, token: SessionToken | None, limits: ChannelLimits
    ) -> None:
        if parameters.sealed and token is None:
            raise UsageError("A sealed session needs a secret.")
        if not parameters.static and len(parameters.versions) != 1:
            raise UsageError("With S2 Connect a session over MQTT has the one S2 version that was agreed.")
        self.parameters = parameters
        self.state = _NEW
        self.asked = self._answered = 0
        self.closed: Closed | None = None
        self.version = ""
        outbound = Direction.sent_by(role)
        self.outbound_topic = parameters.topic(outbound)
        self.inbound_topic = parameters.topic(outbound.other)
        self._outbound = outbound
        self._token = token
        self._limits = limits
        self._expiry = math.ceil(limits.expiry)
        self._sealed = parameters.sealed
        self._seal: Sealer | None = None
        self._unseal: Sealer | None = None
        self._sent = 0
        self._received = 0
        self._sent_at = self._received_at = 0.0
        self._asked_at = self._looked_at = 0.0
        self._until: float | None = None
        self._salt: bytes | None = None
        self._queue: list[Packet] = []
        self._alike: Alike | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.parameters.sid!r}, {self.state.value})"

    def packets(self) -> list[Packet]:
        """Take the packets to publish, in order, at QoS 1. Call it after every other call."""
        queue, self._queue = self._queue, []
        return queue

    @property
    def dead_after(self) -> float:
        """Seconds of silence after which the peer counts as gone (MQ-13)."""
        return self._limits.dead_after

    def silence(self, now: float) -> float:
        """Return the seconds since the last frame of the peer."""
        return now - self._received_at

    def deadline(self) -> float | None:
        """Return the time for the next :meth:`tick`, None if there is none. It may move with every call."""
        if self.state is _OPEN:
            limits = self._limits
            deadline = min(self._sent_at + limits.ping_after, self._received_at + limits.dead_after)
            return deadline if limits.suspect_after is None else min(deadline, self._looked_at + limits.suspect_after)
        return self._until

    def tick(self, now: float) -> list[Event]:
        """Handle time: a ping, or the end of a session that did not open or whose peer is silent (MQ-11, MQ-13)."""
        if self.state is _OPEN:
            unanswered = self._unanswered(now)
            if now >= self._received_at + self._limits.dead_after or unanswered >= 2:
                return self._end(CloseReason.TIMEOUT, "the peer does not answer", now)
            if now >= self._sent_at + self._limits.ping_after or unanswered >= 1:
                self.ask(now)
        elif self._until is not None and now >= self._until:
            return self._end(CloseReason.TIMEOUT, "the session did not open in time", now)
        return []

    def _unanswered(self, now: float) -> float:
        """Return for how long a message has been without any frame of the peer, in units of ``suspect_after``."""
        after = self._limits.suspect_after
        if after is None:
            return 0
        self._looked_at = now
        return (now - self._asked_at) / after if self._asked_at > self._received_at else 0

    def send(self, text: str, now: float) -> list[Event]:
        """Send one message. One that is too long is not sent but answered: the answer is among the events (MQ-15).

        Raises ConnectionClosed at the end, and UsageError before the session is open or if the text is not Unicode.
        """
        if self.closed is not None:
            raise self.closed.error
        if self.state is not _OPEN:
            raise UsageError("The session is not open yet.")
        payload = _encode(text)
        if len(payload) > self._limits.send_bytes:
            shorter, events = self._too_long(text)
            if shorter is None:
                return events
            text, payload = shorter, _encode(shorter)
        if self._asked_at <= self._received_at:
            self._asked_at = now
        correlation = None if self._sealed else _correlation(text)
        return self._publish(_DATA, payload, now, correlation=correlation)

    def receive(self, packet: Packet, now: float) -> list[Event]:
        """Handle a received packet; one on another topic than the inbound one is ignored (MQ-10).

        Anything but the next frame of the peer ends the session with ``close protocol``; a repeated sequence number is
        dropped (MQ-09).
        """
        if packet.topic != self.inbound_topic or self.state is _NEW or self.state is _CLOSED:
            return []
        try:
            frame = read_frame(packet, sealed=self._sealed)
            if frame.seq == self._received + 1:
                return self._next(frame, now)
            if 0 < frame.seq <= self._received:
                return []
            return self._end(CloseReason.PROTOCOL, "frames of the peer are missing", now)
        except NotAuthentic:
            return self._end(CloseReason.PROTOCOL, "a frame was not sealed by the peer", now)
        except InvalidFrame as error:
            return self._end(CloseReason.PROTOCOL, str(error), now)

    def read_next(self, raw: bytes, at: int, now: float) -> str | None:
        """Return the text of the next message if its properties, at ``at`` of a PUBLISH, are those of the one before.

        But for the number they are the same bytes, so that they need not be read again. None for any other packet, also
        for one that is not authentic: :meth:`receive` decides about it.
        """
        alike, unseal = self._alike, self._unseal
        if alike is None or unseal is None or self.state is not _OPEN:
            return None
        number = self._received + 1
        payload = alike.payload(raw, at, number)
        if payload is None or len(payload) > self._limits.receive_bytes:
            return None
        try:
            text = unseal.unseal(_DATA, number, payload).decode("utf-8")
        except (NotAuthentic, UnicodeDecodeError):
            return None
        self._received = number
        self._received_at = now
        return text

    def learn(self, raw: bytes, at: int, packet: Packet) -> None:
        """Expect messages with the properties of this one, at ``at`` of a PUBLISH, which :meth:`receive` has handled.

        Only data of a sealed session: in plain mode each has Correlation Data of its own. A repeated message may be a
        stranger's, but where the session is still open its properties have passed every check.
        """
        usual = {("s2-frame", "data"), ("s2-seq", str(self._received)), ("s2-ver", self.version)}
        if self._sealed and self.state is _OPEN and usual.issubset(packet.user_properties):
            self._alike = Alike.of(raw, at, "s2-seq", self._received)

    def ask(self, now: float) -> list[Event]:
        """Ask the peer, by a ping, whose number is :attr:`asked` now; :class:`Answered` follows. Only while it is open.

        A ``pong`` has no number, but there is one for each ping, in their order, or the session ends (MQ-09, MQ-13).
        """
        self.asked += 1
        return self._control(FrameKind.PING, {}, now)

    def close(self, reason: CloseReason, now: float) -> list[Event]:
        """End the session with a ``close`` frame (MQ-16); no event if it is over already."""
        return self._end(reason, "closed on this side", now)

    def lost(self) -> list[Event]:
        """End the session without a message, because the connection to the broker is lost (MQ-10)."""
        if self.state is _CLOSED:
            return []
        self._queue.clear()
        return self._over(Closed(None, False, "the connection to the broker was lost"))

    # Receiving

    def _first(self, frame: Frame, now: float) -> list[Event]:
        """Handle the next frame of the peer while the session opens."""
        raise NotImplementedError

    def _next(self, frame: Frame, now: float) -> list[Event]:
        if self.state is _OPENING:
            return self._first(frame, now)
        if frame.salt is not None:
            raise InvalidFrame("s2-salt in a later frame")
        return self._handle(frame.kind, self._authentic(frame, now), frame.version, now)

    def _authentic(self, frame: Frame, now: float) -> bytes:
        """Open the payload of the next frame and count it."""
        payload = frame.payload
        if len(payload) > self._limits.receive_bytes + TAG_BYTES:
            raise InvalidFrame("a message that is too long")
        if self._sealed:
            if self._unseal is None:
                raise InvalidFrame("a frame before there are keys")
            payload = self._unseal.unseal(frame.kind, frame.seq, payload)
        self._received = frame.seq
        self._received_at = now
        return payload

    def _handle(self, kind: FrameKind, payload: bytes, version: str | None, now: float) -> list[Event]:
        if kind is _DATA:
            if version != self.version:
                raise InvalidFrame("another S2 version than agreed")
            if len(payload) > self._limits.receive_bytes:
                raise InvalidFrame("a message that is too long")
            try:
                return [Received(payload.decode("utf-8"))]
            except UnicodeDecodeError:
                raise InvalidFrame("a message that is not UTF-8") from None
        if kind is FrameKind.PING:
            read_control(payload)
            return self._control(FrameKind.PONG, {}, now)
        if kind is FrameKind.PONG:
            read_control(payload)
            self._answered = min(self._answered + 1, self.asked)
            return [Answered(self._answered)]
        if kind is FrameKind.CLOSE:
            return self._closed_by_peer(read_control(payload))
        raise InvalidFrame("a frame out of place")

    def _closed_by_peer(self, value: dict[str, Any]) -> list[Event]:
        try:
            reason = CloseReason(str(value.get("reason")))
        except ValueError:
            reason = CloseReason.NORMAL
        return self._over(Closed(reason, True, "closed by the peer"))

    # Sending

    def _publish(self, kind: FrameKind, payload: bytes, now: float, *, correlation: bytes | None = None) -> list[Event]:
        if self._sent >= MAX_SEQ - 1 and kind is not FrameKind.CLOSE:
            return self._end(CloseReason.RECONNECT, "the sequence numbers are used up", now)
        self._sent = seq = self._sent + 1
        if self._seal is not None:
            payload = self._seal.seal(kind, seq, payload)
        salt, self._salt = self._salt, None
        version = self.version if kind is _DATA else None
        frame = Frame(kind, seq, payload, version, salt)
        self._queue.append(
            write_frame(self.outbound_topic, frame, sealed=self._sealed, expiry=self._expiry, correlation=correlation)
        )
        self._sent_at = now
        return []

    def _control(self, kind: FrameKind, value: dict[str, Any], now: float) -> list[Event]:
        return self._publish(kind, write_control(value), now)

    def _too_long(self, text: str) -> tuple[str | None, list[Event]]:
        """Return a shorter text to send instead of a message that is too long, or the answer to its sender (MQ-15)."""
        try:
            message = read_message(text)
        except InvalidMessage as error:
            if not error.answerable:
                return None, []
            return None, [Received(reception_status(error.subject_id, error.status, error.label))]
        if message.type != RECEPTION_STATUS:
            label = f"the message is longer than the {self._limits.send_bytes} bytes that this connection carries"
            answer = reception_status(message.id or "", ReceptionStatusValue.INVALID_CONTENT, label)
            return None, [Received(answer)]
        # A ReceptionStatus is not answered: its label is cut.
        try:
            shorter = reception_status(
                message.subject_id or "", ReceptionStatusValue(message.status or ""), message.label
            )
        except ValueError:
            return None, []
        return (shorter if len(_encode(shorter)) <= self._limits.send_bytes else None), []

    # The keys and the end

    def _derive(self, salt: bytes = b"") -> None:
        """Derive the keys and drop the token (MQ-07)."""
        token, self._token = self._token, None
        if not self._sealed or token is None:
            return
        sid = self.parameters.sid
        inbound = self._outbound.other
        self._seal = Sealer(session_key(token, self._outbound, sid, salt=salt), self.outbound_topic)
        self._unseal = Sealer(session_key(token, inbound, sid, salt=salt), self.inbound_topic)

    def _end(self, reason: CloseReason, detail: str, now: float) -> list[Event]:
        if self.state is _CLOSED:
            return []
        if self.state is not _NEW and (self._seal is not None or not self._sealed):
            self._control(FrameKind.CLOSE, {"reason": reason.value}, now)
        return self._over(Closed(reason, False, detail))

    def _over(self, closed: Closed) -> list[Event]:
        self.state = _CLOSED
        self.closed = closed
        self._token = self._seal = self._unseal = self._until = None
        return [closed]


class ClientChannel(Channel):
    """Channel of the communication client; ``boot`` is the id of this run of the program (MQ-12)."""

    def __init__(
        self,
        parameters: SessionParameters,
        *,
        token: SessionToken | None,
        boot: str,
        limits: ChannelLimits | None = None,
    ) -> None:
        super().__init__(parameters, parameters.client_role, token, limits or ChannelLimits())
        self._boot = read_boot(boot)

    def start(self, now: float) -> list[Event]:
        """Publish ``open``, once; the SUBACK for the inbound topic has come (MQ-11)."""
        if self.state is not _NEW:
            raise UsageError("The session was started before.")
        parameters, versions = self.parameters, self.parameters.versions if self.parameters.static else ()
        value: dict[str, Any] = {
            "sid": parameters.sid,
            "client": str(parameters.client),
            "server": str(parameters.server),
            "mc": parameters.mc,
            "boot": self._boot,
        }
        if versions:
            value["versions"] = list(versions)
        if self._token is not None:
            proof = open_proof(self._token, parameters.sid, parameters.mc, self._boot, versions)
            value["proof"] = base64.b64encode(proof).decode("ascii")
        frame = Frame(FrameKind.OPEN, 0, write_control(value))
        expiry = math.ceil(self._limits.open_timeout)
        self._queue.append(
            write_frame(parameters.space.open(parameters.server), frame, sealed=self._sealed, expiry=expiry)
        )
        self.state = _OPENING
        self._until = now + self._limits.open_timeout
        if not parameters.static:
            self._derive()
        return []

    def _first(self, frame: Frame, now: float) -> list[Event]:
        if frame.kind not in (FrameKind.ACCEPT, FrameKind.CLOSE):
            raise InvalidFrame("a frame before accept")
        if (frame.salt is not None) is not (self.parameters.static and self._sealed):
            raise InvalidFrame("s2-salt is missing, or out of place")
        if frame.salt is not None:
            self._derive(frame.salt)
        value = read_control(self._authentic(frame, now))
        if frame.kind is FrameKind.CLOSE:
            return self._closed_by_peer(value)
        if value.get("sid") != self.parameters.sid:
            raise InvalidFrame("accept of another session")
        if self.parameters.static:
            self.version = read_version(value.get("version"))
            if self.version not in self.parameters.versions:
                raise InvalidFrame("accept of an S2 version that was not offered")
        else:
            (self.version,) = self.parameters.versions
        self._derive()
        self._until = None
        self.state = _OPEN
        self._looked_at = now
        if self.parameters.static:
            self.ask(now)  # the server waits for it: an open can be a repeated one
        else:
            self._sent_at = now
        return [Opened(self.version)]


class ServerChannel(Channel):
    """Channel of the communication server, made by the admission for a valid ``open``.

    Without a ``version`` in common the session will be refused. ``salt`` is 32 random bytes in sealed static mode.
    ``offered`` is the offer that it uses up, with its future; None in static mode.
    """

    def __init__(
        self,
        parameters: SessionParameters,
        *,
        token: SessionToken | None,
        version: str | None,
        salt: bytes | None,
        opened_at: float,
        limits: ChannelLimits | None = None,
    ) -> None:
        super().__init__(parameters, parameters.client_role.other, token, limits or ChannelLimits())
        if (salt is not None) is not (parameters.static and parameters.sealed):
            raise UsageError("Random bytes belong to sealed sessions of static mode.")
        self.version = version or ""
        self.offered: Any = None
        self._salt = salt
        self._until = opened_at + self._limits.open_timeout

    def start(self, now: float) -> list[Event]:
        """Publish ``accept``; the SUBACK for the inbound topic has come (MQ-11).

        With S2 Connect the session stands now. In static mode it stands with the first frame of the client, because an
        ``open`` of the past can be published again. Without a common S2 version the session is refused.
        """
        if self.state is not _NEW:
            raise UsageError("The session was started before.")
        self._derive(self._salt or b"")
        self.state = _OPENING
        if not self.version:
            return self._end(CloseReason.PROTOCOL, "no common S2 version", now)
        value = {"sid": self.parameters.sid}
        if self.parameters.static:
            value["version"] = self.version
        self._control(FrameKind.ACCEPT, value, now)
        return [] if self.parameters.static else self._open(now)

    def _open(self, now: float) -> list[Event]:
        self.state = _OPEN
        self._until = None
        self._received_at = self._looked_at = now
        return [Opened(self.version)]

    def _first(self, frame: Frame, now: float) -> list[Event]:
        if frame.salt is not None:
            raise InvalidFrame("s2-salt in a frame of the client")
        payload = self._authentic(frame, now)
        if frame.kind is FrameKind.CLOSE:
            return self._closed_by_peer(read_control(payload))
        return [*self._open(now), *self._handle(frame.kind, payload, frame.version, now)]


def _encode(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError("The message is not Unicode: it holds half a surrogate pair.") from None


def _correlation(text: str) -> bytes | None:
    """Correlation Data of a message in plain mode (MQ-06), None where it has no id."""
    try:
        message = read_message(text)
    except InvalidMessage:
        return None
    return (message.id or message.subject_id or "").encode("utf-8", "replace") or None
