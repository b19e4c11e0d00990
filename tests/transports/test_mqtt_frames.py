from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2connect.transports.mqtt.frames import (
    MAX_CONTROL_BYTES,
    MAX_SEQ,
    OVERHEAD_BYTES,
    PLAIN_CONTROL,
    PLAIN_DATA,
    SEALED,
    Frame,
    FrameKind,
    InvalidFrame,
    Packet,
    no_presence,
    payload_room,
    presence,
    read_boot,
    read_control,
    read_frame,
    write_control,
    write_frame,
)
from tests.transports.mqtt_sessions import BOOT, MC, SERVER, SPACE, changed

TOPIC = SPACE.open(SERVER)

versions = st.from_regex(r"[A-Za-z0-9._-]{1,32}", fullmatch=True)
seqs = st.integers(1, MAX_SEQ)
frames = st.one_of(
    st.builds(Frame, st.just(FrameKind.DATA), seqs, st.binary(max_size=50), versions),
    st.builds(Frame, st.just(FrameKind.OPEN), st.just(0), st.binary(max_size=50)),
    st.builds(Frame, st.sampled_from([FrameKind.PING, FrameKind.PONG]), seqs, st.binary(max_size=50)),
    st.builds(
        Frame,
        st.sampled_from([FrameKind.ACCEPT, FrameKind.CLOSE]),
        seqs,
        st.binary(max_size=50),
        st.none(),
        st.none() | st.binary(min_size=32, max_size=32),
    ),
)
names = st.sampled_from(["s2-frame", "s2-seq", "s2-ver", "s2-salt", "s2-x", "trace"]) | st.text(max_size=8)
values = st.sampled_from([*FrameKind, "1", "0", "01", "+1", "1.0", "²", "4294967296", "v1.0.0"]) | st.text(max_size=12)
content_types = st.sampled_from([None, PLAIN_DATA, PLAIN_CONTROL, SEALED]) | st.text(max_size=8)


@pytest.mark.rule("MQ-05", "MQ-06")
@given(frames, st.booleans())
def test_a_frame_that_we_write_we_can_read(frame: Frame, sealed: bool) -> None:
    packet = write_frame(TOPIC, frame, sealed=sealed, expiry=15, correlation=b"m-1")
    assert read_frame(packet, sealed=sealed) == frame
    assert not packet.retain


@pytest.mark.rule("MQ-05", "MQ-06")
@given(st.lists(st.tuples(names, values), max_size=5), content_types, st.binary(max_size=40), st.booleans())
def test_any_properties_give_a_frame_or_a_documented_error(
    properties: list[tuple[str, str]], content_type: str | None, payload: bytes, sealed: bool
) -> None:
    packet = Packet(TOPIC, payload, content_type, tuple(properties))
    try:
        frame = read_frame(packet, sealed=sealed)
    except InvalidFrame:
        return
    assert 0 <= frame.seq <= MAX_SEQ
    assert (frame.seq == 0) is (frame.kind is FrameKind.OPEN)


@pytest.mark.rule("MQ-05")
@pytest.mark.parametrize(
    ("kind", "sealed", "expected"),
    [
        (FrameKind.DATA, False, "application/json"),
        (FrameKind.DATA, True, "application/vnd.s2-sealed"),
        (FrameKind.CLOSE, False, "application/vnd.s2-control+json"),
        (FrameKind.CLOSE, True, "application/vnd.s2-sealed"),
        (FrameKind.OPEN, True, "application/vnd.s2-control+json"),
    ],
)
def test_content_types(kind: FrameKind, sealed: bool, expected: str) -> None:
    packet = write_frame(TOPIC, Frame(kind, 1, b"{}", "1" if kind is FrameKind.DATA else None), sealed=sealed)
    assert packet.content_type == expected


GOOD = write_frame(TOPIC, Frame(FrameKind.DATA, 7, b"{}", "v1.0.0"), sealed=False)


@pytest.mark.rule("MQ-06")
@pytest.mark.parametrize("name", ["s2-new", "s2-", "S2-Frame", "trace"])
def test_properties_of_other_names_are_ignored(name: str) -> None:
    more = changed(GOOD, user_properties=((name, "1"), *GOOD.user_properties, (name, "2")))
    assert read_frame(more, sealed=False) == read_frame(GOOD, sealed=False)


