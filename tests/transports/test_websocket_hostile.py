"""WebSocket connections against peers that break the protocol, stall, flood or vanish."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import random
import weakref
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import Side, State
from websockets.server import ServerProtocol
from websockets.uri import parse_uri
from websockets.utils import accept_key

from s2connect.errors import ConnectionClosed, NetworkError, ProtocolViolation
from s2connect.model.common import NodeId
from s2connect.model.session_init import WebSocketCommunicationDetails
from s2connect.model.url import UnencryptedWebSocketUrl, WebSocketUrl
from s2connect.transports.base import MAX_MESSAGE_BYTES, ConnectionInfo
from s2connect.transports.tls_buffer import free_transports_at_once
from s2connect.transports.websocket_client import open_client
from s2connect.transports.websocket_connection import (
    FRAMES_PER_TURN,
    MAX_WAITING_TEXTS,
    PIECE,
    WRITE_BUFFER_BYTES,
    WebSocketConnection,
)
from s2connect.transports.websocket_deflate import MAX_FINAL_BLOCKS, ServerDeflate
from s2connect.transports.websocket_server import accept, upgraded
from tests.transports.test_websocket import FAST, THEIRS, TOKEN, raw_pair
from tests.waits import until, within

INFO = ConnectionInfo("WebSocket", NodeId(UUID(int=1)), NodeId(UUID(int=2)), "v1.0.0")
MASK = b"\x00\x00\x00\x00"

# A connection by itself


class Wire(asyncio.Transport):
    """Transport that keeps what is written, and says what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.reads = True
        self.closed = False
        self.protocol: WebSocketConnection | None = None

    def write(self, data: Any) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == WRITE_BUFFER_BYTES

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        assert self.reads
        self.reads = False

    def resume_reading(self) -> None:
        assert not self.reads
        self.reads = True

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        if not self.closed:
            self.closed = True
            assert self.protocol is not None
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)


