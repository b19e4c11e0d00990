"""Server and client processes for messages over WSS: ours, and the bare libraries underneath, with our TLS contexts."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import websockets.asyncio.client
import websockets.asyncio.server
from aiohttp import web
from websockets.asyncio.server import ServerConnection

from benchmarks.harness import Task, answer_questions, memory, my_task, percentile, run
from benchmarks.samples import FILL_LEVEL, SAMPLES, SMALL, instruction
from s2connect.certs.authority import ServerIdentity
from s2connect.certs.tls import ServerContext, wan_client_context
from s2connect.https.server import HttpsServer
from s2connect.messages.catalogue import parse
from s2connect.model.common import NodeDescription, NodeId, Role
from s2connect.model.session_init import CommunicationDetails
from s2connect.model.url import WebSocketUrl
from s2connect.session.budget import PeerLimits
from s2connect.session.session import Session
from s2connect.transports.base import Connection, ConnectionInfo, Trust
from s2connect.transports.websocket import WebSocketTransport

PATH = "/websocket"
PEER = NodeDescription(id=NodeId(uuid4()), brand="b", type="t", model_name="m", role=Role.RM)
INFO = ConnectionInfo("WebSocket", NodeId(uuid4()), PEER.id, "v1.0.0")

UNLIMITED = PeerLimits(
    messages_per_second=1e9,
    message_burst=10**9,
    bytes_per_second=1e12,
    byte_burst=10**12,
    busy_share=1e6,
    busy_burst=1e6,
)
"""Otherwise a peer as busy as in these measurements is read from more slowly."""

RoundTrip = Callable[[str], Awaitable[None]]
"""Sends a message of ``SAMPLES`` and waits for its answer."""

Offers = Callable[[], Task]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def client_tls(task: Task) -> ssl.SSLContext:
    return await asyncio.to_thread(wan_client_context, Path(task["directory"]) / "ca.pem")


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


async def serve_ours(task: Task, stack: AsyncExitStack, serve: Callable[[Connection], Awaitable[None]]) -> Offers:
    """Offer connections of our own, one at the start and more when asked."""
    transport = await serve_websocket(task, stack, deflate=task["deflate"])

    def offer() -> Task:
        offered = transport.offer(INFO)

        async def run() -> None:
            await serve(await offered.connection)

        stack.callback(asyncio.create_task(run(), name="benchmark-server").cancel)
        details: Task = offered.details.to_value()
        return details

    return offer


async def echo(connection: Connection) -> None:
    async for text in connection:
        await connection.send(text)


class Sessions:
    """Sessions of one end, which receive, and send when asked."""

    def __init__(self) -> None:
        self._open: list[Session] = []

    async def serve(self, connection: Connection) -> None:
        async with Session(connection, peer=PEER, role=Role.CEM, limits=UNLIMITED) as session:
            await self.read(session)

    async def read(self, session: Session) -> None:
        self._open.append(session)
        async for _ in session:
            pass

    async def send(self, question: Task) -> Task:
        """Let the ``latest`` sessions, or all, send: a ``message``, and ``count`` of what an end usually sends."""
        later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()

        def usual(role: Role, number: int) -> Task:
            return (SMALL, FILL_LEVEL)[number % 2] if role is Role.RM else instruction(str(uuid4()), later)

        async def many(session: Session) -> None:
            if "message" in question:
                await session.send(question["message"])
            for number in range(question.get("count", 0)):
                await session.send(usual(session.role, number))

        await asyncio.gather(*(many(session) for session in self._open[-question.get("latest", 0) :]))
        return {}


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


async def serve(task: Task, stack: AsyncExitStack) -> None:
    sessions, offer = Sessions(), None
    if task["what"] in ("session", "connection"):
        offer = await serve_ours(task, stack, sessions.serve if task["what"] == "session" else echo)
        ready = offer()
    else:
        ready = await (echo_aiohttp if task["what"] == "aiohttp" else echo_websockets)(task, stack)

    async def answer(question: Task) -> Task:
        match question:
            case {"offers": count}:
                assert offer is not None
                return {"offers": [offer() for _ in range(count)]}
            case {"message": _} | {"count": _}:
                return await sessions.send(question)
        return {"bytes": memory()}

    await answer_questions(ready, answer)


# Clients


async def connection_to(server: Task, task: Task, tls: ssl.SSLContext, stack: AsyncExitStack) -> Connection:
    transport, details = WebSocketTransport(compression=task["deflate"]), CommunicationDetails.from_value(server)
    connection = await transport.connect(INFO, details, Trust(tls, "127.0.0.1"))
    stack.push_async_callback(connection.close)
    return connection


async def connect(task: Task, stack: AsyncExitStack) -> RoundTrip:
    tls = await client_tls(task)
    server, deflate = task["server"], task["deflate"]
    if task["what"] == "session":
        connection = await connection_to(server, task, tls, stack)
        session = await stack.enter_async_context(Session(connection, peer=PEER, role=Role.RM, limits=UNLIMITED))
        prototypes = {
            name: parse(json.dumps({**sample, "message_id": str(uuid4())})) for name, sample in SAMPLES.items()
        }

        async def over_session(sample: str) -> None:
            # A copy with a new id, as the peer's side does.
            await session.send(prototypes[sample].replace(message_id=str(uuid4())))

        return over_session
    if task["what"] == "connection":
        connection = await connection_to(server, task, tls, stack)

        async def over_connection(sample: str) -> None:
            await connection.send(json.dumps(SAMPLES[sample]))
            await connection.recv()

        return over_connection
    if task["what"] == "aiohttp":
        http = await stack.enter_async_context(aiohttp.ClientSession())
        socket = await stack.enter_async_context(http.ws_connect(server["url"], ssl=tls, compress=15 if deflate else 0))

        async def over_aiohttp(sample: str) -> None:
            await socket.send_str(json.dumps(SAMPLES[sample]))
            await socket.receive()

        return over_aiohttp
    bare = await stack.enter_async_context(
        websockets.asyncio.client.connect(
            server["url"], ssl=tls, host="127.0.0.1", compression="deflate" if deflate else None, proxy=None
        )
    )

    async def over_websockets(sample: str) -> None:
        await bare.send(json.dumps(SAMPLES[sample]))
        await bare.recv()

    return over_websockets


async def crowd(task: Task, stack: AsyncExitStack) -> None:
    """Connect to each of ``offers`` with a session, or ``size`` times with a bare library, and stay."""
    sessions = Sessions()
    if "offers" in task:
        tls = await client_tls(task)
        for offered in task["offers"]:
            connection = await connection_to(offered, task, tls, stack)
            session = await stack.enter_async_context(Session(connection, peer=PEER, role=Role.RM, limits=UNLIMITED))
            stack.callback(asyncio.create_task(sessions.read(session), name="benchmark-session").cancel)
    else:
        for _ in range(task["size"]):
            await connect(task, stack)
    await answer_questions({}, sessions.send)


async def client(task: Task, stack: AsyncExitStack) -> None:
    round_trip = await connect(task, stack)

    async def answer(question: Task) -> Task:
        sample, spans = question["sample"], []
        began = time.perf_counter()
        for _ in range(question["count"]):
            start = time.perf_counter()
            await round_trip(sample)
            spans.append(time.perf_counter() - start)
        whole = time.perf_counter() - began
        return {"p50": percentile(spans, 0.5), "p99": percentile(spans, 0.99), "rate": question["count"] / whole}

    await answer_questions({}, answer)


async def main() -> None:
    task = my_task()
    async with AsyncExitStack() as stack:
        await {"server": serve, "crowd": crowd, "client": client}[task["kind"]](task, stack)


if __name__ == "__main__":
    run(main())
