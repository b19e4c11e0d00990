"""The pairing server's side of the attempt, without I/O (PAIR).

Every method takes ``now`` (seconds of one monotonic clock) and random bytes. What a request handler could forget is
here: the order, the 15 seconds, the second between attempts, identical repeats, the bounds, the withdrawal of tokens.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from s2connect.certs.fingerprint import parse_fingerprint_map
from s2connect.https.rate import network_of
from s2connect.model.common import SHA256, Deployment, EndpointDescription, MalformedMessage, NodeId, Wire
from s2connect.model.local import LocalEndpoint, LocalNode
from s2connect.model.log_limiter import LogLimiter
from s2connect.model.pairing import (
    ConnectionDetails,
    FinalizePairing,
    PairingErrorReason,
    PostConnectionDetails,
    RequestConnectionDetails,
    RequestPairing,
    RequestPairingResponse,
)
from s2connect.model.reply import BUSY, UNAUTHORIZED, Reply
from s2connect.model.roles import CommunicationRole, communication_role
from s2connect.model.secret import TOKEN_ENTROPY, AccessToken, HmacChallenge, HmacChallengeResponse, PairingAttemptId
from s2connect.model.text import for_display
from s2connect.model.url import BaseUrl
from s2connect.pairing.attempt import Attempt, State
from s2connect.pairing.challenge import LiveProofs, matches, respond
from s2connect.pairing.code import AfterFailure, IssuedToken, TokenTable
from s2connect.pairing.interface import AttemptFailed, NoValidCode, PairingServerEvent, ReflectionRefused
from s2connect.pairing.rate_limiter import RESPONSE_DELAY, NodeRateLimiter, Turn
from s2connect.pairing.refusals import incompatible, malformed, refusal
from s2connect.store.base import Pairing, PairKey, Pin

_log = logging.getLogger(__name__)

ATTEMPT_LIFETIME = 15.0
"""PAIR-04: seconds an attempt lives from the moment its id was issued."""

MAX_ATTEMPTS = 2000
"""PAIR-12: attempts in flight on one endpoint."""

MAX_ATTEMPTS_PER_ADDRESS = 1000
"""PAIR-12: most attempts in flight of one address, so that others keep theirs; a gateway pairs hundreds."""

MAX_KEPT_ATTEMPTS = 10_000
"""Attempts in flight or ended within their 15 seconds, which are kept for identical repeats."""

ATTEMPT_ID_BYTES = 24
ANSWER_ENTROPY = ATTEMPT_ID_BYTES + 32
"""Random bytes for an answer: the attempt id (PAIR-03) and the server's challenge (HMAC-01)."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A ``requestPairing`` that passed every check independent of the token."""

    address: str
    node: LocalNode
    request: RequestPairing
    digest: bytes
    binding: bytes


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Numbers of attempts that are not in this core, for the bounds of PAIR-12 (errata S2C-50).

    The bounds are ``scale`` times as large, but for that of an address.
    """

    in_flight: int = 0
    of_source: int = 0
    kept: int = 0
    scale: int = 1


@dataclass(frozen=True, slots=True)
class Queued:
    """Queued request that passed every check independent of the token; to be answered at its turn."""

    turn: Turn
    arrived_at: float
    address: str
    node: LocalNode
    request: RequestPairing
    digest: bytes
    binding: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that is not to be sent before ``proofs`` took the claim of ``sent`` and ``expected`` (HMAC-05)."""

    queued: Queued
    issued: IssuedToken = field(repr=False)
    challenge: HmacChallenge = field(repr=False)
    attempt_id: PairingAttemptId = field(repr=False)
    sent: HmacChallengeResponse = field(repr=False)
    expected: HmacChallengeResponse = field(repr=False)
    expires_at: float


@dataclass(frozen=True, slots=True)
class Commit:
    """A pairing that must be durable before the client gets its response (PAIR-10)."""

    pairing: Pairing
    token: AccessToken = field(repr=False)
    attempt_id: PairingAttemptId = field(repr=False)


_W = TypeVar("_W", bound=Wire)


@dataclass(frozen=True, slots=True)
class _Step(Generic[_W]):
    """A later request of an attempt, to be dealt with for the first time."""

    operation: str
    attempt: Attempt
    request: _W
    digest: bytes
    now: float