class Taker:
    """Receiver that keeps everything."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.ends: list[ConnectionClosed] = []

    def text_received(self, text: str) -> None:
        assert not self.ends
        self.texts.append(text)

    def connection_ended(self, error: ConnectionClosed) -> None:
        self.ends.append(error)


def connection_on(wire: Wire, side: Side) -> WebSocketConnection:
    handshake: Any
    if side is Side.SERVER:
        handshake = ServerProtocol(state=State.OPEN)
        handshake.extensions = [ServerDeflate().process_request_params([], [])[1]]
    else:
        handshake = ClientProtocol(parse_uri("ws://peer/"), state=State.OPEN)
    connection = WebSocketConnection(INFO, handshake)
    wire.protocol = connection
    connection.connection_made(wire)
    return connection


async def outcome(side: Side, data: bytes, cuts: list[int]) -> tuple[list[str], int]:
    """Feed a stream in pieces; return the texts and the code of the end."""
    wire, taker = Wire(), Taker()
    connection = connection_on(wire, side)
    connection.receive_into(taker)
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    for a, b in itertools.pairwise(edges):
        if not wire.closed:
            connection.data_received(data[a:b])
        while not wire.reads:
            await asyncio.sleep(0)
    wire.abort()
    async with within(5):
        await connection.wait_closed()
        await until(lambda: bool(taker.ends))
    assert len(taker.ends) == 1
    with pytest.raises(ConnectionClosed):
        connection.try_send("late")
    return taker.texts, taker.ends[0].code


FRAMES = st.builds(
    lambda opcode, data, fin, rsv1, mask: (
        Frame(opcode, data[:125], fin, rsv1).serialize(mask=mask)
        if not (opcode >= Opcode.CLOSE and not fin) and not rsv1
        else bytes([(fin << 7) | (rsv1 << 6) | opcode, (mask << 7) | len(data[:125])])
        + (MASK if mask else b"")
        + data[:125]
    ),
    st.sampled_from([*Opcode, *[Opcode.TEXT] * 6]),
    st.text(max_size=40).map(str.encode) | st.binary(max_size=40),
    st.sampled_from([True, True, True, False]),
    st.sampled_from([False] * 9 + [True]),
    st.sampled_from([True] * 9 + [False]),
)
STREAMS = st.lists(FRAMES | FRAMES | FRAMES | st.binary(max_size=20), max_size=12).map(b"".join)


@pytest.mark.rule("SEC-03", "SEC-04")
@settings(max_examples=150)
@given(st.sampled_from(Side), STREAMS, st.lists(st.integers(0, 2000), max_size=8))
def test_any_stream_gives_texts_and_one_end_however_it_is_cut(side: Side, data: bytes, cuts: list[int]) -> None:
    async def both() -> None:
        whole = await outcome(side, data, [])
        cut = await outcome(side, data, cuts)
        assert whole[0] == cut[0]
        # Where there are two errors, it depends on the pieces which is noticed first.
        assert whole[1] == cut[1] or {whole[1], cut[1]} <= {1002, 1003, 1007}

    asyncio.run(both())


@pytest.mark.rule("SEC-03")
async def test_a_flood_of_short_texts_leaves_other_work_its_turns() -> None:
    wire, taker = Wire(), Taker()
    connection = connection_on(wire, Side.SERVER)
    connection.receive_into(taker)
    await asyncio.sleep(0)
    text = b"\x81\x81" + MASK + b"x"
    connection.data_received(text * 35_000)
    most = FRAMES_PER_TURN + PIECE // len(text) + 1
    assert len(taker.texts) <= most
    assert not wire.reads
    while not wire.reads:
        before = len(taker.texts)
        await asyncio.sleep(0)
        assert len(taker.texts) - before <= most
    assert len(taker.texts) == 35_000
    wire.abort()
    await connection.wait_closed()


@pytest.mark.rule("WS-07")
async def test_what_was_read_is_received_although_the_peer_has_gone() -> None:
    wire = Wire()
    connection = connection_on(wire, Side.SERVER)
    connection.data_received((b"\x81\x81" + MASK + b"x") * 5000)
    assert not wire.reads, "nobody receives"
    assert len(connection._inbox) < MAX_WAITING_TEXTS + PIECE
    wire.abort()
    for _ in range(5000):
        assert await connection.recv() == "x"
    with pytest.raises(ConnectionClosed):
        await connection.recv()


async def test_a_fault_found_after_the_end_of_the_connection_leaves_no_timer() -> None:
    wire = Wire()
    connection = connection_on(wire, Side.SERVER)
    connection.data_received((b"\x81\x81" + MASK + b"x") * MAX_WAITING_TEXTS)
    connection.data_received(b"\xff\xff" * 10)
    wire.abort()
    await connection.wait_closed()
    for _ in range(MAX_WAITING_TEXTS):
        assert await connection.recv() == "x"
    with pytest.raises(ConnectionClosed):
        await connection.recv()
    assert connection._linger is connection._cut is None


@pytest.mark.rule("SEC-03")
async def test_a_peer_that_takes_no_pongs_gets_no_more_until_it_does() -> None:
    wire = Wire()
    connection = connection_on(wire, Side.SERVER)
    connection.pause_writing()
    ping = b"\x89\xfd" + MASK + b"p" * 125
    connection.data_received(ping)
    assert not wire.reads
    connection.data_received(ping * 1000)  # read before it was paused
    await asyncio.sleep(0)
    written = len(wire.written)
    connection.resume_writing()
    await asyncio.sleep(0)
    assert len(wire.written) > written
    await until(lambda: wire.reads)
    wire.abort()
    await connection.wait_closed()


def compressed(data: bytes, *, opcode: int = 1, fin: bool = True, tail: bool = True) -> bytes:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = deflater.compress(data) + deflater.flush(zlib.Z_SYNC_FLUSH)
    packed = packed[:-4] if tail else packed
    head = bytes([(fin << 7) | (0x40 if opcode else 0) | opcode, 0x80 | 127]) + len(packed).to_bytes(8, "big")
    return head + MASK + packed


@pytest.mark.rule("WS-05")
@pytest.mark.rule("WS-04")
async def test_a_peer_that_takes_no_pongs_is_gone_after_a_while_also_where_reading_had_stopped_before() -> None:
    wire = Wire()
    connection = connection_on(wire, Side.CLIENT)
    assert connection._heart is not None
    connection._heart.cancel()
    connection.peer_timeout = 0.3
    connection.pause_writing()
    connection.data_received(b"\x81\x01x" * MAX_WAITING_TEXTS)
    assert not wire.reads, "nobody receives"
    connection.data_received(b"\x89\x00")
    for _ in range(MAX_WAITING_TEXTS):
        await connection.recv()
    connection._beat()
    async with within(10):
        with pytest.raises(ConnectionClosed):
            await connection.recv()
    assert not wire.reads


async def test_what_is_too_long_once_inflated_ends_with_1009_also_in_fragments() -> None:
    bomb = compressed(bytes(50_000_000))
    assert len(bomb) < MAX_MESSAGE_BYTES
    assert (await outcome(Side.SERVER, bomb, []))[1] == 1009
    full = compressed(b"x" * MAX_MESSAGE_BYTES)
    assert (await outcome(Side.SERVER, full, [100])) == (["x" * MAX_MESSAGE_BYTES], 1006)
    # Fragments that are as long as may be, and then the bomb: nothing of it fits any more.
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    contents = (b"x" * MAX_MESSAGE_BYTES, bytes(50_000_000))
    parts = [deflater.compress(data) + deflater.flush(zlib.Z_SYNC_FLUSH) for data in contents]
    stream = b"".join(
        bytes([first, 0x80 | 127]) + len(part).to_bytes(8, "big") + MASK + part
        for first, part in zip((0x41, 0x80), parts, strict=True)
    )
    assert (await outcome(Side.SERVER, stream, [])) == ([], 1009)


async def test_compressed_texts_refer_to_earlier_ones_or_not_and_may_end_their_stream() -> None:
    deflater = zlib.compressobj(6, zlib.DEFLATED, -15)
    stream = b""
    for number in range(3):
        data = deflater.compress(b"the same again") + deflater.flush(zlib.Z_SYNC_FLUSH)
        stream += bytes([0xC1, 0x80 | (len(data) - 4)]) + MASK + data[:-4]
        if number == 1:
            alone = zlib.compressobj(6, zlib.DEFLATED, -15)
            last = alone.compress(b"ended") + alone.flush(zlib.Z_FINISH) + b"\x00"  # RFC 7692, section 7.2.3.5
            ended = bytes([0xC1, 0x80 | len(last)]) + MASK + last
    assert (await outcome(Side.SERVER, stream, [7]))[0] == ["the same again"] * 3
    assert (await outcome(Side.SERVER, ended * 2, []))[0] == ["ended"] * 2
    assert (await outcome(Side.SERVER, b"\xc1\x83" + MASK + b"\xff\xff\xff", []))[1] == 1002


@pytest.mark.parametrize(("blocks", "end"), [(2, 1006), (MAX_FINAL_BLOCKS - 1, 1006), (MAX_FINAL_BLOCKS + 1, 1002)])
async def test_a_text_of_several_final_blocks_is_read_whole_up_to_a_number_of_them(blocks: int, end: int) -> None:
    data = b""
    for number in range(blocks):
        deflater = zlib.compressobj(6, zlib.DEFLATED, -15)
        data += deflater.compress(b"%d," % number) + deflater.flush(zlib.Z_FINISH)
    stream = bytes([0xC1, 0x80 | 126]) + (len(data) + 1).to_bytes(2, "big") + MASK + data + b"\x00"
    whole = "".join(f"{number}," for number in range(blocks))
    assert await outcome(Side.SERVER, stream, [9]) == ([whole] if end == 1006 else [], end)


# Real sockets

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter, bytes], Awaitable[None]]


@contextlib.asynccontextmanager
async def raw_server(made: Any, serve: Serve) -> Any:
    """A server that reads the head of a request, and goes on with ``serve``; yields details that lead there."""

    serving: set[asyncio.Task[Any] | None] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            key = head.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0].decode()
            response = (
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Accept: {accept_key(key)}\r\n\r\n"
            )
            await serve(reader, writer, response.encode())
        writer.transport.abort()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=made.server_context)
    port = server.sockets[0].getsockname()[1]
    try:
        yield WebSocketCommunicationDetails(
            communication_protocol="WebSocket",
            websocket_token=TOKEN,
            websocket_url=WebSocketUrl(f"wss://device.local:{port}/"),
        )
    finally:
        server.close()
        async with within(10):
            await asyncio.gather(*(task for task in serving if task is not None))


async def test_a_server_may_send_with_its_response_and_in_any_pieces(rig: Any) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, response: bytes) -> None:
        stream = response + b"\x81\x03one\x81\x03two\x88\x02\x03\xe8"
        for cut in cuts:
            writer.write(stream[:cut])
            stream = stream[cut:]
            await asyncio.sleep(0.01)
        writer.write(stream)
        await reader.read(1)  # the answer to its close; a client waits for the server to end the connection

    async with rig() as made, raw_server(made, serve) as details:
        size = 120
        for cuts in ([], [size], [3, 50, 70], [140], [10] * 16):  # noqa: B007 - the server cuts
            client = await made.client.connect(THEIRS, details, made.trust)
            assert [await client.recv(), await client.recv()] == ["one", "two"]
            with pytest.raises(ConnectionClosed) as caught:
                await client.recv()
            assert caught.value.code == 1000
            await client.close()


@pytest.mark.parametrize(
    "what",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 101 x\r\n\r\n",
        b"HTTP/1.1 101 x\r\nX: " + b"y" * 20_000,
        b"\x81\x03one",
    ],
)
async def test_a_server_that_answers_otherwise_is_refused_and_nothing_stays_open(rig: Any, what: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, response: bytes) -> None:
        writer.write(what)
        if len(what) > 10_000:
            await reader.read()

    async with rig() as made, raw_server(made, serve) as details:
        with pytest.raises((ProtocolViolation, NetworkError)):
            await made.client.connect(THEIRS, details, made.trust)


@pytest.mark.parametrize("ends", [True, False])
async def test_what_is_no_http_is_named_at_its_first_line(rig: Any, ends: bool) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, response: bytes) -> None:
        for part in (b"SSH-2.0", b"-OpenSSH\r", b"\n"):
            await asyncio.sleep(0)
            writer.write(part)
        if not ends:
            await reader.read()

    async with rig() as made, raw_server(made, serve) as details, within(10):
        with pytest.raises(ProtocolViolation):
            await made.client.connect(THEIRS, details, made.trust)


def sockets() -> set[str]:
    """The sockets of this process."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(str(link.readlink()))
    return {target for target in found if target.startswith("socket:")}


