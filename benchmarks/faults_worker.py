"""Processes of the long run of faults: an instance, and devices. Both send numbered messages and keep a journal.

A line of a journal is written with one system call before anything is answered, so that it outlives its process: time,
kind, device, number of the message, session.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final
from uuid import uuid4

from benchmarks.endpoint_worker import Answer, client_pairing, devices, managers, node_id
from benchmarks.harness import Task, answer_questions, my_task, run
from benchmarks.instances_worker import HOST, seed, settings
from s2connect.endpoint.config import NodeConfig
from s2connect.endpoint.endpoint import Endpoint
from s2connect.endpoint.node import Node
from s2connect.endpoint.offline import create_home
from s2connect.errors import S2ConnectError
from s2connect.messages.enums import Check
from s2connect.messages.envelope import Message
from s2connect.model.common import MQTT, WEBSOCKET
from s2connect.session.session import Session
from s2connect.transports.mqtt.settings import MqttSettings
from s2connect.transports.websocket_connection import WebSocketConnection

PING_INTERVAL: Final = 2.0
"""Seconds between two WebSocket pings of both ends, instead of the product's 30, ..."""

PEER_TIMEOUT: Final = 6.0
"""... and of silence after which either gives the other up, instead of 75."""

ANSWER_WITHIN: Final = 3.0
"""Seconds after which the application of every second device ends a session that does not answer it."""

MEASUREMENT: Final = {
    "message_type": "PowerMeasurement",
    "measurement_timestamp": "2026-01-01T00:00:00Z",
    "values": [{"commodity_quantity": "ELECTRIC.POWER.L1", "value": 1.0}],
}


