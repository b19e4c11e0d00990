"""Rules about the meaning of S2 JSON messages, which the standard states and no schema checks, and findings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from s2connect.messages.labels import place, shown
from s2connect.messages.schema import SchemaReading

MAX_LABEL_LENGTH: Final = 200
"""Characters of a label, which goes into ``diagnostic_label``."""

MAX_FINDINGS_PER_RULE: Final = 10
"""Places in one message that are named for one rule; the rest of them is passed over in silence."""


class Severity(StrEnum):
    """Consequence of a broken rule."""

    ERROR = "error"
    """The message is refused: the standard says "must" or "shall", or nobody could do what the message asks for."""
    WARNING = "warning"
    """The message is taken; somebody should look at it."""


class Rule(NamedTuple):
    """A requirement of the standard on messages that no schema checks.

    Attributes:
        id: Number of the rule, such as ``FRBC-03``. Numbers are never given anew.
        severity: Consequence of a violation.
        applies_to: Which messages or objects it is about.
        sentence: What it says.
    """

    id: str
    severity: Severity
    applies_to: str
    sentence: str


_TEXT: Final = """
COM-01 | warning | all messages | An identifier has 2 to 64 characters, which are letters, digits, '-', '_' or ':'.
COM-02 | error | actuators, operation modes, transitions, timers, power envelopes, sequence containers, power
    sequences | An identifier stands for one object only of those that it is listed with.
COM-03 | error | transitions | The operation modes and timers that a transition names are defined beside it.
COM-04 | error | OMBC.Instruction, FRBC.Instruction, DDBC.Instruction | The operation mode factor of an instruction is
    from 0 to 1.
COM-05 | warning | OMBC.Status, FRBC.ActuatorStatus, DDBC.ActuatorStatus | The operation mode factor of a status is
    from 0 to 1.
COM-06 | error | power ranges, forecast values, measured values | A list of powers has one entry at most for each
    commodity quantity.
COM-07 | warning | power ranges, forecast values, measured values, limits | Electric power is reported either for three
    phases together or for single phases, not both at once.
COM-08 | warning | power ranges, forecast values, measured values, limits, announced measurements | A device on one
    phase calls it L1.
COM-09 | warning | PowerForecast, PPBC.PowerProfileDefinition, FRBC.UsageForecast, DDBC.AverageDemandRateForecast |
    The bounds of a forecast do not descend: lower limit, lower 95 %, lower 68 %, expected, upper 68 %, upper 95 %,
    upper limit. (Read by value: for production the lower limit is the most negative.)
COM-10 | warning | elements of forecasts, profiles and power envelopes | An element of a profile lasts longer than no
    time.
COM-11 | warning | operation modes | The range of the running costs does not start above its end.
COM-12 | warning | OMBC.Status, FRBC.ActuatorStatus, DDBC.ActuatorStatus | The previous operation mode and the time of
    the transition come together, or both are missing.
COM-13 | warning | transitions | A transition to an operation mode for abnormal conditions is for abnormal conditions
    only as well.
COM-14 | warning | operation modes | At least one operation mode is for other than abnormal conditions.
COM-15 | warning | FRBC.SystemDescription, DDBC.SystemDescription | The powers of an actuator are of commodities that
    it supports.
COM-16 | warning | lists of control types, measurements and commodities | A list of kinds names each kind once.
COM-17 | warning | ResourceManagerDetails | The device has one role for each commodity.
COM-18 | warning | ResourceManagerDetails | NO_SELECTION says that nothing is selected; it is no control type that a
    device offers.
COM-19 | error | Handshake | The handshake of a device says which versions of the protocol it supports.
PEBC-01 | error | PEBC.PowerConstraints | There is at least one range for the upper limit, and one for the lower
    limit.
PEBC-02 | warning | PEBC.PowerConstraints | A quantity that has a range for one limit has one for the other limit too,
    as a power envelope always sets both.
PEBC-03 | warning | PEBC.PowerConstraints | The range for a limit does not start above its end.
PEBC-04 | error | PEBC.PowerConstraints, PEBC.EnergyConstraint | What is valid for a time does not end to be so before
    it began.
PEBC-05 | error | PEBC.EnergyConstraint | The upper average power is not below the lower average power.
PEBC-06 | error | PEBC.Instruction | An instruction has one power envelope at most for each commodity quantity.
PEBC-07 | error | PEBC.Instruction | The lower limit of a power envelope is not above its upper limit.
PEBC-08 | warning | PEBC.PowerConstraints, PEBC.EnergyConstraint | What is valid for a time is so for longer than no
    time.
