"""``certificateFingerprint`` of S2 Connect: how the fingerprint of a CA is written and read (TRUST-07)."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping

FINGERPRINT_KEYS = ("SHA256", "SHA265")
"""TRUST-07: keys of the fingerprint: that of the standard's text, and the one in its OpenAPI file (errata S2C-02)."""

_FINGERPRINT_BYTES = hashlib.sha256().digest_size
_HEX = re.compile(r"[0-9a-fA-F]{64}|(?:[0-9a-fA-F]{2}:){31}[0-9a-fA-F]{2}")
_BASE64 = re.compile(r"[0-9a-zA-Z+/_-]{43}=?")
_NO_LETTER = re.compile(r"[^0-9a-z]")


def fingerprint_map(ca_fingerprint: bytes) -> dict[str, str]:
    """Write ``certificateFingerprint``: the fingerprint of our *CA*, in hex under both keys (TRUST-07).

    Raises:
        ValueError: It has not 32 bytes.
    """
    if len(ca_fingerprint) != _FINGERPRINT_BYTES:
        raise ValueError("a SHA-256 fingerprint has 32 bytes")
    return dict.fromkeys(FINGERPRINT_KEYS, ca_fingerprint.hex(":").upper())


def parse_fingerprint_map(map: Mapping[str, str] | None) -> bytes | None:  # noqa: A002 - the word of the interface
    """Read ``certificateFingerprint``: the 32 bytes of the peer's *CA*, or None where there is no SHA-256 (TRUST-07).

    The key counts in any spelling (``sha-256``), and so does the misprint ``SHA265``; the value is hex with or without
    colons, or Base64.

    Raises:
        ValueError: The value is not 32 bytes in one of these, or two keys disagree; says so after the member's name.
    """
    wanted = {key.lower() for key in FINGERPRINT_KEYS}
    values = {value.strip() for key, value in (map or {}).items() if _NO_LETTER.sub("", key.lower()) in wanted}
    read = {_read_fingerprint(value) for value in values}
    if len(read) > 1:
        raise ValueError("holds two different SHA-256 fingerprints")
    return read.pop() if read else None


def _read_fingerprint(value: str) -> bytes:
    if _HEX.fullmatch(value):
        return bytes.fromhex(value.replace(":", ""))
    if _BASE64.fullmatch(value):
        return base64.urlsafe_b64decode(value.replace("+", "-").replace("/", "_").rstrip("=") + "=")
    raise ValueError("holds no SHA-256 fingerprint: 32 bytes in hex, with or without colons, or in Base64")
