from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from s2connect.errors import ConnectionClosed, UsageError
from s2connect.transports.mqtt.channel import Channel, ClientChannel, ServerChannel, State
from s2connect.transports.mqtt.frames import MAX_SEQ, PLAIN_CONTROL, Frame, FrameKind, Packet, write_frame
from s2connect.transports.mqtt.parameters import (
    Answered,
    ChannelLimits,
    Closed,
    CloseReason,
    Event,
    Opened,
    Protection,
    Received,
)
from tests.transports.mqtt_sessions import (
    BOOT,
    MESSAGE,
    SALT,
    TOKEN,
    VERSION,
    changed,
    deliver,
    new_pair,
    new_static_pair,
    open_pair,
    parameters,
    settle,
    static_session,
)

both = pytest.mark.parametrize("protection", Protection)


def _reason(channel: Channel) -> CloseReason | None:
    assert channel.state is State.CLOSED
    assert channel.closed is not None
    return channel.closed.reason


def _texts(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Received)]


def _property(packet: Packet, name: str) -> str:
    return dict(packet.user_properties)[name]


# Opening


@both
@pytest.mark.rule("MQ-11")
def test_client_and_server_open_and_then_carry_messages_both_ways(protection: Protection) -> None:
    client, server = new_pair(protection)
    assert server.start(0.1) == [Opened(VERSION)]
    assert deliver(server, client, 0.2) == [Opened(VERSION)]
    texts = [MESSAGE, '{"ä":"✓"}', MESSAGE]
    for text in texts:
        client.send(text, 1.0)
        server.send(text, 1.0)
    assert _texts(deliver(client, server, 1.0)) == texts
    assert _texts(deliver(server, client, 1.0)) == texts


@pytest.mark.rule("MQ-11")
def test_nothing_is_sent_before_accept() -> None:
    client, server = new_pair()
    for channel in (client, server):
        with pytest.raises(UsageError):
            channel.send(MESSAGE, 0.0)
        assert channel.packets() == []


@pytest.mark.rule("MQ-11")
def test_a_session_is_started_once() -> None:
    client, server = open_pair()
    for channel in (client, server):
        with pytest.raises(UsageError):
            channel.start(0.0)


@both
@pytest.mark.rule("MQ-11")
def test_opening_takes_ten_seconds_at_most(protection: Protection) -> None:
    client, server = new_pair(protection, now=100.0)
    assert client.deadline() == server.deadline() == 110.0
    assert client.tick(109.9) == server.tick(109.9) == []
    assert isinstance(client.tick(110.0)[0], Closed)
    assert isinstance(server.tick(110.0)[0], Closed)
    assert _reason(client) is _reason(server) is CloseReason.TIMEOUT
    assert client.deadline() is server.deadline() is None


@both
@pytest.mark.rule("MQ-11", "MQ-16")
def test_a_server_whose_accept_comes_too_late_hears_that_the_client_has_given_up(protection: Protection) -> None:
    client, server = new_pair(protection)
    client.tick(10.0)
    server.start(9.9)
    assert deliver(server, client, 10.1) == []
    assert [type(event) for event in deliver(client, server, 10.1)] == [Closed]
    assert _reason(server) is CloseReason.TIMEOUT


@both
@pytest.mark.rule("MQ-11")
def test_data_before_accept_ends_the_opening(protection: Protection) -> None:
    client, server = new_pair(protection)
    server.start(0.0)
    server.packets()
    server._sent = 0  # as if it had never sent accept
    server.send(MESSAGE, 0.0)
    deliver(server, client)
    assert _reason(client) is CloseReason.PROTOCOL


@pytest.mark.rule("MQ-11")
def test_an_accept_of_another_session_is_refused() -> None:
    client, _ = new_pair(Protection.PLAIN)
    frame = Frame(FrameKind.ACCEPT, 1, b'{"sid":"another-session-of-ours"}')
    client.receive(write_frame(client.inbound_topic, frame, sealed=False), 0.0)
    assert _reason(client) is CloseReason.PROTOCOL


@pytest.mark.rule("MQ-11")
def test_an_accept_of_somebody_without_the_token_is_refused() -> None:
    client, _ = new_pair()
    frame = Frame(FrameKind.ACCEPT, 1, bytes(50))
    client.receive(write_frame(client.inbound_topic, frame, sealed=True), 0.0)
    assert _reason(client) is CloseReason.PROTOCOL


