"""A link: one RM on one side, one CEM on the other, and the messages between them."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol

from s2connect import Connection, FailureLog, LinkHold, Message, Role, for_display
from s2connect.bridge.counters import Counters
from s2connect.bridge.farewell import FAREWELL_TIMEOUT, answer_after_end, end_of
from s2connect.bridge.link_state import TABLE, LinkEvent, LinkState, LinkStateMachine, LinkStatus, SideStatus
from s2connect.bridge.recording import Record
from s2connect.bridge.relay import Out, Overdue, Policy, Relay
from s2connect.bridge.requests import Requests
from s2connect.bridge.side_connection import SideConnection
from s2connect.bridge.sides import NOT_NOW, Initiator, LinkSide
from s2connect.errors import AccessRefused, ConnectionClosed, NoLongerPaired, NotPaired, PeerTimeout, S2ConnectError
from s2connect.messages import (
    SESSION_REQUEST,
    write_message,
)
from s2connect.session import LedTo, Meeting, begin_work, work_since
from s2connect.transports import GOING_AWAY, NORMAL_CLOSURE

_log = logging.getLogger(__name__)

OPEN_TIMEOUT: Final = 10.0
"""Seconds for the bridge to connect to one side."""

ARRIVAL_TIMEOUT: Final = 30.0
"""Seconds within which an admitted peer has to connect (SES-04)."""

RENDEZVOUS: Final = 20.0
"""Seconds for the second request where both sides connect to the bridge."""

_UNEXPECTED: Final = "an unexpected error; its details are in the log"


class LinkWatch(Protocol):
    """Watch over the messages of a link."""

    def passed(self, side: Role, message: Message | None, text: str, outs: Sequence[Out], now: float) -> None:
        """Note a text that came from one side, the message that it is if it is one, and what is sent for it."""

    def answered(self, out: Out, now: float) -> None:
        """Note an answer of the bridge to a message that the other side did not answer."""


_UNDER_WAY: Final = frozenset({LinkState.REACHING, LinkState.ADMITTING})
_IN_SESSION: Final = _UNDER_WAY | {LinkState.UP, LinkState.PARTING}


_Over = asyncio.Future[tuple[Role, ConnectionClosed | None] | str]
"""Resolves at the end of a session: the side whose connection has ended, and its code, None for an error of ours; or a
text, for which this instance may not go on."""


class Link:
    """Joins two sides: both are connected, or neither is. :meth:`run` is its one task.

    Args:
        name: Name for display.
        sides: By the role of the peer.
        policy: Limits and validation.
        on_change: Called with the link after every change of its state.
        failures: Reports errors of ours.
        record: Given each connection before anything passes on it, to observe it.
        hold: Hold of the link, where other instances may have it; None where this is the only one.

    Attributes:
        hold: The same.
        watch: Sees every message; None for nobody.
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
        hold: LinkHold | None = None,
    ) -> None:
        self.name = name
        self._record = record
        self.counters = Counters(name)
        self.sides = dict(sides)
        self.policy = policy
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._machine = LinkStateMachine(paired=self._is_paired(), now=self._loop.time())
        self._arriving: dict[Role, asyncio.Future[None]] = {}
        self._connected: dict[Role, SideConnection] = {}
        self._over: _Over = self._loop.create_future()
        self._relay: Relay | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._paired_anew = False
        self._failures = failures if failures is not None else FailureLog()
        self._changed = asyncio.Event()
        self._requests = Requests(self._changed.set)
        self._times_up = 0
        self.watch: LinkWatch | None = None
        self.hold = hold
        self._is_cut = False  # the session ends without a word: this instance has lost the link
        self._closing = ""  # reason for which no session begins here any more, or for now
        self._rests = asyncio.Event()  # no session is up, and what was to be let go is
        if hold is not None:
            hold.user = self
            for side in self.sides.values():
                side.is_held = True

    # Called by the sides

    async def request_session(self, role: Role, s2_version: str, *, may_lead: bool = False) -> str | LedTo | None:
        """Admit the peer on one side once the other side is connected (connect-through). Cancel-safe.

        A request while the link is up means that the peer has lost its session: the link starts anew. Of two requests
        on the same side, the first is refused.

        Args:
            role: Role of the peer.
            s2_version: Version that it speaks.
            may_lead: Whether it can be led to another instance, where the peer of the other side waits for it.

        Returns:
            None, a refusal for the peer's user, or the instance to lead it to.
        """
        if self._machine.state is LinkState.STOPPED or not self._is_paired():
            return NOT_NOW
        if self._closing or (self.hold is not None and self.is_leased and not self.hold.is_held):
            return NOT_NOW
        if (arriving := self._arriving.get(role)) is not None and not arriving.done():
            return None  # the answer to the first request may have been lost
        return await self._requests.ask(role, may_lead=may_lead)

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

    def try_now(self) -> bool:
        """Connect at once, where the bridge waits to connect to both sides. Return whether it does."""
        if not self._opens_itself() or not self._machine.try_now(self._loop.time()):
            return False
        self._changed.set()
        return True

    # Called by the hold

    @property
    def is_leased(self) -> bool:
        """Return whether no peer's request takes the link to this instance: nobody asks, or every instance is asked."""
        return self._is_paired() and all(
            side.initiator is Initiator.BRIDGE or side.reaches_all for side in self.sides.values()
        )

    @property
    def is_used(self) -> bool:
        """Return whether a session is up or under way."""
        return bool(self._connected) or self._machine.state in _IN_SESSION

    def hold_changed(self) -> None:
        """Note that the link was claimed for this instance, or that another one has it, or none any more."""
        self._changed.set()

    def begin_none(self, reason: str) -> None:
        """Begin no session from now on, because the peers go to another instance soon; one that is up stays.

        Without a reason, begin sessions again.
        """
        self._closing = reason
        self._changed.set()

    def leave(self) -> None:
        """End the session, after a request to connect anew, so that another instance has the link."""
        if not self._over.done():
            self._over.set_result(self._closing)
        self._changed.set()

    async def give_up(self, reason: str) -> None:
        """End the session, after a request to connect anew, and let the link go, to have it again some time.

        Cancel-safe: it goes on all the same.
        """
        if self._closing or self._machine.state is LinkState.STOPPED:
            return  # it is given up for good
        self._rests.clear()
        self.begin_none(reason)
        self.leave()
        try:
            await self._rests.wait()
        finally:
            if self._closing == reason:
                self.begin_none("")

    def hold_lost(self, reason: str) -> None:
        """End the session at once: another instance has the link, or may have it."""
        self._is_cut = True
        if not self._over.done():
            self._over.set_result(reason)
        self._changed.set()

    def connections(self) -> Mapping[Role, Connection]:
        """Return the open connections, by the role of the peer."""
        return {role: side.connection for role, side in self._connected.items()}

    def is_unused(self) -> bool:
        """Return whether the link has never been up, no side is connected, and no request is open."""
        return not self._times_up and not self._connected and not self._has_request()

    @property
    def state(self) -> LinkState:
        """Its state."""
        return self._machine.state

    @property
    def waits_to_connect(self) -> bool:
        """Return whether the bridge waits for the time to connect."""
        return self._machine.waits_to_connect

    def status(self) -> LinkStatus:
        """Return the status for display."""
        now, machine = self._loop.time(), self._machine
        retry_at = machine.retry_at if self._opens_itself() else None
        return LinkStatus(
            name=self.name,
            state=machine.state,
            for_seconds=now - machine.since,
            last_failure=machine.last_failure if machine.state in _UNDER_WAY else "",
            reason=self._unpaired() if machine.state is LinkState.UNPAIRED else machine.reason,
            retry_in=None if retry_at is None else max(0.0, retry_at - now),
            sides={role: self._side_status(role, side.title) for role, side in self.sides.items()},
            counts={role: dict(counts) for role, counts in self.counters.messages.items()},
            queued={role: len(side.outbox) for role, side in self._connected.items()},
            times_up=self._times_up,
            refusals={role: self.counters.refusals(role, now) for role in self.sides},
        )

    def _side_status(self, role: Role, title: str) -> SideStatus:
        if (side := self._connected.get(role)) is None:
            return SideStatus(for_display(title, 100), connected=False)
        info, version = side.connection.info, for_display(side.connection.info.s2_version, 40)
        return SideStatus(for_display(title, 100), True, info.protocol, version, info.peer_address)

    # The task

    async def run(self) -> None:
        """Run until cancelled; then announce the end to connected sides and close them, which takes some seconds.

        An error of ours leaves the link where it can run again.
        """
        try:
            while True:
                if await self._wait_for_work() and await self._obtain():
                    await self._session()
        except Exception:
            self._on(LinkEvent.BROKEN, reason=_UNEXPECTED)
            raise
        except BaseException:
            self._on(LinkEvent.STOP)
            raise
        finally:
            self._rests.set()
            self._requests.answer_all(NOT_NOW)

    def _is_paired(self) -> bool:
        return all(side.initiator is not None for side in self.sides.values())

    def _unpaired(self) -> str:
        """Return which sides are not paired, and the next step."""
        names = {Role.RM: "the device", Role.CEM: "the energy manager"}
        missing = [names[role] for role, side in self.sides.items() if side.initiator is None]
        return f"{' and '.join(missing) or 'a side'} is not paired; pair it with: s2connect bridge pair FILE"

    def _opens_itself(self) -> bool:
        return all(side.initiator is Initiator.BRIDGE for side in self.sides.values())

    async def _wait_for_work(self) -> bool:
        """Wait for a request or the time to connect. False if only the pairings have changed."""
        machine = self._machine
        self._changed.clear()
        paired = self._is_paired()
        if not paired:
            self._requests.answer_all(NOT_NOW)
            if machine.state is not LinkState.UNPAIRED:
                self._on(LinkEvent.UNPAIRED, reason=self._unpaired())
        elif machine.state is LinkState.UNPAIRED or (self._paired_anew and machine.state is LinkState.REFUSED):
            self._on(LinkEvent.PAIRED)
        self._paired_anew = False
        if paired and self.hold is not None:
            self._look_at_hold(self.hold)
        self._rests.set()
        if paired and self._has_request():
            return True
        may_open = paired and self._opens_itself() and (self.hold is None or self.hold.is_held) and not self._closing
        due = machine.retry_at if may_open else None
        try:
            async with asyncio.timeout_at(due):
                await self._changed.wait()
        except TimeoutError:
            return not self._closing  # it may have been given up at this very moment
        return False

    def _look_at_hold(self, hold: LinkHold) -> None:
        """Note where the link is, in its state."""
        state, where = self._machine.state, for_display(hold.where, 60)
        is_away = not hold.is_held if self.is_leased else bool(where)
        reason = f"the instance {where} has it" if where else "no instance has claimed it yet"
        if self._closing:
            self._requests.answer_all(NOT_NOW)
            hold.let_go()
            is_away, reason = True, self._closing
        if (
            is_away
            and LinkEvent.AWAY in TABLE[state]
            and (state, self._machine.reason) != (LinkState.ELSEWHERE, reason)
        ):
            self._on(LinkEvent.AWAY, reason=reason)
        elif not is_away and state is LinkState.ELSEWHERE:
            self._on(LinkEvent.FREE)

    async def _obtain(self) -> bool:
        """Take the link, because its peer came to this instance.

        False where the database is not there for that, where the other peer waits at another instance, to which this
        one is led then, and where the link may not begin a session here any more.
        """
        if self.hold is None or self.is_leased:
            return self.hold is None or self.hold.is_held
        role = self._first()
        meeting = None
        if role is not None:
            party = role.value if self._requests.may_lead(role) else ""
            meeting = Meeting(party, role.other.value, RENDEZVOUS)
        try:
            is_taken = await self.hold.take(meeting)
        except S2ConnectError as error:
            self._on(LinkEvent.BEGIN)
            self._requests.answer_all(NOT_NOW)
            self._on(LinkEvent.FAILED, reason=for_display(str(error), 300))
            return False
        if role is not None and not is_taken:
            where = self.hold.where
            _log.info("link %s: a peer is led to the instance %s, where the other one waits", self.name, where)
            self._requests.lead(role, where)
        elif not self.hold.is_held or self._closing:  # another one has taken it since, or this one is about to end
            self._requests.answer_all(NOT_NOW)
            return False
        return is_taken

    def _first(self) -> Role | None:
        """Return the role of the peer that waits here, where the other one comes as well, and maybe elsewhere."""
        sides = self.sides.values()
        if any(side.initiator is not Initiator.PEER or side.reaches_all for side in sides):
            return None
        here = self._requests.roles()
        return here[0] if len(here) == 1 else None

    async def _session(self) -> None:
        """Connect both sides, carry messages, and part."""
        self._is_cut = False
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
        self._over = self._loop.create_future()
        meeting = asyncio.create_task(self._bring_together(initiators), name=f"s2connect-bridge-meeting-{self.name}")
        either: set[asyncio.Future[Any]] = {meeting, self._over}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not meeting.done():
                end = self._over.result()
                why = end if isinstance(end, str) else f"{self.sides[end[0]].title} ended the session"
                raise ConnectionClosed(GOING_AWAY, why)
            meeting.result()
            versions = {role: side.connection.info.s2_version for role, side in self._connected.items()}
            return Relay(versions, self.policy, counters=self.counters, on_details=self.sides[Role.RM].on_details)
        except BaseException:
            self._requests.answer_all(NOT_NOW)
            raise
        finally:
            meeting.cancel()
            await asyncio.gather(meeting, return_exceptions=True)

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
                    raise PeerTimeout(
                        f"{self.sides[role].title} did not open the session in time.", hint=self.sides[role].hint
                    ) from error
        missing = [role for role, initiator in initiators.items() if initiator is Initiator.PEER]
        if missing:
            self._on(LinkEvent.REACHED)
            await self._admit(missing)

    def _joined(self, role: Role, connection: Connection) -> None:
        """Read from a connected side, which is the only way to notice its end (WS-04)."""
        if self._record is not None:
            connection = self._record(self.name, self.sides[role].title, role, connection)
        self._connected[role] = SideConnection(connection, partial(self._on_end, self._over, role))

    def _on_end(self, over: _Over, role: Role, error: Exception) -> None:
        """Note the end of a side's connection, or an error of ours, which end the session."""
        closed = error if isinstance(error, ConnectionClosed) else None
        if closed is None:
            self._failures.failed("link", error, name=f"the link {self.name}")
        if not over.done():
            over.set_result((role, closed))
            self._changed.set()

    async def _admit(self, missing: list[Role]) -> None:
        """Wait, for a bounded time, until all missing sides have requested a session; then until they are connected."""
        try:
            async with asyncio.timeout(RENDEZVOUS):
                while not set(missing) <= set(self._requests.roles()):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError as error:
            absent = next((role for role in missing if role not in self._requests.roles()), missing[0])
            side = self.sides[absent]
            raise PeerTimeout(f"{side.title} has not asked for a session.", hint=side.hint) from error
        self._arriving = {role: self._loop.create_future() for role in missing}
        self._requests.answer_all(None)
        try:
            async with asyncio.timeout(ARRIVAL_TIMEOUT):
                for arriving in self._arriving.values():
                    await arriving
        except TimeoutError as error:
            absent = next(role for role in missing if role not in self._connected)
            raise PeerTimeout(f"{self.sides[absent].title} was let in and did not come.") from error
        finally:
            self._arriving = {}

    # Both sides are up

    async def _carry(self, relay: Relay) -> str:
        """Carry messages until a side is lost, or requests a new session. Returns the reason."""
        over = self._over
        guard = None if self.hold is None else self.hold.guard
        for role, side in self._connected.items():
            take = partial(self._relayed, relay, over, role)
            side.hand_to(take, partial(self._on_end, over, role), self._connected[role.other], guard)
        while not over.done():
            if not self._is_paired():
                return "a pairing has ended"
            if self._has_request():
                return "a peer that was connected asks for a new session"
            self._changed.clear()
            await self._changed.wait()
        if isinstance(end := over.result(), str):
            return end
        role, closed = end
        return _UNEXPECTED if closed is None else end_of(self.sides[role].title, closed)

    def _relayed(self, relay: Relay, over: _Over, role: Role, text: str) -> float | None:
        """Pass a text on, or answer it. Returns the seconds until its side may be read again."""
        size = len(text)
        begun, now = begin_work(size), self._loop.time()
        if self.hold is not None and now >= self.hold.until:
            self.hold_lost("the lease of the link is over")
            return FAREWELL_TIMEOUT
        outs = relay.received(role, text, now=now)
        worked = work_since(begun, size)
        if self.watch is not None:
            try:
                self.watch.passed(role, relay.last_read, text, outs, now)
            except Exception as error:
                self._watch_failed(error)
        for to, out, key in outs:
            self._connected[to].outbox.put(out, key)
        if self._timer is None:
            self._set_timer(relay, over)
        return relay.charge(role, text, worked, now=now)

    def _watch_failed(self, error: Exception) -> None:
        self._failures.failed("observer", error, name=f"the watch of the link {self.name}")

    def _set_timer(self, relay: Relay, over: _Over) -> None:
        """Set the timer for the oldest message that waits for its answer. It stays when the answer comes."""
        if (deadline := relay.deadline) is not None:
            self._timer = self._loop.call_at(deadline, self._time_is_up, relay, over)

    def _time_is_up(self, relay: Relay, over: _Over) -> None:
        """Answer for a side that does not in time."""
        self._timer = None
        try:
            self._answer(relay, relay.overdue(self._loop.time()))
            self._set_timer(relay, over)
        except Exception as error:
            self._on_end(over, Role.RM, error)

    def _has_request(self) -> bool:
        """Return whether a peer has come to this instance, and requests a session."""
        alone = self.hold is not None and not self.is_leased
        return any(not (alone and self.sides[role].reaches_all) for role in self._requests.roles())

    def _answer(self, relay: Relay, all_overdue: list[Overdue]) -> None:
        for overdue in all_overdue:
            if self._connected[overdue.to].outbox.withdraw(overdue.key):
                relay.withdrawn(overdue)
            self._connected[overdue.answer.to].outbox.put(overdue.answer.text)
            if self.watch is not None:
                try:
                    self.watch.answered(overdue.answer, self._loop.time())
                except Exception as error:
                    self._watch_failed(error)

    # The end

    async def _part(self) -> None:
        """Announce the end to the sides that are still connected, and close."""
        relay, sides = self._relay, self._connected
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for side in sides.values():
            side.hold()
        try:
            if relay is not None and not self._is_cut:
                self._answer(relay, relay.ended())
        finally:
            try:
                if not self._is_cut:
                    await asyncio.gather(*(self._say_goodbye(role, side) for role, side in sides.items()))
            finally:
                await asyncio.gather(*(side.close() for side in sides.values()))
                self._relay = None
                sides.clear()

    async def _say_goodbye(self, role: Role, side: SideConnection) -> None:
        """Deliver the queue, request a reconnect unless the end was announced to the peer, and close."""
        relay, outbox = self._relay, side.outbox
        over: _Over = self._loop.create_future()

        def take(text: str) -> float:
            if (answer := answer_after_end(text, subject)) is None:
                self._on_end(over, role, ConnectionClosed(NORMAL_CLOSURE))
            elif answer:
                outbox.put(answer)
            return 0.0  # yields to other links under any load

        try:
            async with asyncio.timeout(FAREWELL_TIMEOUT):
                await outbox.flush()
                if relay is None or not relay.knows_of_the_end(role):
                    text, subject = write_message({"message_type": SESSION_REQUEST, "request": "RECONNECT"})
                    outbox.put(text)
                    side.hand_to(take, partial(self._on_end, over, role))
                    await over
                    await outbox.flush()
        except (ConnectionClosed, TimeoutError):
            pass
        except Exception as error:
            self._failures.failed("link", error, name=f"the farewell of the link {self.name}")
        finally:
            await side.close()

    def _on(self, event: LinkEvent, *, reason: str = "") -> None:
        before = self._machine.state
        chance = random.random()  # noqa: S311 - spreads load, guards nothing
        state = self._machine.on(event, now=self._loop.time(), reason=reason, chance=chance)
        if state is not before:
            about = {"link": self.name}
            _log.info("link %s: %s%s", self.name, state, f" ({reason})" if reason else "", extra=about)
        if self._on_change is not None:
            try:
                self._on_change(self)
            except Exception as error:
                self._failures.failed("link", error, name=f"the observer of the link {self.name}")
