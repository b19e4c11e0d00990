"""The pairing client's side of one attempt, without I/O (PAIRC)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from s2connect.certs.fingerprint import fingerprint_map
from s2connect.errors import (
    CertificateRefused,
    PairingError,
    PairingExpired,
    PairingRefused,
    ProtocolViolation,
    WrongPairingCode,
)
from s2connect.model.common import SHA256, Deployment, MalformedMessage, NodeId, Wire
from s2connect.model.local import LocalEndpoint, LocalNode
from s2connect.model.pairing import (
    ConnectionDetails,
    FinalizePairing,
    PairingErrorReason,
    PairingResponseErrorMessage,
    PostConnectionDetails,
    RequestConnectionDetails,
    RequestPairing,
    RequestPairingResponse,
)
from s2connect.model.reply import reading, succeeded
from s2connect.model.roles import CommunicationRole, communication_role
from s2connect.model.secret import AccessToken, HmacChallenge, HmacChallengeResponse, PairingAttemptId
from s2connect.model.strict_json import MalformedJson, read_json
from s2connect.model.text import for_display
from s2connect.model.url import BaseUrl
from s2connect.pairing.challenge import matches, respond
from s2connect.pairing.code import PairingCode
from s2connect.pairing.server_core import ATTEMPT_LIFETIME, with_deployment
from s2connect.store.base import Pairing, PairKey, Pin

CLIENT_ENTROPY = 64
"""Random bytes for an attempt: the client's challenge (HMAC-01) and an access token (PAIR-08)."""


@dataclass(frozen=True, slots=True)
class ServerProof:
    """Proof of the pairing server's identity, from its TLS connection (TRUST-04).

    ``binding`` is F or D of HMAC-02. ``pin`` is the root of a self-signed chain, pinned once the server proves to know
    the code; None after PKI validation.
    """

    binding: bytes
    pin: Pin | None


@dataclass(frozen=True, slots=True)
class Step:
    """The next request of the attempt: operation and body."""

    operation: str
    body: Wire


@dataclass(frozen=True, slots=True)
class Agreed:
    """Agreement of both sides; store it as unconfirmed, then send ``finalize`` (PAIRC-06)."""

    pairing: Pairing
    token: AccessToken = field(repr=False)
    finalize: Step


class _State(Enum):
    NEW = auto()
    REQUESTED = auto()
    EXCHANGING = auto()
    AGREED = auto()
    ENDED = auto()


_REFUSALS: dict[PairingErrorReason, tuple[str, str]] = {
    PairingErrorReason.INVALID_COMBINATION_OF_ROLES: (
        "Both sides are of the same kind.",
        "An energy manager (CEM) pairs with a device (RM) only; choose another device.",
    ),
    PairingErrorReason.INCOMPATIBLE_S2_MESSAGE_VERSIONS: (
        "The two sides speak no common version of the S2 messages.",
        "One of them needs a software update.",
    ),
    PairingErrorReason.INCOMPATIBLE_HMAC_HASHING_ALGORITHMS: (
        "The two sides have no common hash function.",
        "One of them needs a software update.",
    ),
    PairingErrorReason.INCOMPATIBLE_COMMUNICATION_PROTOCOLS: (
        "The two sides have no common communication protocol.",
        "One of them needs a software update or another setting.",
    ),
    PairingErrorReason.NODE_NOT_FOUND: (
        "The other device has no node that fits the code.",
        "Check the part of the code before the dash.",
    ),
    PairingErrorReason.NO_NODE_ID_PROVIDED: (
        "The other device hosts several nodes, and the code does not say which one is meant.",
        "Use the whole code, with the part before the dash.",
    ),
    PairingErrorReason.NO_VALID_PAIRING_TOKEN_ON_PAIRING_SERVER: (
        "No pairing code is valid on the other device now.",
        "It may have expired or been used: ask for a new one there and type it within five minutes.",
    ),
    PairingErrorReason.PARSING_ERROR: (
        "The other device did not understand the request.",
        "One of the two may need a software update.",
    ),
    PairingErrorReason.OTHER: ("The other device refused to pair.", ""),
}


def _error_message(body: bytes) -> PairingResponseErrorMessage:
    try:
        return PairingResponseErrorMessage.from_json(body)
    except MalformedMessage:
        return PairingResponseErrorMessage(error_message=PairingErrorReason.OTHER)


