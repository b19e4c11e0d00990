"""Requests in any order, with repeats, to any of three instances: the answers are those of one instance."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from s2connect.errors import NotPaired
from s2connect.events import CodeWithdrawn, Paired, PairingFailed, Unpaired
from s2connect.model.common import NodeId
from s2connect.pairing import rate_limiter
from s2connect.pairing.code import PairingToken
from tests.instances.instances import (
    NODES,
    TOKEN,
    Answered,
    Instance,
    b64,
    client_id,
    instances,
    pairing_request,
    proof_of,
    session_request,
)

SHORT = "5hK7Z"
"""A code that failed attempts withdraw."""

TABLES = (
    "pairing, tombstone, secret, pairing_node, pairing_turn, pairing_source, pairing_attempt, pairing_proof,"
    " pending_token, offer"
)


@dataclass(frozen=True)
class Op:
    """One request: what, about which, in which way, and to which instance."""

    name: str
    which: int
    way: int
    instance: int


OPS = st.builds(
    Op,
    st.sampled_from(
        [
            *("code", "withdraw", "reflect", "unpair", "unpair here", "describe"),
            *(("begin", "details", "finalize", "initiate", "confirm") * 3),
        ]
    ),
    st.integers(0, 3),
    st.integers(0, 5),
    st.integers(0, 2),
)
HAPPY = [Op(name, 0, 0, 0) for name in ("code", "begin", "details", "finalize", "initiate", "confirm")]


@st.composite
def scripts(draw: st.DrawFn) -> list[Op]:
    """Pairings and sessions as they should be, with anything in between."""
    script: list[Op] = []
    for op in HAPPY:
        script += [Op(op.name, op.which, op.way, draw(st.integers(0, 2))), *draw(st.lists(OPS, max_size=3))]
    return script


@dataclass
class World:
    """An endpoint of one or several instances, and what its clients know."""

    instances: Sequence[Instance]
    attempts: list[dict[str, Any]] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)

    async def do(self, op: Op) -> Any:
        """Do it, and return what came of it, without what is drawn at random."""
        instance = self.instances[op.instance % len(self.instances)]
        match op.name:
            case "code":
                token = SHORT if op.way == 1 else TOKEN
                lifetime = None if op.way == 2 else 300.0
                local = instance.state.local.nodes[NODES[0]]
                await instance.pairing.new_code(local, PairingToken(token), lifetime)
                return None
            case "withdraw":
                await instance.pairing.withdraw_code(instance.state.local.nodes[NODES[0]])
                return await self._codes(instance)
            case "begin":
                challenge = hashlib.sha256(b"%d %d" % (op.which, op.way % 2)).digest()
                return self._begun(
                    await instance.ask("pairing/requestPairing", pairing_request(op.which, b64(challenge)))
                )
            case "reflect":
                if not self.attempts:
                    return None
                challenge = self._attempt(op)["serverHmacChallenge"]
                return self._begun(await instance.ask("pairing/requestPairing", pairing_request(op.way, challenge)))
            case "details" | "finalize":
                return await self._later(instance, op)
            case "unpair here":
                try:
                    await instance.pairings.unpair(NODES[0], NodeId(client_id(op.which)))
                except NotPaired as error:
                    return error.kind
                return "unpaired"
            case "initiate" | "confirm" | "unpair" | "describe":
                return await self._session(instance, op)

    async def _codes(self, instance: Instance) -> tuple[str, bool]:
        status = await instance.pairing.code_statuses(list(instance.state.local.nodes.values()))
        return status[NODES[0]].state, status[NODES[0]].code is not None

    def _attempt(self, op: Op) -> dict[str, Any]:
        return self.attempts[-1 - op.which % len(self.attempts)]

    def _begun(self, answered: Answered) -> Any:
        if answered.status != 200:
            return answered.shape()
        if answered.body not in self.attempts:
            self.attempts.append(answered.body)
        return answered.shape(), self.attempts.index(answered.body)

    async def _later(self, instance: Instance, op: Op) -> Any:
        if not self.attempts:
            return None
        attempt = self._attempt(op)
        bearer = attempt["pairingAttemptId"] if op.way != 5 else "x" * 32
        if op.name == "finalize":
            body = {3: b'{"success": false}', 4: b"{}"}.get(op.way, b'{"success": true}')
            return (await instance.ask("pairing/finalizePairing", body, bearer)).shape()
        token = {2: "wrong0wrong0"}.get(op.way, SHORT if op.way == 1 else TOKEN)
        proof = {"serverHmacChallengeResponse": proof_of(attempt["serverHmacChallenge"], token)}
        operation = "requestConnectionDetails"
        if op.way == 3:
            operation = "postConnectionDetails"
            details = {"initiateSessionUrl": "https://client.example/session/", "accessToken": b64(bytes(32))}
            proof |= {"connectionDetails": details}  # type: ignore[dict-item]
        body = b"{" if op.way == 4 else json.dumps(proof).encode()
        return self._with_token(await instance.ask(f"pairing/{operation}", body, bearer))

    async def _session(self, instance: Instance, op: Op) -> Any:
        if not self.tokens:
            return None
        token = self.tokens[-1 - op.way % len(self.tokens)]
        if op.name == "confirm":
            answered = await instance.ask("session/confirmAccessToken", b"", token)
            return answered.shape()
        value = json.loads(session_request(op.which if op.way > 2 else 0))
        if op.name == "unpair":
            ids = {name: value[name] for name in ("clientNodeId", "serverNodeId")}
            return (await instance.ask("session/unpair", json.dumps(ids).encode(), token)).shape()
        if op.name == "describe":
            value["clientEndpointDescription"] = {"name": f"client {op.way}", "deployment": "WAN"}
        return self._with_token(await instance.ask("session/initiateSession", json.dumps(value).encode(), token))

    def _with_token(self, answered: Answered) -> Any:
        token = answered.body.get("accessToken")
        if token is None:
            return answered.shape()
        if token not in self.tokens:
            self.tokens.append(token)
        return answered.shape(), self.tokens.index(token)

    async def outcome(self) -> Any:
        """Return the pairings, the valid codes and the published events."""
        first = self.instances[0]
        paired = [
            (str(p.key.remote), p.confirmed, str(p.communication_role), p.peer_endpoint.to_value())
            for p in await first.store.pairings()
        ]
        told = [
            (type(event).__name__, getattr(event, "reason", ""), str(getattr(event, "peer", event.node)))
            for instance in self.instances
            for event in instance.happened
            if isinstance(event, Paired | PairingFailed | Unpaired | CodeWithdrawn)
        ]
        return sorted(paired), sorted(told), [await self._codes(one) for one in self.instances][:1]


async def _play(world: World, script: Sequence[Op]) -> list[Any]:
    return [await world.do(op) for op in script] + [await world.outcome()]


async def _compare(several: Sequence[Instance], url: str, script: Sequence[Op]) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"TRUNCATE {TABLES}".encode())
    for instance in several:
        instance.happened.clear()
    async with instances(None) as one:
        expected = await _play(World(one), script)
    found = await _play(World(several), script)
    for op, wanted, got in zip([*script, "the end"], expected, found, strict=True):
        assert got == wanted, op


def _check(url: str, examples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limiter, "FREE_FAILURES", 10**6)  # all come from one address
    with asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()
        several = runner.run(stack.enter_async_context(instances(url, 3)))

        @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
        @given(scripts())
        def any_script(script: list[Op]) -> None:
            runner.run(_compare(several, url, script))

        try:
            any_script()
        finally:
            runner.run(stack.aclose())


def test_three_instances_answer_as_one_does(postgresql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _check(postgresql, 3, monkeypatch)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_three_instances_answer_as_one_does_in_many_orders(postgresql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _check(postgresql, 40, monkeypatch)
