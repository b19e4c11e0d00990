"""A crowd of hostile clients in a process of its own: ``hostile_crowd.py KIND COUNT HOST PORT SECONDS SOURCES``.

Keeps COUNT connections of one kind at the server for SECONDS, from SOURCES addresses of loopback (127.0.1.1 and on),
and comes again, slower and slower, where it is closed. Prints one line of JSON when all have been tried once, and one
at the end: ``{"tried": …, "open": …, "answers": {"429": …}}``.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import random
import ssl
import sys
from collections import Counter
from typing import Final
from uuid import uuid4

PAUSE: Final = 2.0
"""Seconds until a connection that was closed comes again."""

JITTER: Final = 6.0
"""Further seconds, at most."""


class Crowd:
    """All connections of one kind."""

    def __init__(self, kind: str, host: str, port: int, sources: int) -> None:
        self.kind = kind
        self.host = host
        self.port = port
        self.sources = sources
        self.tried = 0
        self.open = 0
        self.answers: Counter[str] = Counter()
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.tls.check_hostname = False
        self.tls.verify_mode = ssl.CERT_NONE

    async def one(self, number: int) -> None:
        await asyncio.sleep(random.random() * 3)
        source = f"127.0.1.{1 + number % self.sources}"
        while True:
            writer = None
            try:
                async with asyncio.timeout(20):
                    reader, writer = await asyncio.open_connection(
                        self.host,
                        self.port,
                        ssl=None if self.kind == "idle_tcp" else self.tls,
                        local_addr=(source, 0),
                    )
                self.open += 1
                self.tried += 1
                try:
                    await self.behave(reader, writer)
                finally:
                    self.open -= 1
            except (OSError, TimeoutError, ssl.SSLError, EOFError):
                self.tried += 1
            finally:
                if writer is not None:
                    writer.transport.abort()
            await asyncio.sleep(PAUSE + random.random() * JITTER)

    async def behave(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = f"Host: {self.host}:{self.port}\r\nContent-Type: application/json\r\n"
        match self.kind:
            case "idle_tcp" | "idle_tls":
                await reader.read()
            case "half_http":
                writer.write(f"POST /pairing/v1/requestPairing HTTP/1.1\r\n{head}X-Wait: ".encode())
                await reader.read()
            case "dripping":
                writer.write(
                    f"POST /pairing/v1/requestPairing HTTP/1.1\r\n{head}Content-Length: 60000\r\n\r\n".encode()
                )
                while not reader.at_eof():
                    writer.write(b" ")
                    await writer.drain()
                    await asyncio.sleep(1)
            case "long_poll":
                body = json.dumps([{"clientNodeId": str(uuid4())}])
                await self.ask(reader, writer, "/pairing/v1/waitForPairing", head, body)
            case "pairing":
                await self.ask(reader, writer, "/pairing/v1/requestPairing", head, json.dumps(request_pairing()))
            case "bearer":
                token = base64.b64encode(os.urandom(32)).decode()
                ids = {"clientNodeId": str(uuid4()), "serverNodeId": str(uuid4())}
                lists = {"supportedCommunicationProtocols": ["WebSocket"], "supportedS2MessageVersions": ["v1.0.0"]}
                head += f"Authorization: Bearer {token}\r\n"
                await self.ask(reader, writer, "/session/v1/initiateSession", head, json.dumps({**ids, **lists}))
            case _:
                raise SystemExit(f"unknown kind {self.kind}")

    async def ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, head: str, body: str
    ) -> None:
        """Send the request again and again on the connection, one a second."""
        while not reader.at_eof():
            writer.write(f"POST {path} HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
            answer = await reader.readuntil(b"\r\n\r\n")
            self.answers[answer.split(b" ", 2)[1].decode()] += 1
            for line in answer.split(b"\r\n"):
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    await reader.readexactly(int(value))
            await asyncio.sleep(1)


def request_pairing() -> dict[str, object]:
    return {
        "clientNodeDescription": {
            "id": str(uuid4()),
            "brand": "X",
            "type": "X",
            "modelName": "X",
            "role": "CEM",
        },
        "clientEndpointDescription": {"name": "X", "deployment": "LAN"},
        "supportedCommunicationProtocols": ["WebSocket"],
        "supportedS2MessageVersions": ["v1.0.0"],
        "supportedHmacHashingAlgorithms": ["SHA256"],
        "clientHmacChallenge": base64.b64encode(os.urandom(32)).decode(),
    }


async def main(kind: str, count: int, host: str, port: int, seconds: float, sources: int) -> None:
    crowd = Crowd(kind, host, port, sources)
    tasks = [asyncio.create_task(crowd.one(number)) for number in range(count)]
    told = False
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while True:
                await asyncio.sleep(0.2)
                if not told and crowd.tried >= count:
                    told = True
                    print(json.dumps({"tried": crowd.tried, "open": crowd.open}), flush=True)
    print(json.dumps({"tried": crowd.tried, "open": crowd.open, "answers": crowd.answers}), flush=True)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    os.nice(5)
    asyncio.run(
        main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), float(sys.argv[5]), int(sys.argv[6]))
    )
