"""Names and ways of paho-mqtt that its documentation does not promise: each is named here, and fails when it moves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from paho.mqtt.client import Client
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from s2connect.errors import ConfigurationError
from s2connect.transports.mqtt.frames import Packet
from s2connect.transports.mqtt.paho_client import PahoClient, Stream
from s2connect.transports.mqtt.receiver import Receiver
from tests.mosquitto import HOST, Mosquitto, access_list, password
from tests.mqtt_proxy import proxy
from tests.waits import at_most


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    made = Mosquitto(tmp_path_factory.mktemp("broker"), ["a"], access_list({})).start()
    yield made
    made.kill()


class Written(Stream):
    """Keeps what paho writes."""

    def __init__(self) -> None:
        calls: dict[str, Any] = {name: lambda *_: None for name in ("take", "readable", "idle", "writable")}
        super().__init__(100, Receiver(100, Counter(), "broker", lambda: 0.0), **calls)
        self.bytes = b""

    def send(self, buffer: bytes | bytearray, /) -> int:
        self.bytes += buffer
        return len(buffer)


def _begin(client: PahoClient) -> None:
    client.begin(20, Properties(PacketTypes.CONNECT))
    client.loop_write()


async def test_create_socket_of_paho_gives_it_its_connection() -> None:
    assert callable(Client._create_socket)
    stream = Written()
    client = PahoClient("a", stream)
    _begin(client)
    assert client.socket() is stream
    assert stream.bytes.startswith(b"\x10")
    assert b"MQTT\x05" in stream.bytes


async def test_the_packet_identifiers_of_paho_begin_at_one_and_ours_at_the_other_end(broker: Mosquitto) -> None:
    connection = await broker.connect("a")
    try:
        assert connection._client.subscribe("x")[1] == 1
        assert connection._client.unsubscribe("x")[1] == 2
        assert connection._packet_id == 0xFFFF
    finally:
        await connection.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of a socket that paho forgets
@pytest.mark.parametrize("owner", [Client, PahoClient])
async def test_a_paho_that_makes_its_own_connection_is_refused_before_it_sends_anything(
    broker: Mosquitto, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, owner: type[Client]
) -> None:
    """It would go to the broker without TLS, with the password."""
    monkeypatch.delattr(owner, "_create_socket")
    caplog.set_level(logging.DEBUG)
    heard: list[bytes] = []
    done = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            heard.append(await reader.read())
        writer.close()
        done.set()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    broker.ca.issue_cert(HOST).configure_cert(context)
    async with await asyncio.start_server(listen, "127.0.0.1", 0, ssl=context) as server:
        with pytest.raises(ConfigurationError, match="paho-mqtt") as caught:
            await broker.connect("a", url=f"mqtts://{HOST}:{server.sockets[0].getsockname()[1]}")
        async with at_most(2):  # the connection may have ended before the server had it
            await done.wait()
    assert "pip install" in caught.value.hint
    assert not any(heard)
    assert password("a").reveal() not in caplog.text


@pytest.mark.parametrize(
    "packet",
    [
        b"\x90\x00",
        b"\x90\x03\x00\x01\xff",
        b"\xe0\x02\x00\xff",
        b"\x20\x01\x00",
        b"\xf0\x00",
        b"\x00\x00",
        b"\x62\x02\x00\x01",
    ],
)
async def test_what_paho_stumbles_over_ends_the_connection_and_nothing_else(broker: Mosquitto, packet: bytes) -> None:
    async with proxy(broker) as front:
        connection = await broker.connect("a", url=f"mqtts://{HOST}:{front.url.port}")
        front.change = lambda first, real: [packet]
        connection.put(Packet("x", b""))
        faults: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context))
        async with at_most(0.3):
            await connection.ended.wait()
        await connection.close()
        assert connection.lost is not None
        assert not faults
