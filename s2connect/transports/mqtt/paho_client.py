"""paho-mqtt on the loop: byte streams that asyncio makes stand in for its socket.

paho connects its own sockets in the blocking way and reads them byte by byte. Here asyncio makes the connection, so
that names, TCP and TLS wait in the loop, can be cancelled, and fail as everywhere else in this package. This module is
the one place that uses a private name of paho, ``Client._create_socket``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from typing import Any, cast

import paho.mqtt
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from s2connect.errors import ConfigurationError, ProtocolViolation
from s2connect.model.url import MqttUrl
from s2connect.transports.mqtt.publish import UnusablePublish, read_variable_length
from s2connect.transports.mqtt.receiver import Receiver
from s2connect.transports.websocket_connection import DiscreetLogger

WRITE_BUFFER_BYTES = 64 * 1024
"""Bytes buffered in this process for a slow broker before writing pauses."""

UNACKNOWLEDGED_SECONDS = 20.0
"""After this time without an acknowledgement of TCP a connection is given up, where the system can do so."""

PACKETS_IN_A_FRAME = 4
"""Longest packets that one WebSocket message of a broker may hold; a longer one ends the connection."""

_logger = DiscreetLogger(logging.getLogger("websockets.client"))

_PUBLISH = 0x30
_TOO_LONG = 1 << 28


def _packet_length(data: bytes, at: int) -> tuple[int, int]:
    """Return the bytes of the fixed header and of the rest of a packet; (0, 0) if it is incomplete."""
    try:
        length, end = read_variable_length(data, at + 1)
    except IndexError:
        return 0, 0
    except UnusablePublish:
        return 5, _TOO_LONG  # no packet has such a length
    return end - at, length


class Stream(asyncio.Protocol):
    """Stream of one connection; stands in for the socket of paho.

    Args:
        max_packet: Longest packet that is taken in, bytes (MQ-15). A longer PUBLISH is dropped as it comes, because its
            publisher decides how long it is; any other ends the connection.
        receiver: Says what is dropped.
        take: Gets each packet: its first byte, and the bytes after its length. On False the packet can be read as from
            a socket until ``readable`` returns.
        readable: Called when something can be read, and at the end of the connection.
        idle: Called when all received bytes are handled.
        writable: Called when there is room again.

    Attributes:
        reading: Received packets are being handled: what is written meanwhile can go out in one piece, at the end.
        unsent: Bytes that were written and not sent.
        full: There is no room.
    """

    def __init__(
        self,
        max_packet: int,
        receiver: Receiver,
        *,
        take: Callable[[int, bytes], bool],
        readable: Callable[[], None],
        idle: Callable[[], None],
        writable: Callable[[], None],
    ) -> None:
        self._max_packet = max_packet
        self._receiver = receiver
        self._take = take
        self._readable = readable
        self._idle = idle
        self._writable = writable
        self._partial = bytearray()
        self._needed = 0
        self._dropping = 0
        self._incoming = b""
        self._at = 0
        self._outgoing: list[bytes] = []
        self.unsent = 0
        self.reading = False
        self._ended = False
        self._transport: asyncio.Transport | None = None
        self.full = False
        self.error: Exception | None = None
        self.gone = asyncio.Event()

    # --- as a protocol of asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Set what the socket needs; without TCP_NODELAY a QoS 1 round trip takes 44 ms or more."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNACKNOWLEDGED_SECONDS * 1000))

    def data_received(self, data: bytes) -> None:
        """Hand over every packet that is complete."""
        self.reading = True
        try:
            self._cut(data)
        finally:
            self.reading = False
        self._idle()

    def _cut(self, data: bytes) -> None:
        if self._dropping:
            gone = min(self._dropping, len(data))
            self._dropping -= gone
            if self._dropping:
                return
            data = data[gone:]
            self._receiver.discarded()
        if self._partial:
            self._partial += data
            if len(self._partial) < self._needed:
                return
            data = bytes(self._partial)
            self._partial.clear()
        at = header = length = 0
        while at < len(data):
            header, length = _packet_length(data, at)
            end = at + header + length
            if not header or end > len(data):
                break
            if not self._take(data[at], data[at + header : end]):
                self._incoming, self._at = data[at:end], 0
                self._readable()
            at = end
        if at < len(data):
            self._begin(data[at:] if at else data, header, length)

    def _begin(self, rest: bytes, header: int, length: int) -> None:
        """Keep the beginning of a packet, or drop it if its handler does not take the rest."""
        size, here = header + length, len(rest)
        self._needed = size or here + 1
        if header and rest[0] & 0xF0 == _PUBLISH and length != _TOO_LONG:
            topic = header + 2
            if here >= topic:
                topic += int.from_bytes(rest[header:topic], "big")
            head = topic + 2 if rest[0] & 6 else topic
            if here < head < size:
                self._needed = head
            elif head < size and self._receiver.discard(rest[0], rest[header:head], length):
                self._dropping = size - here
                return
        if self._needed > self._max_packet:
            self.error = ConnectionError("the broker sends a longer packet than allowed")
            self.abort()
            return
        self._partial += rest

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        self._writable()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self.error = self.error or exc
        self.gone.set()
        self._readable()

    # --- as a socket of paho

    @property
    def unread(self) -> bool:
        """True if bytes are left that paho has not read, or the end."""
        return self._at < len(self._incoming) or self._ended

    def recv(self, buffer_size: int, /) -> bytes:
        """Return bytes that are here, none at the end. Raises BlockingIOError if there are none yet."""
        start = self._at
        chunk = self._incoming[start : start + buffer_size]
        if not chunk and not self._ended:
            raise BlockingIOError
        self._at = start + len(chunk)
        return chunk

    def send(self, buffer: bytes | bytearray, /) -> int:
        """Take bytes over; :meth:`flush` sends them, all in one. Raises BlockingIOError if there is no room."""
        if self.full:
            raise BlockingIOError
        self._outgoing.append(bytes(buffer))
        self.unsent += len(buffer)
        return len(buffer)

    def flush(self) -> None:
        """Send what was written."""
        if self._outgoing and self._transport is not None:
            data = b"".join(self._outgoing) if len(self._outgoing) > 1 else self._outgoing[0]
            self._outgoing.clear()
            self.unsent = 0
            self._write(data)

    def _write(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    def close(self) -> None:
        """Send the rest, then end the connection; does not wait."""
        self.flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def fileno(self) -> int:
        """Return no descriptor."""
        return -1

    def setblocking(self, flag: bool, /) -> None:
        """Ignore it: this never blocks."""

    async def ready(self) -> None:
        """Wait until bytes of MQTT can go."""


class WebSocketStream(Stream):
    """Stream inside a WebSocket (``wss://``), subprotocol ``mqtt``."""

    def __init__(self, url: MqttUrl, max_packet: int, receiver: Receiver, **callbacks: Callable[..., Any]) -> None:
        super().__init__(max_packet, receiver, **callbacks)
        self._frames = ClientProtocol(
            parse_uri(url),
            subprotocols=[Subprotocol("mqtt")],
            max_size=max(PACKETS_IN_A_FRAME * max_packet, WRITE_BUFFER_BYTES),
            logger=_logger,
        )
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._frames.send_request(self._frames.connect())
        self._send_frames()

    async def ready(self) -> None:
        """Wait for the upgrade. Raises ProtocolViolation if there is no WebSocket for MQTT at this URL."""
        await self._opened

    def data_received(self, data: bytes) -> None:
        """Unpack the frames, whose borders mean nothing (MQTT 5, section 6)."""
        self._frames.receive_data(data)
        payload = bytearray()
        for event in self._frames.events_received():
            if isinstance(event, Response) and not self._opened.done():
                if self._frames.handshake_exc is not None or self._frames.subprotocol != "mqtt":
                    self._refuse()
                else:
                    self._opened.set_result(None)
            elif isinstance(event, Frame) and event.opcode in (Opcode.BINARY, Opcode.CONT):
                payload += event.data
        self._send_frames()
        if payload:
            super().data_received(bytes(payload))
        if self._frames.close_expected() and self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._opened.done():
            self._refuse()
        super().connection_lost(exc)

    def _refuse(self) -> None:
        reason = self._frames.handshake_exc
        shown = type(reason).__name__ if isinstance(reason, InvalidHandshake) else "no upgrade"
        self._opened.set_exception(ProtocolViolation(f"The broker speaks no MQTT over WebSocket at its URL ({shown})."))
        self._opened.exception()  # the caller may have been cancelled

    def _write(self, data: bytes) -> None:
        if self._frames.state is State.OPEN:
            self._frames.send_binary(data)
            self._send_frames()

    def _send_frames(self) -> None:
        assert self._transport is not None
        for data in self._frames.data_to_send():
            if data:
                self._transport.write(data)
            elif self._transport.can_write_eof():
                self._transport.write_eof()

    def close(self) -> None:
        """Send the rest and a close frame, then end the connection."""
        self.flush()
        if self._frames.state is State.OPEN:
            self._frames.send_close(1000)
            self._send_frames()
        super().close()


_NOWHERE = "/dev/null/s2connect"  # below what is no directory: nothing can ever be there


class PahoClient(Client):
    """paho client on an established connection, which it takes by way of ``_create_socket``.

    A paho that does not call it would connect by itself, without TLS, and send the password. So the address that it
    gets is a Unix socket that does not exist.
    """

    def __init__(self, client_id: str, stream: Stream) -> None:
        transport = "unix" if hasattr(socket, "AF_UNIX") else "tcp"
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id,
            protocol=MQTTProtocolVersion.MQTTv5,
            transport=transport,  # type: ignore[arg-type]
        )
        self._stream = stream

    def _create_socket(self) -> Stream:
        return self._stream

    def begin(self, keepalive: int, properties: Properties) -> None:
        """Send CONNECT over the stream. Raises ConfigurationError if this paho does not use the stream."""
        if hasattr(Client, "_create_socket"):
            with contextlib.suppress(OSError, ValueError):
                self.connect(_NOWHERE, 1, keepalive, clean_start=True, properties=properties)
        if self.socket() is not self._stream:
            raise ConfigurationError(
                f"S2 over MQTT does not work with paho-mqtt {paho.mqtt.__version__}.",
                hint="Install another: pip install 'paho-mqtt>=2.1,<2.3'.",
            )

    def read(self) -> None:
        """Let paho read the bytes that the stream holds."""
        while self._stream.unread and self.socket() is not None:
            self.loop_read()
