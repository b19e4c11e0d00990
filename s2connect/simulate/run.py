"""Simulated devices and energy managers in real sessions, on endpoints or over whatever carries those."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import uuid4

from s2connect import (
    Endpoint,
    NodeConfig,
    NodeDescription,
    NodeId,
    PairingCode,
    Role,
    Secret,
    Session,
    connect_plain,
    for_display,
    read_private,
)
from s2connect.errors import (
    AcknowledgementTimeout,
    ConnectionClosed,
    MessageRefused,
    NetworkError,
    PeerError,
    S2ConnectError,
    SessionError,
    UsageError,
)
from s2connect.messages import BETA, S2Message, data_model, ddbc, frbc, ombc, pebc, ppbc
from s2connect.messages.general import InstructionStatus, InstructionStatusUpdate, SelectControlType
from s2connect.session import Backoff
from s2connect.simulate.cem import EnergyManager, Outgoing
from s2connect.simulate.devices.base import Device
from s2connect.simulate.units import MINUTE

_log = logging.getLogger(__name__)

MAX_SPEED: Final = 100_000.0

STATE_EVERY: Final = 15 * MINUTE
"""Simulated time between two reports of how things stand."""

MAX_OUTGOING: Final = 100
"""Messages of an energy manager that wait for one device; what comes then is left out, and decided anew later."""

MAX_TOKEN_BYTES: Final = 4096
"""Longest file with the token of an old device."""

_BAD_NEWS: Final = frozenset({InstructionStatus.REJECTED, InstructionStatus.ABORTED})


class Clock:
    """The simulated time. It agrees in all programs that run with one speed since midnight (UTC), and never goes back.

    Raises:
        UsageError: ``speed`` is not above 0 and at most :data:`MAX_SPEED`.
    """

    def __init__(self, speed: float = 1.0) -> None:
        if not 0 < speed <= MAX_SPEED:
            raise UsageError(f"The speed of a simulation is more than 0 and at most {MAX_SPEED:.0f}.")
        self.speed = speed
        wall = datetime.now(UTC)
        midnight = wall.replace(hour=0, minute=0, second=0, microsecond=0)
        self._start = midnight + (wall - midnight) * speed
        self._began = time.monotonic()

    def now(self) -> datetime:
        """Return the simulated time, in UTC."""
        return self._start + timedelta(seconds=(time.monotonic() - self._began) * self.speed)

    def seconds_until(self, moment: datetime) -> float:
        """Real seconds until a simulated moment; 0 when it has passed."""
        return max(0.0, (moment - self.now()).total_seconds() / self.speed)


class Report(NamedTuple):
    """Something that happened to a device or an energy manager, as docs/simulate.md has it."""

    at: datetime
    """Simulated time."""
    name: str
    event: str
    text: str
    """For a person; fit for a terminal."""
    values: dict[str, Any]

    def to_value(self) -> dict[str, Any]:
        """Return the report as JSON value."""
        return {"at": self.at.isoformat(), "name": self.name, "event": self.event, "text": self.text, **self.values}


Reporter = Callable[[Report], None]
"""Callback for what happens."""


class Runner:
    """Base of the runners of a device and of an energy manager: reports, and sends messages."""

    def __init__(self, name: str, clock: Clock, reporter: Reporter) -> None:
        self._name = name
        self._clock = clock
        self._reporter = reporter
        self._next_state: datetime | None = None

    def report(self, event: str, text: str, **values: Any) -> None:
        """Report that something happened."""
        self._reporter(Report(self._clock.now(), self._name, event, text, values))

    def _state_is_due(self) -> bool:
        now = self._clock.now()
        if self._next_state is not None and now < self._next_state:
            return False
        self._next_state = now + STATE_EVERY
        return True

    async def _send(self, session: Session, message: S2Message, *, to: str = "") -> None:
        """Send a message. Report one that the peer refuses or that does not fit, and go on.

        Raises:
            ConnectionClosed: The session has ended.
        """
        try:
            await session.send(message)
        except (MessageRefused, AcknowledgementTimeout, UsageError) as error:
            _log.info("%s could not be sent: %s", message.message_type, error)
            self.report("failed", f"{to}{message.message_type}: {for_display(str(error), 200)}")


class DeviceRunner(Runner):
    """A simulated device, which is this runner's alone, in one session after the other."""

    def __init__(self, device: Device, clock: Clock, report: Reporter) -> None:
        super().__init__(device.name, clock, report)
        self._device = device

    async def run(self, sessions: AsyncIterator[Session]) -> None:
        """Drive the device in every session, one at a time, until there are no more.

        Cancel-safe; the session that stands is closed.
        """
        async for session in sessions:
            try:
                await self.drive(session)
            except S2ConnectError as error:
                self.report("failed", str(error))
            finally:
                await session.close()

    async def drive(self, session: Session) -> None:
        """Be the resource manager of one session until it ends.

        Raises:
            UsageError: The session's version of S2 JSON is unknown here.
        """
        device = self._device
        device.version = data_model(session.info.s2_version)
        device.advance(self._clock.now())  # time before the session
        self.report("connected", f"talks with {for_display(session.peer.user_defined_name or session.peer.brand, 40)}")
        receiving: asyncio.Task[Any] | None = None
        said: list[S2Message] = [device.details()]
        try:
            while True:
                for one in said:
                    await self._send(session, one)
                if receiving is None:
                    receiving = asyncio.create_task(session.receive(), name=f"s2connect-simulate-{device.resource_id}")
                await asyncio.wait({receiving}, timeout=self._clock.seconds_until(device.next_due))
                said = []
                if receiving.done():
                    message = receiving.result()
                    receiving = None
                    said = device.instructed(message.parsed, self._clock.now())
                said += device.advance(self._clock.now())
                while device.notes:
                    self.report("note", device.notes.popleft())
                if self._state_is_due():
                    self.report("state", f"{device.power:.0f} W, {device.state()}", power=device.power)
        except ConnectionClosed:
            pass
        finally:
            if receiving is not None:
                receiving.cancel()
                await asyncio.gather(receiving, return_exceptions=True)
            device.disconnected(self._clock.now())
            self.report("disconnected", "is alone again", reason=session.end_reason.value)


