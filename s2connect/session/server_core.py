"""The communication server's side of session initiation and token rotation, without I/O (SES)."""

from __future__ import annotations

import hmac
import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar
from uuid import UUID

from s2connect.model.common import MalformedMessage, NodeId, choose_name, choose_version
from s2connect.model.local import LocalEndpoint
from s2connect.model.reply import BUSY, UNAUTHORIZED, Reply
from s2connect.model.roles import CommunicationRole
from s2connect.model.secret import TOKEN_ENTROPY, AccessToken
from s2connect.model.session_init import (
    CommunicationDetailsErrorMessage,
    InitiateSession,
    InitiateSessionResponse,
    SessionErrorReason,
    Unpair,
)
from s2connect.store.base import Pairing, PairKey, token_digest
from s2connect.store.base import Record as Record

_log = logging.getLogger(__name__)

PENDING_LIFETIME = 15.0
"""SES-03: seconds within which a pending access token must be confirmed."""

UNCONFIRMED_LIFETIME = 15.0
"""PAIRC-06 [D]: seconds within which the first token of an unconfirmed pairing must be presented."""

ACCESS_TOKEN_LIFETIME = 5 * 365 * 86_400.0
"""SES-07: seconds for which an access token is valid."""

CLOCK_IS_SET_FROM = 1_735_689_600.0
"""Wall-clock seconds (1 January 2025) before which a clock was not set, and the age of a token is unknown."""

UNKNOWN_TOKEN_GRACE = 2.0
"""Seconds in which a peer that has two tokens, because an answer was lost, comes with the other one."""

UNKNOWN_TOKEN_INTERVAL = 3600.0
"""Seconds in which an unknown token of one paired peer is reported once: whoever knows both ids can bring one."""

MAX_PENDING = 20_000
"""Pending tokens of one endpoint."""

MAX_PENDING_PER_PAIR = 8
"""Pending tokens of one pair; the oldest goes first."""

VERSION = 2
"""Version of :meth:`SessionServer.dump`."""

_Request = TypeVar("_Request", InitiateSession, Unpair)


@dataclass(frozen=True, slots=True)
class Accepted:
    """A session request of a paired client, with the chosen protocol and S2 JSON version.

    ``pairing`` is the one whose token was presented; where it is unconfirmed, confirm it now. ``s2_version`` is in the
    client's spelling (VER-06).
    """

    pairing: Pairing
    protocol: str
    s2_version: str
    message: InitiateSession


@dataclass(frozen=True, slots=True)
class LedTo:
    """Answer to a request for a session: it is prepared by another instance, once its connection comes there.

    Attributes:
        instance: Name of that instance.
    """

    instance: str


@dataclass(frozen=True, slots=True)
class Holder:
    """Instance that has prepared a session, or will do so, to which its connection should come.

    Attributes:
        name: Its name.
        url: Its WebSocket URL; empty for that of all instances.
    """

    name: str
    url: str


@dataclass(frozen=True, slots=True)
class Activation:
    """A pending token was confirmed: activate its digest durably, then accept the connection (SES-03).

    ``pairing`` is the one that it was issued for; where that was replaced meanwhile, the token counts for nothing.
    ``holder`` is the instance that has prepared the session; None where any takes the connection.
    """

    pairing: Pairing
    digest: bytes
    protocol: str
    s2_version: str
    holder: Holder | None = None


def refusal(reason: SessionErrorReason, info: str) -> Reply:
    """Return a 400 with its reason; ``info`` is a sentence of ours for a person (SES-01)."""
    return Reply(400, CommunicationDetailsErrorMessage(error_message=reason, additional_info=info))


def surplus(pending: Sequence[bytes]) -> Sequence[bytes]:
    """Return those of a pair's pending tokens, oldest first, that make room for a new one."""
    return pending[: max(0, len(pending) - MAX_PENDING_PER_PAIR + 1)]


def _same(digest: bytes | None, token: AccessToken) -> bool:
    return digest is not None and hmac.compare_digest(digest, token_digest(token))


def read_request(kind: type[_Request], body: bytes) -> _Request | Reply:
    """Read an ``initiateSession`` or ``unpair`` (SES-01)."""
    try:
        return kind.from_json(body)
    except MalformedMessage as error:
        return refusal(SessionErrorReason.PARSING_ERROR, f"The request does not follow its schema: {error}.")


