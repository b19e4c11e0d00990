"""Communication roles after pairing."""

from __future__ import annotations

import pytest

from s2connect.model.common import Deployment, Role
from s2connect.model.roles import CommunicationRole, communication_role

LAN, WAN = Deployment.LAN, Deployment.WAN
CEM, RM = Role.CEM, Role.RM
SERVER, CLIENT = CommunicationRole.SERVER, CommunicationRole.CLIENT


@pytest.mark.rule("ROLE-02")
@pytest.mark.parametrize(
    ("cem", "rm", "server"),
    [(LAN, LAN, CEM), (WAN, WAN, CEM), (WAN, LAN, CEM), (LAN, WAN, RM)],
)
def test_the_communication_server_is_the_wan_node_or_the_cem(cem: Deployment, rm: Deployment, server: Role) -> None:
    as_cem = communication_role(own=cem, own_role=CEM, peer=rm)
    as_rm = communication_role(own=rm, own_role=RM, peer=cem)
    assert as_cem is (SERVER if server is CEM else CLIENT)
    assert as_rm is (CLIENT if server is CEM else SERVER)
