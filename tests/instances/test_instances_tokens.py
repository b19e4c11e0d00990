"""Access tokens of a communication client that is several instances: two may connect to its server at one moment."""

from __future__ import annotations

import itertools

import pytest

pytest.importorskip("psycopg")

from tests.instances.instances import Instance, instances
from tests.store.store_examples import pairing, token


async def kept(one: Instance, *before: str) -> None:
    """Make a pairing with these candidates."""
    await one.store.save_pairing(pairing(), *(token(name) for name in before))


async def accept(one: Instance, name: str) -> None:
    assert one.state.shared is not None
    await one.state.shared.accept_token(pairing(), token(name))


@pytest.mark.rule("SESC-01", "SESC-03")
async def test_an_accepted_token_ends_the_older_ones_and_leaves_those_that_another_instance_has_asked_for(
    postgresql: str,
) -> None:
    async with instances(postgresql) as (one,):
        await kept(one, "a", "b", "c")
        await accept(one, "b")
        assert await one.store.candidate_tokens(pairing()) == [token("b"), token("c")]
        await accept(one, "c")
        assert await one.store.candidate_tokens(pairing()) == [token("c")]
        await accept(one, "b")  # late: it stood still, and another instance was faster
        assert await one.store.candidate_tokens(pairing()) == [token("c"), token("b")]


@pytest.mark.rule("SESC-01", "SESC-03")
async def test_in_every_order_of_two_initiations_the_token_that_counts_is_a_candidate(postgresql: str) -> None:
    """Each instance adds its token, has it confirmed by the server, and accepts it: in every order of these steps."""
    steps = [(who, what) for who in "bc" for what in ("add", "confirm", "accept")]
    orders = [
        order
        for order in itertools.permutations(steps)
        if all(order.index((who, "add")) < order.index((who, "confirm")) < order.index((who, "accept")) for who in "bc")
    ]
    assert len(orders) == 20
    async with instances(postgresql, 2) as both:
        by = dict(zip("bc", both, strict=True))
        for order in orders:
            await kept(both[0], "a")
            active, pending, confirmed = "a", set[str](), set[str]()
            for who, what in order:
                if what == "add":
                    pending.add(who)  # the server's
                    await by[who].store.add_pending_token(pairing(), token(who))
                elif what == "confirm" and who in pending:
                    active, pending = who, set()  # it forgets the others of the pair (SES-03)
                    confirmed.add(who)
                elif who in confirmed:
                    await accept(by[who], who)
                assert token(active) in await both[0].store.candidate_tokens(pairing()), order
