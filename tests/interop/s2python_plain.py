"""Runs in the environment of s2-python: the application of ``s2python_app`` on a plain WebSocket. Prints JSON events.

Standard input holds ``{"role": "RM", "kind": "FRBC", "url": "ws://…", "token": "…", "rounds": 1}``, for an energy
manager also ``handshake``. Without a URL it listens, says on which port, and serves as many clients as there are
rounds, one after the other. With ``log`` it writes its log into that file, of everything, in the form ``log_format``.
"""

import asyncio
import json
import logging
import sys

from s2python.connection.async_.medium.s2_medium import MediumClosedConnectionError, S2AsyncMediumConnection
from s2python.connection.async_.medium.websocket import WebsocketClientMedium
from s2python_app import run_cem, run_rm
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


def report(event, **facts):
    print(json.dumps({"event": event} | facts), flush=True)


class ServerMedium(S2AsyncMediumConnection):
    """A WebSocket that came in: s2-python brings only the client's side."""

    def __init__(self, socket):
        self.socket = socket

    async def is_connected(self):
        return True

    async def messages(self):
        try:
            async for message in self.socket:
                yield message
        except ConnectionClosed as error:
            raise MediumClosedConnectionError from error

    async def send(self, message):
        try:
            await self.socket.send(message)
        except ConnectionClosed as error:
            raise MediumClosedConnectionError from error


async def run(task, medium):
    try:
        if task["role"] == "RM":
            await run_rm(medium, task["kind"], report)
        else:
            await run_cem(medium, task["kind"], report, handshake=task.get("handshake", "first"))
    except RuntimeError as error:  # what s2-python raises when its first message is refused
        report("refused", text=str(error))


async def listen(task):
    left = asyncio.Semaphore(0)

    async def come(socket):
        report("connected", token=socket.request.headers.get("Authorization"))
        await run(task, ServerMedium(socket))
        left.release()

    async with serve(come, "127.0.0.1", 0) as server:
        report("listening", port=server.sockets[0].getsockname()[1])
        for _ in range(task["rounds"]):
            await left.acquire()


async def main():
    task = json.load(sys.stdin)
    if "log" in task:
        logging.basicConfig(
            filename=task["log"], level=logging.DEBUG, format=task.get("log_format", logging.BASIC_FORMAT)
        )
    if "url" not in task:
        await listen(task)
        return
    for _ in range(task["rounds"]):
        async with WebsocketClientMedium(task["url"], bearer_token=task.get("token")) as medium:
            report("connected")
            await run(task, medium)


asyncio.run(main())
