"""Messages and objects that all control types share."""

from enum import StrEnum
from typing import Annotated

from s2connect.messages.base import Duration, Id, IdentifiedMessage, S2Message, S2Object, Timestamp, length
from s2connect.messages.envelope import ReceptionStatusValue


class Commodity(StrEnum):
    """Kind of energy."""

    GAS = "GAS"
    HEAT = "HEAT"
    ELECTRICITY = "ELECTRICITY"
    OIL = "OIL"


class CommodityQuantity(StrEnum):
    """Measured quantity of a commodity. Positive values are consumed, negative ones produced."""

    ELECTRIC_POWER_L1 = "ELECTRIC.POWER.L1"
    """W, of a device with one phase too."""
    ELECTRIC_POWER_L2 = "ELECTRIC.POWER.L2"
    """W."""
    ELECTRIC_POWER_L3 = "ELECTRIC.POWER.L3"
    """W."""
    ELECTRIC_POWER_3_PHASE_SYMMETRIC = "ELECTRIC.POWER.3_PHASE_SYMMETRIC"
    """W, shared equally by three phases."""
    NATURAL_GAS_FLOW_RATE = "NATURAL_GAS.FLOW_RATE"
    """Litres per second."""
    HYDROGEN_FLOW_RATE = "HYDROGEN.FLOW_RATE"
    """Grams per second."""
    HEAT_TEMPERATURE = "HEAT.TEMPERATURE"
    """Degrees Celsius."""
    HEAT_FLOW_RATE = "HEAT.FLOW_RATE"
    """Litres per second of what carries the heat."""
    HEAT_THERMAL_POWER = "HEAT.THERMAL_POWER"
    """W."""
    OIL_FLOW_RATE = "OIL.FLOW_RATE"
    """Litres per hour."""


class ControlType(StrEnum):
    """Control type: the kind of control that an energy manager selects."""

    POWER_ENVELOPE_BASED_CONTROL = "POWER_ENVELOPE_BASED_CONTROL"
    POWER_PROFILE_BASED_CONTROL = "POWER_PROFILE_BASED_CONTROL"
    OPERATION_MODE_BASED_CONTROL = "OPERATION_MODE_BASED_CONTROL"
    FILL_RATE_BASED_CONTROL = "FILL_RATE_BASED_CONTROL"
    DEMAND_DRIVEN_BASED_CONTROL = "DEMAND_DRIVEN_BASED_CONTROL"
    NOT_CONTROLLABLE = "NOT_CONTROLABLE"
    NO_SELECTION = "NO_SELECTION"


class Currency(StrEnum):
    """ISO 4217 code of a currency."""

    # fmt: off
    AED, ANG, AUD, CHE, CHF, CHW, EUR, GBP, LBP, LKR, LRD, LSL = (
        "AED", "ANG", "AUD", "CHE", "CHF", "CHW", "EUR", "GBP", "LBP", "LKR", "LRD", "LSL",
    )
    LYD, MAD, MDL, MGA, MKD, MMK, MNT, MOP, MRO, MUR, MVR, MWK = (
        "LYD", "MAD", "MDL", "MGA", "MKD", "MMK", "MNT", "MOP", "MRO", "MUR", "MVR", "MWK",
    )
    MXN, MXV, MYR, MZN, NAD, NGN, NIO, NOK, NPR, NZD, OMR, PAB = (
        "MXN", "MXV", "MYR", "MZN", "NAD", "NGN", "NIO", "NOK", "NPR", "NZD", "OMR", "PAB",
    )
    PEN, PGK, PHP, PKR, PLN, PYG, QAR, RON, RSD, RUB, RWF, SAR = (
        "PEN", "PGK", "PHP", "PKR", "PLN", "PYG", "QAR", "RON", "RSD", "RUB", "RWF", "SAR",
    )
    SBD, SCR, SDG, SEK, SGD, SHP, SLL, SOS, SRD, SSP, STD, SYP = (
        "SBD", "SCR", "SDG", "SEK", "SGD", "SHP", "SLL", "SOS", "SRD", "SSP", "STD", "SYP",
    )
    SZL, THB, TJS, TMT, TND, TOP, TRY, TTD, TWD, TZS, UAH, UGX = (
        "SZL", "THB", "TJS", "TMT", "TND", "TOP", "TRY", "TTD", "TWD", "TZS", "UAH", "UGX",
    )
    USD, USN, UYI, UYU, UZS, VEF, VND, VUV, WST, XAG, XAU, XBA = (
        "USD", "USN", "UYI", "UYU", "UZS", "VEF", "VND", "VUV", "WST", "XAG", "XAU", "XBA",
    )
    XBB, XBC, XBD, XCD, XOF, XPD, XPF, XPT, XSU, XTS, XUA, XXX = (
        "XBB", "XBC", "XBD", "XCD", "XOF", "XPD", "XPF", "XPT", "XSU", "XTS", "XUA", "XXX",
    )
    YER, ZAR, ZMW, ZWL = (
        "YER", "ZAR", "ZMW", "ZWL",
    )
    # fmt: on


