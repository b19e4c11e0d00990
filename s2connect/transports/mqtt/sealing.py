"""Sealing of S2 over MQTT (MQ-07, MQ-11): keys, AES-256-GCM and the proof of ``open``. No I/O."""

from __future__ import annotations

import hmac
import struct
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from s2connect.transports.mqtt.parameters import SessionToken
from s2connect.transports.mqtt.topics import Direction

TAG_BYTES = 16
"""Bytes that sealing adds to a payload."""

SALT_BYTES = 32
"""Random bytes of the server in static mode."""

_pack_seq = struct.Struct(">Q").pack
_NONCE_START = bytes(4)


class NotAuthentic(ValueError):
    """A payload was not sealed by the peer for this place: it was made, changed or moved by somebody else."""


def session_key(token: SessionToken, direction: Direction, sid: str, *, salt: bytes = b"") -> bytes:
    """Derive the key of one direction: HKDF-SHA-256, 32 bytes (MQ-07); the salt is the server's in static mode."""
    info = f"s2-over-mqtt/0|{direction}|{sid}".encode("ascii")
    return HKDF(SHA256(), 32, salt or None, info).derive(token.raw)


def _place(topic: str, kind: str) -> bytes:
    """Return the associated data without the eight bytes of the sequence number: each part after its length."""
    raw, name = topic.encode("utf-8"), kind.encode("ascii")
    return struct.pack(">H", len(raw)) + raw + struct.pack(">B", len(name)) + name


class Sealer:
    """Seals or opens the payloads of one direction of one session, with a :func:`session_key`. Shows no key."""

    __slots__ = ("_aead", "_data", "_topic")

    def __init__(self, key: bytes, topic: str) -> None:
        self._aead = AESGCM(key)
        self._topic = topic
        self._data = _place(topic, "data")

    def seal(self, kind: str, seq: int, payload: bytes) -> bytes:
        """Encrypt a payload; the caller uses each ``seq`` once, because it is the nonce."""
        number = _pack_seq(seq)
        place = self._data if kind == "data" else _place(self._topic, kind)
        return self._aead.encrypt(_NONCE_START + number, payload, place + number)

    def unseal(self, kind: str, seq: int, sealed: bytes) -> bytes:
        """Return the payload. Raises NotAuthentic if it was not sealed for this key, topic, kind and number."""
        number = _pack_seq(seq)
        try:
            place = self._data if kind == "data" else _place(self._topic, kind)
            return self._aead.decrypt(_NONCE_START + number, sealed, place + number)
        except (InvalidTag, ValueError):
            raise NotAuthentic("not sealed by the peer for this place") from None


def open_proof(token: SessionToken, sid: str, mc: str, boot: str, versions: Sequence[str] = ()) -> bytes:
    """Compute the proof of an ``open`` (MQ-11): HMAC-SHA-256 over ``sid|mc|boot``, 32 bytes.

    In static mode ``|`` and the S2 versions, joined with commas, follow, so that nobody can take one away. None of the
    parts can hold ``|``.
    """
    parts = [sid, mc, boot]
    if versions:
        parts.append(",".join(versions))
    return hmac.digest(token.raw, "|".join(parts).encode("ascii"), "sha256")


def proves(proof: bytes, expected: bytes) -> bool:
    """Compare a received proof with the expected one in constant time."""
    return hmac.compare_digest(proof, expected)
