"""Power Envelope Based Control: the device stays between two limits, which change with time."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import ClassVar, Protocol

from s2connect.messages import S2Message, new_id, pebc
from s2connect.messages.general import ControlType, InstructionStatus
from s2connect.simulate.controls.base import Control, Instruction, Notebook, status_update
from s2connect.simulate.units import POWER, number_range


class Limited(Protocol):
    """A device whose power can be limited."""

    @property
    def allowed_limits(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Ranges of the lower and of the upper limit, in W."""

    @property
    def consequence(self) -> pebc.PowerEnvelopeConsequenceType:
        """Consequence for the energy that a limit cuts off."""

    def limit(self, lower: float | None, upper: float | None) -> None:
        """Stay between two powers from now on; None is no limit."""

    def limits_objection(self, envelope: list[pebc.PowerEnvelopeElement], now: datetime) -> str | None:
        """Return why the user objects to limits; None if not."""

    def energy_need(self, now: datetime) -> tuple[datetime, float, float] | None:
        """Return a deadline and the lowest and highest average power until then; None without a need."""


class PebcControl(Control):
    """Power Envelope Based Control."""

    control_type: ClassVar = ControlType.POWER_ENVELOPE_BASED_CONTROL
    instructions: ClassVar = (pebc.Instruction,)

    def __init__(self, device: Limited, notebook: Notebook) -> None:
        super().__init__(notebook)
        self._device = device
        self._constraints_id = ""
        self._need: tuple[datetime, float, float] | None = None
        self._running: tuple[str, list[tuple[datetime, pebc.PowerEnvelopeElement]]] | None = None

    @property
    def next_due(self) -> datetime | None:
        """Time at which an instruction begins, or an element of the running envelope ends."""
        moments = [moment for moment in (super().next_due, *self._ends()) if moment is not None]
        return min(moments, default=None)

    def _ends(self) -> list[datetime]:
        return [self._running[1][0][0]] if self._running else []

    def start(self, now: datetime) -> list[S2Message]:
        """Say which limits may be set, and which energy is needed."""
        self._constraints_id = new_id()
        self._need = None
        (low, high), consequence = self._device.allowed_limits, self._device.consequence
        ranges = [
            pebc.AllowedLimitRange(
                commodity_quantity=POWER,
                limit_type=kind,
                range_boundary=number_range(*allowed),
                abnormal_condition_only=False,
            )
            for kind, allowed in (
                (pebc.PowerEnvelopeLimitType.LOWER_LIMIT, low),
                (pebc.PowerEnvelopeLimitType.UPPER_LIMIT, high),
            )
        ]
        constraints = pebc.PowerConstraints(
            id=self._constraints_id, valid_from=now, consequence_type=consequence, allowed_limit_ranges=ranges
        )
        return [constraints, *self._energy(now)]

    def objection(self, instruction: Instruction, now: datetime) -> str | None:
        assert isinstance(instruction, pebc.Instruction)
        if instruction.power_constraints_id != self._constraints_id:
            return "The instruction is about power constraints that are not in force."
        if len(instruction.power_envelopes) != 1 or instruction.power_envelopes[0].commodity_quantity is not POWER:
            return "The device has one phase, L1, and so takes one envelope for it."
        low, high = self._device.allowed_limits
        elements = instruction.power_envelopes[0].power_envelope_elements
        for element in elements:
            if not (low[0] <= element.lower_limit <= low[1] and high[0] <= element.upper_limit <= high[1]):
                return "A limit is outside of the range that the device allows."
            if element.lower_limit > element.upper_limit:
                return "The lower limit is above the upper limit."
        return None if instruction.abnormal_condition else self._device.limits_objection(elements, now)

    def begin(self, instruction: Instruction, now: datetime) -> list[S2Message]:
        """Keep the limits from now on, in place of those before."""
        assert isinstance(instruction, pebc.Instruction)
        said: list[S2Message] = []
        if self._running is not None:
            said.append(status_update(self._running[0], InstructionStatus.ABORTED, now))
        ends, moment = [], now
        for element in instruction.power_envelopes[0].power_envelope_elements:
            moment += timedelta(milliseconds=element.duration)
            ends.append((moment, element))
        self._running = instruction.id, ends
        said.append(status_update(instruction.id, InstructionStatus.STARTED, now))
        return said + self._keep(now)

    def tick(self, now: datetime) -> list[S2Message]:
        """Go on to the next element of the envelope, and say what is needed when that changes."""
        return [*self._keep(now), *self._energy(now)]

    def stop(self) -> None:
        """Stop, and remove the limits."""
        super().stop()
        self._running = None
        self._device.limit(None, None)

    def _keep(self, now: datetime) -> list[S2Message]:
        if self._running is None:
            return []
        instruction_id, elements = self._running
        while elements and elements[0][0] <= now:
            del elements[0]
        if elements:
            self._device.limit(elements[0][1].lower_limit, elements[0][1].upper_limit)
            return []
        self._running = None
        self._device.limit(None, None)
        return [status_update(instruction_id, InstructionStatus.SUCCEEDED, now)]

    def _energy(self, now: datetime) -> list[S2Message]:
        need = self._device.energy_need(now)
        if need is None or (self._need is not None and self._need[0] == need[0]):
            return []
        self._need = need
        until, lowest, highest = need
        return [
            pebc.EnergyConstraint(
                id=new_id(),
                valid_from=now,
                valid_until=until,
                lower_average_power=lowest,
                upper_average_power=highest,
                commodity_quantity=POWER,
            )
        ]
