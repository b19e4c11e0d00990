"""Sessions that instances prepare, with every request at any of three: the outcome is that of one instance."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection

from s2connect.pairing.code import PairingToken
from s2connect.store.base import Pairing
from tests.instances.instances import NODES, TOKEN, Instance, instances, session_request
from tests.instances.test_instances_any_order import TABLES
from tests.instances.test_instances_at_once import pair
from tests.instances.test_instances_offers import come
from tests.instances.test_instances_ownership import follow, holders, listening_all
from tests.waits import until


@dataclass(frozen=True)
class Op:
    """One step: what, with which of the tokens so far, the last first, and at which instance."""

    name: str
    which: int
    instance: int


OPS = st.builds(
    Op,
    st.sampled_from([*(("initiate", "confirm", "come") * 3), "hang up", "looks dead", "is seen", "unnamed", "named"]),
    st.integers(0, 2),
    st.integers(0, 2),
)


@st.composite
def scripts(draw: st.DrawFn) -> list[Op]:
    """Sessions as they should be, with anything in between."""
    script: list[Op] = []
    for place, name in enumerate(("initiate", "confirm", "come") * 2):
        # The simplest script goes from one instance to the next.
        instance = (place + draw(st.integers(0, 2))) % 3
        script += [Op(name, 0, instance), *draw(st.lists(OPS, max_size=2))]
    return script


@dataclass
class World:
    """An endpoint of one or several instances that prepare sessions, and a paired client.

    Attributes:
        ready: Number of sessions that each instance has prepared, and whose connections have not come yet.
        pending: Tokens of initiateSession.
        offers: Tokens of connections, each with the instance that its URL names, if any.
        connected: Connections of the client, each with the instance that took it.
    """

    several: Sequence[Instance]
    ports: Sequence[int]
    url: str | None
    access: list[str] = field(default_factory=list)
    ready: Counter[int] = field(default_factory=Counter)
    pending: list[str] = field(default_factory=list)
    offers: list[tuple[str, int | None]] = field(default_factory=list)
    connected: list[tuple[ClientConnection, int]] = field(default_factory=list)

    async def begin(self) -> None:
        """Have a client paired, and the instances prepare."""
        local = self.several[0].state.local.nodes[NODES[0]]
        await self.several[0].pairing.new_code(local, PairingToken(TOKEN))
        self.access = [await pair(self.several, 1)]
        for number, instance in enumerate(self.several):
            connections = instance.connections[NODES[0]]
            connections.preparing_hook = self._admit(number)
            self.name(number, named=True)
            self.see(number, ago=0)

    def _admit(self, number: int) -> Any:
        async def admit(pairing: Pairing, s2_version: str, may_lead: bool) -> str | None:
            self.ready[number] += 1
            return None

        return admit

    def name(self, number: int, *, named: bool) -> None:
        state = self.several[number].state
        url = "wss://{instance}.i.cloud.example" if named else None
        state.config = state.config.model_copy(update={"instance_url": url})

    def see(self, number: int, *, ago: float) -> None:
        if self.url is None:
            return
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(
                "INSERT INTO instance (name, started, seen, version, schema)"
                " VALUES (%s, now(), clock_timestamp() - make_interval(secs => %s), '', 0)"
                " ON CONFLICT (name) DO UPDATE SET seen = excluded.seen",
                (f"i{number}", ago),
            )

    async def do(self, op: Op) -> Any:
        """Do it, and return what came of it."""
        number = op.instance % len(self.several)
        instance = self.several[number]
        match op.name:
            case "initiate":
                token = self.access[-1 - op.which % len(self.access)]
                answered = await instance.ask("session/initiateSession", session_request(1), token)
                if answered.status == 200:
                    self.pending.append(str(answered.body["accessToken"]))
                return answered.shape()
            case "confirm" if self.pending:
                token = self.pending[-1 - op.which % len(self.pending)]
                answered = await instance.ask("session/confirmAccessToken", b"", token)
                if answered.status == 200:
                    self.access.append(token)
                    host = str(urlsplit(answered.body["websocketUrl"]).hostname)
                    named = int(host[1]) if host.endswith(".i.cloud.example") else None
                    self.offers.append((str(answered.body["websocketToken"]), named))
                return answered.status
            case "come" if self.offers:
                token, named = self.offers[-1 - op.which % len(self.offers)]
                return await self._come(token, number if named is None else named)
            case "hang up":
                await self.hang_up()
            case "looks dead":
                self.see(number, ago=16)
            case "is seen":
                self.see(number, ago=0)
            case "named" | "unnamed":
                self.name(number, named=op.name == "named")
        return None

    async def _come(self, token: str, number: int) -> Any:
        came = await come(self.ports[number], token)
        if isinstance(came, int):
            return came
        self.connected.append((came, number))
        assert self.ready[number], "the instance that has the session has prepared it"
        self.ready[number] -= 1
        await until(lambda: holders(self.several) == [number])  # and no other
        return 101

    async def hang_up(self) -> None:
        for connection, _ in self.connected:
            await connection.close()
        self.connected.clear()
        await until(lambda: not holders(self.several))


async def play(world: World, script: Sequence[Op]) -> list[Any]:
    """Play a script; return the outcomes, and at the end whether the client has a session."""
    await world.begin()
    try:
        found = [await world.do(op) for op in script]
        return [*found, bool(holders(world.several)), len(await world.several[0].store.pairings())]
    finally:
        await world.hang_up()


async def compare(several: Sequence[Instance], ports: Sequence[int], url: str, script: Sequence[Op]) -> None:
    """Play a script at several instances and at one."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"TRUNCATE {TABLES}".encode())
    async with instances(None) as one, one[0].listening() as port:
        expected = await play(World(one, [port], None), script)
    found = await play(World(several, ports, url), script)
    for op, wanted, got in zip([*script, "session", "pairings"], expected, found, strict=True):
        assert got == wanted, op


def check(url: str, examples: int) -> None:
    with asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()
        several = runner.run(stack.enter_async_context(instances(url, 3)))

        async def begin() -> list[int]:
            follow(several)
            await listening_all(url, 3)
            return [await stack.enter_async_context(one.listening()) for one in several]

        ports = runner.run(begin())

        @settings(
            max_examples=examples,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],  # a failure waits for its bound, so that shrinking would take an hour
        )
        @given(scripts())
        def any_script(script: list[Op]) -> None:
            runner.run(compare(several, ports, url, script))

        try:
            any_script()
        finally:
            runner.run(stack.aclose())


@pytest.mark.rule("SES-04")
def test_sessions_that_are_prepared_go_as_at_one_instance(postgresql: str) -> None:
    check(postgresql, 2)


@pytest.mark.long
@pytest.mark.rule("SES-04")
@pytest.mark.timeout(600)
def test_sessions_that_are_prepared_go_as_at_one_instance_in_many_orders(postgresql: str) -> None:
    check(postgresql, 30)
