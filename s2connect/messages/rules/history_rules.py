"""The rules that need what was said before in the session."""

from __future__ import annotations

from typing import Final

from s2connect.messages.rules.base import Rule, Severity

_INSTRUCTIONS: Final = "OMBC.Instruction, FRBC.Instruction, DDBC.Instruction"
_ERROR: Final = Severity.ERROR
_WARNING: Final = Severity.WARNING

MESSAGE_ID_ONCE: Final = Rule(
    "HIST-01", _WARNING, "all messages but ReceptionStatus", "A sender uses the identifier of a message once."
)
DETAILS_FIRST: Final = Rule(
    "HIST-02", _WARNING, "SelectControlType", "The device sends its details before its control type is selected."
)
AVAILABLE: Final = Rule(
    "HIST-03", _ERROR, "SelectControlType", "The control type is one of those that the device offers, or NO_SELECTION."
)
INSTRUCTION_ID_ONCE: Final = Rule(
    "HIST-04", _ERROR, "all instructions", "No two instructions of a session have the same identifier."
)
OBJECT_ID_ONCE: Final = Rule(
    "HIST-05",
    _WARNING,
    "PEBC.PowerConstraints, PEBC.EnergyConstraint, PPBC.PowerProfileDefinition",
    "An identifier stands for one object only of those that the device sends in a session.",
)
INSTRUCTED_KNOWN: Final = Rule(
    "HIST-06",
    _ERROR,
    _INSTRUCTIONS,
    "An instruction names an actuator and an operation mode of a system description in force or to come.",
)
DESCRIPTION_FIRST: Final = Rule(
    "HIST-07",
    _WARNING,
    "statuses and forecasts of OMBC, FRBC and DDBC",
    "What refers to a system description comes after it.",
)
STATUS_OF_KNOWN: Final = Rule(
    "HIST-08",
    _ERROR,
    "statuses of OMBC, PPBC, FRBC and DDBC",
    "A status names an actuator, operation mode, timer, sequence container or power sequence that the device has "
    "described.",
)
ABNORMAL: Final = Rule(
    "HIST-09",
    _ERROR,
    f"{_INSTRUCTIONS}, instructions of PPBC",
    "What is for abnormal conditions only, an operation mode, the only transitions to it, or a power sequence, is "
    "instructed only with abnormal_condition.",
)
TRANSITION: Final = Rule(
    "HIST-10",
    _WARNING,
    _INSTRUCTIONS,
    "A transition leads from the active operation mode, or the one instructed last, to the one that is instructed.",
)
BLOCKED: Final = Rule(
    "HIST-11",
    _WARNING,
    _INSTRUCTIONS,
    "At the time of execution no timer blocks the transition to the operation mode.",
)
CONSTRAINTS_KNOWN: Final = Rule(
    "HIST-12", _ERROR, "PEBC.Instruction", "The power constraints that an instruction names were sent and not revoked."
)
LIMITS: Final = Rule(
    "HIST-13",
    _ERROR,
    "PEBC.Instruction",
    "The limits of a power envelope are in the ranges that its power constraints allow; in those for abnormal "
    "conditions only with abnormal_condition.",
)
CONSTRAINTS_VALID: Final = Rule(
    "HIST-14",
    _WARNING,
    "PEBC.Instruction",
    "An instruction is executed while its power constraints are valid.",
)
SEQUENCE_KNOWN: Final = Rule(
    "HIST-15",
    _ERROR,
    "instructions of PPBC",
    "The power profile that an instruction names was sent and not revoked, and has the container and the sequence.",
)
INTERRUPTIBLE: Final = Rule(
    "HIST-16",
    _ERROR,
    "PPBC.StartInterruptionInstruction, PPBC.EndInterruptionInstruction",
    "A power sequence is interrupted only if it can be.",
)
SCHEDULED: Final = Rule(
    "HIST-17",
    _WARNING,
    "PPBC.ScheduleInstruction",
    "A power sequence is scheduled between the start and the end of its power profile.",
)
INSTRUCTION_KNOWN: Final = Rule(
    "HIST-18",
    _WARNING,
    "InstructionStatusUpdate",
    "The instruction was sent in this session. (It may have been in the one before.)",
)
NOT_MESSAGE_ID: Final = Rule(
    "HIST-19",
    _WARNING,
    "InstructionStatusUpdate, RevokeObject",
    "An instruction is named by its own identifier, and not by that of the message it came in.",
)
STATUS_FORWARD: Final = Rule(
    "HIST-20",
    _WARNING,
    "InstructionStatusUpdate",
    "The status of an instruction goes from NEW over ACCEPTED and STARTED to one at which it ends.",
)
REVOKED_KNOWN: Final = Rule("HIST-21", _ERROR, "RevokeObject", "What is revoked was sent and not revoked before.")
DESCRIPTION_KNOWN: Final = Rule(
    "HIST-22",
    _WARNING,
    "RevokeObject",
    "A system description, which has no identifier of its own, is revoked by that of its message.",
)
OWN: Final = Rule("HIST-23", _WARNING, "RevokeObject", "A side revokes what it has sent itself.")
CURRENCY: Final = Rule(
    "HIST-24",
    _ERROR,
    "OMBC.SystemDescription, FRBC.SystemDescription, DDBC.SystemDescription",
    "The details of a device that tells costs other than 0 name their currency.",
)
MEASURED: Final = Rule("HIST-25", _WARNING, "PowerMeasurement", "The device measures what it has announced to measure.")
FORECAST: Final = Rule(
    "HIST-26",
    _WARNING,
    "PowerForecast, FRBC.LeakageBehaviour, FRBC.FillLevelTargetProfile, FRBC.UsageForecast, "
    "DDBC.AverageDemandRateForecast",
    "The device provides what it has announced to provide.",
)
FILL_LEVEL: Final = Rule("HIST-27", _WARNING, "FRBC.StorageStatus", "The fill level is in the range of the storage.")
PROFILE_KNOWN: Final = Rule(
    "HIST-28",
    _WARNING,
    "PPBC.PowerProfileStatus",
    "The power profile that a status names was sent in this session and not revoked. (It may be of the one before.)",
)
AFTERWARDS: Final = Rule(
    "HIST-29",
    _WARNING,
    "InstructionStatusUpdate, RevokeObject",
    "What is about a control type is sent while one is selected. (It may be on its way when that ends.)",
)