def refused(body: bytes) -> PairingRefused:
    """Return the error for a 400 to ``requestPairing``, with a sentence for the user (PAIRC-07)."""
    message = _error_message(body)
    what, hint = _REFUSALS[message.error_message]
    info = for_display(message.additional_info or "", 200)
    if info and message.error_message is PairingErrorReason.OTHER:
        what = f"{what[:-1]}, saying: {info}"
    return PairingRefused(what, reason=message.error_message.value, additional_info=info, hint=hint)


@dataclass(eq=False, repr=False)
class PairingClientAttempt:
    """One attempt. Call the methods in the order of the protocol; each returns what comes next, or raises.

    Whenever a method raised and :attr:`owes_refusal` is true, the caller owes the server ``finalizePairing`` with
    :attr:`refusal` (PAIRC-02).

    Once the server has given the ``attempt_id``, it is the bearer of the later requests, and ``deadline`` the time at
    which the attempt has failed (PAIRC-03).
    """

    endpoint: LocalEndpoint
    node: LocalNode
    code: PairingCode  # as typed; its alias goes along unless server_node is known (PAIRC-01)
    proof: ServerProof
    entropy: bytes  # CLIENT_ENTROPY random bytes
    session_url: BaseUrl | None  # our own, if we become communication server; None where this endpoint runs no server
    ca_fingerprint: bytes | None  # SHA-256 of our own CA certificate, if we are in the LAN (TRUST-07)
    server_node: NodeId | None = None  # the peer's node
    force: bool = False

    def __post_init__(self) -> None:
        self._challenge = HmacChallenge.from_bytes(self.entropy[:32])
        self._own_token = AccessToken.from_bytes(self.entropy[32:CLIENT_ENTROPY])
        self._state = _State.NEW
        self._answer: RequestPairingResponse | None = None
        self.attempt_id: PairingAttemptId | None = None
        self.deadline: float | None = None

    @property
    def owes_refusal(self) -> bool:
        """True if the server still holds an attempt that we have given up."""
        return self.attempt_id is not None and self._state is not _State.ENDED

    refusal = Step("finalizePairing", FinalizePairing(success=False))

    def ended(self) -> None:
        """Mark the attempt as over on both sides: no refusal is to be sent."""
        self._state = _State.ENDED

    def request(self) -> Step:
        """Return the first request. Identical when called again."""
        self._state = _State.REQUESTED
        return Step(
            "requestPairing",
            RequestPairing(
                client_node_description=self.node.description,
                client_endpoint_description=self.endpoint.description,
                node_id=self.server_node,
                node_id_alias=self.code.alias if self.server_node is None else None,
                supported_communication_protocols=self.node.communication_protocols,
                supported_s2_message_versions=self.node.s2_versions,
                supported_hmac_hashing_algorithms=(SHA256,),
                client_hmac_challenge=self._challenge,
                force_pairing=self.force,
            ),
        )

    def on_answer(self, body: bytes, *, now: float) -> Step:
        """Check the server's 200 to ``requestPairing``: schema, role, algorithm, and that it knows the code.

        Raises:
            ProtocolViolation: Not the schema, an algorithm that was not offered, or our own challenge (HMAC-05).
            PairingRefused: The server's node has our own role.
            WrongPairingCode: Its response to our challenge is wrong; also if somebody sits in between.
            CertificateRefused: It calls itself a WAN server and has a self-signed certificate (TRUST-03).
        """
        assert self._state is _State.REQUESTED, "on_answer follows request"
        self.deadline = now + ATTEMPT_LIFETIME
        self.attempt_id = _attempt_id_of(body)
        with reading("The other device's answer to the pairing request"):
            answer = RequestPairingResponse.from_json(body)
        if answer.selected_hmac_hashing_algorithm != SHA256:
            raise ProtocolViolation("The other device chose a hash function that was not offered.")
        if answer.server_node_description.role is self.node.description.role:
            what, hint = _REFUSALS[PairingErrorReason.INVALID_COMBINATION_OF_ROLES]
            raise PairingRefused(what, reason=PairingErrorReason.INVALID_COMBINATION_OF_ROLES.value, hint=hint)
        # A server that does not say where it runs is where its certificate says (errata S2C-03).
        default = Deployment.LAN if self.proof.pin else Deployment.WAN
        deployment = answer.server_endpoint_description.deployment or default
        if deployment is Deployment.WAN and self.proof.pin:
            raise CertificateRefused(
                "The server says that it is in the WAN, but no trusted CA vouches for its certificate.",
                reason="untrusted",
                hint="If its operator has a CA of its own, add that to the trust anchors.",
            )
        proof = self._proof_for(answer)
        self._answer = answer
        self._peer_deployment = deployment
        self._role = communication_role(
            own=self.endpoint.deployment, own_role=self.node.description.role, peer=deployment
        )
        self._state = _State.EXCHANGING
        if self._role is CommunicationRole.CLIENT:
            return Step("requestConnectionDetails", RequestConnectionDetails(server_hmac_challenge_response=proof))
        if self.session_url is None:
            raise PairingError(
                "This endpoint would have to be the server of the sessions, and it runs none.",
                hint="Let it run one: s2connect config set server on",
            )
        fingerprint = fingerprint_map(self.ca_fingerprint) if self.ca_fingerprint else None
        details = ConnectionDetails(
            initiate_session_url=self.session_url, access_token=self._own_token, certificate_fingerprint=fingerprint
        )
        return Step(
            "postConnectionDetails",
            PostConnectionDetails(server_hmac_challenge_response=proof, connection_details=details),
        )

    def _proof_for(self, answer: RequestPairingResponse) -> HmacChallengeResponse:
        """Return our response to the server's challenge, with the token that its own response proves (HMAC-02).

        A text that is a code of ours and of others as well stands for two tokens (errata S2C-46).
        """
        found: HmacChallengeResponse | None = None
        for token in self.code.tokens:
            expected = respond(self._challenge, token, self.proof.binding)
            proof = respond(answer.server_hmac_challenge, token, self.proof.binding)
            if matches(expected, proof):
                raise ProtocolViolation("The other device sent our own challenge back; it may not know the code.")
            if matches(expected, answer.client_hmac_challenge_response):
                found = proof
        if found is None:
            raise WrongPairingCode("The pairing code is not the one of the other device.")
        return found

    def on_details(self, status: int, body: bytes, *, now: float, wall_time: float) -> Agreed:
        """Read the answer to the details request.

        Raises:
            WrongPairingCode: 403, the server does not accept our response.
            PairingExpired: 401, or our own 15 seconds are over.
            ProtocolViolation: Anything else that the standard does not say.
        """
        assert self._state is _State.EXCHANGING, "on_details follows on_answer"
        if self.deadline is not None and now > self.deadline:
            raise PairingExpired("The pairing attempt took longer than 15 seconds.")
        if status == 403:
            self.ended()
            raise WrongPairingCode("The other device did not accept the pairing code.")
        if status == 401:
            self.ended()
            raise PairingExpired("The other device has given up this pairing attempt.")
        assert self._answer is not None
        url, pin, token = None, None, self._own_token
        if self._role is CommunicationRole.CLIENT:
            if not succeeded(status):
                raise _without_details("gave no connection details", status, body)
            with reading("The other device's connection details", "are"):
                details = ConnectionDetails.from_json(body)
            url, pin, token = details.initiate_session_url, self.proof.pin, details.access_token
        elif not succeeded(status):
            raise _without_details("did not accept the connection details", status, body)
        self._state = _State.AGREED
        peer = self._answer.server_node_description
        return Agreed(
            Pairing(
                key=PairKey(self.node.id, peer.id),
                communication_role=self._role,
                peer=peer,
                peer_endpoint=with_deployment(self._answer.server_endpoint_description, self._peer_deployment),
                initiate_session_url=url,
                pin=pin,
                paired_at=wall_time,
                confirmed=False,
            ),
            token,
            Step("finalizePairing", FinalizePairing(success=True)),
        )

    def on_finalized(self, status: int) -> None:
        """Read the answer to ``finalizePairing``; returns when the pairing stands (PAIRC-06).

        Raises:
            PairingExpired: 401.
            PairingError: The server did not complete the pairing.
        """
        assert self._state is _State.AGREED, "on_finalized follows on_details"
        if succeeded(status):
            self.ended()
            return
        if status == 401:
            self.ended()
            raise PairingExpired("The other device has given up this pairing attempt.")
        raise PairingError("The other device could not complete the pairing.", hint="Try again with a new code.")


def _without_details(what: str, status: int, body: bytes) -> ProtocolViolation:
    """Return the error for a refusal of the details request, with the server's sentence for a person, if any."""
    info = for_display(_error_message(body).additional_info or "", 200).rstrip(".")
    return ProtocolViolation(f"The other device {what} (HTTP {status}{f', saying: {info}' if info else ''}).")


def _attempt_id_of(body: bytes) -> PairingAttemptId | None:
    """Find the attempt id in an answer that breaks its schema, to give the attempt up at the server (PAIRC-02)."""
    try:
        value = read_json(body)
        return PairingAttemptId(value["pairingAttemptId"])
    except (MalformedJson, ValueError, TypeError, KeyError, AttributeError):
        return None
