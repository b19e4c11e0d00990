"""Admission of the communication server: decides about each ``open`` (MQ-11, MQ-19). No I/O."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import replace
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

from s2connect.errors import UsageError
from s2connect.model.common import NodeId, choose_version
from s2connect.transports.base import ConnectionInfo
from s2connect.transports.mqtt.channel import ServerChannel, State
from s2connect.transports.mqtt.frames import (
    FrameKind,
    InvalidFrame,
    Packet,
    read_boot,
    read_bytes,
    read_control,
    read_frame,
    read_version,
)
from s2connect.transports.mqtt.parameters import (
    MAX_VERSIONS,
    ChannelLimits,
    SessionParameters,
    SessionToken,
    StaticSession,
)
from s2connect.transports.mqtt.sealing import open_proof, proves
from s2connect.transports.mqtt.topics import (
    InvalidTopic,
    TopicSpace,
    check_client_id,
    check_session_id,
    read_node_id,
)
from s2connect.transports.offers import OfferTable

MAX_UNCONFIRMED = 16
"""Sessions of one pair of nodes in static mode that may wait to be confirmed. Old ``open`` frames that somebody
publishes again are never confirmed, so a newer ``open`` takes the place of the oldest."""

MAX_UNCONFIRMED_IN_ALL = 1000
"""Same, for all pairs together; the place is then taken from the pair that has the most."""

CONFIRM_SECONDS = 1.0
"""Time that a session of static mode has at least to be confirmed before a newer one may take its place. It bounds what
replays cost: :data:`MAX_UNCONFIRMED` sessions of one pair in this time."""

REMEMBERED_SESSIONS = 64
"""Last session ids of a pair of nodes in static mode, which do not open twice."""

MAX_STATIC = 10_000
"""Bound on configured sessions of static mode."""


class Ignored(StrEnum):
    """Reason for which a packet on an ``open`` topic opens no session."""

    MALFORMED = "malformed"
    UNKNOWN = "unknown"  # No offer and no configuration matches: they may be those of another instance.
    PROOF = "proof"  # Not the expected client, or without the secret.
    REPEATED = "repeated"
    TOO_MANY = "too_many"


class MqttOffer(NamedTuple):
    """One offered session of S2 Connect; ``mc`` of its parameters is empty, because only the ``open`` says it."""

    info: ConnectionInfo
    parameters: SessionParameters
    token: SessionToken


class _Static:
    """One configured pair of nodes, its sessions, and the ids that it opened last."""

    def __init__(self, session: StaticSession) -> None:
        self.session = session
        self.channels: list[ServerChannel] = []
        self.sids: deque[str] = deque(maxlen=REMEMBERED_SESSIONS)

    def knows(self, sid: str) -> bool:
        """Return whether a session with this id was opened lately or stands, however long ago it was opened."""
        return sid in self.sids or any(c.parameters.sid == sid and c.state is not State.CLOSED for c in self.channels)


class _Open(msgspec.Struct, frozen=True):
    """Payload of an ``open``; nothing of it is proven."""

    server: str
    client: str
    mc: str
    sid: str
    boot: str
    proof: str | None = None
    versions: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_client_id(self.mc)
        check_session_id(self.sid)
        read_boot(self.boot)
        if self.versions is not None and not 0 < len(self.versions) <= MAX_VERSIONS:
            raise InvalidFrame("versions of open are no list of one to sixteen")
        for version in self.versions or ():
            read_version(version)
        if self.proof is not None:
            read_bytes(self.proof)

    def proven(self, token: SessionToken | None) -> bool:
        """Return whether the client has proven the token, or needs none."""
        if token is None or self.proof is None:
            return token is None and self.proof is None
        expected = open_proof(token, self.sid, self.mc, self.boot, self.versions or ())
        return proves(read_bytes(self.proof), expected)


class Admission:
    """Admission over the ``open`` topics of one prefix.

    An ``open`` that does not fit is ignored without an answer, because several instances may share the subscription.
    The offers are by session id, each with its future.
    """

    def __init__(self, space: TopicSpace, offers: OfferTable[tuple[MqttOffer, Any]]) -> None:
        self._space = space
        self._offers = offers
        self._static: dict[tuple[NodeId, NodeId], _Static] = {}
        self._unconfirmed: dict[ServerChannel, tuple[_Static, float]] = {}  # the oldest first
        self._displaced: list[ServerChannel] = []

    def add_static(self, session: StaticSession) -> None:
        """Accept a configured client, again and again (MQ-19). Raises UsageError if that cannot be."""
        nodes = (session.server, session.client)
        if session.topic_prefix != self._space.prefix or nodes in self._static or len(self._static) >= MAX_STATIC:
            raise UsageError("This static session cannot be added: another prefix, there already, or too many.")
        self._static[nodes] = _Static(session)

    def remove_static(self, session: StaticSession) -> None:
        """Stop accepting a configured client; open sessions stay open."""
        self._static.pop((session.server, session.client), None)

    def receive(
        self, packet: Packet, *, now: float, salt: bytes, limits: ChannelLimits | None = None
    ) -> ServerChannel | Ignored:
        """Check a packet on an ``open`` topic. Returns the session, or the reason why none opens.

        The driver then ends what :meth:`displaced` returns, subscribes to the channel's inbound topic and calls its
        ``start``. An earlier session of the same two nodes is superseded when the new one has *opened*, not before.
        ``salt`` is 32 fresh random bytes, used in sealed static mode only.
        """
        try:
            server = self._space.read_open(packet.topic)
            frame = read_frame(packet, sealed=False)
            request = msgspec.convert(read_control(frame.payload), _Open)
            client = read_node_id(request.client)
            if frame.kind is not FrameKind.OPEN or read_node_id(request.server) != server:
                return Ignored.MALFORMED
        except (InvalidTopic, InvalidFrame, msgspec.ValidationError):
            return Ignored.MALFORMED
        offered = self._offers.get(request.sid, now=now)
        static = self._static.get((server, client)) if offered is None else None
        token: SessionToken | None
        if offered is not None:
            session, token = replace(offered[0].parameters, mc=request.mc), offered[0].token
            right = (server, client) == (session.server, session.client) and request.versions is None
        elif static is not None:
            session, token = SessionParameters.of_static(static.session, request.sid), static.session.secret
            right = request.mc == session.mc and request.versions is not None
        else:
            return Ignored.UNKNOWN
        if not right or not request.proven(token):
            return Ignored.PROOF
        if static is not None:
            if static.knows(request.sid):
                return Ignored.REPEATED
            if not self._make_place(static, now):
                return Ignored.TOO_MANY
        channel = ServerChannel(
            session,
            token=token,
            version=choose_version(session.versions, request.versions or session.versions),
            salt=salt if session.static and session.sealed else None,
            opened_at=now,
            limits=limits,
        )
        if static is not None:
            static.sids.append(request.sid)
            static.channels.append(channel)
            self._unconfirmed[channel] = (static, now)
        else:
            channel.offered = self._offers.take(request.sid, now=now)
        return channel

    def displaced(self) -> list[ServerChannel]:
        """Take the sessions displaced by newer ones; they are over, without a message to their clients."""
        displaced, self._displaced = self._displaced, []
        return displaced

    def _make_place(self, static: _Static, now: float) -> bool:
        """Make room for one more unconfirmed session. Returns whether there is room."""
        static.channels = [channel for channel in static.channels if channel.state is not State.CLOSED]
        waiting = [channel for channel in static.channels if _unconfirmed(channel, now)]
        if len(waiting) >= MAX_UNCONFIRMED:
            return self._displace(waiting[0], now)
        if len(self._unconfirmed) < MAX_UNCONFIRMED_IN_ALL:
            return True
        self._unconfirmed = {c: value for c, value in self._unconfirmed.items() if _unconfirmed(c, now)}
        if len(self._unconfirmed) < MAX_UNCONFIRMED_IN_ALL:
            return True
        (most, _), *_ = Counter(owner for owner, _ in self._unconfirmed.values()).most_common(1)
        return self._displace(next(c for c, (owner, _) in self._unconfirmed.items() if owner is most), now)

    def _displace(self, channel: ServerChannel, now: float) -> bool:
        if now < self._unconfirmed[channel][1] + CONFIRM_SECONDS:
            return False
        del self._unconfirmed[channel]
        channel.lost()
        self._displaced.append(channel)
        return True


def _unconfirmed(channel: ServerChannel, now: float) -> bool:
    deadline = channel.deadline()
    return channel.state in (State.NEW, State.OPENING) and deadline is not None and now < deadline