# Static mode


@pytest.mark.rule("MQ-19")
@pytest.mark.parametrize(
    "session",
    [
        static_session(),
        static_session(protection=Protection.PLAIN),
        static_session(protection=Protection.PLAIN, secret=None),
    ],
    ids=["sealed", "plain", "plain without a secret"],
)
def test_static_mode_opens_with_the_first_frame_of_the_client(session: Any) -> None:
    client, server = new_static_pair(session)
    assert server.start(0.0) == []
    assert server.state is State.OPENING
    assert deliver(server, client) == [Opened("1.0.0")]
    assert deliver(client, server) == [Opened("1.0.0")]
    assert deliver(server, client) == [Answered(1)]
    client.send(MESSAGE, 0.0)
    assert _texts(deliver(client, server)) == [MESSAGE]


@pytest.mark.rule("MQ-19")
def test_static_mode_agrees_on_a_version_in_the_peers_spelling() -> None:
    client, server = new_static_pair(
        static_session(versions=("0.0.2-beta", "v1.0.0")), static_session(versions=("1.0.0", "0.0.2-beta"))
    )
    server.start(0.0)
    assert deliver(server, client) == [Opened("v1.0.0")]
    assert deliver(client, server) == [Opened("v1.0.0")]
    server.send(MESSAGE, 0.0)
    assert _property(server.packets()[-1], "s2-ver") == "v1.0.0"


@pytest.mark.rule("MQ-19")
@pytest.mark.parametrize("protection", Protection)
def test_static_mode_without_a_common_version_is_refused_and_the_client_hears_it(protection: Protection) -> None:
    ours = static_session(versions=("2",), protection=protection)
    client, server = new_static_pair(ours, static_session(versions=("1.0.0",), protection=protection))
    (end,) = server.start(0.0)
    assert end == Closed(CloseReason.PROTOCOL, False, "no common S2 version")
    deliver(server, client)
    assert _reason(client) is CloseReason.PROTOCOL


@pytest.mark.rule("MQ-19", "MQ-07")
def test_an_open_that_is_published_again_opens_nothing() -> None:
    """Whoever kept the whole conversation can replay it, to a server that has started anew and knows no session id."""
    client, server = new_static_pair(static_session())
    server.start(0.0)
    deliver(server, client)
    kept = client.packets()
    _, fresh = new_static_pair(static_session())
    fresh._salt = SALT[::-1]
    assert fresh.start(0.0) == []
    for packet in kept:
        assert Opened("1.0.0") not in fresh.receive(packet, 0.0)
    assert _reason(fresh) is CloseReason.PROTOCOL


@pytest.mark.rule("MQ-19")
def test_static_mode_that_is_not_confirmed_times_out() -> None:
    _, server = new_static_pair(static_session())
    server.start(0.0)
    assert server.deadline() == 10.0
    server.tick(10.0)
    assert _reason(server) is CloseReason.TIMEOUT


@pytest.mark.rule("MQ-19")
def test_an_accept_of_a_version_that_was_not_offered_is_refused() -> None:
    client, _ = new_static_pair(static_session(protection=Protection.PLAIN))
    frame = Frame(FrameKind.ACCEPT, 1, json.dumps({"sid": client.parameters.sid, "version": "9"}).encode())
    client.receive(write_frame(client.inbound_topic, frame, sealed=False), 0.0)
    assert _reason(client) is CloseReason.PROTOCOL


@pytest.mark.rule("MQ-19")
def test_a_salt_is_there_exactly_where_it_belongs() -> None:
    client, server = new_static_pair(static_session())
    server.start(0.0)
    (accept,) = server.packets()
    assert _property(accept, "s2-salt")
    client.receive(changed(accept, user_properties=accept.user_properties[:2]), 0.0)
    assert _reason(client) is CloseReason.PROTOCOL

    client, server = new_pair()
    server.start(0.0)
    (packet,) = server.packets()
    client.receive(changed(packet, user_properties=(*packet.user_properties, accept.user_properties[2])), 0.0)
    assert _reason(client) is CloseReason.PROTOCOL


