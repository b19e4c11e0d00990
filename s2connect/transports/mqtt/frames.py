"""Frames (MQ-05, MQ-06) and presence (MQ-12) of S2 over MQTT: to and from the content of a PUBLISH. No I/O."""

from __future__ import annotations

import base64
import json
import re
from enum import StrEnum
from typing import Any, Final

import msgspec

from s2connect.model.strict_json import MalformedJson, read_json
from s2connect.transports.mqtt.parameters import is_version
from s2connect.transports.mqtt.sealing import SALT_BYTES
from s2connect.transports.mqtt.topics import TopicSpace

PLAIN_DATA: Final = "application/json"
PLAIN_CONTROL: Final = "application/vnd.s2-control+json"
SEALED: Final = "application/vnd.s2-sealed"

MAX_SEQ: Final = 2**32 - 1
"""Highest sequence number. A session that gets there ends with ``close reconnect``, and its keys with it."""

MAX_CONTROL_BYTES: Final = 4096
"""Longest payload of a control frame, sealed or not."""

OVERHEAD_BYTES: Final = 256
"""Bound on what a PUBLISH of this binding holds beside topic and payload: headers, properties, seal."""

PACKET_ROOM_BYTES: Final = 1024
"""Bytes of the longest packet beside the message: topic, :data:`OVERHEAD_BYTES`, properties added by others."""

MAX_OPEN_PACKET_BYTES: Final = 2 * MAX_CONTROL_BYTES
"""Longest packet with an ``open`` that is read: a control payload, and as much again for topic and properties."""


class InvalidFrame(ValueError):
    """A packet is no frame of this binding. The text never repeats what was received."""


class FrameKind(StrEnum):
    """``s2-frame``."""

    DATA = "data"
    OPEN = "open"
    ACCEPT = "accept"
    CLOSE = "close"
    PING = "ping"
    PONG = "pong"