PPBC-01 | error | PPBC.PowerProfileDefinition | A power profile ends after it can start.
PPBC-02 | warning | PPBC.PowerProfileDefinition | The shortest power sequences of all containers fit between the start
    and the end of the profile.
PPBC-03 | warning | PPBC.PowerProfileStatus | The progress is reported from the start of the selected power sequence on,
    and not before.
PPBC-04 | warning | PPBC.PowerProfileStatus | The selected power sequence is reported where one is scheduled, and only
    there.
PPBC-05 | warning | PPBC.PowerProfileStatus | A sequence container has one status.
FRBC-01 | error | FRBC.SystemDescription | The range of the fill level of an element of an operation mode starts below
    its end.
FRBC-02 | error | FRBC.SystemDescription | The ranges of the fill level of the elements of an operation mode adjoin:
    no gap, and no overlap.
FRBC-03 | warning | FRBC.SystemDescription | The elements of an operation mode cover the range of the fill level of
    the storage.
FRBC-04 | error | FRBC.SystemDescription | The range of the fill level of the storage does not start above its end.
FRBC-05 | error | FRBC.LeakageBehaviour | The range of the fill level of an element starts below its end.
FRBC-06 | error | FRBC.LeakageBehaviour | The ranges of the fill level of the elements adjoin: no gap, and no overlap.
FRBC-07 | error | FRBC.FillLevelTargetProfile | The range of the fill level that is aimed for does not start above its
    end.
DDBC-01 | warning | DDBC.SystemDescription | An actuator has at least one transition.
DDBC-02 | warning | DDBC.PresentDemandStatus, DDBC.SystemDescription of 0.0.2-beta | The range of the present demand
    does not start above its end.
HIST-01 | warning | all messages but ReceptionStatus | A sender uses the identifier of a message once.
HIST-02 | warning | SelectControlType | The device sends its details before its control type is selected.
HIST-03 | error | SelectControlType | The control type is one of those that the device offers, or NO_SELECTION.
HIST-04 | error | all instructions | No two instructions of a session have the same identifier.
HIST-05 | warning | PEBC.PowerConstraints, PEBC.EnergyConstraint, PPBC.PowerProfileDefinition | An identifier stands
    for one object only of those that the device sends in a session.
HIST-06 | error | OMBC.Instruction, FRBC.Instruction, DDBC.Instruction | An instruction names an actuator and an
    operation mode of a system description in force or to come.
HIST-07 | warning | statuses and forecasts of OMBC, FRBC and DDBC | What refers to a system description comes after
    it.
HIST-08 | error | statuses of OMBC, PPBC, FRBC and DDBC | A status names an actuator, operation mode, timer, sequence
    container or power sequence that the device has described.
HIST-09 | error | OMBC.Instruction, FRBC.Instruction, DDBC.Instruction, instructions of PPBC | What is for abnormal
    conditions only, an operation mode, the only transitions to it, or a power sequence, is instructed only with
    abnormal_condition.
HIST-10 | warning | OMBC.Instruction, FRBC.Instruction, DDBC.Instruction | A transition leads from the active
    operation mode, or the one instructed last, to the one that is instructed.
HIST-11 | warning | OMBC.Instruction, FRBC.Instruction, DDBC.Instruction | At the time of execution no timer blocks
    the transition to the operation mode.
HIST-12 | error | PEBC.Instruction | The power constraints that an instruction names were sent and not revoked.
HIST-13 | error | PEBC.Instruction | The limits of a power envelope are in the ranges that its power constraints
    allow; in those for abnormal conditions only with abnormal_condition.
HIST-14 | warning | PEBC.Instruction | An instruction is executed while its power constraints are valid.
HIST-15 | error | instructions of PPBC | The power profile that an instruction names was sent and not revoked, and has
    the container and the sequence.
HIST-16 | error | PPBC.StartInterruptionInstruction, PPBC.EndInterruptionInstruction | A power sequence is interrupted
    only if it can be.
HIST-17 | warning | PPBC.ScheduleInstruction | A power sequence is scheduled between the start and the end of its
    power profile.
HIST-18 | warning | InstructionStatusUpdate | The instruction was sent in this session. (It may have been in the one
    before.)
HIST-19 | warning | InstructionStatusUpdate, RevokeObject | An instruction is named by its own identifier, and not by
    that of the message it came in.
HIST-20 | warning | InstructionStatusUpdate | The status of an instruction goes from NEW over ACCEPTED and STARTED to
    one at which it ends.
