"""A pairing server's core, and requests as plain JSON: nothing here uses what it helps to test."""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import json
from typing import Any
from uuid import UUID

from s2connect.model.common import Deployment, EndpointDescription, NodeDescription, NodeId, Role
from s2connect.model.local import LocalEndpoint, LocalNode
from s2connect.model.reply import Reply
from s2connect.model.secret import HmacChallengeResponse, PairingAttemptId
from s2connect.model.url import BaseUrl
from s2connect.pairing.challenge import LiveProofs
from s2connect.pairing.code import PairingToken
from s2connect.pairing.server_core import ATTEMPT_LIFETIME, Commit, PairingServer, Queued

TOKEN = "5hK7Zz"
OTHER_TOKEN = "6iL8Aa"
F = hashlib.sha256(b"the leaf of the server").digest()
CA = hashlib.sha256(b"the root of the client").digest()
SESSION_URL = BaseUrl("https://server.local:8443/session/")
CLIENT_TOKEN = base64.b64encode(bytes(range(32))).decode()
ADDRESS = "192.0.2.7"
CLIENT_ID = UUID("3e9a5c0f-9d0e-4f3c-8a44-0d2f6a3b1c77")
SERVER_ID = NodeId(UUID("b3f9a9a8-9d0b-4f0e-8a3c-0d7d3f0f8c11"))


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def hmac_response(challenge: str, token: str = TOKEN, binding: bytes = F) -> str:
    return b64(hmac.digest(base64.b64decode(challenge), token.encode() + binding, "sha256"))


def node(role: Role, number: int = 0, alias: str | None = None, **more: Any) -> LocalNode:
    node_id = NodeId(UUID(int=SERVER_ID.int + number))
    return LocalNode(NodeDescription(id=node_id, brand="Acme", type="t", model_name="m", role=role), alias, **more)


def endpoint(role: Role = Role.CEM, deployment: Deployment = Deployment.LAN, *nodes: LocalNode) -> LocalEndpoint:
    own = nodes or (node(role),)
    description = EndpointDescription(name="server", deployment=deployment)
    return LocalEndpoint(description, deployment, {n.id: n for n in own})


def request(number: int = 0, *, role: str = "RM", deployment: str | None = "LAN", **changes: Any) -> dict[str, Any]:
    """A requestPairing; another number is another client. A change to None leaves the member out."""
    value: dict[str, Any] = {
        "clientNodeDescription": {
            "id": str(UUID(int=CLIENT_ID.int + number)),
            "brand": "Brand",
            "type": "Heat pump",
            "modelName": "HP",
            "role": role,
        },
        "clientEndpointDescription": {"name": "client", **({"deployment": deployment} if deployment else {})},
        "supportedCommunicationProtocols": ["WebSocket"],
        "supportedS2MessageVersions": ["v1.0.0"],
        "supportedHmacHashingAlgorithms": ["SHA256"],
        "clientHmacChallenge": b64(hashlib.sha256(b"client%d" % number).digest()),
        **changes,
    }
    return {k: v for k, v in value.items() if v is not None}


def dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def answered(reply: Reply | Queued | Commit) -> dict[str, Any]:
    """The JSON of a reply."""
    assert isinstance(reply, Reply)
    return json.loads(reply.body.to_json()) if reply.body is not None else {}


def faulty(reply: Reply | Queued | Commit) -> str:
    """Return the fault that the refusal of a malformed request names."""
    assert isinstance(reply, Reply)
    said = answered(reply)
    assert (reply.status, said["errorMessage"]) == (400, "ParsingError")
    return str(said["additionalInfo"]).removeprefix("The request does not follow its schema: ")


def claim_at_once(
    proofs: LiveProofs, sent: HmacChallengeResponse, expected: HmacChallengeResponse, *, now: float
) -> bool:
    """Claim in memory, where nothing is waited for."""
    try:
        proofs.claim(sent, expected, now=now, lifetime=ATTEMPT_LIFETIME).send(None)
    except StopIteration as done:
        return bool(done.value)
    raise AssertionError("a claim in memory waits for nothing")


