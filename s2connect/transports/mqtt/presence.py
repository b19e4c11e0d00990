"""Presence of MQTT clients (MQ-12): a hint for people and for a first try, never the truth. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from s2connect.transports.mqtt.frames import PLAIN_CONTROL, InvalidFrame, Packet, read_control, write_control
from s2connect.transports.mqtt.topics import InvalidTopic, PresenceTopic, TopicSpace

MAX_PRESENCES = 10_000
"""Clients whose presence is remembered; more are not looked at."""

_is_boot = re.compile(r"[A-Za-z0-9_-]{8,36}").fullmatch


class PresenceState(StrEnum):
    """What a client, or its broker, says of it."""

    ONLINE = "online"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Presence:
    """What was said last of one client.

    Attributes:
        mc: Its MQTT client id.
        state: None once it has cleared it: it stopped in order.
        boot: Of which run of the client's program that is said.
    """

    mc: str
    state: PresenceState | None
    boot: str


def read_boot(value: object) -> str:
    """Read a boot id: 8 to 36 letters, digits, ``_`` and ``-``, fresh for every run of a program.

    Raises:
        InvalidFrame: It is none.
    """
    if not isinstance(value, str) or not _is_boot(value):
        raise InvalidFrame("not a boot id")
    return value


def presence(space: TopicSpace, mc: str, state: PresenceState, boot: str) -> Packet:
    """What to publish after CONNECT (``online``), and the will to give at CONNECT (``lost``, Will Delay Interval 0).

    Raises:
        InvalidTopic: ``mc`` cannot be a level of a topic.
        InvalidFrame: ``boot`` is no boot id.
    """
    payload = write_control({"state": state.value, "boot": read_boot(boot)})
    return Packet(space.presence(mc), payload, PLAIN_CONTROL, retain=True)


def no_presence(space: TopicSpace, mc: str) -> Packet:
    """What to publish before a clean DISCONNECT: it clears what the broker keeps.

    Raises:
        InvalidTopic: ``mc`` cannot be a level of a topic.
    """
    return Packet(space.presence(mc), b"", retain=True)


def read_presence(space: TopicSpace, packet: Packet) -> Presence:
    """Read what was published; ``boot`` is empty where it was cleared.

    Raises:
        InvalidTopic: Not a presence topic under this prefix.
        InvalidFrame: Not a presence.
    """
    topic = space.read(packet.topic)
    if not isinstance(topic, PresenceTopic):
        raise InvalidTopic("not a presence topic")
    if not packet.payload:
        return Presence(topic.mc, None, "")
    value = read_control(packet.payload)
    try:
        state = PresenceState(str(value.get("state")))
    except ValueError:
        raise InvalidFrame("unknown presence") from None
    return Presence(topic.mc, state, read_boot(value.get("boot")))


class PresenceBoard:
    """What is known of the clients under one prefix. Bounded; what cannot be read changes nothing."""

    def __init__(self, space: TopicSpace, *, limit: int = MAX_PRESENCES) -> None:
        self._space = space
        self._limit = limit
        self._known: dict[str, Presence] = {}

    def receive(self, packet: Packet) -> Presence | None:
        """Take in what was published. Returns what changed, None where nothing did.

        ``lost`` of another boot than the one that is online is ignored: the will of an old connection may come after
        the first word of the new one.
        """
        try:
            said = read_presence(self._space, packet)
        except (InvalidTopic, InvalidFrame):
            return None
        known = self._known.get(said.mc)
        if said.state is None:
            return Presence(said.mc, None, known.boot) if self._known.pop(said.mc, None) and known else None
        if known == said or (known is None and len(self._known) >= self._limit):
            return None
        if said.state is PresenceState.LOST and known is not None and known.boot != said.boot:
            return None
        self._known[said.mc] = said
        return said

    def of(self, mc: str) -> Presence | None:
        """What is known of a client, None where nothing is."""
        return self._known.get(mc)
