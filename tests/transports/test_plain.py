"""Plain S2 over WebSocket: who gets in, the handshake on real sockets, and what is left when it fails."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import ifaddr
import pytest
import trustme
from aiohttp import web
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed as WebSocketClosed
from websockets.exceptions import InvalidStatus

from s2connect.endpoint.plain_server import PlainServer
from s2connect.errors import (
    CertificateRefused,
    ConfigurationError,
    ConnectionClosed,
    InvalidUrl,
    NetworkError,
    PeerBusy,
    PeerTimeout,
    ProtocolViolation,
    S2ConnectError,
    SessionRefused,
)
from s2connect.model.common import NodeDescription, NodeId, Role
from s2connect.model.secret import Secret
from s2connect.session.session import Session
from s2connect.transports import plain, websocket_client
from s2connect.transports.base import Connection, Trust
from s2connect.transports.plain import PlainAcceptor, PlainConnection, connect_plain, is_this_machine, plain_node_id
from s2connect.transports.websocket_connection import WebSocketConnection
from tests.transports.conftest import contexts
from tests.waits import slowed, until, within

CEM, RM = NodeId(UUID(int=1)), NodeId(UUID(int=2))
TOKENS = {"battery": Secret("token-of-the-battery"), "pump": Secret("token-of-the-pump")}
BETA = "0.0.2-beta"


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let opening and closing take little time."""
    monkeypatch.setattr(websocket_client, "OPEN_TIMEOUT", slowed(0.5))
    monkeypatch.setattr(WebSocketConnection, "close_timeout", slowed(0.2))


def acceptor(**options: Any) -> PlainAcceptor:
    usual: dict[str, Any] = {"role": Role.CEM, "local": CEM, "tokens": TOKENS}
    return PlainAcceptor(**(usual | options))


async def device(port: int, token: str | None = "battery", **options: Any) -> Connection:
    key = None if token is None else TOKENS.get(token, Secret(token))
    usual: dict[str, Any] = {"role": Role.RM, "local": RM, "token": key}
    return await connect_plain(f"ws://127.0.0.1:{port}/s2", **(usual | options))


@contextlib.asynccontextmanager
async def listening(**options: Any) -> AsyncIterator[PlainServer]:
    async with PlainServer(acceptor(**options), path="/s2") as server:
        yield server


def raw_client(port: int, token: str | None = "battery", **options: Any) -> connect:
    headers = {} if token is None else {"Authorization": f"Bearer {TOKENS[token].reveal()}"}
    headers |= options.pop("headers", {})
    return connect(f"ws://127.0.0.1:{port}/s2", additional_headers=headers, proxy=None, close_timeout=0.2, **options)


