"""Server and client processes for messages over WSS: ours, and the bare libraries underneath, with our TLS contexts."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import websockets.asyncio.client
import websockets.asyncio.server
from aiohttp import web
from websockets.asyncio.server import ServerConnection

from benchmarks.harness import Task, answer_questions, memory, my_task, percentile
from benchmarks.samples import SAMPLES
from s2connect.certs.authority import ServerIdentity
from s2connect.certs.tls import ServerContext, wan_client_context
from s2connect.https.server import HttpsServer
from s2connect.model.common import NodeDescription, NodeId, Role
from s2connect.model.session_init import CommunicationDetails
from s2connect.model.url import WebSocketUrl
from s2connect.session.session import Session
from s2connect.transports.base import Connection, ConnectionInfo, Trust
from s2connect.transports.websocket import WebSocketTransport

PATH = "/websocket"
PEER = NodeDescription(id=NodeId(uuid4()), brand="b", type="t", model_name="m", role=Role.RM)
INFO = ConnectionInfo("WebSocket", NodeId(uuid4()), PEER.id, "v1.0.0")

RoundTrip = Callable[[dict[str, Any]], Awaitable[Any]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def server_tls(directory: Path) -> Any:
    chain, key = (directory / "chain.pem").read_bytes(), (directory / "key.pem").read_bytes()
    return ServerContext(ServerIdentity.load(chain, key)).context


# Servers


async def serve_https(task: Task, stack: AsyncExitStack, handler: Handler) -> str:
    """Serve WebSockets at our own HTTPS server; returns the URL."""
    server = HttpsServer(server_tls(Path(task["directory"])), host="127.0.0.1", port=0)

    async def released(request: web.Request) -> web.StreamResponse:
        server.release(request)
        return await handler(request)

    server.add_get(PATH, released)
    await server.start()
    stack.push_async_callback(server.close)
    return f"wss://localhost:{server.port}{PATH}"


async def serve_websocket(task: Task, stack: AsyncExitStack, *, deflate: bool) -> WebSocketTransport:
    """Serve our own transport; it knows its URL."""
    transport = WebSocketTransport(lambda: WebSocketUrl(url), compression=deflate)
    url = await serve_https(task, stack, transport.handler)
    stack.push_async_callback(transport.close)
    return transport


async def serve_ours(task: Task, stack: AsyncExitStack, serve: Callable[[Connection], Awaitable[None]]) -> Task:
    transport = await serve_websocket(task, stack, deflate=task["deflate"])
    offer = transport.offer(INFO)

    async def run() -> None:
        await serve(await offer.connection)

    running = asyncio.create_task(run(), name="benchmark-server")
    stack.callback(running.cancel)
    details: Task = offer.details.to_value()
    return details


async def echo(connection: Connection) -> None:
    async for text in connection:
        await connection.send(text)


async def read_session(connection: Connection) -> None:
    async with Session(connection, peer=PEER, role=Role.CEM) as session:
        async for _ in session:
            pass


async def serve_aiohttp(task: Task, stack: AsyncExitStack, handler: Handler) -> Task:
    """Serve WebSockets at bare aiohttp."""
    app = web.Application()
    app.router.add_get(PATH, handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_tls(Path(task["directory"]))).start()
    return {"url": f"wss://localhost:{runner.addresses[0][1]}{PATH}"}


async def echo_aiohttp(task: Task, stack: AsyncExitStack) -> Task:
    async def handler(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(compress=task["deflate"])
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data)
        return socket

    return await serve_aiohttp(task, stack, handler)


async def serve_websockets(
    task: Task, stack: AsyncExitStack, handler: Callable[[ServerConnection], Awaitable[None]], *, deflate: bool
) -> Task:
    """Serve bare websockets."""
    tls, compression = server_tls(Path(task["directory"])), "deflate" if deflate else None
    serving = websockets.asyncio.server.serve(handler, "127.0.0.1", 0, ssl=tls, compression=compression)
    server = await stack.enter_async_context(serving)
    return {"url": f"wss://localhost:{next(iter(server.sockets)).getsockname()[1]}{PATH}"}


async def echo_websockets(task: Task, stack: AsyncExitStack) -> Task:
    async def handler(socket: ServerConnection) -> None:
        async for text in socket:
            await socket.send(text)

    return await serve_websockets(task, stack, handler, deflate=task["deflate"])


async def serve(task: Task, stack: AsyncExitStack) -> Task:
    match task["what"]:
        case "session":
            return await serve_ours(task, stack, read_session)
        case "connection":
            return await serve_ours(task, stack, echo)
        case "aiohttp":
            return await echo_aiohttp(task, stack)
        case _:
            return await echo_websockets(task, stack)


# Clients


async def connect(task: Task, stack: AsyncExitStack) -> RoundTrip:
    tls = await asyncio.to_thread(wan_client_context, Path(task["directory"]) / "ca.pem")
    server, deflate = task["server"], task["deflate"]
    if task["what"] in ("session", "connection"):
        transport = WebSocketTransport(compression=deflate)
        details = CommunicationDetails.from_value(server)
        connection = await transport.connect(INFO, details, Trust(tls, "127.0.0.1"))
        stack.push_async_callback(connection.close)
        if task["what"] == "session":
            session = await stack.enter_async_context(Session(connection, peer=PEER, role=Role.RM))
            return session.send

        async def over_connection(message: dict[str, Any]) -> None:
            await connection.send(json.dumps(message))
            await connection.recv()

        return over_connection
    if task["what"] == "aiohttp":
        http = await stack.enter_async_context(aiohttp.ClientSession())
        socket = await stack.enter_async_context(http.ws_connect(server["url"], ssl=tls, compress=15 if deflate else 0))

        async def over_aiohttp(message: dict[str, Any]) -> None:
            await socket.send_str(json.dumps(message))
            await socket.receive()

        return over_aiohttp
    bare = await stack.enter_async_context(
        websockets.asyncio.client.connect(
            server["url"], ssl=tls, host="127.0.0.1", compression="deflate" if deflate else None, proxy=None
        )
    )

    async def over_websockets(message: dict[str, Any]) -> None:
        await bare.send(json.dumps(message))
        await bare.recv()

    return over_websockets


async def timed(round_trip: RoundTrip, question: Task) -> Task:
    message, spans = SAMPLES[question["sample"]], []
    began = time.perf_counter()
    for _ in range(question["count"]):
        start = time.perf_counter()
        await round_trip(message)
        spans.append(time.perf_counter() - start)
    whole = time.perf_counter() - began
    return {"p50": percentile(spans, 0.5), "p99": percentile(spans, 0.99), "rate": question["count"] / whole}


async def memory_answer(_: Task) -> Task:
    return {"bytes": memory()}


async def main() -> None:
    task = my_task()
    async with AsyncExitStack() as stack:
        if task["kind"] == "server":
            ready = await serve(task, stack)
            await answer_questions(ready, memory_answer)
        elif task["kind"] == "crowd":
            for _ in range(task["size"]):
                await connect(task, stack)
            await answer_questions({}, memory_answer)
        else:
            round_trip = await connect(task, stack)
            await answer_questions({}, lambda question: timed(round_trip, question))


if __name__ == "__main__":
    asyncio.run(main())