class PairingSetup:
    """A pairing server whose clock and random numbers are in the test's hand."""

    def __init__(self, own: LocalEndpoint | None = None, *, token: str | None = TOKEN, **more: Any) -> None:
        self.own = own or endpoint()
        self.server = PairingServer(lambda: self.own, session_url=lambda: SESSION_URL, **more)
        self.now = 1000.0
        self._counter = itertools.count()
        self._waiting: list[Queued] = []
        if token is not None:
            for each in self.own.nodes.values():
                self.server.tokens(each.id).issue(PairingToken(token), now=self.now)

    def entropy(self, size: int = 64) -> bytes:
        return hashlib.shake_256(b"entropy%d" % next(self._counter)).digest(size)

    def queue(
        self, body: dict[str, Any] | bytes, *, ready: bool = True, address: str = ADDRESS, binding: bytes = F
    ) -> Queued | Reply:
        raw = body if isinstance(body, bytes) else dump(body)
        queued = self.server.request_pairing(raw, binding=binding, address=address, ready=ready, now=self.now)
        if isinstance(queued, Queued):
            self._waiting.append(queued)
        return queued

    def wait(self, queued: Queued | Reply) -> None:
        """Advance the clock to the turn of this request, and take the turns of others before it."""
        assert isinstance(queued, Queued)
        while queued in self._waiting:
            asked = [(self.server.wait(each, now=self.now), each) for each in self._waiting]
            self._waiting = [each for at, each in asked if at is not None]
            if queued in self._waiting and len(self._waiting) == len(asked):
                self.now = min(at for at, _ in asked if isinstance(at, float | int))

    def answer(self, queued: Queued | Reply, entropy: bytes | None = None) -> Reply:
        """Answer a request at its turn."""
        self.wait(queued)
        return self.answer_now(queued, entropy)

    def answer_now(self, queued: Queued | Reply, entropy: bytes | None = None) -> Reply:
        """Answer a request whose turn has been taken."""
        assert isinstance(queued, Queued)
        answer = self.server.answer(queued, now=self.now, entropy=entropy or self.entropy())
        if isinstance(answer, Reply):
            return answer
        free = claim_at_once(self.server.proofs, answer.sent, answer.expected, now=self.now)
        return self.server.claimed(answer, free=free, now=self.now)

    def abandon(self, queued: Queued) -> None:
        if queued in self._waiting:
            self._waiting.remove(queued)
        self.server.abandon(queued)

    def begin(self, number: int = 0, **changes: Any) -> Attempt:
        """A whole requestPairing, answered at its time."""
        return Attempt(self, answered(self.answer(self.queue(request(number, **changes)))))

    def events(self) -> list[Any]:
        found, self.server.events = self.server.events, []
        return found

    @property
    def in_flight(self) -> int:
        return self.server._in_flight.total()


class Attempt:
    """An attempt as its client sees it."""

    def __init__(self, setup: PairingSetup, answer: dict[str, Any]) -> None:
        self.setup = setup
        self.answer = answer
        self.id = PairingAttemptId(answer["pairingAttemptId"])

    def proof(self, token: str = TOKEN) -> str:
        return hmac_response(self.answer["serverHmacChallenge"], token)

    def request_details(self, token: str = TOKEN, body: bytes | None = None) -> Reply:
        raw = self.details_body(token) if body is None else body
        setup = self.setup
        return setup.server.request_connection_details(self.id, raw, now=setup.now, entropy=setup.entropy())

    def details_body(self, token: str = TOKEN) -> bytes:
        return dump({"serverHmacChallengeResponse": self.proof(token)})

    def post_body(self, token: str = TOKEN, **changes: Any) -> bytes:
        details = {
            "initiateSessionUrl": "https://client.local:8443/session/",
            "accessToken": CLIENT_TOKEN,
            "certificateFingerprint": {"SHA256": CA.hex()},
            **changes,
        }
        kept = {k: v for k, v in details.items() if v is not None}
        return dump({"serverHmacChallengeResponse": self.proof(token), "connectionDetails": kept})

    def post_details(self, token: str = TOKEN, body: bytes | None = None, **changes: Any) -> Reply:
        raw = self.post_body(token, **changes) if body is None else body
        return self.setup.server.post_connection_details(self.id, raw, now=self.setup.now)

    def finalize(self, body: bytes = b'{"success": true}') -> Reply | Commit:
        return self.setup.server.finalize(self.id, body, now=self.setup.now, wall_time=1.7e9)

    def committed(self) -> Reply:
        return self.setup.server.committed(self.id)
