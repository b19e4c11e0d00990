"""s2-python on both ends: its async connection over WSS. Runs in its environment."""

import asyncio
import importlib.util
import json
import ssl
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import websockets
from s2python.common import PowerForecast, PowerMeasurement
from s2python.connection.async_.connection import S2AsyncConnection
from s2python.connection.async_.medium.s2_medium import MediumClosedConnectionError, S2AsyncMediumConnection
from s2python.connection.async_.medium.websocket import WebsocketClientMedium
from s2python.connection.connection_events import ConnectionStarted, ConnectionStopped
from s2python.s2_parser import S2Parser
from websockets.asyncio.server import ServerConnection, serve

spec = importlib.util.spec_from_file_location("samples", Path(__file__).parent.parent / "samples.py")
assert spec is not None
assert spec.loader is not None
samples = importlib.util.module_from_spec(spec)
spec.loader.exec_module(samples)


class ServerMedium(S2AsyncMediumConnection):
    """s2-python has a medium for clients only; this is the same for a connection that was accepted."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket

    async def is_connected(self) -> bool:
        return True

    async def messages(self) -> AsyncIterator[str | bytes]:
        try:
            async for message in self.socket:
                yield message
        except websockets.WebSocketException as error:
            raise MediumClosedConnectionError("closed") from error

    async def send(self, message: str) -> None:
        await self.socket.send(message)


async def acknowledge(_connection: object, _message: object, send_okay: Callable[[], Awaitable[None]]) -> None:
    await send_okay()


async def ignore(_connection: object, _event: object, _send_okay: object) -> None:
    pass


def connection_over(medium: S2AsyncMediumConnection) -> S2AsyncConnection:
    connection = S2AsyncConnection(medium)
    connection.register_handler(ConnectionStarted, ignore)
    connection.register_handler(ConnectionStopped, ignore)
    return connection


async def accept(socket: ServerConnection) -> None:
    connection = connection_over(ServerMedium(socket))
    connection.register_handler(PowerMeasurement, acknowledge)
    connection.register_handler(PowerForecast, acknowledge)
    await connection.run()


async def server(task: dict[str, Any]) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(f"{task['directory']}/chain.pem", f"{task['directory']}/key.pem")
    compression = "deflate" if task["deflate"] else None
    async with serve(accept, "127.0.0.1", 0, ssl=tls, compression=compression) as listening:
        port = next(iter(listening.sockets)).getsockname()[1]
        print(json.dumps({"url": f"wss://localhost:{port}/"}), flush=True)
        await asyncio.to_thread(sys.stdin.read)


async def client(task: dict[str, Any]) -> None:
    prototypes = {
        name: S2Parser().parse_as_any_message({**sample, "message_id": str(uuid.uuid4())})
        for name, sample in samples.SAMPLES.items()
    }
    async with WebsocketClientMedium(task["server"]["url"]) as medium:  # trusts $SSL_CERT_FILE
        connection = connection_over(medium)
        running = asyncio.create_task(connection.run())
        print("{}", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            question = json.loads(line)
            spans: list[float] = []
            prototype = prototypes[question["sample"]]
            began = time.perf_counter()
            for _ in range(question["count"]):
                start = time.perf_counter()
                # A copy with a new id is the cheapest way to a message; constructing one costs a validation more.
                message = prototype.model_copy(update={"message_id": uuid.uuid4()})
                await connection.send_msg_and_await_reception_status(message)
                spans.append(time.perf_counter() - start)
            whole = time.perf_counter() - began
            spans.sort()
            n = len(spans)
            print(json.dumps({"p50": spans[n // 2], "p99": spans[int(n * 0.99)], "rate": n / whole}), flush=True)
        running.cancel()


task = json.loads(sys.argv[1])
asyncio.run(server(task) if task["kind"] == "server" else client(task))
