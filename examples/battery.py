"""A battery as Resource Manager: pairs with the code you type, then reports its fill level every ten seconds.

    s2connect init --home battery --role rm --type Battery --name "Cellar battery"
    python examples/battery.py battery https://ems.local:8443/pairing/

Run it without the URL once it is paired.
"""

import asyncio
import sys

from s2connect import Endpoint, Message, Session, errors
from s2connect.messages.general import ControlType, SelectControlType

DETAILS = {
    "message_type": "ResourceManagerDetails",
    "resource_id": "cellar-battery",
    "name": "Cellar battery",
    "roles": [{"role": "ENERGY_STORAGE", "commodity": "ELECTRICITY"}],
    "instruction_processing_delay": 100,
    "available_control_types": ["FILL_RATE_BASED_CONTROL"],
    "provides_forecast": False,
    "provides_power_measurement_types": ["ELECTRIC.POWER.L1"],
}


async def report(session: Session) -> None:
    fill_level = 40.0
    while True:
        await session.send({"message_type": "FRBC.StorageStatus", "present_fill_level": fill_level})
        fill_level = min(100.0, fill_level + 0.5)
        await asyncio.sleep(10)


async def converse(session: Session) -> None:
    print("in session with", session.peer.title)
    await session.send(DETAILS)
    reporting: asyncio.Task[None] | None = None
    try:
        message: Message
        async for message in session:
            print(message.type)
            if isinstance(message.parsed, SelectControlType):
                await stop(reporting)
                selected = message.parsed.control_type is ControlType.FILL_RATE_BASED_CONTROL
                reporting = asyncio.create_task(report(session), name="report") if selected else None
    finally:
        await stop(reporting)


async def stop(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def main(home: str, url: str | None) -> None:
    async with Endpoint.open(home) as endpoint:
        rm = endpoint.node()
        if url is not None:
            code = await asyncio.to_thread(input, "Code shown by the energy manager: ")
            await rm.pair(url, code)
        async for session in rm.sessions():
            try:
                await converse(session)
            except errors.SessionError as error:
                print(error)


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None))
    except errors.S2ConnectError as error:
        sys.exit(str(error))
