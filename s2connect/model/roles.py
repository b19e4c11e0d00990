"""Communication roles after pairing (ROLE-02).

CEM/RM, initiator/responder, pairing client/server and communication client/server are independent of each other. Code
never infers one from another except by the functions here.
"""

from __future__ import annotations

from enum import StrEnum

from s2connect.model.common import Deployment, Role


class CommunicationRole(StrEnum):
    """Role after pairing: client or server of HTTPS and WebSocket."""

    CLIENT = "client"
    SERVER = "server"


def communication_role(*, own: Deployment, own_role: Role, peer: Deployment) -> CommunicationRole:
    """Return our communication role towards a peer (ROLE-02).

    The WAN node is server if exactly one of the two is in the WAN; otherwise the CEM is.
    """
    if own is not peer:
        return CommunicationRole.SERVER if own is Deployment.WAN else CommunicationRole.CLIENT
    return CommunicationRole.SERVER if own_role is Role.CEM else CommunicationRole.CLIENT
