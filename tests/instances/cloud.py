"""A cloud of several service processes on one database and one port, and devices that are paired with it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from s2connect import Endpoint, NodeConfig, Role, Session, create_home
from s2connect.endpoint.instances import INSTANCE_VARIABLE, PORT_VARIABLE
from s2connect.errors import S2ConnectError
from s2connect.store.postgresql.sealing import KEY_VARIABLE
from tests.command import Running
from tests.endpoint.conftest import MEASUREMENT, Wan
from tests.postgresql import STORE_KEYS

Start = Callable[..., Running]

DETAILS = {
    "message_type": "ResourceManagerDetails",
    "resource_id": "battery-1",
    "roles": [{"role": "ENERGY_STORAGE", "commodity": "ELECTRICITY"}],
    "instruction_processing_delay": 0,
    "available_control_types": ["FILL_RATE_BASED_CONTROL"],
    "provides_forecast": False,
    "provides_power_measurement_types": ["ELECTRIC.POWER.L1"],
}

ENVIRONMENT = {KEY_VARIABLE: base64.b64encode(STORE_KEYS[0]).decode()}


@contextlib.contextmanager
def reserved_port() -> Any:
    """A free port, at which processes can share."""
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


def cloud_home(wan: Wan, path: Path, url: str, port: int, **more: object) -> Path:
    """Set up the home of an energy manager whose state is in a database."""
    create_home(path, wan.config(Role.CEM, "localhost", store=url, port=port, vault="files", **more))
    return path


def begin(
    start: Start, home: Path, name: str, port: int, *arguments: str, version: Mapping[str, str] | None = None
) -> Running:
    """Start one instance of the cloud, a sidecar; of another ``version`` by more of the environment."""
    environment = {**ENVIRONMENT, INSTANCE_VARIABLE: name, PORT_VARIABLE: str(port), **(version or {})}
    return start(home, *arguments, env=environment)


class Device:
    """A device that sends measurements, one after the other, through whatever session it has.

    Attributes:
        acknowledged: Ids of the messages that were.
        sessions: Number of sessions so far.
    """

    def __init__(self, endpoint: Endpoint, node: Any) -> None:
        self.endpoint = endpoint
        self.node = node
        self.acknowledged: list[str] = []
        self.sessions = 0
        self.open: Session | None = None

    async def run(self) -> None:
        """Send until cancelled."""
        async for session in self.node.sessions():
            self.sessions += 1
            self.open = session
            with contextlib.suppress(S2ConnectError):
                await session.send(DETAILS)
                while True:
                    self.acknowledged.append(await session.send(MEASUREMENT))
                    await asyncio.sleep(0.01)
            self.open = None


@contextlib.asynccontextmanager
async def devices(wan: Wan, count: int) -> AsyncIterator[list[Device]]:
    """So many devices, not paired yet."""
    nodes = [NodeConfig(role=Role.RM, alias=f"D{number}") for number in range(count)]
    config = wan.config(Role.RM, "127.0.0.1", nodes=nodes)
    async with Endpoint.open(config=config, serve=False, addresses={"localhost": "127.0.0.1"}) as endpoint:
        made = [Device(endpoint, node) for node in endpoint.nodes.values()]
        tasks = [asyncio.ensure_future(one.run()) for one in made]
        try:
            yield made
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
