"""PUBLISH and PUBACK against paho-mqtt's own reader and writer, and against rubbish; packets out of a stream."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from s2connect.transports.mqtt.frames import Packet
from s2connect.transports.mqtt.paho_client import Stream
from s2connect.transports.mqtt.publish import (
    MAX_USER_PROPERTIES,
    MalformedPublish,
    UnusablePublish,
    read_head,
    read_puback,
    read_publish,
    variable_length,
    write_properties,
    write_puback,
    write_publish,
)
from s2connect.transports.mqtt.receiver import Receiver

words = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=40)
packets = st.builds(
    Packet,
    topic=words,
    payload=st.binary(max_size=300),
    content_type=st.none() | words,
    user_properties=st.lists(st.tuples(words, words), max_size=MAX_USER_PROPERTIES).map(tuple),
    correlation=st.none() | st.binary(max_size=64),
    expiry=st.none() | st.integers(0, 2**32 - 1),
    retain=st.booleans(),
)


def rest_of(raw: bytes) -> bytes:
    at = 1
    while raw[at] & 128:
        at += 1
    return raw[at + 1 :]


def read(command: int, raw: bytes) -> tuple[Packet, int, int]:
    head = read_head(command, raw)
    return read_publish(command, raw, head), head.qos, head.packet_id


@given(packets, st.integers(1, 65_535))
def test_what_is_written_is_read_again(packet: Packet, packet_id: int) -> None:
    raw = write_publish(packet, packet_id)
    assert read(raw[0], rest_of(raw)) == (packet, 1, packet_id)


@given(packets)
def test_paho_reads_the_properties_as_they_are_meant(packet: Packet) -> None:
    raw = write_properties(packet)
    read, length = Properties(PacketTypes.PUBLISH).unpack(raw)
    assert length == len(raw)
    assert getattr(read, "ContentType", None) == packet.content_type
    assert tuple(getattr(read, "UserProperty", ())) == packet.user_properties
    assert getattr(read, "CorrelationData", None) == packet.correlation
    assert getattr(read, "MessageExpiryInterval", None) == packet.expiry


@given(st.integers(1, 2**32 - 1), st.none() | st.integers(5, 60), st.sampled_from(["v1.0.0", "2", "ü"]))
def test_paho_reads_the_properties_of_data(number: int, expiry: int | None, version: str) -> None:
    user = (("s2-frame", "data"), ("s2-seq", str(number)), ("s2-ver", version))
    raw = write_properties(Packet("t", b"", "application/vnd.s2-sealed", user, expiry=expiry))
    read, length = Properties(PacketTypes.PUBLISH).unpack(raw)
    assert length == len(raw)
    assert tuple(read.UserProperty) == user
    assert read.ContentType == "application/vnd.s2-sealed"
    assert getattr(read, "MessageExpiryInterval", None) == expiry


@given(packets)
def test_properties_that_others_send_are_passed_over(packet: Packet) -> None:
    full = Properties(PacketTypes.PUBLISH)
    full.PayloadFormatIndicator = 1
    full.ResponseTopic = "a/b"
    full.SubscriptionIdentifier = [200_000, 1]
    full.UserProperty = list(packet.user_properties)
    topic = packet.topic.encode()
    raw = len(topic).to_bytes(2, "big") + topic + full.pack() + packet.payload
    got, qos, packet_id = read(0x30, raw)
    assert (got.user_properties, got.payload, qos, packet_id) == (packet.user_properties, packet.payload, 0, 0)


@given(st.integers(0x30, 0x3F), st.binary(max_size=80) | packets.map(lambda packet: rest_of(write_publish(packet, 1))))
def test_rubbish_is_a_packet_or_refused(command: int, raw: bytes) -> None:
    for cut in (raw, raw[:-1], raw[: len(raw) // 2]):
        with contextlib.suppress(MalformedPublish, UnusablePublish):
            read(command, cut)


topics = st.binary(max_size=40).map(lambda raw: len(raw).to_bytes(2, "big") + raw)


@given(st.integers(0, 1), topics, st.binary(max_size=80) | packets.map(write_properties))
def test_what_a_publisher_can_fill_in_never_breaks_mqtt(qos: int, topic: bytes, rest: bytes) -> None:
    """Topic, properties and payload are a publisher's. Only the places of the broker can be malformed."""
    raw = topic + (b"\x00\x07" if qos else b"") + rest
    head = read_head(0x30 | qos << 1, raw)
    assert (head.qos, head.packet_id) == (qos, 7 * qos)
    with contextlib.suppress(UnusablePublish):
        read_publish(0x30, raw, head)