@both
@pytest.mark.rule("MQ-06", "MQ-19")
def test_a_salt_in_a_later_frame_ends_the_session(protection: Protection) -> None:
    """No seal covers it: somebody on the way has put it there, and it means nothing there."""
    salt = ("s2-salt", base64.b64encode(SALT).decode())
    for sender in (0, 1):
        pair = open_pair(protection)
        pair[sender].close(CloseReason.NORMAL, 0.0)
        (packet,) = pair[sender].packets()
        pair[1 - sender].receive(changed(packet, user_properties=(*packet.user_properties, salt)), 0.0)
        assert pair[1 - sender].closed == Closed(CloseReason.PROTOCOL, False, "s2-salt in a later frame")


@pytest.mark.rule("MQ-06", "MQ-19")
def test_a_salt_of_the_client_is_refused() -> None:
    client, server = new_static_pair(static_session())
    server.start(0.0)
    deliver(server, client)
    client.packets()
    client._sent = 0
    client.close(CloseReason.NORMAL, 0.0)
    (packet,) = client.packets()
    salt = ("s2-salt", base64.b64encode(SALT).decode())
    server.receive(changed(packet, user_properties=(*packet.user_properties, salt)), 0.0)
    assert server.closed == Closed(CloseReason.PROTOCOL, False, "s2-salt in a frame of the client")


def test_terms_that_do_not_fit_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(UsageError):
        ClientChannel(parameters(), token=None, boot=BOOT)
    with pytest.raises(UsageError):
        ServerChannel(parameters(), token=TOKEN, version=VERSION, salt=SALT, opened_at=0.0)
    with pytest.raises(UsageError):
        ClientChannel(parameters(versions=("1.0.0", "2")), token=TOKEN, boot=BOOT)


# Order


@both
@pytest.mark.rule("MQ-09")
def test_a_repeated_frame_is_dropped(protection: Protection) -> None:
    client, server = open_pair(protection)
    client.send(MESSAGE, 0.0)
    (packet,) = client.packets()
    assert _texts(server.receive(packet, 0.0)) == [MESSAGE]
    assert server.receive(packet, 0.0) == []
    assert server.state is State.OPEN


@both
@pytest.mark.rule("MQ-09")
def test_a_gap_ends_the_session_on_both_sides(protection: Protection) -> None:
    client, server = open_pair(protection)
    client.send(MESSAGE, 0.0)
    client.packets()
    client.send(MESSAGE, 0.0)
    deliver(client, server)
    assert _reason(server) is CloseReason.PROTOCOL
    deliver(server, client)
    assert client.closed == Closed(CloseReason.PROTOCOL, True, "closed by the peer")


@pytest.mark.rule("MQ-07")
def test_a_repeat_does_not_keep_a_dead_session_alive() -> None:
    client, server = open_pair()
    client.send(MESSAGE, 0.0)
    (packet,) = client.packets()
    server.receive(packet, 0.0)
    for now in range(0, 90, 10):
        server.receive(packet, float(now))
    server.tick(90.0)
    assert _reason(server) is CloseReason.TIMEOUT


@pytest.mark.rule("MQ-10")
def test_frames_of_another_session_are_ignored() -> None:
    client, server = open_pair()
    client.send(MESSAGE, 0.0)
    (packet,) = client.packets()
    old = changed(packet, topic=packet.topic.replace(server.parameters.sid, "an-old-session-id"))
    assert server.receive(old, 0.0) == []
    assert _texts(server.receive(packet, 0.0)) == [MESSAGE]


@pytest.mark.rule("MQ-10")
def test_what_comes_after_the_end_is_ignored() -> None:
    client, server = open_pair()
    client.send(MESSAGE, 0.0)
    late = client.packets()
    server.close(CloseReason.NORMAL, 0.0)
    server.packets()
    assert [server.receive(packet, 0.0) for packet in late] == [[]]
    assert server.packets() == []


@both
@pytest.mark.parametrize("kind", [FrameKind.ACCEPT, FrameKind.OPEN])
def test_frames_of_the_opening_are_out_of_place_later(protection: Protection, kind: FrameKind) -> None:
    client, server = open_pair(protection)
    if kind is FrameKind.OPEN:
        server.receive(Packet(server.inbound_topic, b"{}", PLAIN_CONTROL, (("s2-frame", "open"),)), 0.0)
    else:
        client._control(kind, {"sid": client.parameters.sid}, 0.0)
        deliver(client, server)
    assert _reason(server) is CloseReason.PROTOCOL


