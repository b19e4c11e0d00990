from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2connect.errors import SessionRefused, UsageError
from s2connect.model.common import NodeId
from s2connect.transports.mqtt.channel import ClientChannel
from s2connect.transports.mqtt.details import MAX_VERSIONS, Protection
from s2connect.transports.mqtt.doors import MAX_UNCONFIRMED, Doors
from s2connect.transports.mqtt.frames import PLAIN_CONTROL, Packet
from s2connect.transports.mqtt.terms import Opened, SessionTerms
from tests.strategies import json_values
from tests.transports.mqtt_kit import (
    BOOT,
    CLIENT,
    MC,
    OTHER_TOKEN,
    SALT,
    SERVER,
    SID,
    SPACE,
    TOKEN,
    changed,
    static_session,
    terms,
)

OTHER = NodeId(UUID(int=7))


def _open(**changes: Any) -> Packet:
    client = ClientChannel(terms(**changes), token=TOKEN, boot=BOOT)
    client.start(0.0)
    (packet,) = client.packets()
    return packet


def _static_open(sid: str = SID, token: Any = TOKEN, **changes: Any) -> Packet:
    session = static_session(**{"secret": token, **changes})
    client = ClientChannel(SessionTerms.of_static(session, sid), token=token, boot=BOOT)
    client.start(0.0)
    return client.packets()[0]


def _with(packet: Packet, **members: Any) -> Packet:
    value = {**json.loads(packet.payload), **members}
    return changed(packet, payload=json.dumps({k: v for k, v in value.items() if v is not None}).encode())


def _doors() -> Doors:
    doors = Doors(SPACE)
    doors.offer(terms(mc=""), TOKEN, now=0.0)
    return doors


@pytest.mark.rule("MQ-11")
def test_the_client_of_an_offer_may_come_in_and_says_its_own_client_id() -> None:
    doors = _doors()
    channel = doors.receive(_open(mc="another"), now=1.0, salt=SALT)
    assert channel is not None
    assert channel.terms.mc == "another"
    assert "/another/" in channel.inbound_topic
    assert channel.start(1.0) == [Opened("v1.0.0")]


@pytest.mark.rule("MQ-02", "MQ-11")
def test_a_door_opens_once() -> None:
    doors = _doors()
    assert doors.receive(_open(), now=1.0, salt=SALT)
    assert doors.receive(_open(), now=1.0, salt=SALT) is None
    assert doors.ignored == {"unknown": 1}
    assert len(doors) == 0


@pytest.mark.rule("MQ-02")
def test_a_token_is_void_after_30_seconds() -> None:
    doors = _doors()
    assert doors.receive(_open(), now=30.0, salt=SALT) is None
    assert doors.ignored == {"unknown": 1}


@pytest.mark.rule("MQ-11")
@pytest.mark.parametrize(
    "members",
    [
        {"mc": "another"},
        {"boot": "another-boot"},
        {"client": str(OTHER)},
        {"proof": None},
        {"proof": ""},
        {"proof": "A" * 43 + "="},
        {"versions": ["1.0.0"]},
    ],
)
def test_an_open_with_a_wrong_proof_is_ignored_and_the_door_stays(members: dict[str, Any]) -> None:
    doors = _doors()
    assert doors.receive(_with(_open(), **members), now=1.0, salt=SALT) is None
    assert doors.ignored == {"proof": 1}
    assert doors.receive(_open(), now=1.0, salt=SALT)


@pytest.mark.rule("MQ-11")
@pytest.mark.parametrize(
    "members",
    [
        {"sid": None},
        {"sid": "short"},
        {"server": str(OTHER)},
        {"server": 7},
        {"client": "x"},
        {"mc": "a/b"},
        {"boot": "a|b"},
        {"proof": 7},
        {"proof": "=="},
        {"versions": []},
        {"versions": ["a|b"]},
        {"versions": [1]},
        {"versions": "1.0.0"},
        {"versions": ["1"] * (MAX_VERSIONS + 1)},
    ],
)
def test_an_open_that_cannot_be_read_is_ignored(members: dict[str, Any]) -> None:
    doors = _doors()
    assert doors.receive(_with(_open(), **members), now=1.0, salt=SALT) is None
    assert doors.ignored == {"malformed": 1}