class ManagerRunner(Runner):
    """A simulated energy manager, which is this runner's alone, in all its sessions at once."""

    def __init__(self, manager: EnergyManager, clock: Clock, report: Reporter, *, name: str = "cem") -> None:
        super().__init__(name, clock, report)
        self._manager = manager
        self._numbers = itertools.count(1)
        self._outgoing: dict[str, asyncio.Queue[S2Message]] = {}

    async def run(self, sessions: AsyncIterator[Session]) -> None:
        """Manage the device of every session, until there are no more. Cancel-safe; sessions that stand are closed."""
        async with asyncio.TaskGroup() as group:
            looking = group.create_task(self._look(), name="s2connect-simulate-look")
            async for session in sessions:
                group.create_task(self.drive(session), name=f"s2connect-simulate-{session.info.remote}")
            looking.cancel()

    async def drive(self, session: Session) -> None:
        """Manage the device of one session until it ends; :meth:`run` has to let time go on meanwhile."""
        key = f"{session.peer.id}/{next(self._numbers)}"
        queue = self._outgoing[key] = asyncio.Queue(MAX_OUTGOING)
        self._manager.connected(key)
        sending = asyncio.create_task(self._send_all(session, queue), name=f"s2connect-simulate-send-{key}")
        shown = for_display(session.peer.user_defined_name or session.peer.type, 40)
        self.report("connected", f"{shown} is there")
        try:
            async for message in session:
                said = message.parsed
                self._dispatch(self._manager.received(key, said, self._clock.now()))
                if isinstance(said, InstructionStatusUpdate) and said.status_type in _BAD_NEWS:
                    text = f"{self._shown(key)} says {said.status_type}"
                    self.report("refused", text, instruction_id=said.instruction_id)
        except S2ConnectError as error:
            self.report("failed", f"{shown}: {error}")
        finally:
            self._manager.disconnected(key)
            del self._outgoing[key]
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            await session.close()
            self.report("disconnected", f"{shown} is gone", reason=session.end_reason.value)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(max(0.005, self._clock.seconds_until(self._manager.next_due)))
            self._dispatch(self._manager.advance(self._clock.now()))
            if self._state_is_due():
                power, count = self._manager.power, len(self._manager.devices)
                text = f"{power:.0f} W from the grid" if power >= 0 else f"{-power:.0f} W to the grid"
                self.report("state", f"{text}, devices: {count}", power=power, devices=count)

    def _dispatch(self, outgoing: Iterable[Outgoing]) -> None:
        for device, message in outgoing:
            queue = self._outgoing.get(device)
            if queue is None:
                continue
            name = self._shown(device)
            if queue.full():
                self.report("failed", f"{name} does not keep up; it is not sent a {message.message_type}")
                continue
            queue.put_nowait(message)
            self.report("instructed", f"{name}: {_summary(message)}", message=message.to_value())

    def _shown(self, device: str) -> str:
        known = self._manager.devices.get(device)
        return for_display(known.name if known else device, 40)

    async def _send_all(self, session: Session, queue: asyncio.Queue[S2Message]) -> None:
        try:
            while True:
                await self._send(session, await queue.get(), to=f"{session.peer.id}: ")
        except ConnectionClosed:
            pass


