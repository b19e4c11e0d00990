"""MQTT connection on the event loop (paho-mqtt), with a send window. Its end resolves all waiters."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from paho.mqtt.client import Client
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from s2connect.certs.tls import describe_tls_error
from s2connect.errors import (
    CertificateRefused,
    ConnectionClosed,
    NotReachable,
    PeerBusy,
    PeerTimeout,
    ProtocolViolation,
    S2ConnectError,
    SessionRefused,
)
from s2connect.model.text import for_display
from s2connect.supervisor import process_failures
from s2connect.transports.base import MAX_MESSAGE_BYTES
from s2connect.transports.mqtt.frames import PACKET_ROOM_BYTES, Packet
from s2connect.transports.mqtt.paho_client import WRITE_BUFFER_BYTES, PahoClient, Stream, WebSocketStream
from s2connect.transports.mqtt.publish import (
    FAILURE,
    MalformedPublish,
    read_puback,
    write_puback,
    write_publish,
)
from s2connect.transports.mqtt.receiver import Receiver, TopicHandler
from s2connect.transports.mqtt.settings import NO_BROKER, MqttSettings, refused_broker
from s2connect.transports.tls_buffer import set_tls_buffer

_log = logging.getLogger(__name__)

RECEIVE_MAXIMUM = 20
"""MQ-15: messages that may be on their way at once, in each direction; the broker may allow fewer."""

KEEPALIVE = 20
"""Seconds without traffic until a PINGREQ; a dead broker is noticed in twice that time."""

OPEN_TIMEOUT = 10.0
"""Seconds for name, TCP, TLS, WebSocket and CONNACK together."""

CLOSE_TIMEOUT = 1.5
"""Seconds for DISCONNECT."""

MAX_WAITING = 4096
"""Messages that may wait for room in the window."""

READ_BYTES = 64 * 1024
"""Read buffer of the connection. Any publisher can fill it: a message of 900 kB that is dropped costs twice as much CPU
with 4 KiB, and a tenth less with 256 KiB."""

ACKNOWLEDGE_AFTER = 0.005
"""Seconds that a PUBACK waits for other bytes to be sent with, twice as many at most; no session waits for it."""

_PUBLISH, _PUBACK, _DISCONNECT = 0x30, 0x40, 0xE0
_LOWEST_ID, _HIGHEST_ID = 0x8000, 0xFFFF
_BAD_CREDENTIALS = {0x85, 0x86, 0x87, 0x8A, 0x8C}
_BUSY = {0x88, 0x89, 0x97, 0x9C, 0x9D, 0x9F}


@dataclass(frozen=True, slots=True)
class BrokerLost:
    """End of a connection, with the reason code of the broker's DISCONNECT if it sent one."""

    reason_code: int | None
    text: str

    @property
    def error(self) -> ConnectionClosed:
        return ConnectionClosed(reason=self.text)


