"""Use 5: modules inside one energy management system.

    python -m uses.modules

A driver of a battery and the optimiser are modules of one program. They speak S2 to each other all the same, so that
either can be replaced, tested alone, or moved to another machine. Nothing is paired: who is in the process is trusted.
The messages are validated and acknowledged as everywhere.
"""

import asyncio

from uses.parts import battery, energy_manager

from s2connect import Endpoint, EndpointConfig, NodeConfig, Role, join_nodes

MODULES = (
    NodeConfig(role=Role.CEM, alias="O", user_defined_name="Optimiser"),
    NodeConfig(role=Role.RM, alias="B", user_defined_name="Battery"),
)


async def main() -> None:
    async with Endpoint.open(config=EndpointConfig(nodes=MODULES), serve=False) as system:  # no port, no certificate
        optimiser, driver = system.node(role=Role.CEM), system.node(role=Role.RM)
        join_nodes(optimiser, driver)

        async def device() -> None:
            async for session in driver.sessions():
                await battery(session, "Battery")

        running = asyncio.create_task(device())
        await energy_manager(await anext(optimiser.sessions()))
        running.cancel()


if __name__ == "__main__":
    asyncio.run(main())
