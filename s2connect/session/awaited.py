"""ReceptionStatuses that senders wait for."""

from __future__ import annotations

import asyncio

from s2connect.errors import AcknowledgementTimeout, ConnectionClosed
from s2connect.messages.envelope import NIL_ID, Message
from s2connect.session.acknowledgements import Acknowledged, Acknowledgements
from s2connect.session.latencies import Latencies


class AwaitedStatuses:
    """ReceptionStatuses that senders wait for: a future for each, one timer for all. ``timeout`` is in seconds."""

    __slots__ = ("_futures", "_ledger", "_loop", "_timer")

    def __init__(self, timeout: float, loop: asyncio.AbstractEventLoop) -> None:
        self._ledger = Acknowledgements(timeout=timeout)
        self._futures: dict[str, asyncio.Future[Message]] = {}
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None

    def measure(self, latencies: Latencies) -> None:
        """Add the times that acknowledgements take from now on."""
        self._ledger.latencies = latencies

    def begin(self, message_id: str, *, now: float) -> asyncio.Future[Message]:
        """Return the future of the ReceptionStatus about a message that is being sent.

        It raises AcknowledgementTimeout, or ConnectionClosed. Call :meth:`give_up` when nobody waits for it any more.

        Raises:
            UsageError: A message with this id waits already, or as many as allowed wait.
        """
        self._ledger.sent(message_id, now=now)
        future = self._futures[message_id] = self._loop.create_future()
        if self._timer is None:
            self._arm_timer()
        return future

    def arrived(self, status: Message) -> Acknowledged:
        """Pass a ReceptionStatus to whoever waits for it."""
        subject = status.subject_id or NIL_ID
        now = None if self._ledger.latencies is None else self._loop.time()
        match = self._ledger.acknowledged(subject, now)
        if match is Acknowledged.EXPECTED:
            future = self._futures.pop(subject, None)
            if future is not None and not future.done():
                future.set_result(status)
        return match

    def give_up(self, message_id: str) -> None:
        """Stop waiting for a message, if it has not been answered; its ReceptionStatus is late from now on."""
        if self._futures.pop(message_id, None) is not None:
            self._ledger.give_up(message_id)

    def end(self, closed: ConnectionClosed) -> None:
        """End all waiting."""
        if self._timer is not None:
            self._timer.cancel()
        for future in self._futures.values():
            if not future.done():
                future.set_exception(ConnectionClosed(closed.code, closed.reason))

    def _arm_timer(self) -> None:
        deadline = self._ledger.deadline
        self._timer = None if deadline is None else self._loop.call_at(deadline, self._expire)

    def _expire(self) -> None:
        for message_id in self._ledger.expired(self._loop.time()):
            future = self._futures.pop(message_id, None)
            if future is not None and not future.done():
                future.set_exception(AcknowledgementTimeout("The peer did not acknowledge a message in time."))
        self._arm_timer()
