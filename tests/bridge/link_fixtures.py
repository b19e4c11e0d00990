"""A link between two virtual peers, connected through memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from uuid import UUID

from s2connect.bridge.sides import Initiator, LinkSide
from s2connect.errors import ConnectionClosed, NotReachable
from s2connect.model.common import NodeId
from s2connect.transports.base import Connection, ConnectionInfo
from s2connect.transports.memory import memory_pair

BRIDGE, PEER = NodeId(UUID(int=1)), NodeId(UUID(int=2))


def connection_pair(version: str = "v1.0.0", *, capacity: int = 16) -> tuple[Connection, Connection]:
    """The bridge's end and the peer's."""
    return memory_pair(
        ConnectionInfo("Memory", BRIDGE, PEER, version),
        ConnectionInfo("Memory", PEER, BRIDGE, version),
        capacity=capacity,
    )


def message(identifier: str, message_type: str = "PowerMeasurement", **more: object) -> str:
    """A message whose envelope is good."""
    return json.dumps({"message_type": message_type, "message_id": identifier, **more})


def answer(identifier: str, status: str = "OK") -> str:
    """A ReceptionStatus."""
    return json.dumps({"message_type": "ReceptionStatus", "subject_message_id": identifier, "status": status})


class PeerSide(LinkSide):
    """One side, whose peer the test plays.

    Attributes:
        far: The peer's ends of the connections that were opened or arrived, oldest first.
        opening: Called when the bridge connects; may wait or raise.
    """

    def __init__(self, title: str, way: Initiator | None, *, version: str = "v1.0.0", capacity: int = 16) -> None:
        self.title = title
        self.given_initiator = way
        self.version = version
        self.capacity = capacity
        self.near: list[Connection] = []
        self.far: list[Connection] = []
        self.opened = asyncio.Event()
        self.refuse: Exception | None = None
        self.stall: asyncio.Event | None = None
        self.on_open: Callable[[], None] | None = None

    @property
    def initiator(self) -> Initiator | None:
        return self.given_initiator

    async def open(self) -> Connection:
        if self.on_open is not None:
            self.on_open()
        if self.stall is not None:
            await self.stall.wait()
        if self.refuse is not None:
            raise self.refuse
        return self.connect()

    def connect(self) -> Connection:
        """Make a connection; returns the bridge's end."""
        ours, theirs = connection_pair(self.version, capacity=self.capacity)
        self.near.append(ours)
        self.far.append(theirs)
        self.opened.set()
        return ours

    @property
    def peer(self) -> Connection:
        """The peer's end of the connection that came last."""
        return self.far[-1]

    def standing(self) -> int:
        """Return the number of open connections."""
        return len([near for near in self.near if near._ended is None])  # type: ignore[attr-defined]


NOBODY = NotReachable("Nobody is there.")


async def farewell(peer: Connection) -> list[str]:
    """Play a peer that answers a SessionRequest and reads until the end; returns the types of what came."""
    types = []
    try:
        while True:
            value = json.loads(await peer.recv())
            types.append(value["message_type"])
            if value["message_type"] == "SessionRequest":
                await peer.send(answer(value["message_id"]))
    except ConnectionClosed:
        return types
