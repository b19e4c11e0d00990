"""The four axes and the tables that join them (ROLE-02, ROLE-03).

CEM/RM, initiator/responder, pairing client/server and communication client/server are independent of each other. Code
never infers one from another except by the functions here.
"""

from __future__ import annotations

from enum import StrEnum

from s2connect.model.common import Deployment, Role


class CommunicationRole(StrEnum):
    """Who is HTTPS and WebSocket server after pairing."""

    CLIENT = "client"
    SERVER = "server"

    @property
    def other(self) -> CommunicationRole:
        """The role of the peer."""
        return CommunicationRole.SERVER if self is CommunicationRole.CLIENT else CommunicationRole.CLIENT


class PairingPath(StrEnum):
    """How an initiator reaches a responder for pairing (ROLE-03)."""

    DIRECT = "direct"
    """The initiator is pairing client, the responder pairing server."""
    VENDOR_WAN_SERVER = "vendor_wan_server"
    """The initiator is pairing client of a server that the responder's vendor runs in the WAN; optional."""
    LONG_POLLING = "long_polling"
    """The initiator is pairing server; the responder, a client only, waits at it."""


def communication_role(*, own: Deployment, own_role: Role, peer: Deployment) -> CommunicationRole:
    """Our communication role towards a peer (ROLE-02).

    The WAN node is server if exactly one of the two is in the WAN; otherwise the CEM is.
    """
    if own is not peer:
        return CommunicationRole.SERVER if own is Deployment.WAN else CommunicationRole.CLIENT
    return CommunicationRole.SERVER if own_role is Role.CEM else CommunicationRole.CLIENT


def pairing_path(*, initiator: Deployment, responder: Deployment, responder_is_client_only: bool) -> PairingPath:
    """How pairing goes between two deployments (ROLE-03). Only an endpoint with nothing but RMs may be client-only."""
    if initiator is Deployment.WAN and responder is Deployment.LAN:
        return PairingPath.VENDOR_WAN_SERVER
    if responder_is_client_only:
        return PairingPath.LONG_POLLING
    return PairingPath.DIRECT
