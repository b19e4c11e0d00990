"""Relay as somebody writes it in an afternoon: a WebSocket and two topics, nothing read or checked."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import sys
from pathlib import Path

import aiomqtt
import websockets.asyncio.server

UP, DOWN = "bench/up", "bench/down"


async def main() -> None:
    task = json.loads(sys.argv[1])
    directory = Path(task["directory"])
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(directory / "chain.pem", directory / "key.pem")
    host, _, port = task["far_broker"].removeprefix("mqtts://").partition(":")
    async with aiomqtt.Client(
        host,
        int(port),
        identifier="bridge",
        protocol=aiomqtt.ProtocolVersion.V5,
        tls_context=ssl.create_default_context(cafile=directory / "ca.pem"),
        # Without this every message waits 44 or 88 ms.
        socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
    ) as client:
        await client.subscribe(DOWN, qos=1)

        async def handler(near: websockets.asyncio.server.ServerConnection) -> None:
            async def back() -> None:
                async for message in client.messages:
                    assert isinstance(message.payload, bytes)
                    await near.send(message.payload.decode())

            backwards = asyncio.create_task(back())
            async for text in near:
                await client.publish(UP, text.encode() if isinstance(text, str) else text, qos=1)
            backwards.cancel()

        async with websockets.asyncio.server.serve(handler, "127.0.0.1", 0, ssl=serving, compression=None) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            print(json.dumps({"url": f"wss://localhost:{port}/websocket"}), flush=True)
            await asyncio.to_thread(sys.stdin.read)
            os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
