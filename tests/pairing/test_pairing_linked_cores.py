"""Both cores of an attempt linked in memory, and a network between them that loses, repeats, spoils and delays."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from s2connect.errors import (
    NetworkError,
    PairingExpired,
    PairingRefused,
    PeerBusy,
    PeerTimeout,
    S2ConnectError,
    WrongPairingCode,
)
from s2connect.model.common import Deployment, Role
from s2connect.model.local import LocalEndpoint
from s2connect.model.reply import Reply
from s2connect.model.roles import CommunicationRole
from s2connect.model.url import BaseUrl
from s2connect.pairing.client_core import Agreed, PairingClientAttempt, ServerProof, Step, refused
from s2connect.pairing.code import PairingCode, PairingToken
from s2connect.pairing.interface import AttemptFailed
from s2connect.pairing.server_core import Commit, PairingServer
from s2connect.store.base import Pin
from tests.pairing.pairing_fixtures import CA, OTHER_TOKEN, SESSION_URL, TOKEN, F, claim_at_once, endpoint

LAN, WAN = Deployment.LAN, Deployment.WAN
CLIENT_URL = BaseUrl("https://client.example/session/")
D = b"server.example"
OPERATIONS = ("requestPairing", "details", "finalizePairing")


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of ROLE-02, from the side of the pairing client, and the formula its server's TLS asks for."""

    role: Role
    own: Deployment
    peer: Deployment

    @property
    def in_wan(self) -> bool:
        return self.peer is WAN

    @property
    def client_role(self) -> CommunicationRole:
        serves = self.own is WAN if self.own is not self.peer else self.role is Role.CEM
        return CommunicationRole.SERVER if serves else CommunicationRole.CLIENT


ROWS = [Row(role, own, peer) for role in Role for own in Deployment for peer in Deployment]


@dataclasses.dataclass(frozen=True)
class Fault:
    """Fault of one message: step 0 to 2, on its way there or back."""

    step: int
    back: bool
    kind: str
    place: int = 0


FAULTS = st.builds(
    Fault,
    step=st.integers(0, 2),
    back=st.booleans(),
    kind=st.sampled_from(["drop", "repeat", "corrupt", "late"]),
    place=st.integers(0, 20_000),
)


class Wire:
    """Carries requests of one client to one server; the clock moves with every message."""

    def __init__(self, row: Row, faults: list[Fault]) -> None:
        self.faults = list(faults)
        self.now = 1000.0
        self.binding = D if row.in_wan else F
        self.own: LocalEndpoint = endpoint(row.role.other, row.peer)
        self.server = PairingServer(lambda: self.own, session_url=lambda: SESSION_URL)
        self.token = PairingToken(TOKEN)
        self.server.tokens(next(iter(self.own.nodes.values())).id).issue(self.token, now=self.now)
        self.paired: list[Commit] = []
        self._drawn = 0

    def _entropy(self) -> bytes:
        self._drawn += 1
        return hashlib.shake_256(b"server%d" % self._drawn).digest(64)

    def _pass(self, number: int, back: bool, data: bytes) -> bytes | None:
        """The message as it arrives, or None."""
        self.now += 0.01
        for fault in [f for f in self.faults if (f.step, f.back) == (number, back)]:
            self.faults.remove(fault)
            if fault.kind == "drop":
                return None
            if fault.kind == "late":
                self.now += 16
            elif fault.kind == "corrupt" and data:
                place = fault.place % len(data)
                data = data[:place] + bytes([data[place] ^ (1 << fault.place % 7)]) + data[place + 1 :]
        return data

    def exchange(self, number: int, step: Step, attempt: PairingClientAttempt) -> tuple[int, bytes]:
        """Send a request; it is sent once more, as it was, where the answer does not come."""
        for _ in range(2):
            repeats = 1 + sum(f.kind == "repeat" and f.step == number and not f.back for f in self.faults)
            arrived = self._pass(number, False, step.body.to_json())
            if arrived is not None:
                reply = [self._serve(step.operation, arrived, attempt) for _ in range(repeats)][-1]
                back = self._pass(number, True, reply.body.to_json() if reply.body else b"")
                if back is not None:
                    if reply.status >= 500:
                        raise PeerBusy("busy", status=reply.status)
                    return reply.status, back
            self.now += 3
        raise PeerTimeout("no answer")

    def _serve(self, operation: str, body: bytes, attempt: PairingClientAttempt) -> Reply:
        server, key = self.server, attempt.attempt_id
        if operation == "requestPairing":
            queued = server.request_pairing(body, binding=self.binding, address="::1", ready=True, now=self.now)
            if isinstance(queued, Reply):
                return queued
            while (at := server.wait(queued, now=self.now)) is not None:
                assert isinstance(at, float)
                self.now = at
            answer = server.answer(queued, now=self.now, entropy=self._entropy())
            if isinstance(answer, Reply):
                return answer
            free = claim_at_once(server.proofs, answer.sent, answer.expected, now=self.now)
            return server.claimed(answer, free=free, now=self.now)
        assert key is not None
        if operation == "requestConnectionDetails":
            return server.request_connection_details(key, body, now=self.now, entropy=self._entropy())
        if operation == "postConnectionDetails":
            return server.post_connection_details(key, body, now=self.now)
        assert operation == "finalizePairing"
        decision = server.finalize(key, body, now=self.now, wall_time=self.now)
        if isinstance(decision, Commit):
            self.paired.append(decision)
            return server.committed(decision.attempt_id)
        return decision