class Journal:
    """File of what happened, a line each. Times are those of the machine's monotonic clock."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, kind: str, device: int, number: int, session: str = "-") -> None:
        """Write a line: ``sent``, ``acknowledged`` or ``delivered``; of a message to a device with ``~device``."""
        os.write(self._file, f"{time.monotonic():.6f} {kind} {device} {number} {session}\n".encode())


class Application:
    """Application of one end, for sessions with any number of peers.

    It writes each message down before that is acknowledged, and sends messages in every session.

    Args:
        journal: Where to.
        task: With ``pause``, the seconds between two messages.
    """

    def __init__(self, journal: Journal, pause: float) -> None:
        self._journal = journal
        self._pause = pause
        self._names: dict[Session, str] = {}

    def note(self, session: Session, message: Message) -> None:
        """Write a message down: the handler that answers it."""
        kind, _, number = (message.id or "").partition("-")
        device = int(kind[1:])
        name = self._names.setdefault(session, uuid4().hex)
        self._journal.write("delivered", device if kind[0] == "u" else ~device, int(number), name)

    async def follow(self, session: Session, device: int, numbers: Iterator[int], *, within: float | None) -> None:
        """Send and receive until the session ends; end it where it answers nothing for so many seconds."""
        self._names.setdefault(session, uuid4().hex)
        sending = asyncio.create_task(self._send(session, device, numbers, within), name="faults-sending")
        try:
            async for _ in session:
                pass
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            self._names.pop(session, None)

    async def _send(self, session: Session, device: int, numbers: Iterator[int], within: float | None) -> None:
        which = f"u{device}" if device >= 0 else f"d{~device}"
        with contextlib.suppress(S2ConnectError, TimeoutError):
            for number in numbers:
                self._journal.write("sent", device, number)
                async with asyncio.timeout(within):
                    await session.send({**MEASUREMENT, "message_id": f"{which}-{number}"})
                self._journal.write("acknowledged", device, number)
                await asyncio.sleep(self._pause)
        await session.close()


def _mqtt(task: Task, user: str) -> MqttSettings | None:
    if not task.get("brokers"):
        return None
    return MqttSettings(
        urls=tuple(task["brokers"]),
        client_id=user,
        username=user,
        password_file=Path(task["passwords"]) / user,
        ca_file=Path(task["broker_ca"]),
    )


def _with_protocols(nodes: list[NodeConfig], *protocols: str) -> list[NodeConfig]:
    return [node.model_copy(update={"communication_protocols": protocols}) for node in nodes]


def _clock() -> Iterator[int]:
    """Numbers that rise from one process to the next."""
    while True:
        yield time.monotonic_ns() // 1000


async def instance(task: Task, stack: AsyncExitStack) -> tuple[Task, Answer]:
    """An instance whose application writes every message into its journal before it is acknowledged."""
    home, directory = Path(task["home"]), Path(task["directory"])
    application = Application(Journal(Path(task["journal"])), task["pause"])
    numbers = {node_id(f"rm-{number}"): number for number in range(task["devices"])}
    mqtt = _mqtt(task, task["broker_user"])
    nodes = _with_protocols(managers(1), *((MQTT, WEBSOCKET) if mqtt else (WEBSOCKET,)))
    more = {"store": task["store"], "instance": task["name"], "port": task["port"], "bind": task["address"]}
    create_home(home, settings(directory, nodes, mqtt=mqtt, **more))
    endpoint = await stack.enter_async_context(Endpoint.open(home))
    following: set[asyncio.Task[None]] = set()

    async def take(node: Node) -> None:
        async for session in node.sessions(check=Check.ENVELOPE, answer=application.note):
            device = numbers[session.peer.id]
            one = asyncio.create_task(
                application.follow(session, ~device, _clock(), within=None), name="faults-session"
            )
            following.add(one)
            one.add_done_callback(following.discard)

    taking = asyncio.create_task(take(next(iter(endpoint.nodes.values()))), name="faults-sessions")
    stack.callback(taking.cancel)

    async def answer(question: Task) -> Task:
        if question.get("drain"):  # what `serve` does at SIGTERM
            return {"drained": await endpoint.drain()}
        return {"connected": len(endpoint.connected())}

    return {"session_url": str(endpoint.session_url), "ca": str(directory / "ca.pem")}, answer


async def clients(task: Task, stack: AsyncExitStack) -> tuple[Task, Answer]:
    """Devices, each an endpoint of its own that knows the server at its own address, over WebSocket or MQTT."""
    directory, server = Path(task["directory"]), task["server"]
    application = Application(Journal(Path(task["journal"])), task["pause"])
    endpoints: list[Endpoint] = []

    async def follow(node: Node, device: int, first: int) -> None:
        numbers = iter(range(first, 1 << 60))
        async for session in node.sessions(check=Check.ENVELOPE, answer=application.note):
            await application.follow(session, device, numbers, within=ANSWER_WITHIN if device % 2 else None)

    for device, address in enumerate(task["addresses"], task["first"]):
        home = directory / f"device-{device}"
        mqtt = _mqtt(task, f"m{device}")
        nodes = _with_protocols(devices(device, 1), MQTT if mqtt else WEBSOCKET)
        create_home(home, settings(directory, nodes, mqtt=mqtt))
        made = client_pairing(device, server["session_url"], Path(server["ca"]))
        await seed({"home": str(home), "first": device}, iter([made]))
        endpoint = await stack.enter_async_context(Endpoint.open(home, serve=False, addresses={HOST: address}))
        endpoints.append(endpoint)
        following = follow(endpoint.nodes[node_id(f"rm-{device}")], device, 1)
        stack.callback(asyncio.create_task(following, name="faults-device").cancel)

    async def answer(question: Task) -> Task:
        return {"connected": sum(len(endpoint.connected()) for endpoint in endpoints)}

    return {}, answer


async def main() -> None:
    WebSocketConnection.ping_interval, WebSocketConnection.peer_timeout = PING_INTERVAL, PEER_TIMEOUT
    task = my_task()
    async with AsyncExitStack() as stack:
        ready, answer = await {"instance": instance, "clients": clients}[task["kind"]](task, stack)
        await answer_questions(ready, answer)


if __name__ == "__main__":
    run(main())
