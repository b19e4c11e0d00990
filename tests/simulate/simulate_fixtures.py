"""Simulated devices and an energy manager without a network; every message between them is validated."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from s2connect.messages import frbc, pebc
from s2connect.messages.base import S2Message, new_id
from s2connect.messages.catalogue import V1, parse
from s2connect.messages.conversation import Conversation
from s2connect.messages.envelope import read_message
from s2connect.messages.general import ControlType, InstructionStatus, InstructionStatusUpdate, SelectControlType
from s2connect.messages.rules import check
from s2connect.model.common import Role
from s2connect.simulate.cem import EnergyManager
from s2connect.simulate.devices.base import Basics, Device
from s2connect.simulate.devices.kinds import make_device

MIDNIGHT = datetime(2026, 3, 2, tzinfo=UTC)
NOON = MIDNIGHT + timedelta(hours=12)
EVENING = MIDNIGHT + timedelta(hours=20)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)

Kind = TypeVar("Kind", bound=S2Message)


def a_device(
    kind: str, *, seed: int = 1, now: datetime = MIDNIGHT, control_type: ControlType | None = None, **sizes: Any
) -> Any:
    """A device; the same seed makes the same device."""
    return make_device(kind, Basics(f"{kind}-{seed}", random.Random(seed), now, only=control_type), **sizes)


def of(kind: type[Kind], messages: Iterable[S2Message]) -> list[Kind]:
    """Those messages that are of a type."""
    return [message for message in messages if isinstance(message, kind)]


def statuses(messages: Iterable[S2Message]) -> list[InstructionStatus]:
    """Return the statuses of instructions, in the order in which a device sent them."""
    return [update.status_type for update in of(InstructionStatusUpdate, messages)]


TAKEN = [
    InstructionStatus.NEW,
    InstructionStatus.ACCEPTED,
    InstructionStatus.STARTED,
    InstructionStatus.SUCCEEDED,
]
REFUSED = [InstructionStatus.NEW, InstructionStatus.REJECTED]


def frbc_instruction(
    actuator: str, mode: str, factor: float, now: datetime, *, abnormal: bool = False
) -> frbc.Instruction:
    return frbc.Instruction(
        id=new_id(),
        actuator_id=actuator,
        operation_mode=mode,
        operation_mode_factor=factor,
        execution_time=now,
        abnormal_condition=abnormal,
    )


def pebc_instruction(
    constraints: pebc.PowerConstraints, lower: float, upper: float, duration: timedelta, now: datetime
) -> pebc.Instruction:
    element = pebc.PowerEnvelopeElement(
        duration=round(duration / timedelta(milliseconds=1)), upper_limit=upper, lower_limit=lower
    )
    quantity = constraints.allowed_limit_ranges[0].commodity_quantity
    envelope = pebc.PowerEnvelope(id=new_id(), commodity_quantity=quantity, power_envelope_elements=[element])
    return pebc.Instruction(
        id=new_id(),
        execution_time=now,
        abnormal_condition=False,
        power_constraints_id=constraints.id,
        power_envelopes=[envelope],
    )


class CheckedSession:
    """Session whose messages have to pass validation without an error or a warning."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.passed: list[tuple[Role, S2Message]] = []
        self._conversation = Conversation(version)

    def pass_on(self, sender: Role, message: S2Message) -> S2Message:
        """Validate a message and return it as the other side reads it."""
        text = message.to_json()
        verdict = self._conversation.validate(sender, read_message(text))
        assert verdict.ok, f"{message.message_type}: {verdict.label}"
        parsed = parse(text, self.version)
        assert not check(parsed), check(parsed)
        warnings = getattr(verdict, "warnings", ())
        assert not warnings, [f"{message.message_type}: {finding.label}" for finding in warnings]
        self._conversation.accepted(sender, parsed)
        self.passed.append((sender, parsed))
        return parsed

    def from_rm(self) -> list[S2Message]:
        return [message for sender, message in self.passed if sender is Role.RM]

    def from_cem(self) -> list[S2Message]:
        return [message for sender, message in self.passed if sender is Role.CEM]


def select(
    device: Device, control_type: ControlType, now: datetime, session: CheckedSession | None = None
) -> list[S2Message]:
    """A session begins and a control type is selected; what the device says to that."""
    session = session or CheckedSession(device.version)
    session.pass_on(Role.RM, device.details())
    message = session.pass_on(Role.CEM, SelectControlType(control_type=control_type))
    said = device.instructed(message, now)
    for one in said:
        session.pass_on(Role.RM, one)
    return said


class Site:
    """Devices and their energy manager; what one says the other takes, at the same moment."""

    def __init__(self, devices: list[Device], *, now: datetime = MIDNIGHT, version: str = V1, **settings: Any) -> None:
        self.now = now
        self.manager = EnergyManager(now=now, **settings)
        self.devices = {device.resource_id: device for device in devices}
        self.sessions: dict[str, CheckedSession] = defaultdict(lambda: CheckedSession(version))
        self.powers: list[float] = []
        """W of all devices together, minute by minute."""
        for name, device in self.devices.items():
            device.version = version
            self.manager.connected(name)
            self._to_manager(name, [device.details()])

    def _to_manager(self, name: str, said: list[S2Message]) -> None:
        for message in said:
            passed = self.sessions[name].pass_on(Role.RM, message)
            self._to_devices(self.manager.received(name, passed, self.now))

    def _to_devices(self, outgoing: Iterable[Any]) -> None:
        for name, message in outgoing:
            passed = self.sessions[name].pass_on(Role.CEM, message)
            self._to_manager(name, self.devices[name].instructed(passed, self.now))

    def run(self, duration: timedelta) -> None:
        """Let time pass."""
        end = self.now + duration
        while self.now < end:
            self.now += MINUTE
            for name, device in self.devices.items():
                self._to_manager(name, device.advance(self.now))
            self._to_devices(self.manager.advance(self.now))
            self.powers.append(sum(device.power for device in self.devices.values()))