def run(row: Row, code: str, faults: list[Fault]) -> tuple[Wire, Agreed | S2ConnectError]:
    """One attempt from beginning to end, with what it came to on both sides."""
    wire = Wire(row, faults)
    local = endpoint(row.role, row.own)
    proof = ServerProof(wire.binding, None if row.in_wan else Pin(CA))
    attempt = PairingClientAttempt(
        local,
        next(iter(local.nodes.values())),
        PairingCode.parse(code),
        proof,
        entropy=bytes(range(100, 164)),
        session_url=CLIENT_URL,
        ca_fingerprint=CA if row.own is LAN else None,
    )
    try:
        return wire, _drive(wire, attempt)
    except S2ConnectError as error:
        if attempt.owes_refusal:
            reply = wire._serve(attempt.refusal.operation, attempt.refusal.body.to_json(), attempt)
            assert reply.status in (204, 400, 401), reply
        return wire, error


def _drive(wire: Wire, attempt: PairingClientAttempt) -> Agreed:
    status, body = wire.exchange(0, attempt.request(), attempt)
    if status == 400:
        raise refused(body)
    assert status == 200
    step = attempt.on_answer(body, now=wire.now)
    status, body = wire.exchange(1, step, attempt)
    agreed = attempt.on_details(status, body, now=wire.now, wall_time=wire.now)
    status, _ = wire.exchange(2, agreed.finalize, attempt)
    attempt.on_finalized(status)
    return agreed


def _leaves_nothing(wire: Wire) -> None:
    wire.server.expire(now=wire.now + 15)
    assert wire.server._in_flight.total() == 0
    assert wire.server.next_deadline() is None
    assert not wire.server._by_request


@pytest.mark.rule("ROLE-02", "HMAC-02", "PAIR-05", "PAIRC-05", "PAIR-09")
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_every_row_of_the_table_pairs_with_the_right_code(row: Row) -> None:
    wire, agreed = run(row, TOKEN, [])
    assert isinstance(agreed, Agreed)
    (commit,) = wire.paired
    assert commit.token == agreed.token
    assert agreed.pairing.communication_role is row.client_role
    assert commit.pairing.communication_role is not row.client_role
    assert (commit.pairing.key.local, commit.pairing.key.remote) == (
        agreed.pairing.key.remote,
        agreed.pairing.key.local,
    )
    client_side, server_side = agreed.pairing, commit.pairing
    reaches = client_side if row.client_role is CommunicationRole.CLIENT else server_side
    waits = server_side if reaches is client_side else client_side
    assert reaches.initiate_session_url == (SESSION_URL if reaches is client_side else CLIENT_URL)
    assert (waits.initiate_session_url, waits.pin) == (None, None)
    server_of_sessions = row.peer if reaches is client_side else row.own
    assert (reaches.pin is not None) == (server_of_sessions is LAN)
    assert wire.server.events == []
    _leaves_nothing(wire)