def test_the_numbers_end_before_they_repeat() -> None:
    client, server = open_pair()
    client._sent = server._received = MAX_SEQ - 2
    assert client.send(MESSAGE, 0.0) == []
    assert client.send(MESSAGE, 0.0) == [Closed(CloseReason.RECONNECT, False, "the sequence numbers are used up")]
    events = deliver(client, server)
    assert _texts(events) == [MESSAGE]
    assert _reason(server) is CloseReason.RECONNECT


# What a frame holds


@pytest.mark.rule("MQ-06")
def test_plain_data_has_the_id_as_correlation_data_and_sealed_has_none() -> None:
    status = '{"message_type":"ReceptionStatus","subject_message_id":"m-9","status":"OK"}'
    client, _ = open_pair(Protection.PLAIN)
    for text in (MESSAGE, status, "no json"):
        client.send(text, 0.0)
    assert [packet.correlation for packet in client.packets()] == [b"m-1", b"m-9", None]
    client, _ = open_pair(Protection.SEALED)
    client.send(MESSAGE, 0.0)
    assert client.packets()[0].correlation is None


@pytest.mark.rule("MQ-07")
def test_whoever_reads_everything_learns_no_message_and_no_token() -> None:
    client, server = new_static_pair(static_session())
    seen: list[Packet] = []
    server.start(0.0)
    for _ in range(4):
        for source, target in ((server, client), (client, server)):
            for packet in source.packets():
                seen.append(packet)
                target.receive(packet, 0.0)
        if client.state is server.state is State.OPEN and len(seen) < 6:
            client.send(MESSAGE, 0.0)
            server.send(MESSAGE, 0.0)
    assert len(seen) >= 5
    everything = b"".join(packet.payload + repr(packet).encode() for packet in seen)
    for secret in (TOKEN.raw, TOKEN.reveal().encode(), b"PowerMeasurement", b"m-1"):
        assert secret not in everything


@pytest.mark.rule("MQ-05")
def test_a_plain_message_is_published_byte_for_byte() -> None:
    client, _ = open_pair(Protection.PLAIN)
    text = ' {"message_type" : "X",\n "message_id":"aa", "n": 1.50}'
    client.send(text, 0.0)
    assert client.packets()[0].payload == text.encode()


@both
@pytest.mark.rule("MQ-06")
def test_another_version_than_agreed_ends_the_session(protection: Protection) -> None:
    client, server = open_pair(protection)
    client.send(MESSAGE, 0.0)
    (packet,) = client.packets()
    properties = (*packet.user_properties[:2], ("s2-ver", "1.0.0"))
    server.receive(changed(packet, user_properties=properties), 0.0)
    assert _reason(server) is CloseReason.PROTOCOL


def test_data_that_is_not_utf_8_ends_the_session() -> None:
    client, server = open_pair(Protection.PLAIN)
    client.send(MESSAGE, 0.0)
    server.receive(changed(client.packets()[0], payload=b"\xff"), 0.0)
    assert _reason(server) is CloseReason.PROTOCOL


def test_half_a_surrogate_pair_is_a_mistake_of_the_caller() -> None:
    client, _ = open_pair()
    with pytest.raises(UsageError):
        client.send('{"a":"\ud800"}', 0.0)
    assert client.packets() == []


@pytest.mark.rule("MQ-14")
def test_the_broker_keeps_no_frame_longer_than_its_sender_waits() -> None:
    client, _ = open_pair(limits=ChannelLimits(expiry=7.2))
    client.send(MESSAGE, 0.0)
    client.close(CloseReason.NORMAL, 0.0)
    assert [packet.expiry for packet in client.packets()] == [8, 8]
    client, _ = open_pair()
    client.send(MESSAGE, 0.0)
    assert client.packets()[0].expiry == 15


@pytest.mark.rule("MQ-08")
def test_nothing_of_a_session_is_retained() -> None:
    client, server = new_pair()
    server.start(0.0)
    packets = server.packets()
    client.receive(packets[0], 0.0)
    client.send(MESSAGE, 0.0)
    assert not any(packet.retain for packet in [*packets, *client.packets()])


# Liveness


