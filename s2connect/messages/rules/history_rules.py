"""The rules that need what was said before in the session."""

from __future__ import annotations

from typing import Final

from s2connect.messages.rules.base import error, warning

_INSTRUCTIONS: Final = "OMBC.Instruction, FRBC.Instruction, DDBC.Instruction"

MESSAGE_ID_ONCE: Final = warning(
    "HIST-01", "all messages but ReceptionStatus", "A sender uses the identifier of a message once."
)
DETAILS_FIRST: Final = warning(
    "HIST-02", "SelectControlType", "The device sends its details before its control type is selected."
)
AVAILABLE: Final = error(
    "HIST-03", "SelectControlType", "The control type is one of those that the device offers, or NO_SELECTION."
)
INSTRUCTION_ID_ONCE: Final = error(
    "HIST-04", "all instructions", "No two instructions of a session have the same identifier."
)
OBJECT_ID_ONCE: Final = warning(
    "HIST-05",
    "PEBC.PowerConstraints, PEBC.EnergyConstraint, PPBC.PowerProfileDefinition",
    "An identifier stands for one object only of those that the device sends in a session.",
)
INSTRUCTED_KNOWN: Final = error(
    "HIST-06",
    _INSTRUCTIONS,
    "An instruction names an actuator and an operation mode of a system description in force or to come.",
)
DESCRIPTION_FIRST: Final = warning(
    "HIST-07", "statuses and forecasts of OMBC, FRBC and DDBC", "What refers to a system description comes after it."
)
STATUS_OF_KNOWN: Final = error(
    "HIST-08",
    "statuses of OMBC, PPBC, FRBC and DDBC",
    "A status names an actuator, operation mode, timer, sequence container or power sequence that the device has "
    "described.",
)
ABNORMAL: Final = error(
    "HIST-09",
    f"{_INSTRUCTIONS}, instructions of PPBC",
    "What is for abnormal conditions only, an operation mode, the only transitions to it, or a power sequence, is "
    "instructed only with abnormal_condition.",
)
TRANSITION: Final = warning(
    "HIST-10",
    _INSTRUCTIONS,
    "A transition leads from the active operation mode, or the one instructed last, to the one that is instructed.",
)
BLOCKED: Final = warning(
    "HIST-11", _INSTRUCTIONS, "At the time of execution no timer blocks the transition to the operation mode."
)
CONSTRAINTS_KNOWN: Final = error(
    "HIST-12", "PEBC.Instruction", "The power constraints that an instruction names were sent and not revoked."
)
LIMITS: Final = error(
    "HIST-13",
    "PEBC.Instruction",
    "The limits of a power envelope are in the ranges that its power constraints allow; in those for abnormal "
    "conditions only with abnormal_condition.",
)
CONSTRAINTS_VALID: Final = warning(
    "HIST-14", "PEBC.Instruction", "An instruction is executed while its power constraints are valid."
)
SEQUENCE_KNOWN: Final = error(
    "HIST-15",
    "instructions of PPBC",
    "The power profile that an instruction names was sent and not revoked, and has the container and the sequence.",
)
INTERRUPTIBLE: Final = error(
    "HIST-16",
    "PPBC.StartInterruptionInstruction, PPBC.EndInterruptionInstruction",
    "A power sequence is interrupted only if it can be.",
)
SCHEDULED: Final = warning(
    "HIST-17",
    "PPBC.ScheduleInstruction",
    "A power sequence is scheduled between the start and the end of its power profile.",
)
INSTRUCTION_KNOWN: Final = warning(
    "HIST-18",
    "InstructionStatusUpdate",
    "The instruction was sent in this session. (It may have been in the one before.)",
)
NOT_MESSAGE_ID: Final = warning(
    "HIST-19",
    "InstructionStatusUpdate, RevokeObject",
    "An instruction is named by its own identifier, and not by that of the message it came in.",
)
STATUS_FORWARD: Final = warning(
    "HIST-20",
    "InstructionStatusUpdate",
    "The status of an instruction goes from NEW over ACCEPTED and STARTED to one at which it ends.",
)
REVOKED_KNOWN: Final = error("HIST-21", "RevokeObject", "What is revoked was sent and not revoked before.")
DESCRIPTION_KNOWN: Final = warning(
    "HIST-22",
    "RevokeObject",
    "A system description, which has no identifier of its own, is revoked by that of its message.",
)
OWN: Final = warning("HIST-23", "RevokeObject", "A side revokes what it has sent itself.")
CURRENCY: Final = error(
    "HIST-24",
    "OMBC.SystemDescription, FRBC.SystemDescription, DDBC.SystemDescription",
    "The details of a device that tells costs other than 0 name their currency.",
)
MEASURED: Final = warning("HIST-25", "PowerMeasurement", "The device measures what it has announced to measure.")
FORECAST: Final = warning(
    "HIST-26",
    "PowerForecast, FRBC.LeakageBehaviour, FRBC.FillLevelTargetProfile, FRBC.UsageForecast, "
    "DDBC.AverageDemandRateForecast",
    "The device provides what it has announced to provide.",
)
FILL_LEVEL: Final = warning("HIST-27", "FRBC.StorageStatus", "The fill level is in the range of the storage.")
PROFILE_KNOWN: Final = warning(
    "HIST-28",
    "PPBC.PowerProfileStatus",
    "The power profile that a status names was sent in this session and not revoked. (It may be of the one before.)",
)
AFTERWARDS: Final = warning(
    "HIST-29",
    "InstructionStatusUpdate, RevokeObject",
    "What is about a control type is sent while one is selected. (It may be on its way when that ends.)",
)