class EnergyManagementRole(StrEnum):
    """Role of a node in a handshake."""

    CEM = "CEM"
    RM = "RM"


class InstructionStatus(StrEnum):
    """Progress of an instruction."""

    NEW = "NEW"
    ACCEPTED = "ACCEPTED"
    REJECTED = "REJECTED"
    REVOKED = "REVOKED"
    STARTED = "STARTED"
    SUCCEEDED = "SUCCEEDED"
    ABORTED = "ABORTED"


class RevokableObjects(StrEnum):
    """Kinds of objects that can be revoked."""

    PEBC_POWERCONSTRAINTS = "PEBC.PowerConstraints"
    PEBC_ENERGYCONSTRAINT = "PEBC.EnergyConstraint"
    PEBC_INSTRUCTION = "PEBC.Instruction"
    PPBC_POWERPROFILEDEFINITION = "PPBC.PowerProfileDefinition"
    PPBC_SCHEDULEINSTRUCTION = "PPBC.ScheduleInstruction"
    PPBC_STARTINTERRUPTIONINSTRUCTION = "PPBC.StartInterruptionInstruction"
    PPBC_ENDINTERRUPTIONINSTRUCTION = "PPBC.EndInterruptionInstruction"
    OMBC_SYSTEMDESCRIPTION = "OMBC.SystemDescription"
    OMBC_INSTRUCTION = "OMBC.Instruction"
    FRBC_SYSTEMDESCRIPTION = "FRBC.SystemDescription"
    FRBC_INSTRUCTION = "FRBC.Instruction"
    DDBC_SYSTEMDESCRIPTION = "DDBC.SystemDescription"
    DDBC_INSTRUCTION = "DDBC.Instruction"


class RoleType(StrEnum):
    """Use of a commodity by a device."""

    ENERGY_PRODUCER = "ENERGY_PRODUCER"
    ENERGY_CONSUMER = "ENERGY_CONSUMER"
    ENERGY_STORAGE = "ENERGY_STORAGE"


class SessionRequestType(StrEnum):
    """Request of a SessionRequest."""

    RECONNECT = "RECONNECT"
    TERMINATE = "TERMINATE"


class NumberRange(S2Object):
    """From one number to another, both included."""

    start_of_range: float
    end_of_range: float


class PowerRange(S2Object):
    """From one value of a quantity to another, both included, in the unit of the quantity."""

    start_of_range: float
    end_of_range: float
    commodity_quantity: CommodityQuantity


class Timer(S2Object):
    """Blocks transitions for ``duration`` milliseconds after it was started."""

    id: Id
    duration: Duration
    diagnostic_label: str | None = None


