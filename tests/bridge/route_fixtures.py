"""Settings of sides, and a conversation between peers that are nothing but connections."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from s2connect.bridge.config import (
    PlainClientDevice,
    PlainClientDevices,
    PlainClientManager,
    PlainServerDevice,
    PlainServerDevices,
    PlainServerManager,
)
from s2connect.bridge.link_state import LinkState
from s2connect.bridge.route import Route
from s2connect.messages.envelope import SESSION_REQUEST, ReceptionStatusValue, read_message, reception_status
from s2connect.transports.base import Connection
from tests.waits import until

POWER = (
    '{ "message_type":"PowerMeasurement" ,"message_id":"%s","measurement_timestamp":"2026-01-01T00:00:00Z",'
    '"values":[{"commodity_quantity":"ELECTRIC.POWER.L1","value":1.50e2}]}'
)


def client_devices(*devices: PlainClientDevice) -> PlainClientDevices:
    return PlainClientDevices(type="plain-client", device=devices)


def client_manager(url: str, **settings: Any) -> PlainClientManager:
    return PlainClientManager(type="plain-client", url=url, **settings)


def server_devices(*devices: PlainServerDevice, **settings: Any) -> PlainServerDevices:
    """Devices that connect to a free port, which a file cannot name."""
    return PlainServerDevices.model_construct(port=0, device=devices, **settings)


def server_manager(path: str, **settings: Any) -> PlainServerManager:
    """An energy manager that connects to a free port, which a file cannot name."""
    return PlainServerManager.model_construct(port=0, path=path, **settings)


def private_file(path: Path, text: str) -> Path:
    """A file that only its owner may read."""
    path.touch(0o600)
    path.write_text(text)
    return path


async def until_up(route: Route, number: int = 1) -> None:
    """Wait until so many links of a route are up."""
    await until(lambda: sum(s.state is LinkState.UP for s in route.status()) >= number)


async def converse(rm: Connection, cem: Connection) -> None:
    """One message in each direction, unchanged byte for byte, and the acknowledgement of each."""
    for sender, receiver, identifier in ((rm, cem, "from-rm"), (cem, rm, "from-cem")):
        text = POWER % identifier
        await sender.send(text)
        assert await receiver.recv() == text
        answer = reception_status(identifier, ReceptionStatusValue.OK, None)
        await receiver.send(answer)
        assert await sender.recv() == answer


async def ended(*connections: Connection) -> bool:
    """Peers that behave wait until the bridge asks for a new session, or closes, and close."""

    async def behave(connection: Connection) -> None:
        async for text in connection:
            if read_message(text).type == SESSION_REQUEST:
                break
        await connection.close()

    await asyncio.gather(*(behave(connection) for connection in connections))
    return True


async def part(route: Route, *connections: Connection) -> None:
    """End a route whose peers behave."""
    await asyncio.gather(route.close(), ended(*connections))
