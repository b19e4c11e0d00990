"""The HTTPS client towards servers that behave in every way a server may, and in some that it may not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from s2connect.certs.authority import CertificateAuthority
from s2connect.certs.connect import connect_tls
from s2connect.certs.tls import ServerContext, pinned_client_context
from s2connect.errors import NotReachable, PeerTimeout, ProtocolViolation, S2ConnectError
from s2connect.https.client import MAX_REPLY_BYTES, Destination, HttpsClient
from s2connect.model.secret import AccessToken
from s2connect.model.url import BaseUrl
from tests.waits import within

CA = CertificateAuthority.create("test", now=datetime.now(UTC))
SERVER_TLS = ServerContext(CA.issue(["server.test", "127.0.0.1", "::1"], now=datetime.now(UTC))).context
TRUST = pinned_client_context(ssl.PEM_cert_to_DER_cert(CA.to_pem().decode()))
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """Answers each request with the next of some texts; None ends the connection there, and so does the last one.

    Attributes:
        requests: Heads and bodies of the requests.
        connections: Number of connections.
    """

    def __init__(self, *answers: bytes | None) -> None:
        self.requests: list[bytes] = []
        self.connections = self._open = 0
        self._answers = list(answers)

    @contextlib.asynccontextmanager
    async def running(self, host: str = "127.0.0.1") -> AsyncIterator[BaseUrl]:
        server = await asyncio.start_server(self._serve, host, 0, ssl=SERVER_TLS)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield BaseUrl(f"https://server.test:{self.port}/api/")
        finally:
            server.close()
            while self._open:
                await asyncio.sleep(0.001)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while self._answers:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next((int(x[15:]) for x in head.split(b"\r\n") if x.lower().startswith(b"content-length:")), 0)
                self.requests.append(head + await reader.readexactly(length))
                answer = self._answers.pop(0)
                if answer is None:
                    break
                writer.write(answer)
                await writer.drain()
        writer.close()
        self._open -= 1


def client(address: str = "127.0.0.1") -> HttpsClient:
    return HttpsClient(Destination(TRUST, address))


async def test_requests_go_over_one_connection_and_say_what_they_have_to() -> None:
    server = Server(OK, OK, OK, OK)
    async with server.running() as base, client() as http, within(10):
        await http.post(base, "v1", "one", b'{"a":1}', bearer=AccessToken("t" * 43))
        await http.post(base, "v1", "two")
        assert (await http.get(base, "v1", "three", query={"ids": "1,2", "x": "a b"})).body == b"ok"
    first, second, third = server.requests
    assert server.connections == 1
    assert first.startswith(b"POST /api/v1/one HTTP/1.1\r\n")
    assert first.endswith(b'\r\n\r\n{"a":1}')
    for header in (
        f"Host: server.test:{server.port}",
        "Content-Type: application/json",
        f"Authorization: Bearer {'t' * 43}",
    ):
        assert f"\r\n{header}\r\n".lower().encode() in first.lower()
    assert b"content-length: 0" in second.lower()
    assert third.startswith(b"GET /api/v1/three?ids=1,2&x=a+b HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n3\r\n ok\r\n0\r\n\r\n", b"ok ok"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", b"ok"),
    ],
    ids=["chunked", "with a preliminary answer", "without a body", "up to the end", "with an end announced"],
)
async def test_every_way_to_answer_is_understood(answer: bytes, body: bytes) -> None:
    server = Server(answer) if b"1.0" in answer else Server(answer, OK, OK)
    async with server.running() as base, client() as http, within(10):
        assert (await http.post(base, "v1", "x")).body == body
        if b"1.0" not in answer:
            assert (await http.post(base, "v1", "x")).body == b"ok"
    ends = b"Connection: close" in answer
    assert server.connections == (2 if ends else 1)


@pytest.mark.parametrize(
    ("answer", "error", "what"),
    [
        (None, NotReachable, "closed the connection"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", NotReachable, "closed the connection"),
        (b"SSH-2.0-OpenSSH_9\r\n", ProtocolViolation, "proper HTTP"),
        (b"SSH-2.0-OpenSSH_9\r\n\r\n", ProtocolViolation, "proper HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", ProtocolViolation, "proper HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", ProtocolViolation, "proper HTTP"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", ProtocolViolation, "proper HTTP"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", ProtocolViolation, "proper"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 50_000 + b"\r\n", ProtocolViolation, "proper HTTP"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n" + b"x" * (MAX_REPLY_BYTES + 1),
            ProtocolViolation,
            f"longer than {MAX_REPLY_BYTES} bytes",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 10_000,
            ProtocolViolation,
            "longer than",
        ),
        (b"HTTP/1.1 102 Processing\r\n\r\n" * 10_000, ProtocolViolation, "longer than"),
    ],
    ids=[
        "none",
        "half a head",
        "a greeting",
        "no HTTP",
        "short",
        "two lengths",
        "no chunk",
        "upgrade",
        "head",
        "long",
        "tiny chunks",
        "no end",
    ],
)
async def test_what_is_no_answer_is_named_and_the_connection_is_not_used_again(
    answer: bytes | None, error: type[S2ConnectError], what: str
) -> None:
    server = Server(answer)
    async with server.running() as base, client() as http, within(10):
        with pytest.raises(error, match=what):
            await http.post(base, "v1", "x")
        assert http.release() is None


async def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next_one() -> None:
    server = Server(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", OK)
    async with server.running() as base, client() as http, within(10):
        assert (await http.post(base, "v1", "x")).body == b"ok"
        assert http.release() is None
        server._answers.append(OK)
        assert (await http.post(base, "v1", "x")).body == b"ok"
    assert server.connections == 2


async def test_a_connection_that_was_closed_meanwhile_is_made_anew() -> None:
    server = Server(OK)
    async with server.running() as base, client() as http, within(10):
        await http.post(base, "v1", "x")
        server._answers.append(OK)
        while any(connection.is_idle for *_, connection in http._idle):
            await asyncio.sleep(0.01)
        await http.post(base, "v1", "x")
    assert server.connections == 2


async def test_a_cancelled_request_ends_its_connection() -> None:
    server = Server(b"HTTP/1.1 200 OK\r\n", OK)
    async with server.running() as base, client() as http, within(10):
        with pytest.raises(PeerTimeout):
            await http.post(base, "v1", "x", timeout=0.1)
        asking = asyncio.ensure_future(http.post(base, "v1", "x"))
        assert (await asking).body == b"ok"
    assert server.connections == 2


async def test_a_reset_is_told_from_an_end() -> None:
    def reset(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        connection.recv(10)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        base = BaseUrl(f"https://server.test:{listening.getsockname()[1]}/")
        async with client() as http, within(10):
            resetting = asyncio.create_task(asyncio.to_thread(reset, listening))
            with pytest.raises(NotReachable) as raised:
                await http.post(base, "v1", "x")
            await resetting
    assert raised.value.cut


async def test_an_address_of_version_6_is_written_in_brackets() -> None:
    server = Server(OK)
    try:
        async with server.running("::1") as base, HttpsClient(Destination(TRUST)) as http, within(10):
            await http.post(BaseUrl(str(base).replace("server.test", "[::1]")), "v1", "x")
    except OSError:
        pytest.skip("this machine has no IPv6")
    assert f"host: [::1]:{server.port}\r\n".encode() in server.requests[0].lower()


async def test_a_path_beyond_ascii_is_percent_encoded() -> None:
    server = Server(OK)
    async with server.running() as base, client() as http, within(10):
        await http.post(BaseUrl(f"{base}wärme%20pumpe/"), "v1", "x")
    assert server.requests[0].startswith(b"POST /api/w%C3%A4rme%20pumpe/v1/x HTTP")


async def test_the_next_address_of_a_name_is_tried_where_the_first_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first one is a listener whose queue is full, so that the kernel drops what comes: nothing comes back."""
    server = Server(OK)
    loop = asyncio.get_running_loop()
    full = socket.create_server(("127.0.0.2", 0), backlog=0)
    fillers = [socket.socket() for _ in range(4)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(full.getsockname())

    resolve = loop.getaddrinfo

    async def found(host: Any, port: Any, **more: Any) -> list[Any]:
        if host != "server.test":  # uvloop asks for addresses, too
            return await resolve(host, port, **more)
        addresses = [full.getsockname(), ("127.0.0.1", port)]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]

    async with server.running() as base, HttpsClient(Destination(TRUST)) as http, within(10):
        monkeypatch.setattr(loop, "getaddrinfo", found)
        assert (await http.post(base, "v1", "x")).body == b"ok"
        monkeypatch.undo()
    for one in (full, *fillers):
        one.close()


class Echo(asyncio.Protocol):
    """A protocol that goes on with a connection."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[bytes] = asyncio.Queue()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received.put_nowait(data)


@pytest.mark.parametrize(
    "change", [lambda b: b, lambda b: BaseUrl("https://other.test/")], ids=["same", "other server"]
)
async def test_another_protocol_goes_on_with_a_connection_to_the_same_server_once(
    change: Callable[[BaseUrl], BaseUrl],
) -> None:
    server = Server(OK, b"hello", OK)
    async with server.running() as base, within(10):
        async with client() as http:
            await http.post(base, "v1", "x")
            kept = http.release()
        assert kept is not None
        to = change(base)
        if to is not base:
            assert kept.take(to.host, to.port) is None
            kept.close()
            assert kept.take(base.host, base.port) is None
            return
        transport, protocol = await connect_tls(Echo, to.host, to.port, TRUST, address="127.0.0.1", kept=kept)
        transport.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await protocol.received.get() == b"hello"
        assert kept.take(base.host, base.port) is None
        assert server.connections == 1
        kept.close()
        assert not transport.is_closing()
        transport.abort()