@both
@pytest.mark.rule("MQ-13")
def test_a_ping_after_30_seconds_without_sending_is_answered(protection: Protection) -> None:
    client, server = open_pair(protection)
    client.send(MESSAGE, 20.0)
    deliver(client, server, 20.0)
    assert client.deadline() == 50.0
    assert (client.silence(50.0), server.silence(50.0)) == (50.0, 30.0)
    assert client.tick(49.9) == []
    assert client.packets() == []
    client.tick(50.0)
    (ping,) = client.packets()
    assert _property(ping, "s2-frame") == "ping"
    server.receive(ping, 50.0)
    (pong,) = server.packets()
    assert _property(pong, "s2-frame") == "pong"
    client.receive(pong, 50.0)
    assert client.packets() == []
    assert client.deadline() == 80.0
    assert client.silence(60.0) == 10.0 < client.dead_after == 90.0


@both
@pytest.mark.rule("MQ-13")
def test_90_seconds_without_a_frame_end_the_session(protection: Protection) -> None:
    client, _ = open_pair(protection)
    pings = 0
    while client.state is State.OPEN:
        now = client.deadline()
        assert now is not None
        client.tick(now)
        pings += sum(_property(packet, "s2-frame") == "ping" for packet in client.packets())
    assert (now, pings) == (90.0, 2)
    assert _reason(client) is CloseReason.TIMEOUT
    assert client.closed is not None
    assert client.closed.error.code == 1006


@pytest.mark.rule("MQ-13")
def test_two_silent_sides_keep_each_other_alive() -> None:
    client, server = open_pair()
    now = 0.0
    for _ in range(200):
        now = min(deadline for c in (client, server) if (deadline := c.deadline()) is not None)
        client.tick(now)
        server.tick(now)
        settle(client, server, now)
    assert client.state is server.state is State.OPEN
    assert now > 1000.0


def test_an_early_tick_changes_nothing() -> None:
    client, _ = open_pair()
    before = client.deadline()
    assert client.tick(1.0) == []
    assert client.deadline() == before


# Length


@both
@pytest.mark.rule("MQ-15")
def test_a_message_that_is_too_long_is_answered_to_its_sender_and_not_sent(protection: Protection) -> None:
    client, server = open_pair(protection, limits=ChannelLimits(send_bytes=200))
    long = MESSAGE.replace("[]", "[" + "1," * 200 + "1]")
    (answer,) = _texts(client.send(long, 0.0))
    value = json.loads(answer)
    assert (value["subject_message_id"], value["status"]) == ("m-1", "INVALID_CONTENT")
    assert "200 bytes" in value["diagnostic_label"]
    assert client.packets() == []
    client.send(MESSAGE, 0.0)
    assert _texts(deliver(client, server)) == [MESSAGE]


@pytest.mark.rule("MQ-15")
def test_the_limit_counts_bytes_and_is_inclusive() -> None:
    text = '{"message_type":"X","message_id":"aa","x":"€"}'
    client, server = open_pair(limits=ChannelLimits(send_bytes=len(text.encode())))
    client.send(text, 0.0)
    assert _texts(deliver(client, server)) == [text]
    assert _texts(client.send(text.replace("€", "€€"), 0.0))


@pytest.mark.rule("MQ-15")
def test_of_an_answer_that_is_too_long_only_the_label_is_cut() -> None:
    client, server = open_pair(limits=ChannelLimits(send_bytes=400))
    status = {"message_type": "ReceptionStatus", "subject_message_id": "m-9", "status": "INVALID_DATA"}
    assert client.send(json.dumps({**status, "diagnostic_label": "x" * 5000}), 0.0) == []
    (text,) = _texts(deliver(client, server))
    assert json.loads(text) == {**status, "diagnostic_label": "x" * 200}
    assert client.send(json.dumps({**status, "status": "NEW" * 500}), 0.0) == []
    assert client.packets() == []


@pytest.mark.rule("MQ-15")
@pytest.mark.parametrize(("room", "sent"), [(0, 1), (-1, 0)])
def test_a_cut_answer_that_is_still_too_long_is_not_sent(room: int, sent: int) -> None:
    status = {"message_type": "ReceptionStatus", "subject_message_id": "m-9", "status": "INVALID_DATA"}
    cut = json.dumps({**status, "diagnostic_label": "é" * 200}, ensure_ascii=False, separators=(",", ":"))
    client, server = open_pair(limits=ChannelLimits(send_bytes=len(cut.encode()) + room))
    assert client.send(json.dumps({**status, "diagnostic_label": "é" * 5000}, ensure_ascii=False), 0.0) == []
    assert _texts(deliver(client, server)) == [cut] * sent


