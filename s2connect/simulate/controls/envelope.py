"""Power Envelope Based Control: the device stays between two limits, which change with time."""

from __future__ import annotations

import abc
from datetime import datetime
from typing import ClassVar

from s2connect.messages import S2Message, new_id, pebc
from s2connect.messages.general import ControlType, InstructionStatus
from s2connect.simulate.devices.base import Control, Device, status_update
from s2connect.simulate.units import POWER, number_range, spans


class Limited(Device):
    """A device whose power can be limited; its user agrees to all limits and it needs no energy unless it says so."""

    consequence: ClassVar[pebc.PowerEnvelopeConsequenceType]
    """Consequence for the energy that a limit cuts off."""

    @property
    @abc.abstractmethod
    def allowed_limits(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Ranges of the lower and of the upper limit, in W."""

    @abc.abstractmethod
    def limit(self, lower: float | None, upper: float | None) -> None:
        """Stay between two powers from now on; None is no limit."""

    def limits_objection(self, envelope: list[pebc.PowerEnvelopeElement], now: datetime) -> str | None:
        """Return why the user objects to limits; None if not."""
        return None

    def energy_need(self, now: datetime) -> pebc.EnergyConstraint | None:
        """Return the average power that it needs until a deadline; None without a need."""
        return None


class PebcControl(Control[Limited]):
    """Power Envelope Based Control."""

    control_type: ClassVar = ControlType.POWER_ENVELOPE_BASED_CONTROL
    instructions: ClassVar = (pebc.Instruction,)

    def __init__(self, device: Limited) -> None:
        super().__init__(device)
        self._constraints_id = new_id()
        self._needed_until: datetime | None = None
        self._running = ""
        """Instruction in force."""
        self._elements: list[tuple[datetime, pebc.PowerEnvelopeElement]] = []
        """Elements of its envelope that are not over, each with its end."""

    def moments(self) -> list[datetime]:
        return [end for end, _ in self._elements[:1]]

    def start(self, now: datetime) -> list[S2Message]:
        """Return the limits that may be set, and the energy that is needed."""
        kinds = (pebc.PowerEnvelopeLimitType.LOWER_LIMIT, pebc.PowerEnvelopeLimitType.UPPER_LIMIT)
        ranges = [
            pebc.AllowedLimitRange(
                commodity_quantity=POWER,
                limit_type=kind,
                range_boundary=number_range(*allowed),
                abnormal_condition_only=False,
            )
            for kind, allowed in zip(kinds, self._device.allowed_limits, strict=True)
        ]
        constraints = pebc.PowerConstraints(
            id=self._constraints_id,
            valid_from=now,
            consequence_type=self._device.consequence,
            allowed_limit_ranges=ranges,
        )
        return [constraints, *self._energy(now)]

    def objection(self, instruction: pebc.Instruction, now: datetime) -> str | None:
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

    def begin(self, instruction: pebc.Instruction, now: datetime) -> list[S2Message]:
        """Keep the limits from now on, in place of those before."""
        said: list[S2Message] = []
        if self._running:
            said.append(status_update(self._running, InstructionStatus.ABORTED, now))
        self._running = instruction.id
        self._elements = [span[1:] for span in spans(now, instruction.power_envelopes[0].power_envelope_elements)]
        said.append(status_update(instruction.id, InstructionStatus.STARTED, now))
        return said + self._keep(now)

    def tick(self, now: datetime) -> list[S2Message]:
        """Go on to the next element of the envelope; return the energy that is needed when that changes."""
        return [*self._keep(now), *self._energy(now)]

    def stop(self) -> None:
        self._device.limit(None, None)

    def _keep(self, now: datetime) -> list[S2Message]:
        if not self._running:
            return []
        while self._elements and self._elements[0][0] <= now:
            del self._elements[0]
        if self._elements:
            element = self._elements[0][1]
            self._device.limit(element.lower_limit, element.upper_limit)
            return []
        ended, self._running = self._running, ""
        self._device.limit(None, None)
        return [status_update(ended, InstructionStatus.SUCCEEDED, now)]

    def _energy(self, now: datetime) -> list[S2Message]:
        need = self._device.energy_need(now)
        if need is None or need.valid_until == self._needed_until:
            return []
        self._needed_until = need.valid_until
        return [need]
