"""Store (durable state, as operations rather than tables) and vault (secrets): the interfaces.

Every operation of a :class:`Store` is atomic, and durable when it returns: after SIGKILL or a power cut at any point
the state is that before or that after it. The communication server keeps digests of access tokens only (SES-06); the
communication client must keep the tokens themselves, and they go into the :class:`Vault`, as do private keys.

All methods may be cancelled: the operation then happened whole or not at all, and the caller does not know which.
All raise :class:`~s2connect.errors.StorageUnavailable` when the disk is full, read-only or broken, or the store is
closed; nothing is half done. They raise :class:`~s2connect.errors.InsecurePermissions` when others can read the vault.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from s2connect.model.common import EndpointDescription, NodeDescription, NodeId
from s2connect.model.roles import CommunicationRole
from s2connect.model.secret import MAX_SECRET_CHARACTERS, AccessToken
from s2connect.model.url import BaseUrl


@dataclass(frozen=True, slots=True)
class PairKey:
    """A pair of nodes: ours and the peer's."""

    local: NodeId
    remote: NodeId


@dataclass(frozen=True, slots=True)
class Pin:
    """The CA of a peer with a self-signed certificate: every connection must validate against exactly this root.

    Attributes:
        ca_fingerprint: SHA-256 of the DER of the *CA* certificate, 32 bytes (TRUST-06, TRUST-07). Never the leaf's.
        ca_der: The certificate itself, once it has been seen; None while only its fingerprint was received (TRUST-07).
    """

    ca_fingerprint: bytes
    ca_der: bytes | None = field(default=None, repr=False)


def token_digest(token: AccessToken) -> bytes:
    """SHA-256 of an access token, which is all a communication server keeps of it (SES-06)."""
    return hashlib.sha256(token.reveal().encode("ascii")).digest()


@dataclass(frozen=True, slots=True)
class Pairing:
    """One pairing on this side. Holds no secret.

    Attributes:
        key: Our node and the peer's.
        communication_role: Our role after pairing (ROLE-02).
        peer: The peer node as it presents itself; from the network.
        peer_endpoint: The peer's endpoint as it presents itself; from the network.
        initiate_session_url: Where the communication client starts sessions; None on the communication server.
        pin: CA that the communication client accepts for that URL; None means normal PKI validation.
        paired_at: Wall-clock seconds since the epoch. Together with ``key`` it identifies the pairing: two that were
            made one after the other differ in it. Otherwise it is a label.
        confirmed: False while the answer to the last step of pairing is outstanding or lost (PAIRC-06).
    """

    key: PairKey
    communication_role: CommunicationRole
    peer: NodeDescription
    peer_endpoint: EndpointDescription
    initiate_session_url: BaseUrl | None = None
    pin: Pin | None = None
    paired_at: float = field(default_factory=time.time)
    confirmed: bool = True

    def is_same(self, other: Pairing) -> bool:
        """Return whether both are the same pairing, even with other details; a new one of the same pair is not."""
        return (self.key, self.paired_at) == (other.key, other.paired_at)