class Packet(msgspec.Struct, frozen=True, gc=False):
    """Content of a PUBLISH, in both directions, at QoS 1 (MQ-08). Only presence is retained; expiry is in seconds."""

    topic: str
    payload: bytes
    content_type: str | None = None
    user_properties: tuple[tuple[str, str], ...] = ()
    correlation: bytes | None = None
    expiry: int | None = None
    retain: bool = False

    def __repr__(self) -> str:
        return f"Packet({self.topic!r}, {len(self.payload)} bytes, {self.user_properties!r})"


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One frame; the payload may still be sealed. ``seq`` of an ``open``, which has none, is 0."""

    kind: FrameKind
    seq: int
    payload: bytes
    version: str | None = None
    salt: bytes | None = None

    def __repr__(self) -> str:
        return f"Frame({self.kind}, {self.seq}, {len(self.payload)} bytes)"


_is_boot = re.compile(r"[A-Za-z0-9_-]{8,36}").fullmatch
_PROPERTIES: Final = frozenset({"s2-frame", "s2-seq", "s2-ver", "s2-salt"})
_KINDS: Final = {str(kind): kind for kind in FrameKind}
_DATA, _OPEN = FrameKind.DATA, FrameKind.OPEN  # Python 3.11 looks a member up more slowly than it compares it


def payload_room(topic: str, maximum_packet_size: int) -> int:
    """Return the bytes of S2 text that fit into one PUBLISH on a topic, where a broker limits packets (MQ-15)."""
    return max(0, maximum_packet_size - OVERHEAD_BYTES - len(topic.encode("utf-8")))


def content_type(kind: FrameKind, *, sealed: bool) -> str:
    """Return the Content-Type of a frame; that of a sealed one, control frames included, does not say JSON."""
    if sealed and kind is not _OPEN:
        return SEALED
    return PLAIN_DATA if kind is _DATA else PLAIN_CONTROL


def write_frame(
    topic: str, frame: Frame, *, sealed: bool, expiry: int | None = None, correlation: bytes | None = None
) -> Packet:
    """Write a frame, whose payload is sealed already, as a packet."""
    properties: tuple[tuple[str, str], ...] = (("s2-frame", frame.kind),)
    if frame.kind is not _OPEN:
        properties += (("s2-seq", str(frame.seq)),)
    if frame.version is not None:
        properties += (("s2-ver", frame.version),)
    if frame.salt is not None:
        properties += (("s2-salt", base64.b64encode(frame.salt).decode("ascii")),)
    return Packet(topic, frame.payload, content_type(frame.kind, sealed=sealed), properties, correlation, expiry)


def read_frame(packet: Packet, *, sealed: bool) -> Frame:
    """Read a published packet of a session that is sealed or not.

    Exactly the properties of its kind must be there, each once; properties of other names are ignored, and so is
    Correlation Data. Otherwise, and with another Content-Type, it raises InvalidFrame.
    """
    kind = sequence = version = salt = None
    for name, value in packet.user_properties:
        if name == "s2-frame" and kind is None:
            kind = _KINDS.get(value)
            if kind is None:
                raise InvalidFrame("unknown s2-frame")
        elif name == "s2-seq" and sequence is None:
            sequence = _read_seq(value)
        elif name == "s2-ver" and version is None:
            version = value
        elif name == "s2-salt" and salt is None:
            salt = _read_salt(value)
        elif name in _PROPERTIES:
            raise InvalidFrame(f"{name} stands there twice")
    if kind is None:
        raise InvalidFrame("no s2-frame")
    if (sequence is None) is not (kind is _OPEN):
        raise InvalidFrame("s2-seq is missing, or in an open")
    if (version is None) is (kind is _DATA):
        raise InvalidFrame("s2-ver is missing, or in a control frame")
    if salt is not None and kind is not FrameKind.ACCEPT and kind is not FrameKind.CLOSE:
        raise InvalidFrame("s2-salt in the wrong frame")
    if packet.content_type != content_type(kind, sealed=sealed):
        raise InvalidFrame("wrong Content-Type")
    if kind is not _DATA and len(packet.payload) > MAX_CONTROL_BYTES:
        raise InvalidFrame("a control frame that is too long")
    return Frame(kind, sequence or 0, packet.payload, version, salt)


def _read_seq(text: str) -> int:
    if not (0 < len(text) <= 10 and text.isascii() and text.isdigit() and text[0] != "0"):
        raise InvalidFrame("s2-seq is no number from 1")
    value = int(text)
    if value > MAX_SEQ:
        raise InvalidFrame("s2-seq is too large")
    return value


def _read_salt(text: str) -> bytes:
    salt = read_bytes(text)
    if len(salt) != SALT_BYTES:
        raise InvalidFrame("s2-salt is not 32 bytes in Base64")
    return salt


def read_bytes(text: str) -> bytes:
    """Decode Base64 with padding, in its one spelling. Raises InvalidFrame if it is none."""
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:
        raw = b""
    if base64.b64encode(raw).decode("ascii") != text:
        raise InvalidFrame("not Base64")
    return raw


def write_control(value: dict[str, Any]) -> bytes:
    """Write the JSON object of a control frame: no white space, members in the order given."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def read_control(payload: bytes) -> dict[str, Any]:
    """Read the JSON object of a control frame. Raises InvalidFrame: no object in strict JSON (SEC-04), or too long."""
    if len(payload) > MAX_CONTROL_BYTES:
        raise InvalidFrame("a control frame that is too long")
    try:
        value = read_json(payload)
    except MalformedJson:
        value = None
    if not isinstance(value, dict):
        raise InvalidFrame("a control frame that is no JSON object")
    return value


def read_version(value: object) -> str:
    """Read an S2 version of a control frame. Raises InvalidFrame if it is none."""
    if not isinstance(value, str) or not is_version(value):
        raise InvalidFrame("not an S2 version")
    return value


def read_boot(value: object) -> str:
    """Read a boot id: 8 to 36 letters, digits, ``_`` and ``-``, fresh for every run of a program."""
    if not isinstance(value, str) or not _is_boot(value):
        raise InvalidFrame("not a boot id")
    return value


def presence(space: TopicSpace, mc: str, state: str, boot: str) -> Packet:
    """Return the presence after CONNECT (``online``) or the will (``lost``, Will Delay Interval 0)."""
    payload = write_control({"state": state, "boot": read_boot(boot)})
    return Packet(space.presence(mc), payload, PLAIN_CONTROL, retain=True)


def no_presence(space: TopicSpace, mc: str) -> Packet:
    """Return the packet before a clean DISCONNECT, which clears the retained presence."""
    return Packet(space.presence(mc), b"", retain=True)