def key_of(request: InitiateSession | Unpair) -> PairKey:
    """Return the pair that a request is about."""
    return PairKey(request.server_node_id, request.client_node_id)


def authorised(record: Record, token: AccessToken | None, *, wall_time: float) -> Pairing | None:
    """Return the pairing whose active token this is, or None (SES-01).

    The token of an unconfirmed pairing counts for 15 seconds (PAIRC-06), any other for five years (SES-07).
    """
    if token is None:
        return None
    if record.confirmed is not None:
        pairing, digest = record.confirmed
        if pairing.communication_role is CommunicationRole.SERVER and _same(digest, token):
            if not _is_expired(record.issued_at, wall_time=wall_time):
                return pairing
            _log.warning("the access token of %s is older than five years; pair the two again", pairing.key.remote)
    if record.unconfirmed is not None:
        pairing, digest = record.unconfirmed
        young = wall_time - pairing.paired_at <= UNCONFIRMED_LIFETIME
        if young and pairing.communication_role is CommunicationRole.SERVER and _same(digest, token):
            return pairing
    return None


def with_unknown_token(record: Record, token: AccessToken | None) -> tuple[Pairing, bytes | None] | None:
    """Return the pairing that a request was about whose token is not its active one, and the digest of that.

    None where there is none.

    A peer that is paired has the active token, unless its state or ours is an older copy, or two share one identity.
    """
    if token is None or record.confirmed is None:
        return None
    pairing, digest = record.confirmed
    ours = pairing.communication_role is CommunicationRole.SERVER
    return (pairing, digest) if ours and not _same(digest, token) else None


def unknown_token_sentence(peer: str, *, connected_before: bool) -> str:
    """Return the sentence about a paired peer that came with an unknown token.

    ``connected_before`` says that it had a connection since this endpoint was opened, so that our state is no old copy.
    """
    if connected_before:
        return (
            f"{peer} came with an access that is out of date, although it was connected before: a second copy of its "
            "state runs somewhere, or an older one was put back there. If it does not come again by itself, pair the "
            "two again."
        )
    return (
        f"{peer} is paired and came with an access that is not known here: this home may be an older copy, such as a "
        "restored backup, or that of the other side is. Put the newest back, or pair the two again."
    )


def _is_expired(issued_at: float | None, *, wall_time: float) -> bool:
    """Return whether a token is too old (SES-07); False if it was issued while the clock was not set."""
    if issued_at is None or issued_at < CLOCK_IS_SET_FROM:
        return False
    return wall_time - issued_at > ACCESS_TOKEN_LIFETIME


