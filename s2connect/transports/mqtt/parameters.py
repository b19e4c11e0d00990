"""Session parameters of S2 over MQTT, with limits, events and close reasons (MQ-02 ... MQ-19). No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Annotated, Final

import msgspec
from pydantic import AfterValidator, BeforeValidator, field_validator

from s2connect.errors import ConfigurationError, ConnectionClosed
from s2connect.model.common import NodeId, Role
from s2connect.model.secret import TOKEN_BYTES, Base64Secret, Secret
from s2connect.model.session_init import CommunicationDetails
from s2connect.model.url import MqttUrl
from s2connect.transports.base import ABNORMAL_CLOSURE, GOING_AWAY, MAX_MESSAGE_BYTES, NORMAL_CLOSURE
from s2connect.transports.mqtt.topics import (
    Direction,
    InvalidTopic,
    TopicSpace,
    check_client_id,
    check_prefix,
    check_session_id,
)

MAX_VERSIONS = 16
"""Longest list of S2 versions in an ``open``."""

is_version = re.compile(r"[A-Za-z0-9._-]{1,32}").fullmatch
"""S2 versions that can stand in a frame."""


class Protection(StrEnum):
    """Protection of a session against the broker: ``plain`` lets it read and change what it carries (MQ-07)."""

    SEALED = "sealed"
    PLAIN = "plain"


class SessionToken(Base64Secret):
    """Secret of one session over MQTT, or the configured one of static mode; the broker never sees it (MQ-02)."""

    __slots__ = ()
    min_bytes = TOKEN_BYTES


class MqttPassword(Secret):
    """Password at a broker."""

    __slots__ = ()


class MqttCommunicationDetails(CommunicationDetails):
    """Answer to ``confirmAccessToken`` for MQTT (MQ-02): broker and account, topics, and the token of the session."""

    mqtt_url: MqttUrl
    topic_prefix: Annotated[str, AfterValidator(check_prefix)]
    session_id: Annotated[str, AfterValidator(check_session_id)]
    session_token: SessionToken
    username: str | None = None
    password: MqttPassword | None = None
    protection: Annotated[Protection, BeforeValidator(lambda value: Protection.SEALED if value is None else value)] = (
        Protection.SEALED
    )

    @field_validator("username")
    @classmethod
    def _check_username(cls, value: str | None) -> str | None:
        if value is not None and (not 0 < len(value) <= 256 or not value.isprintable()):
            raise ValueError("not a user name")
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticSettings:
    """Settings that both sides of static mode have, whichever node of the communication client it is about (MQ-19).

    Attributes:
        topic_prefix: One or more levels in front of every topic.
        server: Node id of the communication server: it waits for ``open``.
        mc: MQTT client id of the communication client.
        client_role: Role of the client's nodes; the server's is the other.
        versions: S2 versions that this side speaks, the preferred one first.
        secret: At least 32 random bytes in Base64; both sides prove that they know it. None only with ``plain``.
        protection: ``sealed`` by default. ``plain`` shows every message to the broker, and without a secret whoever may
            publish on the topics is the peer.

    Raises:
        ConfigurationError: A value cannot be used; the message names it.
    """

    topic_prefix: str
    server: NodeId
    mc: str
    client_role: Role
    versions: tuple[str, ...]
    secret: SessionToken | None = None
    protection: Protection = Protection.SEALED

    def __post_init__(self) -> None:
        try:
            check_prefix(self.topic_prefix)
            check_client_id(self.mc)
        except InvalidTopic as error:
            raise ConfigurationError(
                f"The session over MQTT cannot be used: {error}.",
                hint="Both sides have the same values in their settings.",
            ) from None
        if not 0 < len(self.versions) <= MAX_VERSIONS or not all(map(is_version, self.versions)):
            raise ConfigurationError(
                "The S2 versions cannot be used.", hint=f"Name one to {MAX_VERSIONS}, such as 1.0.0."
            )
        if self.protection is Protection.SEALED and self.secret is None:
            raise ConfigurationError(
                "A sealed session needs a secret.",
                hint='Give both sides the same 32 random bytes in Base64, or say protection = "plain".',
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticSession(StaticSettings):
    """A session over MQTT without S2 Connect: both sides are configured with the same values (MQ-19).

    It has what :class:`StaticSettings` has, and:

    Attributes:
        client: Node id of the communication client: it sends ``open``.

    Raises:
        ConfigurationError: A value cannot be used; the message names it.
    """

    client: NodeId

    def __post_init__(self) -> None:
        StaticSettings.__post_init__(self)  # super() knows another class, with slots
        if self.server == self.client:
            raise ConfigurationError("The ids of server and client are the same.", hint="Each node has its own.")


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticGateway(StaticSettings):
    """A gateway with several nodes that are clients of sessions in static mode: their :class:`StaticSettings`."""

    def session(self, client: NodeId) -> StaticSession:
        """Return the session of one of its nodes."""
        return StaticSession(**{each.name: getattr(self, each.name) for each in fields(self)}, client=client)

    @classmethod
    def of(cls, settings: StaticSettings) -> StaticGateway:
        """Return the gateway whose client's node has a session with these settings."""
        return cls(**{each.name: getattr(settings, each.name) for each in fields(cls)})

    @property
    def list_topic(self) -> str:
        """The topic of the list of its devices."""
        return TopicSpace(self.topic_prefix).devices(self.server, self.mc)


