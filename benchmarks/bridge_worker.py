"""Processes for the bridge: the two ends, our link between them, and bare relays that check nothing."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

import aiohttp
import websockets.asyncio.client
from aiohttp import web
from websockets.asyncio.server import ServerConnection

from benchmarks.harness import Task, answer_questions, cpu_seconds, my_task, percentile, run
from benchmarks.messages_worker import UNLIMITED, serve_aiohttp, serve_websocket, serve_websockets
from benchmarks.pace import at_rate
from benchmarks.samples import DETAILS, SAMPLES
from benchmarks.watch import Watch
from s2connect.bridge.link import Link
from s2connect.bridge.relay import Policy
from s2connect.bridge.sides import Initiator, LinkSide
from s2connect.certs.tls import wan_client_context
from s2connect.messages.enums import Check
from s2connect.messages.envelope import RECEPTION_STATUS, ReceptionStatusValue, read_message, reception_status
from s2connect.model.common import NodeId, Role
from s2connect.model.session_init import CommunicationDetails
from s2connect.model.url import MqttUrl
from s2connect.transports.base import Connection, ConnectionInfo, Trust
from s2connect.transports.mqtt.broker import BrokerConnection
from s2connect.transports.mqtt.frames import Packet
from s2connect.transports.mqtt.parameters import Protection, SessionToken, StaticSession
from s2connect.transports.mqtt.receiver import TopicHandler
from s2connect.transports.mqtt.settings import MqttSettings
from s2connect.transports.mqtt.transport import MqttTransport
from s2connect.transports.tls_buffer import use_small_tls_buffers
from s2connect.transports.websocket import WebSocketTransport

V1 = "v1.0.0"
NEAR, BRIDGE, FAR = (NodeId(UUID(int=number)) for number in (1, 2, 3))
UP, DOWN = "bench/up", "bench/down"
TEXTS = {name: json.dumps(sample, separators=(",", ":")) for name, sample in SAMPLES.items()}
SECRET = SessionToken.from_bytes(bytes(range(32)))


@dataclass(frozen=True)
class Wire:
    """One end as the measurement sees it."""

    send: Callable[[str], Awaitable[object]]
    recv: Callable[[], Awaitable[str]]


def answer_to(text: str) -> str | None:
    message = read_message(text)
    if message.type == RECEPTION_STATUS:
        return None
    return reception_status(message.id or "", ReceptionStatusValue.OK)


def client_tls(task: Task) -> ssl.SSLContext:
    return wan_client_context(Path(task["directory"]) / "ca.pem")


# Over WSS: bare aiohttp at both ends


async def far_wss(task: Task, stack: AsyncExitStack) -> Task:
    async def handler(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        async for message in socket:
            if (answer := answer_to(message.data)) is not None:
                await socket.send_str(answer)
        return socket

    return await serve_aiohttp(task, stack, handler)


async def near_wss(task: Task, at: Task, stack: AsyncExitStack) -> Wire:
    http = await stack.enter_async_context(aiohttp.ClientSession())
    headers = {"Authorization": f"Bearer {at['token']}"} if "token" in at else {}
    connecting = http.ws_connect(at["url"], ssl=client_tls(task), compress=0, headers=headers)
    socket = await stack.enter_async_context(connecting)
    return Wire(socket.send_str, socket.receive_str)


# Over MQTT


def settings(task: Task, broker: str, client_id: str) -> MqttSettings:
    return MqttSettings(
        url=MqttUrl(task[broker]),
        client_id=client_id,
        ca_file=Path(task["directory"]) / "ca.pem",
        protection=Protection(task["protection"]),
    )


def static(task: Task, server: NodeId, client: NodeId, mc: str) -> StaticSession:
    return StaticSession(
        topic_prefix="s2",
        server=server,
        client=client,
        mc=mc,
        client_role=Role.RM,
        versions=(V1,),
        secret=SECRET,
        protection=Protection(task["protection"]),
    )


async def mqtt_transport(task: Task, broker: str, client_id: str, role: Role, stack: AsyncExitStack) -> MqttTransport:
    transport = MqttTransport(settings(task, broker, client_id), role_of=lambda _: role)
    stack.push_async_callback(transport.close)
    transport.start()
    return transport


async def far_mqtt(task: Task, stack: AsyncExitStack) -> Task:
    """Our own transport, because nobody else can open what is sealed."""
    transport = await mqtt_transport(task, "far_broker", "far", Role.CEM, stack)
    tasks: list[asyncio.Task[None]] = []

    async def answer(connection: Connection) -> None:
        async for text in connection:
            if (status := answer_to(text)) is not None:
                await connection.send(status)

    def take(connection: Connection) -> None:
        tasks.append(asyncio.create_task(answer(connection), name="benchmark-far"))

    await transport.listen_static(static(task, FAR, BRIDGE, "bridge"), take)
    stack.callback(lambda: [task.cancel() for task in tasks])
    return {}


async def near_mqtt(task: Task, at: Task, stack: AsyncExitStack) -> Wire:
    transport = await mqtt_transport(task, "near_broker", "near", Role.RM, stack)
    connection = await transport.connect_static(static(task, BRIDGE, NEAR, "near"))
    stack.push_async_callback(connection.close)
    return Wire(connection.send, connection.recv)


# Texts published on two topics, for what knows nothing of S2 over MQTT


async def bare_mqtt(task: Task, broker: str, client_id: str, stack: AsyncExitStack) -> BrokerConnection:
    settings = MqttSettings(url=MqttUrl(task[broker]), client_id=client_id)
    connection = await BrokerConnection(settings, client_tls(task)).open()
    stack.push_async_callback(connection.close)
    return connection


async def far_topics(task: Task, stack: AsyncExitStack) -> Task:
    broker = await bare_mqtt(task, "far_broker", "far", stack)

    def receive(packet: Packet) -> None:
        if (answer := answer_to(packet.payload.decode())) is not None:
            broker.put(Packet(DOWN, answer.encode()))

    broker.set_handler(UP, TopicHandler(receive))
    await broker.subscribe(UP)
    return {}


async def near_topics(task: Task, at: Task, stack: AsyncExitStack) -> Wire:
    broker = await bare_mqtt(task, "near_broker", "near", stack)
    inbox: asyncio.Queue[str] = asyncio.Queue()
    broker.set_handler(DOWN, TopicHandler(lambda packet: inbox.put_nowait(packet.payload.decode())))
    await broker.subscribe(DOWN)

    async def send(text: str) -> None:
        broker.put(Packet(UP, text.encode()))

    return Wire(send, inbox.get)


# The measurement


class Ends:
    """Both ends in one process, so that a message wakes as few processes as possible beside those that relay it."""

    def __init__(self, task: Task, stack: AsyncExitStack) -> None:
        self._task = task
        self._stack = stack
        self._wires: list[Wire] = []

    @property
    def _wire(self) -> Wire:
        return self._wires[0]

    async def answer(self, question: Task) -> Task:
        if (ready := question.get("connect")) is not None:
            near = {"wss": near_wss, "mqtt": near_mqtt, "topics": near_topics}[self._task["near"]]
            for at in ready:
                self._wires.append(await near(self._task, at, self._stack))
                await self._settle(self._wires[-1])
            if len(self._wires) > 1:  # aiohttp answers a ping only while it is read from
                await asyncio.gather(*(self._exchange(wire) for wire in self._wires))
            return {}
        if "per_second" in question:
            return await at_rate([partial(self._exchange, wire) for wire in self._wires], question)
        texts = [_text(question["sample"]) for _ in range(2 * question["count"])]
        half = question["count"]
        return await self._one_by_one(texts[:half], question) | await self._many(texts[half:], question)

    async def _settle(self, wire: Wire) -> None:
        """The first message; where two brokers connect to each other, it may have to be sent again."""
        while True:
            await wire.send(json.dumps(DETAILS | {"message_id": "details"}))
            try:
                async with asyncio.timeout(2):
                    _check(await wire.recv())
                    return
            except TimeoutError:
                continue

    async def _exchange(self, wire: Wire) -> None:
        await wire.send(_text("small"))
        _check(await wire.recv())

    async def _one_by_one(self, texts: list[str], question: Task) -> Task:
        send, recv, spans, clock = self._wire.send, self._wire.recv, [], time.perf_counter
        before = cpu_seconds(question["pids"])
        for text in texts:
            start = clock()
            await send(text)
            answer = await recv()
            spans.append(clock() - start)
            _check(answer)
        cpu = (cpu_seconds(question["pids"]) - before) / len(texts)
        return {"p50": percentile(spans, 0.5), "p99": percentile(spans, 0.99), "max": max(spans), "cpu": cpu}

    async def _many(self, texts: list[str], question: Task) -> Task:
        send, recv, window = self._wire.send, self._wire.recv, question["window"]
        before, start = cpu_seconds(question["pids"]), time.perf_counter()
        for text in texts[:window]:
            await send(text)
        for text in texts[window:]:
            _check(await recv())
            await send(text)
        for _ in texts[:window]:
            _check(await recv())
        span = time.perf_counter() - start
        return {"rate": len(texts) / span, "busy_cpu": (cpu_seconds(question["pids"]) - before) / len(texts)}


def _text(sample: str) -> str:
    return f'{{"message_id":"{uuid4()}",{TEXTS[sample][1:]}'


def _check(answer: str) -> None:
    if '"OK"' not in answer:
        raise RuntimeError(f"not taken: {answer}")


async def ends(task: Task, stack: AsyncExitStack) -> None:
    far = {"wss": far_wss, "mqtt": far_mqtt, "topics": far_topics}[task["far"]]
    await answer_questions(await far(task, stack), Ends(task, stack).answer)


# Our relay


class AcceptedSide(LinkSide):
    """The device, which comes."""

    title = "the device"
    initiator = Initiator.PEER

    async def open(self) -> Connection:
        raise NotImplementedError


class OpenedSide(LinkSide):
    """The energy manager, to which we go."""

    title = "the energy manager"
    initiator = Initiator.BRIDGE

    def __init__(self, open_: Callable[[], Awaitable[Connection]]) -> None:
        self._open = open_

    async def open(self) -> Connection:
        return await self._open()


async def ours(task: Task, stack: AsyncExitStack) -> None:
    """Our bridge: one link at the start, and more over WSS when asked."""
    use_small_tls_buffers()  # as our service does
    far = await (opener_mqtt if task["far"] == "mqtt" else opener_wss)(task, stack)
    accept = await (acceptor_mqtt if task["acceptor"] == "mqtt" else acceptor_wss)(task, stack)

    async def link() -> Task:
        sides = {Role.RM: AcceptedSide(), Role.CEM: OpenedSide(far)}
        link = Link("benchmark", sides, Policy(check=Check(task["check"]), limits=UNLIMITED))
        running = asyncio.create_task(link.run(), name="benchmark-link")
        stack.push_async_callback(asyncio.wait, {running}, timeout=5)
        stack.callback(running.cancel)
        return await accept(link)

    opened = 1
    watch = Watch(stack, lambda: 2 * opened) if task.get("service") else None

    async def answer(question: Task) -> Task:
        nonlocal opened
        if watch is None or "links" in question:
            opened += question["links"]
            return {"at": [await link() for _ in range(question["links"])]}
        return watch.take()

    await answer_questions(await link(), answer)


async def opener_wss(task: Task, stack: AsyncExitStack) -> Callable[[], Awaitable[Connection]]:
    transport, context = WebSocketTransport(compression=False), client_tls(task)
    details = CommunicationDetails.from_value(
        {"communicationProtocol": "WebSocket", "websocketUrl": task["at"]["url"], "websocketToken": "A" * 43 + "="}
    )
    return lambda: transport.connect(ConnectionInfo("WebSocket", BRIDGE, FAR, V1), details, Trust(context, "127.0.0.1"))


async def opener_mqtt(task: Task, stack: AsyncExitStack) -> Callable[[], Awaitable[Connection]]:
    transport = await mqtt_transport(task, "far_broker", "bridge", Role.RM, stack)
    return lambda: transport.connect_static(static(task, FAR, BRIDGE, "bridge"))


Accept = Callable[[Link], Awaitable[Task]]


async def acceptor_wss(task: Task, stack: AsyncExitStack) -> Accept:
    transport = await serve_websocket(task, stack, deflate=False)

    async def accept(link: Link) -> Task:
        assert await link.request_session(Role.RM, V1) is None
        offer = transport.offer(ConnectionInfo("WebSocket", BRIDGE, NEAR, V1))

        async def arrive() -> None:
            link.hand_over(Role.RM, await offer.connection)

        stack.callback(asyncio.create_task(arrive(), name="benchmark-arrival").cancel)
        details = offer.details.to_value()
        return {"url": details["websocketUrl"], "token": details["websocketToken"]}

    return accept


async def acceptor_mqtt(task: Task, stack: AsyncExitStack) -> Accept:
    transport = await mqtt_transport(task, "near_broker", "bridge", Role.CEM, stack)

    async def accept(link: Link) -> Task:
        async def admit(version: str) -> bool:
            return await link.request_session(Role.RM, version) is None

        def take(connection: Connection) -> None:
            link.hand_over(Role.RM, connection)

        await transport.listen_static(static(task, BRIDGE, NEAR, "near"), take, admit=admit)
        return {}

    return accept


# Bare relays: texts from one WebSocket to another, nothing read, nothing checked


async def relay_aiohttp(task: Task, stack: AsyncExitStack) -> Task:
    http = await stack.enter_async_context(aiohttp.ClientSession())
    tls = client_tls(task)

    async def handler(request: web.Request) -> web.StreamResponse:
        near = web.WebSocketResponse(compress=False)
        await near.prepare(request)
        async with http.ws_connect(task["at"]["url"], ssl=tls, compress=0) as far:

            async def back() -> None:
                async for message in far:
                    await near.send_str(message.data)

            backwards = asyncio.create_task(back())
            async for message in near:
                await far.send_str(message.data)
            backwards.cancel()
        return near

    return await serve_aiohttp(task, stack, handler)


async def relay_websockets(task: Task, stack: AsyncExitStack) -> Task:
    tls = client_tls(task)

    async def handler(near: ServerConnection) -> None:
        async with websockets.asyncio.client.connect(
            task["at"]["url"], ssl=tls, host="127.0.0.1", compression=None, proxy=None
        ) as far:

            async def back() -> None:
                async for text in far:
                    await near.send(text)

            backwards = asyncio.create_task(back())
            async for text in near:
                await far.send(text)
            backwards.cancel()

    return await serve_websockets(task, stack, handler, deflate=False)


async def nothing(_: Task) -> Task:
    return {}


async def main() -> None:
    task = my_task()
    async with AsyncExitStack() as stack:
        match task["kind"]:
            case "ends":
                await ends(task, stack)
            case "ours":
                await ours(task, stack)
            case kind:
                relay = {"aiohttp": relay_aiohttp, "websockets": relay_websockets}[kind]
                await answer_questions(await relay(task, stack), nothing)
        os._exit(0)  # at once: parting from each other is not measured, and takes its time


if __name__ == "__main__":
    run(main())
