"""Session over MQTT as a :class:`Connection`: drives a :class:`Channel` on a connection to a broker."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from s2connect.errors import (
    ConnectionClosed,
    NotReachable,
    PeerTimeout,
    ProtocolViolation,
    S2ConnectError,
    SessionRefused,
)
from s2connect.supervisor import process_failures
from s2connect.transports.base import (
    INTERNAL_ERROR,
    MAX_MESSAGE_BYTES,
    NORMAL_CLOSURE,
    Connection,
    ConnectionInfo,
    Receiver,
)
from s2connect.transports.mqtt.channel import ClientChannel, ServerChannel, State
from s2connect.transports.mqtt.frames import Packet
from s2connect.transports.mqtt.parameters import Answered, Closed, CloseReason, Event, Opened, Received
from s2connect.transports.mqtt.publish import FAILURE, NO_MATCHING_SUBSCRIBERS
from s2connect.transports.mqtt.receiver import TopicHandler

if TYPE_CHECKING:
    from s2connect.transports.mqtt.broker import BrokerConnection

_log = logging.getLogger(__name__)

MAX_INBOX_MESSAGES = 512
"""MQ-15: received messages that may wait, for ``recv`` or while reading is paused; one more ends the session with
``close overflow``. They are acknowledged to the broker at once, because other sessions share the connection."""

MAX_INBOX_BYTES = 4 * MAX_MESSAGE_BYTES
"""Likewise, counted in characters."""

OPEN_AGAIN = 0.25
"""Seconds until ``open`` is published again after a PUBACK without subscribers; then twice as long. In a cluster, whose
nodes learn of each other's subscriptions later and do not say where there is none, after any PUBACK."""


