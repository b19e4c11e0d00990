"""Processes of the herd: lean devices.

A device here is a few lines of HTTP by hand, so that ten thousand of them fit on the machine beside the server. It does
what :class:`s2connect.session.http_client.SessionClient` does: version index, ``initiateSession``,
``confirmAccessToken``, and the WebSocket on a connection of its own, with the same timeouts and the same back-off.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import socket
import ssl
import time
from collections import Counter, deque
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from benchmarks.endpoint_worker import HOST, Answer, node_id, token
from benchmarks.harness import Task, answer_questions, my_task, percentile
from s2connect.session.http_client import CONFIRM_TIMEOUT, INITIATE_TIMEOUT
from s2connect.transports.backoff import Backoff
from s2connect.transports.tls_buffer import use_small_tls_buffers
from s2connect.transports.websocket_client import OPEN_TIMEOUT

FIRST_TIMEOUT: Final = 10.0
"""Seconds for the first request, with name, TCP and TLS."""

REFUSAL_WAIT: Final = 0.02
"""Seconds for which a device waits for a refusal before it begins with TLS."""

WARM_UP: Final = 0.4
"""Share of a measurement's time that is not counted, until the first attempts are done and the control has settled."""


class Refused(Exception):
    """The server refused this attempt. The text names the step."""

    def __init__(self, what: str, *, busy: bool = False, retry_after: float = 0.0) -> None:
        super().__init__(what)
        self.busy = busy
        self.retry_after = retry_after


@dataclass
class Device:
    """One device: its source address, and its candidate tokens."""

    number: int
    source: str
    tokens: list[str]
    tries: int = 0
    writer: asyncio.StreamWriter | None = None
    backoff: Backoff = field(default_factory=Backoff)


