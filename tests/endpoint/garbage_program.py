"""Devices and an energy manager whose sessions end and come again, without a garbage collector.

Arguments: the event loop, and how the sessions end. Prints a line of JSON: ``objects``, container objects of a session
on both ends together with the tasks that read it here; ``garbage``, what the ends have left, by type.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from s2connect import Endpoint, EndpointConfig, NodeConfig, Role, Session
from s2connect.service.event_loop import new_event_loop
from s2connect.transports.tls_buffer import free_transports_at_once
from s2connect.transports.websocket_connection import WebSocketConnection
from tests.endpoint.conftest import MEASUREMENT, lan_config
from tests.endpoint.test_endpoint_fleet import introduce
from tests.waits import until

NUMBER = 20
ROUNDS = 3


async def cut(session: Session) -> None:
    connection = session._connection
    assert isinstance(connection, WebSocketConnection)
    connection._transport.abort()


ENDS: dict[str, tuple[Role, Callable[[Session], Coroutine[Any, Any, None]]]] = {
    "closed by devices": (Role.RM, Session.close),
    "closed by the manager": (Role.CEM, Session.close),
    "new ones requested": (Role.CEM, Session.request_reconnect),
    "cut at devices": (Role.RM, cut),
    "cut at the manager": (Role.CEM, cut),
}


class Application:
    """Takes and reads the sessions of nodes."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.open: set[Session] = set()
        self._reading: set[asyncio.Task[None]] = set()
        for node in endpoint.nodes.values():
            self._keep(self._take(node.sessions()))

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)

    async def _take(self, sessions: Any) -> None:
        async for session in sessions:
            self._keep(self._read(session))

    async def _read(self, session: Session) -> None:
        self.open.add(session)
        async for _ in session:
            pass
        self.open.discard(session)

    def stop(self) -> None:
        for task in self._reading:
            task.cancel()


async def main(end: str) -> dict[str, Any]:
    role, way = ENDS[end]
    config = lan_config(Role.CEM)
    nodes = tuple(NodeConfig(role=Role.RM, alias=f"D{number}") for number in range(NUMBER))
    devices = EndpointConfig(host="127.0.0.1", bind="127.0.0.1", port=0, nodes=nodes)
    async with Endpoint.open(config=config) as cem, Endpoint.open(config=devices, serve=False) as fleet:
        await introduce(cem, fleet)
        gc.collect()
        before = len(gc.get_objects())
        sides = {Role.CEM: Application(cem), Role.RM: Application(fleet)}

        def all_are_open() -> bool:
            return all(len(side.open) == NUMBER for side in sides.values())

        async def use() -> None:
            await until(all_are_open, 60)
            await asyncio.gather(*(session.send(MEASUREMENT) for session in sides[Role.RM].open))

        await use()
        gc.collect()
        objects = (len(gc.get_objects()) - before) / NUMBER
        for _ in range(ROUNDS):
            ending = list(sides[role].open)
            await asyncio.gather(*map(way, ending))
            await until(lambda: not sides[role].open & set(ending), 20)  # noqa: B023 - awaited here
            ending.clear()
            await use()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        garbage = Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.garbage)
        gc.set_debug(0)
        for side in sides.values():
            side.stop()
    return {"objects": objects, "garbage": garbage.most_common(40), "ended": NUMBER * ROUNDS}


if __name__ == "__main__":
    gc.disable()
    free_transports_at_once()
    with asyncio.Runner(loop_factory=lambda: new_event_loop(sys.argv[1])) as runner:  # type: ignore[arg-type]
        print(json.dumps(runner.run(main(sys.argv[2]))))
