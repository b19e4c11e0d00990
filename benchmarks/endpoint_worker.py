"""Endpoints in processes of their own: one energy manager, and the devices that are paired with it.

Pairings for the themes that are not about pairing are written into both stores beforehand, because each would cost the
mandatory second.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, uuid5

import aiohttp

from benchmarks.harness import Task, answer_questions, memory, my_task, percentile, run
from benchmarks.pace import as_fast_as_possible, at_rate
from benchmarks.samples import SMALL
from benchmarks.watch import Watch
from s2connect.certs.tls import wan_client_context
from s2connect.endpoint.config import EndpointConfig, NodeConfig
from s2connect.endpoint.endpoint import Endpoint
from s2connect.endpoint.node import Node
from s2connect.endpoint.offline import create_home
from s2connect.model.common import Deployment, EndpointDescription, NodeId, Role
from s2connect.model.roles import CommunicationRole
from s2connect.model.secret import AccessToken
from s2connect.model.url import BaseUrl
from s2connect.session.http_client import SessionClient
from s2connect.session.session import Session
from s2connect.store.base import Pairing, PairKey, Pin
from s2connect.store.restoring import DATABASE, SECRETS
from s2connect.store.sqlite import SqliteStore
from s2connect.store.vault import open_vault
from s2connect.transports.tls_buffer import use_small_tls_buffers
from s2connect.transports.websocket import WebSocketTransport

LAN = EndpointDescription(deployment=Deployment.LAN)
CODE = "benchmark9"
HOST, ADDRESS = "benchmark.local", "127.0.0.1"

Answer = Callable[[Task], Awaitable[Task]]


def node_id(name: str) -> NodeId:
    return NodeId(uuid5(NAMESPACE_OID, name))


def token(number: int) -> AccessToken:
    return AccessToken.from_bytes(hashlib.sha256(str(number).encode()).digest())


def managers(count: int) -> list[NodeConfig]:
    return [NodeConfig(role=Role.CEM, id=node_id(f"cem-{n}"), alias=f"C{n}") for n in range(count)]


def devices(first: int, count: int) -> list[NodeConfig]:
    return [NodeConfig(role=Role.RM, id=node_id(f"rm-{n}"), alias=f"R{n}") for n in range(first, first + count)]


def make_home(home: Path, nodes: list[NodeConfig]) -> None:
    config = EndpointConfig(host=HOST, port=0, bind=ADDRESS, nodes=tuple(nodes), vault="files")
    create_home(home, config)


async def open_store(home: Path) -> SqliteStore:
    vault, _ = open_vault("files", home / SECRETS)
    return await SqliteStore.open(home / DATABASE, vault)


def server_pairing(number: int) -> Pairing:
    cem, rm = managers(1)[0], devices(number, 1)[0]
    return Pairing(PairKey(cem.id, rm.id), CommunicationRole.SERVER, rm.node().description, LAN)


def client_pairing(number: int, url: str, ca: Path) -> Pairing:
    cem, rm = managers(1)[0], devices(number, 1)[0]
    der = ssl.PEM_cert_to_DER_cert(ca.read_text())
    return Pairing(
        PairKey(rm.id, cem.id),
        CommunicationRole.CLIENT,
        cem.node().description,
        LAN,
        BaseUrl(url),
        Pin(hashlib.sha256(der).digest(), der),
    )


async def take_sessions(node: Node, opened: Callable[[Session], None] = lambda _: None) -> None:
    reading: set[asyncio.Task[None]] = set()

    async def read(session: Session) -> None:
        opened(session)
        async for _ in session:
            pass

    async for session in node.sessions():
        task = asyncio.create_task(read(session), name="benchmark-session")
        reading.add(task)
        task.add_done_callback(reading.discard)


async def serve(task: Task, stack: AsyncExitStack) -> tuple[Task, Answer]:
    """An energy manager: ``nodes`` of them, of which the first is paired with ``paired`` devices; with its ``page``."""
    home = Path(task["home"])
    await asyncio.to_thread(make_home, home, managers(task["nodes"]))
    store = await open_store(home)
    for number in range(task["paired"]):
        await store.save_pairing(server_pairing(number), token(number))
    await store.close()
    endpoint = await stack.enter_async_context(Endpoint.open(home))
    for node in endpoint.nodes.values():
        await node.set_static_code(CODE)
    taking = asyncio.create_task(take_sessions(next(iter(endpoint.nodes.values()))), name="benchmark-sessions")
    stack.callback(taking.cancel)
    watch = Watch(stack, lambda: len(endpoint.connected())) if task.get("service") else None

    async def answer(question: Task) -> Task:
        if (count := question.get("until_connected")) is not None:
            until = time.monotonic() + question["seconds"]
            while len(endpoint.connected()) != count and time.monotonic() < until:
                await asyncio.sleep(0.02)
        seen = {"connected": len(endpoint.connected())} | (watch.take() if watch else {})
        return seen | ({"bytes": memory()} if watch is None or question.get("memory") else {})

    urls = {"pairing_url": str(endpoint.pairing_url), "session_url": str(endpoint.session_url)}
    if task.get("page"):
        urls["page"] = await with_page(endpoint, home, stack)
    return {**urls, "ca": str(home / "ca.pem")}, answer


async def with_page(endpoint: Endpoint, home: Path, stack: AsyncExitStack) -> str:
    """Serve the page of an endpoint, as ``s2connect serve`` does; return its URL."""
    from s2connect import Home, PageSettings
    from s2connect.service.page import page_of
    from s2connect.service.sidecar import Service

    service = Service(endpoint, home, stop=lambda: None)
    await stack.enter_async_context(page_of(service, Home.open(home), PageSettings(port=0)))
    assert service.page is not None
    return service.page.url


async def seed_devices(task: Task, first: int, count: int) -> Path:
    home = Path(task["home"])
    await asyncio.to_thread(make_home, home, devices(first, count))
    store = await open_store(home)
    for number in range(first, first + count):
        pairing = client_pairing(number, task["server"]["session_url"], Path(task["server"]["ca"]))
        await store.save_pairing(pairing, token(number))
    await store.close()
    return home


async def hold(task: Task, stack: AsyncExitStack) -> tuple[Task, Answer]:
    """Devices ``first`` to ``first + count`` that all connect and stay, and send at a rate when asked."""
    home = await seed_devices(task, task["first"], task["count"])
    endpoint = await stack.enter_async_context(Endpoint.open(home, serve=False, addresses={HOST: ADDRESS}))

    sessions: list[Session] = []

    async def answer(question: Task) -> Task:
        if "per_second" in question:
            return await at_rate([partial(measured, session) for session in sessions], question)
        if "busy" in question:
            return await as_fast_as_possible([partial(measured, session) for session in sessions], question)
        return {"connected": len(endpoint.connected())}

    async def measured(session: Session) -> None:
        await session.send(SMALL)

    for node in endpoint.nodes.values():
        taking = asyncio.create_task(take_sessions(node, sessions.append), name="benchmark-sessions")
        stack.callback(taking.cancel)
    while len(endpoint.connected()) < task["count"]:
        await asyncio.sleep(0.1)
    return {}, answer


async def look(task: Task, stack: AsyncExitStack) -> tuple[Task, Answer]:
    """A browser that reads the stream of a page, and Prometheus that asks for its metrics, for some seconds."""
    http = await stack.enter_async_context(aiohttp.ClientSession())

    async def scrape(every: float) -> int:
        asked = 0
        while True:
            async with http.get(f"{task['page']}metrics") as response:
                asked += len(await response.read()) > 0 and response.status == 200
            await asyncio.sleep(every)

    async def answer(question: Task) -> Task:
        scrapes = asyncio.create_task(scrape(question["scrape_every"]), name="benchmark-scrapes")
        events = size = 0
        async with http.get(f"{task['page']}live") as response:
            assert response.status == 200, response.status
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(question["look"]):
                    async for line in response.content:
                        events += line.startswith(b"event:")
                        size += len(line)
        scrapes.cancel()
        return {"events": events, "bytes": size}

    return {}, answer


async def initiate(task: Task, stack: AsyncExitStack) -> tuple[Task, Answer]:
    """Go through whole session initiations, each with new connections, and end each session at once."""
    count = task["count"]
    home = await seed_devices(task, 0, count)
    store = await open_store(home)
    stack.push_async_callback(store.close)
    pki = await asyncio.to_thread(wan_client_context)
    client = SessionClient(store, {"WebSocket": WebSocketTransport()}, pki)
    local = EndpointConfig(host=HOST, nodes=tuple(devices(0, count))).endpoint()
    turns = cycle(await store.pairings())

    async def one() -> float:
        pairing, start = next(turns), time.perf_counter()
        connection, _ = await client.open(local, local.nodes[pairing.key.local], pairing, address=ADDRESS)
        span = time.perf_counter() - start
        await connection.close()
        return span

    return {}, lambda question: many(one, question)


async def post(task: Task, stack: AsyncExitStack) -> tuple[Task, Answer]:
    """Post ``initiateSession`` over connections that are kept alive, to ours or to another server."""
    tls = await asyncio.to_thread(wan_client_context, Path(task["ca"]))
    http = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)))
    body = {
        "clientNodeId": str(node_id("rm-0")),
        "serverNodeId": task["node"],
        "supportedS2MessageVersions": ["v1.0.0"],
        "supportedCommunicationProtocols": ["WebSocket"],
    }
    headers = {"Authorization": f"Bearer {task['token']}"}

    async def one() -> float:
        start = time.perf_counter()
        async with http.post(task["url"], json=body, headers=headers) as response:
            assert response.status == 200, await response.text()
            await response.read()
        return time.perf_counter() - start

    return {}, lambda question: many(one, question)


async def many(one: Callable[[], Awaitable[float]], question: Task) -> Task:
    """Do something ``count`` times, ``at_a_time`` at a time."""
    left, spans = question["count"], list[float]()

    async def run() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            spans.append(await one())

    began = time.perf_counter()
    await asyncio.gather(*(run() for _ in range(question["at_a_time"])))
    return {"p50": percentile(spans, 0.5), "rate": len(spans) / (time.perf_counter() - began)}


async def pair(task: Task, stack: AsyncExitStack) -> tuple[Task, Answer]:
    """Devices that pair, each with a node of its own at the server, over and over again."""
    home, count = Path(task["home"]), task["count"]
    await asyncio.to_thread(make_home, home, devices(task["first"], count))
    endpoint = await stack.enter_async_context(Endpoint.open(home, serve=False, addresses={HOST: ADDRESS}))
    url = task["server"]["pairing_url"]
    nodes = list(endpoint.nodes.values())

    async def one(number: int) -> float:
        start = time.perf_counter()
        await nodes[number].pair(url, f"C{task['first'] + number}-{CODE}")
        return time.perf_counter() - start

    async def answer(question: Task) -> Task:
        if question["at_a_time"] == 1:
            return {"p50": percentile([await one(n % count) for n in range(question["count"])], 0.5)}
        began = time.perf_counter()
        until, finished = began + question["seconds"], 0

        async def run(number: int) -> None:
            nonlocal finished
            # A start of its own for each, as in a real network: otherwise all would wait for the same second.
            await asyncio.sleep(number / question["at_a_time"])
            while time.perf_counter() < until:
                await one(number)
                if time.perf_counter() > began + 2.0:
                    finished += time.perf_counter() < until

        await asyncio.gather(*(run(n) for n in range(question["at_a_time"])))
        return {"rate": finished / (question["seconds"] - 2.0)}

    return {}, answer


Kind = Callable[[Task, AsyncExitStack], Awaitable[tuple[Task, Answer]]]
"""Part that a worker plays: returns what it is ready with, and what answers questions."""

KINDS: Mapping[str, Kind] = {
    "serve": serve,
    "hold": hold,
    "look": look,
    "initiate": initiate,
    "post": post,
    "pair": pair,
}


class ManyAddresses(asyncio.SelectorEventLoop):
    """Connects from 250 addresses in turn, as that many devices would: servers limit requests per address (SEC-03)."""

    def __init__(self) -> None:
        super().__init__()
        self._sources = cycle(f"127.1.0.{number}" for number in range(1, 251))

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        if sock.family == socket.AF_INET:
            sock.bind((next(self._sources), 0))
        await super().sock_connect(sock, address)


async def _work(kinds: Mapping[str, Kind]) -> None:
    use_small_tls_buffers()  # as `s2connect serve` does
    task = my_task()
    with contextlib.suppress(OSError):
        os.nice(task.get("nice", 0))
    async with AsyncExitStack() as stack:
        ready, answer = await kinds[task["kind"]](task, stack)
        await answer_questions(ready, answer)


def main(kinds: Mapping[str, Kind] = KINDS) -> None:
    """Be the worker of the kind that the task names."""
    if my_task().get("service"):
        run(_work(kinds))
    else:
        with asyncio.Runner(loop_factory=ManyAddresses) as runner:
            runner.run(_work(kinds))


if __name__ == "__main__":
    main()
