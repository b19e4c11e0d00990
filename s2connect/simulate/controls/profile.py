"""Power Profile Based Control: the energy manager chooses one of several courses of power, and when it runs."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar

from s2connect.messages import S2Message, new_id, ppbc
from s2connect.messages.general import ControlType, InstructionStatus
from s2connect.messages.ppbc import PowerSequenceStatus
from s2connect.simulate.devices.base import Control, Device, status_update
from s2connect.simulate.units import expected, lasting, milliseconds

CONTAINER = "run"
"""The only sequence container of a profile."""

_Instruction = ppbc.ScheduleInstruction | ppbc.StartInterruptionInstruction | ppbc.EndInterruptionInstruction


def profile(
    start: datetime, end: datetime, sequences: Mapping[str, Sequence[tuple[timedelta, float]]]
) -> ppbc.PowerProfileDefinition:
    """Return work that has to be done between two moments, by one of several sequences of W for durations."""
    described = [
        ppbc.PowerSequence(
            id=name,
            is_interruptible=True,
            abnormal_condition_only=False,
            elements=[
                ppbc.PowerSequenceElement(duration=milliseconds(duration), power_values=[expected(power)])
                for duration, power in elements
            ],
        )
        for name, elements in sequences.items()
    ]
    container = ppbc.PowerSequenceContainer(id=CONTAINER, power_sequences=described)
    return ppbc.PowerProfileDefinition(
        id=new_id(), start_time=start, end_time=end, power_sequences_containers=[container]
    )


class Working(Device):
    """A device that has a job to do now and then."""

    @abc.abstractmethod
    def job(self, now: datetime) -> ppbc.PowerProfileDefinition:
        """Return the job that is to be done next."""

    @abc.abstractmethod
    def work(self, power: float | None) -> None:
        """Run with this power from now on, in W; None is as it does by itself."""


@dataclass(eq=False)
class _Run:
    """Progress of the chosen sequence, up to the time ``seen``."""

    instruction_id: str
    sequence: ppbc.PowerSequence
    seen: datetime
    progress: timedelta = timedelta()
    interrupted: bool = False

    def go_on(self, now: datetime) -> None:
        """Count the time since the last look."""
        if not self.interrupted:
            self.progress = min(self.progress + (now - self.seen), lasting(self.sequence.elements))
        self.seen = now

    @property
    def element(self) -> tuple[timedelta, float] | None:
        """Remaining time of the present element, and its power; None at the end."""
        rest = -self.progress
        for element in self.sequence.elements:
            rest += timedelta(milliseconds=element.duration)
            if rest > timedelta():
                return rest, element.power_values[0].value_expected
        return None

    @property
    def power(self) -> float:
        """Present W."""
        return 0.0 if self.interrupted or self.element is None else self.element[1]


class PpbcControl(Control[Working]):
    """Power Profile Based Control, one job at a time. One that is not scheduled starts at the last moment."""

    control_type: ClassVar = ControlType.POWER_PROFILE_BASED_CONTROL
    instructions: ClassVar = (
        ppbc.ScheduleInstruction,
        ppbc.StartInterruptionInstruction,
        ppbc.EndInterruptionInstruction,
    )

    def start(self, now: datetime) -> list[S2Message]:
        """Stand still, and return the power profile of the job."""
        self._run: _Run | None = None
        self._device.work(0.0)
        self._job = self._device.job(now)
        self._sequences = {one.id: one for one in self._job.power_sequences_containers[0].power_sequences}
        self._shortest = min(self._sequences.values(), key=lambda one: lasting(one.elements))
        return [self._job, self._status()]

    def _last_start(self) -> datetime:
        return self._job.end_time - lasting(self._shortest.elements)

    def _latest_return(self, run: _Run) -> datetime:
        return self._job.end_time - lasting(run.sequence.elements) + run.progress

    def _scheduled(self) -> ppbc.ScheduleInstruction | None:
        return next((one for one in self._waiting if isinstance(one, ppbc.ScheduleInstruction)), None)

    def moments(self) -> list[datetime]:
        """Time at which an element ends, or the job cannot wait any longer."""
        run = self._run
        if run is None:
            return [] if self._scheduled() else [self._last_start()]
        if run.interrupted:
            return [self._latest_return(run)]
        return [run.seen + run.element[0]] if run.element else []

    def objection(self, instruction: _Instruction, now: datetime) -> str | None:
        run, sequence = self._run, self._sequences.get(instruction.power_sequence_id)
        if instruction.power_profile_id != self._job.id or instruction.sequence_container_id != CONTAINER:
            return "There is no such power profile."
        if sequence is None:
            return "There is no such power sequence."
        if not isinstance(instruction, ppbc.ScheduleInstruction):
            if run is None or run.sequence is not sequence:
                return "It does not run."
            if run.interrupted is isinstance(instruction, ppbc.StartInterruptionInstruction):
                return "It is interrupted already." if run.interrupted else "It is not interrupted."
            return None
        if run is not None:
            return "It runs already."
        scheduled = self._scheduled()
        if scheduled is not None and scheduled.id != instruction.id:
            return "It is scheduled already; revoke that first."
        if now < self._job.start_time:
            return "That is too early."
        late = now + lasting(sequence.elements) > self._job.end_time
        return "It would not be done in time." if late else None

    def take(self, message: S2Message, now: datetime) -> list[S2Message]:
        """Take an instruction; return the status as well when a schedule follows from it or is taken back."""
        before = self._scheduled()
        said = super().take(message, now)
        return said if self._scheduled() is before else [*said, self._status()]

    def begin(self, instruction: _Instruction, now: datetime) -> list[S2Message]:
        """Start, interrupt or go on."""
        started = status_update(instruction.id, InstructionStatus.STARTED, now)
        if isinstance(instruction, ppbc.ScheduleInstruction):
            return [started, self._begin(instruction.id, self._sequences[instruction.power_sequence_id], now)]
        assert self._run is not None
        self._run.go_on(now)
        self._run.interrupted = isinstance(instruction, ppbc.StartInterruptionInstruction)
        self._device.work(self._run.power)
        return [started, self._status(), status_update(instruction.id, InstructionStatus.SUCCEEDED, now)]

    def _begin(self, instruction_id: str, sequence: ppbc.PowerSequence, now: datetime) -> S2Message:
        self._run = _Run(instruction_id, sequence, now)
        self._device.work(self._run.power)
        return self._status()

    def tick(self, now: datetime) -> list[S2Message]:
        """Go on in the sequence; begin by itself what cannot wait; then there is another job."""
        run = self._run
        if run is None:
            if now < self._last_start() or self._scheduled() is not None:
                return []
            self._device.notes.append("starts by itself, because it cannot wait any longer")
            return [self._begin("", self._shortest, now)]
        run.go_on(now)
        said: list[S2Message] = []
        if run.interrupted and now >= self._latest_return(run):
            self._device.notes.append("goes on by itself, because it cannot wait any longer")
            run.interrupted = False
            said.append(self._status())
        if run.element is not None:
            self._device.work(run.power)
            return said
        said.append(self._status(PowerSequenceStatus.FINISHED))
        if run.instruction_id:
            said.append(status_update(run.instruction_id, InstructionStatus.SUCCEEDED, now))
        return [*said, *self.start(now)]

    def stop(self) -> None:
        self._device.work(None)

    def _status(self, status: PowerSequenceStatus = PowerSequenceStatus.NOT_SCHEDULED) -> S2Message:
        selected, progress = None, None
        scheduled, run = self._scheduled(), self._run
        if run is not None:
            if status is not PowerSequenceStatus.FINISHED:
                status = PowerSequenceStatus.INTERRUPTED if run.interrupted else PowerSequenceStatus.EXECUTING
            selected, progress = run.sequence.id, milliseconds(run.progress)
        elif scheduled is not None:
            status, selected = PowerSequenceStatus.SCHEDULED, scheduled.power_sequence_id
        container = ppbc.PowerSequenceContainerStatus(
            power_profile_id=self._job.id,
            sequence_container_id=CONTAINER,
            status=status,
            selected_sequence_id=selected,
            progress=progress,
        )
        return ppbc.PowerProfileStatus(sequence_container_status=[container])
