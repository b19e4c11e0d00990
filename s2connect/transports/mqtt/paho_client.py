"""paho-mqtt on an established connection."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
from pathlib import Path

import paho.mqtt
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.properties import Properties

from s2connect.errors import ConfigurationError
from s2connect.transports.mqtt.streams import Stream

_NOWHERE = "/dev/null/s2connect"  # below what is no directory: nothing can ever be there
_PIECE = 64 * 1024


class PackedProperties(Properties):
    """Properties that are already encoded."""

    raw: bytes

    def __init__(self, raw: bytes) -> None:
        object.__setattr__(self, "raw", raw)

    def pack(self) -> bytes:
        """Return the bytes, with their length prefix."""
        return self.raw


class PahoClient(Client):
    """paho client on an established connection. ``_create_socket`` is the one private name of paho that it uses.

    A paho that does not call it would connect by itself, without TLS, and send the password. So it is given a Unix
    socket that is not there in place of the broker's address; then it gets one that is, and its bytes are carried
    between that and the stream, which costs a little time.

    Args:
        client_id: MQTT client id.
        stream: The connection.
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
        self._pair: _Carrier | None = None

    def _create_socket(self) -> Stream:
        return self._stream

    def begin(self, keepalive: int, wishes: Properties) -> None:
        """Send CONNECT over the stream.

        Raises:
            ConfigurationError: This paho cannot be brought to use the stream.
        """
        if hasattr(Client, "_create_socket"):
            with contextlib.suppress(OSError):
                self.connect(_NOWHERE, 1, keepalive, clean_start=True, properties=wishes)
            if self.socket() is self._stream:
                return
        try:
            self._pair = _Carrier.connect(self, self._stream, keepalive, wishes)
        except (AttributeError, OSError, ValueError):
            raise ConfigurationError(
                f"S2 over MQTT does not work with paho-mqtt {paho.mqtt.__version__}.",
                hint="Install another: pip install 'paho-mqtt>=2.1,<2.3'.",
            ) from None

    def read(self) -> None:
        """Let paho read the bytes that the stream holds."""
        if self._pair is not None:
            self._pair.bring()
            self.loop_read()
            return
        while self._stream.unread and self.socket() is not None:
            self.loop_read()


class _Carrier:
    """Carries bytes between paho's socket and the stream."""

    def __init__(self, end: socket.socket, stream: Stream) -> None:
        self._end = end
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        end.setblocking(False)
        self._loop.add_reader(end, self._fetch)

    @classmethod
    def connect(cls, client: Client, stream: Stream, keepalive: int, wishes: Properties) -> _Carrier:
        with (
            tempfile.TemporaryDirectory(prefix="s2connect-") as directory,  # no other user may enter it
            socket.socket(socket.AF_UNIX) as listener,
        ):
            path = str(Path(directory) / "mqtt")
            listener.bind(path)
            listener.listen(1)
            listener.setblocking(False)
            client.connect(path, 1, keepalive, clean_start=True, properties=wishes)  # at once: the kernel accepts
            end, _ = listener.accept()
        return cls(end, stream)

    def bring(self) -> None:
        """Pass bytes of the stream to paho, or its end."""
        with contextlib.suppress(OSError):
            while piece := self._stream.recv(_PIECE):
                self._end.send(piece)  # a control packet, shorter than what a socket takes
            self._close()

    def _fetch(self) -> None:
        if self._stream.full:
            self._loop.remove_reader(self._end)
            self._loop.call_later(0.05, self._go_on)
            return
        try:
            piece = self._end.recv(_PIECE)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if piece:
            self._stream.send(piece)
            self._stream.flush()
        else:
            self._close()
            self._stream.close()

    def _go_on(self) -> None:
        if self._end.fileno() >= 0:
            self._loop.add_reader(self._end, self._fetch)

    def _close(self) -> None:
        if self._end.fileno() >= 0:
            self._loop.remove_reader(self._end)
            self._end.close()
