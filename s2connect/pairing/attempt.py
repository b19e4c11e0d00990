"""Pairing attempt of the server's side: its state between two requests, as object and as plain JSON value; sans-I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final
from uuid import UUID

from s2connect.model.common import Deployment, EndpointDescription, NodeDescription, NodeId, Wire
from s2connect.model.pairing import ConnectionDetails, PairingResponseErrorMessage, RequestPairingResponse
from s2connect.model.reply import Reply
from s2connect.model.roles import CommunicationRole
from s2connect.model.secret import AccessToken, HmacChallengeResponse, PairingAttemptId
from s2connect.model.url import BaseUrl
from s2connect.pairing.code import IssuedToken
from s2connect.store.base import Pin

VERSION: Final = 1
"""Version of :meth:`Attempt.dump`."""

_BODIES: Final = {
    kind.__name__: kind for kind in (ConnectionDetails, PairingResponseErrorMessage, RequestPairingResponse)
}
"""Bodies of the replies that an attempt remembers."""


class State(Enum):
    """State of an attempt."""

    REQUESTED = "requested"
    EXCHANGED = "exchanged"
    FINALIZING = "finalizing"  # its pairing is being stored
    ENDED = "ended"


@dataclass(slots=True)
class Attempt:
    """Attempt on one of our nodes. It lives for 15 seconds (PAIR-04); ended, it answers identical repeats (PAIR-07).

    Attributes:
        node: Our node.
        request: Digest of its ``requestPairing``.
        source: Address it came from, as it is counted.
        unstored: A fault of ours: its pairing could not be stored.
    """

    id: PairingAttemptId
    node: NodeId
    request: bytes
    address: str
    source: str
    peer: NodeDescription
    peer_endpoint: EndpointDescription
    issued: IssuedToken
    expected: HmacChallengeResponse
    answer: Reply
    expires_at: float
    role: CommunicationRole
    state: State = State.REQUESTED
    token: AccessToken | None = None
    session_url: BaseUrl | None = None
    pin: Pin | None = None
    replies: dict[bytes, Reply] = field(default_factory=dict)
    unstored: bool = False

    @property
    def peer_deployment(self) -> Deployment | None:
        return self.peer_endpoint.deployment

    def dump(self) -> dict[str, Any]:
        """Return the attempt as a plain JSON value. It holds secrets.

        An attempt whose pairing is being stored is written as it was before, because only that outlives the storing.
        """
        state = State.EXCHANGED if self.state is State.FINALIZING else self.state
        return {
            "version": VERSION,
            "id": self.id.reveal(),
            "node": str(self.node),
            "request": self.request.hex(),
            "address": self.address,
            "source": self.source,
            "peer": self.peer.to_value(),
            "peer_endpoint": self.peer_endpoint.to_value(),
            "issued": self.issued.serial,
            "expected": self.expected.reveal(),
            "answer": _reply(self.answer),
            "expires_at": self.expires_at,
            "role": self.role.value,
            "state": state.value,
            "token": self.token.reveal() if self.token else None,
            "session_url": str(self.session_url) if self.session_url else None,
            "pin": self.pin.ca_fingerprint.hex() if self.pin else None,
            "replies": {digest.hex(): _reply(reply) for digest, reply in self.replies.items()},
            "unstored": self.unstored,
        }

    @classmethod
    def load(cls, value: dict[str, Any], issued: Callable[[int], IssuedToken]) -> Attempt:
        """Return the attempt of :meth:`dump`; ``issued`` gives the token of a serial number.

        Raises:
            ValueError: It is of another version, or none.
        """
        if value.get("version") != VERSION:
            raise ValueError("the attempt was written by another version")
        return cls(
            id=PairingAttemptId(value["id"]),
            node=NodeId(UUID(value["node"])),
            request=bytes.fromhex(value["request"]),
            address=value["address"],
            source=value["source"],
            peer=NodeDescription.from_value(value["peer"]),
            peer_endpoint=EndpointDescription.from_value(value["peer_endpoint"]),
            issued=issued(value["issued"]),
            expected=HmacChallengeResponse(value["expected"]),
            answer=_reply_of(value["answer"]),
            expires_at=value["expires_at"],
            role=CommunicationRole(value["role"]),
            state=State(value["state"]),
            token=None if value["token"] is None else AccessToken(value["token"]),
            session_url=None if value["session_url"] is None else BaseUrl(value["session_url"]),
            pin=None if value["pin"] is None else Pin(bytes.fromhex(value["pin"])),
            replies={bytes.fromhex(digest): _reply_of(reply) for digest, reply in value["replies"].items()},
            unstored=value["unstored"],
        )


def _reply(reply: Reply) -> list[Any]:
    body = reply.body
    return [reply.status] if body is None else [reply.status, type(body).__name__, body.to_value()]


def _reply_of(value: list[Any]) -> Reply:
    status, *rest = value
    body: Wire | None = _BODIES[rest[0]].from_value(rest[1]) if rest else None
    return Reply(status, body)