class SessionServer:
    """Decides on session requests and keeps the pending tokens.

    Pending tokens are in memory only: after a crash the client's old token still counts (SES-02).

    Attributes:
        is_full: Set where others keep too many pending tokens beside these.
    """

    def __init__(self) -> None:
        self._pending: OrderedDict[bytes, tuple[float, Activation]] = OrderedDict()
        self._by_pair: dict[PairKey, list[bytes]] = {}
        self.is_full = False

    def dump(self) -> dict[str, Any]:
        """Return the pending tokens as a plain JSON value: digests, and no secret."""
        return {
            "version": VERSION,
            "pending": [
                {
                    "digest": digest.hex(),
                    "expires_at": expires_at,
                    "local": str(activation.pairing.key.local),
                    "remote": str(activation.pairing.key.remote),
                    "paired_at": activation.pairing.paired_at,
                    "protocol": activation.protocol,
                    "s2_version": activation.s2_version,
                    "holder": None if activation.holder is None else asdict(activation.holder),
                }
                for digest, (expires_at, activation) in self._pending.items()
            ],
        }

    @classmethod
    def load(cls, value: Mapping[str, Any], pairing_of: Callable[[PairKey, float], Pairing | None]) -> SessionServer:
        """Return the server of :meth:`dump`.

        ``pairing_of`` gives the pairing of a pair and the time it was made at; the tokens of one that is no more count
        for nothing, and are left out.

        Raises:
            ValueError: It is of another version.
        """
        if value.get("version") != VERSION:
            raise ValueError("the pending tokens were written by another version")
        server = cls()
        for one in value["pending"]:
            key = PairKey(NodeId(UUID(one["local"])), NodeId(UUID(one["remote"])))
            pairing = pairing_of(key, one["paired_at"])
            if pairing is not None:
                digest = bytes.fromhex(one["digest"])
                holder = None if one["holder"] is None else Holder(**one["holder"])
                activation = Activation(pairing, digest, one["protocol"], one["s2_version"], holder)
                server._pending[digest] = one["expires_at"], activation
                server._by_pair.setdefault(key, []).append(digest)
        return server

    @staticmethod
    def initiate(
        endpoint: LocalEndpoint,
        message: InitiateSession,
        token: AccessToken | None,
        record: Record,
        *,
        wall_time: float,
        offered: Collection[str] | None = None,
    ) -> Accepted | Reply:
        """Check an ``initiateSession`` in the order of SES-01, up to the readiness of node and application.

        ``offered`` are the communication protocols that can be offered now, None for all of the node's.
        """
        node = endpoint.nodes.get(message.server_node_id)
        if record.confirmed is None and record.unconfirmed is None and record.unpaired:
            return refusal(SessionErrorReason.NO_LONGER_PAIRED, "This pair was unpaired.")
        pairing = authorised(record, token, wall_time=wall_time)
        if node is None or pairing is None:
            return UNAUTHORIZED
        own = [name for name in node.communication_protocols if offered is None or name in offered]
        protocol = choose_name(own, message.supported_communication_protocols)
        if protocol is None:
            names = ", ".join(own)
            return refusal(SessionErrorReason.INCOMPATIBLE_COMMUNICATION_PROTOCOLS, f"This node speaks {names}.")
        version = choose_version(node.s2_versions, message.supported_s2_message_versions)
        if version is None:
            names = ", ".join(node.s2_versions)
            return refusal(SessionErrorReason.INCOMPATIBLE_S2_MESSAGE_VERSIONS, f"This node speaks S2 JSON {names}.")
        return Accepted(pairing, protocol, version, message)

    def issue(
        self,
        endpoint: LocalEndpoint,
        accepted: Accepted,
        *,
        now: float,
        entropy: bytes,
        holder: Holder | None = None,
    ) -> Reply:
        """Answer an accepted request with a pending token of 32 random bytes (SES-02).

        ``holder`` is the instance that has prepared the session; None where any takes its connection.
        """
        self.expire(now=now)
        key = accepted.pairing.key
        mine = self._by_pair.get(key, [])
        for oldest in surplus(mine):
            mine.remove(oldest)
            del self._pending[oldest]
        if self.is_full or len(self._pending) >= MAX_PENDING:
            return BUSY
        token = AccessToken.from_bytes(entropy[:TOKEN_ENTROPY])
        digest = token_digest(token)
        activation = Activation(accepted.pairing, digest, accepted.protocol, accepted.s2_version, holder)
        self._pending[digest] = now + PENDING_LIFETIME, activation
        mine.append(digest)
        self._by_pair[key] = mine
        return Reply(
            200,
            InitiateSessionResponse(
                selected_communication_protocol=accepted.protocol,
                selected_s2_message_version=accepted.s2_version,
                access_token=token,
                server_node_description=endpoint.nodes[key.local].description,
                server_endpoint_description=endpoint.description,
            ),
        )

    def confirm(self, token: AccessToken | None, *, now: float) -> Activation | Reply:
        """Check a ``confirmAccessToken`` (SES-03). Make the activation durable, then :meth:`forget` the pair."""
        self.expire(now=now)
        # A look-up by SHA-256 digest reveals nothing of the token by its timing.
        pending = self._pending.get(token_digest(token)) if token is not None else None
        return UNAUTHORIZED if pending is None else pending[1]

    def pair_of(self, token: AccessToken | None, *, now: float) -> PairKey | None:
        """Return the pair of a pending token, None where there is none."""
        decision = self.confirm(token, now=now)
        return decision.pairing.key if isinstance(decision, Activation) else None

    def forget(self, key: PairKey) -> None:
        """Drop the pending tokens of a pair: one was activated, or the pair was unpaired."""
        for digest in self._by_pair.pop(key, ()):
            self._pending.pop(digest, None)

    def expire(self, *, now: float) -> None:
        """Drop pending tokens whose 15 seconds are over."""
        while self._pending:
            digest, (expires_at, activation) = next(iter(self._pending.items()))
            if expires_at > now:
                return
            del self._pending[digest]
            mine = self._by_pair.get(activation.pairing.key, [])
            mine.remove(digest)
            if not mine:
                del self._by_pair[activation.pairing.key]
