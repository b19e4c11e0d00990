"""Registry of the proofs that live pairing attempts accept; no response of ours may be one of them (HMAC-05)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

from s2connect.model.secret import HmacChallengeResponse


@dataclass(frozen=True, slots=True)
class ProofClaim:
    """Digests of our response to a client's challenge, and of the proof that the new attempt will accept.

    Both are SHA-256 digests of HMACs over 32 random bytes: whoever looks them up learns nothing from the time it takes.

    Attributes:
        sent: Our response to the client's challenge.
        expected: The response to our own challenge that the attempt accepts.
        lifetime: Seconds for which it accepts it.
    """

    sent: bytes
    expected: bytes
    lifetime: float


class LiveProofs(Protocol):
    """Registry shared by all servers of ``requestPairing`` with one identity (certificate or domain name)."""

    async def claim(self, claim: ProofClaim, *, now: float) -> bool:
        """Register the proof that the new attempt accepts, unless a live attempt accepts the response to be sent.

        One atomic operation; nothing may be sent before it has returned true. The other order needs no check: a new
        challenge of ours has 32 random bytes, so that no answer given before it was drawn can be a proof for it.

        Args:
            claim: What is about to be sent.
            now: Monotonic seconds of this process. A store that processes share goes by its own clock.

        Returns:
            False where the answer would prove the token to a live attempt: it must not be sent, and nothing was stored.

        Raises:
            StorageError: It could not be found out; nothing may be sent.
        """


class MemoryLiveProofs:
    """Live proofs of one process. Bounded by the attempts that a pairing server keeps."""

    def __init__(self) -> None:
        self._until: dict[bytes, float] = {}  # in the order of their expiry

    async def claim(self, claim: ProofClaim, *, now: float) -> bool:
        return self.claim_at_once(claim, now=now)

    def claim_at_once(self, claim: ProofClaim, *, now: float) -> bool:
        """Synchronous :meth:`claim`, for tests without a loop."""
        while self._until:
            oldest = next(iter(self._until))
            if self._until[oldest] > now:
                break
            del self._until[oldest]
        if claim.sent in self._until or claim.sent == claim.expected:
            return False
        self._until.pop(claim.expected, None)
        self._until[claim.expected] = now + claim.lifetime
        return True


def proof_digest(proof: HmacChallengeResponse) -> bytes:
    """Return the digest by which a proof is looked up."""
    return hashlib.sha256(proof.raw).digest()