class Transition(S2Object):
    """A possible change from one operation mode to another.

    Attributes:
        id: Its identifier.
        from_: The mode before, spelled ``from`` on the wire.
        to: The mode after.
        start_timers: Timers that it starts, or starts anew.
        blocking_timers: Timers that all have to be over before it may begin.
        abnormal_condition_only: Whether it is for abnormal conditions only.
        transition_costs: What it costs each time, in the currency of the details.
        transition_duration: Milliseconds until the device behaves as in the mode after; None is no time worth naming.
    """

    id: Id
    from_: Id
    to: Id
    start_timers: Annotated[list[Id], length(0, 1000)]
    blocking_timers: Annotated[list[Id], length(0, 1000)]
    abnormal_condition_only: bool
    transition_costs: float | None = None
    transition_duration: Duration | None = None


class PowerForecastValue(S2Object):
    """A forecast of one quantity, in its unit.

    The limits hold for sure, the others with a probability of 95 and 68 percent.
    """

    value_expected: float
    commodity_quantity: CommodityQuantity
    value_upper_limit: float | None = None
    value_upper_95ppr: float | None = None
    value_upper_68ppr: float | None = None
    value_lower_68ppr: float | None = None
    value_lower_95ppr: float | None = None
    value_lower_limit: float | None = None


class PowerForecastElement(S2Object):
    """Forecast for ``duration`` milliseconds."""

    duration: Duration
    power_values: Annotated[list[PowerForecastValue], length(1, 10)]


class PowerValue(S2Object):
    """A measured value of a quantity, in its unit."""

    commodity_quantity: CommodityQuantity
    value: float


class Role(S2Object):
    """Role of the device for one commodity."""

    role: RoleType
    commodity: Commodity


class Handshake(IdentifiedMessage):
    """First message of plain S2 over WebSocket; S2 Connect sessions have none (MSG-01)."""

    role: EnergyManagementRole
    supported_protocol_versions: Annotated[list[str], length(1)] | None = None


class HandshakeResponse(IdentifiedMessage):
    """The energy manager's choice of version in plain S2 over WebSocket (MSG-01)."""

    selected_protocol_version: str


class InstructionStatusUpdate(IdentifiedMessage):
    """Progress of an instruction."""

    instruction_id: Id
    status_type: InstructionStatus
    timestamp: Timestamp


class PowerForecast(IdentifiedMessage):
    """Forecast of the device's consumption and production."""

    start_time: Timestamp
    elements: Annotated[list[PowerForecastElement], length(1, 288)]


class PowerMeasurement(IdentifiedMessage):
    """Values measured by the device."""

    measurement_timestamp: Timestamp
    values: Annotated[list[PowerValue], length(1, 10)]


class ReceptionStatus(S2Message):
    """Acknowledgement of every other message (MSG-03); the only one without ``message_id``."""

    subject_message_id: Id
    status: ReceptionStatusValue
    diagnostic_label: str | None = None


class ResourceManagerDetails(IdentifiedMessage):
    """Description of the device; ``instruction_processing_delay`` in milliseconds."""

    resource_id: Id
    roles: Annotated[list[Role], length(1, 3)]
    instruction_processing_delay: Duration
    available_control_types: Annotated[list[ControlType], length(1, 5)]
    provides_forecast: bool
    provides_power_measurement_types: Annotated[list[CommodityQuantity], length(1, 10)]
    name: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    serial_number: str | None = None
    firmware_version: str | None = None
    currency: Currency | None = None


class RevokeObject(IdentifiedMessage):
    """Revocation of an object that was sent before."""

    object_type: RevokableObjects
    object_id: Id


class SelectControlType(IdentifiedMessage):
    """Selection of a control type by the energy manager."""

    control_type: ControlType


class SessionRequest(IdentifiedMessage):
    """Request to end the session, with or without an immediate reconnection (REC-03)."""

    request: SessionRequestType
    diagnostic_label: str | None = None
