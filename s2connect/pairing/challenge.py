"""Challenge and response (HMAC)."""

from __future__ import annotations

import hashlib
import hmac

from s2connect.model.secret import HmacChallenge, HmacChallengeResponse
from s2connect.model.url import host_as_ascii
from s2connect.pairing.code import PairingToken

FINGERPRINT_BYTES = 32


def lan_binding(leaf_fingerprint: bytes) -> bytes:
    """F of HMAC-02: the SHA-256 of the DER of the pairing server's *leaf* certificate, 32 bytes.

    Raises:
        ValueError: Not 32 bytes.
    """
    if len(leaf_fingerprint) != FINGERPRINT_BYTES:
        raise ValueError("a SHA-256 fingerprint has 32 bytes")
    return leaf_fingerprint


def wan_binding(host: str) -> bytes:
    """D of HMAC-02: the host name of the pairing server, lower case, IDNA A-label, ASCII."""
    return host_as_ascii(host).encode("ascii")


def respond(challenge: HmacChallenge, token: PairingToken, binding: bytes) -> HmacChallengeResponse:
    """Answer a challenge: HMAC-SHA-256(key = challenge, message = token ‖ binding) (HMAC-02, HMAC-03)."""
    message = token.reveal().encode("ascii") + binding
    return HmacChallengeResponse.from_bytes(hmac.new(challenge.raw, message, hashlib.sha256).digest())


def matches(expected: HmacChallengeResponse, received: HmacChallengeResponse) -> bool:
    """Compare two responses in constant time (HMAC-04)."""
    return hmac.compare_digest(expected.raw, received.raw)