@contextlib.asynccontextmanager
async def raw_server(handler: Any) -> AsyncIterator[str]:
    """A server that is the bare library and runs ``handler`` on the open WebSocket."""

    async def serve(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await handler(socket)
        return socket

    app = web.Application()
    app.router.add_get("/", serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"ws://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


def handshake(role: str) -> str:
    return json.dumps(
        {"message_type": "Handshake", "message_id": "hs", "role": role, "supported_protocol_versions": [BETA]}
    )


RESPONSE = json.dumps({"message_type": "HandshakeResponse", "message_id": "hr", "selected_protocol_version": BETA})
SELECT = json.dumps({"message_type": "SelectControlType", "message_id": "sel", "control_type": "NO_SELECTION"})


def ok(subject: str) -> str:
    return json.dumps({"message_type": "ReceptionStatus", "subject_message_id": subject, "status": "OK"})


def node(role: Role) -> NodeDescription:
    return NodeDescription(id=UUID(int=3), brand="B", type="T", model_name="M", role=role)


# Coming in


@pytest.mark.parametrize("compression", [True, False])
async def test_a_client_and_a_server_agree_and_know_each_other(compression: bool) -> None:
    async with listening(compression=compression) as server:
        rm = await device(server.port, compression=compression)
        cem = await anext(server)
        assert isinstance(rm, PlainConnection)
        assert {c.info.protocol for c in (rm, cem)} == {"S2-WebSocket"}
        assert (rm.info.s2_version, cem.info.s2_version) == (BETA, BETA)
        assert (rm.info.local, rm.info.remote) == (RM, plain_node_id(f"ws://127.0.0.1:{server.port}/s2"))
        assert (cem.info.local, cem.info.remote) == (CEM, plain_node_id("battery"))
        assert rm.remote_address == cem.remote_address == "127.0.0.1"
        await rm.send("€ {}")
        assert await cem.recv() == "€ {}"
        await rm.close(1000, "bye")
        with pytest.raises(ConnectionClosed, match="bye"):
            await cem.recv()
        await cem.wait_closed()


async def test_the_server_may_be_the_device_and_names_may_be_given() -> None:
    async with listening(role=Role.RM, local=RM, versions=["1.0.0"]) as server:
        cem = await device(server.port, role=Role.CEM, local=CEM, name="the charger")
        rm = await anext(server)
        assert (cem.info.s2_version, rm.info.s2_version) == ("1.0.0", "1.0.0")
        assert cem.info.remote == plain_node_id("the charger")
        await asyncio.gather(cem.close(), rm.recv(), return_exceptions=True)


async def test_a_session_just_works_and_refuses_a_later_handshake() -> None:
    async with listening() as server, raw_client(server.port) as raw:
        await raw.send(handshake("RM"))
        while "HandshakeResponse" not in (answer := str(await raw.recv())):
            pass
        await raw.send(ok(json.loads(answer)["message_id"]))
        async with Session(await anext(server), peer=node(Role.RM), role=Role.CEM):
            await raw.send(handshake("RM"))
            assert json.loads(await raw.recv())["status"] == "INVALID_CONTENT"


@pytest.mark.rule("SEC-01")
@pytest.mark.parametrize("token", [None, "wrong", "token-of-the-batter"])
async def test_without_a_valid_token_nobody_comes_in(token: str | None, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with listening() as server:
        with pytest.raises(SessionRefused):
            await device(server.port, token)
        await (await device(server.port, "pump")).close()
        assert (await anext(server)).info.remote == plain_node_id("pump")
    assert "token-of" not in caplog.text


@pytest.mark.rule("SEC-03")
async def test_a_web_page_cannot_use_an_acceptor_without_tokens() -> None:
    async with listening(tokens=None) as server:
        with pytest.raises(InvalidStatus) as caught:
            await raw_client(server.port, None, origin="https://evil.example")
        assert caught.value.response.status_code == 403
        rm = await device(server.port, None)
        assert (await anext(server)).info.remote == plain_node_id("127.0.0.1")
        await rm.close()


async def test_subprotocols_are_tolerated_and_none_is_chosen() -> None:
    async with listening() as server, raw_client(server.port, subprotocols=["s2", "x"]) as raw:
        assert raw.subprotocol is None
        assert json.loads(await raw.recv())["message_type"] == "Handshake"


async def test_the_acceptor_can_be_a_route_of_the_applications_own_server() -> None:
    mine = acceptor()
    app = web.Application()
    app.router.add_get("/s2", mine.handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    rm = await device(port)
    cem = await anext(mine)
    await rm.send("x")
    assert await cem.recv() == "x"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /s2 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer token-of-the-pump\r\n\r\n")
    assert b" 400 " in await reader.readline()
    writer.close()
    await mine.close()
    with pytest.raises(ConnectionClosed):
        await rm.recv()
    with pytest.raises(StopAsyncIteration):
        await anext(mine)
    with pytest.raises(PeerBusy):
        await device(port)
    await runner.cleanup()


# Encryption


@pytest.mark.rule("TRUST-08")
async def test_with_tls_the_server_is_authenticated(authority: trustme.CA) -> None:
    server_context, client_context = contexts(authority, "device.local")
    async with PlainServer(acceptor(), path="/s2", tls=server_context) as server:
        url = f"wss://device.local:{server.port}/s2"
        rm = await connect_plain(
            url,
            role=Role.RM,
            local=RM,
            token=TOKENS["battery"],
            trust=Trust(client_context, "127.0.0.1"),
        )
        cem = await anext(server)
        await cem.send("x")
        assert await rm.recv() == "x"
        await rm.close()
        _, strangers = contexts(trustme.CA(), "device.local")
        for trust in (Trust(strangers, "127.0.0.1"), None):
            with pytest.raises(CertificateRefused):
                await connect_plain(
                    url if trust else url.replace("device.local", "127.0.0.1"), role=Role.RM, local=RM, trust=trust
                )


@pytest.mark.parametrize("url", ["http://x/", "s2", "wss://", "ws://user:password@localhost/", "ws://localhost/#x"])
async def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(InvalidUrl):
        await connect_plain(url, role=Role.RM, local=RM)


async def test_no_token_leaves_this_machine_unencrypted_unless_a_setting_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(ConfigurationError, match="wss://"):
        await connect_plain("ws://192.0.2.1/", role=Role.RM, local=RM)
    with pytest.raises(NetworkError):
        await connect_plain("ws://192.0.2.1/", role=Role.RM, local=RM, allow_unencrypted=True)
    assert "anybody on the way can read along" in caplog.text


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("192.168.1.2", False),
        ("::ffff:192.168.1.2", False),
        ("fe80::1%eth0", False),
        ("0.0.0.0", False),
        ("::", False),
        ("localhost.example.com", False),
        ("127.0.0.1.example.com", False),
    ],
)
def test_what_this_machine_is(host: str, local: bool) -> None:
    assert is_this_machine(host) is local


def test_a_server_for_other_machines_needs_tls_or_a_setting(caplog: pytest.LogCaptureFixture) -> None:
    for host in (None, "0.0.0.0", "192.168.1.2"):
        with pytest.raises(ConfigurationError, match="without TLS"):
            PlainServer(acceptor(), host=host)
    PlainServer(acceptor(allow_unencrypted=True, tokens=None), host=None)
    assert "anybody on the way can read along" in caplog.text
    assert "anybody in the network can pose as a peer" in caplog.text
    with pytest.raises(ConfigurationError, match="slash"):
        PlainServer(acceptor(), path="s2")


def own_address() -> str:
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            if isinstance(ip.ip, str) and not is_this_machine(ip.ip):
                return ip.ip
    pytest.skip("this machine has no address but its loopback")


async def test_a_client_from_elsewhere_needs_tls_or_a_setting(caplog: pytest.LogCaptureFixture) -> None:
    mine, address = acceptor(allow_unencrypted=True), own_address()
    async with PlainServer(mine, host=address) as server:

        async def come() -> Connection:
            url = f"ws://{address}:{server.port}/"
            return await connect_plain(url, role=Role.RM, local=RM, token=TOKENS["pump"], allow_unencrypted=True)

        await (await come()).close()
        assert "comes without TLS" in caplog.text
        caplog.set_level(logging.INFO)
        mine.allow_unencrypted = False
        with pytest.raises(ProtocolViolation, match="403"):
            await come()
        assert "was refused" in caplog.text


# The handshake


async def shake(socket: web.WebSocketResponse, *after: str) -> None:
    """Behave as the S2 plugin of an energy manager in the field: everything at once, and no Handshake of its own."""
    theirs = json.loads(await socket.receive_str())
    assert theirs["message_type"] == "Handshake"
    for text in (ok(theirs["message_id"]), RESPONSE, *after):
        await socket.send_str(text)


async def test_what_follows_the_handshake_at_once_is_not_lost_at_the_client() -> None:
    async def manager(socket: web.WebSocketResponse) -> None:
        await shake(socket, SELECT, "two")
        await socket.receive()
        await socket.close()

    async with raw_server(manager) as url:
        rm = await connect_plain(url, role=Role.RM, local=RM)
        assert [await rm.recv(), await rm.recv()] == [SELECT, "two"]
        await rm.close()


async def test_what_follows_the_handshake_at_once_is_not_lost_at_the_server() -> None:
    async with listening() as server, raw_client(server.port) as raw:
        await raw.send(handshake("RM"))
        await raw.send(SELECT)  # before the choice has come: no answer to it
        await raw.send("two")
        cem = await anext(server)
        assert [await cem.recv(), await cem.recv()] == [SELECT, "two"]


async def test_a_late_handshake_is_answered_and_kept_from_the_session() -> None:
    answers: list[dict[str, Any]] = []

    async def manager(socket: web.WebSocketResponse) -> None:
        await shake(socket, handshake("CEM"), SELECT)
        answers.extend([json.loads(await socket.receive_str()) for _ in range(2)])
        await socket.send_str("on")
        await socket.receive()
        await socket.close()

    async with raw_server(manager) as url:
        rm = await connect_plain(url, role=Role.RM, local=RM)
        assert await rm.recv() == SELECT
        assert await rm.recv() == "on"
        assert [(a["subject_message_id"], a["status"]) for a in answers] == [("hr", "OK"), ("hs", "OK")]
        await rm.close()


async def test_a_peer_that_is_gone_before_its_late_handshake_is_answered_is_still_heard() -> None:
    async def manager(socket: web.WebSocketResponse) -> None:
        await shake(socket)
        await socket.receive_str()
        for text in (handshake("CEM"), SELECT):
            await socket.send_str(text)
        await socket.close()

    async with raw_server(manager) as url:
        rm = await connect_plain(url, role=Role.RM, local=RM)
        await rm._websocket.wait_closed()  # type: ignore[attr-defined]
        assert await rm.recv() == SELECT
        with pytest.raises(ConnectionClosed):
            await rm.recv()


async def test_a_peer_that_says_nothing_is_given_up_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "HANDSHAKE_TIMEOUT", 0.05)

    async def mute(socket: web.WebSocketResponse) -> None:
        await socket.receive_str()
        assert (await socket.receive()).data == 1008

    async with raw_server(mute) as url:
        with pytest.raises(PeerTimeout, match="handshake"):
            await connect_plain(url, role=Role.RM, local=RM)
    async with listening() as server, raw_client(server.port) as raw:
        await raw.recv()
        with pytest.raises(WebSocketClosed) as caught:
            await raw.recv()
        assert caught.value.rcvd is not None
        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (1008, "no handshake in time")


@pytest.mark.parametrize(
    ("options", "error"), [({"role": Role.CEM}, ProtocolViolation), ({"versions": ["1.0.1"]}, SessionRefused)]
)
async def test_who_does_not_fit_is_told_and_leaves_nothing_behind(
    options: dict[str, Any], error: type[S2ConnectError], caplog: pytest.LogCaptureFixture
) -> None:
    async with listening() as server:
        with pytest.raises((error, ConnectionClosed)):
            await device(server.port, **options)
        await gone_but(server, 0)
    assert "battery was not admitted" in caplog.text


async def test_the_end_of_the_connection_during_the_handshake_is_said() -> None:
    async def close(socket: web.WebSocketResponse) -> None:
        await socket.close(code=4001, message=b"full")

    async with raw_server(close) as url:
        with pytest.raises(ConnectionClosed, match="full"):
            await connect_plain(url, role=Role.RM, local=RM)


async def test_a_cancelled_client_leaves_nothing_open() -> None:
    greeted, closed = asyncio.Event(), asyncio.Event()

    async def mute(socket: web.WebSocketResponse) -> None:
        await socket.receive_str()
        greeted.set()
        await socket.receive()
        closed.set()

    async with raw_server(mute) as url:
        task = asyncio.create_task(connect_plain(url, role=Role.RM, local=RM))
        await greeted.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with within(2):
            await closed.wait()


@pytest.mark.parametrize("role", list(Role))
async def test_no_versions_are_a_mistake_of_the_caller(role: Role) -> None:
    with pytest.raises(ConfigurationError):
        acceptor(versions=[])
    with pytest.raises(ConfigurationError):
        await connect_plain("ws://localhost/", role=role, local=RM, versions=())
    with pytest.raises(ConfigurationError, match="same token"):
        acceptor(tokens={"a": Secret("x"), "b": Secret("x")})


# Bounds


async def opened(*clients: connect) -> list[ClientConnection]:
    return [await client for client in clients]


@pytest.mark.rule("SEC-03")
async def test_one_token_opens_a_few_connections_at_a_time_and_the_others_are_not_in_its_way() -> None:
    async with listening() as server:
        silent = await opened(*(raw_client(server.port) for _ in range(plain.MAX_PENDING_PER_PEER)))
        with pytest.raises(PeerBusy):
            await device(server.port)
        pump = await device(server.port, "pump")
        for raw in silent:
            await raw.close()
        await gone_but(server, 1)
        await (await device(server.port)).close()
        await pump.close()


async def gone_but(server: PlainServer, left: int) -> None:
    acceptor = server._acceptor
    assert acceptor is not None
    await until(lambda: len(acceptor._pending) <= left)


@pytest.mark.rule("SEC-03")
async def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "MAX_PENDING", 2)
    monkeypatch.setattr(plain, "MAX_CONNECTIONS", 3)
    async with listening(tokens=None) as server:
        silent = await opened(*(raw_client(server.port, None) for _ in range(2)))
        with pytest.raises(PeerBusy):
            await device(server.port, None)
        for raw in silent:
            await raw.close()
        await gone_but(server, 0)
        standing = [await device(server.port, None)]
        taken = [await anext(server)]
        for _ in range(2):
            standing.append(await device(server.port, None))
            taken.append(await anext(server))
        with pytest.raises(PeerBusy):
            await device(server.port, None)
        for connection in standing:
            await connection.close()


