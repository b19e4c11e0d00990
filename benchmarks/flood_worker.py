"""Workers of the flood: the bridge; a hostile device; honest devices and their energy manager; costs of messages."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

from benchmarks.harness import Task, answer_questions, my_task, percentile
from benchmarks.worst import costliest, hostile_texts, rich_messages, with_escape
from s2connect.bridge.config import PlainClientManager, PlainServerDevice, PlainServerDevices
from s2connect.bridge.plain import PlainClientManagerSide, PlainServerDevicesSide
from s2connect.bridge.relay import Policy
from s2connect.bridge.route import Route
from s2connect.certs.tls import wan_client_context
from s2connect.endpoint.plain_server import PlainServer
from s2connect.errors import ConnectionClosed, S2ConnectError
from s2connect.messages.catalogue import MESSAGES, V1
from s2connect.messages.enums import Check
from s2connect.messages.envelope import ReceptionStatusValue, reception_status
from s2connect.model.common import NodeId, Role
from s2connect.model.proxy import Proxies
from s2connect.transports.base import Connection, Trust
from s2connect.transports.plain import PlainAcceptor, connect_plain

HONEST = 3
BRIDGE, MANAGER, DEVICE = (NodeId(UUID(int=number)) for number in (1, 2, 3))
NAMES = ("evil", *(f"honest{number}" for number in range(HONEST)))
POWER = (
    '{"message_type":"PowerMeasurement","message_id":"%s","measurement_timestamp":"2026-01-01T00:00:00Z",'
    '"values":[{"commodity_quantity":"ELECTRIC.POWER.L1","value":150}]}'
)
_ID = re.compile(r'"message_id": ?"([^"]*)"')
_STATUS = '"ReceptionStatus"'


async def bridge(task: Task, stack: AsyncExitStack) -> Task:
    directory = Path(task["directory"])
    config = PlainServerDevices.model_construct(
        type="plain-server",
        port=0,
        certificate=directory / "chain.pem",
        private_key=directory / "key.pem",
        device=tuple(PlainServerDevice(name=name) for name in NAMES),
    )
    devices = PlainServerDevicesSide(BRIDGE, config)
    manager = PlainClientManagerSide(BRIDGE, PlainClientManager(type="plain-client", url=task["manager"]), Proxies())
    route = Route("flood", devices, manager, Policy(check=Check(task["check"])))
    await route.start()
    stack.push_async_callback(route.close)
    return {"port": devices.port}


class Stretches:
    """Measures the CPU seconds that the loop works before it resumes a ready task."""

    def __init__(self) -> None:
        self._seen = [0.0]

    async def watch(self) -> None:
        while True:
            begun = time.thread_time()
            await asyncio.sleep(0.002)
            self._seen.append(time.thread_time() - begun)

    async def answer(self, _: Task) -> Task:
        seen, self._seen = self._seen, [0.0]
        return {"p99": percentile(seen, 0.99), "max": max(seen)}


async def connected(task: Task, name: str) -> Connection:
    trust = Trust(wan_client_context(Path(task["directory"]) / "ca.pem"), "127.0.0.1")
    url = f"wss://localhost:{task['port']}/{name}"
    return await connect_plain(url, role=Role.RM, local=DEVICE, trust=trust, compression=False)


# The honest


async def honest(task: Task, stack: AsyncExitStack) -> None:
    acceptor = PlainAcceptor(role=Role.CEM, local=MANAGER, tokens=None, compression=False)
    server = await stack.enter_async_context(PlainServer(acceptor))
    tasks = set()

    async def manage(connection: Connection) -> None:
        """Answer OK without parsing, because the bridge is measured."""
        with contextlib.suppress(ConnectionClosed):
            async for text in connection:
                if _STATUS not in text[:100] and (found := _ID.search(text)) is not None:
                    await connection.send(reception_status(json.loads(f'"{found[1]}"'), ReceptionStatusValue.OK))

    async def take() -> None:
        async for connection in server:
            one = asyncio.create_task(manage(connection))
            tasks.add(one)
            one.add_done_callback(tasks.discard)

    taking = asyncio.create_task(take())
    stack.callback(taking.cancel)
    devices: list[Connection] = []

    async def answer(question: Task) -> Task:
        if "port" in question:
            devices.extend([await connected(task | question, name) for name in NAMES[1:]])
            return {}
        runs = [round_trips(device, question["seconds"]) for device in devices]
        spans = [span for each in await asyncio.gather(*runs) for span in each]
        return {"p50": percentile(spans, 0.5), "p99": percentile(spans, 0.99), "max": max(spans), "n": len(spans)}

    await answer_questions({"manager": f"ws://127.0.0.1:{server.port}/"}, answer)


_NUMBERS = itertools.count()


async def round_trips(device: Connection, seconds: float) -> list[float]:
    spans, until = [], time.perf_counter() + seconds
    while time.perf_counter() < until:
        text = POWER % f"h{next(_NUMBERS)}"
        begun = time.perf_counter()
        await device.send(text)
        while '"OK"' not in await device.recv():
            pass
        spans.append(time.perf_counter() - begun)
        await asyncio.sleep(0.02)
    return spans


# The hostile


def texts(attack: str) -> Iterator[str]:
    """Return an endless iterator over the texts of an attack, made before it begins."""
    hostile = dict(hostile_texts())
    if attack in hostile:
        return itertools.repeat(hostile[attack])
    if attack == "900 kB of brackets":
        return itertools.repeat("[" * 900_000)
    if attack == "tiny":
        return itertools.repeat("{}")
    if attack == "measurements":
        return (POWER % f"t{number}" for number in itertools.count())
    if attack == "unknown answers":
        return (reception_status(f"t{number}", ReceptionStatusValue.OK) for number in itertools.count())
    richest = with_escape(max(rich_messages(MESSAGES[V1][attack.split()[-1]]), key=lambda text: text.count(",")))
    head, tail = _ID.split(richest, maxsplit=1)[::2]
    return (f'{head}"message_id":"\\u0041{number}"{tail}' for number in itertools.count())


async def evil(task: Task) -> None:
    flooding: asyncio.Task[None] | None = None
    sent = 0

    async def listen(connection: Connection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for _ in connection:
                pass

    async def flood(stream: Iterator[str]) -> None:
        nonlocal sent
        while True:
            try:
                connection = await connected(task, NAMES[0])
            except S2ConnectError:
                await asyncio.sleep(0.05)
                continue
            listening = asyncio.create_task(listen(connection))
            try:
                for text in stream:
                    await connection.send(text)
                    sent += 1
                    await asyncio.sleep(0)
            except ConnectionClosed:
                pass
            finally:
                listening.cancel()
                await connection.close()

    async def answer(question: Task) -> Task:
        nonlocal flooding, sent
        if flooding is not None:
            flooding.cancel()
            await asyncio.wait({flooding})
            flooding = None
        before, sent = sent, 0
        if question.get("attack"):
            flooding = asyncio.create_task(flood(texts(question["attack"])))
        return {"sent": before}

    await answer_questions({}, answer)


async def costs(_: Task) -> Task:
    return {"costs": costliest()}


async def main() -> None:
    task: dict[str, Any] = my_task()
    async with AsyncExitStack() as stack:
        if task["kind"] == "bridge":
            at, stretches = await bridge(task, stack), Stretches()
            stack.callback(asyncio.create_task(stretches.watch()).cancel)
            await answer_questions(at, stretches.answer)
        elif task["kind"] == "honest":
            await honest(task, stack)
        elif task["kind"] == "costs":
            await answer_questions({}, costs)
        else:
            await evil(task)


if __name__ == "__main__":
    asyncio.run(main())
