"""The acceptor: what it takes in, and how honest clients fare beside many that only hold connections (SEC-03)."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from s2connect.certs.authority import CertificateAuthority
from s2connect.certs.tls import ServerContext, pinned_client_context
from s2connect.errors import ConfigurationError
from s2connect.https import acceptor as acceptor_module
from s2connect.https.acceptor import listen, raise_descriptor_limit
from s2connect.https.admission import Limits
from s2connect.https.server import HttpsServer
from s2connect.model.log_limiter import LogLimiter
from tests.waits import patience, within

CA = CertificateAuthority.create("test", now=datetime.now(UTC))
IDENTITY = CA.issue(["127.0.0.1", "::1"], now=datetime.now(UTC))

REQUEST = b"GET /pairing/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.fixture
def context() -> ssl.SSLContext:
    return pinned_client_context(ssl.PEM_cert_to_DER_cert(CA.to_pem().decode()))


@contextlib.asynccontextmanager
async def serving(limits: Limits | None = None, host: Any = "127.0.0.1") -> AsyncIterator[HttpsServer]:
    server = HttpsServer(ServerContext(IDENTITY).context, host=host, port=0)
    server.add_index("/pairing/")
    await server.start()
    if limits is not None:
        server._acceptor.admission.limits = limits
    try:
        yield server
    finally:
        await server.close()


async def ask(port: int, context: ssl.SSLContext, *, host: str = "127.0.0.1", source: str | None = None) -> float:
    """One honest request on a connection of its own; returns the seconds it took."""
    started = time.monotonic()
    local = None if source is None else (source, 0)
    async with within(10):
        reader, writer = await asyncio.open_connection(host, port, ssl=context, local_addr=local)
        writer.write(REQUEST)
        response = await reader.read()
        writer.close()
    assert response.startswith(b"HTTP/1.1 200")
    return time.monotonic() - started


async def test_a_silent_connection_makes_room_for_one_that_asks(context: ssl.SSLContext) -> None:
    async with serving(Limits(per_network=4)) as server:
        idle = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(12)]
        await ask(server.port, context)
        async with within(5):
            for reader, _ in idle[:8]:
                with contextlib.suppress(ConnectionResetError):
                    assert await reader.read() == b""
        for _, writer in idle:
            writer.transport.abort()
        await settled(server)


async def settled(server: HttpsServer) -> None:
    async with within(5):
        while len(server._acceptor.admission) or server._connections or server._acceptor._arriving:
            await asyncio.sleep(0.01)


async def test_who_says_nothing_is_closed_within_the_time_of_a_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor_module, "HANDSHAKE_TIMEOUT", 0.2)
    async with serving() as server:
        for first in (b"", b"\x16", b"\x16\x03\x01\x02\x00"):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(first)
            async with within(5):
                with contextlib.suppress(ConnectionResetError):
                    assert await reader.read() == b""
            writer.close()
        await settled(server)


async def test_a_client_whose_first_message_comes_in_pieces_is_served(context: ssl.SSLContext) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    async with serving() as server, within(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        hello = outgoing.read()
        for piece in (hello[:1], hello[1:5], hello[5:50], hello[50:-1], hello[-1:]):
            writer.write(piece)
            await asyncio.sleep(0.03)
        while True:
            incoming.write(await reader.read(65536))
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                pass
        writer.transport.abort()


async def test_a_refused_connection_costs_no_cryptography() -> None:
    async with serving(Limits(per_network=0)) as server:

        async def no_tls() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"no TLS")
            await reader.readexactly(1)

        for _ in range(3):
            with pytest.raises(ConnectionResetError):  # had a handshake begun, an alert in clear text would come
                await no_tls()
        assert len(server._acceptor.admission) == 0


async def test_a_failed_handshake_gives_its_place_free_and_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as server:
        for _ in range(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                await reader.read()
            writer.close()
        await settled(server)
    assert not caplog.records


async def test_the_log_says_once_how_many_were_refused(caplog: pytest.LogCaptureFixture) -> None:
    refused = 0
    async with serving(Limits(per_network=0)) as server, within(5):
        server._acceptor._reports = LogLimiter(period=0.3)
        while len(caplog.messages) < 2:
            refused += 1
            with contextlib.suppress(ConnectionResetError):
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                await reader.read()
                writer.close()
    first, then = caplog.messages
    assert first.endswith(": 1 too many from one network; the last from 127.0.0.1")
    assert then.endswith(f": {refused - 1} too many from one network; the last from 127.0.0.1")


async def test_closing_ends_what_has_not_come_in_yet() -> None:
    async with serving() as server:
        idle = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(5)]
        idle[0][1].write(b"\x16\x03\x01")
        async with within(5):
            while len(server._acceptor._arriving) < 5:
                await asyncio.sleep(0.01)
    for reader, writer in idle:
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()


async def test_closing_ends_what_was_accepted_in_the_same_turn() -> None:
    async with serving() as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=patience(1)) as client:
            server._acceptor._accept(server._acceptor._listening[0])
            assert server._acceptor._arriving
            await server.close()
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        assert not len(server._acceptor.admission)


async def test_connections_have_no_delay(context: ssl.SSLContext) -> None:
    async with serving() as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=context)
        async with within(5):
            while not server._connections:
                await asyncio.sleep(0.01)
        (transport,) = server._connections
        assert transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        writer.transport.abort()


# Ports


async def test_port_0_is_one_port_in_both_families(context: ssl.SSLContext) -> None:
    async with serving(host=None) as server:
        assert {listening.getsockname()[1] for listening in server._acceptor._listening} == {server.port}
        await ask(server.port, context)
        if socket.has_ipv6 and len(server._acceptor._listening) > 1:
            await ask(server.port, context, host="::1")


async def test_a_number_that_is_taken_in_one_family_only_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of all ports are taken in the second family: one that is free in both is found."""
    bind = socket.socket.bind
    tried: list[Any] = []

    class Crowded(socket.socket):
        def bind(self, address: Any, /) -> None:
            if address[1] and len(tried) < 5:
                tried.append(address[1])
                with socket.socket(self.family, socket.SOCK_STREAM) as other:
                    if self.family == socket.AF_INET6:
                        other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    bind(other, address)
                    other.listen()
                    bind(self, address)
            bind(self, address)

    monkeypatch.setattr(socket, "socket", Crowded)
    made = await listen(None, 0)
    ports = {listening.getsockname()[1] for listening in made}
    families = len(made)
    for listening in made:
        listening.close()
    if families < 2:
        pytest.skip("this machine has one address family only")
    assert len(tried) == 5
    assert len(ports) == 1