async def test_a_client_that_goes_before_it_was_let_in_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def admit(_: str) -> None:
        asked.set()
        await answer.wait()

    async with listening(admission=admit) as server:
        coming = asyncio.create_task(device(server.port))
        async with within(5):
            await asked.wait()
        coming.cancel()
        await until(lambda: not server._server._connections)
        answer.set()
        await gone_but(server, 0)
        await asyncio.sleep(0.05)
    assert not [record for record in caplog.records if record.levelname in {"ERROR", "WARNING"}]


async def test_a_connection_that_nobody_takes_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "CLAIM_TIMEOUT", 0.05)
    async with listening() as server:
        rm = await device(server.port)
        with pytest.raises(ConnectionClosed) as caught:
            await rm.recv()
        assert caught.value.code == 1001
        later = await device(server.port)
        assert (await anext(server)).info.remote == plain_node_id("battery"), "the first one is not handed out"
        await later.close()


async def test_closing_the_server_ends_whatever_there_is() -> None:
    async with listening() as server:
        waiting = asyncio.create_task(anext(server.__aiter__()))
        taken = await device(server.port)
        await waiting
        unclaimed = await device(server.port)
        silent = await raw_client(server.port)
        waiting = asyncio.create_task(anext(server))
        await waiting
        more = asyncio.create_task(anext(server))
        await asyncio.sleep(0)
    with pytest.raises(StopAsyncIteration):
        await more
    for rm in (taken, unclaimed):
        with pytest.raises(ConnectionClosed):
            await rm.recv()
    await silent.close()