@pytest.mark.parametrize("cut", ["cancelled", "timed out"])
async def test_an_opening_that_is_cut_at_any_step_leaves_nothing(rig: Any, cut: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, response: bytes) -> None:
        for part in (response[:30], response[30:]):
            await asyncio.sleep(0)
            writer.write(part)
        await reader.read()

    async with rig() as made, raw_server(made, serve) as details:
        await (await made.client.connect(THEIRS, details, made.trust)).close()
        await until(lambda: len(asyncio.all_tasks()) <= 2)
        before = sockets()
        for steps in range(200):
            task = asyncio.create_task(made.client.connect(THEIRS, details, made.trust))
            for _ in range(steps):
                await asyncio.sleep(0 if cut == "cancelled" else 0.0005)
            task.cancel()
            done = (await asyncio.gather(task, return_exceptions=True))[0]
            if isinstance(done, WebSocketConnection):
                await done.close()
                break
            assert isinstance(done, asyncio.CancelledError)
        await until(lambda: sockets() <= before)
        await until(lambda: len(asyncio.all_tasks()) <= 2)


@pytest.mark.rule("WS-04")
async def test_a_peer_that_ends_only_the_stream_has_ended_the_connection(rig: Any) -> None:
    async with rig() as made:
        server, client = await made.pair()
        await client.send("last")
        client._transport.close()
        assert await server.recv() == "last"
        for end in (server, client):
            with pytest.raises(ConnectionClosed) as caught:
                await end.recv()
            assert caught.value.code == 1006