_BAD_REQUEST = Reply(400)
_NO_NODE = refusal(PairingErrorReason.NODE_NOT_FOUND, "There is no such node here.")


class PairingServer:
    """Pairing server: all attempts on the nodes of one endpoint.

    Attributes:
        elsewhere: Numbers of the attempts that others keep, where several instances share them.
        delay: Seconds between two answers of a node (PAIR-02).
        events: Attempts that ended without a pairing since it was last emptied; the endpoint takes and clears it.
        proofs: What claims are made of; servers that share an identity share it, too.
    """

    def __init__(
        self,
        endpoint: Callable[[], LocalEndpoint],
        *,
        session_url: Callable[[], BaseUrl],
        wan_clients_only: bool = False,
        response_delay: float = RESPONSE_DELAY,
        proofs: LiveProofs | None = None,
    ) -> None:
        """Serve the nodes of ``endpoint``, which gives it as it is now; ``session_url`` gives our own.

        With ``wan_clients_only`` this is a server that a vendor runs in the WAN for endpoints in the LAN (ROLE-03 a).
        Other values of ``response_delay`` (PAIR-02, in seconds) are for tests only.
        """
        self._endpoint = endpoint
        self._session_url = session_url
        self._wan_clients_only = wan_clients_only
        self.delay = response_delay
        self.proofs = proofs or LiveProofs()
        self._tokens: dict[NodeId, TokenTable] = {}
        self._limiters: dict[NodeId, NodeRateLimiter] = {}
        self._attempts: dict[PairingAttemptId, Attempt] = {}  # in the order of their expiry
        self._by_request: dict[bytes, Attempt] = {}
        self._in_flight: Counter[str] = Counter()  # queued, or issued and not ended, by source address
        self._reports = LogLimiter()
        self.events: list[PairingServerEvent] = []
        self.elsewhere = Elsewhere()

    def number_of_nodes(self) -> int:
        """Return how many nodes the endpoint has now."""
        return len(self._endpoint().nodes)

    def part(self) -> PairingServer:
        """Return a server without any state, for a part of what several instances share: see :meth:`take`."""
        part = PairingServer(
            self._endpoint,
            session_url=self._session_url,
            wan_clients_only=self._wan_clients_only,
            response_delay=self.delay,
        )
        part._reports = self._reports
        return part

    def take(
        self,
        node: NodeId,
        tokens: TokenTable,
        limiter: NodeRateLimiter,
        attempts: Iterable[Attempt] = (),
        elsewhere: Elsewhere | None = None,
    ) -> None:
        """Take over the state of a node, and some of its attempts in the order of their expiry."""
        self._tokens[node], self._limiters[node] = tokens, limiter
        for attempt in attempts:
            self._attempts[attempt.id] = self._by_request[attempt.request] = attempt
            self._in_flight[attempt.source] += attempt.state is not State.ENDED
        self.elsewhere = elsewhere or self.elsewhere

    def attempts(self) -> dict[PairingAttemptId, Attempt]:
        """Return the attempts as they are now, those that ended within their 15 seconds included."""
        return dict(self._attempts)

    def tokens(self, node: NodeId) -> TokenTable:
        """Return the tokens of a node, to issue, expect, spend and withdraw them."""
        return self._tokens.setdefault(node, TokenTable())

    def forget(self, node: NodeId) -> None:
        """Withdraw the tokens of a node that is removed, and end the attempts on it but one that is being stored."""
        self._tokens.pop(node, None)
        self._limiters.pop(node, None)
        for attempt in self._attempts.values():
            if attempt.node == node and attempt.state not in (State.ENDED, State.FINALIZING):
                self._end(attempt)

    # requestPairing

    def request_pairing(self, body: bytes, *, binding: bytes, address: str, ready: bool, now: float) -> Queued | Reply:
        """:meth:`check` a ``requestPairing``, and :meth:`queue` it."""
        self.expire(now=now)
        asked = self.check(body, binding=binding, address=address, ready=ready, now=now)
        return asked if isinstance(asked, Reply) else self.queue(asked, now=now)

    def check(self, body: bytes, *, binding: bytes, address: str, ready: bool, now: float) -> Asked | Reply:
        """Check a ``requestPairing`` (PAIR-01); ``binding`` is F or D of HMAC-02 for its connection."""
        try:
            request = RequestPairing.from_json(body)
        except MalformedMessage as error:
            more = self._reports.due("malformed", now)
            level = logging.INFO if more is None else logging.WARNING  # strangers must not fill the log
            _log.log(level, "requestPairing of %s refused: %s%s", for_display(address, 60), error, more or "")
            return malformed(error)
        node = self._target(self._endpoint(), request, now=now)
        if isinstance(node, Reply):
            return node
        refused = incompatible(node, request, ready=ready, wan_clients_only=self._wan_clients_only)
        if refused is not None:
            return refused
        return Asked(address, node, request, _digest("requestPairing", request), binding)

    def queue(self, asked: Asked, *, now: float) -> Queued | Reply:
        """Queue a checked request on its node (PAIR-02).

        Returns a reply, or what :meth:`wait` says when to :meth:`answer`; :meth:`abandon` it otherwise.
        """
        source, elsewhere = network_of(asked.address), self.elsewhere
        if (
            self._in_flight.total() + elsewhere.in_flight >= MAX_ATTEMPTS * elsewhere.scale
            or self._in_flight[source] + elsewhere.of_source >= MAX_ATTEMPTS_PER_ADDRESS
            or len(self._attempts) + elsewhere.kept >= MAX_KEPT_ATTEMPTS * elsewhere.scale
        ):
            return BUSY
        turn = self.limiter(asked.node.id).queue(asked.address, now=now)
        if turn is None:
            return BUSY
        self._in_flight[turn.source] += 1
        return Queued(turn, now, asked.address, asked.node, asked.request, asked.digest, asked.binding)

    def limiter(self, node: NodeId) -> NodeRateLimiter:
        """Return the rate limiter of a node."""
        return self._limiters.setdefault(node, NodeRateLimiter(delay=self.delay))

    def _target(self, endpoint: LocalEndpoint, request: RequestPairing, *, now: float) -> LocalNode | Reply:
        if request.node_id is not None and request.node_id_alias is not None:
            return refusal(PairingErrorReason.PARSING_ERROR, "nodeId and nodeIdAlias exclude each other.")
        if request.node_id is None and request.node_id_alias is None:
            node = endpoint.only_node() or self._expecting(endpoint, request.client_node_description.id, now=now)
            return node or refusal(
                PairingErrorReason.NO_NODE_ID_PROVIDED, "This endpoint has several nodes; use the code with its alias."
            )
        node = (
            endpoint.nodes.get(request.node_id)
            if request.node_id is not None
            else endpoint.by_alias(request.node_id_alias or "")
        )
        return node or _NO_NODE

    def _expecting(self, endpoint: LocalEndpoint, client: NodeId, *, now: float) -> LocalNode | None:
        """Return the one node where the client's code was typed; an order to pair by long-polling does not name it."""
        found = [
            n for n in endpoint.nodes.values() if n.id in self._tokens and self.tokens(n.id).expects(client, now=now)
        ]
        return found[0] if len(found) == 1 else None

    def wait(self, queued: Queued, *, now: float) -> float | Reply | None:
        """Take this request's turn and return None if it has come; otherwise return the time at which to call again.

        It is a 503 where its place was given to somebody else, and a refusal where the node was removed meanwhile;
        :meth:`abandon` it then.
        """
        if self.is_removed(queued.node):
            return _NO_NODE
        return BUSY if queued.turn.displaced else self.limiter(queued.node.id).wait(queued.turn, now=now)

    def is_removed(self, node: LocalNode) -> bool:
        """Return whether a node was removed meanwhile."""
        return node.id not in self._endpoint().nodes

    def abandon(self, queued: Queued) -> None:
        """Drop a queued request: its connection or this server is closing."""
        if (limiter := self._limiters.get(queued.node.id)) is not None:  # that of a removed node is gone
            limiter.leave(queued.turn)
        self._left(queued.turn.source)

    def answer(self, queued: Queued, *, now: float, entropy: bytes) -> Reply | Answer:
        """Answer a queued request whose turn has come; ``entropy`` holds :data:`ANSWER_ENTROPY` random bytes.

        The token is looked at here, so that a refusal for want of one costs the same second (PAIR-02). Claim the proofs
        of an :class:`Answer`, and call :meth:`claimed`.
        """
        self._left(queued.turn.source)
        self.expire(now=now)
        if (same := self._same(queued, now)) is not None:
            return same
        client = queued.request.client_node_description.id
        issued = self.tokens(queued.node.id).valid(now=queued.arrived_at, client=client)
        if issued is None:
            if count := self._reports.count(("no code", queued.node.id), now):
                state = self.tokens(queued.node.id).state(now=now)
                self.events.append(NoValidCode(queued.node.id, state, count))
            return refusal(
                PairingErrorReason.NO_VALID_PAIRING_TOKEN_ON_PAIRING_SERVER,
                "No pairing code is valid here now; ask for a new one on this device.",
            )
        challenge = HmacChallenge.from_bytes(entropy[ATTEMPT_ID_BYTES:ANSWER_ENTROPY])
        return Answer(
            queued,
            issued,
            challenge,
            PairingAttemptId(base64.b64encode(entropy[:ATTEMPT_ID_BYTES]).decode("ascii")),
            sent=respond(queued.request.client_hmac_challenge, issued.token, queued.binding),
            expected=respond(challenge, issued.token, queued.binding),
            expires_at=now + ATTEMPT_LIFETIME,
        )

    def _same(self, queued: Queued, now: float) -> Reply | None:
        """Return the answer to an earlier identical request (PAIR-07); its digest covers a challenge."""
        same = self._by_request.get(queued.digest)
        return same.answer if same is not None and same.state is not State.ENDED and same.expires_at > now else None

    def claimed(self, answer: Answer, *, free: bool, now: float) -> Reply:
        """Begin an attempt and return its answer if the claim was taken, otherwise a refusal that reveals nothing."""
        queued = answer.queued
        if not free:
            if count := self._reports.count("reflection", now):
                self.events.append(ReflectionRefused(queued.node.id, queued.address, count))
            return refusal(PairingErrorReason.OTHER, "The request was refused.")
        if (same := self._same(queued, now)) is not None:
            return same
        if now >= answer.expires_at:
            return BUSY  # a claim lives as long as the attempt would have
        if self.is_removed(queued.node):
            return _NO_NODE
        endpoint = self._endpoint()
        reply = Reply(
            200,
            RequestPairingResponse(
                pairing_attempt_id=answer.attempt_id,
                server_node_description=queued.node.description,
                server_endpoint_description=endpoint.description,
                selected_hmac_hashing_algorithm=SHA256,
                client_hmac_challenge_response=answer.sent,
                server_hmac_challenge=answer.challenge,
            ),
        )
        self._in_flight[queued.turn.source] += 1
        self._attempts[answer.attempt_id] = self._by_request[queued.digest] = Attempt(
            id=answer.attempt_id,
            node=queued.node.id,
            request=queued.digest,
            address=queued.address,
            source=queued.turn.source,
            peer=queued.request.client_node_description,
            peer_endpoint=queued.request.client_endpoint_description,
            issued=answer.issued,
            expected=answer.expected,
            answer=reply,
            expires_at=answer.expires_at,
            role=communication_role(
                own=endpoint.deployment,
                own_role=queued.node.description.role,
                peer=queued.request.client_endpoint_description.deployment or endpoint.deployment,
            ),
        )
        return reply

    # requestConnectionDetails, postConnectionDetails

    def request_connection_details(
        self, attempt_id: PairingAttemptId, body: bytes, *, now: float, entropy: bytes
    ) -> Reply:
        """Give the connection details to a future communication client (PAIR-05, PAIR-08)."""
        step = self._step("requestConnectionDetails", RequestConnectionDetails, attempt_id, body, now=now)
        if isinstance(step, Reply):
            return step
        refused = self._refused_details(step, step.request.server_hmac_challenge_response, CommunicationRole.SERVER)
        if refused is not None:
            return refused
        attempt = step.attempt
        attempt.token = AccessToken.from_bytes(entropy[:TOKEN_ENTROPY])
        attempt.state = State.EXCHANGED
        details = ConnectionDetails(initiate_session_url=self._session_url(), access_token=attempt.token)
        return self._remember(attempt, step.digest, Reply(200, details))

    def post_connection_details(self, attempt_id: PairingAttemptId, body: bytes, *, now: float) -> Reply:
        """Take the connection details of a future communication server (PAIR-05, TRUST-07)."""
        step = self._step("postConnectionDetails", PostConnectionDetails, attempt_id, body, now=now)
        if isinstance(step, Reply):
            return step
        refused = self._refused_details(step, step.request.server_hmac_challenge_response, CommunicationRole.CLIENT)
        if refused is not None:
            return refused
        attempt, details = step.attempt, step.request.connection_details
        if (attempt.peer_deployment or self._endpoint().deployment) is Deployment.LAN:
            fingerprint = _read_fingerprint(details)
            if isinstance(fingerprint, str):
                return self._malformed(attempt, step.operation, step.digest, fingerprint, now=now)
            attempt.pin = Pin(fingerprint)
        attempt.session_url, attempt.token = details.initiate_session_url, details.access_token
        attempt.state = State.EXCHANGED
        return self._remember(attempt, step.digest, Reply(204))

    def _refused_details(self, step: _Step[Any], proof: HmacChallengeResponse, role: CommunicationRole) -> Reply | None:
        """Return the refusal of a details request out of order or without proof of the token, None for a good one."""
        if step.attempt.state is not State.REQUESTED or step.attempt.role is not role:
            return self._fail(step, _BAD_REQUEST, "out_of_order")
        if not matches(step.attempt.expected, proof):
            return self._fail(step, Reply(403), "wrong_code")
        return None

    # finalizePairing

    def finalize(self, attempt_id: PairingAttemptId, body: bytes, *, now: float, wall_time: float) -> Reply | Commit:
        """Finish an attempt (PAIR-09). Make a :class:`Commit` durable, then call :meth:`committed`."""
        step = self._step("finalizePairing", FinalizePairing, attempt_id, body, now=now)
        if isinstance(step, Reply):
            return step
        attempt = step.attempt
        if step.request.success is None:
            return self._malformed(attempt, step.operation, step.digest, "success is missing", now=now)
        if not step.request.success:
            return self._fail(step, Reply(204), "refused_by_client")
        if attempt.state is not State.EXCHANGED or attempt.token is None or attempt.issued.void:
            return self._fail(step, _BAD_REQUEST, "out_of_order")
        if attempt.issued.reserved:
            return BUSY  # another pairing with this code is being stored; if that fails, this one may be
        attempt.issued.reserved = not attempt.issued.static
        attempt.state = State.FINALIZING
        return Commit(
            Pairing(
                key=PairKey(attempt.node, attempt.peer.id),
                communication_role=attempt.role,
                peer=attempt.peer,
                peer_endpoint=with_deployment(attempt.peer_endpoint, self._endpoint().deployment),
                initiate_session_url=attempt.session_url,
                pin=attempt.pin,
                paired_at=wall_time,
            ),
            attempt.token,
            attempt.id,
        )

    def committed(self, attempt_id: PairingAttemptId) -> Reply:
        """Return the response once the pairing is durable; spends the token, ends the attempt (PAIR-10)."""
        attempt = self._attempts[attempt_id]
        self._end(attempt)
        self.tokens(attempt.node).spend(attempt.issued)
        return self._remember(attempt, _digest("finalizePairing", FinalizePairing(success=True)), Reply(204))

    def not_now(self, attempt_id: PairingAttemptId) -> Reply:
        """Return the response for a pairing not stored for now: nothing changed, the client may repeat its request."""
        self._free(attempt_id)
        return BUSY

    def commit_failed(self, attempt_id: PairingAttemptId) -> Reply:
        """Return the response for a pairing that could not be stored; the client may repeat its request (PAIR-10)."""
        self._free(attempt_id).unstored = True
        return Reply(500)

    def _free(self, attempt_id: PairingAttemptId) -> Attempt:
        attempt = self._attempts[attempt_id]
        attempt.state = State.EXCHANGED
        attempt.issued.reserved = False
        return attempt

    # Common to the steps

    def _step(
        self, operation: str, kind: type[_W], attempt_id: PairingAttemptId, body: bytes, *, now: float
    ) -> _Step[_W] | Reply:
        """Read a later request of an attempt that is alive, or ended within its 15 seconds (PAIR-03, PAIR-04).

        Returns the response instead for a repeated one (PAIR-07), a malformed one, or one that comes out of order.
        """
        self.expire(now=now)
        attempt = self._attempts.get(attempt_id)
        if attempt is None or attempt.expires_at <= now:
            return UNAUTHORIZED
        request = _read(kind, body)
        digest = _digest(operation, body if isinstance(request, str) else request)
        if digest in attempt.replies:
            return attempt.replies[digest]
        if attempt.state is State.ENDED:
            return UNAUTHORIZED
        if attempt.state is State.FINALIZING:
            return BUSY
        if isinstance(request, str):
            return self._malformed(attempt, operation, digest, request, now=now)
        return _Step(operation, attempt, request, digest, now)

    @staticmethod
    def _remember(attempt: Attempt, digest: bytes, reply: Reply) -> Reply:
        attempt.replies[digest] = reply  # three at most: every request but a repeated one advances or ends the attempt
        return reply

    def _end(self, attempt: Attempt) -> None:
        attempt.state = State.ENDED
        attempt.token = None
        self._left(attempt.source)

    def _left(self, source: str) -> None:
        self._in_flight[source] -= 1
        if not self._in_flight[source]:
            del self._in_flight[source]

    def _malformed(self, attempt: Attempt, operation: str, digest: bytes, fault: str, *, now: float) -> Reply:
        _log.warning("%s of %s refused: %s", operation, for_display(attempt.address, 60), fault)
        self._failed(attempt, "malformed", now=now)
        return self._remember(attempt, digest, malformed(fault))

    def _fail(self, step: _Step[Any], reply: Reply, reason: str) -> Reply:
        self._failed(step.attempt, reason, now=step.now)
        return self._remember(step.attempt, step.digest, reply)

    def _failed(self, attempt: Attempt, reason: str, *, now: float) -> None:
        self._end(attempt)
        node, address, after = attempt.node, attempt.address, AfterFailure.NOTHING
        if attempt.unstored and reason in ("refused_by_client", "expired"):
            reason = "not_stored"
        else:
            self.limiter(node).failed(address, now=now)
            after = self.tokens(node).failed(attempt.issued)
        self.events.append(AttemptFailed(node, attempt.peer, address, reason, after))

    def expire(self, *, now: float) -> None:
        """Forget attempts whose 15 seconds are over; those not ended by then have failed (PAIR-04)."""
        while self._attempts:
            attempt = next(iter(self._attempts.values()))
            if attempt.expires_at > now or attempt.state is State.FINALIZING:
                return  # FINALIZING: its request came in time; the store decides
            if attempt.state is not State.ENDED:
                self._failed(attempt, "expired", now=now)
            del self._attempts[attempt.id]
            if self._by_request.get(attempt.request) is attempt:
                del self._by_request[attempt.request]

    def next_deadline(self) -> float | None:
        """Return the time at which :meth:`expire` has something to do; None for never."""
        return next((a.expires_at for a in self._attempts.values()), None)