# Basic authentication, and ids from the path


LOGIN = Secret("battery:pass:word")


def basic(text: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


async def test_a_client_with_a_login_comes_in_beside_those_with_tokens(caplog: pytest.LogCaptureFixture) -> None:
    async with listening(logins={"charger": LOGIN}) as server, within(20):
        near = await device(server.port, None, login=LOGIN)
        far = await anext(server)
        assert (far.name, far.info.remote) == ("charger", plain_node_id("charger"))
        await near.close()
        await (await device(server.port, "pump")).close()
        assert (await anext(server)).name == "pump"
    assert "word" not in caplog.text


@pytest.mark.parametrize(
    "headers",
    [
        {},
        basic("battery:pass"),
        basic("battery"),
        basic("token-of-the-battery"),
        basic(""),
        {"Authorization": "Basic"},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic /////w=="},
        {"Authorization": "Bearer battery:pass:w"},
        {"Authorization": "Digest battery"},
    ],
)
async def test_with_another_login_nobody_comes_in_and_both_schemes_are_named(
    headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with listening(logins={"charger": LOGIN}) as server, within(20):
        with pytest.raises(InvalidStatus) as refused:
            async with raw_client(server.port, None, headers=headers):
                pass
        assert refused.value.response.status_code == 401
        challenge = refused.value.response.headers["WWW-Authenticate"]
        assert challenge == 'Bearer, Basic realm="S2", charset="UTF-8"'
        assert "A client at 127.0.0.1 was refused: it has no valid token or login (401)" in caplog.messages
        assert "pass:w" not in caplog.text


async def test_a_web_page_cannot_use_a_login_that_a_browser_remembers() -> None:
    async with listening(tokens=None, logins={"charger": LOGIN}) as server, within(20):
        headers = {**basic(LOGIN.reveal()), "Origin": "https://evil.example"}
        with pytest.raises(InvalidStatus) as refused:
            async with raw_client(server.port, None, headers=headers):
                pass
        assert refused.value.response.status_code == 403


async def test_logins_that_are_none_or_the_same_are_mistakes_of_the_caller() -> None:
    with pytest.raises(ConfigurationError, match="user:password"):
        acceptor(logins={"charger": Secret("no colon")})
    with pytest.raises(ConfigurationError, match="told apart"):
        acceptor(logins={"charger": LOGIN, "pump": LOGIN})
    wrong: list[dict[str, Any]] = [{"login": Secret("no colon")}, {"login": LOGIN, "token": Secret("t")}]
    for options in wrong:
        with pytest.raises(ConfigurationError):
            await connect_plain("ws://127.0.0.1:9/", role=Role.RM, local=RM, **options)


@contextlib.asynccontextmanager
async def by_path(**options: Any) -> AsyncIterator[PlainServer]:
    async with PlainServer(acceptor(**({"by_path": True, "tokens": None} | options)), path="/s2/{id}/ws") as server:
        yield server


async def at(port: int, name: str, **options: Any) -> Connection:
    url = f"ws://127.0.0.1:{port}/s2/{name}/ws"
    return await connect_plain(url, role=Role.RM, local=RM, **options)


async def test_one_acceptor_is_for_many_clients_without_tokens_told_by_the_ids_in_their_paths() -> None:
    async with by_path() as server, within(20):
        for name in ("heat-pump.1", "A_b~C", "x" * 64):
            near = await at(server.port, name)
            far = await anext(server)
            assert (far.name, far.info.remote) == (name, plain_node_id(name))
            await near.send(f"from {name}")
            assert await far.recv() == f"from {name}"
            await near.close()


@pytest.mark.parametrize(
    "name", ["x" * 65, "..", ".", "-", "a%2Fb", "a%00b", "%C3%BC", "a b", "a%0d%0ab", "%7Bid%7D", "a:b"]
)
async def test_other_ids_are_not_found(name: str) -> None:
    async with by_path() as server, within(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        path = name.replace(" ", "%20")
        writer.write(
            f"GET /s2/{path}/ws HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )
        assert (await reader.readline()).split()[1] == b"404"
        writer.close()


async def test_an_id_comes_anew_from_its_own_address_and_cannot_be_taken_from_another(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with by_path() as server, within(20):
        first = await at(server.port, "pump")
        await anext(server)
        url = f"ws://127.0.0.1:{server.port}/s2/pump/ws"
        with pytest.raises(InvalidStatus) as refused:
            async with connect(url, proxy=None, local_addr=("127.0.0.2", 0)):
                pass
        assert refused.value.response.status_code == 409
        assert "pump is connected from another address than 127.0.0.2" in caplog.text
        second = await at(server.port, "pump")
        again = await anext(server)
        with pytest.raises(ConnectionClosed):
            await first.recv()
        await asyncio.gather(again.close(), first.close(), second.close())
        acceptor = server._acceptor
        assert acceptor is not None
        await until(lambda: not acceptor._connected)
        async with connect(url, proxy=None, local_addr=("127.0.0.2", 0)) as other:
            assert "Handshake" in str(await other.recv())


async def test_of_two_that_replace_the_same_connection_one_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first takes its time to close; meanwhile its device comes twice."""
    monkeypatch.setattr(WebSocketConnection, "close_timeout", slowed(0.5))
    async with by_path() as server, within(20):
        acceptor, url = server._acceptor, f"ws://127.0.0.1:{server.port}/s2/pump/ws"
        assert acceptor is not None
        async with connect(url, proxy=None, close_timeout=0.1) as first:
            await until(lambda: len(acceptor._connected) == 1)
            first.transport.pause_reading()
            async with connect(url, proxy=None) as second, connect(url, proxy=None) as third:
                assert "Handshake" in str(await third.recv())
                await second.wait_closed()
                await until(lambda: len(acceptor._connected) == 1)


async def test_a_token_for_all_lets_in_under_any_id_and_from_anywhere() -> None:
    async with by_path(tokens={"all": Secret("for-all")}) as server, within(20):
        with pytest.raises(SessionRefused):
            await at(server.port, "pump")
        first = await at(server.port, "pump", token=Secret("for-all"))
        assert (await anext(server)).name == "pump"
        headers = {"Authorization": "Bearer for-all"}
        url = f"ws://127.0.0.1:{server.port}/s2/pump/ws"
        async with connect(url, proxy=None, local_addr=("127.0.0.2", 0), additional_headers=headers):
            with pytest.raises(ConnectionClosed):
                await first.recv()
            await first.close()


@pytest.mark.parametrize(("path", "told"), [("/s2", True), ("/{id}", False)])
def test_a_path_has_an_id_if_the_acceptor_needs_it(path: str, told: bool) -> None:
    with pytest.raises(ConfigurationError, match="id"):
        PlainServer(acceptor(by_path=told), path=path)