class MqttConnection(Connection):
    """One end of a session over MQTT.

    A slow reader does not slow the writer, as it does over WebSocket, because the broker buffers. When more messages
    wait than is allowed, the session ends (MQ-15), and with the connection to the broker (MQ-10). ``unsubscribe`` says
    that the inbound topic was subscribed to for this session alone.
    """

    def __init__(
        self,
        info: ConnectionInfo,
        broker: BrokerConnection,
        channel: ClientChannel | ServerChannel,
        *,
        unsubscribe: bool = False,
    ) -> None:
        self.info = info if info.peer_address else replace(info, peer_address=broker.remote_address)
        self.channel = channel
        self.local_address = broker.local_address
        self.remote_address = broker.remote_address
        self.heartbeat = channel.dead_after
        self._broker = broker
        self._loop = asyncio.get_running_loop()
        self._unsubscribe = unsubscribe
        self._inbox: list[str] = []  # seldom used, and short; an empty deque has 600 bytes
        self._inbox_size = 0
        self._arrived: asyncio.Future[None] | None = None
        self._receiver: Receiver | None = None
        self._paused = False
        self._ended: ConnectionClosed | None = None
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._open_again = OPEN_AGAIN
        self._open_packet: Packet | None = None
        self._question: tuple[int, Callable[[], None]] | None = None  # the number of its ping
        self._refused = self._failed = False
        self._why = ""
        direct = self if channel.parameters.sealed else None
        broker.set_handler(channel.inbound_topic, TopicHandler(self._receive, direct=direct))
        self._let_go = broker.at_end(lambda _: self._follow(channel.lost()))

    # --- opening

    async def open(self) -> None:
        """Start the channel and wait until the session is open; the inbound topic is subscribed to. Cancel-safe.

        Raises:
            NotReachable: The connection to the broker was lost, or nobody listens on the other side.
            PeerTimeout: The other side did not answer in time (MQ-11).
            SessionRefused: The other side, or the broker, refuses.
            ProtocolViolation: The other side breaks the binding.
        """
        try:
            if self._ended is None:  # the connection to the broker may have been lost before
                self._follow(self.channel.start(self._loop.time()))
            await self._opened
        except BaseException:
            await self.close()
            raise

    def abandon(self) -> None:
        """Release everything of a session that did not open, without a message to the peer. Idempotent."""
        self.channel.lost()
        assert self.channel.closed is not None
        self._over(self.channel.closed)

    # --- Connection

    def silence(self) -> float:
        return self.channel.silence(self._loop.time())

    def ask(self, call: Callable[[], None]) -> bool:
        if self._ended is None:
            events = self.channel.ask(self._loop.time())
            self._question = self.channel.asked, call
            self._follow(events)
        return True

    async def send(self, text: str) -> None:
        """Send one text. A message that is too long is not sent but answered to its sender (MQ-15)."""
        if not self.try_send(text):
            await self._broker.room()
            if self._ended is not None:
                raise self._end_error()
            self._send(text)

    def try_send(self, text: str) -> bool:
        if self._ended is not None:
            raise self._end_error()
        if not self._broker.has_room():
            return False
        self._send(text)
        return True

    def _send(self, text: str) -> None:
        self._follow(self.channel.send(text, self._loop.time()))

    async def recv(self) -> str:
        while not self._inbox:
            if self._ended is not None:
                raise self._end_error()
            self._arrived = self._loop.create_future()
            await self._arrived
        return self._take()

    def receive_into(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._loop.call_soon(self._hand_over_waiting)

    def pause_reading(self) -> None:
        """Keep texts instead of handing them over. Too many end the session: the broker slows nobody (MQ-15)."""
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        if self._inbox:
            self._loop.call_soon(self._hand_over_waiting)

    async def close(self, code: int = NORMAL_CLOSURE, reason: str = "") -> None:
        """Close the session; the ``close`` frame is sent after the messages before it."""
        if self._ended is None:
            self._inbox.clear()
            self._follow(self.channel.close(CloseReason.for_code(code, reason), self._loop.time()))

    async def wait_closed(self) -> None:
        await asyncio.wait({self._closed})

    def at_close(self, call: Callable[[], object]) -> None:
        self._closed.add_done_callback(lambda _: call())

    # --- the channel's driver

    def _receive(self, packet: Packet) -> None:
        try:
            self._follow(self.channel.receive(packet, self._loop.time()), arrived=True)
        except Exception:
            _log.exception("The session with %s over MQTT ends with a fault of this side", self.info.remote)
            self._follow(self.channel.lost())

    def take(self, raw: bytes, at: int) -> bool:
        """Handle a message that is like the one before. See :class:`DirectReader`."""
        text = self.channel.read_next(raw, at, self._loop.time())
        if text is None:
            return False
        self._arrive(text)
        return True

    def learn(self, raw: bytes, at: int, packet: Packet) -> None:
        """Expect messages like this one. See :class:`DirectReader`."""
        self.channel.learn(raw, at, packet)

    def _arrive(self, text: str) -> None:
        if self._receiver is not None and not (self._paused or self._inbox or self._ended):
            self._hand_over(text)
        else:
            self._keep(text)

    def _tick(self) -> None:
        self._timer = None
        self._follow(self.channel.tick(self._loop.time()))

    def _follow(self, events: list[Event], *, arrived: bool = False) -> None:
        """Publish the packets and handle the events of a call of the channel; ``arrived``: that for a frame."""
        channel = self.channel
        for packet in channel.packets():
            try:
                self._broker.put(packet, self._acknowledged)
            except ConnectionClosed:
                events = [*events, *channel.lost()]
                break
            if packet.topic != channel.outbound_topic:
                self._open_packet = packet
        for event in events:
            if isinstance(event, Received):
                if arrived:
                    self._arrive(event.text)
                else:  # an answer to what we send: the receiver is not called within its own call
                    self._keep(event.text)
            elif isinstance(event, Opened):
                self._set_open(event.version)
            elif isinstance(event, Answered):
                self._peer_answered(event.number)
            else:
                self._over(event)
        # The deadline of an open session only moves away: an early timer looks again.
        if self._timer is None and (deadline := channel.deadline()) is not None:
            self._timer = self._loop.call_at(deadline, self._tick)

    def _peer_answered(self, number: int) -> None:
        if self._question is not None and number >= self._question[0]:
            (_, call), self._question = self._question, None
            call()

    def _hand_over(self, text: str) -> None:
        assert self._receiver is not None
        try:
            self._receiver.text_received(text)
        except Exception as error:
            process_failures.failed("receiver", error, name=f"the receiver of {self.info.remote}")
            self._failed = True
            self._inbox.clear()
            self._follow(self.channel.close(CloseReason.for_code(INTERNAL_ERROR), self._loop.time()))

    def _hand_over_waiting(self) -> None:
        """Hand over what waits, as far as the receiver takes it; after the end all of it, and the end."""
        while self._inbox and (self._ended is not None or not self._paused):
            self._hand_over(self._take())
        if self._ended is not None and self._receiver is not None:
            receiver, self._receiver = self._receiver, None
            receiver.connection_ended(self._end_error())

    def _take(self) -> str:
        text = self._inbox.pop(0)
        self._inbox_size -= len(text)
        return text

    def _keep(self, text: str) -> None:
        if self._ended is not None:
            return
        if len(self._inbox) >= MAX_INBOX_MESSAGES or self._inbox_size + len(text) > MAX_INBOX_BYTES:
            _log.warning("Messages of %s come faster than they are read; the session ends", self.info.remote)
            self._follow(self.channel.close(CloseReason.OVERFLOW, self._loop.time()))
            return
        self._inbox.append(text)
        self._inbox_size += len(text)
        self._wake()

    def _wake(self) -> None:
        """Let whoever receives go on: something waits, or the end."""
        if self._receiver is not None:
            if self._ended is not None or not self._paused:
                self._loop.call_soon(self._hand_over_waiting)
        elif self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    def _set_open(self, version: str) -> None:
        self.info = replace(self.info, s2_version=version)
        if self._retry is not None:
            self._retry.cancel()
        if not self._opened.done():
            self._opened.set_result(None)

    def _acknowledged(self, code: int) -> None:
        """Handle the broker's PUBACK for one of our frames."""
        opening = self.channel.state is State.OPENING and self._open_packet is not None
        nobody = code == NO_MATCHING_SUBSCRIBERS or (opening and self._broker.settle > 0)
        if self._ended is not None or (not nobody and code < FAILURE):
            return
        if opening and code < FAILURE:
            self._retry = self._loop.call_later(self._open_again, self._publish_open_again)
            self._open_again *= 2
            return
        # A frame that the broker does not pass on is a gap for the peer, which ends the session (MQ-09).
        self._refused = code >= FAILURE
        self._why = "the broker refuses our messages" if self._refused else "the other side is no longer there"
        self._follow(self.channel.lost())

    def _publish_open_again(self) -> None:
        if self.channel.state is State.OPENING and self._open_packet is not None:
            with contextlib.suppress(ConnectionClosed):  # then the session is over as well
                self._broker.put(self._open_packet, self._acknowledged)

    def _over(self, closed: Closed) -> None:
        if self._ended is not None:
            return
        self._ended = ConnectionClosed(closed.error.code, self._why) if self._why else closed.error
        if self._failed:
            self._ended = ConnectionClosed(INTERNAL_ERROR)
        for timer in (self._timer, self._retry):
            if timer is not None:
                timer.cancel()
        self._question = None
        self._let_go()
        topic = self.channel.inbound_topic
        self._broker.set_handler(topic, None)
        if self._unsubscribe:
            self._broker.unsubscribe(topic)
        if not self._opened.done():
            self._opened.set_exception(self._not_opened(closed))
            self._opened.exception()  # the caller of open() may have been cancelled
        elif not closed.by_peer and closed.reason is CloseReason.PROTOCOL:
            _log.warning("The session with %s over MQTT ends: %s", self.info.remote, closed.detail)
        self._closed.set_result(None)
        self._wake()

    def _not_opened(self, closed: Closed) -> S2ConnectError:
        name = f"The session with {self.info.remote} over MQTT"
        if closed.reason is None:
            if self._refused:
                return SessionRefused(
                    f"{name} did not open: {self._why}.",
                    reason="Other",
                    hint="Check the rights of this client at the broker.",
                )
            return NotReachable(f"{name} did not open: {self._why or closed.detail}.")
        if closed.reason is CloseReason.TIMEOUT:
            return PeerTimeout(f"{name} did not open in time.")
        if closed.by_peer or closed.reason is not CloseReason.PROTOCOL:
            return SessionRefused(f"{name} was refused ({closed.reason}).", reason="Other")
        return ProtocolViolation(f"{name} did not open: {closed.detail}.")

    def _end_error(self) -> ConnectionClosed:
        assert self._ended is not None
        return ConnectionClosed(self._ended.code, self._ended.reason)
