"""Session: an application's view of a connection. Messages in, messages out, every one acknowledged (MSG-03)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from s2connect.errors import AcknowledgementTimeout, ConnectionClosed, MessageRefused, SessionError, UsageError
from s2connect.messages.base import S2Message
from s2connect.messages.enums import Check
from s2connect.messages.envelope import (
    NIL_ID,
    RECEPTION_STATUS,
    SESSION_REQUEST,
    InvalidMessage,
    Message,
    ReceptionStatusValue,
    reception_status,
)
from s2connect.model.common import NodeDescription, Role
from s2connect.model.text import for_display
from s2connect.session.acknowledgements import ACKNOWLEDGEMENT_TIMEOUT, Acknowledged
from s2connect.session.answers import (
    ANSWER_WITHIN,
    MAX_RETRIES,
    Later,
    PermanentRefusals,
    RefuseMessage,
    decision,
    refused,
    retry_pause,
    with_new_id,
)
from s2connect.session.awaited import AwaitedStatuses
from s2connect.session.budget import DEFAULT_LIMITS, PeerLimits
from s2connect.session.ending import SessionEnd as SessionEnd
from s2connect.session.inbox import INBOX_LIMIT, OVERFLOW_LIMIT, WAITING_LIMIT, Inbox
from s2connect.session.latencies import Latencies
from s2connect.session.observers import Observer, Observers
from s2connect.session.outgoing import STATUS_LIMIT, Departure, Leaving, Outgoing, sendable
from s2connect.session.peer_log import PeerLog
from s2connect.session.reading import Reading
from s2connect.session.withholding import DeliveryGuard
from s2connect.session.work import LONG, begin_work, work_since
from s2connect.supervisor import process_failures
from s2connect.transports.base import ABNORMAL_CLOSURE, INTERNAL_ERROR, NORMAL_CLOSURE, Connection, ConnectionInfo

if TYPE_CHECKING:
    from s2connect.messages.general import ControlType

_log = logging.getLogger(__name__)

FAREWELL_TIMEOUT = 3.0
"""Seconds that the answer to a SessionRequest may take on its way before the connection is closed."""


_REQUESTED = {"RECONNECT": SessionEnd.RECONNECT_REQUESTED, "TERMINATE": SessionEnd.TERMINATE_REQUESTED}

Answerer = Callable[["Session", Message], Later | None]
"""Handler by which an application answers a message: returns None for ``OK``, raises :class:`RefuseMessage`, or returns
:data:`LATER` and calls :meth:`Session.answer` soon."""


class Session:
    """One session with one peer, from construction (within a running event loop) to its end.

    Every message, received or to be sent, is validated first, as far as ``check`` says: what breaks its schema or a
    rule, or may not be sent now (MSG-02), reaches neither the application nor the peer.

    The session answers every message of the peer by itself (MSG-03, MSG-04): ``OK`` once it stands in the inbox of
    :data:`INBOX_LIMIT` messages. When that is full, reading goes on, because the ReceptionStatuses that ``send`` waits
    for come the same way: :data:`OVERFLOW_LIMIT` further messages are kept, and get their ``OK`` when the application
    has made room. What comes then, or exceeds :data:`WAITING_LIMIT` characters, is not kept and gets
    ``TEMPORARY_ERROR``. So memory is bounded, and two applications that send without reading do not block each other.

    ``answer`` is called with every valid message before its ``OK``, must not wait (MSG-04), and may refuse it; then
    :meth:`receive` does not deliver it. What it keeps (:data:`LATER`) is delivered, and answered with :meth:`answer`.
    If ``answer`` fails, or nobody has answered after ``answer_within`` seconds, the ReceptionStatus is
    ``TEMPORARY_ERROR``, and a message that was not received yet never will be. A peer that refuses a message of ours
    with ``PERMANENT_ERROR`` ends the session (MSG-07).

    Args:
        connection: What carries the session; the session owns and closes it.
        peer: The peer's node.
        role: Our role.
        check: How much of each message is validated.
        ack_timeout: Seconds until ``send`` stops waiting for a ReceptionStatus.
        inbox_limit: See above, at least 1.
        overflow_limit: See above.
        limits: How much of this process the peer may use; reading pauses for a peer that uses more.
        on_message: Sees every message in the order on the wire, ReceptionStatuses, too; what it raises is logged.
        answer: See above; its CPU time counts as the peer's.
        answer_within: See above, in seconds.
        refusals: What the peer refused for good in earlier sessions; it is not sent again.

    Attributes:
        info: Facts of the connection.
        late_acknowledgements: Number of ReceptionStatuses that came after ``send`` had stopped waiting for them.

    Raises:
        UsageError: The S2 JSON version of the connection is unknown here, and ``check`` is more than the envelope.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        peer: NodeDescription,
        role: Role,
        check: Check = Check.RULES,
        ack_timeout: float = ACKNOWLEDGEMENT_TIMEOUT,
        inbox_limit: int = INBOX_LIMIT,
        overflow_limit: int = OVERFLOW_LIMIT,
        limits: PeerLimits = DEFAULT_LIMITS,
        on_message: Observer | None = None,
        answer: Answerer | None = None,
        answer_within: float = ANSWER_WITHIN,
        refusals: PermanentRefusals | None = None,
    ) -> None:
        self.info: ConnectionInfo = connection.info
        self.peer = peer
        self.role = role
        self._peer_role = role.other
        self.late_acknowledgements = 0
        from s2connect.messages.conversation import Conversation  # loads every message; pairing alone needs none

        self._conversation = Conversation(connection.info.s2_version, check=check)
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._observers = Observers(self.info.remote, on_message)
        self._awaited = AwaitedStatuses(ack_timeout, self._loop)
        self._answerer = answer
        self._answer_within = answer_within
        self._kept_timer: asyncio.TimerHandle | None = None
        self._refusals = refusals if refusals is not None else PermanentRefusals()
        self._inbox = Inbox(inbox_limit, overflow_limit, WAITING_LIMIT, answer_within)
        self._reading = Reading(connection, limits, self._loop)
        self._log = PeerLog(_log, self.info)
        self._receivers: list[asyncio.Future[None]] = []
        self._outgoing = Outgoing()
        self._writer: asyncio.Task[None] | None = None  # while something of ours waits to be written
        self._closing: asyncio.Task[None] | None = None
        self._delivers = True
        self._end = SessionEnd.OPEN
        self._intent: SessionEnd | None = None
        self._closed: ConnectionClosed | None = None
        self._ended: asyncio.Event | None = None
        connection.receive_into(self)

    @property
    def end_reason(self) -> SessionEnd:
        """Reason of the end; ``OPEN`` while the session stands."""
        return self._end

    def observe(self, on_message: Observer, latencies: Latencies | None = None) -> None:
        """Show every message from now on to ``on_message``, too, and add acknowledgement times to ``latencies``.

        Of a session just taken from the iteration, that is all of them.
        """
        self._observers.add(on_message)
        if latencies is not None:
            self._awaited.measure(latencies)

    def answer_with(self, answer: Answerer | None) -> None:
        """Let ``answer`` answer messages from now on; of a session just taken from the iteration, that is all."""
        self._answerer = answer

    def guard_with(self, guard: DeliveryGuard) -> None:
        """Withhold what is received while ``guard`` does not know whether the session is this process's."""
        self._reading.guard_with(guard)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        try:
            return await self.receive()
        except ConnectionClosed:
            raise StopAsyncIteration from None

    async def receive(self) -> Message:
        """Receive the next message, also one that came before the end of the session. Cancel-safe.

        Raises:
            ConnectionClosed: The session has ended.
        """
        while not self._inbox:
            self._check_open()
            arrival: asyncio.Future[None] = self._loop.create_future()
            self._receivers.append(arrival)
            try:
                await arrival
            finally:
                self._receivers = [other for other in self._receivers if other is not arrival]
        message = self._inbox.take()
        if self._inbox.withheld:
            self._release()
        return message

    def answer(
        self, message: Message | str, status: ReceptionStatusValue | str = ReceptionStatusValue.OK, label: str = ""
    ) -> None:
        """Answer a message that the application has kept (:data:`LATER`), before or after it was received.

        Args:
            message: The message, or its id.
            status: ``OK``, or one of those that :class:`RefuseMessage` names.
            label: Why it is refused, for the developers of the peer.

        Raises:
            UsageError: No such message waits for an answer: it was not kept, or is answered; after ``answer_within``
                seconds the session did that. Or the status is another one.
            ConnectionClosed: The session has ended.
        """
        self._check_open()
        identifier = message if isinstance(message, str) else message.id or NIL_ID
        refusal = None if status == ReceptionStatusValue.OK else RefuseMessage(status, label)
        if not self._inbox.answered(identifier):
            raise UsageError(
                f"No message {for_display(identifier)} waits for an answer of the application.",
                hint=f"It was not kept, or is answered already: after {self._answer_within:g} s the session does that.",
            )
        self._conversation.answered(self._peer_role, identifier, ok=refusal is None, now=datetime.now(UTC))
        status, label = (refusal.status, refusal.label) if refusal is not None else (ReceptionStatusValue.OK, "")
        self._answer(identifier, status, label)

    @property
    def control_type(self) -> ControlType | None:
        """The selected control type, None for none (MSG-02); not followed where only the envelope is checked."""
        return self._conversation.state.control_type

    async def send(
        self,
        message: S2Message | Mapping[str, Any] | str,
        *,
        retries: int = 0,
        leaving: Leaving | None = None,
    ) -> str:
        """Send a message and wait for its ReceptionStatus. Many may be on their way at the same time.

        Messages leave in the order in which they were begun to be sent, and after the answers to what was received
        before. Cancelled, the message may have been sent; its ReceptionStatus is then ignored.

        Args:
            message: A typed message, an object, whose missing ``message_id`` becomes a new UUID, or a text that is sent
                unchanged.
            retries: How often it is sent again, each time with a new ``message_id``, while the peer answers
                ``TEMPORARY_ERROR``: after a second, and at most eight (MSG-07). At most :data:`MAX_RETRIES`.
            leaving: Called with the message just before it goes out, if it does.

        Returns:
            The ``message_id`` that the peer has acknowledged.

        Raises:
            UsageError: It is no message that may be sent, with the number of the rule; its id waits for its
                ReceptionStatus already, or 1000 wait. Nothing was sent. A message of a control type is refused as well
                where the energy manager has meanwhile selected another one, whose SelectControlType is in the inbox.
            MessageRefused: The peer's ReceptionStatus is other than ``OK``. After ``PERMANENT_ERROR`` the session ends,
                and for an hour the same message is refused here with the same error, and not sent (MSG-07).
            AcknowledgementTimeout: No ReceptionStatus in time; a late one is counted. What still waits is not sent.
            ConnectionClosed: The session has ended, before or while waiting; the peer may have the message.
        """
        written = sendable(message)
        for attempt in range(min(retries, MAX_RETRIES)):
            try:
                return await self._send(written, leaving)
            except MessageRefused as error:
                if error.status != ReceptionStatusValue.TEMPORARY_ERROR:
                    raise
            chance = random.random()  # noqa: S311 - spreads load, guards nothing
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(retry_pause(attempt, chance)):
                    await self.wait_closed()
            written = with_new_id(written)
        return await self._send(written, leaving)

    async def _send(self, written: Message, leaving: Leaving | None = None) -> str:
        identifier = written.id or NIL_ID
        self._check_open()
        now = self._loop.time()
        if (known := self._refusals.label_of(written, now=now)) is not None:
            raise refused("PERMANENT_ERROR", known, "The peer has refused this message for good; it was not sent")
        answer = self._awaited.begin(identifier, now=now)
        try:
            if self._writer is None:
                self._prepare(written, leaving)
                if not self._try_send(written):
                    self._write_later(Departure(written, None, answer, prepared=True))
            else:
                self._write_later(Departure(written, leaving, answer))
            status = await answer
        except (AcknowledgementTimeout, asyncio.CancelledError):
            self._refusals.give_up(written)
            raise
        finally:
            self._awaited.give_up(identifier)
            del answer  # an error that it has raised refers to this frame
        if status.status == ReceptionStatusValue.PERMANENT_ERROR:
            self._refusals.add(written, status.label or "", now=self._loop.time())
        if status.status != ReceptionStatusValue.OK:
            raise refused(status.status or "", status.label or "", "The peer refused the message")
        return identifier

    async def request_reconnect(self) -> None:
        """Ask the peer to start a new session at once, then close (REC-03)."""
        await self._request("RECONNECT")

    async def request_terminate(self) -> None:
        """Tell the peer that the session ends, then close (REC-03)."""
        await self._request("TERMINATE")

    async def close(self, reason: str = "") -> None:
        """End the session; idempotent and bounded. What is queued can still be received; what comes later is lost."""
        self._intent = self._intent or SessionEnd.CLOSED_BY_US
        self._delivers = False
        try:
            await self._connection.close(NORMAL_CLOSURE, reason)
        finally:
            await self.wait_closed()

    async def wait_closed(self) -> None:
        """Wait until the session has ended and everything is released."""
        if self._closed is None or self._writer is not None or self._closing is not None:
            self._ended = self._ended or asyncio.Event()
            await self._ended.wait()

    # Sending

    def _prepare(self, message: Message, leaving: Leaving | None) -> None:
        """Validate a message of ours whose turn it is, and note that it leaves."""
        self._check_open()
        if self._closing is not None:
            raise ConnectionClosed(NORMAL_CLOSURE)
        now = datetime.now(UTC)
        verdict = self._conversation.validate(self.role, message, now=now, strict=True)
        if not verdict.ok:
            raise UsageError(f"The message was not sent. {verdict.label}.")
        if verdict.warnings:
            self._log.findings("we sent", verdict.warnings)
        self._conversation.sent(self.role, message, now=now)
        if leaving is not None:
            leaving(message)

    def _try_send(self, message: Message) -> bool:
        """Send at once if there is room, where nothing waits."""
        if not self._connection.try_send(message.text):
            return False
        if self._observers.callbacks:
            self._observers.show("sent", message)
        return True

    def _write_later(self, what: Departure | Message) -> None:
        """Let a message of ours or a ReceptionStatus be written when its turn comes."""
        if self._outgoing.put(what) == STATUS_LIMIT:
            self._reading.pause()
        if self._writer is None:
            self._writer = asyncio.create_task(self._write(), name=f"s2connect-session-{self.info.remote}-writer")

    async def _write(self) -> None:
        """Write what waits, in its order, until nothing does."""
        try:
            while (message := self._outgoing.take(self._prepare)) is not None:
                if message.type == RECEPTION_STATUS and self._outgoing.statuses == STATUS_LIMIT - 1:
                    self._reading.resume()
                if self._observers.callbacks:
                    self._observers.show("sent", message)
                await self._connection.send(message.text)
                if message.type != RECEPTION_STATUS:
                    await asyncio.sleep(0)  # it was validated here, and many may wait
        except ConnectionClosed:
            self._outgoing.clear()
        except Exception as error:
            self._failed(error)  # otherwise the session would stay open without answering any more
        finally:
            self._writer = None

    def _check_open(self) -> None:
        if self._closed is not None:
            raise ConnectionClosed(self._closed.code, self._closed.reason)

    async def _request(self, request: str) -> None:
        self._intent = self._intent or SessionEnd.CLOSED_BY_US
        try:
            async with asyncio.timeout(FAREWELL_TIMEOUT):
                await self.send({"message_type": SESSION_REQUEST, "request": request})
        except (SessionError, TimeoutError) as error:
            _log.debug("%s was not acknowledged by %s: %s", request, self.info.remote, type(error).__name__)
        finally:
            await self.close()

    # Receiving

    def text_received(self, text: str) -> None:
        """Handle a text of the peer: called by the connection."""
        if self._withholds(text):
            return
        size = len(text)
        measured = size if self._answerer is None else LONG  # an application may take its time for a short text as well
        begun = begin_work(measured)
        if self._closing is None:
            try:
                self._take(text)
            except Exception as error:
                self._failed(error)
        if self._reading.charge(size, work_since(begun, measured)):
            self._log.warn("slowed", "sends more than it may: it is read from more slowly")

    def _withholds(self, text: str) -> bool:
        withholding = self._reading.withholding
        return withholding is not None and withholding.withholds(text, self.text_received)

    def _take(self, text: str) -> None:
        """Handle a received text."""
        try:
            message = self._conversation.read(text)
            if self._conversation.check is Check.ENVELOPE and message.type != RECEPTION_STATUS:
                message.body  # noqa: B018 - strict reading belongs before the OK
        except InvalidMessage as error:
            self._log.warn(("no message", error.status), "sent what is no message: %s", error.label)
            if error.answerable:
                self._answer(error.subject_id, error.status, error.label)
            return
        if not self._delivers and message.type != RECEPTION_STATUS:
            return  # it cannot be acknowledged, and may come after messages of a session that has replaced this one
        if self._observers.callbacks:
            self._observers.show("received", message)
        now = datetime.now(UTC)
        if message.type == RECEPTION_STATUS:
            self._acknowledged(message, now)
            return
        verdict = self._conversation.validate(self._peer_role, message, now=now)
        if verdict.warnings:
            self._log.findings("it sent", verdict.warnings)
        if not verdict.ok:
            kind = self._conversation.known_type(message.type), verdict.status
            self._log.warn(kind, "sent a message that is refused: %s, %s", verdict.status, verdict.label)
            self._answer(verdict.subject_id, verdict.status, verdict.label)
            return
        identifier = message.id or NIL_ID
        if message.type == SESSION_REQUEST:
            self._requested(identifier, message)
        elif self._withholds(text):
            pass  # this process stood still since it began with this text
        elif self._inbox.has_room(message):
            self._admit(identifier, message, now)
        else:
            self._answer(identifier, ReceptionStatusValue.TEMPORARY_ERROR, "too many messages wait to be handled")

    def _admit(self, identifier: str, message: Message, now: datetime) -> None:
        """Let the application answer a valid message, now or later; deliver it unless it is refused."""
        try:
            if self._inbox.keeps(identifier):
                raise RefuseMessage("TEMPORARY_ERROR", "a message with this message_id waits for its answer")
            kept = self._answerer is not None and decision(self._answerer(self, message))
            self._inbox.put(message, kept=kept, now=self._loop.time() if kept else 0.0)
        except RefuseMessage as refusal:
            _log.info("a %s of %s is refused: %s", for_display(message.type, 60), self.info.remote, refusal)
            self._answer(identifier, refusal.status, refusal.label)
            return
        except Exception as error:
            process_failures.failed("answer", error, name=f"the application, asked about a message of {self.peer.id},")
            self._answer(identifier, ReceptionStatusValue.TEMPORARY_ERROR, "the application failed")
            return
        self._wake_receivers()
        if kept:
            self._conversation.sent(self._peer_role, message, now=now)
            self._arm_kept()
        else:
            self._conversation.accepted(self._peer_role, message, now=now)
            self._release()

    def _wake_receivers(self) -> None:
        for arrival in self._receivers:
            if not arrival.done():
                arrival.set_result(None)
        self._receivers.clear()

    def _release(self) -> None:
        """Acknowledge with ``OK`` the messages that fit in the inbox now."""
        if self._closed is None:
            for identifier in self._inbox.due():
                self._answer(identifier, ReceptionStatusValue.OK)

    def _arm_kept(self) -> None:
        if self._kept_timer is None and (deadline := self._inbox.deadline) is not None:
            self._kept_timer = self._loop.call_at(deadline, self._kept_too_long)

    def _kept_too_long(self) -> None:
        self._kept_timer = None
        self._answer_kept(self._loop.time(), f"the application has not answered within {self._answer_within:g} s")
        self._arm_kept()

    def _answer_kept(self, until: float, label: str) -> None:
        """Answer kept messages whose time is over in place of the application."""
        overdue = self._inbox.overdue(until)
        if overdue:
            _log.warning("session with %s: %s (%d messages)", self.info.remote, label, len(overdue))
        for identifier in overdue:
            self._conversation.answered(self._peer_role, identifier, ok=False, now=datetime.now(UTC))
            self._answer(identifier, ReceptionStatusValue.TEMPORARY_ERROR, label)
        self._release()

    def _requested(self, identifier: str, message: Message) -> None:
        end = _REQUESTED.get(str(message.body.get("request")))
        if end is None:
            self._answer(identifier, ReceptionStatusValue.INVALID_MESSAGE, "unknown request")
            return
        self._intent = self._intent or end
        self._answer_kept(math.inf, "the session ends")
        self._answer(identifier, ReceptionStatusValue.OK)
        self._close_soon(NORMAL_CLOSURE)

    def _acknowledged(self, message: Message, now: datetime) -> None:
        """Handle a ReceptionStatus, which may end the session (MSG-07)."""
        match = self._awaited.arrived(message)
        if match is Acknowledged.UNKNOWN:
            _log.info("%s sent a ReceptionStatus about nothing that waits for one", self.info.remote)
            return
        subject = message.subject_id or NIL_ID
        self._conversation.answered(self.role, subject, ok=message.status == ReceptionStatusValue.OK, now=now)
        ends = message.status == ReceptionStatusValue.PERMANENT_ERROR
        if match is Acknowledged.LATE:
            self.late_acknowledgements += 1
            if ends:
                self._refusals.add_late(subject, message.label or "", now=self._loop.time())
            self._log.warn("late", "answered a message late: %s", for_display(message.status or ""))
        if ends:
            _log.warning("%s refuses a message for good, so the session ends (MSG-07)", self.info.remote)
            self._intent = self._intent or SessionEnd.PERMANENT_ERROR
            self._close_soon(NORMAL_CLOSURE)

    def _answer(self, subject: str, status: ReceptionStatusValue, label: str | None = None) -> None:
        message = Message(reception_status(subject, status, label), RECEPTION_STATUS, None, subject, status, label)
        try:
            if self._writer is not None or not self._try_send(message):
                self._write_later(message)
        except ConnectionClosed:
            pass  # the end is to come
        except Exception as error:
            self._failed(error)

    # The end

    def _failed(self, error: Exception) -> None:
        """End the session because of an error of ours."""
        self._intent = self._intent or SessionEnd.LOST
        process_failures.failed("session", error, name=f"the session with {self.info.remote}")
        self._close_soon(INTERNAL_ERROR)

    def _close_soon(self, code: int) -> None:
        """Close the connection; nothing is sent any more but the answers that wait, and what comes is not looked at."""
        if self._closing is None and self._closed is None:
            self._closing = asyncio.create_task(self._close(code), name=f"s2connect-session-{self.info.remote}-end")

    async def _close(self, code: int) -> None:
        try:
            if self._writer is not None and code == NORMAL_CLOSURE:
                await asyncio.wait({self._writer}, timeout=FAREWELL_TIMEOUT)
            await self._connection.close(code)
        except Exception as error:
            process_failures.failed("session", error, name=f"the end of the session with {self.info.remote}")

    def connection_ended(self, error: ConnectionClosed) -> None:
        """End the session: called by the connection."""
        self._closed = ConnectionClosed(error.code, error.reason)  # the other one refers to frames
        self._end = self._intent or (SessionEnd.LOST if error.code == ABNORMAL_CLOSURE else SessionEnd.CLOSED_BY_PEER)
        if self._kept_timer is not None:
            self._kept_timer.cancel()
        self._reading.end()
        self._awaited.end(self._closed)
        self._wake_receivers()
        self._outgoing.clear()
        if self._writer is not None:
            self._writer.cancel()
        for task in filter(None, (self._writer, self._closing)):
            task.add_done_callback(self._note_ended)
        self._note_ended(None)

    def _note_ended(self, task: asyncio.Task[None] | None) -> None:
        """Note that a task of ours has ended: with the last one, the session has."""
        if task is self._writer:
            self._writer = None
        if task is self._closing:
            self._closing = None
        if self._ended is not None and self._writer is None and self._closing is None:
            self._ended.set()
