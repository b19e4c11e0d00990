"""A link: one RM on one side, one CEM on the other, and the messages between them."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from s2connect import Connection, FailureLog, InvalidMessage, Role, for_display
from s2connect.bridge.counters import Counters
from s2connect.bridge.link_state import LinkEvent, LinkState, LinkStateMachine, LinkStatus, SideStatus
from s2connect.bridge.outbox import Outbox
from s2connect.bridge.recording import Record
from s2connect.bridge.relay import ENDED, Overdue, Policy, Relay
from s2connect.bridge.sides import NOT_NOW, Initiator, LinkSide
from s2connect.errors import AccessRefused, ConnectionClosed, NoLongerPaired, NotPaired, PeerTimeout, S2ConnectError
from s2connect.messages import (
    NIL_ID,
    RECEPTION_STATUS,
    SESSION_REQUEST,
    ReceptionStatusValue,
    read_message,
    reception_status,
    write_message,
)
from s2connect.transports import GOING_AWAY, NORMAL_CLOSURE

_log = logging.getLogger(__name__)

OPEN_TIMEOUT: Final = 10.0
"""Seconds for the bridge to connect to one side."""

REQUEST_TIMEOUT: Final = 25.0
"""Seconds until a peer's request for a session is answered; our own clients wait 30."""

ARRIVAL_TIMEOUT: Final = 30.0
"""Seconds within which an admitted peer has to connect (SES-04)."""

RENDEZVOUS: Final = 20.0
"""Seconds for the second request where both sides connect to the bridge."""

FAREWELL_TIMEOUT: Final = 3.0
"""Seconds to announce the end to the remaining side, before its connection is closed."""

MAX_EARLY: Final = 16
"""Texts of a side that are read before the other one is connected."""

MAX_UNREAD: Final = 1000
"""Texts queued for one side before the bridge stops reading from it: it sends, and does not read the answers."""

_UNEXPECTED: Final = "an unexpected error; its details are in the log"