@pytest.mark.parametrize(
    ("command", "raw"),
    [
        (0x36, b"\x00\x01t\x00\x01\x00"),  # QoS 3
        (0x30, b"\x00"),
        (0x30, b"\x00\x05t"),
        (0x32, b"\x00\x01t\x00"),
        (0x32, b"\x00\x01t\x00\x00\x00"),  # packet identifier 0
    ],
)
def test_what_the_broker_fills_in_has_to_be_right(command: int, raw: bytes) -> None:
    with pytest.raises(MalformedPublish):
        read_head(command, raw)


@pytest.mark.parametrize(
    ("properties", "reason"),
    [
        (b"\x26\x00\x01a\x00\x01b" * (MAX_USER_PROPERTIES + 1), "too_many_properties"),
        (b"\x23\x00\x01", "topic_alias"),
        (b"\x26\x00\x01\xff\x00\x01b", "not_utf_8"),
        (b"\x03\x00\x01\xff", "not_utf_8"),
        (b"\x03\x00\x01a\x03\x00\x01a", "properties"),
        (b"\x09\x00\x01a\x09\x00\x01a", "properties"),
        (b"\x01\x01\x01\x01", "properties"),
        (b"\x02\x00\x00\x00\x01\x02\x00\x00\x00\x01", "properties"),
        (b"\x11\x00\x00\x00\x01", "properties"),  # Session Expiry Interval, of CONNECT
        (b"\xff", "properties"),
        (b"\x03\x00\x09a", "properties"),
        (b"\x0b\xff\xff\xff\xff\x01", "properties"),
        (b"\x26\x00", "properties"),
    ],
)
def test_properties_that_cannot_be_used_make_one_message_unusable(properties: bytes, reason: str) -> None:
    raw = b"\x00\x01t" + variable_length(len(properties)) + properties + b"payload"
    with pytest.raises(UnusablePublish) as caught:
        read(0x30, raw)
    assert caught.value.reason == reason


def test_user_properties_are_counted_one_by_one() -> None:
    packet = Packet("t", b"", user_properties=(("a", "b"),) * MAX_USER_PROPERTIES)
    raw = write_publish(packet, 1)
    assert read(raw[0], rest_of(raw))[0] == packet


@given(st.integers(1, 65_535))
def test_acknowledgements(packet_id: int) -> None:
    raw = write_puback(packet_id)
    assert read_puback(raw[2:]) == (packet_id, 0)
    assert read_puback(raw[2:] + b"\x87\x00") == (packet_id, 0x87)
    with pytest.raises(MalformedPublish):
        read_puback(raw[2:3])


def stream(
    limit: int,
    discard: Callable[[int, bytes, int], bool] = lambda command, start, length: False,
    discarded: Callable[[], None] = lambda: None,
    **calls: Any,
) -> Stream:
    receiver: Any = Receiver(limit, Counter(), "broker", lambda: 0.0)
    receiver.discard, receiver.discarded = discard, discarded
    usual: dict[str, Any] = {"take": lambda command, raw: True}
    usual |= dict.fromkeys(("readable", "idle", "writable"), lambda: None)
    return Stream(limit, receiver, **{**usual, **calls})


