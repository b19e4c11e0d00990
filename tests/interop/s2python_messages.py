"""Results of s2-python's validation of S2 messages, as JSON lines. Run by s2-python's Python.

``build SEED``: instances of every message class, written by s2-python: with every optional member, with none, and at
random until every value of every enumeration was used. Each line: the class, and the text.
``read``: for every line of standard input, whether s2-python reads it as a message.
``odd``: what s2-python lets an application build although no schema has it: a name, and the text or null.
"""

import datetime
import enum
import itertools
import json
import math
import random
import sys
import types
import typing
import uuid

from pydantic import RootModel
from pydantic_core import PydanticSerializationError
from s2python import frbc, pebc
from s2python.common import Commodity, CommodityQuantity, NumberRange
from s2python.common.support import commodity_has_quantity
from s2python.s2_parser import TYPE_TO_MESSAGE_CLASS, S2Parser
from s2python.s2_validation_error import S2ValidationError

AT_LEAST = 40
FLOATS = (0.0, -0.0, 1, -1, 0.1, -2.5, 1e-9, 1e22, 1.7976931348623157e308, 5e-324, 2**53 + 1, 1 / 3, math.pi)
INTEGERS = (0, 1, 1000, 86_400_000, 2**31, 2**53 + 1, 2**63)
STRINGS = ("", "a", "Wärmepumpe", "漢字", "\U0001f50b", "\x00\t\n\x1f\x7f", '"\\/', "\u2028\ufeff", "x" * 3000)
ZONES = tuple(datetime.timezone(datetime.timedelta(minutes=m)) for m in (0, 60, -210, 345, 14 * 60, -12 * 60))


def members(kind):
    """The members of a class, and whether each may be left out in a message that can be written."""
    for name, field in kind.model_fields.items():
        if name != "message_type":
            yield name, field.annotation, field.default is None


class Builder:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.optional = None  # True: all, False: none, None: by chance
        self.unused = {}

    def message(self, kind):
        for _ in range(2000):  # what its validators refuse is no message it can build
            try:
                return self.value(kind)
            except S2ValidationError:
                continue
        raise RuntimeError(f"nothing was good enough for {kind.__name__}")

    def value(self, kind):
        special = getattr(self, f"make_{getattr(kind, '__name__', '')}", None)
        if special is not None:
            return special(kind)
        origin, inner = typing.get_origin(kind), typing.get_args(kind)
        if origin in (typing.Union, types.UnionType):
            return self.value(next(one for one in inner if one is not type(None)))
        if origin is list:
            return [self.message(inner[0]) for _ in range(self.random.randint(1, 3))]
        if issubclass(kind, enum.Enum):
            return self.one_of(kind)
        if issubclass(kind, RootModel):
            return kind(root=self.value(kind.model_fields["root"].annotation) if kind.__name__ != "ID" else self.id())
        return self.model(kind)

    def model(self, kind, **given):
        for name, annotation, optional in members(kind):
            wanted = self.optional if self.optional is not None else self.random.random() < 0.5
            if name not in given and (wanted or not optional):
                given[name] = self.value(annotation)
        aliases = {name: field.alias or name for name, field in kind.model_fields.items()}
        return kind(**{aliases[name]: value for name, value in given.items()})

    def one_of(self, kind):
        unused = self.unused.setdefault(kind, list(kind))
        return unused.pop() if unused else self.random.choice(list(kind))

    # Scalars

    def id(self):
        return self.random.choice((str(self.make_UUID(None)), "ab", "x" * 64, "a-b_c:d", "0" * 65, "é--é"))

    def make_UUID(self, _):
        return uuid.UUID(int=self.random.choice((0, 2**128 - 1, self.random.getrandbits(128))))

    def make_float(self, _):
        return self.random.choice((*FLOATS, self.random.uniform(-1e4, 1e4)))

    def make_int(self, _):
        return self.random.choice((*INTEGERS, self.random.randrange(10**9)))

    def make_bool(self, _):
        return self.random.random() < 0.5

    def make_str(self, _):
        return self.random.choice(STRINGS)

    def make_AwareDatetime(self, _):
        moment = datetime.datetime(2026, 1, 1) + datetime.timedelta(seconds=self.random.randrange(-(10**9), 10**9))
        moment = self.random.choice((moment, datetime.datetime(1900, 2, 28), datetime.datetime(2096, 2, 29)))
        return moment.replace(
            microsecond=self.random.choice((0, 1, 500_000, 999_999)), tzinfo=self.random.choice(ZONES)
        )

    # What validators look at

    def make_NumberRange(self, kind):
        start, end = sorted((self.make_float(None), self.make_float(None)))
        return kind(start_of_range=start, end_of_range=end)

    def make_FRBCActuatorDescription(self, kind):
        commodities = self.random.sample(list(Commodity), self.random.randint(1, 4))
        modes = [self.mode(commodities) for _ in range(self.random.randint(1, 3))]
        timers = [self.value(frbc.frbc_actuator_description.Timer) for _ in range(2 if modes[1:] else 0)]
        timers = list({timer.id: timer for timer in timers}.values())
        transitions = [
            self.model(
                frbc.frbc_actuator_description.Transition,
                from_=self.random.choice(modes).id,
                to=self.random.choice(modes).id,
                start_timers=[timer.id for timer in timers],
                blocking_timers=[timer.id for timer in timers[:1]],
            )
            for _ in timers
        ]
        return self.model(
            kind, supported_commodities=commodities, operation_modes=modes, timers=timers, transitions=transitions
        )

    def mode(self, commodities):
        levels = sorted({self.random.uniform(0, 100) for _ in range(4)})
        elements = []
        for start, end in itertools.pairwise(levels):
            quantities = [
                self.random.choice([q for q in CommodityQuantity if commodity_has_quantity(c, q)]) for c in commodities
            ]
            ranges = [
                frbc.frbc_operation_mode_element.PowerRange(
                    start_of_range=-1.5, end_of_range=2.5, commodity_quantity=quantity
                )
                for quantity in quantities
            ]
            elements.append(
                self.model(
                    frbc.FRBCOperationModeElement,
                    fill_level_range=NumberRange(start_of_range=start, end_of_range=end),
                    power_ranges=ranges,
                )
            )
        return self.model(frbc.FRBCOperationMode, elements=elements)

    def make_FRBCOperationMode(self, _):
        return self.mode([Commodity.ELECTRICITY])

    def make_PEBCPowerConstraints(self, kind):
        quantity = self.one_of(CommodityQuantity)
        ranges = [
            self.model(pebc.PEBCAllowedLimitRange, limit_type=limit, commodity_quantity=quantity)
            for limit in pebc.PEBCPowerEnvelopeLimitType
        ]
        return self.model(kind, allowed_limit_ranges=ranges)


