"""WebSocket: the token, the limits, silence and farewell. Real TLS; the far side is often another library."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import socket
import ssl
from typing import Any
from uuid import UUID

import pytest
import trustme
from aiohttp import web
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from s2connect.errors import (
    CertificateRefused,
    ConnectionClosed,
    NotReachable,
    PeerBusy,
    PeerTimeout,
    ProtocolViolation,
    SessionRefused,
)
from s2connect.messages.envelope import BINARY_FRAME, NIL_ID
from s2connect.model.common import NodeDescription, NodeId, Role
from s2connect.model.secret import CommunicationToken
from s2connect.model.session_init import CommunicationDetails, WebSocketCommunicationDetails
from s2connect.model.url import WebSocketUrl
from s2connect.session.session import Session
from s2connect.supervisor import FailureLog
from s2connect.transports import offers, websocket, websocket_client
from s2connect.transports.base import MAX_MESSAGE_BYTES, PING_INTERVAL, ConnectionInfo, Trust
from s2connect.transports.peer_watch import PeerWatch
from s2connect.transports.websocket_client import OPEN_TIMEOUT
from s2connect.transports.websocket_connection import MAX_BINARY_FRAMES, PEER_TIMEOUT
from s2connect.transports.websocket_server import accept
from tests.waits import at_most, slowed, until, until_still, within

CEM, RM = NodeId(UUID(int=1)), NodeId(UUID(int=2))
MINE = ConnectionInfo("WebSocket", CEM, RM, "v1.0.0")
THEIRS = ConnectionInfo("WebSocket", RM, CEM, "v1.0.0")
FAST = {"ping_interval": 0.05, "peer_timeout": slowed(0.3), "close_timeout": slowed(0.3)}
MEASUREMENT = """{"message_type": "PowerMeasurement", "message_id": "m-1", "measurement_timestamp":
 "2026-01-01T00:00:00Z", "values": [{"commodity_quantity": "ELECTRIC.POWER.L1", "value": 1}]}"""
TOKEN = CommunicationToken.from_bytes(bytes(32))


def raw_client(made: Any, token: str | None, **options: Any) -> connect:
    headers = {} if token is None else {"Authorization": token}
    headers |= options.pop("additional_headers", {})
    return connect(
        made.url,
        additional_headers=headers,
        ssl=made.client_context,
        host="127.0.0.1",
        port=made.port,
        server_hostname="device.local",
        proxy=None,
        **options,
    )


async def raw_pair(made: Any, **options: Any) -> tuple[Any, ClientConnection]:
    """Our server's end and a client that is the bare library."""
    offer = made.server.offer(MINE)
    client = await raw_client(made, f"Bearer {offer.details.websocket_token.reveal()}", **options)
    return await offer.connection, client


@contextlib.asynccontextmanager
async def foreign_server(made: Any, handler: Any) -> Any:
    """A server that is the bare library; yields details that lead there."""
    app = web.Application()
    app.router.add_get("/", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=made.server_context)
    await site.start()
    url = WebSocketUrl(f"wss://device.local:{runner.addresses[0][1]}/")
    try:
        yield WebSocketCommunicationDetails(
            communication_protocol="WebSocket", websocket_token=TOKEN, websocket_url=url
        )
    finally:
        await runner.cleanup()


@pytest.mark.rule("WS-02")
@pytest.mark.parametrize(
    "token", [None, "", "Bearer", "Bearer ", "Basic x", "Bearer wrong", f"Bearer {TOKEN.reveal()}"]
)
async def test_a_wrong_token_gets_401_before_the_upgrade(rig: Any, token: str | None) -> None:
    async with rig() as made:
        offer = made.server.offer(MINE)
        with pytest.raises(InvalidStatus) as caught:
            await raw_client(made, token)
        assert caught.value.response.status_code == 401
        assert not offer.connection.done()


@pytest.mark.rule("WS-02", "SES-04")
async def test_a_spent_token_gets_401(rig: Any) -> None:
    async with rig() as made:
        offer = made.server.offer(MINE)
        bearer = f"Bearer {offer.details.websocket_token.reveal()}"
        async with raw_client(made, bearer):
            server = await offer.connection
            with pytest.raises(InvalidStatus) as caught:
                await raw_client(made, bearer)
            assert caught.value.response.status_code == 401
            await server.close()