def node_config(role: Role, kind: str, name: str | None, *, alias: str | None = None) -> NodeConfig:
    """Return the node of a simulated device or energy manager."""
    model = f"Simulated {kind}"
    return NodeConfig(role=role, brand="s2connect", type=kind, model_name=model, user_defined_name=name, alias=alias)


async def run_device(
    endpoint: Endpoint, device: Device, clock: Clock, report: Reporter, *, pair_with: tuple[str, str] | None = None
) -> None:
    """Run a device on the only node of an endpoint, until that closes. Cancel-safe.

    It is paired first, with a pairing URL and a code; without those one that is not paired reports its own.
    """
    node, runner = endpoint.node(), DeviceRunner(device, clock, report)
    if pair_with is not None:
        await node.pair(*pair_with)
    node.show_codes(partial(_show_code, endpoint, runner))
    await runner.run(node.sessions())


async def run_old_device(url: str, token_file: Path | None, device: Device, clock: Clock, report: Reporter) -> None:
    """Run a device that speaks plain S2 until it is cancelled; it comes back when it loses its connection.

    Raises:
        UsageError: The URL cannot be used.
        StorageError: The token cannot be read, or others can read it.
    """
    token = None
    if token_file is not None:
        content = await asyncio.to_thread(read_private, token_file, MAX_TOKEN_BYTES)
        if content is None:
            raise UsageError(f"There is no file {token_file} with the token.")
        token = Secret(content.decode("utf-8", "replace").strip())
    runner = DeviceRunner(device, clock, report)

    async def sessions() -> AsyncIterator[Session]:
        local, backoff = NodeId(uuid4()), Backoff()
        while True:
            try:
                connection = await connect_plain(url, role=Role.RM, local=local, token=token, versions=(BETA,))
            except (NetworkError, PeerError, SessionError) as error:
                delay = backoff.failed(random.random())  # noqa: S311 - spreads load
                runner.report("failed", f"no session: {error} Again in {delay:.0f} s.", kind=error.kind)
                await asyncio.sleep(delay)
                continue
            backoff.established()
            peer = NodeDescription(id=connection.info.remote, brand="plain S2", type="-", model_name="-", role=Role.CEM)
            yield Session(connection, peer=peer, role=Role.RM)
            await asyncio.sleep(1)

    await runner.run(sessions())


async def run_manager(
    endpoint: Endpoint, fuse_limit: float, clock: Clock, report: Reporter, *, name: str = "cem", many: bool = False
) -> None:
    """Run an energy manager on the only node of an endpoint, until that closes. Cancel-safe.

    It reports a code first: one for ``many`` devices, or a new one after each pairing.
    """
    node = endpoint.node()
    runner = ManagerRunner(EnergyManager(now=clock.now(), fuse_limit=fuse_limit), clock, report, name=name)
    if many:
        _show_code(endpoint, runner, await node.set_static_code())
    else:
        node.show_codes(partial(_show_code, endpoint, runner), always=True)
    await runner.run(node.sessions())


def _show_code(endpoint: Endpoint, runner: Runner, code: PairingCode) -> None:
    url = str(endpoint.pairing_url)
    runner.report("code", f"pair with the code {code.shown} at {url}", pairing_url=url, code=str(code))


def _summary(message: S2Message) -> str:
    """Summarise a message of the energy manager; ids come from the network, and are cleaned."""
    match message:
        case SelectControlType():
            return message.control_type.value
        case frbc.Instruction():
            return f"{for_display(message.operation_mode, 40)}, factor {message.operation_mode_factor:.2f}"
        case ombc.Instruction() | ddbc.Instruction():
            return f"{for_display(message.operation_mode_id, 40)}, factor {message.operation_mode_factor:.2f}"
        case pebc.Instruction():
            element = message.power_envelopes[0].power_envelope_elements[0]
            return f"from {element.lower_limit:.0f} W to {element.upper_limit:.0f} W"
        case ppbc.ScheduleInstruction():
            return f"{for_display(message.power_sequence_id, 40)} at {message.execution_time:%a %H:%M}"
    return message.message_type