@pytest.mark.rule("MQ-11")
@given(st.dictionaries(st.sampled_from(["sid", "client", "server", "mc", "boot", "proof", "versions"]), json_values))
def test_any_open_is_ignored_or_opens(value: dict[str, Any]) -> None:
    packet = Packet(SPACE.open(SERVER), json.dumps(value).encode(), PLAIN_CONTROL, (("s2-frame", "open"),))
    assert _doors().receive(packet, now=1.0, salt=SALT) is None


@pytest.mark.rule("MQ-11")
def test_only_open_frames_on_an_open_topic_are_read() -> None:
    doors = _doors()
    good = _open()
    for packet in (
        changed(good, topic=SPACE.presence(MC)),
        changed(good, topic="elsewhere"),
        changed(good, content_type="application/vnd.s2-sealed"),
        changed(good, user_properties=(("s2-frame", "ping"), ("s2-seq", "1"))),
    ):
        assert doors.receive(packet, now=1.0, salt=SALT) is None
    assert doors.ignored == {"malformed": 4}


@pytest.mark.rule("MQ-11")
def test_an_instance_that_does_not_know_the_session_ignores_the_open() -> None:
    assert Doors(SPACE).receive(_open(), now=1.0, salt=SALT) is None


def test_doors_are_bounded_and_can_be_withdrawn() -> None:
    doors = Doors(SPACE, limit=2)
    for number in range(2):
        doors.offer(terms(sid=f"session-id-0000{number}"), TOKEN, now=0.0)
    with pytest.raises(SessionRefused):
        doors.offer(terms(), TOKEN, now=0.0)
    doors.withdraw("session-id-00000")
    doors.withdraw("session-id-00000")
    doors.offer(terms(), TOKEN, now=0.0)
    doors.expire(30.0)
    assert len(doors) == 0


# Static mode


@pytest.mark.rule("MQ-19")
def test_a_configured_client_may_come_in_again_and_again_but_not_with_the_same_open() -> None:
    doors = Doors(SPACE)
    doors.add_static(static_session())
    assert doors.receive(_static_open(), now=0.0, salt=SALT)
    assert doors.receive(_static_open(), now=5.0, salt=SALT) is None
    assert doors.receive(_static_open("session-id-00002"), now=5.0, salt=SALT)
    assert doors.ignored == {"repeated": 1}
    doors.remove_static(static_session())
    assert doors.receive(_static_open("session-id-00004"), now=50.0, salt=SALT) is None


@pytest.mark.rule("MQ-19")
def test_sessions_that_nobody_confirms_are_bounded() -> None:
    doors = Doors(SPACE)
    doors.add_static(static_session())
    waiting = [
        doors.receive(_static_open(f"session-id-0000{number}"), now=0.0, salt=SALT) for number in range(MAX_UNCONFIRMED)
    ]
    assert all(waiting)
    assert doors.receive(_static_open(), now=1.0, salt=SALT) is None
    assert doors.ignored == {"too_many": 1}
    assert doors.receive(_static_open(), now=10.0, salt=SALT)


@pytest.mark.rule("MQ-19")
@pytest.mark.parametrize(
    "changes",
    [
        {"token": OTHER_TOKEN},
        {"mc": "another"},
        {"token": None, "protection": Protection.PLAIN},
    ],
)
def test_a_client_that_is_configured_otherwise_is_ignored(changes: dict[str, Any]) -> None:
    doors = Doors(SPACE)
    doors.add_static(static_session())
    assert doors.receive(_static_open(**changes), now=0.0, salt=SALT) is None
    assert doors.ignored == {"proof": 1}


@pytest.mark.rule("MQ-19")
def test_nobody_takes_a_version_away_on_the_way() -> None:
    doors = Doors(SPACE)
    doors.add_static(static_session())
    weaker = _with(_static_open(), versions=["0.0.2-beta"])
    assert doors.receive(weaker, now=0.0, salt=SALT) is None
    assert doors.ignored == {"proof": 1}


@pytest.mark.rule("MQ-19")
def test_an_open_of_s2_connect_is_none_of_static_mode() -> None:
    doors = Doors(SPACE)
    doors.add_static(static_session())
    assert doors.receive(_open(), now=0.0, salt=SALT) is None
    assert doors.ignored == {"proof": 1}


def test_a_pair_of_nodes_is_configured_once_and_under_the_prefix() -> None:
    doors = Doors(SPACE)
    doors.add_static(static_session())
    for session in (static_session(mc="other"), static_session(topic_prefix="else", client=OTHER)):
        with pytest.raises(UsageError):
            doors.add_static(session)
    assert static_session().client == CLIENT
