"""Power Envelope Based Control: messages ``PEBC.…`` and their objects."""

from typing import Annotated, Literal

from annotated_types import Len
from pydantic import FailFast

from s2connect.messages.base import Duration, Id, IdentifiedMessage, Maybe, S2Object, Timestamp
from s2connect.messages.enums import WireEnum
from s2connect.messages.general import CommodityQuantity, NumberRange


class PowerEnvelopeConsequenceType(WireEnum):
    """What becomes of energy that a power limit cuts off: it is lost, or used later."""

    VANISH = "VANISH"
    DEFER = "DEFER"


class PowerEnvelopeLimitType(WireEnum):
    """Which limit."""

    UPPER_LIMIT = "UPPER_LIMIT"
    LOWER_LIMIT = "LOWER_LIMIT"


class AllowedLimitRange(S2Object):
    """Within which range the energy manager may set a limit, in the unit of the quantity."""

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
    """How much average power the device needs over a time, at most and at least, in the unit of the quantity.

    Times the length of the time that is an energy.
    """

    message_type: Literal["PEBC.EnergyConstraint"] = "PEBC.EnergyConstraint"
    id: Id
    valid_from: Timestamp
    valid_until: Timestamp
    upper_average_power: float
    lower_average_power: float
    commodity_quantity: CommodityQuantity


class Instruction(IdentifiedMessage):
    """Keeps the device within power envelopes."""

    message_type: Literal["PEBC.Instruction"] = "PEBC.Instruction"
    id: Id
    execution_time: Timestamp
    abnormal_condition: bool
    power_constraints_id: Id
    power_envelopes: Annotated[list[PowerEnvelope], Len(1, 10), FailFast()]


class PowerConstraints(IdentifiedMessage):
    """Within which limits the device may be kept."""

    message_type: Literal["PEBC.PowerConstraints"] = "PEBC.PowerConstraints"
    id: Id
    valid_from: Timestamp
    consequence_type: PowerEnvelopeConsequenceType
    allowed_limit_ranges: Annotated[list[AllowedLimitRange], Len(2, 100), FailFast()]
    valid_until: Maybe[Timestamp] = None
