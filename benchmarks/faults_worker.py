"""Processes of the long run of faults: an instance, and devices that send numbered messages. Both keep a journal.

A line of a journal is written with one system call before anything is answered, so that it outlives its process: time,
kind, device, number of the message, session.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

from benchmarks.endpoint_worker import Answer, client_pairing, devices, managers, node_id
from benchmarks.harness import Task, answer_questions, my_task, run
from benchmarks.instances_worker import HOST, seed, settings
from s2connect.endpoint.endpoint import Endpoint
from s2connect.endpoint.node import Node
from s2connect.endpoint.offline import create_home
from s2connect.errors import S2ConnectError
from s2connect.messages.enums import Check
from s2connect.messages.envelope import Message
from s2connect.session.session import Session

MEASUREMENT = {
    "message_type": "PowerMeasurement",
    "measurement_timestamp": "2026-01-01T00:00:00Z",
    "values": [{"commodity_quantity": "ELECTRIC.POWER.L1", "value": 1.0}],
}


class Journal:
    """File of what happened, a line each. Times are those of the machine's monotonic clock."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, kind: str, device: int, number: int, session: str) -> None:
        """Write a line: ``sent``, ``acknowledged``, ``delivered``, ``opened`` or ``ended``."""
        os.write(self._file, f"{time.monotonic():.6f} {kind} {device} {number} {session}\n".encode())


async def instance(task: Task, stack: AsyncExitStack) -> tuple[Task, Answer]:
    """An instance whose application writes every message into its journal before it is acknowledged."""
    home, directory, journal = Path(task["home"]), Path(task["directory"]), Journal(Path(task["journal"]))
    numbers = {node_id(f"rm-{number}"): number for number in range(task["devices"])}
    more = {"store": task["store"], "instance": task["name"], "port": task["port"], "bind": task["address"]}
    create_home(home, settings(directory, managers(1), **more))
    endpoint = await stack.enter_async_context(Endpoint.open(home))
    reading: set[asyncio.Task[None]] = set()
    names: dict[Session, str] = {}

    def note(session: Session, message: Message) -> None:
        device, _, number = (message.id or "")[1:].partition("-")
        if session not in names:
            names[session] = uuid4().hex
        journal.write("delivered", int(device), int(number), names[session])

    async def read(session: Session) -> None:
        device, name = numbers[session.peer.id], names.setdefault(session, uuid4().hex)
        journal.write("opened", device, 0, name)
        async for _ in session:
            pass
        journal.write("ended", device, 0, name)
        del names[session]

    async def take(node: Node) -> None:
        async for session in node.sessions(check=Check.ENVELOPE, answer=note):
            one = asyncio.create_task(read(session), name="faults-session")
            reading.add(one)
            one.add_done_callback(reading.discard)

    taking = asyncio.create_task(take(next(iter(endpoint.nodes.values()))), name="faults-sessions")
    stack.callback(taking.cancel)

    async def answer(question: Task) -> Task:
        return {"connected": len(endpoint.connected())}

    return {"session_url": str(endpoint.session_url), "ca": str(directory / "ca.pem")}, answer


async def clients(task: Task, stack: AsyncExitStack) -> tuple[Task, Answer]:
    """Devices that send a message after the other, each once, with a pause between them."""
    directory, home, count = Path(task["directory"]), Path(task["home"]), task["devices"]
    journal, pause = Journal(Path(task["journal"])), task["pause"]
    create_home(home, settings(directory, devices(0, count)))
    server = task["server"]
    made = (client_pairing(number, server["session_url"], Path(server["ca"])) for number in range(count))
    await seed({"home": str(home)}, made)
    endpoint = await stack.enter_async_context(Endpoint.open(home, serve=False, addresses={HOST: task["address"]}))

    async def send(node: Node, device: int) -> None:
        number = task["from"]
        async for session in node.sessions(check=Check.ENVELOPE):
            with contextlib.suppress(S2ConnectError):
                while True:
                    number += 1
                    journal.write("sent", device, number, "-")
                    await session.send({**MEASUREMENT, "message_id": f"c{device}-{number}"})
                    journal.write("acknowledged", device, number, "-")
                    await asyncio.sleep(pause)

    for device in range(count):
        node = endpoint.nodes[node_id(f"rm-{device}")]
        sending = asyncio.create_task(send(node, device), name="faults-device")
        stack.callback(sending.cancel)

    async def answer(question: Task) -> Task:
        return {"connected": len(endpoint.connected())}

    return {}, answer


async def main() -> None:
    task = my_task()
    async with AsyncExitStack() as stack:
        ready, answer = await {"instance": instance, "clients": clients}[task["kind"]](task, stack)
        await answer_questions(ready, answer)


if __name__ == "__main__":
    run(main())
