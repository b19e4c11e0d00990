"""Checks of a message against the message history of its session."""

from __future__ import annotations

import bisect
import copy
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, get_args

from s2connect.messages import ddbc, frbc, general, ombc, pebc, ppbc
from s2connect.messages.base import IdentifiedMessage, S2Message
from s2connect.messages.general import ControlType, InstructionStatus, RevokableObjects
from s2connect.messages.labels import listed
from s2connect.messages.rules.base import Finding, Findings
from s2connect.messages.rules.checks import TOLERANCE, Instruction, Path, Status
from s2connect.messages.rules.history_facts import (
    MAX_OBJECTS,
    ONLY_ACTUATOR,
    Actuator,
    Constraints,
    Description,
    Machines,
    Profile,
    Remembered,
    SeenIds,
    SequenceFacts,
    constraints,
    described,
    has_costs,
    profile,
)
from s2connect.messages.state import PREFIXES
from s2connect.model.common import Role

_OPEN: Final = {
    InstructionStatus.NEW: 0,
    InstructionStatus.ACCEPTED: 1,
    InstructionStatus.STARTED: 2,
}
"""Status of instructions that go on, in their order. REJECTED takes the place of ACCEPTED, all others come last."""

_AnyInstruction = Instruction | pebc.Instruction | ppbc.SequenceInstruction
_TimerStatus = ombc.TimerStatus | frbc.TimerStatus | ddbc.TimerStatus
_Announced = frbc.LeakageBehaviour | frbc.FillLevelTargetProfile | frbc.UsageForecast | ddbc.AverageDemandRateForecast


class _Context(NamedTuple):
    """Sender and time of a message."""

    sender: Role
    now: datetime | None


class _Instructed(NamedTuple):
    """An accepted instruction: the id of its message, and its last reported status."""

    message_id: str
    status: InstructionStatus | None