async def test_a_port_taken_in_one_family_is_an_error_where_it_was_asked_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        server = HttpsServer(None, host=None, port=other.getsockname()[1])
        with pytest.raises(ConfigurationError, match=str(other.getsockname()[1])):
            await server.start()


async def test_several_addresses_share_the_port() -> None:
    made = await listen(["127.0.0.1", "127.0.0.2"], 0)
    assert len({listening.getsockname()[1] for listening in made}) == 1
    assert sorted(listening.getsockname()[0] for listening in made) == ["127.0.0.1", "127.0.0.2"]
    for listening in made:
        listening.close()


def test_the_soft_limit_becomes_the_hard_one() -> None:
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (512, 900));"
        "from s2connect.https.acceptor import raise_descriptor_limit;"
        "print(raise_descriptor_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=patience(50), check=True
    )
    assert done.stdout.split() == ["900", "900", "900"]


# Many connections against the usual limit of descriptors

SERVER = """
import asyncio, logging, resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
from s2connect.certs.authority import ServerIdentity
from s2connect.certs.tls import ServerContext
from s2connect.model.log_limiter import LogLimiter
from s2connect.https.server import HttpsServer

logging.basicConfig(level=logging.INFO)

async def main():
    chain, key = (Path(file).read_bytes() for file in sys.argv[2:])
    server = HttpsServer(ServerContext(ServerIdentity.load(chain, key)).context, host="127.0.0.1", port=0)
    server.add_index("/pairing/")
    await server.start()
    print(server.port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.close()

if sys.argv[1] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""


@pytest.fixture(params=["asyncio", "uvloop"])
def crowded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A server in a process that may open 1,024 descriptors: its port, and the file with its log."""
    if request.param == "uvloop":
        pytest.importorskip("uvloop", reason="uvloop is not installed")
    if raise_descriptor_limit() < 4096:
        pytest.skip("this process may not open enough descriptors to be the hostile side")
    (tmp_path / "chain").write_bytes(IDENTITY.chain_pem)
    (tmp_path / "key").write_bytes(IDENTITY.key_pem)
    command = [sys.executable, "-c", SERVER, request.param, str(tmp_path / "chain"), str(tmp_path / "key")]
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log) as process,
    ):
        assert process.stdout is not None
        port = process.stdout.readline()
        yield int(port), tmp_path / "log"
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(patience(20)) == 0


async def hostile(port: int, first: bytes, number: int) -> list[socket.socket]:
    made = []
    loop = asyncio.get_running_loop()
    for _ in range(number):
        connection = socket.socket()
        connection.setblocking(False)
        made.append(connection)
        try:
            await loop.sock_connect(connection, ("127.0.0.1", port))
            if first:
                await loop.sock_sendall(connection, first)
        except OSError:
            pass
    return made


@pytest.mark.parametrize("first", [b"", b"\x16"], ids=["idle", "one byte"])
async def test_honest_clients_are_answered_beside_1500_idle_connections(
    crowded: tuple[int, Path], context: ssl.SSLContext, first: bytes
) -> None:
    port, log = crowded
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert soft >= 4096
    held = await hostile(port, first, 1500)
    try:
        if first:
            await asyncio.sleep(1.1)  # until then such a connection may be an honest one that is slow
        times = []
        for source in ("127.0.0.1", "127.0.0.2") * 5:
            times.append(await ask(port, context, source=source))
            held += await hostile(port, first, 100)  # and they keep coming
            if first:
                await asyncio.sleep(0.2)
        assert max(times) < 1.0, times
        assert log.stat().st_size < 10_000, log.read_text()[:2000]
    finally:
        for connection in held:
            connection.close()


async def test_honest_clients_are_answered_beside_connections_that_ask_nothing_after_the_handshake(
    crowded: tuple[int, Path], context: ssl.SSLContext
) -> None:
    port, log = crowded
    held = []
    try:
        for _ in range(300):
            with contextlib.suppress(OSError):
                held.append(await asyncio.open_connection("127.0.0.1", port, ssl=context))
        await asyncio.sleep(1.1)  # until then such a connection may be an honest one that is slow
        for source in ("127.0.0.1", "127.0.0.2") * 3:
            assert await ask(port, context, source=source) < 1.0
        assert log.stat().st_size < 10_000
    finally:
        for _, writer in held:
            writer.transport.abort()
