"""Use 2: a device in a house, and an energy manager in the cloud.

    python -m uses.device_to_cloud

Nobody connects into a house: the code is shown in the cloud (on the web page of the service) and typed at the device,
which connects to the cloud, now and later. The cloud has a certificate of a public authority, so nothing is pinned.
"""

import asyncio
import tempfile
from pathlib import Path

from uses.certificate import write_certificate
from uses.parts import battery, energy_manager, settings

from s2connect import Endpoint, Role


async def main(authority: Path) -> None:
    async with (
        Endpoint.open(config=settings(Role.CEM, "Cloud", authority=authority, cloud=True)) as cloud,
        Endpoint.open(config=settings(Role.RM, "Battery", authority=authority), serve=False) as cellar,
    ):
        code = await cloud.node().new_pairing_code()
        print(f"pairing at {cloud.pairing_url}")
        await cellar.node().pair(cloud.pairing_url, code)

        async def device() -> None:
            async for session in cellar.node().sessions():
                await battery(session, "Battery")

        running = asyncio.create_task(device())
        await energy_manager(await anext(cloud.node().sessions()))
        running.cancel()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        write_certificate(Path(place))
        asyncio.run(main(Path(place)))