PROTOCOL_ERROR: Final = 1002
TRY_AGAIN_LATER: Final = 1013

OPEN_TIMEOUT: Final = 10.0
"""MQ-11: seconds for opening."""

PING_AFTER: Final = 30.0
"""MQ-13: seconds without sending."""

DEAD_AFTER: Final = 90.0
"""MQ-13: seconds without a frame of the peer."""

SUSPECT_AFTER: Final = 10.0
"""Seconds without an answer until a peer in a cluster of brokers is asked whether it is there."""

MESSAGE_EXPIRY: Final = 15.0
"""MQ-14: seconds, the ReceptionStatus deadline by default."""

MIN_MESSAGE_EXPIRY: Final = 5.0
"""MQ-14: seconds."""


class CloseReason(StrEnum):
    """Reason of the end of a session (MQ-16)."""

    NORMAL = "normal"
    RECONNECT = "reconnect"
    UNPAIRED = "unpaired"
    SUPERSEDED = "superseded"
    OVERFLOW = "overflow"
    TIMEOUT = "timeout"
    PROTOCOL = "protocol"

    @property
    def code(self) -> int:
        """The nearest close code of :class:`ConnectionClosed`."""
        return _CODES[self]

    @classmethod
    def for_code(cls, code: int, reason: str = "") -> CloseReason:
        """Return the reason to send for a close code; a reason text that is one of these wins."""
        try:
            return cls(reason)
        except ValueError:
            return _REASONS.get(code, cls.NORMAL)


_CODES: Final = {
    CloseReason.NORMAL: NORMAL_CLOSURE,
    CloseReason.RECONNECT: GOING_AWAY,
    CloseReason.UNPAIRED: NORMAL_CLOSURE,
    CloseReason.SUPERSEDED: GOING_AWAY,
    CloseReason.OVERFLOW: TRY_AGAIN_LATER,
    CloseReason.TIMEOUT: ABNORMAL_CLOSURE,
    CloseReason.PROTOCOL: PROTOCOL_ERROR,
}
_REASONS: Final = {
    GOING_AWAY: CloseReason.RECONNECT,
    PROTOCOL_ERROR: CloseReason.PROTOCOL,
    1003: CloseReason.PROTOCOL,
    ABNORMAL_CLOSURE: CloseReason.TIMEOUT,
    1007: CloseReason.PROTOCOL,
    1008: CloseReason.PROTOCOL,
    1009: CloseReason.PROTOCOL,
    1011: CloseReason.RECONNECT,
    TRY_AGAIN_LATER: CloseReason.OVERFLOW,
}