HIST-21 | error | RevokeObject | What is revoked was sent and not revoked before.
HIST-22 | warning | RevokeObject | A system description, which has no identifier of its own, is revoked by that of its
    message.
HIST-23 | warning | RevokeObject | A side revokes what it has sent itself.
HIST-24 | error | OMBC.SystemDescription, FRBC.SystemDescription, DDBC.SystemDescription | The details of a device
    that tells costs other than 0 name their currency.
HIST-25 | warning | PowerMeasurement | The device measures what it has announced to measure.
HIST-26 | warning | PowerForecast, FRBC.LeakageBehaviour, FRBC.FillLevelTargetProfile, FRBC.UsageForecast,
    DDBC.AverageDemandRateForecast | The device provides what it has announced to provide.
HIST-27 | warning | FRBC.StorageStatus | The fill level is in the range of the storage.
HIST-28 | warning | PPBC.PowerProfileStatus | The power profile that a status names was sent in this session and not
    revoked. (It may be of the one before.)
HIST-29 | warning | InstructionStatusUpdate, RevokeObject | What is about a control type is sent while one is
    selected. (It may be on its way when that ends.)
READ-01 | warning | members that may be missing, in 0.0.2-beta | A member without a value is left out. (null is read
    as that; in v1.0.0 it is refused.)
READ-02 | warning | times | A time has at most nine digits of a second, and no second 60. (Further digits are cut off,
    and second 60 is read as the beginning of the next minute.)
"""


def _rules() -> dict[str, Rule]:
    entries = (" ".join(entry.split()).split(" | ") for entry in re.split(r"\n(?=\w)", _TEXT.strip()))
    return {number: Rule(number, Severity(severity), kinds, text) for number, severity, kinds, text in entries}


RULES: Final[Mapping[str, Rule]] = MappingProxyType(_rules())
"""All rules, by their number."""

_STEP: Final = re.compile(r"\[\d+\]|[^.\[\]]+")


class Finding(NamedTuple):
    """A rule that a message breaks, and where.

    Attributes:
        rule: The rule.
        path: Where in the message, such as ``actuators[0].operation_modes[1]``; empty for the message as a whole.
        detail: What is wrong there, and what is allowed.
    """

    rule: Rule
    path: str
    detail: str

    @property
    def label(self) -> str:
        """Number, place and what is wrong, on one line of at most ``MAX_LABEL_LENGTH`` characters."""
        return self._label("")

    def _label(self, value: str) -> str:
        place = f"{self.path}: {value}" if self.path else ""
        label = f"{self.rule.id}: {place}{self.detail}"
        return label if len(label) <= MAX_LABEL_LENGTH else f"{label[: MAX_LABEL_LENGTH - 1]}…"


def with_value(finding: Finding, body: Any) -> str:
    """Return the label of a finding, with the value at its place, cut and fit for a terminal, unless it is an object.

    Args:
        finding: What was found.
        body: The message as JSON value.
    """
    value = body
    for step in _STEP.findall(finding.path):
        index = step[1:-1] if step.startswith("[") else step
        try:
            value = value[int(index) if isinstance(value, list) else index]
        except (KeyError, IndexError, ValueError, TypeError):
            return finding.label
    return finding.label if isinstance(value, dict | list) else finding._label(f"{shown(value)}, ")


class Findings(list[Finding]):
    """Findings about one message: of each rule the first ``MAX_FINDINGS_PER_RULE`` places.

    Attributes:
        odd_ids: Identifiers in the message that are none as the standard has them, while their places are looked for.
        odd_places: How many places were found.
    """

    odd_ids: frozenset[str] = frozenset()
    odd_places = 0
    _count: dict[str, int] | None = None

    def add(self, rule: str, detail: str, *path: str | int) -> None:
        """Note that a rule is broken.

        Args:
            rule: Its number.
            detail: What is wrong.
            path: Where: names of members and indexes from the message on, which are put together only here.
        """
        count = self._count
        if count is None:
            count = self._count = {}
        count[rule] = count.get(rule, 0) + 1
        if count[rule] <= MAX_FINDINGS_PER_RULE:
            self.append(Finding(RULES[rule], place(path), detail))


def tolerated(reading: SchemaReading) -> tuple[Finding, ...]:
    """Return the findings about what a reading tolerated."""
    found = Findings()
    for path, moment in reading.tolerated:
        found.add(
            "READ-02" if moment else "READ-01", f"read as {moment}" if moment else "null is read as missing", path
        )
    return tuple(found)
