"""Handling of each PUBLISH, and the log of unusable ones."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2connect.model.log_limiter import PERIOD
from s2connect.transports.mqtt.frames import Packet
from s2connect.transports.mqtt.parameters import Received
from s2connect.transports.mqtt.publish import MAX_USER_PROPERTIES, MalformedPublish, write_publish
from s2connect.transports.mqtt.receiver import EXPECTED, Receiver, TopicHandler
from tests.transports.mqtt_sessions import changed, open_pair

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


# --- messages that are like the one before are not read again


class Reading:
    """The receiving end of a sealed session, with a direct reader or without."""

    def __init__(self, *, direct: bool) -> None:
        self.sender, self.channel = open_pair()
        self.sender.packets()
        self.texts: list[str] = []
        self.straight = 0
        self.drops: Counter[str] = Counter()
        self.receiver = Receiver(LONGEST, self.drops, "broker", lambda: 0.0)
        reader: Any = self if direct else None
        self.receiver.handlers[self.channel.inbound_topic] = TopicHandler(self.handle, direct=reader)

    def handle(self, packet: Packet) -> None:
        self.texts += [event.text for event in self.channel.receive(packet, 1.0) if isinstance(event, Received)]

    def take(self, raw: bytes, at: int) -> bool:
        text = self.channel.read_next(raw, at, 1.0)
        if text is not None:
            self.texts.append(text)
            self.straight += 1
        return text is not None

    def learn(self, raw: bytes, at: int, packet: Packet) -> None:
        self.channel.learn(raw, at, packet)

    def outcome(self) -> object:
        """What the two must have in common."""
        channel = self.channel
        frames = [packet.user_properties for packet in channel.packets()]
        acknowledged = list(self.receiver.acknowledgements)
        return self.texts, self.drops, channel.state, channel.closed, channel.deadline(), frames, acknowledged


def _body(raw: bytes) -> bytes:
    return raw[2:] if raw[1] < 128 else raw[3:]


def _vary(packet: Packet, how: str, number: int) -> Packet:
    extra = ("x" * (number % 40), "y" * (number % 50))
    frame, sequence, *rest = packet.user_properties
    mark = "&\x00\x06s2-seq\x00\x01" + sequence[1]
    user: Any = {
        "extra property": (*packet.user_properties, extra),
        "property in front": (extra, *packet.user_properties),
        "other order": (sequence, *rest, frame),
        "two numbers": (*packet.user_properties, sequence),
        "no version": (frame, sequence),
        "other version": (frame, sequence, ("s2-ver", "2")),
        "ping": (("s2-frame", "ping"), sequence),
        "number": (frame, ("s2-seq", str(number)), *rest),
        "number within": (("x", mark), *packet.user_properties),
    }.get(how, packet.user_properties)
    if how == "expiry":
        return changed(packet, expiry=number)
    if how == "content type":
        return changed(packet, content_type=f"text/{number}")
    if how == "correlation":
        return changed(packet, correlation=bytes(number % 30))
    if how == "payload":
        return changed(packet, payload=packet.payload[:-1] + bytes((packet.payload[-1] ^ number & 255,)))
    if how == "long":
        return changed(packet, payload=bytes(LONGEST))
    return changed(packet, user_properties=user)


_HARMLESS = [
    "next",
    "next",
    "next",
    "expiry",
    "extra property",
    "property in front",
    "other order",
    "number within",
    "repeat",
]
_HARMFUL = [
    "two numbers",
    "no version",
    "other version",
    "ping",
    "number",
    "content type",
    "correlation",
    "payload",
    "long",
]
steps = st.lists(
    st.tuples(st.sampled_from(_HARMLESS * 4 + _HARMFUL + ["bit", "cut"]), st.integers(0, 300)), max_size=30
)


@given(steps)
def test_a_direct_reader_decides_as_reading_does(plan: list[tuple[str, int]]) -> None:
    with_it, without = Reading(direct=True), Reading(direct=False)
    sender, previous = with_it.sender, b""
    for count, (how, number) in enumerate(plan):
        if how == "repeat":
            body = previous or b"\x00"
        else:
            sender.send(f"text {count} ü", 1.0)
            (packet,) = sender.packets()
            body = _body(write_publish(_vary(packet, how, number), 7 + count))
        if how == "bit":
            place = number % len(body)
            body = body[:place] + bytes((body[place] ^ 1 << number % 8,)) + body[place + 1 :]
        elif how == "cut":
            body = body[: -1 - number % 40]
        previous = body
        ends = []
        for reading in (with_it, without):
            try:
                reading.receiver.receive(0x32, body)
                ends.append("")
            except MalformedPublish as error:
                ends.append(str(error))
        assert ends[0] == ends[1]
        assert with_it.outcome() == without.outcome()


def test_messages_like_the_one_before_are_not_read_again() -> None:
    reading = Reading(direct=True)
    for number in range(1, 201):
        reading.sender.send(str(number), 1.0)
        (packet,) = reading.sender.packets()
        reading.receiver.receive(0x32, _body(write_publish(packet, 7)))
    assert reading.texts == [str(number) for number in range(1, 201)]
    assert reading.straight == 200 - 3, "the first, and each that has a digit more"


@pytest.mark.rule("MQ-07", "MQ-09")
def test_properties_learnt_from_a_stranger_open_nothing() -> None:
    """Whoever may publish on the topic can send the last number again, with other properties and any payload."""
    reading = Reading(direct=True)
    reading.sender.send("one", 1.0)
    (packet,) = reading.sender.packets()
    reading.receiver.receive(0x32, _body(write_publish(packet, 7)))
    stranger = changed(packet, payload=b"x" * 40, user_properties=(*packet.user_properties, ("x", "y")))
    reading.receiver.receive(0x32, _body(write_publish(stranger, 8)))
    reading.sender.send("two", 1.0)
    reading.receiver.receive(0x32, _body(write_publish(reading.sender.packets()[0], 9)))
    assert reading.texts == ["one", "two"]
    assert reading.channel.closed is None
    forged = changed(stranger, user_properties=(("s2-frame", "data"), ("s2-seq", "4"), *stranger.user_properties[2:]))
    reading.receiver.receive(0x32, _body(write_publish(forged, 10)))
    assert reading.texts == ["one", "two"]
    assert reading.channel.closed is not None
