"""A pairing server whose state becomes a plain JSON value after each request, and is read again, as instances do."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from s2connect.model.common import Deployment, Role
from s2connect.model.reply import Reply
from s2connect.pairing.attempt import Attempt as Stored
from s2connect.pairing.code import PairingToken, TokenTable
from s2connect.pairing.rate_limiter import NodeRateLimiter
from s2connect.pairing.server_core import ATTEMPT_LIFETIME, Commit, PairingServer
from tests.pairing.pairing_fixtures import OTHER_TOKEN, SERVER_ID, TOKEN, Attempt, PairingSetup, endpoint, request

SHORT = "5hK7"


def plain(value: dict[str, Any]) -> dict[str, Any]:
    """The value, as it comes back from JSON."""
    read: dict[str, Any] = json.loads(json.dumps(value))
    assert read == value
    return read


def reloaded(server: PairingServer, now: float) -> PairingServer:
    """A new server with what the other one has written."""
    new = server.part()
    tokens = TokenTable.load(plain(server.tokens(SERVER_ID).dump(now=now, keep=ATTEMPT_LIFETIME)))
    limiter = NodeRateLimiter.load(plain(server.limiter(SERVER_ID).dump()), delay=server.delay)
    new.take(
        SERVER_ID, tokens, limiter, [Stored.load(plain(a.dump()), tokens.issued) for a in server.attempts().values()]
    )
    new.proofs, new.events = server.proofs, server.events
    return new


class Reloading(PairingSetup):
    """The same, but for the server, which is another one after each request."""

    def reload(self) -> None:
        self.server = reloaded(self.server, self.now)


steps = st.tuples(
    st.sampled_from(
        ["code", "short", "static", "withdraw", "wait", "begin", "begin", "details", "details", "post", "finalize"]
    ),
    st.integers(0, 3),
    st.integers(0, 5),
)


class Played:
    """Return the results of some steps."""

    def __init__(self, setup: PairingSetup) -> None:
        self.setup = setup
        self.attempts: list[Attempt] = []

    def step(self, name: str, which: int, way: int) -> object:
        setup = self.setup
        match name:
            case "code" | "short" | "static":
                token = PairingToken(SHORT if name == "short" else TOKEN + "x" * 8)
                lifetime = None if name == "static" else 40.0
                setup.server.tokens(SERVER_ID).issue(token, now=setup.now, lifetime=lifetime)
            case "withdraw":
                setup.server.tokens(SERVER_ID).withdraw()
            case "wait":
                setup.now += (0.5, 3.0, 9.0, 15.0)[which]
                setup.server.expire(now=setup.now)
            case "begin":
                reply = setup.answer(setup.queue(request(which, role="RM")), entropy=bytes([len(self.attempts)]) * 64)
                if reply.status == 200:
                    self.attempts.append(Attempt(setup, json.loads(reply.body.to_json())))  # type: ignore[union-attr]
                return reply
            case _ if self.attempts:
                return self._later(name, self.attempts[-1 - which % len(self.attempts)], way)
        return setup.server.tokens(SERVER_ID).state(now=setup.now)

    def _later(self, name: str, attempt: Attempt, way: int) -> object:
        if name == "finalize":
            decision = attempt.finalize({4: b'{"success": false}', 5: b"{}"}.get(way, b'{"success": true}'))
            if not isinstance(decision, Commit):
                return decision
            server = self.setup.server
            ended = {2: server.not_now, 3: server.commit_failed}.get(way, server.committed)
            return decision.pairing.key, decision.token, ended(decision.attempt_id)
        token = {4: OTHER_TOKEN, 5: SHORT}.get(way, TOKEN + "x" * 8)
        return attempt.post_details(token) if name == "post" else attempt.request_details(token)


@settings(max_examples=60)
@given(st.lists(steps, max_size=25))
def test_it_answers_as_one_that_keeps_its_objects(script: list[tuple[str, int, int]]) -> None:
    own = endpoint(Role.CEM, Deployment.LAN)
    kept, again = Played(PairingSetup(own, token=None)), Played(Reloading(own, token=None))
    for step in [("code", 0, 0), ("begin", 0, 0), ("details", 0, 0), *script]:
        wanted, found = kept.step(*step), again.step(*step)
        assert found == wanted, step
        if isinstance(wanted, Reply):
            assert isinstance(found, Reply)
        assert again.setup.events() == kept.setup.events()
        assert again.setup.in_flight == kept.setup.in_flight
        assert isinstance(again.setup, Reloading)
        again.setup.reload()
        assert again.setup.server.tokens(SERVER_ID).state(now=again.setup.now) == kept.setup.server.tokens(
            SERVER_ID
        ).state(now=kept.setup.now)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0.0, 0.25, 1.0, 2.5])), max_size=30))
def test_a_rate_limiter_gives_the_same_turns(script: list[tuple[int, float]]) -> None:
    kept, again, now = NodeRateLimiter(), NodeRateLimiter(), 100.0
    names: list[str] = []
    for number, (what, wait) in enumerate(script):
        now += wait
        if what < 3:
            one, other = kept.queue(f"192.0.2.{what}", now=now), again.queue(f"192.0.2.{what}", now=now)
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                one.id = other.id = str(number)
                names.append(one.id)
        elif what == 3:
            kept.failed("192.0.2.1", now=now)
            again.failed("192.0.2.1", now=now)
        else:
            for name in list(names):
                one, other = kept.turn(name), again.turn(name)
                assert one is not None and other is not None  # noqa: PT018 - for the type checker
                at = kept.wait(one, now=now)
                assert again.wait(other, now=now) == at
                if at is None:
                    names.remove(name)
        assert again.dump() == kept.dump()
        again = NodeRateLimiter.load(plain(again.dump()))


@settings(max_examples=60)
@given(st.lists(st.integers(0, 3), max_size=8), st.lists(st.integers(0, 4), min_size=1, max_size=16))
def test_a_request_is_served_after_those_that_are_ahead_of_it(before: list[int], waiting: list[int]) -> None:
    limiter, now = NodeRateLimiter(delay=1.0), 100.0
    for source in before:
        turn = limiter.queue(f"192.0.2.{source}", now=now)
        now += 1.0
        assert turn is not None
        assert limiter.wait(turn, now=now) is None
    turns = [turn for source in waiting if (turn := limiter.queue(f"192.0.2.{source}", now=now)) is not None]
    ahead = {id(turn): limiter.ahead(turn) for turn in turns}
    served: list[int] = []
    while left := [turn for turn in turns if id(turn) not in served]:
        now += 1.0
        served += [id(turn) for turn in left if limiter.wait(turn, now=now) is None]
    assert [ahead[turn] for turn in served] == list(range(len(turns)))
