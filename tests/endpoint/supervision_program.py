"""An energy manager and a device without a server on one host of a test network; one of their tasks meets an error.

Run with the name of the task. It ends well if the error is told as an event, without its text, and what the task does
is done all the same. The host's namespace is this process's own, so it changes the network itself.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from s2connect import Endpoint, EndpointConfig, NodeConfig, Role, events, supervisor
from s2connect.discovery import shared
from s2connect.discovery.advertise import Advertiser
from s2connect.discovery.browse import Browser
from s2connect.endpoint import local_network as lan
from s2connect.endpoint.pairing import PairingManager
from tests.waits import until, within

SECRET = "K7X-1234-5678"
NEW = "10.77.1.99"


class Fault:
    """An error in place of the first call after it was armed."""

    def __init__(self, owner: Any, name: str, *, armed: bool = True) -> None:
        real = getattr(owner, name)
        self.armed = armed
        self.calls = 0

        def faulty(*arguments: Any, **more: Any) -> Any:
            self.calls += 1
            if self.armed:
                self.armed = False
                raise RuntimeError(SECRET)
            return real(*arguments, **more)

        setattr(owner, name, faulty)


class EndpointPair:
    """The two endpoints."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def open(self) -> None:
        manager = EndpointConfig(port=8443, host="ems.local", nodes=(NodeConfig(role=Role.CEM),))
        device = EndpointConfig(port=0, host="device.local", server=False, nodes=(NodeConfig(role=Role.RM),))
        self.cem = await self._stack.enter_async_context(Endpoint.open(config=manager))
        self.at_cem = self.cem.events()
        self.rm = await self._stack.enter_async_context(Endpoint.open(config=device))
        self.at_rm = self.rm.events()


async def wait_for(stream: events.EventStream, wanted: Callable[[events.Event], bool]) -> Any:
    async with within(20):
        async for event in stream:
            if wanted(event):
                return event
    raise AssertionError("the endpoint has closed")


async def failed(stream: events.EventStream, task: str, *, again: bool = True) -> None:
    failure = await wait_for(stream, lambda event: isinstance(event, events.TaskFailed))
    assert (failure.task, failure.error, failure.retry_in is not None) == (task, "RuntimeError", again), failure
    assert SECRET not in repr(failure)


def change_network() -> None:
    subprocess.run(["ip", "addr", "add", f"{NEW}/24", "dev", "eth0"], check=True)


async def advertise(pair: EndpointPair) -> None:
    Fault(Advertiser, "start")
    await pair.open()
    await failed(pair.at_cem, "advertise")
    await wait_for(pair.at_cem, lambda event: isinstance(event, events.Advertised))


async def neighbours(pair: EndpointPair) -> None:
    Fault(Browser, "__anext__")
    await pair.open()
    await failed(pair.at_rm, "neighbours")
    await wait_for(pair.at_cem, lambda event: isinstance(event, events.DeviceWaits))


async def long_polling(pair: EndpointPair) -> None:
    Fault(lan, "wait_for_pairing")
    await pair.open()
    await failed(pair.at_rm, "long-polling")
    await wait_for(pair.at_cem, lambda event: isinstance(event, events.DeviceWaits))


async def long_poll_pairing(pair: EndpointPair) -> None:
    Fault(PairingManager, "pair")
    await pair.open()
    code = pair.rm.node().issue_pairing_code()
    await wait_for(pair.at_cem, lambda event: isinstance(event, events.DeviceWaits))
    pairing = asyncio.create_task(pair.cem.node().pair_waiting(pair.rm.node().id, str(code)))
    await failed(pair.at_rm, "long-poll-pairing", again=False)
    pairing.cancel()
    await asyncio.wait({pairing})
    await pair.cem.node().pair_waiting(pair.rm.node().id, str(code))


async def advertiser(pair: EndpointPair) -> None:
    await pair.open()
    await wait_for(pair.at_cem, lambda event: isinstance(event, events.DeviceWaits))
    Fault(Advertiser, "_publish")
    async with Browser(Role.CEM) as browser:
        change_network()
        await failed(pair.at_cem, "advertiser")
        await until(lambda: [e for e in browser.found() if NEW in e.addresses])


async def mdns_interfaces(pair: EndpointPair) -> None:
    """It belongs to the process and to no endpoint, so the log alone tells."""
    await pair.open()
    await wait_for(pair.at_cem, lambda event: isinstance(event, events.DeviceWaits))
    fault = Fault(shared, "_interfaces")
    change_network()
    await until(lambda: fault.calls >= 2)


async def no_network(pair: EndpointPair) -> None:
    """There is none when the endpoints are opened."""
    for interface in ("lo", "eth0"):
        subprocess.run(["ip", "addr", "flush", "dev", interface], check=True)
    await pair.open()
    await wait_for(pair.at_cem, lambda event: isinstance(event, events.Notice) and event.kind == "not_advertised")
    change_network()
    await wait_for(pair.at_cem, lambda event: isinstance(event, events.Advertised))


CASES = {
    "advertise": advertise,
    "neighbours": neighbours,
    "long-polling": long_polling,
    "long-poll-pairing": long_poll_pairing,
    "advertiser": advertiser,
    "mdns-interfaces": mdns_interfaces,
    "no network": no_network,
}


async def main(case: str) -> None:
    supervisor.FIRST_DELAY = 0.1  # type: ignore[misc]
    async with AsyncExitStack() as stack:
        await CASES[case](EndpointPair(stack))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    asyncio.run(main(sys.argv[1]))
