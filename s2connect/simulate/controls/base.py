"""Base of the control types: instructions are accepted, wait for their time and begin, with a status at each step."""

from __future__ import annotations

import abc
import heapq
from datetime import datetime
from typing import ClassVar, Final, Protocol

from s2connect.messages import IdentifiedMessage, S2Message, ddbc, frbc, ombc, pebc, ppbc
from s2connect.messages.general import ControlType, InstructionStatus, InstructionStatusUpdate, RevokeObject

Instruction = (
    frbc.Instruction
    | ombc.Instruction
    | ddbc.Instruction
    | pebc.Instruction
    | ppbc.ScheduleInstruction
    | ppbc.StartInterruptionInstruction
    | ppbc.EndInterruptionInstruction
)
"""An instruction of any control type."""

MAX_WAITING: Final = 16
"""Instructions that may wait for their time of execution."""


class Notebook(Protocol):
    """Interface that takes notes for display."""

    def note(self, text: str) -> None:
        """Add a note."""


def status_update(instruction_id: str, status: InstructionStatus, now: datetime) -> InstructionStatusUpdate:
    """Return the status of an instruction."""
    return InstructionStatusUpdate(instruction_id=instruction_id, status_type=status, timestamp=now)


class Control(abc.ABC):
    """Base of the control types of one device, from the selection to the next. Simulated time comes as argument."""

    control_type: ClassVar[ControlType]
    instructions: ClassVar[tuple[type[IdentifiedMessage], ...]]

    def __init__(self, notebook: Notebook) -> None:
        self._notebook = notebook
        self._waiting: list[tuple[datetime, int, Instruction]] = []
        self._order = 0

    @abc.abstractmethod
    def start(self, now: datetime) -> list[S2Message]:
        """Start after the selection. Returns the messages to the energy manager."""

    @abc.abstractmethod
    def objection(self, instruction: Instruction, now: datetime) -> str | None:
        """Return why an instruction is refused, as a sentence for the device's user; None if it is accepted."""

    @abc.abstractmethod
    def begin(self, instruction: Instruction, now: datetime) -> list[S2Message]:
        """Execute an instruction. Returns its status updates and other messages."""

    @abc.abstractmethod
    def tick(self, now: datetime) -> list[S2Message]:
        """Update to the time ``now``. Returns the messages that are due."""

    def stop(self) -> None:
        """Stop, because another control type is selected or the session has ended."""
        self._waiting.clear()

    @property
    def next_due(self) -> datetime | None:
        """Time of the next work of :meth:`due`."""
        return self._waiting[0][0] if self._waiting else None

    def take(self, message: S2Message, now: datetime) -> list[S2Message]:
        """Take a message of the energy manager; those of other control types are ignored."""
        if isinstance(message, RevokeObject):
            return self.revoke(message.object_id, now)
        if not isinstance(message, self.instructions):
            return []
        instruction: Instruction = message  # type: ignore[assignment]  # what self.instructions lists
        new = status_update(instruction.id, InstructionStatus.NEW, now)
        reason = "Too many instructions wait already." if len(self._waiting) >= MAX_WAITING else None
        reason = reason or self.objection(instruction, max(now, instruction.execution_time))
        if reason is not None:
            self._notebook.note(f"refuses an instruction: {reason}")
            return [new, status_update(instruction.id, InstructionStatus.REJECTED, now)]
        accepted = [new, status_update(instruction.id, InstructionStatus.ACCEPTED, now)]
        if instruction.execution_time <= now:
            return [*accepted, *self.begin(instruction, now)]
        self._order += 1
        heapq.heappush(self._waiting, (instruction.execution_time, self._order, instruction))
        return [*accepted]

    def revoke(self, instruction_id: str, now: datetime) -> list[S2Message]:
        """Forget an instruction that has not begun."""
        found = [entry for entry in self._waiting if entry[2].id == instruction_id]
        if not found:
            return []
        self._waiting.remove(found[0])
        heapq.heapify(self._waiting)
        return [status_update(instruction_id, InstructionStatus.REVOKED, now)]

    def due(self, now: datetime) -> list[S2Message]:
        """Execute the instructions whose time has come. Returns all messages that are due."""
        said: list[S2Message] = []
        while self._waiting and self._waiting[0][0] <= now:
            _, _, instruction = heapq.heappop(self._waiting)
            reason = self.objection(instruction, now)
            if reason is None:
                said += self.begin(instruction, now)
            else:
                self._notebook.note(f"gives an instruction up: {reason}")
                said.append(status_update(instruction.id, InstructionStatus.ABORTED, now))
        return said + self.tick(now)