@pytest.mark.rule("MQ-15")
def test_what_is_too_long_and_no_message_is_answered_as_such() -> None:
    client, _ = open_pair(limits=ChannelLimits(send_bytes=50))
    (answer,) = _texts(client.send("x" * 51, 0.0))
    assert json.loads(answer)["status"] == "INVALID_DATA"
    assert client.send('{"message_type":"ReceptionStatus","x":"' + "x" * 50 + '"}', 0.0) == []


@both
def test_a_message_longer_than_we_receive_ends_the_session(protection: Protection) -> None:
    client, server = open_pair(protection, limits=ChannelLimits(receive_bytes=100))
    client.send(MESSAGE + " " * (100 - len(MESSAGE)), 0.0)
    assert len(_texts(deliver(client, server))) == 1
    client.send(MESSAGE + " " * (101 - len(MESSAGE)), 0.0)
    deliver(client, server)
    assert _reason(server) is CloseReason.PROTOCOL


# The end


@both
@pytest.mark.rule("MQ-16")
@pytest.mark.parametrize("reason", CloseReason)
def test_both_sides_know_why_a_session_ends(protection: Protection, reason: CloseReason) -> None:
    client, server = open_pair(protection)
    assert server.close(reason, 0.0) == [Closed(reason, False, "closed on this side")]
    assert server.close(reason, 0.0) == []
    assert deliver(server, client) == [Closed(reason, True, "closed by the peer")]
    assert client.packets() == []
    for channel in (client, server):
        with pytest.raises(ConnectionClosed) as caught:
            channel.send(MESSAGE, 0.0)
        assert (caught.value.code, caught.value.reason) == (reason.code, reason.value)


@pytest.mark.rule("MQ-16")
@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ({"reason": "normal"}, CloseReason.NORMAL),
        ({"reason": "a reason of tomorrow", "new": 1}, CloseReason.NORMAL),
        ({}, CloseReason.NORMAL),
        ({"reason": 7}, CloseReason.NORMAL),
        ({"reason": "reconnect", "after": 2.5}, CloseReason.RECONNECT),
        ({"reason": "reconnect", "after": "5"}, CloseReason.RECONNECT),
    ],
)
def test_a_close_is_believed_as_far_as_it_can_be_read(payload: dict[str, Any], reason: CloseReason) -> None:
    client, server = open_pair()
    client._control(FrameKind.CLOSE, payload, 0.0)
    assert deliver(client, server) == [Closed(reason, True, "closed by the peer")]


@pytest.mark.rule("MQ-10")
def test_the_link_is_the_session() -> None:
    client, _ = open_pair()
    client.send(MESSAGE, 0.0)
    (end,) = client.lost()
    assert isinstance(end, Closed)
    assert end.reason is None
    assert end.error.code == 1006
    assert client.packets() == []
    assert client.lost() == []


@pytest.mark.rule("MQ-16")
def test_close_codes_become_reasons_and_reasons_codes() -> None:
    for reason in CloseReason:
        assert CloseReason.for_code(reason.code, reason.value) is reason
    assert CloseReason.for_code(1000, "bye") is CloseReason.NORMAL
    assert CloseReason.for_code(1001) is CloseReason.RECONNECT
    assert CloseReason.for_code(1009) is CloseReason.PROTOCOL
    assert CloseReason.for_code(4321) is CloseReason.NORMAL


@pytest.mark.rule("MQ-07", "SEC-01")
def test_a_session_that_has_ended_or_opened_has_forgotten_its_token() -> None:
    client, server = open_pair()
    assert client._token is server._token is None
    client, server = new_pair()
    client.lost()
    server.close(CloseReason.NORMAL, 0.0)
    assert client._token is server._token is None
    assert client._seal is server._seal is None
    assert TOKEN.reveal() not in repr(client)


def test_a_session_that_was_never_started_ends_in_silence() -> None:
    client = ClientChannel(parameters(), token=TOKEN, boot=BOOT)
    assert client.deadline() is None
    assert client.close(CloseReason.NORMAL, 0.0)
    assert client.packets() == []


# Anything may arrive


