"""What the control types share: instructions come, wait for their time, begin, and are told of at each step."""

from __future__ import annotations

import abc
import heapq
from datetime import datetime
from typing import ClassVar, Final, Protocol, TypeVar

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

AnyInstruction = TypeVar("AnyInstruction", bound=IdentifiedMessage)

MAX_WAITING: Final = 16
"""Instructions that may wait for their time of execution."""


class Notebook(Protocol):
    """Takes sentences about what happens, for a person."""

    def note(self, text: str) -> None:
        """Something happened."""


def status_update(instruction_id: str, status: InstructionStatus, now: datetime) -> InstructionStatusUpdate:
    """How far a device is with an instruction."""
    return InstructionStatusUpdate(instruction_id=instruction_id, status_type=status, timestamp=now)


class Control(abc.ABC):
    """A control type of one device, from its selection to the next.

    Everything is said with the time of the simulation as argument; nothing here knows another clock.
    """

    control_type: ClassVar[ControlType]
    instructions: ClassVar[tuple[type[IdentifiedMessage], ...]]

    def __init__(self, notebook: Notebook) -> None:
        self._notebook = notebook
        self._waiting: list[tuple[datetime, int, Instruction]] = []
        self._order = 0

    @abc.abstractmethod
    def start(self, now: datetime) -> list[S2Message]:
        """The control type was selected: what the energy manager has to know."""

    @abc.abstractmethod
    def objection(self, instruction: Instruction, now: datetime) -> str | None:
        """Why an instruction is not followed, as a sentence for the device's user; None if it is."""

    @abc.abstractmethod
    def begin(self, instruction: Instruction, now: datetime) -> list[S2Message]:
        """Follow an instruction from now on: its status updates and what changes with it."""

    @abc.abstractmethod
    def tick(self, now: datetime) -> list[S2Message]:
        """Time has gone on, at least to :attr:`next_due`: what the energy manager has to know now."""

    def stop(self) -> None:
        """Another control type is selected, or the session has ended."""
        self._waiting.clear()

    @property
    def next_due(self) -> datetime | None:
        """When :meth:`due` has something to do next."""
        return self._waiting[0][0] if self._waiting else None

    def take(self, message: S2Message, now: datetime) -> list[S2Message]:
        """Take what the energy manager sent; what is not for this control type is passed over."""
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
        """Begin what has its time now, and see what else there is to say."""
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
