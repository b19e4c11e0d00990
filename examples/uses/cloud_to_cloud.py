"""Use 3: the cloud of a maker of batteries, and the cloud of an energy manager.

    python -m uses.cloud_to_cloud

The devices speak whatever their maker likes with the cloud of their maker, in which each is a node of its own. Every
node is paired by itself: its owner gets a code from the one service and types it at the other.
"""

import asyncio
import tempfile
from pathlib import Path

from uses.certificate import write_certificate
from uses.parts import battery, energy_manager, settings

from s2connect import Endpoint, Role

BATTERIES = ("Battery of Ada", "Battery of Bo")


async def main(authority: Path) -> None:
    async with (
        Endpoint.open(config=settings(Role.CEM, "Energy service", authority=authority, cloud=True)) as service,
        Endpoint.open(config=settings(Role.RM, *BATTERIES, authority=authority, cloud=True)) as maker,
    ):
        manager = service.node()
        nodes = [maker.node(node.id) for node in maker.config.nodes]

        async def devices(number: int) -> None:
            async for session in nodes[number].sessions():
                await battery(session, BATTERIES[number])

        running = [asyncio.create_task(devices(number)) for number in range(len(nodes))]
        for node in nodes:
            await node.pair(service.pairing_url, await manager.new_pairing_code())  # a code for each
            print(f"{node.description.title} is paired")

        arriving = manager.sessions()
        for _ in nodes:
            await energy_manager(await anext(arriving))
        for task in running:
            task.cancel()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        write_certificate(Path(place))
        asyncio.run(main(Path(place)))