@settings(deadline=None)
@given(st.lists(packets | st.integers(0, 20_000), max_size=5), st.lists(st.integers(1, 5000), min_size=1))
def test_a_stream_is_cut_into_its_packets_however_it_comes(sent: list[Packet | int], sizes: list[int]) -> None:
    whole = [
        write_publish(one, 1) if isinstance(one, Packet) else write_publish(Packet("t", b"x" * one), 1) for one in sent
    ]
    got: list[tuple[int, bytes]] = []

    def take(command: int, raw: bytes) -> bool:
        got.append((command, raw))
        return True

    async def run() -> None:
        under_test = stream(1 << 20, take=take)
        joined, at = b"".join(whole), 0
        for size in itertools.cycle(sizes):
            if at >= len(joined):
                break
            under_test.data_received(joined[at : at + size])
            at += size

    asyncio.run(run())
    assert got == [(raw[0], rest_of(raw)) for raw in whole]


def test_what_is_not_taken_can_be_read_as_from_a_socket() -> None:
    read: list[bytes] = []

    async def run() -> None:
        def readable() -> None:
            while under_test.unread:
                read.append(under_test.recv(1))
            with pytest.raises(BlockingIOError):
                under_test.recv(1)

        under_test = stream(100, take=lambda *_: False, readable=readable)
        under_test.data_received(b"\xd0\x00\xd0")
        under_test.data_received(b"\x00")

    asyncio.run(run())
    assert b"".join(read) == b"\xd0\x00\xd0\x00"


@pytest.mark.rule("MQ-15")
@pytest.mark.parametrize(
    "raw",
    [
        b"\x90\x80\x01",
        b"\x90\xff\xff\xff\xff\x01",
        b"\x30\xff\xff\xff\xff\x01",
        b"\x90\xff\xff\xff\x7f",
        b"\x30\xff\xff\xff\x7f\x00\x01t\x00",  # nobody says that it is to be dropped
        b"\x32\xff\x01\xff\xff",  # a topic longer than the packet
    ],
)
def test_a_packet_that_is_too_long_is_not_waited_for(raw: bytes) -> None:
    async def run() -> None:
        under_test = stream(100)
        under_test.data_received(raw)
        assert isinstance(under_test.error, ConnectionError)

    asyncio.run(run())


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["wanted", "unwanted"]), st.integers(0, 5000)), max_size=6),
    st.lists(st.integers(1, 3000), min_size=1),
)
def test_a_long_packet_that_nobody_wants_is_dropped_while_it_comes(
    sent: list[tuple[str, int]], sizes: list[int]
) -> None:
    whole = [write_publish(Packet(topic, b"x" * size), number + 1) for number, (topic, size) in enumerate(sent)]
    got: list[tuple[str, bytes]] = []
    dropped: list[int] = []

    async def run() -> None:
        def take(command: int, raw: bytes) -> bool:
            packet, _, packet_id = read(command, raw)
            got.append((packet.topic, packet.payload))
            done.append(packet_id)
            return True

        def discard(command: int, start: bytes, length: int) -> bool:
            head = read_head(command, start)
            assert len(start) == 2 + len(head.topic) + 2 < length
            if head.topic == "unwanted":
                dropped.append(head.packet_id)
            return head.topic == "unwanted"

        done: list[int] = []
        under_test = stream(1 << 20, take=take, discard=discard, discarded=lambda: done.append(dropped[-1]))
        joined, at = b"".join(whole), 0
        for size in itertools.cycle(sizes):
            if at >= len(joined):
                break
            under_test.data_received(joined[at : at + size])
            if under_test._dropping:
                assert not under_test._partial
            at += size
        assert done == list(range(1, len(sent) + 1))  # in their order, each once

    asyncio.run(run())
    assert [one for one in got if one[0] == "wanted"] == [(t, b"x" * size) for t, size in sent if t == "wanted"]
