"""A process for the tests of faults: a peer, or the bridge with short times. Says on its output what happens to it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

from s2connect import Endpoint, Role, Session
from s2connect.bridge.bridge import Bridge
from s2connect.bridge.config_file import load
from s2connect.bridge.link_state import LinkState
from s2connect.errors import S2ConnectError, SessionError
from s2connect.transports.mqtt.parameters import ChannelLimits
from s2connect.transports.websocket_connection import WebSocketConnection

PEER_TIMEOUT = 4.0
"""Seconds of silence until a peer is taken for gone, with short times."""


def hurry(endpoint: Endpoint) -> None:
    WebSocketConnection.ping_interval, WebSocketConnection.peer_timeout = 1.0, PEER_TIMEOUT
    if endpoint.mqtt is not None:
        endpoint.mqtt._limits = ChannelLimits(ping_after=1.0, dead_after=PEER_TIMEOUT)


def say(*words: object) -> None:
    print(*words, flush=True)


async def exchange(session: Session) -> None:
    number = 0
    values = [{"commodity_quantity": "ELECTRIC.POWER.L1", "value": 1.0}]
    while True:
        number += 1
        try:
            await session.send(
                {
                    "message_type": "PowerMeasurement",
                    "measurement_timestamp": "2026-01-01T00:00:00Z",
                    "values": values,
                }
            )
            say("ok", number)
        except SessionError as error:
            say("not ok", number, error.kind)
        await asyncio.sleep(0.1)


async def serve(session: Session) -> None:
    say("up")
    exchanging = asyncio.create_task(exchange(session)) if session.role is Role.RM else None
    try:
        async for message in session:
            say("got", message.id)
    finally:
        if exchanging is not None:
            exchanging.cancel()
            await asyncio.gather(exchanging, return_exceptions=True)
        say("down", session.end_reason)


async def peer(home: str, *, fast: bool) -> None:
    async with Endpoint.open(Path(home)) as endpoint:
        if fast:
            hurry(endpoint)
        say("ready")
        async with asyncio.TaskGroup() as group:
            async for session in endpoint.node().sessions():
                group.create_task(serve(session))


async def bridge(file: str, *, fast: bool, quiet: bool) -> None:
    async with Bridge.open(load(Path(file))[0]) as running:
        if fast:
            hurry(running.endpoint)
        say("ready")
        before = None
        while True:
            if quiet:
                await asyncio.sleep(60)
                continue
            states = [status.state for route in running.routes.values() for status in route.status()]
            if states != before:
                say("link", *states)
                before = states
            if states == [LinkState.UP]:
                (status,) = next(iter(running.routes.values())).status()
                if not all(side.connected for side in status.sides.values()):
                    say("up, and a side is not connected")
            await asyncio.sleep(0.05)


if __name__ == "__main__":
    what, where, *more = sys.argv[1:]
    with contextlib.suppress(KeyboardInterrupt, S2ConnectError):
        fast, quiet = "fast" in more, "quiet" in more
        asyncio.run(peer(where, fast=fast) if what == "peer" else bridge(where, fast=fast, quiet=quiet))