@dataclass(frozen=True, slots=True)
class Replaced:
    """A pairing ended by another one, and the tokens with which its server can be notified (ROLE-05)."""

    pairing: Pairing
    tokens: tuple[AccessToken, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Record:
    """Stored facts about one pair: pairings with the digest of their active token, and whether it has a tombstone."""

    confirmed: tuple[Pairing, bytes | None] | None = None
    unconfirmed: tuple[Pairing, bytes | None] | None = None
    unpaired: bool = False
    issued_at: float | None = None
    """Wall-clock seconds at which the active token of the confirmed pairing was issued (SES-07), if that is known."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some pairings of very many, oldest first.

    Attributes:
        pairings: The pairings.
        before: Where the older ones go on; None where there are none.
    """

    pairings: list[Pairing]
    before: int | None


class Store(Protocol):
    """Operations on pairings. One contract test runs against every implementation.

    A pair of nodes has at most one confirmed pairing, and beside it at most one unconfirmed one (PAIRC-06), which does
    not touch the confirmed one until :meth:`confirm_pairing`.

    Operations on one pairing take it as it was read. They find it by :meth:`Pairing.is_same`, whether it has been
    confirmed meanwhile or not, and do nothing to an earlier or later one of the same pair: whoever works with a pairing
    while it is replaced learns so, and spoils nothing.
    """

    async def pairings(
        self,
        local: NodeId | None = None,
        *,
        role: CommunicationRole | None = None,
        confirmed: bool | None = None,
        newest: int | None = None,
    ) -> list[Pairing]:
        """Return all pairings, oldest first, or only those of one of our nodes, with our role, or (un)confirmed.

        With ``newest`` they are at most so many, those that were made last.
        """

    async def page(self, most: int, *, local: NodeId | None = None, before: int | None = None) -> Page:
        """Return the newest pairings, at most so many, or the newest of those ``before`` a page.

        A pairing that is made meanwhile is on no later page, and none comes twice.
        """

    async def counts(self) -> dict[NodeId, int]:
        """Return the number of pairings of each of our nodes that has any."""

    async def beginning_with(self, beginning: str, *, local: NodeId | None = None) -> list[Pairing]:
        """Return pairings, of a node of ours if one is given, whose peer's id begins with a text.

        They are at most :data:`MAX_FOUND`; none for what begins no id.
        """

    async def pairings_of(self, key: PairKey) -> list[Pairing]:
        """Return the pairings of one pair: none, the confirmed one, the unconfirmed one, or both, confirmed first."""

    async def save_pairing(
        self, pairing: Pairing, token: AccessToken, *further: AccessToken, alone: bool = False
    ) -> list[Replaced]:
        """Store a pairing with its first access token (PAIR-10), and with further candidates (SESC-01).

        As communication client the tokens themselves are kept, as communication server a digest. A confirmed pairing
        replaces, in the same transaction, the confirmed one of the same pair, and clears the tombstone of that pair
        (ROLE-06). With ``alone`` it also ends everything that its node has with other peers, confirmed or not, which
        leaves a tombstone for each (ROLE-05). An unconfirmed one (``pairing.confirmed`` is false) replaces an
        unconfirmed one of the same pair only.

        Returns:
            What ``alone`` has ended.

        Raises:
            ValueError: The pairing is unconfirmed, and ``alone`` is set.
        """

    async def confirm_pairing(self, pairing: Pairing, *, alone: bool = False) -> list[Replaced] | None:
        """Turn an unconfirmed pairing into the confirmed one of its pair, with the effects of ``save_pairing``.

        Returns:
            What ``alone`` has ended; None where it was confirmed already, and nothing happened.

        Raises:
            NotPaired: The pairing is not there any more; nothing happened.
        """

    async def drop_unconfirmed(self, pairing: Pairing) -> bool:
        """Remove an unconfirmed pairing and its secrets; the confirmed one of the pair stays. No tombstone.

        False where there is none (any more), or where it has been confirmed.
        """

    async def candidate_tokens(self, pairing: Pairing) -> list[AccessToken]:
        """Communication client: the access tokens to try, oldest first (SESC-01).

        Empty where somebody has emptied the vault: only pairing again helps then.

        Raises:
            NotPaired: There is no such pairing in which we are communication client (any more).
        """

    async def add_pending_token(self, pairing: Pairing, token: AccessToken) -> None:
        """Communication client: append a token to the candidates (SESC-02). The same token twice is kept once.

        At most :data:`MAX_CANDIDATE_TOKENS` are kept: beyond that the second oldest goes, because the oldest is the one
        that was certainly accepted last. Raises NotPaired as :meth:`candidate_tokens`.
        """

    async def keep_token(self, pairing: Pairing, token: AccessToken) -> None:
        """Communication client: make this the only candidate (SESC-01, SESC-03). Raises NotPaired likewise."""

    async def record(self, key: PairKey) -> Record:
        """Communication server: return one consistent snapshot of the facts that decide on a pair's session request."""

    async def activate_token(self, pairing: Pairing, digest: bytes, issued_at: float) -> bool:
        """Communication server: make this the only active token of the pairing (SES-03).

        ``issued_at`` are wall-clock seconds; the first token of a pairing was issued when it was paired.

        False where there is no such pairing in which we are communication server (any more).
        """

    async def remove_pairing(self, pairing: Pairing, *, tombstone: bool) -> bool:
        """Remove a pairing, confirmed or not, and its secrets. False if it is not there (any more).

        With ``tombstone`` it is remembered that the pair was unpaired (SES-05), if it was removed.
        """

    async def update_descriptions(
        self, key: PairKey, *, node: NodeDescription | None, endpoint: EndpointDescription | None
    ) -> None:
        """Store the peer's present descriptions (SES-02), in the confirmed and the unconfirmed pairing.

        None leaves as it is. Does nothing without a pairing.
        """

    async def set_pin(self, pairing: Pairing, pin: Pin) -> None:
        """Complete a pin with the certificate that has been seen. Does nothing without a pairing."""

    async def refuse_server(self, url: BaseUrl) -> None:
        """Remember that long-polling is over for good with a server (LP-06); the oldest of too many goes."""

    async def refused_servers(self) -> list[BaseUrl]:
        """Return the servers with which long-polling is over for good, oldest first."""

    async def close(self) -> None:
        """Finish pending operations, even of cancelled callers, and release everything. Idempotent."""


MAX_FOUND = 100
"""Most pairings that :meth:`Store.beginning_with` returns."""

MAX_CANDIDATE_TOKENS = 8
"""Bound on what lost answers can pile up at the communication client; two is the normal maximum."""

MAX_REFUSED_SERVERS = 1000
"""Bound on remembered servers with which long-polling is over; the oldest go first."""

MAX_TOMBSTONES = 10_000
"""Bound on remembered unpairings; the oldest go first."""

GONE = "The pairing has been removed."
"""Text of :class:`~s2connect.errors.NotPaired` for a pairing that does not exist any more."""

MAX_VAULT_BYTES = 2 * MAX_SECRET_CHARACTERS * MAX_CANDIDATE_TOKENS + 1024
"""Bound on one secret: fits eight of the longest tokens read from a peer, each character escaped."""


def ids_beginning_with(text: str) -> tuple[UUID, UUID] | None:
    """Return the first and last id that begins with a text in small letters; None where none does."""
    digits = text.replace("-", "")
    if not digits or len(digits) > 32 or set(digits) - set("0123456789abcdef"):
        return None
    first, last = UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))
    return (first, last) if str(first).startswith(text) else None


def with_candidate(tokens: Sequence[AccessToken], token: AccessToken) -> list[AccessToken]:
    """Return the candidates after :meth:`Store.add_pending_token`."""
    kept = list(dict.fromkeys([*tokens, token]))
    return kept if len(kept) <= MAX_CANDIDATE_TOKENS else [kept[0], *kept[2:]]


class Vault(Protocol):
    """Keeps small secrets by name, durable when ``put`` returns. Methods block: call them in a thread.

    Names have 1 to 100 lower-case letters, digits, dots and dashes, and no dot at the beginning. Values are at most
    :data:`MAX_VAULT_BYTES` bytes; other names and longer values are a ValueError. ``put`` replaces atomically. Raises
    :class:`~s2connect.errors.StorageUnavailable`, and :class:`~s2connect.errors.InsecurePermissions` (SEC-02).
    """

    def get(self, name: str) -> bytes | None:
        """Return the secret, or None."""

    def put(self, name: str, secret: bytes) -> None:
        """Store or replace it."""

    def delete(self, name: str) -> None:
        """Remove it; no error where there is none."""

    def listed(self) -> list[str]:
        """Return the names of all secrets, as far as they can be listed: a keyring lists none."""
