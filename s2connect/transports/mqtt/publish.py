"""Codec of PUBLISH and PUBACK, the only packets within a session. No I/O.

paho-mqtt spends some 200 µs on the properties and acknowledgements of one message, a multiple of everything else. The
rest of MQTT stays with paho, and a property test compares this module with paho's own codec.
"""

from __future__ import annotations

import struct
from functools import lru_cache

import msgspec

from s2connect.transports.mqtt.frames import Packet

MAX_USER_PROPERTIES = 16
"""User properties that one PUBLISH may have; this binding has three, and others may add some."""

TAKEN_OVER = 0x8E
"""MQ-16: reason code of a DISCONNECT because another client came with the same client id."""

NO_MATCHING_SUBSCRIBERS = 0x10
"""Reason code of a PUBACK: the broker took the message, and nobody was there to get it."""

FAILURE = 0x80
"""Reason codes from here on are failures."""

_EXPIRY = 2
_CONTENT_TYPE = 3
_CORRELATION = 9
_SUBSCRIPTION = 11
_TOPIC_ALIAS = 35
_USER = 38

# The properties of a PUBLISH beside user properties (MQTT 5, section 3.3.2.3), each with how long its value is.
_BYTE, _TWO_BYTES, _FOUR_BYTES, _STRING, _VARIABLE = range(5)
_KINDS = {
    1: _BYTE,
    _EXPIRY: _FOUR_BYTES,
    _CONTENT_TYPE: _STRING,
    8: _STRING,
    _CORRELATION: _STRING,
    _SUBSCRIPTION: _VARIABLE,
    _TOPIC_ALIAS: _TWO_BYTES,
}


_BYTES = [bytes((value,)) for value in range(128)]


class MalformedPublish(ValueError):
    """The broker breaks MQTT: QoS, topic or packet identifier, which the broker itself writes, cannot be read."""


