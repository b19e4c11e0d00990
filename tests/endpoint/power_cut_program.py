"""One energy manager and one device in one process, which a test cuts the power of.

Run as a script it does one thing and ends; it changes the disk from one thread, so that a test can count.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import s2connect.store.sqlite
from s2connect import Endpoint, EndpointConfig, NodeConfig, Role, create_home
from s2connect.endpoint.settings import read_config
from s2connect.store.home import Home

PORTS = {Role.CEM: 7443, Role.RM: 7444}


class OneThread(ThreadPoolExecutor):
    """Everything that blocks, in one thread."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Outlive the stores that share it."""


def build(directory: Path) -> None:
    """Set both up. The names are resolved by the test; the addresses differ from copy to copy."""
    directory.mkdir(parents=True)
    for role, port in PORTS.items():
        node = NodeConfig(role=role, model_name=role)
        config = EndpointConfig(host=f"{role.lower()}.local", port=port, vault="files", nodes=(node,))
        create_home(directory / role, config)

    async def once() -> None:  # the leaf certificates and the databases
        for role in Role:
            async with Endpoint.open(directory / role, serve=False):
                pass

    asyncio.run(once())


def build_paired(directory: Path) -> None:
    """Set both up and pair them."""
    build(directory)

    async def pair() -> None:
        async with both(directory) as (cem, rm):
            await rm.node().pair(cem.pairing_url, cem.node().issue_pairing_code())

    asyncio.run(pair())


@contextlib.asynccontextmanager
async def both(directory: Path) -> AsyncIterator[tuple[Endpoint, Endpoint]]:
    """Open both at a loopback address of this directory's own."""
    number = int.from_bytes(hashlib.sha256(str(directory).encode()).digest()[:2]) % 64_000 + 257
    address = f"127.1.{number // 256}.{number % 256}"
    addresses = {f"{role.lower()}.local": address for role in Role}
    async with contextlib.AsyncExitStack() as stack:
        opened = []
        for role in (Role.CEM, Role.RM):
            config = read_config(await asyncio.to_thread(Home.open, directory / role))
            config = config.model_copy(update={"bind": address})
            endpoint = await stack.enter_async_context(
                Endpoint.open(directory / role, config=config, addresses=addresses)
            )
            endpoint._pairing.server.delay = 0.0
            opened.append(endpoint)
        yield opened[0], opened[1]


async def session(cem: Endpoint, rm: Endpoint) -> bool:
    """Wait for a session of both; False if the device gives up."""
    failures = rm.events()

    async def gives_up() -> None:
        async for event in failures:
            if getattr(event, "retry_in", 0) is None or getattr(event, "reason", "") == "unconfirmed":
                return

    async def both() -> Any:
        return await asyncio.gather(anext(cem.node().sessions()), anext(rm.node().sessions()))

    tasks = [asyncio.create_task(gives_up(), name="gives-up"), asyncio.create_task(both(), name="both")]
    try:
        async with asyncio.timeout(30):
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[1].done()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def main(what: str, directory: Path) -> None:
    """Do one thing."""
    one = OneThread(1)
    asyncio.get_running_loop().set_default_executor(one)
    vars(s2connect.store.sqlite)["ThreadPoolExecutor"] = lambda *_, **__: one
    async with both(directory) as (cem, rm):
        if what == "device pairs":
            await rm.node().pair(cem.pairing_url, cem.node().issue_pairing_code())
        elif what == "manager pairs":
            await cem.node().pair(rm.pairing_url, rm.node().issue_pairing_code())
        elif what == "session":
            assert await session(cem, rm)
        os.writev(1, [b"done"])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