@pytest.mark.parametrize("side", ["server", "client"])
async def test_closing_is_bounded_while_the_other_side_floods_and_nobody_reads(rig: Any, side: str) -> None:
    async with rig(timings=FAST, compression=False) as made:
        server, client = await made.pair()
        ours, theirs = (server, client) if side == "server" else (client, server)

        async def flood() -> None:
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await theirs.send("x" * 50_000)

        flooding = asyncio.create_task(flood())
        await until(lambda: len(ours._inbox) > 0)
        async with within(5):
            await ours.close(1001, "enough")
            await flooding
        with pytest.raises(ConnectionClosed) as caught:
            await ours.recv()
        assert (caught.value.code, caught.value.reason) == (1001, "enough")


@pytest.mark.parametrize("side", ["server", "client"])
async def test_what_comes_after_the_close_frame_is_nothing(rig: Any, side: str) -> None:
    async with rig(compression=False) as made:
        server, client = await made.pair()
        ours, theirs = (server, client) if side == "server" else (client, server)
        mask = side == "server"
        frames = [Frame(Opcode.CLOSE, b"\x03\xe8bye"), Frame(Opcode.TEXT, b"late"), Frame(Opcode.PING, b"")]
        theirs._transport.write(b"".join(frame.serialize(mask=mask) for frame in frames) + b"\xff" * 5000)
        with pytest.raises(ConnectionClosed) as caught:
            await ours.recv()
        assert (caught.value.code, caught.value.reason) == (1000, "bye")
        async with within(10):
            await asyncio.gather(ours.wait_closed(), theirs.wait_closed())