class Opened(msgspec.Struct, frozen=True):
    """The session stands, with this S2 version; messages may be sent."""

    version: str


class Received(msgspec.Struct, frozen=True, gc=False):
    """A message of the peer, or our answer to one of ours that cannot be sent (MQ-15)."""

    text: str


class Answered(msgspec.Struct, frozen=True):
    """The peer has answered our pings up to this number; all that it published before it did so has come."""

    number: int


class Closed(msgspec.Struct, frozen=True):
    """The session is over; the last event of a channel. Without a reason the connection to the broker was lost."""

    reason: CloseReason | None
    by_peer: bool
    detail: str

    @property
    def error(self) -> ConnectionClosed:
        if self.reason is None:
            return ConnectionClosed(ABNORMAL_CLOSURE, self.detail)
        return ConnectionClosed(self.reason.code, self.reason.value)


Event = Opened | Received | Answered | Closed


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelLimits:
    """Seconds and bytes of one session.

    Attributes:
        send_bytes: Longest message to send (MQ-15).
        receive_bytes: Longest message to receive; a longer one is a violation of the protocol.
        open_timeout: For opening (MQ-11).
        ping_after: Without sending until a ping (MQ-13).
        dead_after: Without a frame of the peer until it counts as gone (MQ-13).
        expiry: How long the broker may keep a frame: the sender's ReceptionStatus deadline (MQ-14).
        suspect_after: After so many seconds without a frame since a message was sent the peer is asked by a ping, and
            counts as gone after as many more, three times as many at most. None for a broker that loses its clients
            together; in a cluster one end can be lost with its node, and nobody tells the other.

    Raises:
        ConfigurationError: ``expiry`` is shorter than five seconds, or a number is not positive.
    """

    send_bytes: int = MAX_MESSAGE_BYTES
    receive_bytes: int = MAX_MESSAGE_BYTES
    open_timeout: float = OPEN_TIMEOUT
    ping_after: float = PING_AFTER
    dead_after: float = DEAD_AFTER
    expiry: float = MESSAGE_EXPIRY
    suspect_after: float | None = None

    def __post_init__(self) -> None:
        if self.expiry < MIN_MESSAGE_EXPIRY:
            raise ConfigurationError("The deadline of ReceptionStatuses over MQTT is at least 5 seconds (MQ-14).")
        seconds = (self.open_timeout, self.ping_after, self.dead_after, self.suspect_after or 1.0)
        if min(self.send_bytes, self.receive_bytes, *seconds) <= 0:
            raise ConfigurationError("The limits of a session over MQTT are positive numbers.")


_SHARED: Final = ("server", "client", "client_role", "mc", "protection", "versions")


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionParameters:
    """Session parameters that both sides know before it opens, without a secret. See :class:`StaticSession`.

    With S2 Connect ``versions`` is the one that was agreed; in static mode (MQ-19) those of this side, best first.
    """

    space: TopicSpace
    server: NodeId
    client: NodeId
    client_role: Role
    mc: str
    sid: str
    protection: Protection
    versions: tuple[str, ...]
    static: bool = False

    @classmethod
    def of_static(cls, session: StaticSession, sid: str) -> SessionParameters:
        """Return the parameters of a static session; the client makes the ``sid`` from at least 16 random bytes."""
        shared = {name: getattr(session, name) for name in _SHARED}
        return cls(space=TopicSpace(session.topic_prefix), sid=sid, static=True, **shared)

    @property
    def sealed(self) -> bool:
        return self.protection is Protection.SEALED

    def topic(self, direction: Direction) -> str:
        """Return the topic of one direction."""
        return self.space.session(self.server, self.mc, self.client, self.sid, direction)
