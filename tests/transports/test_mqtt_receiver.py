"""Handling of each PUBLISH, and the log of unusable ones."""

from __future__ import annotations

import logging
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2connect.model.log_limiter import PERIOD
from s2connect.transports.mqtt.frames import Packet
from s2connect.transports.mqtt.publish import MAX_USER_PROPERTIES, MalformedPublish, write_publish
from s2connect.transports.mqtt.receiver import EXPECTED, Receiver, TopicHandler

LONGEST = 10_000


def faulty(packet: Packet) -> str | None:
    raise ZeroDivisionError


class Rig:
    def __init__(self) -> None:
        self.now = 0.0
        self.drops: Counter[str] = Counter()
        self.got: list[Packet] = []
        self.receiver = Receiver(LONGEST, self.drops, "broker", lambda: self.now)
        self.receiver.handlers["any"] = TopicHandler(self.got.append)
        self.receiver.handlers["open"] = TopicHandler(self.got.append, 100, only_qos_1=True)

    def give(self, packet: Packet, packet_id: int = 7, *, qos: int = 1) -> None:
        raw = write_publish(packet, packet_id)
        body = raw[2:] if raw[1] < 128 else raw[3:]
        if qos == 0:
            end = 2 + int.from_bytes(body[:2], "big")
            body = body[:end] + body[end + 2 :]
        self.receiver.receive(0x30 | qos << 1 | packet.retain, body)


def test_every_message_is_acknowledged_whatever_becomes_of_it() -> None:
    """Twenty that are not are the end of everything that the broker sends: that is the window."""
    rig = Rig()
    rig.receiver.handlers["fault"] = TopicHandler(faulty)
    rig.receiver.handlers["ignored"] = TopicHandler(lambda packet: "proof")
    many = (("a", "b"),) * (MAX_USER_PROPERTIES + 1)
    for number, packet in enumerate(
        [
            Packet("any", b"x"),
            Packet("any", b"x", user_properties=many),
            Packet("nobody", b"x"),
            Packet("open", b"x" * 101),
            Packet("open", b"x", retain=True),
            Packet("fault", b"x"),
            Packet("ignored", b"x"),
        ],
        1,
    ):
        rig.give(packet, number)
    assert rig.receiver.acknowledgements == list(range(1, 8))
    assert rig.drops == {
        "too_many_properties": 1,
        "no_session": 1,
        "too_long": 1,
        "not_qos_1": 1,
        "fault": 1,
        "proof": 1,
    }
    assert [packet.payload for packet in rig.got] == [b"x"]


def test_a_message_is_acknowledged_after_it_was_handed_over() -> None:
    rig = Rig()
    before: list[list[int]] = []

    def handle(packet: Packet) -> None:
        before.append(list(rig.receiver.acknowledgements))

    rig.receiver.handlers["any"] = TopicHandler(handle)
    rig.give(Packet("any", b"x"), 1)
    rig.give(Packet("any", b"x"), 2)
    assert before == [[], [1]]
    assert rig.receiver.acknowledgements == [1, 2]


def test_what_was_published_at_qos_0_is_taken_where_that_is_allowed() -> None:
    rig = Rig()
    rig.give(Packet("any", b"x"), qos=0)
    rig.give(Packet("open", b"x"), qos=0)
    assert [packet.topic for packet in rig.got] == ["any"]
    assert rig.receiver.acknowledgements == []
    assert rig.drops == {"not_qos_1": 1}


def test_what_was_not_subscribed_to_breaks_mqtt() -> None:
    for topic in ("any", "nobody"):
        with pytest.raises(MalformedPublish):
            Rig().give(Packet(topic, b"x"), qos=2)


@pytest.mark.parametrize(
    ("topic", "length", "unwanted"),
    [
        ("any", LONGEST, False),
        ("any", LONGEST + 1, True),
        ("open", 100, False),
        ("open", 101, True),
        ("nobody", 1000, True),
    ],
)
def test_a_long_packet_is_dropped_from_its_beginning_and_acknowledged_at_its_end(
    topic: str, length: int, unwanted: bool
) -> None:
    rig = Rig()
    start = write_publish(Packet(topic, b""), 9)[2:]
    assert rig.receiver.discard(0x32, start, length) is unwanted
    assert rig.receiver.acknowledgements == []
    if unwanted:
        rig.receiver.discarded()
        assert rig.receiver.acknowledgements == [9]
        assert rig.receiver.discard(0x30, start, length)
        rig.receiver.discarded()
        assert rig.receiver.acknowledgements == [9]


def test_a_long_packet_at_qos_2_is_not_dropped_because_the_broker_breaks_mqtt_with_it() -> None:
    rig = Rig()
    start = write_publish(Packet("open", b"x" * 1000), 9)[3:]
    assert not rig.receiver.discard(0x34, start[:20], len(start))
    with pytest.raises(MalformedPublish):
        rig.receiver.receive(0x34, start)
    assert rig.receiver.acknowledgements == []
    assert not rig.drops


@given(st.binary(max_size=100), st.integers(0x30, 0x3F), st.integers(0, 1 << 28))
def test_any_beginning_is_dropped_or_waited_for(start: bytes, command: int, length: int) -> None:
    Rig().receiver.discard(command, start, length)


def test_a_fault_of_a_handler_is_logged_with_its_traceback_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    rig.receiver.handlers["fault"] = TopicHandler(faulty)
    for _ in range(100):
        rig.give(Packet("fault", b"x"))
    assert caplog.text.count("Traceback") == 1
    assert rig.drops == {"fault": 100}


def test_the_log_is_bounded_and_says_how_many(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    rig = Rig()
    for second in range(200):
        for _ in range(50):
            rig.give(Packet("open", b"x" * 101))
            rig.give(Packet("nobody", b"x"))
        rig.now = float(second)
    assert len(caplog.records) == 1 + int(199 // PERIOD)
    assert "too_long (2999 more such lines were not logged)" in caplog.text
    assert "no_session" not in caplog.text
    assert rig.drops == {"too_long": 10_000, "no_session": 10_000}


def test_what_belongs_to_normal_work_is_counted_and_not_said(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    for reason in sorted(EXPECTED):
        rig.receiver.handlers["ignored"] = TopicHandler(lambda packet, reason=reason: reason)  # type: ignore[misc]
        rig.give(Packet("ignored", b"x"))
    assert rig.drops == dict.fromkeys(EXPECTED, 1)
    assert not caplog.records
