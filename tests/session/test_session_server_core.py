"""The communication server's side of session initiation (SES)."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from s2connect.model.reply import Reply
from s2connect.model.roles import CommunicationRole
from s2connect.model.secret import AccessToken
from s2connect.model.session_init import Unpair
from s2connect.session import server_core
from s2connect.session.server_core import (
    CLOCK_IS_SET_FROM,
    MAX_PENDING_PER_PAIR,
    Accepted,
    Activation,
    Record,
    SessionServer,
    authorised,
    key_of,
    read_request,
)
from s2connect.store.base import PairKey
from tests.session.session_fixtures import (
    CLIENT_ID,
    PAIRED_AT,
    SERVER_ID,
    ServerDriver,
    digest,
    initiate,
    key,
    paired,
    pairing,
    said,
    token,
    without_node,
)

CLIENT = CommunicationRole.CLIENT


# initiateSession


@pytest.mark.rule("SES-01", "SEC-04")
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"[]",
        b"{}",
        initiate(clientNodeId="1"),
        initiate(serverNodeId=None),
        initiate(supportedS2MessageVersions="v1.0.0"),
        initiate(supportedCommunicationProtocols=None),
        initiate(clientNodeDescription={"brand": "x"}),
        initiate()[:-1] + b', "clientNodeId": "1"}',
    ],
    ids=lambda body: repr(body[-24:]),
)
def test_a_malformed_request_is_a_parsing_error_whoever_sends_it(body: bytes) -> None:
    reply = ServerDriver().initiate(body, None, Record())
    assert isinstance(reply, Reply)
    assert reply.status == 400
    assert said(reply)["errorMessage"] == "ParsingError"


# Each line mends one fault of the line before; the first fault that is left decides.
ORDER: list[tuple[str | int, dict[str, Any]]] = [
    ("ParsingError", {}),
    ("NoLongerPaired", {"serverNodeId": str(SERVER_ID)}),
    (401, {"record": paired()}),
    ("IncompatibleCommunicationProtocols", {"token": token("active")}),
    ("IncompatibleS2MessageVersions", {"supportedCommunicationProtocols": ["QUIC", "WebSocket"]}),
    (200, {"supportedS2MessageVersions": ["v9", "1.0.0"]}),
]


@pytest.mark.rule("SES-01")
@pytest.mark.parametrize("mended", range(len(ORDER)))
def test_the_checks_come_in_the_order_of_the_rule(mended: int) -> None:
    faulty: dict[str, Any] = {
        "serverNodeId": "no id",
        "record": Record(unpaired=True),
        "token": token("wrong"),
        "supportedCommunicationProtocols": ["QUIC"],
        "supportedS2MessageVersions": ["v9"],
    }
    for _, change in ORDER[: mended + 1]:
        faulty |= change
    record, presented = faulty.pop("record"), faulty.pop("token")
    decision = ServerDriver().initiate(initiate(**faulty), presented, record)
    expected = ORDER[mended][0]
    if expected == 200:
        assert isinstance(decision, Accepted)
        assert (decision.protocol, decision.s2_version) == ("WebSocket", "1.0.0")
    elif expected == 401:
        assert decision == Reply(401)
    else:
        assert isinstance(decision, Reply)
        assert decision.status == 400
        assert said(decision)["errorMessage"] == expected


@pytest.mark.rule("SES-01")
@pytest.mark.parametrize(
    ("presented", "record"),
    [
        (None, paired()),
        (token("wrong"), paired()),
        (token("active"), Record()),
        (token("active"), Record(confirmed=(pairing(), None))),
        (token("active"), Record(confirmed=(pairing(role=CLIENT), digest("active")))),
        (token("wrong"), Record(confirmed=(pairing(), digest("active")), unpaired=True)),
    ],
    ids=["no token", "wrong token", "not paired", "no active token", "we are client", "paired again, wrong token"],
)
def test_who_is_not_paired_or_has_another_token_is_401(presented: AccessToken | None, record: Record) -> None:
    assert ServerDriver().initiate(initiate(), presented, record) == Reply(401)


@pytest.mark.rule("SES-01")
def test_a_node_that_is_not_ours_is_401() -> None:
    driver = ServerDriver()
    driver.own = without_node(driver.own)
    assert driver.initiate(initiate(), token("active"), paired()) == Reply(401)


@pytest.mark.rule("SES-01", "UNP-02")
@pytest.mark.parametrize("presented", [None, token("active")])
def test_an_unpaired_pair_is_told_so_whatever_it_presents(presented: AccessToken | None) -> None:
    reply = ServerDriver().initiate(initiate(), presented, Record(unpaired=True))
    assert said(reply)["errorMessage"] == "NoLongerPaired"


@pytest.mark.rule("SES-01", "PAIRC-06")
def test_a_pair_that_is_pairing_again_is_checked_by_its_unconfirmed_pairing() -> None:
    record = Record(unconfirmed=(pairing(confirmed=False), digest("new")), unpaired=True)
    assert isinstance(ServerDriver().initiate(initiate(), token("new"), record), Accepted)
    # It may be the one that comes right: no reason to remove anything for good.
    assert ServerDriver().initiate(initiate(), token("wrong"), record) == Reply(401)


@pytest.mark.rule("SES-01")
def test_a_pair_that_paired_again_is_no_longer_unpaired() -> None:
    record = Record(confirmed=(pairing(), digest("active")), unpaired=True)
    assert isinstance(ServerDriver().initiate(initiate(), token("active"), record), Accepted)


@pytest.mark.rule("SES-02", "VER-06")
@pytest.mark.parametrize(
    ("own", "offered", "chosen"),
    [
        (("v1.0.0",), ["1.0.0"], "1.0.0"),
        (("v1.0.0", "0.0.2-beta"), ["v0.0.2-beta", "v1.0.0"], "v1.0.0"),
        (("0.0.2-beta", "v1.0.0"), ["v0.0.2-beta", "v1.0.0"], "v0.0.2-beta"),
    ],
)
def test_the_version_is_ours_by_preference_and_the_peers_in_spelling(
    own: tuple[str, ...], offered: list[str], chosen: str
) -> None:
    accepted = ServerDriver(s2_versions=own).initiate(
        initiate(supportedS2MessageVersions=offered), token("active"), paired()
    )
    assert isinstance(accepted, Accepted)
    assert accepted.s2_version == chosen


# Unconfirmed pairings


@pytest.mark.rule("PAIRC-06")
@pytest.mark.parametrize(("after", "counts"), [(0.0, True), (14.9, True), (15.0, True), (15.1, False), (1e6, False)])
def test_the_token_of_an_unconfirmed_pairing_counts_for_15_seconds(after: float, counts: bool) -> None:
    record = Record(unconfirmed=(pairing(confirmed=False), digest("first")))
    decision = ServerDriver().initiate(initiate(), token("first"), record, wall_time=PAIRED_AT + after)
    if counts:
        assert isinstance(decision, Accepted)
        assert not decision.pairing.confirmed
    else:
        assert decision == Reply(401)


@pytest.mark.rule("PAIRC-06")
def test_beside_an_unconfirmed_pairing_the_confirmed_one_still_counts() -> None:
    record = Record((pairing(), digest("old")), (pairing(confirmed=False), digest("new")))
    for wall_time in (PAIRED_AT, PAIRED_AT + 100):
        old = authorised(record, token("old"), wall_time=wall_time)
        assert old is not None
        assert old.confirmed
    new = authorised(record, token("new"), wall_time=PAIRED_AT)
    assert new is not None
    assert not new.confirmed
    assert authorised(record, token("new"), wall_time=PAIRED_AT + 100) is None
    assert authorised(record, token("else"), wall_time=PAIRED_AT) is None
    assert authorised(record, None, wall_time=PAIRED_AT) is None


@pytest.mark.rule("PAIRC-06")
def test_an_unconfirmed_pairing_in_which_we_are_client_opens_nothing() -> None:
    record = Record(unconfirmed=(pairing(role=CLIENT, confirmed=False), digest("first")))
    assert authorised(record, token("first"), wall_time=PAIRED_AT) is None


# The pending token


@pytest.mark.rule("SES-02", "SES-06")
def test_the_answer_selects_and_carries_a_new_token_of_32_bytes() -> None:
    driver = ServerDriver()
    reply = driver.issue()
    assert reply.status == 200
    answer = said(reply)
    assert answer["selectedCommunicationProtocol"] == "WebSocket"
    assert answer["selectedS2MessageVersion"] == "v1.0.0"
    assert answer["serverNodeDescription"]["id"] == str(SERVER_ID)
    assert answer["serverEndpointDescription"] == {"name": "server"}
    assert len(base64.b64decode(answer["accessToken"])) == 32
    assert answer["accessToken"] not in repr(reply)
    held = repr(vars(driver.server))
    assert answer["accessToken"] not in held, "the server keeps digests only"


@pytest.mark.rule("SES-02")
def test_every_answer_carries_another_token_and_the_old_one_stays_valid() -> None:
    driver = ServerDriver()
    tokens = {driver.pending().reveal() for _ in range(3)}
    assert len(tokens) == 3
    assert isinstance(driver.initiate(initiate(), token("active"), paired()), Accepted)


@pytest.mark.rule("SES-03")
@pytest.mark.parametrize(("after", "counts"), [(0.0, True), (14.999, True), (15.0, False), (60.0, False)])
def test_a_pending_token_is_confirmed_within_15_seconds(after: float, counts: bool) -> None:
    driver = ServerDriver()
    pending = driver.pending()
    decision = driver.server.confirm(pending, now=driver.now + after)
    if not counts:
        assert decision == Reply(401)
        return
    assert isinstance(decision, Activation)
    assert (decision.pairing.key, decision.protocol, decision.s2_version) == (key(), "WebSocket", "v1.0.0")
    assert decision.digest == hashlib.sha256(pending.reveal().encode()).digest()


@pytest.mark.rule("SES-03")
def test_what_is_no_pending_token_is_401() -> None:
    driver = ServerDriver()
    driver.pending()
    for presented in (None, token("active"), token("wrong")):
        assert driver.server.confirm(presented, now=driver.now) == Reply(401)


@pytest.mark.rule("SES-03")
def test_activating_one_token_voids_every_other_pending_one_of_the_pair_only() -> None:
    driver = ServerDriver()
    mine, other = [driver.pending() for _ in range(3)], driver.pending(1)
    decision = driver.server.confirm(mine[1], now=driver.now)
    assert isinstance(decision, Activation)
    driver.server.forget(decision.pairing.key)
    assert [driver.server.confirm(t, now=driver.now) for t in mine] == [Reply(401)] * 3
    assert isinstance(driver.server.confirm(other, now=driver.now), Activation)


@pytest.mark.rule("SES-03")
def test_a_token_whose_activation_failed_may_be_confirmed_again() -> None:
    driver = ServerDriver()
    pending = driver.pending()
    first = driver.server.confirm(pending, now=driver.now)
    assert isinstance(first, Activation)
    assert driver.server.confirm(pending, now=driver.now + 14) == first


@pytest.mark.rule("SES-05", "UNP-02")
def test_unpairing_voids_the_pending_tokens() -> None:
    driver = ServerDriver()
    pending = driver.pending()
    driver.server.forget(key())
    driver.server.forget(key(5))
    assert driver.server.confirm(pending, now=driver.now) == Reply(401)


@pytest.mark.rule("SEC-03")
def test_a_pair_has_eight_pending_tokens_and_the_oldest_goes_first() -> None:
    driver = ServerDriver()
    other = driver.pending(1)
    tokens = [driver.pending() for _ in range(MAX_PENDING_PER_PAIR + 2)]
    alive = [isinstance(driver.server.confirm(t, now=driver.now), Activation) for t in tokens]
    assert alive == [False, False] + [True] * MAX_PENDING_PER_PAIR
    assert isinstance(driver.server.confirm(other, now=driver.now), Activation)


@pytest.mark.rule("SEC-03")
def test_pending_tokens_are_bounded_in_all_and_time_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_core, "MAX_PENDING", 3)
    driver = ServerDriver()
    for number in range(3):
        assert driver.issue(number).status == 200
    for number in range(100):
        assert driver.issue(number + 3) == Reply(503)
    assert len(driver.server._pending) == 3
    assert len(driver.server._by_pair) == 3, "refused pairs leave nothing behind"
    driver.now += 15
    assert driver.issue(3).status == 200
    assert len(driver.server._pending) == len(driver.server._by_pair) == 1


# unpair


YEAR = 365 * 86_400.0
NOW = 1_900_000_000.0  # 2030


@pytest.mark.rule("SES-07")
@pytest.mark.parametrize(
    ("issued_at", "counts"),
    [
        (NOW, True),
        (NOW - 4.99 * YEAR, True),
        (NOW - 5 * YEAR, True),
        (NOW - 5 * YEAR - 1, False),
        (NOW + YEAR, True),
        (None, True),
        (0.0, True),
        (CLOCK_IS_SET_FROM - 1, True),
    ],
    ids=["new", "old", "just", "too old", "the clock was ahead", "not known", "the clock was not set", "nor here"],
)
def test_an_access_token_counts_for_five_years(issued_at: float | None, counts: bool) -> None:
    record = Record(confirmed=(pairing(), digest("active")), issued_at=issued_at)
    found = authorised(record, token("active"), wall_time=NOW)
    assert (found is not None) == counts
    reply = ServerDriver().initiate(initiate(), token("active"), record, wall_time=NOW)
    assert (reply == Reply(401)) is not counts


@pytest.mark.rule("SES-05")
def test_unpair_names_the_pair() -> None:
    body = json.dumps({"clientNodeId": str(CLIENT_ID), "serverNodeId": str(SERVER_ID)}).encode()
    request = read_request(Unpair, body)
    assert isinstance(request, Unpair)
    assert key_of(request) == PairKey(SERVER_ID, CLIENT_ID)
    for bad in (b"", b"{}", b"[]", b'{"clientNodeId": "1", "serverNodeId": "2"}'):
        reply = read_request(Unpair, bad)
        assert isinstance(reply, Reply)
        assert reply.status == 400


class SessionServerMachine(RuleBasedStateMachine):
    """Any order of requests, at any times, of a few pairs."""

    pendings: Bundle[Any] = Bundle("pendings")

    @initialize()
    def begin(self) -> None:
        self.driver = ServerDriver()
        self.alive: dict[int, list[tuple[str, float]]] = {}

    @rule(target=pendings, number=st.integers(0, 2))
    def issue(self, number: int) -> Any:
        pending = self.driver.pending(number)
        mine = self.alive.setdefault(number, [])
        mine[:] = [(t, at) for t, at in mine if at > self.driver.now]
        mine.append((pending.reveal(), self.driver.now + 15))
        del mine[:-MAX_PENDING_PER_PAIR]
        return number, pending

    @rule(seconds=st.sampled_from([0.5, 7.5, 15.0]))
    def wait(self, seconds: float) -> None:
        self.driver.now += seconds

    @rule(entry=pendings, store=st.booleans())
    def confirm(self, entry: tuple[int, AccessToken], store: bool) -> None:
        number, pending = entry
        alive = any(t == pending.reveal() and at > self.driver.now for t, at in self.alive.get(number, []))
        decision = self.driver.server.confirm(pending, now=self.driver.now)
        assert isinstance(decision, Activation) == alive
        if isinstance(decision, Activation):
            assert decision.pairing.key == key(number)
            if store:
                self.driver.server.forget(decision.pairing.key)
                self.alive.pop(number)

    @rule(number=st.integers(0, 3))
    def unpair(self, number: int) -> None:
        self.driver.server.forget(key(number))
        self.alive.pop(number, None)

    @invariant()
    def the_two_tables_agree(self) -> None:
        if hasattr(self, "desk"):
            server: SessionServer = self.driver.server
            listed = [d for mine in server._by_pair.values() for d in mine]
            assert sorted(listed) == sorted(server._pending)
            assert all(server._by_pair.values())

    def teardown(self) -> None:
        if hasattr(self, "desk"):
            self.driver.server.expire(now=self.driver.now + 15)
            assert not self.driver.server._pending
            assert not self.driver.server._by_pair


SessionServerMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestSessionServerMachine = SessionServerMachine.TestCase


# Older copies


def test_a_paired_client_with_another_token_is_told_from_a_stranger() -> None:
    found = server_core.with_unknown_token
    assert found(paired("active"), token("older")) == (pairing(), digest("active"))
    assert found(paired("active"), token("active")) is None
    assert found(paired("active"), None) is None, "a stranger who knows both ids, and no token"
    assert found(Record(), token("older")) is None
    assert found(Record(confirmed=(pairing(role=CLIENT), None)), token("older")) is None
    assert found(Record(unconfirmed=(pairing(confirmed=False), digest("active"))), token("older")) is None


@pytest.mark.parametrize(
    ("connected_before", "words"), [(False, "this home may be an older copy"), (True, "a second copy of its state")]
)
def test_the_sentence_says_whose_copy_it_can_be(connected_before: bool, words: str) -> None:
    assert words in server_core.unknown_token_sentence("Battery", connected_before=connected_before)
