"""The admission of connections, without sockets (SEC-03)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2connect.https.admission import PATIENCE, Admission, ConnectionEntry, Limits, Refusal, Stage, reserve_of
from s2connect.https.overload import BEYOND_EVERY, MIN_LIMIT, MIN_QUEUE

pytestmark = pytest.mark.rule("SEC-03")

A, B, C = "192.0.2.1", "192.0.2.2", "192.0.2.3"


def taken(admission: Admission, network: str, *, now: float = 0.0, scarce: bool = False) -> ConnectionEntry:
    entry, victim = admission.admit(network, now=now, scarce=scarce)
    assert isinstance(entry, ConnectionEntry)
    assert victim is None
    return entry


def begun(admission: Admission, network: str, *, now: float = 0.0) -> ConnectionEntry:
    entry = taken(admission, network, now=now)
    admission.ready(entry, now=now)
    assert admission.next_handshake(now=now) == (entry, None)
    return entry


def test_a_silent_connection_makes_room_for_the_next_of_its_network_the_oldest_first() -> None:
    admission = Admission(Limits(connections=10, per_network=2))
    first, second, other = taken(admission, A), taken(admission, A, now=1), taken(admission, B)
    third, victim = admission.admit(A, now=1)
    assert (type(third), victim) == (ConnectionEntry, first)
    assert first.stage is Stage.GONE
    assert admission.admit(A, now=1)[1] is second
    assert other.stage is Stage.SILENT
    assert len(admission) == 3


def test_of_a_full_server_the_network_with_most_idle_connections_makes_room() -> None:
    admission = Admission(Limits(connections=4, per_network=3))
    taken(admission, B)
    first = taken(admission, A)
    taken(admission, A)
    taken(admission, A)
    assert admission.admit(C, now=0)[1] is first


def test_a_handshake_or_request_makes_room_only_after_a_while() -> None:
    admission = Admission(Limits(connections=10, per_network=2))
    handshake = begun(admission, A)
    idle = begun(admission, A)
    admission.idle(idle, now=0)
    assert admission.admit(A, now=PATIENCE / 2) == (Refusal.NETWORK, None)
    assert admission.admit(A, now=PATIENCE)[1] is handshake
    (newcomer,) = admission._networks[A].owing[Stage.SILENT]
    admission.busy(newcomer, now=PATIENCE)
    assert admission.admit(A, now=PATIENCE)[1] is idle


@pytest.mark.parametrize("stage", [Stage.READY, Stage.BUSY])
def test_a_peer_that_waits_for_us_is_not_put_out(stage: Stage) -> None:
    admission = Admission(Limits(connections=10, per_network=1))
    entry = taken(admission, A)
    if stage is Stage.READY:
        admission.ready(entry, now=0)
    else:
        admission.busy(entry, now=0)
    assert admission.admit(A, now=1000) == (Refusal.NETWORK, None)


def test_a_session_counts_against_nobody() -> None:
    admission = Admission(Limits(connections=1, per_network=1))
    for _ in range(3):
        entry = taken(admission, A)
        admission.busy(entry, now=0)
        admission.leave(entry)
        admission.leave(entry)
        admission.idle(entry, now=0)
    assert len(admission) == 0


def test_short_descriptors_let_a_connection_in_only_for_another() -> None:
    admission = Admission(Limits())
    assert admission.admit(A, now=0, scarce=True) == (Refusal.DESCRIPTORS, None)
    first = taken(admission, B)
    assert admission.admit(A, now=0, scarce=True)[1] is first


def test_handshakes_take_turns_by_network_and_are_bounded() -> None:
    admission = Admission(Limits(handshakes=4))
    entries = [taken(admission, A), taken(admission, A), taken(admission, A), taken(admission, B)]
    for entry in entries:
        admission.ready(entry, now=0)
    assert [admission.next_handshake(now=0)[0] for _ in range(4)] == [entries[0], entries[3], entries[1], None]
    assert admission.waiting
    assert admission.next_handshake(now=PATIENCE) == (entries[2], entries[0]), "a stalled one of its own makes room"
    assert admission.next_handshake(now=PATIENCE) == (None, None)
    assert not admission.waiting


def test_stalled_handshakes_hold_up_their_own_network_and_no_other() -> None:
    admission = Admission(Limits())
    crowd = [taken(admission, A if number % 2 else B) for number in range(MIN_QUEUE)]
    for entry in crowd:
        admission.ready(entry, now=0.0)
    while admission.next_handshake(now=0.0)[0] is not None:
        pass
    assert admission.waiting, "the others of A and B have to wait"
    honest = taken(admission, C)
    admission.ready(honest, now=0.0)
    assert admission.next_handshake(now=BEYOND_EVERY) == (honest, None)


def test_of_many_networks_as_many_begin_as_may_and_a_few_a_second_more() -> None:
    admission = Admission(Limits())
    for number in range(MIN_QUEUE):
        admission.ready(taken(admission, f"198.51.100.{number}"), now=0.0)
    begun = [admission.next_handshake(now=0.0)[0] for _ in range(MIN_QUEUE)]
    assert sum(entry is not None for entry in begun) == MIN_LIMIT + 1
    assert admission.next_handshake(now=BEYOND_EVERY / 2) == (None, None)
    assert admission.next_handshake(now=BEYOND_EVERY)[0] is not None


def test_who_left_while_it_waited_gets_no_turn() -> None:
    admission = Admission(Limits())
    gone, stays = taken(admission, A), taken(admission, A)
    admission.ready(gone, now=0)
    admission.ready(stays, now=0)
    admission.leave(gone)
    assert admission.next_handshake(now=0)[0] is stays


@pytest.mark.parametrize(
    ("descriptors", "reserve", "connections", "per_network"),
    [(256, 32, 128, 64), (1024, 128, 512, 256), (4096, 512, 2048, 1024), (1 << 20, 1024, 8192, 1024)],
)
def test_the_limits_fit_the_descriptors(descriptors: int, reserve: int, connections: int, per_network: int) -> None:
    limits = Limits.for_descriptors(descriptors)
    assert (reserve_of(descriptors), limits.connections, limits.per_network) == (reserve, connections, per_network)


STEP = st.tuples(
    st.sampled_from(["admit", "scarce", "ready", "turn", "idle", "busy", "leave"]),
    st.sampled_from([A, B, C]),
    st.integers(0, 30),
    st.sampled_from([0.0, 0.1, 2.0]),
)


@given(st.lists(STEP, max_size=120))
def test_whatever_happens_the_counts_are_right_and_within_their_bounds(
    steps: list[tuple[str, str, int, float]],
) -> None:
    admission = Admission(Limits(connections=7, per_network=4, handshakes=2))
    present: list[ConnectionEntry] = []
    now = 0.0
    for what, network, which, wait in steps:
        now += wait
        entry = present[which % len(present)] if present else None
        if what in {"admit", "scarce"}:
            admitted, victim = admission.admit(network, now=now, scarce=what == "scarce")
            if victim is not None:
                present.remove(victim)
            if isinstance(admitted, ConnectionEntry):
                present.append(admitted)
            else:
                assert victim is None
        elif what == "turn":
            begins, victim = admission.next_handshake(now=now)
            if victim is not None:
                present.remove(victim)
            assert begins is None or begins.stage is Stage.HANDSHAKE
        elif entry is not None and what == "leave":
            admission.leave(entry)
            present.remove(entry)
        elif entry is not None and what == "ready" and entry.stage is Stage.SILENT:
            admission.ready(entry, now=now)
        elif entry is not None and what == "idle" and entry.stage in {Stage.HANDSHAKE, Stage.BUSY}:
            admission.idle(entry, now=now)
        elif entry is not None and what == "busy" and entry.stage is Stage.IDLE:
            admission.busy(entry, now=now)
        assert len(admission) == len(present) <= 7
        for each in (A, B, C):
            mine = [entry for entry in present if entry.network == each]
            assert len(mine) <= 4
            owing = [entry for entry in mine if entry.stage not in {Stage.READY, Stage.BUSY}]
            counted = admission._networks[each].owed() if each in admission._networks else 0
            assert counted == len(owing)
        assert sum(entry.stage is Stage.HANDSHAKE for entry in present) == len(admission._handshakes) <= 2
    for entry in present:
        admission.leave(entry)
    assert len(admission) == 0
    assert not admission._networks
    assert admission.next_handshake(now=now) == (None, None)
