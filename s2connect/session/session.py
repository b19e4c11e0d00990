"""Session: an application's view of a connection. Messages in, messages out, every one acknowledged (MSG-03)."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import TracebackType
from typing import Any, Literal, Self

from s2connect.errors import AcknowledgementTimeout, ConnectionClosed, MessageRefused, SessionError, UsageError
from s2connect.messages.envelope import (
    HANDSHAKES,
    NIL_ID,
    RECEPTION_STATUS,
    SESSION_REQUEST,
    InvalidMessage,
    Message,
    ReceptionStatusValue,
    check_sendable,
    read_message,
    reception_status,
    write_message,
)
from s2connect.model.common import NodeDescription, Role
from s2connect.model.text import for_display
from s2connect.session.acknowledgements import ACKNOWLEDGEMENT_TIMEOUT, Acknowledged, Acknowledgements
from s2connect.transports.base import ABNORMAL_CLOSURE, NORMAL_CLOSURE, Connection, ConnectionInfo

_log = logging.getLogger(__name__)

INBOX_LIMIT = 100
"""Messages that are acknowledged and wait for the application; those beyond it wait for their OK as well."""

OVERFLOW_LIMIT = 100
"""Messages beyond the inbox that are kept without an OK; what comes then is answered TEMPORARY_ERROR and not kept."""

OUTBOX_LIMIT = 2000
"""ReceptionStatuses that wait to be written; beyond it nothing more is read. More than a peer may leave unanswered."""

FAREWELL_TIMEOUT = 3.0
"""Seconds that the answer to a SessionRequest may take on its way before the connection is closed."""


class SessionEnd(StrEnum):
    """Why a session ended, or that it did not yet."""

    OPEN = "open"
    CLOSED_BY_US = "closed_by_us"
    CLOSED_BY_PEER = "closed_by_peer"
    LOST = "lost"
    RECONNECT_REQUESTED = "reconnect_requested"
    TERMINATE_REQUESTED = "terminate_requested"


_REQUESTED = {"RECONNECT": SessionEnd.RECONNECT_REQUESTED, "TERMINATE": SessionEnd.TERMINATE_REQUESTED}

Direction = Literal["received", "sent"]
Observer = Callable[[Direction, Message], None]


class Session:
    """One session with one peer, from construction (within a running event loop) to its end.

    Every message of the peer is answered by the session itself, without the application (MSG-03, MSG-04): ``OK`` once
    it stands in the inbox of :data:`INBOX_LIMIT` messages. When that is full, reading goes on, because the
    ReceptionStatuses that ``send`` waits for come the same way: up to :data:`OVERFLOW_LIMIT` further messages are kept
    without ``OK``, which each gets when the application has made room, so that a peer that waits for its
    acknowledgements is slowed down. A peer that does not wait gets ``TEMPORARY_ERROR`` for what comes then, and the
    message is not kept. So two applications that send to each other without reading do not block each other, and
    memory is bounded.

    Args:
        connection: What carries the session; the session owns and closes it.
        peer: The peer's node.
        role: Our role.
        ack_timeout: Seconds until ``send`` stops waiting for a ReceptionStatus.
        inbox_limit: See above, at least 1.
        overflow_limit: See above.
        on_message: Called with every message in the order on the wire, ReceptionStatuses included, for logs. What it
            raises is logged.

    Attributes:
        info: Facts of the connection.
        peer: The peer's node.
        role: Our role.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        peer: NodeDescription,
        role: Role,
        ack_timeout: float = ACKNOWLEDGEMENT_TIMEOUT,
        inbox_limit: int = INBOX_LIMIT,
        overflow_limit: int = OVERFLOW_LIMIT,
        on_message: Observer | None = None,
    ) -> None:
        self.info: ConnectionInfo = connection.info
        self.peer = peer
        self.role = role
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._on_message = on_message
        self._ledger = Acknowledgements(timeout=ack_timeout)
        self._answers: dict[str, asyncio.Future[Message]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._inbox: deque[Message] = deque()
        self._inbox_limit = inbox_limit
        self._overflow_limit = overflow_limit
        self._arrived = asyncio.Event()
        self._outbox: deque[str] = deque()
        self._to_write = asyncio.Event()
        self._written = asyncio.Event()
        self._send_lock = asyncio.Lock()
        self._end = SessionEnd.OPEN
        self._intent: SessionEnd | None = None
        self._closed: ConnectionClosed | None = None
        self._ended = asyncio.Event()
        name = f"s2connect-session-{self.info.remote}"
        self._writer = asyncio.create_task(self._write_answers(), name=f"{name}-writer")
        self._pump = asyncio.create_task(self._run(), name=f"{name}-pump")

    @property
    def end_reason(self) -> SessionEnd:
        """Why the session ended; ``OPEN`` while it stands."""
        return self._end

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        try:
            return await self.receive()
        except ConnectionClosed:
            raise StopAsyncIteration from None

    async def receive(self) -> Message:
        """Receive the next message; ReceptionStatus and SessionRequest are the session's own business. Cancel-safe.

        What was received before the session ended is still delivered.

        Raises:
            ConnectionClosed: The session has ended.
        """
        while not self._inbox:
            self._check_open()
            self._arrived.clear()
            await self._arrived.wait()
        message = self._inbox.popleft()
        if len(self._inbox) >= self._inbox_limit and self._closed is None:
            withheld = self._inbox[self._inbox_limit - 1].id
            self._answer(withheld or NIL_ID, ReceptionStatusValue.OK)
            self._to_write.set()
        return message

    async def send(self, message: Mapping[str, Any] | str) -> None:
        """Send a message and wait for its ReceptionStatus. Many may be on their way at the same time.

        Cancelled, the message may have been sent; its ReceptionStatus is then ignored.

        Args:
            message: An object, whose missing ``message_id`` becomes a new UUID, or a text that is sent unchanged.

        Raises:
            UsageError: It is no message that may be sent, its id waits for its ReceptionStatus already, or 1000 wait.
            MessageRefused: The peer's ReceptionStatus is other than ``OK``.
            AcknowledgementTimeout: No ReceptionStatus in time; the session goes on, and a late one is only logged.
            ConnectionClosed: The session has ended, before or while waiting; the peer may have the message.
        """
        text, identifier = self._written_form(message)
        self._check_open()
        self._ledger.sent(identifier, now=self._loop.time())
        answer: asyncio.Future[Message] = self._loop.create_future()
        self._answers[identifier] = answer
        self._arm_timer()
        try:
            await self._transmit(text)
            status = await answer
        finally:
            if self._answers.pop(identifier, None) is not None:
                self._ledger.give_up(identifier)
        if status.status != ReceptionStatusValue.OK:
            shown = for_display(f"{status.status}: {status.label}" if status.label else f"{status.status}", 200)
            raise MessageRefused(
                f"The peer refused the message ({shown}).", status=status.status or "", label=status.label or ""
            )

    async def request_reconnect(self) -> None:
        """Ask the peer to start a new session at once, then close (REC-03)."""
        await self._request("RECONNECT")

    async def request_terminate(self) -> None:
        """Tell the peer that the session ends, then close (REC-03)."""
        await self._request("TERMINATE")

    async def close(self, reason: str = "") -> None:
        """End the session; idempotent and bounded. Queued messages can still be received."""
        if self._intent is None:
            self._intent = SessionEnd.CLOSED_BY_US
        try:
            await self._connection.close(NORMAL_CLOSURE, reason)
        finally:
            if asyncio.current_task() is not self._pump:
                await asyncio.wait({self._pump})

    async def wait_closed(self) -> None:
        """Wait until the session has ended and everything is released."""
        await self._ended.wait()

    # Sending

    def _written_form(self, message: Mapping[str, Any] | str) -> tuple[str, str]:
        if not isinstance(message, str):
            return write_message(message)
        try:
            read = read_message(message)
        except InvalidMessage as error:
            raise UsageError(f"The text is no S2 message: {error.label}.") from None
        check_sendable(read.type)
        return message, read.id or NIL_ID

    async def _transmit(self, text: str) -> None:
        async with self._send_lock:
            self._check_open()
            if self._on_message is not None:
                self._observe("sent", read_message(text))
            await self._connection.send(text)

    def _check_open(self) -> None:
        if self._closed is not None:
            raise ConnectionClosed(self._closed.code, self._closed.reason)

    async def _request(self, request: str) -> None:
        if self._intent is None:
            self._intent = SessionEnd.CLOSED_BY_US
        try:
            async with asyncio.timeout(FAREWELL_TIMEOUT):
                await self.send({"message_type": SESSION_REQUEST, "request": request})
        except (SessionError, TimeoutError) as error:
            _log.debug("%s was not acknowledged by %s: %s", request, self.info.remote, type(error).__name__)
        finally:
            await self.close()

    def _arm_timer(self) -> None:
        deadline = self._ledger.deadline
        if self._timer is None and deadline is not None:
            self._timer = self._loop.call_at(deadline, self._expire)

    def _expire(self) -> None:
        self._timer = None
        for identifier in self._ledger.expired(self._loop.time()):
            answer = self._answers.pop(identifier, None)
            if answer is not None and not answer.done():
                answer.set_exception(AcknowledgementTimeout("The peer did not acknowledge a message in time."))
        self._arm_timer()

    # Receiving

    async def _run(self) -> None:
        closed = ConnectionClosed()
        try:
            while True:
                text = await self._connection.recv()
                if self._take(text):
                    self._to_write.set()
                    await self._drained()
                    await self._connection.close(NORMAL_CLOSURE)
                elif len(self._outbox) == 1 and not self._send_lock.locked() and self._connection.has_room():
                    # The usual case, without waking the writer. It does not wait, so the pump goes on reading.
                    await self._transmit(self._outbox.popleft())
                elif self._outbox:
                    self._to_write.set()
                if len(self._outbox) >= OUTBOX_LIMIT:
                    await self._room()
        except ConnectionClosed as error:
            closed = error
        except Exception:
            _log.exception("The session with %s ends because of an error", self.info.remote)
            await self._connection.close(1011)
        finally:
            self._finish(closed)
            self._writer.cancel()
            await asyncio.wait({self._writer})
            self._ended.set()

    def _take(self, text: str) -> bool:
        """Deal with one received text; True if the peer wants the session to end."""
        try:
            message = read_message(text)
            if message.type != RECEPTION_STATUS:
                message.body  # noqa: B018 - strict reading belongs before the OK
        except InvalidMessage as error:
            _log.warning("%s sent what is no message: %s", self.info.remote, error.label)
            if error.answerable:
                self._answer(error.subject_id, error.status, error.label)
            return False
        if self._on_message is not None:
            self._observe("received", message)
        if message.type == RECEPTION_STATUS:
            self._acknowledged(message)
            return False
        identifier = message.id or NIL_ID
        if message.type in HANDSHAKES:
            self._answer(identifier, ReceptionStatusValue.INVALID_CONTENT, "not in S2 Connect sessions")
        elif message.type == SESSION_REQUEST:
            return self._requested(identifier, message)
        elif len(self._inbox) < self._inbox_limit:
            self._deliver(message)
            self._answer(identifier, ReceptionStatusValue.OK)
        elif len(self._inbox) < self._inbox_limit + self._overflow_limit:
            self._deliver(message)
        else:
            self._answer(identifier, ReceptionStatusValue.TEMPORARY_ERROR, "too many messages wait to be handled")
        return False

    def _deliver(self, message: Message) -> None:
        self._inbox.append(message)
        self._arrived.set()

    def _requested(self, identifier: str, message: Message) -> bool:
        request = message.body.get("request")
        end = _REQUESTED.get(request) if isinstance(request, str) else None
        if end is None:
            self._answer(identifier, ReceptionStatusValue.INVALID_MESSAGE, "unknown request")
            return False
        if self._intent is None:
            self._intent = end
        self._answer(identifier, ReceptionStatusValue.OK)
        return True

    def _acknowledged(self, message: Message) -> None:
        subject = message.subject_id or NIL_ID
        found = self._ledger.acknowledged(subject)
        if found is Acknowledged.EXPECTED:
            answer = self._answers.pop(subject, None)
            if answer is not None and not answer.done():
                answer.set_result(message)
        else:
            _log.info("%s sent a ReceptionStatus that is %s", self.info.remote, found.value)

    # Answering: a task of its own, because the pump must go on reading while there is no room to write.

    def _answer(self, subject: str, status: ReceptionStatusValue, label: str | None = None) -> None:
        self._outbox.append(reception_status(subject, status, label))

    async def _write_answers(self) -> None:
        try:
            while True:
                await self._to_write.wait()
                while self._outbox:
                    await self._transmit(self._outbox[0])
                    self._outbox.popleft()
                self._to_write.clear()
                self._written.set()
        except ConnectionClosed:
            self._outbox.clear()
        finally:
            self._written.set()

    async def _room(self) -> None:
        while len(self._outbox) >= OUTBOX_LIMIT and not self._writer.done():
            self._written.clear()
            await self._written.wait()

    async def _drained(self) -> None:
        try:
            async with asyncio.timeout(FAREWELL_TIMEOUT):
                while self._outbox and not self._writer.done():
                    self._written.clear()
                    await self._written.wait()
        except TimeoutError:
            _log.debug("%s does not take our last answers", self.info.remote)

    # The end

    def _finish(self, closed: ConnectionClosed) -> None:
        lost = closed.code == ABNORMAL_CLOSURE
        self._closed = closed
        self._end = self._intent or (SessionEnd.LOST if lost else SessionEnd.CLOSED_BY_PEER)
        if self._timer is not None:
            self._timer.cancel()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(ConnectionClosed(closed.code, closed.reason))
        self._arrived.set()

    def _observe(self, direction: Direction, message: Message) -> None:
        assert self._on_message is not None
        try:
            self._on_message(direction, message)
        except Exception:
            _log.exception("The observer of the session with %s failed", self.info.remote)
