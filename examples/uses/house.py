"""Use 1: a device and an energy manager in one house.

    python -m uses.house

Each is its own certificate authority, and pins that of the other when they pair. The energy manager shows a code, and
whoever stands at the device types it; the other way round does as well.
"""

import asyncio

from uses.parts import battery, energy_manager, settings

from s2connect import Endpoint, Role


async def main() -> None:
    async with (
        Endpoint.open(config=settings(Role.CEM, "House")) as house,
        Endpoint.open(config=settings(Role.RM, "Battery")) as cellar,
    ):
        code = await house.node().new_pairing_code()
        print(f"pairing at {house.pairing_url}")
        await cellar.node().pair(house.pairing_url, code)

        async def device() -> None:
            async for session in cellar.node().sessions():  # connects, and again after a loss
                await battery(session, "Battery")

        running = asyncio.create_task(device())
        await energy_manager(await anext(house.node().sessions()))
        running.cancel()


if __name__ == "__main__":
    asyncio.run(main())
