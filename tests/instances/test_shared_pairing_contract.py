"""The contract of what pairing servers share: one core in memory, or three instances on one database."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Sequence

import pytest

from s2connect.model.reply import Reply
from s2connect.pairing import rate_limiter, server_core
from s2connect.pairing.code import PairingToken
from s2connect.pairing.server_core import ANSWER_ENTROPY, ATTEMPT_LIFETIME, Asked, Queued
from s2connect.pairing.shared import SharedPairing
from s2connect.shared import pairing as shared_pairing
from s2connect.shared.pairing import PostgresqlPairing
from tests.instances.instances import NODES, TOKEN, Instance, b64, instances, pairing_request

DELAY = 0.2


@pytest.fixture(params=["memory", "postgresql"])
async def several(request: pytest.FixtureRequest) -> AsyncIterator[Sequence[Instance]]:
    """Instances of one endpoint, whose nodes answer every 0.2 s."""
    url = request.getfixturevalue("postgresql") if request.param == "postgresql" else None
    async with contextlib.AsyncExitStack() as stack:
        found = await stack.enter_async_context(instances(url, 3 if url else 1, nodes=2))
        for one in found:
            one.pairing.server.delay = DELAY
        yield found


def shared(several: Sequence[Instance], number: int) -> SharedPairing:
    return several[number % len(several)].pairing.shared


def asked(one: SharedPairing, number: int, address: str, node: int = 0) -> Asked:
    found = one.core.check(
        pairing_request(number, b64(random.randbytes(32)), node), binding=b"d", address=address, ready=True, now=0.0
    )
    assert isinstance(found, Asked)
    return found


async def turn(one: SharedPairing, queued: Queued) -> float:
    """Wait for the turn; return when it came."""
    while True:
        pause = await one.wait(queued)
        if pause is None:
            return asyncio.get_running_loop().time()
        assert not isinstance(pause, Reply), pause
        await asyncio.sleep(min(pause, 1.0))


async def queue(one: SharedPairing, number: int, address: str, node: int = 0) -> Queued:
    queued = await one.queue(asked(one, number, address, node))
    assert isinstance(queued, Queued)
    return queued


async def begin(one: SharedPairing, queued: Queued) -> Reply:
    async with one.begin(queued) as (core, now):
        answer = core.answer(queued, now=now, entropy=os.urandom(ANSWER_ENTROPY))
        if isinstance(answer, Reply):
            return answer
        free = await core.proofs.claim(answer.sent, answer.expected, now=now, lifetime=ATTEMPT_LIFETIME)
        return core.claimed(answer, free=free, now=now)


@pytest.mark.rule("PAIR-02")
async def test_a_node_gives_one_turn_in_each_delay_however_many_are_asked(several: Sequence[Instance]) -> None:
    begun = asyncio.get_running_loop().time()
    waiting = [(shared(several, n), await queue(shared(several, n), n, f"192.0.2.{n}")) for n in range(4)]
    times = sorted(await asyncio.gather(*(turn(one, queued) for one, queued in waiting)))
    assert times[0] >= begun + DELAY * 0.9, "also the first one waits"
    # From turn to turn it may look like less, where an answer of the database was late.
    assert times[-1] - begun >= 4 * DELAY * 0.9


@pytest.mark.rule("PAIR-02")
async def test_nodes_do_not_wait_for_each_other(several: Sequence[Instance]) -> None:
    waiting = [(shared(several, n), await queue(shared(several, n), n, "192.0.2.1", node=n)) for n in range(2)]
    ready = max(queued.arrived_at for _, queued in waiting) + DELAY
    async with waiting[0][0].codes(NODES[0]) as (_, now):
        pass
    await asyncio.sleep(max(0.0, ready - now))
    assert [await one.wait(queued) for one, queued in waiting] == [None, None]


@pytest.mark.rule("PAIR-02")
async def test_sources_take_turns_over_all_instances(several: Sequence[Instance]) -> None:
    """A flood through one instance does not delay somebody else at another one."""
    flood = [(shared(several, 0), await queue(shared(several, 0), n, "192.0.2.1")) for n in range(4)]
    other = shared(several, 1), await queue(shared(several, 1), 9, "192.0.2.2")
    come: list[str] = []

    async def follow(name: str, one: SharedPairing, queued: Queued) -> None:
        await turn(one, queued)
        come.append(name)

    work = [follow("flood", *each) for each in flood]
    tasks = [asyncio.create_task(each) for each in (*work, follow("other", *other))]
    await asyncio.gather(*tasks)
    assert come.index("other") <= 1


@pytest.mark.rule("PAIR-12")
async def test_one_address_has_few_places_in_the_queue_of_a_node(several: Sequence[Instance]) -> None:
    for number in range(rate_limiter.MAX_QUEUED_PER_ADDRESS):
        await queue(shared(several, number), number, "192.0.2.1")
    one = shared(several, 2)
    assert await one.queue(asked(one, 99, "192.0.2.1")) == Reply(503)
    assert isinstance(await one.queue(asked(one, 99, "192.0.2.2")), Queued)
    assert isinstance(await one.queue(asked(one, 99, "192.0.2.1", node=1)), Queued)


@pytest.mark.rule("PAIR-12")
async def test_a_full_queue_makes_room_for_a_source_that_has_fewer_places(
    several: Sequence[Instance], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limiter, "MAX_QUEUED", 3)
    mine = [(shared(several, n), await queue(shared(several, n), n, "192.0.2.1")) for n in range(3)]
    later = shared(several, 1)
    await queue(later, 9, "192.0.2.2")
    assert await mine[-1][0].wait(mine[-1][1]) == Reply(503), "the last one has lost its place"
    assert isinstance(await mine[0][0].wait(mine[0][1]), float | None)


async def test_who_gives_up_leaves_no_place_behind(several: Sequence[Instance]) -> None:
    first = shared(several, 0), await queue(shared(several, 0), 1, "192.0.2.1")
    second = shared(several, 1), await queue(shared(several, 1), 2, "192.0.2.2")
    begun = asyncio.get_running_loop().time()
    first[0].abandon(first[1])
    assert await turn(*second) < begun + 10 * DELAY


@pytest.mark.rule("PAIR-12")
async def test_attempts_are_bounded_over_all_instances(
    several: Sequence[Instance], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_core, "MAX_ATTEMPTS", 2)
    local = several[0].state.local.nodes[NODES[0]]
    await several[0].pairing.new_code(local, PairingToken(TOKEN))
    one = shared(several, 0)
    queued = await queue(one, 1, "192.0.2.1")
    await turn(one, queued)
    assert (await begin(one, queued)).status == 200
    await queue(shared(several, 1), 2, "192.0.2.2")
    last = shared(several, 2)
    assert await last.queue(asked(last, 3, "192.0.2.3")) == Reply(503), "one begun, one queued"


@pytest.mark.rule("PAIR-12")
async def test_the_bound_of_attempts_grows_with_the_nodes_that_share_a_database(
    several: Sequence[Instance], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_core, "MAX_ATTEMPTS", 1)
    monkeypatch.setattr(shared_pairing, "NODES_IN_BOUNDS", 1)
    await queue(shared(several, 0), 1, "192.0.2.1")
    one = shared(several, 1)
    second = await one.queue(asked(one, 2, "192.0.2.2", node=1))
    if len(several) == 1:
        assert second == Reply(503), "in memory"
    else:
        assert isinstance(second, Queued)
        assert await one.queue(asked(one, 3, "192.0.2.3", node=1)) == Reply(503)


@pytest.mark.rule("TOK-05")
async def test_failures_slow_an_address_down_at_every_instance(
    several: Sequence[Instance], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limiter, "FREE_FAILURES", 1)
    local = several[0].state.local.nodes[NODES[0]]
    await several[0].pairing.new_code(local, PairingToken(TOKEN))
    for number in range(3):
        one = shared(several, number)
        queued = await queue(one, number, "192.0.2.1")
        if number < 2:
            await turn(one, queued)
            reply = await begin(one, queued)
            assert reply.status == 200
            assert reply.body is not None
            attempt_id = reply.body.pairing_attempt_id  # type: ignore[attr-defined]
            other = shared(several, number + 1)
            async with other.attempt(attempt_id) as (core, now):
                assert core.finalize(attempt_id, b"{}", now=now, wall_time=0.0) != Reply(401)
            continue
        await turn(one, queued)  # from here on it is slow
    slow, fresh = shared(several, 1), shared(several, 2)
    queued = await queue(slow, 7, "192.0.2.1")
    await turn(fresh, await queue(fresh, 8, "192.0.2.9"))
    pauses: list[float] = []
    for _ in range(2):  # the first wait is that for the turn of the other address to be over
        pause = await slow.wait(queued)
        assert isinstance(pause, float)
        pauses.append(pause)
        await asyncio.sleep(min(pause, DELAY))
    assert pauses[-1] > rate_limiter.SLOWED_DELAY / 2


@pytest.mark.rule("TOK-02")
async def test_codes_are_those_of_all_instances(several: Sequence[Instance]) -> None:
    one, two, three = (several[number % len(several)] for number in range(3))
    local = one.state.local.nodes[NODES[0]]
    assert (await one.pairing.code_statuses([local]))[local.id].state == "none"
    code = await one.pairing.new_code(local, PairingToken(TOKEN), 300.0)
    status = (await two.pairing.code_statuses([local]))[local.id]
    assert status.state == "valid"
    assert status.code is not None
    assert str(status.code) == str(code)
    assert 290.0 < (status.code.expires_in or 0.0) <= 300.0
    await three.pairing.withdraw_code(local)
    assert (await one.pairing.code_statuses([local]))[local.id].state == "withdrawn"
    await two.pairing.set_static_code(local, "Sticker77")
    status = (await three.pairing.code_statuses([local]))[local.id]
    assert (status.state, status.static) == ("static", True)
    await one.pairing.new_code(local, PairingToken(TOKEN), 0.0)
    assert (await two.pairing.code_statuses([local]))[local.id].state == "static", "the dynamic one is over"


async def test_a_node_that_is_removed_has_no_codes_and_no_attempts(several: Sequence[Instance]) -> None:
    one, two = several[0], shared(several, 1)
    local = one.state.local.nodes[NODES[0]]
    await one.pairing.new_code(local, PairingToken(TOKEN))
    queued = await queue(two, 1, "192.0.2.1")
    await turn(two, queued)
    reply = await begin(two, queued)
    assert reply.body is not None
    attempt_id = reply.body.pairing_attempt_id  # type: ignore[attr-defined]
    await one.pairing.forget(local.id)
    async with two.attempt(attempt_id) as (core, now):
        body = b'{"serverHmacChallengeResponse": "AAAA"}'
        assert core.request_connection_details(attempt_id, body, now=now, entropy=bytes(64)) == Reply(401)
    assert (await several[-1].pairing.code_statuses([local]))[local.id].state == "none"


@pytest.mark.rule("PAIR-02")
async def test_a_crowd_at_one_node_does_not_crowd_at_its_lock(postgresql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = 0
    take_turn = PostgresqlPairing._take_turn

    async def counted(one: PostgresqlPairing, queued: Queued) -> float | Reply | None:
        nonlocal tries
        tries += 1
        return await take_turn(one, queued)

    monkeypatch.setattr(PostgresqlPairing, "_take_turn", counted)
    async with instances(postgresql, 3) as several:
        for one in several:
            one.pairing.server.delay = 0.1
        waiting = [(shared(several, n), await queue(shared(several, n), n, f"192.0.2.{n % 15}")) for n in range(30)]
        times = await asyncio.gather(*(turn(one, queued) for one, queued in waiting))
    assert tries < 3 * len(waiting)
    first, second = times[:15], times[15:]
    assert sorted(first)[7] < sorted(second)[7], "each source had one turn before any had two"