class History:
    """Message history of one session, as far as the rules need it.

    For every message in the order of sending: :meth:`check`, and :meth:`accept` once it counts. Memory is bounded
    (``MAX_REMEMBERED``, ``MAX_OBJECTS``); what was forgotten is never missed.

    Who waits for the answers to its own messages should accept them when they are sent, but a SelectControlType when
    it is answered with ``OK``: the other side may refer to a message before its answer has come.
    """

    def __init__(self) -> None:
        self._selected: ControlType | None = None
        self._revoked: Remembered[str, str] = Remembered()
        self._ended: Remembered[str, None] = Remembered()
        self._message_ids = {role: SeenIds() for role in Role}
        self._details: general.ResourceManagerDetails | None = None
        self._instructions: Remembered[str, _Instructed] = Remembered()
        self._instruction_messages: Remembered[str, str] = Remembered()
        self._used: Remembered[str, str] = Remembered()
        self._machines: dict[str, Machines] = {}
        self._constraints: Remembered[str, Constraints] = Remembered(MAX_OBJECTS)
        self._energy: Remembered[str, None] = Remembered()
        self._profiles: Remembered[str, Profile] = Remembered(MAX_OBJECTS)

    def check(self, sender: Role, message: S2Message, now: datetime | None = None) -> list[Finding]:
        """Return the findings about a message as if it came now; changes nothing and never raises.

        Args:
            sender: Who sends it.
            message: What is sent.
            now: The time, with its zone, in which it is sent. Without it a description that was replaced is held for
                possibly still in force, and an instruction for one that is executed when it says.
        """
        found = Findings()
        if isinstance(message, IdentifiedMessage) and message.message_id in self._message_ids[sender]:
            found.add("HIST-01", "the sender has used it before", "message_id")
        checker = _CHECKS.get(type(message))
        if checker is not None:
            checker(self, message, found, _Context(sender, now))
        return found

    def accept(self, sender: Role, message: S2Message, now: datetime | None = None) -> None:
        """Remember a message, which has been, or is expected to be, answered with ``OK``. Never raises."""
        if isinstance(message, IdentifiedMessage):
            self._message_ids[sender].add(message.message_id)
        acceptor = _ACCEPTORS.get(type(message))
        if acceptor is not None:
            acceptor(self, message, _Context(sender, now))

    def fork(self) -> History:
        """Return a history that goes on by itself. What is remembered is shared until one of the two changes it."""
        other = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Remembered):
                setattr(other, name, value.fork())
        other._message_ids = {role: known.fork() for role, known in self._message_ids.items()}
        other._machines = {prefix: machines.fork() for prefix, machines in self._machines.items()}
        return other

    # Details and control type

    def _check_selection(self, message: general.SelectControlType, found: Findings, _: _Context) -> None:
        if self._details is None:
            found.add("HIST-02", "nothing is known of the device yet")
        elif (
            message.control_type is not ControlType.NO_SELECTION
            and message.control_type not in self._details.available_control_types
        ):
            found.add("HIST-03", "not offered by the device", "control_type")

    def _accept_selection(self, message: general.SelectControlType, _: _Context) -> None:
        prefix = PREFIXES.get(message.control_type, "")
        self._selected = message.control_type if prefix else None
        # What the new control type has already is from messages that came before the answer to this one.
        self._machines = {known: machines for known, machines in self._machines.items() if known == prefix}
        if prefix != "PEBC":
            self._end_of(self._constraints, self._energy)
            self._constraints = Remembered(MAX_OBJECTS)
            self._energy = Remembered()
        if prefix != "PPBC":
            self._end_of(self._profiles)
            self._profiles = Remembered(MAX_OBJECTS)

    def _end_of(self, *objects: Iterable[str]) -> None:
        """Note that objects ended with their control type; they may still be revoked."""
        for identifier in itertools.chain(*objects):
            self._ended.put(identifier, None)

    def _check_selected(self, found: Findings) -> None:
        if self._selected is None:
            found.add("HIST-29", "no control type is selected")

    def _accept_details(self, message: general.ResourceManagerDetails, _: _Context) -> None:
        self._details = message

    def _check_measurement(self, message: general.PowerMeasurement, found: Findings, _: _Context) -> None:
        if self._details is None:
            return
        announced = self._details.provides_power_measurement_types
        for index, value in enumerate(message.values):
            if value.commodity_quantity not in announced:
                found.add("HIST-25", "the device has not announced to measure this", "values", index)

    def _check_power_forecast(self, _: general.PowerForecast, found: Findings, __: _Context) -> None:
        if self._details is not None and not self._details.provides_forecast:
            found.add("HIST-26", "the device has announced that it provides none")

    # Descriptions with operation modes, and what refers to them

    def _check_description(self, message: Description, found: Findings, _: _Context) -> None:
        if self._details is not None and self._details.currency is None and has_costs(message):
            found.add("HIST-24", "tells costs, but the details of the device name no currency")

    def _accept_description(self, message: Description, context: _Context) -> None:
        machines = self._own_machines(message)
        machines.describe(described(message), context.now)

    def _own_machines(self, message: S2Message) -> Machines:
        """Return the state of the device under the control type of a message, to change it."""
        prefix = message.message_type[:4]
        if prefix not in self._machines:
            self._machines[prefix] = Machines()
        return self._machines[prefix]

    def _machines_of(self, message: S2Message) -> Machines:
        return self._machines.get(message.message_type[:4], _NO_MACHINES)

    def _actuators(self, message: Instruction | Status | _TimerStatus, context: _Context) -> list[Actuator]:
        """Return the actuator as described by each description that may be in force, the newest first."""
        known = self._machines_of(message).known(context.now)
        found = (description.actuators.get(_actuator_id(message)) for description in known)
        return [actuator for actuator in found if actuator is not None]

    def _is_described(self, message: S2Message, found: Findings, context: _Context) -> bool:
        if self._machines_of(message).known(context.now):
            return True
        found.add("HIST-07", "no system description is in force")
        return False

    def _unknown(
        self, rule: str, message: S2Message, member: str, what: str, names: Iterable[str], found: Findings
    ) -> None:
        """Add a finding: the message names an object that no description has."""
        if self._machines_of(message).complete:
            found.add(rule, f"no {what} that is described: {listed(sorted(set(names))) or 'none'}", member)

    def _unknown_actuator(self, rule: str, message: S2Message, found: Findings, context: _Context) -> None:
        names = itertools.chain(*(one.actuators for one in self._machines_of(message).known(context.now)))
        self._unknown(rule, message, "actuator_id", "actuator", names, found)

    def _check_described(
        self, message: Status | _TimerStatus, member: str, what: str, found: Findings, context: _Context
    ) -> None:
        """Check that a mode or timer of a message is one that a description of its actuator has."""
        if not self._is_described(message, found, context):
            return
        actuators = self._actuators(message, context)
        known = [actuator.timers if what == "timer" else actuator.modes for actuator in actuators]
        if not actuators:
            self._unknown_actuator("HIST-08", message, found, context)
        elif not any(getattr(message, member) in names for names in known):
            self._unknown("HIST-08", message, member, what, itertools.chain(*known), found)

    def _check_status(self, message: Status, found: Findings, context: _Context) -> None:
        self._check_described(message, "active_operation_mode_id", "operation mode", found, context)

    def _check_timer(self, message: _TimerStatus, found: Findings, context: _Context) -> None:
        self._check_described(message, "timer_id", "timer", found, context)

    def _accept_status(self, message: Status, _: _Context) -> None:
        machines = self._own_machines(message)
        machines.active.put(_actuator_id(message), message.active_operation_mode_id)

    def _accept_timer(self, message: _TimerStatus, _: _Context) -> None:
        machines = self._own_machines(message)
        machines.finished.put((_actuator_id(message), message.timer_id), message.finished_at)

    def _check_announced(self, message: _Announced, found: Findings, context: _Context) -> None:
        if not self._is_described(message, found, context):
            return
        known = self._machines_of(message).known(context.now)
        if not any(message.message_type in description.forecasts for description in known):
            found.add("HIST-26", "the system description announces none")

    def _check_fill_level(self, message: frbc.StorageStatus, found: Findings, context: _Context) -> None:
        if not self._is_described(message, found, context):
            return
        level = message.present_fill_level
        for description in self._machines["FRBC"].known(context.now):
            storage = description.fill_level_range
            if storage is None or storage.start_of_range <= level <= storage.end_of_range:
                return
        found.add("HIST-27", "outside of the storage's range of the fill level", "present_fill_level")

    # Instructions

    def _check_new_instruction(self, message: _AnyInstruction, found: Findings) -> None:
        known = self._instructions.get(message.id)
        if known is not None and known.message_id != message.message_id:
            found.add("HIST-04", "an earlier instruction has it", "id")

    def _accept_new_instruction(self, message: _AnyInstruction, _: _Context) -> None:
        self._instructions.put(message.id, _Instructed(message.message_id, None))
        self._instruction_messages.put(message.message_id, message.id)

    def _check_instruction(self, message: Instruction, found: Findings, context: _Context) -> None:
        self._check_new_instruction(message, found)
        machines = self._machines_of(message)
        if not machines.known(context.now):
            found.add("HIST-06", "no system description is in force")
            return
        member, mode = _instructed_mode(message)
        actuators = self._actuators(message, context)
        if not actuators:
            self._unknown_actuator("HIST-06", message, found, context)
            return
        actuator = next((known for known in actuators if mode in known.modes), None)
        if actuator is None:
            modes = itertools.chain(*(known.modes for known in actuators))
            self._unknown("HIST-06", message, member, "operation mode", modes, found)
            return
        if actuator.modes[mode] and not message.abnormal_condition:
            found.add("HIST-09", "only for abnormal conditions, which the instruction does not declare", member)
            return
        _check_way(machines, actuator, message, found, context)

    def _accept_instruction(self, message: Instruction, context: _Context) -> None:
        self._accept_new_instruction(message, context)
        machines = self._own_machines(message)
        machines.instructed.put(_actuator_id(message), _instructed_mode(message)[1])

    def _check_instruction_status(self, message: general.InstructionStatusUpdate, found: Findings, _: _Context) -> None:
        self._check_selected(found)
        known = self._instructions.get(message.instruction_id)
        if known is None:
            identifier = self._instruction_messages.get(message.instruction_id)
            if identifier is not None:
                found.add("HIST-19", "names the message, and not the instruction in it", "instruction_id")
                known = self._instructions.get(identifier)
            elif self._instructions.never_had(message.instruction_id):
                found.add("HIST-18", "no instruction that was sent in this session", "instruction_id")
        if known is None or known.status is None or known.status is message.status_type:
            return
        if known.status not in _OPEN or _rank(message.status_type) < _OPEN[known.status]:
            found.add("HIST-20", "comes before what was said of the instruction already", "status_type")

    def _accept_instruction_status(self, message: general.InstructionStatusUpdate, _: _Context) -> None:
        identifier = self._instruction_of(message.instruction_id)
        known = self._instructions.get(identifier)
        if known is not None:
            self._instructions.put(identifier, known._replace(status=message.status_type))

    # Revoking

    def _check_revoke(self, message: general.RevokeObject, found: Findings, context: _Context) -> None:
        kind, name = message.object_type, message.object_id
        is_instruction = kind.endswith("Instruction")
        self._check_selected(found)
        if context.sender is not (Role.CEM if is_instruction else Role.RM):
            found.add("HIST-23", "of a kind that the other side sends", "object_type")
        if kind.endswith("SystemDescription"):
            machines = self._machines.get(kind[:4], _NO_MACHINES)
            if not any(name == description.message_id for description in machines.known(None)):
                found.add("HIST-22", "not the message of a system description in force", "object_id")
            return
        if is_instruction:
            if name not in self._instructions and name in self._instruction_messages:
                found.add("HIST-19", "names the message, and not the instruction in it", "object_id")
            name = self._instruction_of(name)
            if self._revoked.get(name) not in (None, message.message_id):
                found.add("HIST-21", "was revoked before", "object_id")
            unknown = self._instructions.never_had(name)
        else:
            unknown = self._objects(kind).never_had(name)
        if unknown and name not in self._ended:
            found.add("HIST-21", "nothing of this kind that was sent and not yet revoked", "object_id")

    def _objects(
        self, kind: RevokableObjects
    ) -> Remembered[str, Constraints] | Remembered[str, None] | Remembered[str, Profile]:
        """Return the objects of a kind that is neither an instruction nor a system description."""
        if kind is RevokableObjects.PEBC_POWERCONSTRAINTS:
            return self._constraints
        return self._energy if kind is RevokableObjects.PEBC_ENERGYCONSTRAINT else self._profiles

    def _instruction_of(self, name: str) -> str:
        """Return the identifier of an instruction, which may be named by its message instead (HIST-19)."""
        return name if name in self._instructions else self._instruction_messages.get(name) or name

    def _accept_revoke(self, message: general.RevokeObject, _: _Context) -> None:
        kind, name = message.object_type, message.object_id
        if kind.endswith("SystemDescription"):
            if kind[:4] in self._machines:
                self._machines[kind[:4]].revoke(name)
        elif kind.endswith("Instruction"):
            self._revoked.put(self._instruction_of(name), message.message_id)
        else:
            self._objects(kind).drop(name)
        self._ended.drop(name)

    # Power envelopes

    def _check_object_id(
        self,
        message: pebc.PowerConstraints | pebc.EnergyConstraint | ppbc.PowerProfileDefinition,
        found: Findings,
        _: _Context,
    ) -> None:
        if self._used.get(message.id) not in (None, message.message_id):
            found.add("HIST-05", "something that was sent earlier has it", "id")

    def _accept_constraints(self, message: pebc.PowerConstraints, _: _Context) -> None:
        self._used.put(message.id, message.message_id)
        self._constraints.put(message.id, constraints(message))

    def _accept_energy(self, message: pebc.EnergyConstraint, _: _Context) -> None:
        self._used.put(message.id, message.message_id)
        self._energy.put(message.id, None)

    def _check_pebc_instruction(self, message: pebc.Instruction, found: Findings, context: _Context) -> None:
        self._check_new_instruction(message, found)
        known = self._constraints.get(message.power_constraints_id)
        if known is None:
            if self._constraints.never_had(message.power_constraints_id):
                found.add("HIST-12", "not sent, or revoked since", "power_constraints_id")
            return
        late = known.valid_until is not None and message.execution_time >= known.valid_until
        if late or (context.now is not None and max(message.execution_time, context.now) < known.valid_from):
            found.add("HIST-14", "the power constraints are not valid then", "execution_time")
        for index, envelope in enumerate(message.power_envelopes):
            _check_envelope(known, envelope, message.abnormal_condition, found, "power_envelopes", index)

    # Power profiles

    def _accept_profile(self, message: ppbc.PowerProfileDefinition, _: _Context) -> None:
        self._used.put(message.id, message.message_id)
        self._profiles.put(message.id, profile(message))

    def _check_ppbc_instruction(self, message: ppbc.SequenceInstruction, found: Findings, context: _Context) -> None:
        self._check_new_instruction(message, found)
        known = self._profiles.get(message.power_profile_id)
        if known is None:
            if self._profiles.never_had(message.power_profile_id):
                found.add("HIST-15", "not sent, or revoked since", "power_profile_id")
            return
        container = known.containers.get(message.sequence_container_id)
        if container is None:
            detail = f"not in the power profile: {listed(known.containers)}"
            found.add("HIST-15", detail, "sequence_container_id")
            return
        sequence = container.get(message.power_sequence_id)
        if sequence is None:
            detail = f"not in the sequence container: {listed(container)}"
            found.add("HIST-15", detail, "power_sequence_id")
            return
        if sequence.abnormal_only and not message.abnormal_condition:
            detail = "only for abnormal conditions, which the instruction does not declare"
            found.add("HIST-09", detail, "power_sequence_id")
        if isinstance(message, ppbc.ScheduleInstruction):
            _check_schedule(known, sequence, message.execution_time, found, context)
        elif not sequence.interruptible:
            found.add("HIST-16", "cannot be interrupted", "power_sequence_id")

    def _check_profile_status(self, message: ppbc.PowerProfileStatus, found: Findings, _: _Context) -> None:
        for index, status in enumerate(message.sequence_container_status):
            path = "sequence_container_status", index
            known = self._profiles.get(status.power_profile_id)
            if known is None:
                if self._profiles.never_had(status.power_profile_id):
                    found.add("HIST-28", "not sent, or revoked since", *path, "power_profile_id")
                continue
            container = known.containers.get(status.sequence_container_id)
            if container is None:
                detail = f"not in the power profile: {listed(known.containers)}"
                found.add("HIST-08", detail, *path, "sequence_container_id")
            elif status.selected_sequence_id is not None and status.selected_sequence_id not in container:
                detail = f"not in the sequence container: {listed(container)}"
                found.add("HIST-08", detail, *path, "selected_sequence_id")