async def test_an_answer_to_a_text_that_came_with_the_end_is_refused(rig: Any) -> None:
    class Answering(Taker):
        def text_received(self, text: str) -> None:
            super().text_received(text)
            with pytest.raises(ConnectionClosed):
                server.try_send("answer")

    async with rig(compression=False) as made:
        server, client = await raw_pair(made)
        taker = Answering()
        server.receive_into(taker)
        frames = [Frame(Opcode.TEXT, b"question"), Frame(Opcode.CLOSE, b"\x03\xe8")]
        client.transport.write(b"".join(frame.serialize(mask=True) for frame in frames))
        await until(lambda: bool(taker.ends))
        assert (taker.texts, taker.ends[0].code) == (["question"], 1000)
        client.transport.abort()


async def test_connections_of_all_ends_are_freed_without_the_garbage_collector(rig: Any) -> None:
    free_transports_at_once()
    dice = random.Random(3)
    alive: weakref.WeakSet[WebSocketConnection] = weakref.WeakSet()

    async def one(made: Any, number: int) -> None:
        server, client = await made.pair()
        made.forget()
        alive.update((server, client))
        server.receive_into(Taker())
        for _ in range(number % 3):
            await client.send("x" * dice.randrange(2000))
        match number % 5:
            case 0:
                await client.close()
            case 1:
                await server.close()
            case 2:
                client._transport.abort()
            case 3:
                client._transport.write(b"\xff" * 20)
            case 4:
                server._transport.write(b"\x81\x7f" + (1 << 40).to_bytes(8, "big"))
        await asyncio.gather(server.wait_closed(), client.wait_closed())

    async with rig() as made:
        await one(made, 0)
        await asyncio.sleep(0.01)
        gc.collect()
        gc.disable()
        try:
            for first in range(0, 200, 10):
                await asyncio.gather(*(one(made, first + n) for n in range(10)))
            async with within(5):
                await until(lambda: not alive)
        finally:
            gc.enable()


async def test_closing_in_the_moment_of_the_loss_is_no_error() -> None:
    """uvloop raises where something is written to a connection whose end it has reported; ends come in slices."""

    async def serve(request: web.Request) -> web.StreamResponse:
        accept(request, INFO, compression=False)
        return upgraded()

    app = web.Application()
    app.router.add_get("/", serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = UnencryptedWebSocketUrl(f"ws://127.0.0.1:{runner.addresses[0][1]}/")
    try:
        async with within(10):
            connection = await open_client(url, THEIRS, compression=False, token=None, trust=None)
            connection.abort()
            await asyncio.sleep(0)  # the loss is known, and not handled yet
            await connection.close()
            await connection.wait_closed()
    finally:
        await runner.cleanup()
