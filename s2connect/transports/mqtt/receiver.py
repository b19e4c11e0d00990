"""Receiver: dispatches each PUBLISH of a broker to a handler, or drops it. No I/O."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple, Protocol

from s2connect.model.log_limiter import process_lines
from s2connect.transports.mqtt.frames import Packet
from s2connect.transports.mqtt.publish import Head, MalformedPublish, UnusablePublish, read_head, read_publish

_log = logging.getLogger(__name__)

EXPECTED = frozenset({"no_session", "repeated", "unknown"})
"""Reasons that belong to normal work, counted and not logged: frames of a session that has just ended, a repeat of
QoS 1, and an ``open`` for another instance of the server."""


class DirectReader(Protocol):
    """Reader of a topic whose messages are alike but for a number and the payload, so that most need no parsing."""

    def take(self, raw: bytes, at: int) -> bool:
        """Handle a message if its properties, which begin at ``at``, are those that are expected."""

    def learn(self, raw: bytes, at: int, packet: Packet) -> None:
        """Look at a message that was not, now that it has been read and handled, to expect others like it."""


class TopicHandler(NamedTuple):
    """Handler of one topic, which returns the reason if a message is dropped, and the longest packet that it takes.

    With ``only_qos_1`` messages at QoS 0 and retained ones are dropped: they do not wait for our acknowledgements, so
    their publisher decides how many there are. A ``direct`` reader is asked first.
    """

    handle: Callable[[Packet], str | None]
    max_bytes: int | None = None
    only_qos_1: bool = False
    direct: DirectReader | None = None


class Receiver:
    """Reader of PUBLISH packets, which dispatches them to the handlers of their topics.

    Any client of the broker may have published topic, properties and payload: unusable ones are dropped, counted and
    acknowledged, and end nothing. Only the parts that the broker writes, QoS and packet identifier, can break MQTT.
    Packets longer than ``max_bytes`` are dropped. ``acknowledgements`` are in the order of the packets.
    """

    def __init__(self, max_bytes: int, drops: Counter[str], where: str, clock: Callable[[], float]) -> None:
        self.handlers: dict[str, TopicHandler] = {}
        self.acknowledgements: list[int] = []
        self._max_bytes = max_bytes
        self._drops = drops
        self._where = where
        self._clock = clock
        self._discarding = 0

    def receive(self, command: int, raw: bytes) -> None:
        """Handle one packet: its first byte, and the bytes after the remaining length.

        Raises MalformedPublish if the broker breaks MQTT, or sends at a QoS that was not subscribed to.
        """
        head = read_head(command, raw)
        if head.qos > 1:
            raise MalformedPublish("QoS 2 was not subscribed to")
        handler = self.handlers.get(head.topic)
        reason = self._unwanted(handler, head, command, len(raw))
        if handler is not None and reason is None:
            direct = handler.direct
            try:
                if direct is None or not direct.take(raw, head.end):
                    packet = read_publish(command, raw, head)
                    reason = handler.handle(packet)
                    if direct is not None:
                        direct.learn(raw, head.end, packet)
            except UnusablePublish as error:
                reason = error.reason
            except Exception:
                if self._drop("fault"):
                    _log.exception("A message of the broker %s was not handled", self._where)
        if reason is not None:
            self._drop(reason)
        if head.qos:  # now that it has been handed over
            self.acknowledgements.append(head.packet_id)

    def discard(self, command: int, start: bytes, length: int) -> bool:
        """Decide whether a PUBLISH of this length is dropped while it comes, from its bytes up to the properties."""
        try:
            head = read_head(command, start)
        except MalformedPublish:
            return False  # it is handled when all of it is here
        reason = self._unwanted(self.handlers.get(head.topic), head, command, length)
        if reason is None or head.qos > 1:
            return False
        self._discarding = head.packet_id
        self._drop(reason)
        return True

    def discarded(self) -> None:
        """Acknowledge a dropped packet, now that its last byte was received."""
        if self._discarding:
            self.acknowledgements.append(self._discarding)

    def _drop(self, reason: str) -> bool:
        """Count a dropped packet. Returns whether it was logged: once a minute, as any publisher can cause it."""
        self._drops[reason] += 1
        if reason in EXPECTED:
            return False
        more = process_lines.due(("mqtt", self._where, reason), self._clock())
        if more is not None:
            _log.warning("A message on the topics of the broker %s was dropped: %s%s", self._where, reason, more)
        return more is not None

    def _unwanted(self, handler: TopicHandler | None, head: Head, command: int, length: int) -> str | None:
        """Return the reason for which a packet is dropped before it is read; None if it is not."""
        if handler is None:
            return "no_session"
        if length > (self._max_bytes if handler.max_bytes is None else handler.max_bytes):
            return "too_long"
        if handler.only_qos_1 and (not head.qos or command & 1):
            return "not_qos_1"
        return None