def _read(kind: type[_W], body: bytes) -> _W | str:
    """Parse a body. Returns a text that names the faulty member of a malformed one."""
    try:
        return kind.from_json(body)
    except MalformedMessage as error:
        return str(error)


def _read_fingerprint(details: ConnectionDetails) -> bytes | str:
    """Parse the fingerprint required of a communication server in the LAN (TRUST-07), or return the fault."""
    member, found = "connectionDetails.certificateFingerprint", details.certificate_fingerprint
    try:
        fingerprint = parse_fingerprint_map(found)
    except ValueError as error:
        return f"{member} {error}"
    if fingerprint is None:
        return f"{member} {'is missing' if found is None else 'holds no text under the key SHA256'}"
    return fingerprint


def _digest(operation: str, request: Wire | bytes) -> bytes:
    """Return the digest that identifies repeats: of the operation and the parsed values (PAIR-07, errata S2C-05)."""
    data = request if isinstance(request, bytes) else request.to_json()
    return hashlib.sha256(operation.encode("ascii") + b"\0" + data).digest()


def with_deployment(description: EndpointDescription, fallback: Deployment) -> EndpointDescription:
    """Return the description, with the deployment filled in where the peer left it out (errata S2C-03)."""
    return description if description.deployment else description.model_copy(update={"deployment": fallback})