class Link:
    """Joins two sides: both are connected, or neither is. :meth:`run` is its one task.

    Args:
        name: Name for display.
        sides: By the role of the peer.
        policy: Limits and validation.
        on_change: Called with the link after every change of its state.
        failures: Reports errors of ours.
        record: Given each connection before anything passes on it, to observe it.
    """

    def __init__(
        self,
        name: str,
        sides: Mapping[Role, LinkSide],
        policy: Policy,
        *,
        on_change: Callable[[Link], None] | None = None,
        failures: FailureLog | None = None,
        record: Record | None = None,
    ) -> None:
        self.name = name
        self._record = record
        self.counters = Counters(name)
        self.sides = dict(sides)
        self.policy = policy
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._machine = LinkStateMachine(paired=self._is_paired(), now=self._loop.time())
        self._requests: dict[Role, asyncio.Future[str | None]] = {}
        self._arriving: dict[Role, asyncio.Future[None]] = {}
        self._connections: dict[Role, Connection] = {}
        self._outboxes: dict[Role, Outbox] = {}
        self._early: dict[Role, deque[str]] = {}
        self._listeners: list[asyncio.Task[None]] = []
        self._lost: asyncio.Future[Role] = self._loop.create_future()
        self._writers: dict[Role, asyncio.Task[None]] = {}
        self._relay: Relay | None = None
        self._paired_anew = False
        self._failures = failures if failures is not None else FailureLog()
        self._changed = asyncio.Event()
        self._deadline: float | None = None
        self._times_up = 0

    # Called by the sides

    async def request_session(self, role: Role, s2_version: str) -> str | None:
        """Admit the peer on one side once the other side is connected (connect-through). Cancel-safe.

        A request while the link is up means that the peer has lost its session: the link starts anew. Of two requests
        on the same side, the first is refused.

        Returns:
            None, or a refusal for the peer's user.
        """
        if self._machine.state is LinkState.STOPPED or not self._is_paired():
            return NOT_NOW
        if (arriving := self._arriving.get(role)) is not None and not arriving.done():
            return None  # the answer to the first request may have been lost
        answer: asyncio.Future[str | None] = self._loop.create_future()
        if (old := self._requests.get(role)) is not None and not old.done():
            old.set_result(NOT_NOW)
        self._requests[role] = answer
        self._changed.set()
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                return await answer
        except TimeoutError:
            return NOT_NOW
        finally:
            if self._requests.get(role) is answer:
                del self._requests[role]

    def hand_over(self, role: Role, connection: Connection) -> bool:
        """Take over the connection of an admitted peer. False if none is expected: the caller has to close it."""
        if (waiting := self._arriving.get(role)) is None or waiting.done():
            return False
        self._joined(role, connection)
        waiting.set_result(None)
        return True

    def pairing_changed(self) -> None:
        """Look at the pairings of the sides again."""
        self._paired_anew = True
        self._changed.set()

    def is_unused(self) -> bool:
        """Return whether the link has never been up, no side is connected, and no request is open."""
        return not self._times_up and not self._connections and not self._has_request()

    def status(self) -> LinkStatus:
        """Return the status for display."""
        now, machine = self._loop.time(), self._machine
        retry_at = machine.retry_at if self._opens_itself() else None
        return LinkStatus(
            name=self.name,
            state=machine.state,
            for_seconds=now - machine.since,
            reason=machine.reason,
            retry_in=None if retry_at is None else max(0.0, retry_at - now),
            sides={role: self._side_status(role, side.title) for role, side in self.sides.items()},
            counts={role: dict(counts) for role, counts in self.counters.messages.items()},
            queued={role: len(outbox) for role, outbox in self._outboxes.items()},
            times_up=self._times_up,
            refusals={role: self.counters.refusals(role, now) for role in self.sides},
        )

    def _side_status(self, role: Role, title: str) -> SideStatus:
        if (connection := self._connections.get(role)) is None:
            return SideStatus(for_display(title, 100), connected=False)
        info, version = connection.info, for_display(connection.info.s2_version, 40)
        return SideStatus(for_display(title, 100), True, info.protocol, version, info.peer_address)

    # The task

    async def run(self) -> None:
        """Run until cancelled; then announce the end to connected sides and close them, which takes some seconds.

        An error of ours leaves the link where it can run again.
        """
        try:
            while True:
                if await self._wait_for_work():
                    await self._session()
        except Exception:
            self._on(LinkEvent.BROKEN, reason=_UNEXPECTED)
            raise
        except BaseException:
            self._on(LinkEvent.STOP)
            raise
        finally:
            self._answer_all(NOT_NOW)

    def _answer_all(self, answer: str | None) -> None:
        for request in self._requests.values():
            if not request.done():
                request.set_result(answer)

    def _is_paired(self) -> bool:
        return all(side.initiator is not None for side in self.sides.values())

    def _opens_itself(self) -> bool:
        return all(side.initiator is Initiator.BRIDGE for side in self.sides.values())

    async def _wait_for_work(self) -> bool:
        """Wait for a request or the time to connect. False if only the pairings have changed."""
        machine = self._machine
        self._changed.clear()
        paired = self._is_paired()
        if not paired:
            self._answer_all(NOT_NOW)
            if machine.state is not LinkState.UNPAIRED:
                self._on(LinkEvent.UNPAIRED)
        elif machine.state is LinkState.UNPAIRED or (self._paired_anew and machine.state is LinkState.REFUSED):
            self._on(LinkEvent.PAIRED)
        self._paired_anew = False
        if paired and self._has_request():
            return True
        due = machine.retry_at if paired and self._opens_itself() else None
        try:
            async with asyncio.timeout_at(due):
                await self._changed.wait()
        except TimeoutError:
            return True
        return False

    async def _session(self) -> None:
        """Connect both sides, carry messages, and part."""
        self._on(LinkEvent.BEGIN)
        try:
            relay = self._relay = await self._connect()
            self._times_up += 1
            self._on(LinkEvent.ARRIVED)
            reason = await self._carry(relay)
            event = LinkEvent.PARTED
            self._on(LinkEvent.LOST, reason=reason)
        except (NoLongerPaired, AccessRefused) as error:
            event, reason = LinkEvent.REFUSED, for_display(str(error), 300)
        except S2ConnectError as error:
            event, reason = LinkEvent.FAILED, for_display(str(error), 300)
        except Exception as error:
            self._failures.failed("link", error, name=f"the link {self.name}")
            event, reason = LinkEvent.FAILED, _UNEXPECTED
        finally:
            await self._part()
        self._on(event, reason=reason)

    async def _connect(self) -> Relay:
        """Open the sides that the bridge opens, then admit the others. Fails if a connected side is lost meanwhile."""
        initiators = {role: side.initiator for role, side in self.sides.items()}
        self._lost = self._loop.create_future()
        meeting = asyncio.create_task(self._bring_together(initiators), name=f"s2connect-bridge-meeting-{self.name}")
        either: set[asyncio.Future[Any]] = {meeting, self._lost}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not meeting.done():
                raise ConnectionClosed(GOING_AWAY, f"{self.sides[self._lost.result()].title} ended the session")
            meeting.result()
            versions = {role: connection.info.s2_version for role, connection in self._connections.items()}
            return Relay(versions, self.policy, counters=self.counters, on_details=self.sides[Role.RM].on_details)
        except BaseException:
            self._answer_all(NOT_NOW)
            raise
        finally:
            await self._end([meeting, *self._listeners])
            self._listeners.clear()

    async def _bring_together(self, initiators: Mapping[Role, Initiator | None]) -> None:
        for role, initiator in initiators.items():
            if initiator is None:
                raise NotPaired(f"{self.sides[role].title} is not paired any more.")
        # The RM first: a device that is switched off must not make sessions of the CEM come and go.
        for role in (Role.RM, Role.CEM):
            if initiators[role] is Initiator.BRIDGE:
                try:
                    async with asyncio.timeout(OPEN_TIMEOUT):
                        self._joined(role, await self.sides[role].open())
                except TimeoutError as error:
                    raise PeerTimeout(f"{self.sides[role].title} did not open the session in time.") from error
        missing = [role for role, initiator in initiators.items() if initiator is Initiator.PEER]
        if missing:
            self._on(LinkEvent.REACHED)
            await self._admit(missing)

    def _joined(self, role: Role, connection: Connection) -> None:
        """Listen to a connected side, which is the only way to notice its end (WS-04)."""
        if self._record is not None:
            connection = self._record(self.name, self.sides[role].title, role, connection)
        self._connections[role] = connection
        early = self._early[role] = deque()
        listener = self._listen(role, connection, early, self._lost)
        self._listeners.append(asyncio.create_task(listener, name=f"s2connect-bridge-listen-{self.name}"))

    async def _listen(self, role: Role, connection: Connection, early: deque[str], lost: asyncio.Future[Role]) -> None:
        try:
            while len(early) < MAX_EARLY:
                early.append(await connection.recv())
            await connection.wait_closed()
        except ConnectionClosed:
            pass
        except Exception as error:
            self._failures.failed("link", error, name=f"the link {self.name}")
        if not lost.done():
            lost.set_result(role)

    async def _admit(self, missing: list[Role]) -> None:
        """Wait, for a bounded time, until all missing sides have requested a session; then until they are connected."""
        try:
            async with asyncio.timeout(RENDEZVOUS):
                while not all(self._is_requesting(role) for role in missing):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError as error:
            absent = next((role for role in missing if not self._is_requesting(role)), missing[0])
            raise PeerTimeout(f"{self.sides[absent].title} has not asked for a session.") from error
        self._arriving = {role: self._loop.create_future() for role in missing}
        self._answer_all(None)
        try:
            async with asyncio.timeout(ARRIVAL_TIMEOUT):
                for arriving in self._arriving.values():
                    await arriving
        except TimeoutError as error:
            absent = next(role for role in missing if role not in self._connections)
            raise PeerTimeout(f"{self.sides[absent].title} was let in and did not come.") from error
        finally:
            self._arriving = {}

    # Both sides are up

    async def _carry(self, relay: Relay) -> str:
        """Carry messages until a side is lost, or requests a new session. Returns the reason."""
        self._outboxes = {role: Outbox(connection) for role, connection in self._connections.items()}
        tasks: dict[asyncio.Task[None], str] = {}
        for role, outbox in self._outboxes.items():
            name, title = f"s2connect-bridge-{self.name}-{role}", self.sides[role].title
            writer = self._writers[role] = asyncio.create_task(outbox.run(), name=f"{name}-outbox")
            tasks[writer] = title
            tasks[asyncio.create_task(self._pump(role, relay), name=name)] = title
        tasks[asyncio.create_task(self._watch(relay), name=f"s2connect-bridge-{self.name}-watch")] = ""
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                if isinstance(error, ConnectionClosed):
                    return f"{tasks[task]} has ended the session ({error.code})"
                if error is not None:
                    self._failures.failed("link", error, name=f"the link {self.name}")
                    return _UNEXPECTED
            return "a peer that was connected asks for a new session" if self._is_paired() else "a pairing has ended"
        finally:
            # The writers go on: what is queued is delivered while the sides part.
            await self._end([task for task in tasks if task not in self._writers.values()])

    async def _pump(self, role: Role, relay: Relay) -> None:
        connection, outboxes = self._connections[role], self._outboxes
        clock, processor = self._loop.time, time.thread_time
        own, early = outboxes[role], self._early[role]
        while True:
            text = early.popleft() if early else await connection.recv()
            begun = processor()
            outs = relay.received(role, text, now=clock())
            worked = processor() - begun
            if self._deadline is None:
                self._changed.set()
            # Cancelled while it waits for room, it has handed over everything that follows from the text.
            for out in outs[:-1]:
                outboxes[out.to].put_nowait(out.text, out.key)
            for out in outs[-1:]:
                await outboxes[out.to].put(out.text, out.key)
            if len(own) >= MAX_UNREAD:
                await own.room(MAX_UNREAD)
            if (pause := relay.charge(role, text, worked, now=clock())) is not None:
                await asyncio.sleep(pause)

    async def _watch(self, relay: Relay) -> None:
        """Answer for a side that does not in time; return when the session has to end."""
        while self._is_paired() and not self._has_request():
            self._changed.clear()
            self._deadline = relay.deadline
            try:
                async with asyncio.timeout_at(self._deadline):
                    await self._changed.wait()
            except TimeoutError:
                self._answer(relay, relay.overdue(self._loop.time()))

    def _has_request(self) -> bool:
        return any(self._is_requesting(role) for role in self._requests)

    def _is_requesting(self, role: Role) -> bool:
        return (request := self._requests.get(role)) is not None and not request.done()

    def _answer(self, relay: Relay, all_overdue: list[Overdue]) -> None:
        for overdue in all_overdue:
            if self._outboxes[overdue.to].withdraw(overdue.key):
                relay.withdrawn(overdue)
            self._outboxes[overdue.answer.to].put_nowait(overdue.answer.text)

    # The end

    async def _part(self) -> None:
        """Announce the end to the sides that are still connected, and close."""
        relay = self._relay
        try:
            if relay is not None:
                self._answer(relay, relay.ended())
            await asyncio.gather(*(self._say_goodbye(role) for role in self._connections))
        finally:
            await self._end(self._writers.values())
            self._relay = None
            for of_one_session in (self._writers, self._connections, self._outboxes, self._early):
                of_one_session.clear()

    async def _say_goodbye(self, role: Role) -> None:
        """Deliver the queue, request a reconnect unless the end was announced to the peer, and close."""
        connection, relay, early = self._connections[role], self._relay, self._early[role]
        try:
            async with asyncio.timeout(FAREWELL_TIMEOUT):
                if (outbox := self._outboxes.get(role)) is not None:
                    await outbox.flush()
                    await self._end([self._writers[role]])
                if relay is None or not relay.knows_of_the_end(role):
                    text, subject = write_message({"message_type": SESSION_REQUEST, "request": "RECONNECT"})
                    await connection.send(text)
                    while (
                        answer := _answer(early.popleft() if early else await connection.recv(), subject)
                    ) is not None:
                        if answer:
                            await connection.send(answer)
                        await asyncio.sleep(0)  # yields to other links under any load
        except (ConnectionClosed, TimeoutError):
            pass
        except Exception as error:
            self._failures.failed("link", error, name=f"the farewell of the link {self.name}")
        finally:
            await connection.close(NORMAL_CLOSURE, "the other side is gone")

    async def _end(self, tasks: Iterable[asyncio.Task[None]]) -> None:
        """Cancel tasks, and wait until they have ended."""
        all_of_them = list(tasks)
        seen = [task.done() for task in all_of_them]
        for task in all_of_them:
            task.cancel()
        results = await asyncio.gather(*all_of_them, return_exceptions=True)
        for result, known in zip(results, seen, strict=True):
            if isinstance(result, Exception) and not isinstance(result, S2ConnectError) and not known:
                self._failures.failed("link", result, name=f"the link {self.name}")

    def _on(self, event: LinkEvent, *, reason: str = "") -> None:
        before = self._machine.state
        chance = random.random()  # noqa: S311 - spreads load, guards nothing
        state = self._machine.on(event, now=self._loop.time(), reason=reason, chance=chance)
        if state is not before:
            _log.info("link %s: %s%s", self.name, state, f" ({reason})" if reason else "")
        if self._on_change is not None:
            try:
                self._on_change(self)
            except Exception as error:
                self._failures.failed("link", error, name=f"the observer of the link {self.name}")


def _answer(text: str, farewell: str) -> str | None:
    """Return the answer to a message received after the end of the relay (MSG-03), empty for none.

    None: it is the ReceptionStatus of the message with the id ``farewell``.
    """
    try:
        message = read_message(text)
    except InvalidMessage as error:
        return reception_status(error.subject_id, error.status, error.label) if error.answerable else ""
    if message.type == RECEPTION_STATUS:
        return None if message.subject_id == farewell else ""
    return reception_status(message.id or NIL_ID, ReceptionStatusValue.TEMPORARY_ERROR, ENDED)
