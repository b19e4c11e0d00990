"""PUBLISH and PUBACK against paho-mqtt's own reader and writer, and against rubbish; packets out of a stream."""

from __future__ import annotations

import asyncio
import contextlib
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from s2connect.transports.mqtt.frames import Packet
from s2connect.transports.mqtt.publish import (
    MAX_USER_PROPERTIES,
    MalformedPublish,
    read_puback,
    read_publish,
    write_properties,
    write_puback,
    write_publish,
)
from s2connect.transports.mqtt.streams import Stream

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


@given(packets, st.integers(1, 65_535))
def test_what_is_written_is_read_again(packet: Packet, packet_id: int) -> None:
    raw = write_publish(packet, packet_id)
    assert read_publish(raw[0], rest_of(raw)) == (packet, 1, packet_id)


@given(packets)
def test_paho_reads_the_properties_as_they_are_meant(packet: Packet) -> None:
    raw = write_properties(packet)
    read, length = Properties(PacketTypes.PUBLISH).unpack(raw)
    assert length == len(raw)
    assert getattr(read, "ContentType", None) == packet.content_type
    assert tuple(getattr(read, "UserProperty", ())) == packet.user_properties
    assert getattr(read, "CorrelationData", None) == packet.correlation
    assert getattr(read, "MessageExpiryInterval", None) == packet.expiry


@given(packets)
def test_properties_that_others_send_are_passed_over(packet: Packet) -> None:
    full = Properties(PacketTypes.PUBLISH)
    full.PayloadFormatIndicator = 1
    full.ResponseTopic = "a/b"
    full.TopicAlias = 7
    full.SubscriptionIdentifier = 200_000
    full.UserProperty = list(packet.user_properties)
    topic = packet.topic.encode()
    raw = len(topic).to_bytes(2, "big") + topic + full.pack() + packet.payload
    read, qos, packet_id = read_publish(0x30, raw)
    assert (read.user_properties, read.payload, qos, packet_id) == (packet.user_properties, packet.payload, 0, 0)


@given(st.integers(0x30, 0x3F), st.binary(max_size=80) | packets.map(lambda packet: rest_of(write_publish(packet, 1))))
def test_rubbish_is_a_packet_or_refused(command: int, raw: bytes) -> None:
    for cut in (raw, raw[:-1], raw[: len(raw) // 2]):
        with contextlib.suppress(MalformedPublish):
            read_publish(command, cut)


def test_too_many_user_properties_are_refused() -> None:
    packet = Packet("t", b"", user_properties=(("a", "b"),) * (MAX_USER_PROPERTIES + 1))
    raw = write_publish(packet, 1)
    with pytest.raises(MalformedPublish):
        read_publish(raw[0], rest_of(raw))


@given(st.integers(1, 65_535))
def test_acknowledgements(packet_id: int) -> None:
    raw = write_puback(packet_id)
    assert read_puback(raw[2:]) == (packet_id, 0)
    assert read_puback(raw[2:] + b"\x87\x00") == (packet_id, 0x87)
    with pytest.raises(MalformedPublish):
        read_puback(raw[2:3])


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
        stream = Stream(1 << 20, take=take, readable=lambda: None, idle=lambda: None, writable=lambda: None)
        joined, at = b"".join(whole), 0
        for size in itertools.cycle(sizes):
            if at >= len(joined):
                break
            stream.data_received(joined[at : at + size])
            at += size

    asyncio.run(run())
    assert got == [(raw[0], rest_of(raw)) for raw in whole]


def test_what_is_not_taken_can_be_read_as_from_a_socket() -> None:
    read: list[bytes] = []

    async def run() -> None:
        def readable() -> None:
            while stream.unread:
                read.append(stream.recv(1))
            with pytest.raises(BlockingIOError):
                stream.recv(1)

        stream = Stream(100, take=lambda *_: False, readable=readable, idle=lambda: None, writable=lambda: None)
        stream.data_received(b"\xd0\x00\xd0")
        stream.data_received(b"\x00")

    asyncio.run(run())
    assert b"".join(read) == b"\xd0\x00\xd0\x00"


@pytest.mark.rule("MQ-15")
@pytest.mark.parametrize("raw", [b"\x30\x80\x01", b"\x30\xff\xff\xff\xff\x01", b"\x30\xff\xff\xff\x7f"])
def test_a_packet_that_is_too_long_is_not_waited_for(raw: bytes) -> None:
    async def run() -> None:
        stream = Stream(100, take=lambda *_: True, readable=lambda: None, idle=lambda: None, writable=lambda: None)
        stream.data_received(raw)
        assert isinstance(stream.error, ConnectionError)

    asyncio.run(run())
