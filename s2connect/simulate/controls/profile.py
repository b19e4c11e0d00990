"""Power Profile Based Control: the energy manager chooses one of several courses of power, and when it runs."""

from __future__ import annotations

import abc
from datetime import datetime, timedelta
from typing import ClassVar, NamedTuple

from s2connect.messages import S2Message, ppbc
from s2connect.messages.general import ControlType, InstructionStatus
from s2connect.simulate.devices.base import Control, Device, status_update
from s2connect.simulate.units import expected, milliseconds

CONTAINER = "run"
"""The only sequence container of a profile."""

_Interruption = ppbc.StartInterruptionInstruction | ppbc.EndInterruptionInstruction


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


class Working(Device):
    """A device that has a job to do now and then."""

    @abc.abstractmethod
    def job(self, now: datetime) -> Job:
        """Return the job that is to be done next."""

    @abc.abstractmethod
    def work(self, power: float | None) -> None:
        """Run with this power from now on, in W; None is as it does by itself."""


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


class PpbcControl(Control[Working]):
    """Power Profile Based Control, one job at a time. One that is not scheduled starts at the last moment."""

    control_type: ClassVar = ControlType.POWER_PROFILE_BASED_CONTROL
    instructions: ClassVar = (
        ppbc.ScheduleInstruction,
        ppbc.StartInterruptionInstruction,
        ppbc.EndInterruptionInstruction,
    )
    _run: _Run | None = None

    def _last_start(self) -> datetime:
        return self._job.latest_end - min(sequence.duration for sequence in self._job.sequences)

    def _latest_return(self, run: _Run) -> datetime:
        return self._job.latest_end - (run.sequence.duration - run.progress)

    def _scheduled(self) -> ppbc.ScheduleInstruction | None:
        return next((entry[2] for entry in self._waiting if isinstance(entry[2], ppbc.ScheduleInstruction)), None)

    @property
    def next_due(self) -> datetime | None:
        """Time at which an instruction begins, an element ends, or the job cannot wait any longer."""
        moments = [super().next_due]
        run = self._run
        if run is None:
            moments.append(self._last_start() if self._scheduled() is None else None)
        elif run.interrupted:
            moments.append(self._latest_return(run))
        elif run.element is not None:
            moments.append(run.seen + run.element[0])
        return min((moment for moment in moments if moment is not None), default=None)

    def start(self, now: datetime) -> list[S2Message]:
        return self._next_job(now)

    def _next_job(self, now: datetime) -> list[S2Message]:
        """Stand still, and say what is to be done."""
        self._run = None
        self._device.work(0.0)
        self._job = self._device.job(now)
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
        definition = ppbc.PowerProfileDefinition(
            id=self._job.id,
            start_time=self._job.earliest,
            end_time=self._job.latest_end,
            power_sequences_containers=[ppbc.PowerSequenceContainer(id=CONTAINER, power_sequences=sequences)],
        )
        return [definition, self._status()]

    def objection(self, instruction: ppbc.ScheduleInstruction | _Interruption, now: datetime) -> str | None:
        if instruction.power_profile_id != self._job.id or instruction.sequence_container_id != CONTAINER:
            return "There is no such power profile."
        sequence = self._sequence(instruction.power_sequence_id)
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

    def _sequence(self, identifier: str) -> Sequence | None:
        return next((sequence for sequence in self._job.sequences if sequence.id == identifier), None)

    def _interruption_objection(self, instruction: _Interruption) -> str | None:
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

    def begin(self, instruction: ppbc.ScheduleInstruction | _Interruption, now: datetime) -> list[S2Message]:
        """Start, interrupt or go on."""
        started = status_update(instruction.id, InstructionStatus.STARTED, now)
        if isinstance(instruction, ppbc.ScheduleInstruction):
            sequence = self._sequence(instruction.power_sequence_id)
            assert sequence is not None
            return [started, *self._begin(instruction.id, sequence, now)]
        assert self._run is not None
        self._run.go_on(now)
        self._run.interrupted = isinstance(instruction, ppbc.StartInterruptionInstruction)
        self._apply(self._run)
        return [started, self._status(), status_update(instruction.id, InstructionStatus.SUCCEEDED, now)]

    def _begin(self, instruction_id: str, sequence: Sequence, now: datetime) -> list[S2Message]:
        self._run = _Run(instruction_id, sequence, now)
        self._apply(self._run)
        return [self._status()]

    def _apply(self, run: _Run) -> None:
        self._device.work(0.0 if run.interrupted or run.element is None else run.element[1])

    def tick(self, now: datetime) -> list[S2Message]:
        """Go on in the sequence; begin by itself what cannot wait; then there is another job."""
        run = self._run
        if run is None:
            if now < self._last_start() or self._scheduled() is not None:
                return []
            self._device.note("starts by itself, because it cannot wait any longer")
            return self._begin("", min(self._job.sequences, key=lambda s: s.duration), now)
        run.go_on(now)
        said: list[S2Message] = []
        if run.interrupted and now >= self._latest_return(run):
            self._device.note("goes on by itself, because it cannot wait any longer")
            run.interrupted = False
            said.append(self._status())
        if run.element is not None:
            self._apply(run)
            return said
        said.append(self._status(ppbc.PowerSequenceStatus.FINISHED))
        if run.instruction_id:
            said.append(status_update(run.instruction_id, InstructionStatus.SUCCEEDED, now))
        return [*said, *self._next_job(now)]

    def stop(self) -> None:
        self._device.work(None)

    def _status(self, status: ppbc.PowerSequenceStatus = ppbc.PowerSequenceStatus.NOT_SCHEDULED) -> S2Message:
        selected, progress = None, None
        scheduled, run = self._scheduled(), self._run
        if run is not None:
            if status is not ppbc.PowerSequenceStatus.FINISHED:
                interrupted, executing = ppbc.PowerSequenceStatus.INTERRUPTED, ppbc.PowerSequenceStatus.EXECUTING
                status = interrupted if run.interrupted else executing
            selected, progress = run.sequence.id, milliseconds(run.progress)
        elif scheduled is not None:
            status, selected = ppbc.PowerSequenceStatus.SCHEDULED, scheduled.power_sequence_id
        return ppbc.PowerProfileStatus(
            sequence_container_status=[
                ppbc.PowerSequenceContainerStatus(
                    power_profile_id=self._job.id,
                    sequence_container_id=CONTAINER,
                    status=status,
                    selected_sequence_id=selected,
                    progress=progress,
                )
            ]
        )