class Herd:
    """Devices of one process."""

    def __init__(self, task: Task, context: ssl.SSLContext) -> None:
        url = urlsplit(task["server"]["session_url"])
        assert url.port is not None
        self._port, self._path, self._context = url.port, url.path, context
        self._host, self._addresses = task.get("host", HOST), task.get("addresses", ["127.0.0.1"])
        self._manager = str(node_id("cem-0"))
        self.devices = [
            Device(n, f"127.{1 + n // 60_000}.{n // 250 % 240}.{n % 250 + 1}", [token(n).reveal()])
            for n in range(task["first"], task["first"] + task["count"])
        ]
        self.fates: Counter[str] = Counter()
        self.spans: list[float] = []
        self.connected = 0
        self.staying: set[asyncio.Task[None]] = set()

    async def _connect(self, device: Device) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        try:
            sock.setblocking(False)
            sock.bind((device.source, 0))
            address = self._addresses[(device.number + device.tries) % len(self._addresses)]
            await loop.sock_connect(sock, (address, self._port))
            # A refusal arrives at once and saves TLS here, which leaves the processor to the server.
            await asyncio.sleep(REFUSAL_WAIT)
            with contextlib.suppress(BlockingIOError):
                sock.recv(1, socket.MSG_PEEK)
                raise ConnectionResetError
            return await asyncio.open_connection(
                sock=sock, ssl=self._context, server_hostname=self._host, ssl_handshake_timeout=60, limit=8192
            )
        except ConnectionRefusedError:
            sock.close()
            device.tries += 1  # at the next address, as a balancer does it
            raise Refused("nobody listens") from None
        except ConnectionError:
            sock.close()
            raise Refused("closed before TLS", busy=True) from None
        except OSError as error:
            sock.close()
            raise Refused(f"no connection: {error.strerror}") from None
        except BaseException:
            sock.close()
            raise

    async def _ask(
        self,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        method: str,
        path: str,
        bearer: str = "",
        body: bytes = b"",
        more: str = "",
    ) -> tuple[int, bytes]:
        reader, writer = streams
        authorization = f"Authorization: Bearer {bearer}\r\n" if bearer else ""
        more = f"{authorization}{more}Content-Length: {len(body)}\r\n\r\n"
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\n{more}"
        writer.write(head.encode() + body)
        try:
            answer = await reader.readuntil(b"\r\n\r\n")
            status = int(answer.split(b" ", 2)[1])
            headers = dict(line.lower().split(b": ", 1) for line in answer.split(b"\r\n")[1:] if b": " in line)
            content = await reader.readexactly(int(headers.get(b"content-length", b"0")))
        except (OSError, asyncio.IncompleteReadError):
            raise Refused("closed in the middle") from None
        if status in (429, 503):
            wait = headers.get(b"retry-after")
            what = f"{status} for {path.rpartition('/')[2] or 'index'}"
            raise Refused(what, busy=True, retry_after=float(wait or 0))
        return status, content

    async def attempt(self, device: Device) -> None:
        """Do session initiation once; the connection is open at the end."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(FIRST_TIMEOUT):
                streams = await self._connect(device)
                await self._ask(streams, "GET", self._path)
        except TimeoutError:
            raise Refused("timeout of the first request") from None
        try:
            details = await self._initiate(device, streams)
        finally:
            streams[1].transport.abort()
        try:
            async with asyncio.timeout(OPEN_TIMEOUT):
                streams = await self._connect(device)
                upgrade = (
                    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                )
                path = urlsplit(details["websocketUrl"]).path
                status, _ = await self._ask(streams, "GET", path, details["websocketToken"], more=upgrade)
        except TimeoutError:
            raise Refused("timeout of the upgrade") from None
        except Refused as refused:
            raise Refused(f"upgrade: {refused}", busy=refused.busy, retry_after=refused.retry_after) from None
        if status != 101:
            streams[1].transport.abort()
            raise Refused(f"{status} for the upgrade")
        device.writer = streams[1]
        self.spans.append(time.monotonic() - began)
        self.connected += 1
        staying = asyncio.create_task(self._keep(device, *streams))
        self.staying.add(staying)
        staying.add_done_callback(self.staying.discard)

    async def _initiate(self, device: Device, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> Task:
        body = json.dumps(
            {
                "clientNodeId": str(node_id(f"rm-{device.number}")),
                "serverNodeId": self._manager,
                "supportedS2MessageVersions": ["v1.0.0"],
                "supportedCommunicationProtocols": ["WebSocket"],
            }
        ).encode()
        more = "Content-Type: application/json\r\n"
        try:
            for old in list(device.tokens):
                async with asyncio.timeout(INITIATE_TIMEOUT):
                    status, content = await self._ask(
                        streams, "POST", f"{self._path}v1/initiateSession", old, body, more
                    )
                if status == 200:
                    break
            else:
                raise Refused(f"{status} for initiateSession: {content[:200]!r}")
            new = json.loads(content)["accessToken"]
            device.tokens = [old, new]
            async with asyncio.timeout(CONFIRM_TIMEOUT):
                status, content = await self._ask(streams, "POST", f"{self._path}v1/confirmAccessToken", new)
        except TimeoutError:
            raise Refused("timeout of session initiation") from None
        if status != 200:
            raise Refused(f"{status} for confirmAccessToken")
        device.tokens = [new]
        details: Task = json.loads(content)
        return details

    async def _keep(self, device: Device, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer pings until the end."""
        try:
            while True:
                first, size = await reader.readexactly(2)
                if size == 126:
                    size = int.from_bytes(await reader.readexactly(2))
                await reader.readexactly(size)
                if first & 0x0F == 0x9:
                    writer.write(b"\x8a\x80\x00\x00\x00\x00")
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.connected -= 1
            device.writer = None
            writer.transport.abort()

    async def come(self, device: Device) -> None:
        """Connect and stay, with the back-off of our client."""
        while True:
            try:
                await self.attempt(device)
                return
            except Refused as refused:
                self.fates[str(refused)] += 1
                chance = random.random()
                if refused.busy:
                    delay = device.backoff.busy(chance, retry_after=refused.retry_after)
                else:
                    delay = device.backoff.failed(chance)
                await asyncio.sleep(delay)

    async def one_of_many(self, device: Device) -> None:
        """Make one attempt without a retry; a session is cut at once."""
        try:
            await self.attempt(device)
        except Refused as refused:
            self.fates[str(refused)] += 1
        else:
            self.fates["connected"] += 1
            assert device.writer is not None
            device.writer.transport.abort()


