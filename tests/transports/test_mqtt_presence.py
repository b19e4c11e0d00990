from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2connect.transports.mqtt.frames import InvalidFrame, Packet
from s2connect.transports.mqtt.presence import (
    Presence,
    PresenceBoard,
    PresenceState,
    no_presence,
    presence,
    read_boot,
    read_presence,
)
from s2connect.transports.mqtt.topics import InvalidTopic
from tests.strategies import json_values
from tests.transports.mqtt_sessions import BOOT, MC, SERVER, SPACE

NEW_BOOT = "c8Rn3As0"
ONLINE, LOST = PresenceState.ONLINE, PresenceState.LOST


@pytest.mark.rule("MQ-08", "MQ-12")
def test_presence_is_retained_and_has_no_time_stamp() -> None:
    online = presence(SPACE, MC, ONLINE, BOOT)
    will = presence(SPACE, MC, LOST, BOOT)
    assert online.retain
    assert will.retain
    assert json.loads(online.payload) == {"state": "online", "boot": BOOT}
    assert json.loads(will.payload) == {"state": "lost", "boot": BOOT}
    assert online.topic == will.topic == f"acme/s2/0/presence/{MC}"
    assert online.expiry is None
    assert no_presence(SPACE, MC) == Packet(online.topic, b"", retain=True)


@pytest.mark.rule("MQ-12")
def test_what_we_say_of_ourselves_can_be_read() -> None:
    for state in PresenceState:
        assert read_presence(SPACE, presence(SPACE, MC, state, BOOT)) == Presence(MC, state, BOOT)
    assert read_presence(SPACE, no_presence(SPACE, MC)) == Presence(MC, None, "")


@pytest.mark.rule("MQ-12")
def test_lost_of_another_boot_is_ignored() -> None:
    board = PresenceBoard(SPACE)
    assert board.receive(presence(SPACE, MC, ONLINE, BOOT)) == Presence(MC, ONLINE, BOOT)
    assert board.receive(presence(SPACE, MC, ONLINE, NEW_BOOT)) == Presence(MC, ONLINE, NEW_BOOT)
    assert board.receive(presence(SPACE, MC, LOST, BOOT)) is None
    assert board.of(MC) == Presence(MC, ONLINE, NEW_BOOT)
    assert board.receive(presence(SPACE, MC, LOST, NEW_BOOT)) == Presence(MC, LOST, NEW_BOOT)


@pytest.mark.rule("MQ-12")
def test_a_clean_stop_clears_what_is_known() -> None:
    board = PresenceBoard(SPACE)
    assert board.receive(no_presence(SPACE, MC)) is None
    board.receive(presence(SPACE, MC, ONLINE, BOOT))
    assert board.receive(no_presence(SPACE, MC)) == Presence(MC, None, BOOT)
    assert board.of(MC) is None


@pytest.mark.rule("MQ-12")
def test_what_is_said_twice_is_no_news_and_the_board_is_bounded() -> None:
    board = PresenceBoard(SPACE, limit=1)
    online = presence(SPACE, MC, ONLINE, BOOT)
    assert board.receive(online)
    assert board.receive(online) is None
    assert board.receive(presence(SPACE, "another", ONLINE, BOOT)) is None
    assert board.of("another") is None


@given(json_values | st.fixed_dictionaries({"state": st.sampled_from(["online", "lost", "x"]), "boot": json_values}))
def test_any_presence_is_read_or_changes_nothing(value: object) -> None:
    packet = Packet(SPACE.presence(MC), json.dumps(value).encode(), retain=True)
    board = PresenceBoard(SPACE)
    said = board.receive(packet)
    assert board.of(MC) == said


def test_what_stands_elsewhere_is_no_presence() -> None:
    with pytest.raises(InvalidTopic):
        read_presence(SPACE, Packet(SPACE.open(SERVER), b"{}"))
    assert PresenceBoard(SPACE).receive(Packet("elsewhere", b"{}")) is None


@pytest.mark.parametrize("boot", [None, 7, "", "short", "b" * 37, "boot|boot", "boot/boot", "bootboot\n"])
def test_boot_ids_that_cannot_be_used(boot: object) -> None:
    with pytest.raises(InvalidFrame):
        read_boot(boot)
