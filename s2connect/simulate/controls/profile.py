"""Power Profile Based Control: the energy manager chooses one of several courses of power, and when it runs."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import ClassVar, NamedTuple, Protocol

from s2connect.messages import S2Message, ppbc
from s2connect.messages.general import ControlType, InstructionStatus
from s2connect.simulate.controls.base import Control, Instruction, Notebook, status_update
from s2connect.simulate.units import expected, milliseconds

CONTAINER = "run"
"""The only sequence container of a profile."""


class Sequence(NamedTuple):
    """A course of power: an id, and W for durations."""

    id: str
    elements: list[tuple[timedelta, float]]

    @property
    def duration(self) -> timedelta:
        """Its duration."""
        return sum((duration for duration, _ in self.elements), timedelta())


class Job(NamedTuple):
    """Work that has to be done once, between two moments."""

    id: str
    earliest: datetime
    latest_end: datetime
    sequences: list[Sequence]


class Working(Protocol):
    """A device that has a job to do now and then."""

    def job(self, now: datetime) -> Job:
        """The job that is to be done next."""

    def work(self, power: float | None) -> None:
        """Run with this power from now on, in W; None is not at all."""


class _Run:
    """Progress of the chosen sequence."""

    def __init__(self, instruction_id: str, sequence: Sequence, now: datetime) -> None:
        self.instruction_id = instruction_id
        self.sequence = sequence
        self.progress = timedelta()
        self.interrupted = False
        self.seen = now

    def go_on(self, now: datetime) -> None:
        """Count the time since the last look."""
        if not self.interrupted:
            self.progress = min(self.progress + (now - self.seen), self.sequence.duration)
        self.seen = now

    @property
    def element(self) -> tuple[timedelta, float] | None:
        """Remaining time of the present element, and its power; None at the end."""
        rest = self.progress
        for duration, power in self.sequence.elements:
            if rest < duration:
                return duration - rest, power
            rest -= duration
        return None


class PpbcControl(Control):
    """Power Profile Based Control, one job at a time. One that is not scheduled starts at the last moment."""

    control_type: ClassVar = ControlType.POWER_PROFILE_BASED_CONTROL
    instructions: ClassVar = (
        ppbc.ScheduleInstruction,
        ppbc.StartInterruptionInstruction,
        ppbc.EndInterruptionInstruction,
    )

    def __init__(self, device: Working, notebook: Notebook, *, now: datetime) -> None:
        super().__init__(notebook)
        self._device = device
        self._job = device.job(now)
        self._run: _Run | None = None

    def _last_start(self) -> datetime:
        return self._job.latest_end - min(sequence.duration for sequence in self._job.sequences)

    def _scheduled(self) -> ppbc.ScheduleInstruction | None:
        return next((entry[2] for entry in self._waiting if isinstance(entry[2], ppbc.ScheduleInstruction)), None)

    @property
    def next_due(self) -> datetime | None:
        """Time at which an instruction begins, an element ends, or the job cannot wait any longer."""
        moments = [super().next_due]
        if self._run is None:
            moments.append(self._last_start() if self._scheduled() is None else None)
        elif not self._run.interrupted and (element := self._run.element) is not None:
            moments.append(self._run.seen + element[0])
        elif self._run.interrupted:
            moments.append(self._latest_return())
        return min((moment for moment in moments if moment is not None), default=None)

    def _latest_return(self) -> datetime:
        assert self._run is not None
        return self._job.latest_end - (self._run.sequence.duration - self._run.progress)

    def start(self, now: datetime) -> list[S2Message]:
        """Say what is to be done."""
        self._job = self._device.job(now)
        return [self._definition(), self._status()]

    def objection(self, instruction: Instruction, now: datetime) -> str | None:
        assert isinstance(
            instruction,
            ppbc.ScheduleInstruction | ppbc.StartInterruptionInstruction | ppbc.EndInterruptionInstruction,
        )
        sequence = next((s for s in self._job.sequences if s.id == instruction.power_sequence_id), None)
        if instruction.power_profile_id != self._job.id or instruction.sequence_container_id != CONTAINER:
            return "There is no such power profile."
        if sequence is None:
            return "There is no such power sequence."
        if not isinstance(instruction, ppbc.ScheduleInstruction):
            return self._interruption_objection(instruction)
        if self._run is not None:
            return "It runs already."
        scheduled = self._scheduled()
        if scheduled is not None and scheduled.id != instruction.id:
            return "It is scheduled already; revoke that first."
        if now < self._job.earliest:
            return "That is too early."
        if now + sequence.duration > self._job.latest_end:
            return "It would not be done in time."
        return None

    def _interruption_objection(
        self, instruction: ppbc.StartInterruptionInstruction | ppbc.EndInterruptionInstruction
    ) -> str | None:
        if self._run is None or self._run.sequence.id != instruction.power_sequence_id:
            return "It does not run."
        if self._run.interrupted is isinstance(instruction, ppbc.StartInterruptionInstruction):
            return "It is interrupted already." if self._run.interrupted else "It is not interrupted."
        return None

    def take(self, message: S2Message, now: datetime) -> list[S2Message]:
        """Take an instruction, and say when a schedule follows from it or is taken back."""
        before = self._scheduled()
        said = super().take(message, now)
        return said if self._scheduled() is before else [*said, self._status()]

    def begin(self, instruction: Instruction, now: datetime) -> list[S2Message]:
        """Start, interrupt or go on."""
        started = status_update(instruction.id, InstructionStatus.STARTED, now)
        if isinstance(instruction, ppbc.ScheduleInstruction):
            sequence = next(s for s in self._job.sequences if s.id == instruction.power_sequence_id)
            return [started, *self._begin(instruction.id, sequence, now)]
        assert self._run is not None
        self._run.go_on(now)
        self._run.interrupted = isinstance(instruction, ppbc.StartInterruptionInstruction)
        self._apply()
        return [started, self._status(), status_update(instruction.id, InstructionStatus.SUCCEEDED, now)]

    def _begin(self, instruction_id: str, sequence: Sequence, now: datetime) -> list[S2Message]:
        self._run = _Run(instruction_id, sequence, now)
        self._apply()
        return [self._status()]

    def _apply(self) -> None:
        assert self._run is not None
        element = self._run.element
        self._device.work(0.0 if self._run.interrupted or element is None else element[1])

    def tick(self, now: datetime) -> list[S2Message]:
        """Go on in the sequence; begin by itself what cannot wait; then there is another job."""
        if self._run is None:
            if now < self._last_start() or self._scheduled() is not None:
                return []
            self._notebook.note("starts by itself, because it cannot wait any longer")
            return self._begin("", min(self._job.sequences, key=lambda s: s.duration), now)
        self._run.go_on(now)
        said: list[S2Message] = []
        if self._run.interrupted and now >= self._latest_return():
            self._notebook.note("goes on by itself, because it cannot wait any longer")
            self._run.interrupted = False
            said.append(self._status())
        if self._run.element is not None:
            self._apply()
            return said
        said.append(self._status(ppbc.PowerSequenceStatus.FINISHED))
        if self._run.instruction_id:
            said.append(status_update(self._run.instruction_id, InstructionStatus.SUCCEEDED, now))
        self._run = None
        self._device.work(None)
        self._job = self._device.job(now)
        return [*said, self._definition(), self._status()]

    def stop(self) -> None:
        """The device does its work by itself again."""
        super().stop()
        self._run = None
        self._device.work(None)

    def _definition(self) -> S2Message:
        sequences = [
            ppbc.PowerSequence(
                id=sequence.id,
                is_interruptible=True,
                abnormal_condition_only=False,
                elements=[
                    ppbc.PowerSequenceElement(duration=milliseconds(duration), power_values=[expected(power)])
                    for duration, power in sequence.elements
                ],
            )
            for sequence in self._job.sequences
        ]
        return ppbc.PowerProfileDefinition(
            id=self._job.id,
            start_time=self._job.earliest,
            end_time=self._job.latest_end,
            power_sequences_containers=[ppbc.PowerSequenceContainer(id=CONTAINER, power_sequences=sequences)],
        )

    def _status(self, status: ppbc.PowerSequenceStatus | None = None) -> S2Message:
        selected, progress = None, None
        scheduled = self._scheduled()
        if self._run is not None:
            running = ppbc.PowerSequenceStatus.INTERRUPTED if self._run.interrupted else None
            status = status or running or ppbc.PowerSequenceStatus.EXECUTING
            selected, progress = self._run.sequence.id, milliseconds(self._run.progress)
        elif scheduled is not None:
            status, selected = ppbc.PowerSequenceStatus.SCHEDULED, scheduled.power_sequence_id
        return ppbc.PowerProfileStatus(
            sequence_container_status=[
                ppbc.PowerSequenceContainerStatus(
                    power_profile_id=self._job.id,
                    sequence_container_id=CONTAINER,
                    status=status or ppbc.PowerSequenceStatus.NOT_SCHEDULED,
                    selected_sequence_id=selected,
                    progress=progress,
                )
            ]
        )
