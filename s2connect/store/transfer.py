"""A pairing on its way from a vendor's WAN pairing server to the device it was made for (ROLE-03 a)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from s2connect.errors import UsageError
from s2connect.model.common import EndpointDescription, NodeDescription, NodeId, Wire
from s2connect.model.roles import CommunicationRole
from s2connect.model.secret import AccessToken
from s2connect.model.url import BaseUrl
from s2connect.store.base import MAX_CANDIDATE_TOKENS, Pairing, PairKey


class PairingTransfer(Wire):
    """Pairing for a device that becomes communication client. Its JSON holds the access token: treat it as a secret.

    There is no pin in it: the other side of such a pairing is in the WAN, where normal PKI validation applies.
    """

    node_id: NodeId
    peer: NodeDescription
    peer_endpoint: EndpointDescription
    initiate_session_url: BaseUrl
    access_tokens: Annotated[tuple[AccessToken, ...], Field(min_length=1, max_length=MAX_CANDIDATE_TOKENS)]
    paired_at: float

    @classmethod
    def of(cls, pairing: Pairing, tokens: list[AccessToken]) -> PairingTransfer:
        """Wrap a pairing up. UsageError if we are not communication client in it, or it pins a local CA."""
        if pairing.initiate_session_url is None or pairing.pin is not None or not tokens:
            raise UsageError("Only a pairing with a server in the WAN can be handed to another device.")
        return cls(
            node_id=pairing.key.local,
            peer=pairing.peer,
            peer_endpoint=pairing.peer_endpoint,
            initiate_session_url=pairing.initiate_session_url,
            access_tokens=tuple(tokens),
            paired_at=pairing.paired_at,
        )

    def pairing(self) -> Pairing:
        """Return the pairing as the device stores it."""
        return Pairing(
            key=PairKey(self.node_id, self.peer.id),
            communication_role=CommunicationRole.CLIENT,
            peer=self.peer,
            peer_endpoint=self.peer_endpoint,
            initiate_session_url=self.initiate_session_url,
            paired_at=self.paired_at,
        )
