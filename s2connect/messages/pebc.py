"""Power Envelope Based Control: messages ``PEBC.…`` and their objects."""

from enum import StrEnum
from typing import Annotated

from s2connect.messages.base import Duration, Id, IdentifiedMessage, S2Object, Timestamp, length
from s2connect.messages.general import CommodityQuantity, NumberRange


class _Message(IdentifiedMessage, tag="PEBC.{}".format):
    """A message of this control type."""


class PowerEnvelopeConsequenceType(StrEnum):
    """Consequence for energy that a power limit cuts off: it is lost, or used later."""

    VANISH = "VANISH"
    DEFER = "DEFER"


class PowerEnvelopeLimitType(StrEnum):
    """Kind of a limit."""

    UPPER_LIMIT = "UPPER_LIMIT"
    LOWER_LIMIT = "LOWER_LIMIT"


class AllowedLimitRange(S2Object):
    """Range in which the energy manager may set a limit, in the unit of the quantity."""

    commodity_quantity: CommodityQuantity
    limit_type: PowerEnvelopeLimitType
    range_boundary: NumberRange
    abnormal_condition_only: bool


class PowerEnvelopeElement(S2Object):
    """Limits that hold for ``duration`` milliseconds, in the unit of the quantity of the envelope."""

    duration: Duration
    upper_limit: float
    lower_limit: float


class PowerEnvelope(S2Object):
    """Limits of one quantity over time."""

    id: Id
    commodity_quantity: CommodityQuantity
    power_envelope_elements: Annotated[list[PowerEnvelopeElement], length(1, 288)]


class EnergyConstraint(_Message):
    """Bounds of the average power over a time, in the unit of the quantity; times its length they are an energy."""

    id: Id
    valid_from: Timestamp
    valid_until: Timestamp
    upper_average_power: float
    lower_average_power: float
    commodity_quantity: CommodityQuantity


class Instruction(_Message):
    """Instruction to stay within power envelopes."""

    id: Id
    execution_time: Timestamp
    abnormal_condition: bool
    power_constraints_id: Id
    power_envelopes: Annotated[list[PowerEnvelope], length(1, 10)]


class PowerConstraints(_Message):
    """Ranges in which the energy manager may set limits."""

    id: Id
    valid_from: Timestamp
    consequence_type: PowerEnvelopeConsequenceType
    allowed_limit_ranges: Annotated[list[AllowedLimitRange], length(2, 100)]
    valid_until: Timestamp | None = None
