"""States and sentences of pairings and links: by tables."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from s2connect.bridge.link_state import LinkState
from s2connect.bridge.sides import Initiator
from s2connect.events import Unpaired, UnpairedBy
from s2connect.model.common import NodeDescription, NodeId, Role
from s2connect.web import advice
from s2connect.web.codes import CODES
from s2connect.web.facts import CodeState, PeerState
from s2connect.web.peer_facts import state_of
from s2connect.web.warnings import MAX_WARNINGS, Warnings

PEER, BRIDGE = Initiator.PEER, Initiator.BRIDGE
NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ({"connected": True}, PeerState.CONNECTED),
        ({"connected": True, "silent": True}, PeerState.SILENT),
        ({"connected": True, "refused": True}, PeerState.CONNECTED),
        ({"connected": True, "elsewhere": True}, PeerState.CONNECTED),
        ({"elsewhere": True, "taken": False}, PeerState.ELSEWHERE),
        ({"confirmed": False}, PeerState.UNCONFIRMED),
        ({"taken": False}, PeerState.IDLE),
        ({"client": False}, PeerState.WAITING),
        ({}, PeerState.TRYING),
        ({"refused": True}, PeerState.REFUSED),
        ({"refused": True, "client": False}, PeerState.REFUSED),
    ],
)
def test_the_state_of_a_pairing(facts: dict[str, bool], state: PeerState) -> None:
    known = {
        "connected": False,
        "elsewhere": False,
        "silent": False,
        "confirmed": True,
        "client": True,
        "taken": True,
        "refused": False,
    }
    assert state_of(**(known | facts)) is state


@pytest.mark.parametrize("state", list(PeerState))
@pytest.mark.parametrize("role", list(Role))
def test_every_state_of_a_pairing_but_connected_says_which_side_is_missing_and_what_helps(
    state: PeerState, role: Role
) -> None:
    there = (PeerState.CONNECTED, PeerState.ELSEWHERE)
    missing, helps = advice.of_peer(state, role, "not_reachable", "Nobody answers.", 80.0)
    assert (missing == "") is (state in there)
    assert (helps == "") is (state in there)
    if state not in (*there, PeerState.IDLE):
        assert ("energy manager" in missing) is (role is Role.CEM)


OPENS = [dict(zip(Role, pair, strict=True)) for pair in itertools.product([PEER, BRIDGE, None], repeat=2)]


@pytest.mark.parametrize("state", list(LinkState))
@pytest.mark.parametrize("opens", OPENS)
@pytest.mark.parametrize("connected", [set(), {Role.RM}, {Role.CEM}, {Role.RM, Role.CEM}])
def test_every_state_of_a_link_but_up_says_which_side_is_missing(
    state: LinkState, opens: dict[Role, Initiator | None], connected: set[Role]
) -> None:
    missing, _ = advice.of_link(state, opens, connected, "", "bridge.toml")
    assert (missing == "") is (state is LinkState.UP)


@pytest.mark.parametrize(
    ("state", "rm", "cem", "missing"),
    [
        (LinkState.UNPAIRED, PEER, None, "The energy manager is not paired."),
        (LinkState.UNPAIRED, None, PEER, "The device is not paired."),
        (LinkState.UNPAIRED, None, None, "The device and the energy manager are not paired."),
        (
            LinkState.WAITING,
            PEER,
            BRIDGE,
            "The device is not connected, and has to connect to the bridge.",
        ),
        (LinkState.ADMITTING, PEER, BRIDGE, "The device has to connect now."),
        (LinkState.REACHING, PEER, BRIDGE, "The bridge connects to the energy manager."),
        (LinkState.FAILED, BRIDGE, BRIDGE, "The device and the energy manager are not connected. Last attempt: off"),
    ],
)
def test_which_side_of_a_link_is_missing(
    state: LinkState, rm: Initiator | None, cem: Initiator | None, missing: str
) -> None:
    reason = "off" if state is LinkState.FAILED else ""
    found, helps = advice.of_link(state, {Role.RM: rm, Role.CEM: cem}, set(), reason, "bridge.toml")
    assert found == missing
    if state is LinkState.UNPAIRED:
        assert "s2connect bridge pair bridge.toml" in helps


def test_a_code_that_cannot_be_used_says_how_to_get_another() -> None:
    for state in CodeState:
        valid = state in (CodeState.VALID, CodeState.STATIC)
        assert ("s2connect code" in CODES[state]) is not valid


@pytest.mark.parametrize("by", list(UnpairedBy))
@pytest.mark.parametrize("role", list(Role))
def test_a_pairing_that_has_ended_says_by_whom(by: UnpairedBy, role: Role) -> None:
    node = NodeId(uuid4())
    peer = NodeDescription(id=node, brand="b", type="t", model_name="m", role=role)
    sentence = Unpaired(node=node, peer=peer, by=by).sentence
    assert advice.NAMES[role] in sentence.lower()
    assert ("has ended" in sentence) is (by is UnpairedBy.PEER)


@pytest.mark.parametrize(
    ("days", "own_ca", "warned"),
    [(31, False, False), (31, True, False), (29, False, True), (29, True, True), (-1, True, True), (-1, False, True)],
)
def test_a_certificate_warns_a_person_who_has_to_act(days: float, own_ca: bool, warned: bool) -> None:
    assert bool(advice.of_certificate(days * 86_400, late=days < 30, own_ca=own_ca)) is warned


def test_a_warning_that_comes_again_is_counted_and_their_number_is_bounded() -> None:
    warnings = Warnings()
    for number in range(3 * MAX_WARNINGS):
        warnings.add("flood", f"{number}", NOW)
    warnings.add("clock", "It is wrong.", NOW)
    warnings.add("other", "x", NOW)
    warnings.add("clock", "It is wrong.", NOW + timedelta(hours=1))
    newest = list(warnings.newest_first())
    assert len(newest) == MAX_WARNINGS
    assert (newest[0].kind, newest[0].count, newest[0].at) == ("clock", 2, NOW + timedelta(hours=1))
    warnings.remove("clock")
    assert "clock" not in {one.kind for one in warnings.newest_first()}
