"""A link whose peers do anything at any time: never one side alone for long, nothing left behind, and it comes back."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Coroutine
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from s2connect.bridge.farewell import FAREWELL_TIMEOUT
from s2connect.bridge.link import ARRIVAL_TIMEOUT, OPEN_TIMEOUT, RENDEZVOUS, Link
from s2connect.bridge.link_state import LinkState
from s2connect.bridge.relay import Policy
from s2connect.bridge.sides import NOT_NOW, Initiator
from s2connect.errors import AccessRefused, ConnectionClosed
from s2connect.model.common import Role
from s2connect.transports.backoff import MAX_DELAY
from s2connect.transports.base import Connection
from tests.bridge.link_fixtures import NOBODY, PeerSide, answer, message
from tests.bridge.virtual_time import run_virtual

ALONE: float = OPEN_TIMEOUT + RENDEZVOUS + ARRIVAL_TIMEOUT + FAREWELL_TIMEOUT
"""Seconds that one side may be connected without the other, in the worst of all cases."""

ACTIONS = (
    *("ask", "ask and stay away", "ask and give up", "come unasked", "vanish", "go deaf"),
    *("refuse", "refuse for good", "stall", "recover", "unpair", "pair"),
    *4 * ("talk",),
)


class Peer:
    """One side's peer: reads, answers, sends, and misbehaves when told to."""

    def __init__(self, storm: Storm, role: Role, way: Initiator) -> None:
        self.storm, self.role, self.initiator = storm, role, way
        self.side = PeerSide(f"the {role}", way)
        self.side.on_open = self.watch
        self.deaf = False
        self.known = 0
        self.number = 0
        self.given: set[str] = set()

    def watch(self) -> None:
        """Read what comes on connections that are new."""
        self.storm.spawn(self._watch_soon())

    async def _watch_soon(self) -> None:
        await self.side.opened.wait()
        while self.known < len(self.side.far):
            connection = self.side.far[self.known]
            self.known += 1
            self.storm.spawn(self._read(connection))

    async def _read(self, connection: Connection) -> None:
        last = 0
        with contextlib.suppress(ConnectionClosed):
            while True:
                while self.deaf:
                    await asyncio.sleep(0.5)
                value = json.loads(await connection.recv())
                if value["message_type"] == "ReceptionStatus":
                    if value["status"] == "OK" and value["subject_message_id"] in self.storm.sent:
                        assert value["subject_message_id"] in self.storm.peers[self.role.other].given
                    continue
                identifier = value["message_id"]
                if identifier in self.storm.sent:
                    assert identifier not in self.given, "delivered twice"
                    number = int(identifier.rpartition("-")[2])
                    assert number > last, "delivered out of order"
                    last = number
                    self.given.add(identifier)
                await connection.send(answer(identifier))

    async def request_session(self, *, come: bool = True, patience: float = 30.0) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                if await self.storm.link.request_session(self.role, "v1.0.0") != NOT_NOW and come:
                    connection = self.side.connect()
                    await self._watch_soon()
                    if not self.storm.link.hand_over(self.role, connection):
                        await connection.close()

    async def do(self, action: str) -> None:
        side, storm = self.side, self.storm
        match action:
            case "ask" if self.initiator is Initiator.PEER:
                storm.spawn(self.request_session())
            case "ask and stay away" if self.initiator is Initiator.PEER:
                storm.spawn(self.request_session(come=False))
            case "ask and give up" if self.initiator is Initiator.PEER:
                storm.spawn(self.request_session(patience=1.0))
            case "come unasked":
                connection = side.connect()
                await self._watch_soon()
                if not storm.link.hand_over(self.role, connection):
                    await connection.close()
            case "vanish" if side.far:
                await side.peer.close()
            case "go deaf":
                self.deaf = True
            case "refuse":
                side.refuse = NOBODY
            case "refuse for good":
                side.refuse = AccessRefused("No.")
            case "stall":
                side.stall = side.stall or asyncio.Event()
            case "recover":
                self.recover()
            case "unpair":
                side.given_initiator = None
                storm.link.pairing_changed()
            case "pair":
                side.given_initiator = self.initiator
                storm.link.pairing_changed()
            case "talk" if side.far:
                self.number += 1
                identifier = f"{self.role}-{self.number}"
                storm.sent.add(identifier)
                with contextlib.suppress(ConnectionClosed, TimeoutError):
                    async with asyncio.timeout(0.1):
                        await side.peer.send(message(identifier))

    def recover(self) -> None:
        self.deaf, self.side.refuse = False, None
        if self.side.stall is not None:
            self.side.stall.set()
            self.side.stall = None


class Storm:
    """A link and its two peers, and who watches them."""

    def __init__(self, rm: Initiator, cem: Initiator) -> None:
        self.tasks: set[asyncio.Task[Any]] = set()
        self.sent: set[str] = set()
        self.peers = {Role.RM: Peer(self, Role.RM, rm), Role.CEM: Peer(self, Role.CEM, cem)}
        self.link = Link("storm", {role: peer.side for role, peer in self.peers.items()}, Policy())

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)

    async def watch(self) -> None:
        """One side alone, and for how long; an end that the link believes in and nobody holds."""
        alone = 0.0
        while True:
            await asyncio.sleep(0.5)
            standing = {role for role, peer in self.peers.items() if peer.side.standing()}
            alone = alone + 0.5 if len(standing) == 1 else 0.0
            assert alone <= ALONE, f"only the {standing} is connected since {alone} s"
            assert all(peer.side.standing() <= 1 for peer in self.peers.values())

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        results = await asyncio.gather(*self.tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result


async def weather(rm: Initiator, cem: Initiator, script: list[tuple[float, Role, str]]) -> None:
    storm = Storm(rm, cem)
    running = asyncio.create_task(storm.link.run())
    storm.spawn(storm.watch())
    try:
        for pause, role, action in script:
            await storm.peers[role].do(action)
            await asyncio.sleep(pause)
        for peer in storm.peers.values():
            peer.recover()
            peer.side.given_initiator = peer.initiator
            storm.link.pairing_changed()
        async with asyncio.timeout(MAX_DELAY + 2 * ALONE):
            while storm.link.status().state is not LinkState.UP:
                if storm.link.status().state is not LinkState.ADMITTING:
                    for peer in storm.peers.values():
                        await peer.do("ask")
                await asyncio.sleep(1)
        assert not running.done()
        assert all(side.connected for side in storm.link.status().sides.values())
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await storm.end()
    assert not any(peer.side.standing() for peer in storm.peers.values())


@given(
    st.sampled_from(Initiator),
    st.sampled_from(Initiator),
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.0, 0.1, 1.0, 5.0, 15.0]), st.sampled_from(Role), st.sampled_from(ACTIONS)),
        min_size=20,
        max_size=60,
    ),
)
@settings(max_examples=40, deadline=None)
def test_whatever_the_peers_do_no_side_is_alone_for_long_and_everything_comes_back(
    rm: Initiator, cem: Initiator, script: list[tuple[float, Role, str]]
) -> None:
    run_virtual(weather(rm, cem, script))