class BrokerConnection:
    """One connection, from CONNACK to its end. It does not come back: sessions end with it (MQ-10).

    Args:
        settings: Broker and account.
        context: TLS context of a client.
        address: Address to connect to instead of looking the host up.
        will: Published by the broker when the connection is lost (MQ-12).
        max_packet: Longest packet that is read, bytes; a longer message is dropped as it comes (MQ-15).
        drops: Dropped messages by reason, beyond one connection.

    Attributes:
        url: The node of the broker that it leads to.
        settle: Seconds from a subscription until all nodes of the broker know of it, 0 where it is no cluster.
        max_packet: Longest packet that the broker takes, bytes; None where it named no bound.
        lost: Why it ended, None while it stands.
    """

    def __init__(
        self,
        settings: MqttSettings,
        context: ssl.SSLContext,
        *,
        address: str | None = None,
        will: Packet | None = None,
        max_packet: int = MAX_MESSAGE_BYTES + PACKET_ROOM_BYTES,
        drops: Counter[str] | None = None,
    ) -> None:
        self.url = url = settings.url
        self.settle = settings.settle_seconds
        self._settings = settings
        self._context = context
        self._address = address or url.host
        self._will = will
        self._host = for_display(url.host)
        self._where = f"{self._host}:{url.port}"
        self._loop = asyncio.get_running_loop()
        self.receive_maximum = RECEIVE_MAXIMUM
        self.max_packet: int | None = None
        self.lost: BrokerLost | None = None
        self._max_read = max_packet
        self._receiver = receiver = Receiver(
            max_packet, Counter() if drops is None else drops, self._host, self._loop.time
        )
        make: Callable[..., Stream] = partial(WebSocketStream, url) if url.is_websocket else Stream
        self._stream = make(
            max_packet,
            receiver,
            take=self._take,
            readable=self._read,
            idle=self._answer,
            writable=self._write,
        )
        self._client = client = PahoClient(settings.client_id or "", self._stream)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        self._connected: asyncio.Future[None] = self._loop.create_future()
        self._closing = False
        self._reason_code: int | None = None
        self._flush: asyncio.Handle | None = None
        self._misc: asyncio.TimerHandle | None = None
        self._unacknowledged: dict[int, Callable[[int], None] | None] = {}
        self._backlog: deque[tuple[Packet, Callable[[int], None] | None]] = deque()
        self._packet_id = _HIGHEST_ID
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._acknowledging: asyncio.TimerHandle | None = None
        self._acknowledged_meanwhile = False
        self._subscribing: dict[int, asyncio.Future[list[int]]] = {}
        self._subscribing_once = asyncio.Lock()
        self._subscribed: set[str] = set()
        self._ends: list[Callable[[BrokerLost], None]] = []
        self._connect_sent = False
        self.ended = asyncio.Event()
        self.local_address = self.remote_address = ""

    async def open(self, timeout: float = OPEN_TIMEOUT) -> Self:
        """Connect with Clean Start and without a session that outlives the connection (MQ-10). Cancel-safe.

        Raises:
            NotReachable: No connection.
            PeerTimeout: No CONNACK in time.
            PeerBusy: The broker is busy or has a problem of its own.
            TrustError: Its certificate is not accepted.
            SessionRefused: It does not accept client id, user name, password or certificate.
            ProtocolViolation: It speaks no TLS 1.3, no MQTT 5, or no WebSocket at its URL.
            ConfigurationError: The paho-mqtt that is installed cannot be used.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._connect()
        except BaseException as error:
            self._stream.abort()
            self._end(BrokerLost(None, "not opened"))
            if self._connected.done() and not self._connected.cancelled():
                self._connected.exception()  # the cause, or of no interest any more
            mapped = self._explain(error)
            if mapped is None:
                raise
            raise mapped from error
        return self

    async def _connect(self) -> None:
        settings, will, client = self._settings, self._will, self._client
        transport, _ = await self._loop.create_connection(
            lambda: self._stream,
            self._address,
            settings.url.port,
            ssl=self._context,
            server_hostname=settings.url.host,
            ssl_shutdown_timeout=CLOSE_TIMEOUT,
        )
        set_tls_buffer(transport, READ_BYTES)
        names = (transport.get_extra_info(key) for key in ("sockname", "peername"))
        self.local_address, self.remote_address = (n[0] if isinstance(n, tuple) else "" for n in names)
        await self._stream.ready()
        if settings.username is not None:
            client.username_pw_set(settings.username, settings.password.reveal() if settings.password else None)
        if will is not None:
            described: Any = Properties(PacketTypes.WILLMESSAGE)  # type: ignore[no-untyped-call]
            described.ContentType = will.content_type
            client.will_set(will.topic, will.payload, 1, will.retain, described)
        properties: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = 0
        properties.ReceiveMaximum = RECEIVE_MAXIMUM
        # Mosquitto before 2.0.13 counts what it holds back for a Maximum Packet Size in its window for ever: twenty
        # long messages of anybody would end all that it sends here. So the receiver drops them. Not in a WebSocket,
        # where a frame is only there as a whole, and of which Debian's old Mosquitto knows nothing.
        if settings.url.is_websocket:
            properties.MaximumPacketSize = self._max_read
        client.begin(KEEPALIVE, properties)
        self._stream.flush()
        self._connect_sent = True
        await self._connected
        self._tick()

    def _explain(self, error: BaseException) -> S2ConnectError | None:
        where = self._where
        if isinstance(error, S2ConnectError):
            return None
        tls = describe_tls_error(error, self._settings.url.host)
        if tls is not None:
            return refused_broker(where, tls) if isinstance(tls, CertificateRefused) else tls
        if isinstance(error, TimeoutError):
            return PeerTimeout(f"The broker {where} did not open the connection in time.", hint=NO_BROKER)
        if isinstance(error, OSError):
            if self._connect_sent:
                return NotReachable(
                    f"The broker {where} ended the connection instead of answering.",
                    hint="Some do so for a wrong user name, password or client id; its log says why.",
                )
            return NotReachable(NotReachable.because(self._host, self._settings.url.port, error).what, hint=NO_BROKER)
        return None

    # --- sending

    def has_room(self) -> bool:
        """Return whether :meth:`publish` would return at once now."""
        return self.lost is None and not self._waiting and not self._backlog and self._has_window()

    def _has_window(self) -> bool:
        return not self._stream.full and len(self._unacknowledged) < self.receive_maximum

    def put(self, packet: Packet, acknowledged: Callable[[int], None] | None = None) -> None:
        """Publish at QoS 1, in the order of the calls, when there is room in the window.

        Await :meth:`room` before sending much; packets without room are queued here. ``acknowledged`` is called with
        the reason code of the broker's PUBACK, unless the connection ends before.

        Raises:
            ConnectionClosed: The connection is gone, or too many messages wait already.
        """
        if self.lost is not None:
            raise self.lost.error
        if self._backlog or not self._has_window():
            if len(self._backlog) >= MAX_WAITING:
                raise ConnectionClosed(reason="too many messages wait for the broker")
            self._backlog.append((packet, acknowledged))
            return
        self._publish(packet, acknowledged)
        self._write()

    async def publish(self, packet: Packet) -> int:
        """Publish at QoS 1 and wait for the PUBACK; return its reason code. Cancelled, the message is sent or not.

        Raises ConnectionClosed if the connection is gone, or too many messages wait already.
        """
        await self.room()
        answer: asyncio.Future[int] = self._loop.create_future()
        self.put(packet, lambda code: None if answer.done() else answer.set_result(code))
        take_back = self.at_end(lambda lost: None if answer.done() else answer.set_exception(lost.error))
        try:
            return await answer
        finally:
            take_back()

    def _publish(self, packet: Packet, acknowledged: Callable[[int], None] | None) -> None:
        # Our identifiers go down through the upper half; paho's, for subscriptions, go up from 1.
        packet_id = self._packet_id
        while packet_id == self._packet_id or packet_id in self._unacknowledged:
            packet_id = packet_id - 1 if packet_id > _LOWEST_ID else _HIGHEST_ID
        self._packet_id = packet_id
        self._unacknowledged[packet_id] = acknowledged
        self._stream.send(write_publish(packet, packet_id))

    async def room(self) -> None:
        """Wait until there is room for one message; first come, first served. Cancel-safe. Raises as :meth:`put`."""
        if self.has_room():
            return
        if self.lost is not None:
            raise self.lost.error
        if len(self._waiting) >= MAX_WAITING:
            raise ConnectionClosed(reason="too many messages wait for the broker")
        turn: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(turn)
        try:
            await turn
        finally:
            if turn in self._waiting:
                self._waiting.remove(turn)
        if self.lost is not None:
            raise self.lost.error

    def _admit(self) -> None:
        """Send the backlog and resume waiting senders, as far as there is room."""
        if self.lost is None:
            while self._backlog and self._has_window():
                self._publish(*self._backlog.popleft())
            if self._backlog or self._stream.full:
                return
        free = self.receive_maximum - len(self._unacknowledged)
        while self._waiting and (free > 0 or self.lost is not None):
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                free -= 1
        if self._waiting and self._flush is None:
            self._flush = self._loop.call_soon(self._write)  # should the resumed senders not use their room

    # --- receiving

    def set_handler(self, topic: str, handler: TopicHandler | None) -> None:
        """Set the handler of a topic; None removes it."""
        if handler is None:
            self._receiver.handlers.pop(topic, None)
        else:
            self._receiver.handlers[topic] = handler

    async def subscribe_once(self, topic: str, *, settle: float = 0.0) -> None:
        """Subscribe and wait for ``settle`` seconds, if this connection has not done so before.

        Raises as :meth:`subscribe`.
        """
        async with self._subscribing_once:
            if topic not in self._subscribed:
                await self.subscribe(topic)
                await asyncio.sleep(settle)
                self._subscribed.add(topic)

    async def subscribe(self, topic: str, *, probe: bool = False, retained: bool = False) -> None:
        """Subscribe at QoS 1 and wait for SUBACK (MQ-11), also to what is ``retained`` there.

        A ``probe`` is at QoS 0 and gets our own messages, to measure the broker.

        Raises:
            SessionRefused: The broker does not allow it.
            ConnectionClosed: The connection is gone.
        """
        no_local = not probe and not topic.startswith("$share/")  # there it is a protocol error (MQTT 5, 3.8.3.1)
        qos = 0 if probe else 1
        options = SubscribeOptions(qos, no_local, retainHandling=0 if retained else 2)
        _, mid = self._client.subscribe(topic, options=options)
        if mid is None or self.lost is not None:
            raise ConnectionClosed(reason="the connection to the broker is gone")
        answer = self._subscribing[mid] = self._loop.create_future()
        self._write()
        try:
            codes = await answer
        finally:
            self._subscribing.pop(mid, None)
        if len(codes) != 1 or not qos <= codes[0] < FAILURE:
            raise SessionRefused(
                f"The broker {self._host} refuses the subscription of {for_display(topic)}.",
                reason="Other",
                hint="Check the rights of this client at the broker.",
            )

    def unsubscribe(self, topic: str) -> None:
        """Subscribe no more; does not wait, and does nothing at the end of the connection."""
        if self.lost is None:
            self._client.unsubscribe(topic)
            self._write()

    # --- the end

    def at_end(self, call: Callable[[BrokerLost], None]) -> Callable[[], None]:
        """Register a callback for the end of the connection, called soon if it has ended. Returns its removal."""
        if self.lost is not None:
            self._loop.call_soon(call, self.lost)
            return lambda: None
        self._ends.append(call)
        return lambda: self._ends.remove(call) if call in self._ends else None

    async def close(self) -> None:
        """Disconnect in good order, so that no will is published; bounded, idempotent, never raises for the network."""
        if self.lost is None and not self._closing:
            self._closing = True
            self._client.disconnect()
            self._write()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._stream.gone.wait()
        except TimeoutError:
            pass  # it is cut
        finally:
            self._stream.abort()
            self._end(BrokerLost(None, "closed"))

    def abort(self, text: str) -> None:
        """End the connection at once; the broker publishes the will."""
        self._end(BrokerLost(None, text))
        self._stream.abort()

    def _end(self, lost: BrokerLost) -> None:
        if self.lost is not None:
            return
        self.lost = lost
        for handle in (self._misc, self._flush, self._acknowledging):
            if handle is not None:
                handle.cancel()
        for answer in self._subscribing.values():
            if not answer.done():
                answer.set_exception(lost.error)
        self._unacknowledged.clear()
        self._backlog.clear()
        self._admit()
        self._receiver.handlers.clear()
        self.ended.set()
        ends, self._ends = self._ends, []
        for call in ends:
            try:
                call(lost)
            except Exception as error:  # the other sessions are closed all the same
                process_failures.failed("mqtt-end", error)

    # --- the loop and paho

    def _take(self, command: int, raw: bytes) -> bool:
        """Handle PUBLISH and PUBACK; return False for what paho reads."""
        kind = command & 0xF0
        if kind not in (_PUBLISH, _PUBACK):
            if kind == _DISCONNECT:  # paho 2.1 does not read a reason code that stands alone
                self._reason_code = raw[0] if raw else 0
            return False
        if self.lost is not None:
            return True
        try:
            if kind == _PUBLISH:
                self._receiver.receive(command, raw)
            else:
                packet_id, code = read_puback(raw)
                acknowledged = self._unacknowledged.pop(packet_id, None)
                if acknowledged is not None:
                    acknowledged(code)
        except MalformedPublish:
            self.abort("the broker breaks MQTT")
        return True

    def _answer(self) -> None:
        """Write the answers to what was read. PUBACKs alone wait a moment for other bytes."""
        pending = len(self._receiver.acknowledgements)
        if self._stream.unsent or self._backlog or self._waiting or 2 * pending >= RECEIVE_MAXIMUM:
            self._write()
        elif pending and self._acknowledging is None:
            self._acknowledge_later()

    def _acknowledge_later(self) -> None:
        self._acknowledged_meanwhile = False
        self._acknowledging = self._loop.call_later(ACKNOWLEDGE_AFTER, self._acknowledge)

    def _acknowledge(self) -> None:
        self._acknowledging = None
        if not self._acknowledged_meanwhile:
            self._write()
        elif self._receiver.acknowledgements:
            # They came after that; where messages follow each other, the next takes them.
            self._acknowledge_later()

    def _read(self) -> None:
        """Let paho read."""
        try:
            self._client.read()
            self._stream.flush()
        except Exception:  # paho raises what it stumbles over
            _log.exception("A packet of the broker %s cannot be read", self._host)
            self._loop.call_soon(self.abort, "the broker breaks MQTT")

    def _write(self) -> None:
        """Write everything that is pending, in one piece. paho writes by itself as long as there is room."""
        if self._stream.reading and self._stream.unsent < WRITE_BUFFER_BYTES:
            return
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        if self._client.want_write():
            self._client.loop_write()
        if self._receiver.acknowledgements and not self._stream.full:
            self._stream.send(b"".join(map(write_puback, self._receiver.acknowledgements)))
            self._receiver.acknowledgements.clear()
            self._acknowledged_meanwhile = True
        if self._backlog or self._waiting:
            self._admit()
        self._stream.flush()

    def _tick(self) -> None:
        self._misc = self._loop.call_later(max(KEEPALIVE / 4, 0.05), self._tick)
        self._client.loop_misc()
        self._stream.flush()

    def _on_connect(self, _client: Client, _data: Any, _flags: Any, reason: ReasonCode, properties: Any) -> None:
        if self._connected.done():
            return
        code = int(reason.value)
        if code >= FAILURE:
            self._connected.set_exception(self._refusal(code))
            return
        theirs = getattr(properties, "ReceiveMaximum", None)
        if isinstance(theirs, int):
            self.receive_maximum = min(self.receive_maximum, theirs)
        self.max_packet = getattr(properties, "MaximumPacketSize", None)
        self._connected.set_result(None)

    def _refusal(self, code: int) -> S2ConnectError:
        where = f"The broker {self._where}"
        if code in _BAD_CREDENTIALS:
            return SessionRefused(
                f"{where} does not let this client in ({_name(code)}).",
                reason="Other",
                hint="Check client id, user name, password and certificate for the broker.",
            )
        if code in _BUSY:
            return PeerBusy(f"{where} is busy or has a problem of its own ({_name(code)}).", status=code)
        return ProtocolViolation(
            f"{where} refuses the connection ({_name(code)}).", hint="It has to be a broker for MQTT 5."
        )

    def _on_disconnect(self, *_: Any) -> None:
        code = self._reason_code
        text = f"the broker ended the connection ({_name(code)})" if code else "the connection to the broker was lost"
        if not self._connected.done():
            self._connected.set_exception(self._stream.error or ConnectionResetError(text))
        # paho holds a lock during its callbacks; the callbacks of the end may call paho.
        self._loop.call_soon(self._end, BrokerLost(code, text))
        if not self._closing:
            self._loop.call_soon(self._stream.abort)

    def _on_subscribe(self, _client: Client, _data: Any, mid: int, reasons: Iterable[ReasonCode], _: Any) -> None:
        answer = self._subscribing.pop(mid, None)
        if answer is not None and not answer.done():
            answer.set_result([int(reason.value) for reason in reasons])


def _name(code: int | None) -> str:
    """Name of a reason code that a broker sent."""
    try:
        return str(ReasonCode(PacketTypes.DISCONNECT, identifier=code)).lower() if code is not None else "no reason"
    except (KeyError, ValueError):
        return f"reason code {code}"