@pytest.mark.rule("PAIR-06", "PAIRC-02", "HMAC-04")
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_no_row_of_the_table_pairs_with_another_code(row: Row) -> None:
    wire, error = run(row, OTHER_TOKEN, [])
    assert isinstance(error, WrongPairingCode)
    assert wire.paired == []
    assert [e.reason for e in wire.server.events if isinstance(e, AttemptFailed)] == ["refused_by_client"]
    _leaves_nothing(wire)


@pytest.mark.rule("PAIR-07")
@pytest.mark.parametrize("row", ROWS, ids=str)
@pytest.mark.parametrize("step", range(3))
@pytest.mark.parametrize("fault", ["drop", "drop back", "repeat"])
def test_what_is_lost_once_or_arrives_twice_does_not_matter(row: Row, step: int, fault: str) -> None:
    kind, _, back = fault.partition(" ")
    wire, agreed = run(row, TOKEN, [Fault(step, bool(back), kind, 1)])
    assert isinstance(agreed, Agreed), agreed
    (commit,) = wire.paired
    assert commit.token == agreed.token
    assert wire.server.events == []
    _leaves_nothing(wire)


@pytest.mark.rule("PAIR-04", "PAIRC-03")
@pytest.mark.parametrize("row", ROWS, ids=str)
@pytest.mark.parametrize(("step", "back"), [(0, True), (1, False), (1, True), (2, False)])
def test_what_comes_late_ends_the_attempt_on_both_sides(row: Row, step: int, back: bool) -> None:
    wire, error = run(row, TOKEN, [Fault(step, back, "late")])
    assert isinstance(error, PairingExpired)
    assert wire.paired == []
    assert [e.reason for e in wire.server.events if isinstance(e, AttemptFailed)] == ["expired"]
    _leaves_nothing(wire)


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(ROWS), st.booleans(), st.lists(FAULTS, max_size=3))
@example(ROWS[0], True, [Fault(2, True, "drop"), Fault(2, True, "drop")])
@example(ROWS[0], True, [Fault(2, True, "late")])
def test_whatever_the_network_does_only_the_right_code_pairs_and_nothing_is_left(
    row: Row, right: bool, faults: list[Fault]
) -> None:
    wire, outcome = run(row, TOKEN if right else OTHER_TOKEN, faults)
    assert len(wire.paired) <= 1
    if not right:
        assert wire.paired == []
        assert isinstance(outcome, S2ConnectError)
    if isinstance(outcome, Agreed):
        assert wire.paired, "the client believes in a pairing that the server does not have"
    elif wire.paired:
        # The one case that is left: the last answers were lost (PAIRC-06), or a spoilt request was a valid other one.
        assert isinstance(outcome, PeerTimeout | PairingExpired)
    else:
        assert isinstance(outcome, S2ConnectError)
    _leaves_nothing(wire)


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(ROWS), st.integers(0, 2), st.booleans(), st.integers(0, 20_000))
def test_one_spoilt_byte_is_a_reply_or_a_documented_error(row: Row, step: int, back: bool, place: int) -> None:
    wire, outcome = run(row, TOKEN, [Fault(step, back, "corrupt", place)])
    assert isinstance(outcome, Agreed | S2ConnectError)
    assert not isinstance(outcome, NetworkError)
    if isinstance(outcome, PairingRefused):
        assert wire.paired == []
    _leaves_nothing(wire)


@pytest.mark.rule("TRUST-04", "HMAC-02")
@pytest.mark.parametrize("row", [r for r in ROWS if not r.in_wan], ids=str)
def test_somebody_between_the_two_with_a_certificate_of_his_own_pairs_with_neither(row: Row) -> None:
    """He relays every message unchanged; the client has seen his leaf, the server its own."""
    wire = Wire(row, [])
    local = endpoint(row.role, row.own)
    seen = ServerProof(hashlib.sha256(b"the leaf of the one between").digest(), Pin(CA))
    attempt = PairingClientAttempt(
        local,
        next(iter(local.nodes.values())),
        PairingCode.parse(TOKEN),
        seen,
        entropy=bytes(range(64)),
        session_url=CLIENT_URL,
        ca_fingerprint=CA if row.own is LAN else None,
    )
    with pytest.raises(WrongPairingCode):
        _drive(wire, attempt)
    assert wire.paired == []
