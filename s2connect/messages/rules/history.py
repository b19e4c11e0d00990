"""Checks of a message against the message history of its session."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple, get_args

from s2connect.messages import ddbc, frbc, general, ombc, pebc, ppbc
from s2connect.messages.base import IdentifiedMessage, S2Message
from s2connect.messages.general import ControlType, InstructionStatus, RevokableObjects
from s2connect.messages.labels import listed
from s2connect.messages.rules import history_rules as rules
from s2connect.messages.rules.base import Finding, Findings, Rule
from s2connect.messages.rules.common import TOLERANCE, Instruction, Status
from s2connect.messages.rules.history_facts import (
    MAX_OBJECTS,
    ONLY_ACTUATOR,
    Actuator,
    Constraints,
    Description,
    Machines,
    Profile,
    Remembered,
    SequenceFacts,
    constraints,
    described,
    has_costs,
    milliseconds,
    profile,
)
from s2connect.model.common import Role

_PREFIX: Final[Mapping[ControlType, str]] = {
    ControlType.POWER_ENVELOPE_BASED_CONTROL: "PEBC",
    ControlType.POWER_PROFILE_BASED_CONTROL: "PPBC",
    ControlType.OPERATION_MODE_BASED_CONTROL: "OMBC",
    ControlType.FILL_RATE_BASED_CONTROL: "FRBC",
    ControlType.DEMAND_DRIVEN_BASED_CONTROL: "DDBC",
}

_RANK: Final[Mapping[InstructionStatus, int]] = {
    InstructionStatus.NEW: 0,
    InstructionStatus.ACCEPTED: 1,
    InstructionStatus.REJECTED: 1,
    InstructionStatus.STARTED: 2,
    InstructionStatus.SUCCEEDED: 3,
    InstructionStatus.ABORTED: 3,
    InstructionStatus.REVOKED: 3,
}
_FINAL: Final = frozenset(
    {
        InstructionStatus.REJECTED,
        InstructionStatus.SUCCEEDED,
        InstructionStatus.ABORTED,
        InstructionStatus.REVOKED,
    }
)

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
        self._message_ids: dict[Role, Remembered[str, None]] = {role: Remembered() for role in Role}
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
            found.add(rules.MESSAGE_ID_ONCE, "message_id", "the sender has used it before")
        checker = _CHECKS.get(type(message))
        if checker is not None:
            checker(self, message, found, _Context(sender, now))
        return found

    def accept(self, sender: Role, message: S2Message, now: datetime | None = None) -> None:
        """Remember a message, which has been, or is expected to be, answered with ``OK``. Never raises."""
        if isinstance(message, IdentifiedMessage):
            self._message_ids[sender].put(message.message_id, None)
        acceptor = _ACCEPTORS.get(type(message))
        if acceptor is not None:
            acceptor(self, message, _Context(sender, now))

    def __deepcopy__(self, _: object) -> History:
        """A history that goes on by itself. Cheap: what is remembered never changes; only its containers are copied."""
        other = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Remembered):
                setattr(other, name, value.copy())
        other._message_ids = {role: known.copy() for role, known in self._message_ids.items()}
        other._machines = {prefix: machines.copy() for prefix, machines in self._machines.items()}
        return other

    # Details and control type

    def _check_selection(self, message: general.SelectControlType, found: Findings, _: _Context) -> None:
        if self._details is None:
            found.add(rules.DETAILS_FIRST, "", "nothing is known of the device yet")
        elif (
            message.control_type is not ControlType.NO_SELECTION
            and message.control_type not in self._details.available_control_types
        ):
            found.add(rules.AVAILABLE, "control_type", "not offered by the device")

    def _accept_selection(self, message: general.SelectControlType, _: _Context) -> None:
        prefix = _PREFIX.get(message.control_type, "")
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
            found.add(rules.AFTERWARDS, "", "no control type is selected")

    def _accept_details(self, message: general.ResourceManagerDetails, _: _Context) -> None:
        self._details = message

    def _check_measurement(self, message: general.PowerMeasurement, found: Findings, _: _Context) -> None:
        if self._details is None:
            return
        announced = self._details.provides_power_measurement_types
        for index, value in enumerate(message.values):
            if value.commodity_quantity not in announced:
                found.add(rules.MEASURED, f"values[{index}]", "the device has not announced to measure this")

    def _check_power_forecast(self, _: general.PowerForecast, found: Findings, __: _Context) -> None:
        if self._details is not None and not self._details.provides_forecast:
            found.add(rules.FORECAST, "", "the device has announced that it provides none")

    # Descriptions with operation modes, and what refers to them

    def _check_description(self, message: Description, found: Findings, _: _Context) -> None:
        if self._details is not None and self._details.currency is None and has_costs(message):
            found.add(rules.CURRENCY, "", "tells costs, but the details of the device name no currency")

    def _accept_description(self, message: Description, context: _Context) -> None:
        machines = self._machines.setdefault(_prefix(message), Machines())
        machines.describe(described(message), context.now)

    def _actuators(self, message: S2Message, actuator_id: str, context: _Context) -> list[Actuator]:
        """Return the actuator as described by each description that may be in force, the newest first."""
        machines = self._machines.get(_prefix(message), _NO_MACHINES)
        known = (description.actuators.get(actuator_id) for description in machines.known(context.now))
        return [actuator for actuator in known if actuator is not None]

    def _is_described(self, message: S2Message, found: Findings, context: _Context) -> bool:
        if self._machines.get(_prefix(message), _NO_MACHINES).known(context.now):
            return True
        found.add(rules.DESCRIPTION_FIRST, "", "no system description is in force")
        return False

    def _no_actuator(self, rule: Rule, message: S2Message, found: Findings, context: _Context) -> None:
        """Add a finding: the message names an actuator that no description has."""
        machines = self._machines.get(_prefix(message), _NO_MACHINES)
        if machines.complete:
            names = {name for description in machines.known(context.now) for name in description.actuators}
            found.add(rule, "actuator_id", f"no actuator that is described: {listed(sorted(names))}")

    def _none_of(
        self, rule: Rule, message: S2Message, member: str, names: Iterable[str], what: str, found: Findings
    ) -> None:
        """Add a finding: the message names an object that no description of its actuator has."""
        if self._machines.get(_prefix(message), _NO_MACHINES).complete:
            found.add(rule, member, f"no {what} that is described: {listed(sorted(set(names))) or 'none'}")

    def _check_described(
        self,
        message: Status | _TimerStatus,
        member: str,
        what: Literal["modes", "timers"],
        found: Findings,
        context: _Context,
    ) -> None:
        """Check that a mode or timer of a message is one that a description of its actuator has."""
        if not self._is_described(message, found, context):
            return
        actuators = self._actuators(message, _actuator_id(message), context)
        names = set(itertools.chain(*(getattr(actuator, what) for actuator in actuators)))
        if not actuators:
            self._no_actuator(rules.STATUS_OF_KNOWN, message, found, context)
        elif getattr(message, member) not in names:
            word = "operation mode" if what == "modes" else "timer"
            self._none_of(rules.STATUS_OF_KNOWN, message, member, names, word, found)

    def _check_status(self, message: Status, found: Findings, context: _Context) -> None:
        self._check_described(message, "active_operation_mode_id", "modes", found, context)

    def _check_timer(self, message: _TimerStatus, found: Findings, context: _Context) -> None:
        self._check_described(message, "timer_id", "timers", found, context)

    def _accept_status(self, message: Status, _: _Context) -> None:
        machines = self._machines.setdefault(_prefix(message), Machines())
        machines.active.put(_actuator_id(message), message.active_operation_mode_id)

    def _accept_timer(self, message: _TimerStatus, _: _Context) -> None:
        machines = self._machines.setdefault(_prefix(message), Machines())
        machines.finished.put((_actuator_id(message), message.timer_id), message.finished_at)

    def _check_announced(self, message: _Announced, found: Findings, context: _Context) -> None:
        if not self._is_described(message, found, context):
            return
        known = self._machines[_prefix(message)].known(context.now)
        if not any(message.message_type in description.forecasts for description in known):
            found.add(rules.FORECAST, "", "the system description announces none")

    def _check_fill_level(self, message: frbc.StorageStatus, found: Findings, context: _Context) -> None:
        if not self._is_described(message, found, context):
            return
        level = message.present_fill_level
        for description in self._machines["FRBC"].known(context.now):
            storage = description.fill_level_range
            if storage is None or storage.start_of_range <= level <= storage.end_of_range:
                return
        found.add(rules.FILL_LEVEL, "present_fill_level", "outside of the storage's range of the fill level")

    # Instructions

    def _check_new_instruction(self, message: _AnyInstruction, found: Findings) -> None:
        known = self._instructions.get(message.id)
        if known is not None and known.message_id != message.message_id:
            found.add(rules.INSTRUCTION_ID_ONCE, "id", "an earlier instruction has it")

    def _accept_new_instruction(self, message: _AnyInstruction, _: _Context) -> None:
        self._instructions.put(message.id, _Instructed(message.message_id, None))
        self._instruction_messages.put(message.message_id, message.id)

    def _check_instruction(self, message: Instruction, found: Findings, context: _Context) -> None:
        self._check_new_instruction(message, found)
        machines = self._machines.get(_prefix(message), _NO_MACHINES)
        if not machines.known(context.now):
            found.add(rules.INSTRUCTED_KNOWN, "", "no system description is in force")
            return
        actuator_id, (member, mode) = _actuator_id(message), _instructed_mode(message)
        actuators = self._actuators(message, actuator_id, context)
        if not actuators:
            self._no_actuator(rules.INSTRUCTED_KNOWN, message, found, context)
            return
        actuator = next((known for known in actuators if mode in known.modes), None)
        if actuator is None:
            modes = itertools.chain(*(known.modes for known in actuators))
            self._none_of(rules.INSTRUCTED_KNOWN, message, member, modes, "operation mode", found)
            return
        if actuator.modes[mode] and not message.abnormal_condition:
            found.add(rules.ABNORMAL, member, "only for abnormal conditions, which the instruction does not declare")
            return
        _check_way(machines, actuator, actuator_id, mode, message, found, context)

    def _accept_instruction(self, message: Instruction, context: _Context) -> None:
        self._accept_new_instruction(message, context)
        machines = self._machines.setdefault(_prefix(message), Machines())
        machines.instructed.put(_actuator_id(message), _instructed_mode(message)[1])

    def _check_instruction_status(self, message: general.InstructionStatusUpdate, found: Findings, _: _Context) -> None:
        self._check_selected(found)
        known = self._instructions.get(message.instruction_id)
        if known is None:
            identifier = self._instruction_messages.get(message.instruction_id)
            if identifier is not None:
                found.add(rules.NOT_MESSAGE_ID, "instruction_id", "names the message, and not the instruction in it")
                known = self._instructions.get(identifier)
            elif self._instructions.never_had(message.instruction_id):
                found.add(rules.INSTRUCTION_KNOWN, "instruction_id", "no instruction that was sent in this session")
        if known is None or known.status is None or known.status is message.status_type:
            return
        if known.status in _FINAL or _RANK[message.status_type] < _RANK[known.status]:
            found.add(rules.STATUS_FORWARD, "status_type", "comes before what was said of the instruction already")

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
            found.add(rules.OWN, "object_type", "of a kind that the other side sends")
        if kind.endswith("SystemDescription"):
            machines = self._machines.get(kind[:4], _NO_MACHINES)
            if not any(name == description.message_id for description in machines.known(None)):
                found.add(rules.DESCRIPTION_KNOWN, "object_id", "not the message of a system description in force")
            return
        if is_instruction:
            if name not in self._instructions and name in self._instruction_messages:
                found.add(rules.NOT_MESSAGE_ID, "object_id", "names the message, and not the instruction in it")
            name = self._instruction_of(name)
            if self._revoked.get(name) not in (None, message.message_id):
                found.add(rules.REVOKED_KNOWN, "object_id", "was revoked before")
            unknown = self._instructions.never_had(name)
        else:
            unknown = self._objects(kind).never_had(name)
        if unknown and name not in self._ended:
            found.add(rules.REVOKED_KNOWN, "object_id", "nothing of this kind that was sent and not yet revoked")

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
            found.add(rules.OBJECT_ID_ONCE, "id", "something that was sent earlier has it")

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
                found.add(rules.CONSTRAINTS_KNOWN, "power_constraints_id", "not sent, or revoked since")
            return
        late = known.valid_until is not None and message.execution_time >= known.valid_until
        if late or (context.now is not None and max(message.execution_time, context.now) < known.valid_from):
            found.add(rules.CONSTRAINTS_VALID, "execution_time", "the power constraints are not valid then")
        for index, envelope in enumerate(message.power_envelopes):
            _check_envelope(known, envelope, message.abnormal_condition, found, f"power_envelopes[{index}]")

    # Power profiles

    def _accept_profile(self, message: ppbc.PowerProfileDefinition, _: _Context) -> None:
        self._used.put(message.id, message.message_id)
        self._profiles.put(message.id, profile(message))

    def _check_ppbc_instruction(self, message: ppbc.SequenceInstruction, found: Findings, context: _Context) -> None:
        self._check_new_instruction(message, found)
        known = self._profiles.get(message.power_profile_id)
        if known is None:
            if self._profiles.never_had(message.power_profile_id):
                found.add(rules.SEQUENCE_KNOWN, "power_profile_id", "not sent, or revoked since")
            return
        container = known.containers.get(message.sequence_container_id)
        if container is None:
            detail = f"not in the power profile: {listed(known.containers)}"
            found.add(rules.SEQUENCE_KNOWN, "sequence_container_id", detail)
            return
        sequence = container.get(message.power_sequence_id)
        if sequence is None:
            detail = f"not in the sequence container: {listed(container)}"
            found.add(rules.SEQUENCE_KNOWN, "power_sequence_id", detail)
            return
        if sequence.abnormal_only and not message.abnormal_condition:
            detail = "only for abnormal conditions, which the instruction does not declare"
            found.add(rules.ABNORMAL, "power_sequence_id", detail)
        if isinstance(message, ppbc.ScheduleInstruction):
            _check_schedule(known, sequence, message.execution_time, found, context)
        elif not sequence.interruptible:
            found.add(rules.INTERRUPTIBLE, "power_sequence_id", "cannot be interrupted")

    def _check_profile_status(self, message: ppbc.PowerProfileStatus, found: Findings, _: _Context) -> None:
        for index, status in enumerate(message.sequence_container_status):
            place = f"sequence_container_status[{index}]"
            known = self._profiles.get(status.power_profile_id)
            if known is None:
                if self._profiles.never_had(status.power_profile_id):
                    found.add(rules.PROFILE_KNOWN, f"{place}.power_profile_id", "not sent, or revoked since")
                continue
            container = known.containers.get(status.sequence_container_id)
            if container is None:
                detail = f"not in the power profile: {listed(known.containers)}"
                found.add(rules.STATUS_OF_KNOWN, f"{place}.sequence_container_id", detail)
            elif status.selected_sequence_id is not None and status.selected_sequence_id not in container:
                detail = f"not in the sequence container: {listed(container)}"
                found.add(rules.STATUS_OF_KNOWN, f"{place}.selected_sequence_id", detail)


_NO_MACHINES: Final = Machines()

_LIMITS: Final = (
    (pebc.PowerEnvelopeLimitType.UPPER_LIMIT, "upper_limit"),
    (pebc.PowerEnvelopeLimitType.LOWER_LIMIT, "lower_limit"),
)


def _prefix(message: S2Message) -> str:
    return message.message_type[:4]


def _actuator_id(message: Any) -> str:
    return getattr(message, "actuator_id", ONLY_ACTUATOR)


def _instructed_mode(message: Instruction) -> tuple[str, str]:
    """Return the member that names the mode, and the mode."""
    if isinstance(message, frbc.Instruction):
        return "operation_mode", message.operation_mode
    return "operation_mode_id", message.operation_mode_id


def _check_way(
    machines: Machines,
    actuator: Actuator,
    actuator_id: str,
    mode: str,
    message: Instruction,
    found: Findings,
    context: _Context,
) -> None:
    """Check for a transition to the instructed mode from the active one, or from the one instructed last."""
    places = (machines.active.get(actuator_id), machines.instructed.get(actuator_id))
    starts = {place for place in places if place in actuator.modes and place is not None}
    if mode in starts or not starts:
        return
    ways = [way for start in starts for way in actuator.ways.get((start, mode), ())]
    member = _instructed_mode(message)[0]
    if ways and not message.abnormal_condition:
        ways = [way for way in ways if not way.abnormal_only]
        if not ways:
            detail = "every transition there is only for abnormal conditions, which the instruction does not declare"
            found.add(rules.ABNORMAL, member, detail)
            return
    if not ways:
        found.add(rules.TRANSITION, member, "no transition leads there from the active operation mode")
        return
    moment = message.execution_time if context.now is None else max(message.execution_time, context.now)

    def blocked(timer: str) -> bool:
        finished = machines.finished.get((actuator_id, timer))
        return finished is not None and finished > moment

    if all(any(map(blocked, way.blocking_timers)) for way in ways):
        found.add(rules.BLOCKED, member, "a timer that is not finished blocks the transition")


def _check_envelope(
    known: Constraints, envelope: pebc.PowerEnvelope, abnormal_condition: bool, found: Findings, path: str
) -> None:
    """Check that the limits of an envelope are in the allowed ranges."""
    of_quantity = {name: known.allowed.get((envelope.commodity_quantity, kind)) for kind, name in _LIMITS}
    if not any(of_quantity.values()):
        found.add(rules.LIMITS, path, "the power constraints have no limits for this quantity")
        return
    for name, allowed in of_quantity.items():
        if not allowed:
            continue
        usable = [(start, end) for start, end, abnormal in allowed if abnormal_condition or not abnormal]
        for index, element in enumerate(envelope.power_envelope_elements):
            value: float = getattr(element, name)
            slack = TOLERANCE * max(1.0, abs(value))
            if not any(start - slack <= value <= end + slack for start, end in usable):
                place = f"{path}.power_envelope_elements[{index}].{name}"
                found.add(rules.LIMITS, place, "not in a range that the power constraints allow")
                break


def _check_schedule(
    known: Profile, sequence: SequenceFacts, execution_time: datetime, found: Findings, context: _Context
) -> None:
    start = execution_time if context.now is None else max(execution_time, context.now)
    early = context.now is not None and start < known.start_time
    if early or milliseconds(start, known.end_time) < sequence.duration:
        found.add(rules.SCHEDULED, "execution_time", "the power sequence would start too early or end too late")


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
