"""Two sessions that are joined in memory: for tests of applications."""

from __future__ import annotations

from uuid import uuid4

from s2connect.messages.enums import Check
from s2connect.model.common import DEFAULT_S2_VERSION, NodeDescription, NodeId, Role
from s2connect.session.session import Session
from s2connect.transports.base import ConnectionInfo
from s2connect.transports.memory import MEMORY, memory_pair


def memory_sessions(
    *, s2_version: str = DEFAULT_S2_VERSION, check: Check = Check.RULES, name: str = "test"
) -> tuple[Session, Session]:
    """Return the session of an energy manager and that of its device, joined in memory, for a test of one of them.

    All is as in a session over the network: validation, acknowledgements, order, end.

    Args:
        s2_version: Version of S2 JSON.
        check: How much of each message is validated.
        name: The name of both, as ``session.peer.title`` has it.
    """
    manager, device = (
        NodeDescription(
            id=NodeId(uuid4()), brand="test", type="test", model_name="test", user_defined_name=name, role=role
        )
        for role in (Role.CEM, Role.RM)
    )
    sides = memory_pair(
        ConnectionInfo(MEMORY, manager.id, device.id, s2_version),
        ConnectionInfo(MEMORY, device.id, manager.id, s2_version),
    )
    return (
        Session(sides[0], peer=device, role=Role.CEM, check=check),
        Session(sides[1], peer=manager, role=Role.RM, check=check),
    )
