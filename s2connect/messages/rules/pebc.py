"""Rules about Power Envelope Based Control."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from s2connect.messages import pebc
from s2connect.messages.base import S2Message
from s2connect.messages.general import CommodityQuantity
from s2connect.messages.rules.base import Findings, error, warning
from s2connect.messages.rules.common import Checker, ids, lasts, phases, unique

BOTH_LIMITS: Final = error(
    "PEBC-01", "PEBC.PowerConstraints", "There is at least one range for the upper limit, and one for the lower limit."
)
BOTH_LIMITS_EACH: Final = warning(
    "PEBC-02",
    "PEBC.PowerConstraints",
    "A quantity that has a range for one limit has one for the other limit too, as a power envelope always sets both.",
)
BOUNDARY_ORDER: Final = warning(
    "PEBC-03", "PEBC.PowerConstraints", "The range for a limit does not start above its end."
)
VALIDITY: Final = error(
    "PEBC-04",
    "PEBC.PowerConstraints, PEBC.EnergyConstraint",
    "What is valid for a time does not end to be so before it began.",
)
AVERAGE_ORDER: Final = error(
    "PEBC-05", "PEBC.EnergyConstraint", "The upper average power is not below the lower average power."
)
ONE_ENVELOPE: Final = error(
    "PEBC-06", "PEBC.Instruction", "An instruction has one power envelope at most for each commodity quantity."
)
LIMIT_ORDER: Final = error(
    "PEBC-07", "PEBC.Instruction", "The lower limit of a power envelope is not above its upper limit."
)
EMPTY_VALIDITY: Final = warning(
    "PEBC-08", "PEBC.PowerConstraints, PEBC.EnergyConstraint", "What is valid for a time is so for longer than no time."
)


def _validity(begin: datetime, end: datetime, found: Findings) -> None:
    """Note a validity that does not end after it began."""
    if end < begin:
        found.add(VALIDITY, "valid_until", "before valid_from")
    else:
        found.add(EMPTY_VALIDITY, "valid_until", "equal to valid_from")


def _power_constraints(message: pebc.PowerConstraints, found: Findings) -> None:
    if message.valid_until is not None and message.valid_until <= message.valid_from:
        _validity(message.valid_from, message.valid_until, found)
    upper: set[CommodityQuantity] = set()
    lower: set[CommodityQuantity] = set()
    for index, allowed in enumerate(message.allowed_limit_ranges):
        is_upper = allowed.limit_type is pebc.PowerEnvelopeLimitType.UPPER_LIMIT
        (upper if is_upper else lower).add(allowed.commodity_quantity)
        if allowed.range_boundary.start_of_range > allowed.range_boundary.end_of_range:
            found.add(BOUNDARY_ORDER, f"allowed_limit_ranges[{index}].range_boundary", "starts above its end")
    if not upper or not lower:
        which = "lower" if upper else "upper"
        found.add(BOTH_LIMITS, "allowed_limit_ranges", f"none of them is for the {which} limit")
    elif upper != lower:
        found.add(BOTH_LIMITS_EACH, "allowed_limit_ranges", "a quantity has ranges for one of the two limits only")
    phases(upper | lower, found, "allowed_limit_ranges")


def _energy_constraint(message: pebc.EnergyConstraint, found: Findings) -> None:
    if message.valid_until <= message.valid_from:
        _validity(message.valid_from, message.valid_until, found)
    if message.upper_average_power < message.lower_average_power:
        found.add(AVERAGE_ORDER, "upper_average_power", "below the lower average power")


def _instruction(message: pebc.Instruction, found: Findings) -> None:
    envelopes = message.power_envelopes
    unique(envelopes, found, "power_envelopes")
    seen: set[CommodityQuantity] = set()
    for index, envelope in enumerate(envelopes):
        place = f"power_envelopes[{index}]"
        ids(envelope, found, f"{place}.")
        if envelope.commodity_quantity in seen:
            found.add(ONE_ENVELOPE, place, "another one has this quantity already")
        seen.add(envelope.commodity_quantity)
        for number, element in enumerate(envelope.power_envelope_elements):
            if element.lower_limit > element.upper_limit:
                where = f"{place}.power_envelope_elements[{number}]"
                found.add(LIMIT_ORDER, where, "the lower limit is above the upper limit")
            if element.duration == 0:  # here and not in lasts: this is the longest of all loops
                lasts(0, found, f"{place}.power_envelope_elements[{number}]")
    phases(seen, found, "power_envelopes")


CHECKS: Final[Mapping[type[S2Message], Checker]] = {
    pebc.EnergyConstraint: _energy_constraint,
    pebc.Instruction: _instruction,
    pebc.PowerConstraints: _power_constraints,
}