_NO_MACHINES: Final = Machines()

_LIMITS: Final = (
    (pebc.PowerEnvelopeLimitType.UPPER_LIMIT, "upper_limit"),
    (pebc.PowerEnvelopeLimitType.LOWER_LIMIT, "lower_limit"),
)


def _rank(status: InstructionStatus) -> int:
    return 1 if status is InstructionStatus.REJECTED else _OPEN.get(status, 3)


def _actuator_id(message: Any) -> str:
    return getattr(message, "actuator_id", ONLY_ACTUATOR)


def _instructed_mode(message: Instruction) -> tuple[str, str]:
    """Return the member that names the mode, and the mode."""
    if isinstance(message, frbc.Instruction):
        return "operation_mode", message.operation_mode
    return "operation_mode_id", message.operation_mode_id


def _check_way(
    machines: Machines, actuator: Actuator, message: Instruction, found: Findings, context: _Context
) -> None:
    """Check for a transition to the instructed mode from the active one, or from the one instructed last."""
    actuator_id, (member, mode) = _actuator_id(message), _instructed_mode(message)
    places = (machines.active.get(actuator_id), machines.instructed.get(actuator_id))
    starts = {place for place in places if place in actuator.modes and place is not None}
    if mode in starts or not starts:
        return
    ways = [way for start in starts for way in actuator.ways.get((start, mode), ())]
    if ways and not message.abnormal_condition:
        ways = [way for way in ways if not way.abnormal_only]
        if not ways:
            detail = "every transition there is only for abnormal conditions, which the instruction does not declare"
            found.add("HIST-09", detail, member)
            return
    if not ways:
        found.add("HIST-10", "no transition leads there from the active operation mode", member)
        return
    moment = message.execution_time if context.now is None else max(message.execution_time, context.now)

    def blocked(timer: str) -> bool:
        finished = machines.finished.get((actuator_id, timer))
        return finished is not None and finished > moment

    if all(any(map(blocked, way.blocking_timers)) for way in ways):
        found.add("HIST-11", "a timer that is not finished blocks the transition", member)