def build(seed):
    builder = Builder(seed)
    for name, kind in TYPE_TO_MESSAGE_CLASS.items():
        builder.unused = {}
        count = 0
        while count < AT_LEAST or any(builder.unused.values()):
            builder.optional = {0: True, 1: False}.get(count)
            yield name, builder.message(kind).to_json()
            count += 1


def read(lines):
    for line in lines:
        try:
            S2Parser.parse_as_any_message(line)
        except S2ValidationError:
            yield False
        else:
            yield True


def odd():
    ids = {"message_id": uuid.uuid4(), "id": uuid.uuid4()}
    now = datetime.datetime.now(datetime.UTC)
    numbers = {"upper_average_power": 1.0, "lower_average_power": 0.0}
    yield (
        "a required member left out of PEBC.Instruction",
        pebc.PEBCInstruction(**ids, execution_time=now, abnormal_condition=False),
    )
    yield (
        "a required member left out of PEBC.EnergyConstraint",
        pebc.PEBCEnergyConstraint(**ids, valid_from=now, valid_until=now, **numbers),
    )
    limits = [
        pebc.PEBCAllowedLimitRange(
            commodity_quantity=CommodityQuantity.HEAT_FLOW_RATE,
            limit_type=limit,
            range_boundary=NumberRange(start_of_range=0, end_of_range=1),
        )
        for limit in pebc.PEBCPowerEnvelopeLimitType
    ]
    yield (
        "a required member left out of PEBC.AllowedLimitRange",
        pebc.PEBCPowerConstraints(
            **ids,
            valid_from=now,
            consequence_type=pebc.PEBCPowerEnvelopeConsequenceType.VANISH,
            allowed_limit_ranges=limits,
        ),
    )
    for number in (math.nan, math.inf):
        yield (
            f"{number} in FRBC.StorageStatus",
            frbc.FRBCStorageStatus(message_id=uuid.uuid4(), present_fill_level=number),
        )


def written(message):
    try:
        return message.to_json()
    except PydanticSerializationError:
        return None


if __name__ == "__main__":
    if sys.argv[1] == "build":
        lines = build(int(sys.argv[2]))
    elif sys.argv[1] == "odd":
        lines = ((name, written(message)) for name, message in odd())
    else:
        lines = read(sys.stdin)
    for line in lines:
        print(json.dumps(line))
