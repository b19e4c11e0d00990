"""Reflection: a stranger without the code never pairs, and an honest pairing succeeds beside the attack (HMAC-05)."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from s2connect import Deployment, Endpoint, NodeConfig, Role, events
from s2connect.model.common import NodeId
from tests.endpoint.conftest import OpenEndpoint, Wan, lan_config
from tests.endpoint.stranger import Stranger, stranger
from tests.waits import within

pytestmark = pytest.mark.rule("HMAC-05")

PADDED: dict[str, Callable[[bytes], bytes]] = {
    "as it was": lambda challenge: challenge,
    "one zero byte more": lambda challenge: challenge + b"\0",
    "zero bytes up to the block": lambda challenge: challenge.ljust(64, b"\0"),
}
"""Challenges that are the same key for HMAC."""


class Attack:
    """Two attempts of a stranger: the server's challenge in the first becomes the client's challenge in the second.

    Args:
        mallory: The stranger.
        role: The role it plays.
        at: Which node the first attempt is for, ``to`` the second.
    """

    def __init__(
        self,
        mallory: Stranger,
        role: Role,
        *,
        at: dict[str, str] | None = None,
        to: dict[str, str] | None = None,
        **more: Any,
    ) -> None:
        self.mallory, self.role, self.at, self.to, self.more = mallory, role, at or {}, to or {}, more

    async def begin(self) -> None:
        status, self.first = await self.mallory.request(self.role, os.urandom(32), **self.at, **self.more)
        assert status == 200, self.first

    async def reflect(self, change: Callable[[bytes], bytes] = PADDED["as it was"]) -> tuple[int, str]:
        challenge = base64.b64decode(self.first["serverHmacChallenge"])
        status, self.second = await self.mallory.request(self.role, change(challenge), **self.to, **self.more)
        return status, self.second.get("errorMessage", "")

    async def finish(self, *, post: bool | None = None) -> list[int]:
        """Use whatever the server has answered as proof for the first attempt."""
        proof = (self.second if "clientHmacChallengeResponse" in self.second else self.first)[
            "clientHmacChallengeResponse"
        ]
        post = self.role is Role.CEM if post is None else post
        return await self.mallory.finish(self.first["pairingAttemptId"], proof, post=post)


@pytest.mark.parametrize("change", PADDED.values(), ids=PADDED)
@pytest.mark.parametrize("role", [Role.RM, Role.CEM], ids=["an RM at a CEM", "a CEM at an RM"])
async def test_the_servers_answer_to_its_own_challenge_pairs_nobody(
    role: Role, change: Callable[[bytes], bytes], open_endpoint: OpenEndpoint
) -> None:
    target, honest = await open_endpoint(lan_config(role.other)), await open_endpoint(lan_config(role))
    code = target.node().issue_pairing_code()
    async with stranger(target, "127.0.0.2") as mallory:
        attack = Attack(mallory, role)
        await attack.begin()
        started = time.monotonic()
        answer = await attack.reflect(change)
        seconds = time.monotonic() - started
        pairing = asyncio.create_task(honest.node().pair(target.pairing_url, code))
        assert [answer, await attack.finish()] == [(400, "Other"), [403, 401]]
        assert seconds >= 1.0, "it costs the same second"
        honest_node = (await pairing).key.local
    assert [p.key.remote for p in await target.pairings()] == [honest_node]


REFUSED = [(400, "Other"), [403, 401]]


async def run(attack: Attack) -> list[Any]:
    await attack.begin()
    return [await attack.reflect(), await attack.finish()]


async def test_another_node_of_the_endpoint_with_the_same_static_code_is_no_oracle(open_endpoint: OpenEndpoint) -> None:
    nodes = (NodeConfig(role=Role.CEM, alias="A1"), NodeConfig(role=Role.CEM, alias="B2"))
    target = await open_endpoint(lan_config(Role.CEM, nodes=nodes))
    for node in target.nodes.values():
        await node.set_static_code("STICKER42")
    honest = await open_endpoint(lan_config(Role.RM))
    async with stranger(target, "127.0.0.2") as mallory:
        attack = Attack(mallory, Role.RM, at={"nodeIdAlias": "A1"}, to={"nodeIdAlias": "B2"})
        found, pairing = await asyncio.gather(run(attack), honest.node().pair(target.pairing_url, "B2-STICKER42"))
    assert found == REFUSED
    assert [p.key.remote for p in await target.pairings()] == [pairing.key.local]


@pytest.mark.parametrize("role", [Role.RM, Role.CEM])
@pytest.mark.parametrize("vendor", [False, True], ids=["an endpoint in the WAN", "a vendor's server in the WAN"])
async def test_servers_that_count_by_their_name_are_no_oracle(
    role: Role, vendor: bool, wan: Wan, open_endpoint: OpenEndpoint
) -> None:
    settings = {"deployment": Deployment.LAN, "wan_pairing_server": True} if vendor else {}
    target = await open_endpoint(wan.config(role.other, "pairing.example", **settings))
    code = target.node().issue_pairing_code()
    async with stranger(target) as mallory:
        mallory.deployment = "WAN"
        attack = Attack(mallory, role)
        await attack.begin()
        assert await attack.reflect() == (400, "Other")
        # Which way the details go depends on who would be communication server (ROLE-02).
        assert await attack.finish(post=vendor or role is Role.CEM) == [403, 401]
    assert await target.pairings() == []
    assert target.node().valid_pairing_code() is not None
    assert str(target.node().valid_pairing_code()) == str(code)


async def test_an_attempt_that_has_just_ended_and_a_code_typed_for_a_device_are_no_oracles(cem: Endpoint) -> None:
    code = cem.node().issue_pairing_code()
    async with stranger(cem) as mallory:
        ended = Attack(mallory, Role.RM)
        await ended.begin()
        status, _ = await mallory.post("finalizePairing", {"success": False}, ended.first["pairingAttemptId"])
        assert status == 204
        assert [await ended.reflect(), await ended.finish()] == [(400, "Other"), [401, 401]]
        waiting = cem._state.local.nodes[cem.node().id]
        cem._pairing.server.tokens(waiting.id).expect(
            NodeId(UUID(mallory.node)), code.token, now=asyncio.get_running_loop().time()
        )
        typed = Attack(mallory, Role.RM)
        await typed.begin()
        mallory.node = str(uuid4())
        assert [await typed.reflect(), await typed.finish()] == REFUSED
    assert await cem.pairings() == []


async def test_a_request_whose_body_follows_when_the_challenge_is_known_is_no_oracle(cem: Endpoint) -> None:
    """Its head is sent first, and it waits in nobody's queue; the second begins with the last byte of its body."""
    cem.node().issue_pairing_code()
    known: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    async with stranger(cem) as mallory:

        async def body() -> AsyncIterator[bytes]:
            challenge = await known
            yield json.dumps(mallory.request_body(Role.RM, challenge)).encode()

        second = asyncio.create_task(mallory.post("requestPairing", body()), name="test-second")
        attack = Attack(mallory, Role.RM)
        await attack.begin()
        await asyncio.sleep(1.0)  # the head has been there for longer than the delay
        started = time.monotonic()
        known.set_result(base64.b64decode(attack.first["serverHmacChallenge"]))
        status, attack.second = await second
        assert time.monotonic() - started >= 1.0
        assert (status, attack.second["errorMessage"]) == (400, "Other")
        assert await attack.finish() == [403, 401]


async def test_the_user_is_told_of_the_attack_and_where_it_comes_from(cem: Endpoint) -> None:
    cem.node().issue_pairing_code()
    news = cem.events()
    async with stranger(cem, "127.0.0.9") as mallory:
        await run(Attack(mallory, Role.RM))
        async with within(2):
            notice = await anext(news)
    assert isinstance(notice, events.Notice)
    assert notice.kind == "pairing_attack"
    assert f"pair with {cem.node().description.title} without" in notice.sentence
    assert "127.0.0.9" in notice.sentence
