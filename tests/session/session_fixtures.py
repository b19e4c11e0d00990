"""A communication server's core with its records, and requests as plain JSON."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any
from uuid import UUID

from s2connect.model.common import Deployment, EndpointDescription, NodeDescription, NodeId, Role
from s2connect.model.local import LocalEndpoint, LocalNode
from s2connect.model.reply import Reply
from s2connect.model.roles import CommunicationRole
from s2connect.model.secret import AccessToken
from s2connect.model.session_init import InitiateSession
from s2connect.session.server_core import Accepted, Record, SessionServer, read_request
from s2connect.store.base import Pairing, PairKey

SERVER_ID = NodeId(UUID("b3f9a9a8-9d0b-4f0e-8a3c-0d7d3f0f8c11"))
CLIENT_ID = NodeId(UUID("3e9a5c0f-9d0e-4f3c-8a44-0d2f6a3b1c77"))
PAIRED_AT = 1.7e9


def token(name: str) -> AccessToken:
    return AccessToken.from_bytes(hashlib.sha256(name.encode()).digest())


def digest(name: str) -> bytes:
    """The SHA-256 of the token as it travels, computed here (SES-06)."""
    return hashlib.sha256(token(name).reveal().encode()).digest()


def key(number: int = 0) -> PairKey:
    return PairKey(SERVER_ID, NodeId(UUID(int=CLIENT_ID.int + number)))


def pairing(number: int = 0, role: CommunicationRole = CommunicationRole.SERVER, *, confirmed: bool = True) -> Pairing:
    pair = key(number)
    peer = NodeDescription(id=pair.remote, brand="b", type="t", model_name="m", role=Role.RM)
    return Pairing(
        key=pair,
        communication_role=role,
        peer=peer,
        peer_endpoint=EndpointDescription(deployment=Deployment.LAN),
        paired_at=PAIRED_AT,
        confirmed=confirmed,
    )


def local(**more: Any) -> LocalEndpoint:
    description = NodeDescription(id=SERVER_ID, brand="Grid", type="HEMS", model_name="G1", role=Role.CEM)
    node = LocalNode(description, **more)
    return LocalEndpoint(EndpointDescription(name="server"), Deployment.LAN, {node.id: node})


def paired(name: str = "active", number: int = 0) -> Record:
    return Record(confirmed=(pairing(number), digest(name)))


def initiate(number: int = 0, **changes: Any) -> bytes:
    value = {
        "clientNodeId": str(key(number).remote),
        "serverNodeId": str(SERVER_ID),
        "supportedS2MessageVersions": ["v1.0.0"],
        "supportedCommunicationProtocols": ["WebSocket"],
        **changes,
    }
    return json.dumps({k: v for k, v in value.items() if v is not None}).encode()


def said(reply: Any) -> dict[str, Any]:
    assert isinstance(reply, Reply)
    return json.loads(reply.body.to_json()) if reply.body is not None else {}


class ServerDriver:
    """Session requests to one server."""

    def __init__(self, **node: Any) -> None:
        self.own = local(**node)
        self.server = SessionServer()
        self.now = 500.0
        self._drawn = 0

    def initiate(
        self, body: bytes, presented: AccessToken | None, record: Record, *, wall_time: float = PAIRED_AT
    ) -> Accepted | Reply:
        understood = read_request(InitiateSession, body)
        if isinstance(understood, Reply):
            return understood
        return self.server.initiate(self.own, understood, presented, record, wall_time=wall_time)

    def issue(self, number: int = 0) -> Reply:
        accepted = self.initiate(initiate(number), token("active"), paired(number=number))
        assert isinstance(accepted, Accepted)
        self._drawn += 1
        entropy = hashlib.sha256(b"pending%d" % self._drawn).digest()
        return self.server.issue(self.own, accepted, now=self.now, entropy=entropy)

    def pending(self, number: int = 0) -> AccessToken:
        return AccessToken(said(self.issue(number))["accessToken"])


def without_node(own: LocalEndpoint) -> LocalEndpoint:
    return dataclasses.replace(own, nodes={})