async def devices(task: Task, stack: AsyncExitStack) -> tuple[Task, Answer]:
    """Devices ``first`` to ``first + count``."""
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # lean
    herd = Herd(task, context)
    coming: set[asyncio.Task[None]] = set()

    def spawn(device: Device, *, stay: bool) -> None:
        work = asyncio.create_task(herd.come(device) if stay else herd.one_of_many(device))
        coming.add(work)
        work.add_done_callback(coming.discard)

    async def answer(question: Task) -> Task:
        match question["do"]:
            case "come":
                for device in herd.devices[question.get("first", 0) : question.get("until")]:
                    spawn(device, stay=True)
            case "again":
                for device in herd.devices:
                    if device.writer is None:
                        spawn(device, stay=True)
            case "laps":
                return await laps(question["at_a_time"], question["seconds"])
            case "offer":
                return await offer(question["rate"], question["seconds"])
            case "stop":
                for work in coming:
                    work.cancel()
        return {"connected": herd.connected, "fates": dict(herd.fates), "spans": summary(herd.spans)}

    async def offer(rate: float, seconds: float) -> Task:
        """Make new attempts at a rate that is independent of the server's responses."""
        herd.fates.clear()
        herd.spans.clear()
        began, begun = time.monotonic(), 0
        free = list(reversed(herd.devices))
        warm_up, before = WARM_UP * seconds, -1
        while (now := time.monotonic()) < began + seconds:
            if before < 0 and now > began + warm_up:
                before = herd.fates["connected"]
            while begun < (now - began) * rate and free:
                begun += 1
                device = free.pop()
                spawn(device, stay=False)
            await asyncio.sleep(0.005)
        took, finished = time.monotonic() - began - warm_up, herd.fates["connected"] - before
        fates, spans = dict(herd.fates), summary(herd.spans)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(question_patience):
                await asyncio.gather(*coming)
        for work in list(coming):
            work.cancel()
        await asyncio.gather(*coming, return_exceptions=True)
        return {"offered": begun / seconds, "rate": finished / took, "fates": fates, "spans": spans}

    async def laps(at_a_time: int, seconds: float) -> Task:
        """Make attempts one after the other, so many at a time, each of a device that has no session."""
        herd.fates.clear()
        herd.spans.clear()
        free, began = deque(herd.devices), time.monotonic()

        async def run() -> None:
            while time.monotonic() < began + seconds:
                device = free.popleft()
                await herd.one_of_many(device)
                free.append(device)

        await asyncio.gather(*(run() for _ in range(at_a_time)))
        took = time.monotonic() - began
        fates = dict(herd.fates)
        return {"count": fates.get("connected", 0), "seconds": took, "fates": fates, "spans": summary(herd.spans)}

    question_patience = 15.0
    return {}, answer


def summary(spans: list[float]) -> Task:
    return {"p50": percentile(spans, 0.5), "p99": percentile(spans, 0.99)} if spans else {"p50": 0.0, "p99": 0.0}


async def main() -> None:
    use_small_tls_buffers()  # thousands of connections
    with contextlib.suppress(OSError):  # the devices of a town have processors of their own
        os.nice(-16)
    async with AsyncExitStack() as stack:
        ready, answer = await devices(my_task(), stack)
        await answer_questions(ready, answer)


if __name__ == "__main__":
    asyncio.run(main())
