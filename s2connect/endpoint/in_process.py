"""Sessions between nodes of one process, in memory: for the modules of one energy management system."""

from __future__ import annotations

import asyncio
import random

from s2connect.endpoint.node import Node
from s2connect.errors import UsageError
from s2connect.model.common import NodeId, Role
from s2connect.model.roles import CommunicationRole
from s2connect.session.session import SessionEnd
from s2connect.store.base import Pairing, PairKey
from s2connect.transports.backoff import Backoff
from s2connect.transports.base import ConnectionInfo
from s2connect.transports.memory import MEMORY, memory_pair


def join_nodes(manager: Node, device: Node) -> asyncio.Task[None]:
    """Keep a session between an energy manager and a device of this process, without sockets, until one of them closes.

    Nothing is paired, stored or encrypted: both are one program. Sessions come as any others do (``Node.sessions``,
    ``Node.handle``), as soon as both nodes take them, and one that ends is followed by the next, with the delays of S2
    Connect (REC). The device decides on the version of S2 JSON, by its preference.

    The two may be nodes of one endpoint or of two. One that serves nothing else is opened with ``serve=False``.

    Returns:
        The task, of the device's endpoint; cancelled, it ends the session.

    Raises:
        UsageError: The roles are others, or the two have no version of S2 JSON in common.
    """
    if (manager.role, device.role) != (Role.CEM, Role.RM):
        raise UsageError("A session joins an energy manager and a device, in this order.")
    known = manager._local.s2_versions
    version = next((each for each in device._local.s2_versions if each in known), None)
    if version is None:
        raise UsageError("The two nodes have no version of S2 JSON in common.")
    return device._state.supervisor.keep(lambda: _keep_joined(manager, device, version), "join", device.id)


async def _keep_joined(manager: Node, device: Node, version: str) -> None:
    backoff, loop = Backoff(), asyncio.get_running_loop()
    pairings = (
        _pairing(manager, device, CommunicationRole.SERVER),
        _pairing(device, manager, CommunicationRole.CLIENT),
    )
    while True:
        for node in (manager, device):
            await node._connections.started.wait()
        if manager._connections.closed or device._connections.closed:
            return
        chance = random.random()  # noqa: S311 - spreads load, guards nothing
        if await manager._connections.admit(pairings[0], version) is not None:
            await asyncio.sleep(backoff.failed(chance))
            continue
        sides = memory_pair(_info(manager.id, device.id, version), _info(device.id, manager.id, version))
        ours = [
            node._connections.attach(side, pairing)
            for node, side, pairing in zip((manager, device), sides, pairings, strict=True)
        ]
        try:
            ends = [await live.ended() for live in ours]
        finally:
            for side in sides:
                await side.close()
        lasted = loop.time() - ours[0].since
        if SessionEnd.RECONNECT_REQUESTED in ends:
            await asyncio.sleep(backoff.restart(lasted=lasted, chance=chance))
        else:
            backoff.established()
            await asyncio.sleep(backoff.failed(chance))


def _info(local: NodeId, remote: NodeId, version: str) -> ConnectionInfo:
    return ConnectionInfo(MEMORY, local, remote, version)


def _pairing(ours: Node, theirs: Node, role: CommunicationRole) -> Pairing:
    return Pairing(
        key=PairKey(ours.id, theirs.id),
        communication_role=role,
        peer=theirs.description,
        peer_endpoint=theirs._state.local.description,
    )
