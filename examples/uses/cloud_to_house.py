"""Use 4: a device that its maker's cloud represents, and an energy manager in the house.

    python -m uses.cloud_to_house

Again nobody connects into the house: the code is shown by the cloud, typed at the energy manager, and the energy
manager connects. So the one that shows the code is a device here: roles have nothing to do with who connects.
"""

import asyncio
import tempfile
from pathlib import Path

from uses.certificate import write_certificate
from uses.parts import battery, energy_manager, settings

from s2connect import Endpoint, Role


async def main(authority: Path) -> None:
    async with (
        Endpoint.open(config=settings(Role.RM, "Battery", authority=authority, cloud=True)) as cloud,
        Endpoint.open(config=settings(Role.CEM, "House", authority=authority)) as house,
    ):
        code = await cloud.node().new_pairing_code()
        print(f"pairing at {cloud.pairing_url}")
        await house.node().pair(cloud.pairing_url, code)

        async def device() -> None:
            async for session in cloud.node().sessions():
                await battery(session, "Battery")

        running = asyncio.create_task(device())
        await energy_manager(await anext(house.node().sessions()))
        running.cancel()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        write_certificate(Path(place))
        asyncio.run(main(Path(place)))
