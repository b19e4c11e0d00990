"""Reflection: a stranger without the code never pairs, and an honest pairing succeeds beside the attack (HMAC-05)."""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from s2connect import Role
from tests.endpoint.conftest import OpenEndpoint, lan_config
from tests.endpoint.stranger import Stranger, stranger

pytestmark = pytest.mark.rule("HMAC-05")

PADDED: dict[str, Callable[[bytes], bytes]] = {
    "as it was": lambda challenge: challenge,
    "one zero byte more": lambda challenge: challenge + b"\0",
    "zero bytes up to the block": lambda challenge: challenge.ljust(64, b"\0"),
}
"""What HMAC takes for the same key."""


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