@pytest.mark.rule("WS-02", "SES-04")
async def test_a_request_whose_extensions_are_malformed_is_refused_and_uses_no_token_up(rig: Any) -> None:
    async with rig() as made:
        offer = made.server.offer(MINE)
        bearer = f"Bearer {offer.details.websocket_token.reveal()}"
        with pytest.raises(InvalidStatus) as caught:
            await raw_client(made, bearer, compression=None, additional_headers={"Sec-WebSocket-Extensions": ";;=x"})
        assert caught.value.response.status_code == 400
        assert not offer.connection.done()
        async with raw_client(made, bearer):
            await (await offer.connection).close()


@pytest.mark.rule("WS-02", "SES-04")
async def test_an_offer_expires_and_its_token_with_it(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert offers.OFFER_LIFETIME == 30
    monkeypatch.setattr(offers, "OFFER_LIFETIME", 0.05)
    async with rig() as made:
        offer = made.server.offer(MINE)
        with pytest.raises(asyncio.CancelledError):
            await offer.connection
        with pytest.raises(SessionRefused) as caught:
            await made.client.connect(THEIRS, offer.details, made.trust)
        assert offer.details.websocket_token.reveal() not in repr(caught.value)


@pytest.mark.rule("WS-01", "SES-04")
async def test_an_offer_has_a_wss_url_and_a_token_of_32_bytes(rig: Any) -> None:
    async with rig() as made:
        offer = made.server.offer(MINE)
        assert offer.details.websocket_url.startswith("wss://")
        assert len(base64.b64decode(offer.details.websocket_token.reveal())) == 32
        offer.connection.cancel()


@pytest.mark.rule("WS-03")
@pytest.mark.parametrize("compression", [True, False])
async def test_deflate_is_on_by_default_and_can_be_off(rig: Any, compression: bool) -> None:
    async with rig(compression=compression) as made:
        server, client = await raw_pair(made)
        assert client.response is not None
        assert ("permessage-deflate" in client.response.headers.get("Sec-WebSocket-Extensions", "")) == compression
        await server.send("ä" * 1000)
        assert await client.recv() == "ä" * 1000
        await asyncio.gather(server.close(), client.close())


@pytest.mark.rule("WS-03")
async def test_our_client_offers_deflate(rig: Any) -> None:
    async with rig() as made:
        server, client = await made.pair()
        assert [extension.name for extension in client._protocol.extensions] == ["permessage-deflate"]
        await asyncio.gather(server.close(), client.close())


@pytest.mark.rule("WS-05")
async def test_a_binary_frame_is_answered_and_the_session_goes_on(rig: Any, caplog: pytest.LogCaptureFixture) -> None:
    peer = NodeDescription(id=RM, brand="B", type="T", model_name="M", role=Role.RM)
    async with rig() as made:
        server, client = await raw_pair(made)
        async with Session(server, peer=peer, role=Role.CEM) as session, within(10):
            await client.send(b"\x00binary")
            answer = json.loads(await client.recv())
            assert (answer["subject_message_id"], answer["status"]) == (NIL_ID, "INVALID_DATA")
            assert answer["diagnostic_label"] == "a binary frame; S2 messages are text"
            await client.send(MEASUREMENT)
            assert json.loads(await client.recv())["status"] == "OK"
            assert (await session.receive()).id == "m-1"
        await client.close()
    assert "a binary frame" in caplog.text


@pytest.mark.rule("WS-05")
async def test_repeated_binary_frames_end_the_connection_with_1003(rig: Any) -> None:
    async with rig() as made:
        server, client = await raw_pair(made)
        for _ in range(MAX_BINARY_FRAMES + 1):
            await client.send(b"binary")
        for _ in range(MAX_BINARY_FRAMES):
            assert await server.recv() == BINARY_FRAME
        with pytest.raises(ConnectionClosed) as ours:
            await server.recv()
        with pytest.raises(ConnectionClosedError) as theirs:
            await client.recv()
        assert theirs.value.rcvd is not None
        assert (ours.value.code, theirs.value.rcvd.code) == (1003, 1003)


@pytest.mark.rule("WS-05")
async def test_repeated_binary_frames_from_a_server_end_the_connection_with_1003(rig: Any) -> None:
    async def handler(request: web.Request) -> web.WebSocketResponse:
        response = web.WebSocketResponse()
        await response.prepare(request)
        for _ in range(MAX_BINARY_FRAMES + 1):
            await response.send_bytes(b"binary")
        seen.set_result((await response.receive()).data)
        return response

    seen: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    async with rig() as made, foreign_server(made, handler) as details:
        client = await made.client.connect(THEIRS, details, made.trust)
        for _ in range(MAX_BINARY_FRAMES):
            assert await client.recv() == BINARY_FRAME
        with pytest.raises(ConnectionClosed) as ours:
            await client.recv()
        assert (ours.value.code, await seen) == (1003, 1003)


@pytest.mark.rule("SEC-04")
async def test_text_that_is_not_utf_8_ends_the_connection_with_1007(rig: Any) -> None:
    async with rig() as made:
        server, client = await raw_pair(made, compression=None)
        await client.send(b"\xff\xfe", text=True)
        with pytest.raises(ConnectionClosed) as ours:
            await server.recv()
        with pytest.raises(ConnectionClosedError) as theirs:
            await client.recv()
        assert theirs.value.rcvd is not None
        assert (ours.value.code, theirs.value.rcvd.code) == (1007, 1007)


@pytest.mark.rule("WS-05")
@pytest.mark.parametrize("compression", [True, False])
@pytest.mark.parametrize("sender", ["server", "client"])
async def test_the_longest_message_passes_and_one_byte_more_ends_with_1009_and_a_line_in_the_log(
    rig: Any, sender: str, compression: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with rig(compression=compression) as made:
        server, client = await made.pair()
        writer, reader = (server, client) if sender == "server" else (client, server)
        text = "ab" * (MAX_MESSAGE_BYTES // 2)
        sending = asyncio.create_task(writer.send(text))
        assert await reader.recv() == text
        await sending
        sending = asyncio.create_task(writer.send(text + "c"))
        ends = await asyncio.gather(reader.recv(), writer.recv(), return_exceptions=True)
        await asyncio.gather(sending, return_exceptions=True)
        assert [getattr(end, "code", end) for end in ends] == [1009, 1009]
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1, warnings
    assert f"longer than {MAX_MESSAGE_BYTES} bytes" in warnings[0]


async def test_a_client_that_goes_while_it_is_answered_is_no_error(
    rig: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def late(request: web.Request, info: ConnectionInfo, *, compression: bool) -> Any:
        assert request.transport is not None
        request.transport.abort()
        return accept(request, info, compression=compression)

    monkeypatch.setattr(websocket, "accept", late)
    async with rig() as r:
        offer = r.server.offer(MINE)
        with pytest.raises(NotReachable):
            await r.client.connect(THEIRS, offer.details, r.trust)
        await until(offer.connection.cancelled)
        await asyncio.sleep(0.05)
    assert not [record for record in caplog.records if record.levelname in {"ERROR", "WARNING"}]


def test_the_watch_counts_only_silence_that_was_listened_to() -> None:
    watch = PeerWatch(0)
    assert watch.silence(10) == 10
    watch.stop(10)
    assert watch.silence(50) == 10
    watch.listen(100)
    assert watch.silence(105) == 15
    watch.heard(106)
    assert watch.silence(107) == 1
    watch.stop(108)
    watch.stop(109)
    assert watch.silence(500) == 2
    watch.heard(500)
    assert watch.silence(600) == 0
    watch.listen(600)
    assert watch.silence(601) == 1


@pytest.mark.rule("WS-04")
def test_the_timings_of_the_standard() -> None:
    assert PING_INTERVAL == 30
    assert 60 <= PEER_TIMEOUT <= 90
    assert OPEN_TIMEOUT < 30


@pytest.mark.rule("WS-04")
@pytest.mark.parametrize("side", ["server", "client"])
async def test_a_silent_but_answering_peer_stays_and_gets_pings(rig: Any, side: str) -> None:
    async with rig(timings=FAST) as made:
        server, client = await made.pair()
        ours, theirs = (server, client) if side == "server" else (client, server)
        waiting = asyncio.create_task(ours.recv())
        listening = asyncio.create_task(theirs.recv())
        await asyncio.sleep(3 * FAST["peer_timeout"])
        assert not waiting.done()
        listening.cancel()
        await theirs.send("still here")
        assert await waiting == "still here"
        await asyncio.gather(server.close(), client.close())


@pytest.mark.rule("WS-04")
async def test_an_absent_client_is_dropped(rig: Any) -> None:
    async with rig(timings=FAST) as made:
        server, client = await raw_pair(made, ping_interval=None)
        client.transport.pause_reading()  # neither pong nor FIN, as of a device without power
        async with within(3):
            with pytest.raises(ConnectionClosed) as caught:
                await server.recv()
        assert caught.value.code == 1006
        client.transport.abort()


@pytest.mark.rule("WS-04")
@pytest.mark.parametrize("side", ["server", "client"])
async def test_a_connection_whose_heartbeat_fails_ends(
    rig: Any, side: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Otherwise it would stand for ever once its peer has gone."""
    monkeypatch.setattr("s2connect.transports.websocket_connection.process_failures", FailureLog())
    async with rig(timings=FAST) as made:
        server, client = await made.pair()
        ours, theirs = (server, client) if side == "server" else (client, server)

        def fail() -> None:
            raise AttributeError("a private part of a library has moved")

        monkeypatch.setattr(ours, "_ping", fail)
        async with within(3):
            with pytest.raises(ConnectionClosed) as caught:
                await ours.recv()
            with pytest.raises(ConnectionClosed):
                await theirs.recv()
        assert caught.value.code == 1006
        (record,) = [r for r in caplog.records if r.levelno >= logging.ERROR]
        assert record.exc_info


@pytest.mark.rule("WS-04")
async def test_an_absent_server_is_dropped(rig: Any) -> None:
    async with rig(client_timings=FAST) as made:
        server, client = await made.pair()
        server._transport.pause_reading()
        async with within(3):
            with pytest.raises(ConnectionClosed) as caught:
                await client.recv()
        assert caught.value.code == 1006
        server._transport.abort()
        with pytest.raises(ConnectionClosed):
            await server.recv()


@pytest.mark.rule("WS-04", "WS-07")
@pytest.mark.parametrize("reader", ["server", "client"])
async def test_a_living_peer_is_not_dropped_because_we_read_slowly(rig: Any, reader: str) -> None:
    fast = {"ping_interval": 0.05, "peer_timeout": slowed(0.6), "close_timeout": slowed(0.3)}
    timings: dict[str, Any] = (
        {"timings": fast, "client_timings": {}} if reader == "server" else {"client_timings": fast}
    )
    async with rig(compression=False, **timings) as made:
        server, client = await made.pair()
        slow, writer = (server, client) if reader == "server" else (client, server)

        async def send() -> None:
            for number in range(300):
                await writer.send(f"{number}:" + "x" * 50_000)

        sending = asyncio.create_task(send())
        listening = asyncio.create_task(writer.recv())
        for number in range(300):
            if number < 2:
                await asyncio.sleep(1.5 * fast["peer_timeout"])
            assert (await slow.recv()).startswith(f"{number}:")
        await sending
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await asyncio.gather(server.close(), client.close())


@pytest.mark.rule("WS-07")
@pytest.mark.parametrize("writer", ["server", "client"])
async def test_a_send_cancelled_while_it_waits_for_room_does_not_harm_the_next(rig: Any, writer: str) -> None:
    async with rig(compression=False) as made:
        server, client = await made.pair()
        ours, theirs = (server, client) if writer == "server" else (client, server)
        sent, full = 0, False
        while not full:
            sent += 1
            full = True
            async with at_most(0.3):
                await ours.send(f"{sent}:" + "x" * 100_000)
                full = False
        sending = asyncio.create_task(ours.send("next"))
        await asyncio.sleep(0.01)
        for number in range(1, sent + 1):
            assert (await theirs.recv()).startswith(f"{number}:")
        assert await theirs.recv() == "next"
        await sending
        await asyncio.gather(server.close(), client.close())


@pytest.mark.rule("WS-07")
@pytest.mark.parametrize("writer", ["server", "client"])
async def test_what_waits_for_a_reader_is_bounded_on_both_sides(rig: Any, writer: str) -> None:
    async with rig(compression=False) as made:
        server, client = await made.pair()
        ours = server if writer == "server" else client
        sent = 0

        async def send() -> None:
            nonlocal sent
            while True:
                await ours.send("x" * 100_000)
                sent += 1

        sending = asyncio.create_task(send())
        await until_still(lambda: sent)
        assert sent * 100_000 < 32_000_000  # what the kernel holds, and a little
        assert ours._transport.get_write_buffer_size() < 2_000_000
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await asyncio.gather(server.close(), client.close())


async def test_a_lost_connection_is_1006_for_whoever_listens(rig: Any) -> None:
    async with rig() as made:
        server, client = await made.pair()
        waiting = asyncio.create_task(server.recv())
        await asyncio.sleep(0.01)
        client._transport.abort()
        for listener in (waiting, client.recv()):
            with pytest.raises(ConnectionClosed) as caught:
                await listener
            assert caught.value.code == 1006


@pytest.mark.parametrize("side", ["server", "client"])
async def test_closing_towards_a_peer_that_does_not_answer_is_bounded(rig: Any, side: str) -> None:
    async with rig(timings=FAST) as made:
        server, client = await made.pair()
        ours, theirs = (server, client) if side == "server" else (client, server)
        theirs._transport.pause_reading()
        async with within(2):
            await ours.close()
        theirs._transport.abort()
        with pytest.raises(ConnectionClosed):
            await theirs.recv()


@pytest.mark.parametrize("side", ["server", "client"])
async def test_a_cancelled_close_cuts_the_connection(rig: Any, side: str) -> None:
    async with rig() as made:
        server, client = await made.pair()
        ours, theirs = (server, client) if side == "server" else (client, server)
        theirs._transport.pause_reading()
        closing = asyncio.create_task(ours.close())
        await asyncio.sleep(0.05)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        async with within(1):
            await ours.close()
        with pytest.raises(ConnectionClosed):
            await ours.recv()
        theirs._transport.abort()
        with pytest.raises(ConnectionClosed):
            await theirs.recv()


@pytest.mark.parametrize(
    ("status", "error"),
    [(401, SessionRefused), (429, PeerBusy), (503, PeerBusy), (200, ProtocolViolation), (404, ProtocolViolation)],
)
@pytest.mark.rule("SEC-01")
async def test_refusals_of_a_server_become_our_errors(rig: Any, status: int, error: type[Exception]) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=status)

    async with rig() as made, foreign_server(made, handler) as details:
        with pytest.raises(error) as caught:
            await made.client.connect(THEIRS, details, made.trust)
        assert TOKEN.reveal() not in str(caught.value)


async def test_a_redirect_is_not_followed(rig: Any) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "/elsewhere"})

    async with rig() as made, foreign_server(made, handler) as details:
        with pytest.raises(ProtocolViolation):
            await made.client.connect(THEIRS, details, made.trust)


@pytest.mark.rule("TRUST-06")
async def test_a_certificate_of_another_root_or_name_is_refused(rig: Any) -> None:
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trustme.CA().configure_trust(stranger)
    async with rig() as made:
        offer = made.server.offer(MINE)
        with pytest.raises(CertificateRefused):
            await made.client.connect(THEIRS, offer.details, Trust(stranger, "127.0.0.1"))
        other = WebSocketUrl(f"wss://localhost:{made.port}/")
        details = WebSocketCommunicationDetails(
            communication_protocol="WebSocket", websocket_token=TOKEN, websocket_url=other
        )
        with pytest.raises(CertificateRefused):
            await made.client.connect(THEIRS, details, Trust(made.client_context, "127.0.0.1"))
        offer.connection.cancel()


async def test_nobody_there_and_nobody_answering_are_told_apart(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_client, "OPEN_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        details = WebSocketCommunicationDetails(
            communication_protocol="WebSocket",
            websocket_token=TOKEN,
            websocket_url=WebSocketUrl(f"wss://device.local:{port}/"),
        )
        async with rig() as made:
            with pytest.raises(PeerTimeout):
                await made.client.connect(THEIRS, details, made.trust)
            silent.close()
            with pytest.raises(NotReachable):
                await made.client.connect(THEIRS, details, made.trust)


async def test_plain_details_with_the_members_of_websocket_will_do(rig: Any) -> None:
    async with rig() as made:
        offer = made.server.offer(MINE)
        plain = CommunicationDetails.from_json(offer.details.to_json())
        client = await made.client.connect(THEIRS, plain, made.trust)
        server = await offer.connection
        assert client.info.peer_address == f"127.0.0.1:{made.port}"
        await asyncio.gather(server.close(), client.close())


@pytest.mark.rule("SEC-01")
async def test_the_token_is_in_no_log_line_at_any_level(rig: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with rig() as made:
        offer = made.server.offer(MINE)
        client = await made.client.connect(THEIRS, offer.details, made.trust)
        server = await offer.connection
        await asyncio.gather(server.close(), client.close())
        assert offer.details.websocket_token.reveal() not in caplog.text