@pytest.mark.rule("MQ-07", "MQ-09")
@given(
    st.sampled_from(Protection),
    st.sampled_from([*map(str, FrameKind), "x"]),
    st.sampled_from(["0", "1", "2", "3", "x"]),
    st.sampled_from([None, "v1.0.0", "2"]),
    st.sampled_from(["application/json", PLAIN_CONTROL, "application/vnd.s2-sealed", None]),
    st.binary(max_size=40) | st.sampled_from([b"{}", b'{"reason":"normal"}', MESSAGE.encode()]),
)
def test_any_frame_of_a_stranger_is_handled(
    protection: Protection, kind: str, seq: str, version: str | None, content_type: str | None, payload: bytes
) -> None:
    client, server = open_pair(protection)
    properties = [("s2-frame", kind), ("s2-seq", seq)] + ([("s2-ver", version)] if version else [])
    for channel in (client, server):
        packet = Packet(channel.inbound_topic, payload, content_type, tuple(properties))
        events = channel.receive(packet, 1.0)
        if protection is Protection.SEALED:
            assert _texts(events) == []


# A hostile broker


class HostileBroker(RuleBasedStateMachine):
    """Drops, repeats, reorders and changes sealed frames: each side gets exactly the first so many texts, in order, or
    the session ends with a reason."""

    def __init__(self) -> None:
        super().__init__()
        self.client, self.server = open_pair()
        self.now = 0.0
        self.wires: dict[Channel, list[Packet]] = {self.client: [], self.server: []}
        self.old: dict[Channel, list[Packet]] = {self.client: [], self.server: []}
        self.sent: dict[Channel, list[str]] = {self.client: [], self.server: []}
        self.got: dict[Channel, list[str]] = {self.client: [], self.server: []}
        self.harmed: set[Channel] = set()

    def peer(self, channel: Channel) -> Channel:
        return self.server if channel is self.client else self.client

    def collect(self) -> None:
        for source in (self.client, self.server):
            self.wires[self.peer(source)] += source.packets()

    def give(self, target: Channel, packet: Packet) -> None:
        self.got[target] += _texts(target.receive(packet, self.now))
        self.old[target].append(packet)
        self.collect()

    channels = st.booleans()

    def pick(self, first: bool) -> Channel:
        return self.client if first else self.server

    @rule(first=channels)
    def send(self, first: bool) -> None:
        source = self.pick(first)
        if source.state is State.OPEN:
            text = json.dumps({"message_type": "X", "message_id": f"id-{len(self.sent[source])}"})
            source.send(text, self.now)
            self.sent[source].append(text)
            self.collect()

    @rule(first=channels)
    def forward(self, first: bool) -> None:
        target = self.pick(first)
        if self.wires[target]:
            self.give(target, self.wires[target].pop(0))

    @rule(first=channels)
    def drop(self, first: bool) -> None:
        target = self.pick(first)
        if self.wires[target]:
            self.wires[target].pop(0)
            self.harmed.add(target)

    @rule(first=channels, data=st.data())
    def repeat(self, first: bool, data: st.DataObject) -> None:
        target = self.pick(first)
        if self.old[target]:
            self.give(target, data.draw(st.sampled_from(self.old[target])))

    @rule(first=channels)
    def reorder(self, first: bool) -> None:
        wire = self.wires[self.pick(first)]
        if len(wire) > 1:
            wire[0], wire[1] = wire[1], wire[0]

    @rule(first=channels, data=st.data())
    def change(self, first: bool, data: st.DataObject) -> None:
        target = self.pick(first)
        if not self.wires[target]:
            return
        packet = self.wires[target].pop(0)
        payload = bytearray(packet.payload)
        payload[data.draw(st.integers(0, len(payload) - 1))] ^= data.draw(st.integers(1, 255))
        self.harmed.add(target)
        self.give(target, changed(packet, payload=bytes(payload)))

    @rule(first=channels)
    def reflect(self, first: bool) -> None:
        """Return to one side on its inbound topic what it sent."""
        target = self.pick(first)
        sent = self.old[self.peer(target)]
        if sent:
            self.give(target, changed(sent[-1], topic=target.inbound_topic))

    @rule(seconds=st.sampled_from([1.0, 29.0, 31.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for channel in (self.client, self.server):
            channel.tick(self.now)
        self.collect()

    def teardown(self) -> None:
        """Left alone from here, the two either have everything or know that they do not."""
        until = self.now + 200.0
        while True:
            self.collect()
            for target in (self.client, self.server):
                while self.wires[target]:
                    self.give(target, self.wires[target].pop(0))
            waiting = [deadline for c in (self.client, self.server) if (deadline := c.deadline()) is not None]
            if not waiting or self.now > until:
                break
            self.now = max(self.now, min(waiting))
            for channel in (self.client, self.server):
                channel.tick(self.now)
        states = {self.client.state, self.server.state}
        assert states in ({State.OPEN}, {State.CLOSED}), "one side does not know that the other has ended"
        if states == {State.OPEN}:
            for channel in (self.client, self.server):
                assert self.got[self.peer(channel)] == self.sent[channel]
        elif self.harmed:
            assert any(c.closed and c.closed.reason is not CloseReason.NORMAL for c in (self.client, self.server))

    @invariant()
    def what_arrived_is_a_prefix_of_what_was_sent(self) -> None:
        for channel in (self.client, self.server):
            got, sent = self.got[self.peer(channel)], self.sent[channel]
            assert got == sent[: len(got)]

    @invariant()
    def an_end_has_a_reason(self) -> None:
        for channel in (self.client, self.server):
            assert (channel.state is State.CLOSED) is (channel.closed is not None)


HostileBroker.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@pytest.mark.rule("MQ-07", "MQ-09", "MQ-16")
class TestHostileBroker(HostileBroker.TestCase):  # type: ignore[misc, valid-type]
    """Runs the machine."""


def kinds(channel: Channel) -> list[str]:
    return [dict(packet.user_properties)["s2-frame"] for packet in channel.packets()]


def test_in_a_cluster_a_peer_that_leaves_a_message_unanswered_is_asked_and_then_given_up() -> None:
    client, server = open_pair(limits=ChannelLimits(suspect_after=10))
    settle(client, server)
    client.send(MESSAGE, 3.0)
    assert kinds(client) == ["data"]
    assert client.deadline() == 10
    assert not client.tick(10.0)
    assert not client.tick(20.0)
    assert kinds(client) == ["ping"], "nothing was heard for 17 s"
    (closed,) = client.tick(30.0)
    assert isinstance(closed, Closed)
    assert closed.reason is CloseReason.TIMEOUT


def test_in_a_cluster_a_peer_that_answers_or_was_asked_nothing_is_left_alone() -> None:
    client, server = open_pair(limits=ChannelLimits(suspect_after=10))
    client.send(MESSAGE, 3.0)
    deliver(client, server, 3.0)
    assert not client.tick(20.0)
    deliver(client, server, 20.0)  # the ping
    deliver(server, client, 20.1)  # the pong
    for now in (30.0, 40.0, 49.0):
        assert not client.tick(now)
    assert kinds(client) == []


@both
@pytest.mark.parametrize("is_static", [False, True])
@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.rule("MQ-09", "MQ-13")
def test_a_peer_that_is_asked_answers_behind_what_it_has_sent(
    protection: Protection, is_static: bool, side: str
) -> None:
    """Also where pings of another cause are on their way: a pong belongs to the ping of its number."""
    if is_static:
        client, server = new_static_pair(static_session(protection=protection))
        server.start(0.0)
        deliver(server, client)
        settle(client, server)
    else:
        client, server = open_pair(protection)
    ours, theirs = (client, server) if side == "client" else (server, client)
    ours.tick(30.0)  # a ping
    theirs.send(MESSAGE, 30.0)
    assert not ours.ask(30.0)
    asked = ours.asked
    early, late = ours.packets()
    theirs.receive(early, 30.1)
    (received, before) = deliver(theirs, ours, 30.2)
    assert isinstance(received, Received)
    assert before == Answered(asked - 1), "it answers what was asked before"
    theirs.send(MESSAGE, 30.3)
    theirs.receive(late, 30.4)
    assert deliver(theirs, ours, 30.5) == [Received(MESSAGE), Answered(asked)]


@pytest.mark.rule("MQ-13")
def test_pongs_to_no_ping_answer_none_that_follows() -> None:
    client, server = open_pair()
    for _ in range(3):
        server._control(FrameKind.PONG, {}, 1.0)
    assert set(deliver(server, client, 1.0)) == {Answered(0)}
    client.ask(2.0)
    assert deliver(server, client, 2.0) == []
    deliver(client, server, 2.0)
    assert deliver(server, client, 2.0) == [Answered(1)]