def _check_envelope(
    known: Constraints, envelope: pebc.PowerEnvelope, abnormal_condition: bool, found: Findings, *path: Path
) -> None:
    """Check that the limits of an envelope are in the allowed ranges."""
    of_quantity = {name: known.allowed.get((envelope.commodity_quantity, kind)) for kind, name in _LIMITS}
    if not any(of_quantity.values()):
        found.add("HIST-13", "the power constraints have no limits for this quantity", *path)
        return
    for name, allowed in of_quantity.items():
        if not allowed:
            continue
        usable = _union((start, end) for start, end, abnormal in allowed if abnormal_condition or not abnormal)
        for index, element in enumerate(envelope.power_envelope_elements):
            value: float = getattr(element, name)
            slack = TOLERANCE * max(1.0, abs(value))
            place = bisect.bisect_right(usable, (value + slack, math.inf)) - 1
            if place < 0 or value > usable[place][1] + slack:
                what = "not in a range that the power constraints allow"
                found.add("HIST-13", what, *path, "power_envelope_elements", index, name)
                break


def _union(ranges: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the same ranges in ascending order, and those that overlap as one."""
    united: list[tuple[float, float]] = []
    for start, end in sorted(ranges):
        if united and start <= united[-1][1]:
            united[-1] = united[-1][0], max(end, united[-1][1])
        else:
            united.append((start, end))
    return united


def _check_schedule(
    known: Profile, sequence: SequenceFacts, execution_time: datetime, found: Findings, context: _Context
) -> None:
    start = execution_time if context.now is None else max(execution_time, context.now)
    early = context.now is not None and start < known.start_time
    if early or (known.end_time - start) / timedelta(milliseconds=1) < sequence.duration:
        found.add("HIST-17", "the power sequence would start too early or end too late", "execution_time")


_Check = Callable[[History, Any, Findings, _Context], None]
_Accept = Callable[[History, Any, _Context], None]

_TABLE: Final[Sequence[tuple[tuple[type[S2Message], ...], _Check | None, _Accept | None]]] = (
    ((general.ResourceManagerDetails,), None, History._accept_details),
    ((general.SelectControlType,), History._check_selection, History._accept_selection),
    ((general.PowerMeasurement,), History._check_measurement, None),
    ((general.PowerForecast,), History._check_power_forecast, None),
    ((general.InstructionStatusUpdate,), History._check_instruction_status, History._accept_instruction_status),
    ((general.RevokeObject,), History._check_revoke, History._accept_revoke),
    ((*get_args(Description), ddbc.BetaSystemDescription), History._check_description, History._accept_description),
    (get_args(Status), History._check_status, History._accept_status),
    (get_args(_TimerStatus), History._check_timer, History._accept_timer),
    (get_args(Instruction), History._check_instruction, History._accept_instruction),
    (get_args(_Announced), History._check_announced, None),
    ((frbc.StorageStatus,), History._check_fill_level, None),
    ((pebc.PowerConstraints,), History._check_object_id, History._accept_constraints),
    ((pebc.EnergyConstraint,), History._check_object_id, History._accept_energy),
    ((pebc.Instruction,), History._check_pebc_instruction, History._accept_new_instruction),
    ((ppbc.PowerProfileDefinition,), History._check_object_id, History._accept_profile),
    ((ppbc.PowerProfileStatus,), History._check_profile_status, None),
    (
        (ppbc.ScheduleInstruction, ppbc.StartInterruptionInstruction, ppbc.EndInterruptionInstruction),
        History._check_ppbc_instruction,
        History._accept_new_instruction,
    ),
)
"""By type of message: its check, and what to remember of it once it is accepted."""

_CHECKS: Final = {kind: check for kinds, check, _ in _TABLE for kind in kinds if check is not None}
_ACCEPTORS: Final = {kind: accept for kinds, _, accept in _TABLE for kind in kinds if accept is not None}
