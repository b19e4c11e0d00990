"""Power Envelope Based Control: messages ``PEBC.…`` and their objects."""

from typing import Annotated, Literal

from annotated_types import Len
from pydantic import FailFast

from s2connect.messages.base import Duration, Id, IdentifiedMessage, Maybe, S2Object, Timestamp
from s2connect.messages.enums import WireEnum
from s2connect.messages.general import CommodityQuantity, NumberRange


class PowerEnvelopeConsequenceType(WireEnum):
    """Consequence for energy that a power limit cuts off: it is lost, or used later."""

    VANISH = "VANISH"
    DEFER = "DEFER"


class PowerEnvelopeLimitType(WireEnum):
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
    power_envelope_elements: Annotated[list[PowerEnvelopeElement], Len(1, 288), FailFast()]


class EnergyConstraint(IdentifiedMessage):
    """Bounds of the average power over a time, in the unit of the quantity; times its length they are an energy."""

    message_type: Literal["PEBC.EnergyConstraint"] = "PEBC.EnergyConstraint"
    id: Id
    valid_from: Timestamp
    valid_until: Timestamp
    upper_average_power: float
    lower_average_power: float
    commodity_quantity: CommodityQuantity


class Instruction(IdentifiedMessage):
    """Instruction to stay within power envelopes."""

    message_type: Literal["PEBC.Instruction"] = "PEBC.Instruction"
    id: Id
    execution_time: Timestamp
    abnormal_condition: bool
    power_constraints_id: Id
    power_envelopes: Annotated[list[PowerEnvelope], Len(1, 10), FailFast()]


class PowerConstraints(IdentifiedMessage):
    """Ranges in which the energy manager may set limits."""

    message_type: Literal["PEBC.PowerConstraints"] = "PEBC.PowerConstraints"
    id: Id
    valid_from: Timestamp
    consequence_type: PowerEnvelopeConsequenceType
    allowed_limit_ranges: Annotated[list[AllowedLimitRange], Len(2, 100), FailFast()]
    valid_until: Maybe[Timestamp] = None
