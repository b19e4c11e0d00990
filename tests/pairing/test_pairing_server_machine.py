"""The pairing server's core under any order of operations, at any times."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from s2connect.model.common import Deployment, Role
from s2connect.model.reply import Reply
from s2connect.pairing.code import PairingToken
from s2connect.pairing.rate_limiter import Turn
from s2connect.pairing.server_core import ATTEMPT_LIFETIME, Commit, Queued
from tests.pairing.pairing_fixtures import (
    OTHER_TOKEN,
    SERVER_ID,
    TOKEN,
    Attempt,
    PairingSetup,
    answered,
    endpoint,
    request,
)

SUCCESS = b'{"success": true}'
STATUSES = {200, 204, 400, 401, 403, 503}


class PairingServerMachine(RuleBasedStateMachine):
    queued: Bundle[Any] = Bundle("queued")
    attempts: Bundle[Any] = Bundle("attempts")
    commits: Bundle[Any] = Bundle("commits")

    @initialize(role=st.sampled_from(list(Role)))
    def begin(self, role: Role) -> None:
        self.role = role
        self.setup = PairingSetup(endpoint(role, Deployment.LAN), token=None)
        self.open: list[Queued] = []
        self.arrived: dict[Turn, float] = {}
        self.issued_at: dict[str, float] = {}
        self.storing: list[Commit] = []
        self.stored: set[str] = set()
        self.codes_issued = 0

    @rule(lifetime=st.sampled_from([2.0, 300.0]))
    def issue_a_code(self, lifetime: float) -> None:
        own = next(iter(self.setup.own.nodes.values()))
        self.setup.server.tokens(own.id).issue(PairingToken(TOKEN), now=self.setup.now, lifetime=lifetime)
        self.codes_issued += 1

    @rule()
    def withdraw_the_code(self) -> None:
        self.setup.server.tokens(SERVER_ID).withdraw()

    @rule(seconds=st.sampled_from([0.25, 1.0, 5.0, 14.0, 15.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.setup.now += seconds

    @rule()
    def let_the_clock_tick(self) -> None:
        self.setup.server.expire(now=self.setup.now)

    @rule(
        target=queued,
        number=st.integers(0, 3),
        ready=st.booleans() | st.just(True),
        same_role=st.just(False) | st.booleans(),
    )
    def request_pairing(self, number: int, ready: bool, same_role: bool) -> Any:
        role = self.role if same_role else self.role.other
        reply = self.setup.queue(request(number, role=role.value), ready=ready)
        if isinstance(reply, Queued):
            self.arrived[reply.turn] = self.setup.now
            self.open.append(reply)
            return reply
        assert reply.status in (400, 503)
        return multiple()

    @rule(target=attempts, queued=consumes(queued))
    def answer(self, queued: Queued) -> Any:
        self.open.remove(queued)
        reply = self.setup.answer(queued)
        assert self.setup.now >= self.arrived[queued.turn] + 1
        if reply.status != 200:
            assert answered(reply)["errorMessage"] == "NoValidPairingTokenOnPairingServer"
            return multiple()
        attempt = Attempt(self.setup, answered(reply))
        first = self.issued_at.setdefault(attempt.id.reveal(), self.setup.now)
        assert self.setup.now < first + ATTEMPT_LIFETIME, "a repeat brought back an attempt that is over"
        return attempt

    @rule(queued=consumes(queued))
    def abandon(self, queued: Queued) -> None:
        self.open.remove(queued)
        self.setup.abandon(queued)

    def _check(self, attempt: Attempt, reply: Any) -> None:
        if self.setup.now >= self.issued_at[attempt.id.reveal()] + ATTEMPT_LIFETIME:
            assert reply == Reply(401)
        elif isinstance(reply, Reply):
            assert reply.status in STATUSES

    @rule(
        attempt=attempts,
        right=st.booleans() | st.just(True),
        branch=st.booleans() | st.none(),
        broken=st.just(False) | st.booleans(),
    )
    def exchange_details(self, attempt: Attempt, right: bool, branch: bool | None, broken: bool) -> None:
        token = TOKEN if right else OTHER_TOKEN
        serve = self.role is Role.CEM if branch is None else branch
        body = b"{}" if broken else None
        reply = attempt.request_details(token, body) if serve else attempt.post_details(token, body)
        self._check(attempt, reply)
        if not right and not broken:
            assert reply.status not in (200, 204)

    @rule(target=commits, attempt=attempts, body=st.sampled_from([SUCCESS] * 4 + [b'{"success": false}', b"{}", b"x"]))
    def finalize(self, attempt: Attempt, body: bytes) -> Any:
        reply = attempt.finalize(body)
        self._check(attempt, reply)
        if isinstance(reply, Commit):
            assert body == SUCCESS
            assert reply.attempt_id.reveal() not in self.stored, "a second pairing of one attempt"
            assert not self.storing, "a second pairing while the first one with this code is being stored"
            self.storing.append(reply)
            return reply
        return multiple()

    @rule(commit=consumes(commits))
    def the_pairing_is_stored(self, commit: Commit) -> None:
        self.storing.remove(commit)
        assert self.setup.server.committed(commit.attempt_id) == Reply(204)
        self.stored.add(commit.attempt_id.reveal())
        assert len(self.stored) <= self.codes_issued, "one code made two pairings"

    @rule(commit=consumes(commits))
    def the_disk_is_full(self, commit: Commit) -> None:
        self.storing.remove(commit)
        assert self.setup.server.commit_failed(commit.attempt_id) == Reply(500)

    @invariant()
    def what_is_in_flight_is_counted(self) -> None:
        if hasattr(self, "setup"):
            assert self.setup.in_flight >= len(self.open)
            assert len(self.setup.server._by_request) <= len(self.setup.server._attempts)

    @precondition(lambda self: self.setup.server.next_deadline() is not None)
    @rule()
    def wait_for_the_deadline(self) -> None:
        deadline = self.setup.server.next_deadline()
        assert deadline is not None
        self.setup.now = max(self.setup.now, deadline)
        self.setup.server.expire(now=self.setup.now)

    def teardown(self) -> None:
        if not hasattr(self, "setup"):
            return
        for queued in self.open:
            self.setup.abandon(queued)
        for commit in self.storing:
            self.setup.server.commit_failed(commit.attempt_id)
        self.setup.server.expire(now=self.setup.now + ATTEMPT_LIFETIME)
        assert self.setup.in_flight == 0
        assert self.setup.server.next_deadline() is None
        assert not self.setup.server._by_request


PairingServerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestPairingServerMachine = PairingServerMachine.TestCase
