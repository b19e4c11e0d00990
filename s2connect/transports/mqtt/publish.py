"""The bytes of PUBLISH and PUBACK, without I/O.

paho-mqtt spends some 200 µs on the properties and acknowledgements of one message, a multiple of all the rest of its
way. These two packets are written and read here; everything else of MQTT stays with paho.
"""

from __future__ import annotations

import struct
from functools import lru_cache

from s2connect.transports.mqtt.frames import Packet

MAX_USER_PROPERTIES = 16
"""User properties that are read from one PUBLISH; this binding has three."""

TAKEN_OVER = 0x8E
"""MQ-16: reason code of a DISCONNECT because another client came with the same client id."""

NO_MATCHING_SUBSCRIBERS = 0x10
"""Reason code of a PUBACK: the broker took the message, and nobody was there to get it."""

FAILURE = 0x80
"""Reason codes from here on are failures."""

_EXPIRY = 2
_CONTENT_TYPE = 3
_CORRELATION = 9
_USER = 38

# The other properties that a PUBLISH may have (MQTT 5, section 3.3.2.3), each with how long its value is.
_BYTE, _TWO_BYTES, _FOUR_BYTES, _STRING, _VARIABLE, _PAIR = range(6)
_KINDS = {
    1: _BYTE,
    _EXPIRY: _FOUR_BYTES,
    _CONTENT_TYPE: _STRING,
    8: _STRING,
    _CORRELATION: _STRING,
    11: _VARIABLE,
    35: _TWO_BYTES,
    _USER: _PAIR,
}


class MalformedPublish(ValueError):
    """The bytes are no PUBLISH of MQTT 5."""


def write_properties(packet: Packet) -> bytes:
    """Write the properties of a packet with their length before them."""
    parts = [_usual_properties(packet.expiry, packet.content_type)]
    if packet.correlation is not None:
        parts.append(_string(_CORRELATION, packet.correlation))
    for name, value in packet.user_properties:
        raw = value.encode()
        parts += (_user_name(name), len(raw).to_bytes(2, "big"), raw)
    written = b"".join(parts)
    return variable_length(len(written)) + written


@lru_cache(64)
def _usual_properties(expiry: int | None, content_type: str | None) -> bytes:
    written = b"" if expiry is None else struct.pack("!BI", _EXPIRY, expiry)
    return written if content_type is None else written + _string(_CONTENT_TYPE, content_type.encode())


@lru_cache(64)
def _user_name(name: str) -> bytes:
    return _string(_USER, name.encode())


def write_publish(packet: Packet, packet_id: int) -> bytes:
    """Write a PUBLISH at QoS 1 (MQ-08).

    Args:
        packet: What it holds.
        packet_id: Not in use for another packet on its way, 1 to 65,535.
    """
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
    """Read what follows the remaining length of a PUBACK: packet identifier and reason code; its text is not read.

    Raises:
        MalformedPublish: It is too short.
    """
    if len(raw) < 2:
        raise MalformedPublish("not a PUBACK")
    return int.from_bytes(raw[:2], "big"), raw[2] if len(raw) > 2 else 0


def _string(identifier: int, raw: bytes) -> bytes:
    return struct.pack("!BH", identifier, len(raw)) + raw


def variable_length(value: int) -> bytes:
    """Write a variable byte integer (MQTT 5, section 1.5.5)."""
    if value < 128:
        return bytes((value,))
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_variable_length(raw: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place in range(4):
        byte = raw[at + place]
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    raise MalformedPublish("variable byte integer too long")


def read_publish(command: int, raw: bytes) -> tuple[Packet, int, int]:
    """Read a PUBLISH.

    Args:
        command: First byte of the packet.
        raw: What follows the remaining length.

    Returns:
        The message, its QoS and its packet identifier (0 at QoS 0).

    Raises:
        MalformedPublish: The bytes are no PUBLISH of MQTT 5.
    """
    try:
        return _read_publish(command, raw)
    except (IndexError, struct.error, UnicodeDecodeError):
        raise MalformedPublish("not a PUBLISH") from None


def _read_publish(command: int, raw: bytes) -> tuple[Packet, int, int]:
    end = 2 + int.from_bytes(_take(raw, 0, 2), "big")
    topic = _take(raw, 2, end).decode()
    qos, packet_id = command >> 1 & 3, 0
    if qos:
        packet_id = int.from_bytes(_take(raw, end, end + 2), "big")
        end += 2
    length, at = _read_variable_length(raw, end)
    end = at + length
    if end > len(raw):
        raise MalformedPublish("properties longer than the packet")
    content_type = expiry = correlation = None
    user: list[tuple[str, str]] = []
    while at < end:  # a value that goes on behind the end is noticed when all are read
        identifier = raw[at]
        kind = _KINDS.get(identifier)
        at += 1
        if kind is _STRING or kind is _PAIR:
            start = at + 2
            at = start + (raw[at] << 8 | raw[at + 1])
            value = raw[start:at]
            if identifier == _CONTENT_TYPE:
                content_type = value.decode()
            elif identifier == _CORRELATION:
                correlation = value
            elif kind is _PAIR:
                start = at + 2
                at = start + (raw[at] << 8 | raw[at + 1])
                if len(user) == MAX_USER_PROPERTIES:
                    raise MalformedPublish("too many user properties")
                user.append((value.decode(), raw[start:at].decode()))
        elif kind is _FOUR_BYTES:
            (expiry,) = struct.unpack_from("!I", raw, at)
            at += 4
        elif kind is _VARIABLE:
            _, at = _read_variable_length(raw, at)
        elif kind is _BYTE or kind is _TWO_BYTES:
            at += 1 if kind is _BYTE else 2
        else:
            raise MalformedPublish("a property that no PUBLISH has")
    if at != end:
        raise MalformedPublish("properties of another length than said")
    return (
        Packet(
            topic,
            raw[end:],
            content_type,
            tuple(user),
            correlation=correlation,
            expiry=expiry,
            retain=bool(command & 1),
        ),
        qos,
        packet_id,
    )


def _take(raw: bytes, start: int, end: int) -> bytes:
    if end > len(raw):
        raise MalformedPublish("shorter than it says")
    return raw[start:end]
