"""Challenge and response (HMAC), and the responses that live pairing attempts accept (HMAC-05)."""

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


class LiveProofs:
    """The responses that the attempts of one identity (certificate or host name) accept, as SHA-256 digests.

    The responses are HMACs over 32 random bytes, so the time that it takes to look one up tells nothing. Bounded by the
    attempts that a pairing server keeps. This one is of one process; servers that share an identity need one in a store
    that they share, where :meth:`claim` is one atomic operation and raises StorageError if it cannot decide.
    """

    def __init__(self) -> None:
        self._until: dict[bytes, float] = {}  # in the order of their expiry

    async def claim(
        self, sent: HmacChallengeResponse, expected: HmacChallengeResponse, *, now: float, lifetime: float
    ) -> bool:
        """Register what a new attempt accepts for ``lifetime`` seconds, unless a live one accepts what is to be sent.

        If it returns False, ``sent`` would prove the token to a live attempt: it must not be sent, and nothing was
        registered. The other order needs no check: a new challenge has 32 random bytes, so no earlier answer proves it.
        """
        while self._until:
            oldest = next(iter(self._until))
            if self._until[oldest] > now:
                break
            del self._until[oldest]
        ours, accepted = (hashlib.sha256(response.raw).digest() for response in (sent, expected))
        if ours in self._until or ours == accepted:
            return False
        self._until.pop(accepted, None)
        self._until[accepted] = now + lifetime
        return True