class UnusablePublish(ValueError):
    """One message is unusable, by a fault of its publisher or of a broker that did not check it: the ``reason``."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Head(msgspec.Struct, frozen=True, gc=False):
    """Fields of a PUBLISH before the properties, which begin at ``end``. There is no packet identifier at QoS 0.

    In the topic, bytes that are not UTF-8 are replaced, so that it matches no handler.
    """

    topic: str
    qos: int
    packet_id: int
    end: int


def write_properties(packet: Packet) -> bytes:
    """Write the properties of a packet with their length before them."""
    user = packet.user_properties
    if len(user) == 3 and packet.correlation is None:  # data: from one to the next the number in the middle changes
        before, after = _around(packet.expiry, packet.content_type, user[0], user[1][0], user[2])
        raw = user[1][1].encode()
        written = before + len(raw).to_bytes(2, "big") + raw + after
    else:
        written = _usual_properties(packet.expiry, packet.content_type)
        if packet.correlation is not None:
            written += _string(_CORRELATION, packet.correlation)
        written += b"".join(map(_pair, user))
    return variable_length(len(written)) + written


@lru_cache(64)
def _around(
    expiry: int | None, content_type: str | None, first: tuple[str, str], name: str, last: tuple[str, str]
) -> tuple[bytes, bytes]:
    return _usual_properties(expiry, content_type) + _pair(first) + _user_name(name), _pair(last)


def _pair(pair: tuple[str, str]) -> bytes:
    raw = pair[1].encode()
    return _user_name(pair[0]) + len(raw).to_bytes(2, "big") + raw


@lru_cache(64)
def _usual_properties(expiry: int | None, content_type: str | None) -> bytes:
    written = b"" if expiry is None else struct.pack("!BI", _EXPIRY, expiry)
    return written if content_type is None else written + _string(_CONTENT_TYPE, content_type.encode())


@lru_cache(64)
def _user_name(name: str) -> bytes:
    return _string(_USER, name.encode())


def write_publish(packet: Packet, packet_id: int) -> bytes:
    """Write a PUBLISH at QoS 1 (MQ-08), with an identifier from 1 to 65,535 that is not in use."""
    topic, properties = packet.topic.encode(), write_properties(packet)
    return b"".join(
        (
            b"\x33" if packet.retain else b"\x32",
            variable_length(4 + len(topic) + len(properties) + len(packet.payload)),
            len(topic).to_bytes(2, "big"),
            topic,
            packet_id.to_bytes(2, "big"),
            properties,
            packet.payload,
        )
    )


def write_puback(packet_id: int) -> bytes:
    """Write a PUBACK that says success."""
    return b"\x40\x02" + packet_id.to_bytes(2, "big")


def read_puback(raw: bytes) -> tuple[int, int]:
    """Read packet identifier and reason code of a PUBACK, from the bytes after the remaining length."""
    if len(raw) < 2:
        raise MalformedPublish("not a PUBACK")
    return int.from_bytes(raw[:2], "big"), raw[2] if len(raw) > 2 else 0


def _string(identifier: int, raw: bytes) -> bytes:
    return struct.pack("!BH", identifier, len(raw)) + raw


def variable_length(value: int) -> bytes:
    """Write a variable byte integer (MQTT 5, section 1.5.5)."""
    if value < 128:
        return _BYTES[value]
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_variable_length(raw: bytes, at: int) -> tuple[int, int]:
    """Read a variable byte integer; return it and the index after it. Raises IndexError if it is incomplete."""
    value = raw[at]
    if value < 128:
        return value, at + 1
    value &= 127
    for place in (1, 2, 3):
        byte = raw[at + place]
        if byte < 128:
            return value | byte << 7 * place, at + place + 1
        value |= (byte & 127) << 7 * place
    raise UnusablePublish("properties")


def read_head(command: int, raw: bytes) -> Head:
    """Read topic, QoS and packet id of a PUBLISH, from its first byte and the bytes after the remaining length.

    These may be cut behind them. Raises MalformedPublish: QoS 3, a topic longer than the packet, no packet identifier.
    """
    qos = command >> 1 & 3
    end = 2 + int.from_bytes(raw[:2], "big")
    after = end + 2 if qos else end
    if qos == 3 or len(raw) < 2 or len(raw) < after:
        raise MalformedPublish("not a PUBLISH")
    packet_id = raw[end] << 8 | raw[end + 1] if qos else 0
    if qos and not packet_id:
        raise MalformedPublish("no packet identifier")
    return Head(raw[2:end].decode("utf-8", "replace"), qos, packet_id, after)


class Alike(msgspec.Struct, frozen=True, gc=False):
    """Properties of messages that differ in one number: the bytes before and after it, and how many digits it has."""

    before: bytes
    after: bytes
    digits: int

    @classmethod
    def of(cls, raw: bytes, at: int, name: str, number: int) -> Alike | None:
        """Return those of a PUBLISH that was read, whose properties begin at ``at``, with one user property ``name``.

        None if its bytes stand there more than once.
        """
        length, start = read_variable_length(raw, at)
        digits = b"%d" % number
        mark = _user_name(name) + len(digits).to_bytes(2, "big")
        properties = raw[at : start + length]
        if properties.count(mark + digits) != 1:
            return None
        end = properties.index(mark + digits) + len(mark)
        return cls(properties[:end], properties[end + len(digits) :], len(digits))

    def payload(self, raw: bytes, at: int, number: int) -> bytes | None:
        """Return the payload of a PUBLISH that has these properties with this number; None if it has others."""
        digits = b"%d" % number
        expected = self.before + digits + self.after
        if len(digits) != self.digits or not raw.startswith(expected, at):
            return None
        return raw[at + len(expected) :]


def read_publish(command: int, raw: bytes, head: Head) -> Packet:
    """Read the properties and the payload of a PUBLISH.

    Properties that this binding does not use are skipped, Response Topic and Subscription Identifier among them.
    Raises UnusablePublish: a property that no PUBLISH has, or twice what may stand there once, a Topic Alias (none was
    allowed), more than :data:`MAX_USER_PROPERTIES`, a text that is not UTF-8, or lengths that do not fit.
    """
    try:
        return _read_publish(command, raw, head)
    except (IndexError, struct.error):
        raise UnusablePublish("properties") from None
    except UnicodeDecodeError:
        raise UnusablePublish("not_utf_8") from None


def _read_publish(command: int, raw: bytes, head: Head) -> Packet:
    length, at = read_variable_length(raw, head.end)
    end = at + length
    if end > len(raw):
        raise UnusablePublish("properties")
    content_type = expiry = correlation = None
    user: list[tuple[str, str]] = []
    seen = 0
    while at < end:  # a value that goes on behind the end is noticed when all are read
        identifier = raw[at]
        at += 1
        if identifier == _USER:
            start = at + 2
            at = start + (raw[at] << 8 | raw[at + 1])
            name = raw[start:at]
            start = at + 2
            at = start + (raw[at] << 8 | raw[at + 1])
            if len(user) == MAX_USER_PROPERTIES:
                raise UnusablePublish("too_many_properties")
            user.append((name.decode(), raw[start:at].decode()))
            continue
        kind = _KINDS.get(identifier)
        if kind is None or (seen >> identifier & 1 and identifier != _SUBSCRIPTION):
            raise UnusablePublish("properties")
        seen |= 1 << identifier
        if kind is _STRING:
            start = at + 2
            at = start + (raw[at] << 8 | raw[at + 1])
            if identifier == _CORRELATION:
                correlation = raw[start:at]
            elif identifier == _CONTENT_TYPE:
                content_type = raw[start:at].decode()
        elif kind is _FOUR_BYTES:
            (expiry,) = struct.unpack_from("!I", raw, at)
            at += 4
        elif kind is _VARIABLE:
            _, at = read_variable_length(raw, at)
        elif identifier == _TOPIC_ALIAS:
            raise UnusablePublish("topic_alias")
        else:
            at += 1
    if at != end:
        raise UnusablePublish("properties")
    return Packet(
        head.topic,
        raw[end:],
        content_type,
        tuple(user),
        correlation=correlation,
        expiry=expiry,
        retain=bool(command & 1),
    )