@pytest.mark.rule("MQ-06")
@pytest.mark.parametrize(
    "properties",
    [
        (),
        (("s2-frame", "data"), ("s2-ver", "v1.0.0")),
        (("s2-frame", "data"), ("s2-seq", "7")),
        (("s2-seq", "7"), ("s2-ver", "v1.0.0")),
        (("s2-frame", "Data"), ("s2-seq", "7"), ("s2-ver", "v1.0.0")),
        (("s2-frame", "ping"), ("s2-frame", "data"), ("s2-seq", "7"), ("s2-ver", "v1.0.0")),
        (("s2-frame", "data"), ("s2-seq", "7"), ("s2-seq", "7"), ("s2-ver", "v1.0.0")),
        (("s2-frame", "data"), ("s2-seq", "7"), ("s2-ver", "v1.0.0"), ("s2-salt", "AAAA")),
        *(
            (("s2-frame", "data"), ("s2-seq", seq), ("s2-ver", "v1.0.0"))
            for seq in ("", "0", "07", "-7", "+7", " 7", "7 ", "7.0", "1e3", "\u0667", "²", "4294967296", "9" * 5000)
        ),
    ],
)
def test_properties_that_are_not_exactly_those_of_a_frame(properties: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(InvalidFrame):
        read_frame(changed(GOOD, user_properties=properties), sealed=False)


@pytest.mark.rule("MQ-06")
def test_properties_of_others_and_correlation_data_are_ignored() -> None:
    properties = (("trace", "1"), *GOOD.user_properties, ("trace", "2"))
    assert read_frame(changed(GOOD, user_properties=properties, correlation=b"x"), sealed=False).seq == 7


@pytest.mark.rule("MQ-05")
def test_a_frame_in_the_clear_is_none_of_a_sealed_session_and_the_other_way_round() -> None:
    with pytest.raises(InvalidFrame):
        read_frame(GOOD, sealed=True)
    with pytest.raises(InvalidFrame):
        read_frame(changed(GOOD, content_type=SEALED), sealed=False)


@pytest.mark.parametrize("text", ["", "AAAA", "A" * 43 + "B", "A" * 44, "!" * 44, "A" * 42 + "B="])
def test_a_salt_is_32_bytes_in_the_one_spelling_of_base64(text: str) -> None:
    packet = Packet(TOPIC, b"{}", PLAIN_CONTROL, (("s2-frame", "accept"), ("s2-seq", "1"), ("s2-salt", text)))
    with pytest.raises(InvalidFrame):
        read_frame(packet, sealed=False)


def test_control_frames_are_short() -> None:
    packet = write_frame(TOPIC, Frame(FrameKind.PING, 1, b" " * (MAX_CONTROL_BYTES + 1)), sealed=False)
    with pytest.raises(InvalidFrame):
        read_frame(packet, sealed=False)
    with pytest.raises(InvalidFrame):
        read_control(packet.payload)


@given(st.binary(max_size=60))
def test_any_control_payload_gives_an_object_or_a_documented_error(payload: bytes) -> None:
    with contextlib.suppress(InvalidFrame):
        assert isinstance(read_control(payload), dict)


@pytest.mark.parametrize("payload", [b"", b"[]", b"1", b'{"a":1,"a":2}', b'{"a":NaN}', b'{"a":"\xff"}', b"{"])
def test_control_payloads_that_are_no_strict_json_object(payload: bytes) -> None:
    with pytest.raises(InvalidFrame):
        read_control(payload)


def test_control_payloads_have_no_white_space() -> None:
    assert write_control({"reason": "normal", "after": 1.5}) == b'{"reason":"normal","after":1.5}'
    assert json.loads(write_control({"text": "é"})) == {"text": "é"}


@pytest.mark.rule("MQ-15")
def test_the_room_of_a_broker_counts_everything_around_the_text() -> None:
    topic = SPACE.presence(MC)
    room = payload_room(topic, 1000)
    assert room == 1000 - OVERHEAD_BYTES - len(topic)
    assert payload_room(topic, 10) == 0


def test_a_packet_and_a_frame_do_not_show_their_payload() -> None:
    assert "secret" not in repr(Packet(TOPIC, b"secret"))
    assert "secret" not in repr(Frame(FrameKind.DATA, 1, b"secret", "1"))


@pytest.mark.rule("MQ-06", "MQ-19")
@pytest.mark.parametrize("kind", FrameKind)
def test_a_salt_may_only_be_in_what_can_be_the_first_frame_of_a_server(kind: FrameKind) -> None:
    version = "v1.0.0" if kind is FrameKind.DATA else None
    packet = write_frame("t", Frame(kind, 1, b"{}", version, bytes(32)), sealed=False)
    if kind in (FrameKind.ACCEPT, FrameKind.CLOSE):
        assert read_frame(packet, sealed=False).salt == bytes(32)
    else:
        with pytest.raises(InvalidFrame, match="s2-salt"):
            read_frame(packet, sealed=False)


# Presence


@pytest.mark.rule("MQ-08", "MQ-12")
def test_presence_is_retained_and_has_no_time_stamp() -> None:
    online = presence(SPACE, MC, "online", BOOT)
    will = presence(SPACE, MC, "lost", BOOT)
    assert online.retain
    assert will.retain
    assert json.loads(online.payload) == {"state": "online", "boot": BOOT}
    assert json.loads(will.payload) == {"state": "lost", "boot": BOOT}
    assert online.topic == will.topic == f"acme/s2/0/presence/{MC}"
    assert online.expiry is None
    assert no_presence(SPACE, MC) == Packet(online.topic, b"", retain=True)


@pytest.mark.parametrize("boot", [None, 7, "", "short", "b" * 37, "boot|boot", "boot/boot", "bootboot\n"])
def test_boot_ids_that_cannot_be_used(boot: object) -> None:
    with pytest.raises(InvalidFrame):
        read_boot(boot)
