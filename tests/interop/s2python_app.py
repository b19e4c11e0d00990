"""A device and an energy manager written with s2-python alone, on whatever medium they are given.

Both tell what happens to them through ``report``, a function that takes an event and its facts. They run until the
medium ends, or ``stop_after`` instructions were carried out.
"""

import datetime
import uuid

from s2python.common import (
    Commodity,
    CommodityQuantity,
    ControlType,
    Duration,
    EnergyManagementRole,
    Handshake,
    HandshakeResponse,
    InstructionStatus,
    InstructionStatusUpdate,
    NumberRange,
    PowerMeasurement,
    PowerRange,
    PowerValue,
    ResourceManagerDetails,
    Role,
    RoleType,
    SelectControlType,
)
from s2python.connection import AssetDetails
from s2python.connection.async_ import S2AsyncConnection
from s2python.connection.async_.control_type.class_based import (
    FRBCControlType,
    PEBCControlType,
    ResourceManagerHandler,
)
from s2python.connection.connection_events import ConnectionStarted
from s2python.frbc import (
    FRBCActuatorDescription,
    FRBCActuatorStatus,
    FRBCInstruction,
    FRBCOperationMode,
    FRBCOperationModeElement,
    FRBCStorageDescription,
    FRBCStorageStatus,
    FRBCSystemDescription,
)
from s2python.pebc import (
    PEBCAllowedLimitRange,
    PEBCInstruction,
    PEBCPowerConstraints,
    PEBCPowerEnvelope,
    PEBCPowerEnvelopeConsequenceType,
    PEBCPowerEnvelopeElement,
    PEBCPowerEnvelopeLimitType,
)
from s2python.version import S2_VERSION

POWER = CommodityQuantity.ELECTRIC_POWER_L1
CONTROL_TYPES = {
    "FRBC": ControlType.FILL_RATE_BASED_CONTROL,
    "PEBC": ControlType.POWER_ENVELOPE_BASED_CONTROL,
}


def now():
    return datetime.datetime.now(datetime.UTC)


# The device


class Device:
    """Base of both kinds of device: reports, and answers an instruction with its status."""

    def __init__(self, report, stop_after):
        self.report = report
        self.left = stop_after

    async def accept(self, connection, instruction, send_okay):
        await send_okay()
        self.report("instruction", id=str(instruction.id))
        for status in (InstructionStatus.ACCEPTED, InstructionStatus.SUCCEEDED):
            await connection.send_msg_and_await_reception_status(
                InstructionStatusUpdate(
                    message_id=uuid.uuid4(), instruction_id=instruction.id, status_type=status, timestamp=now()
                )
            )

    async def done(self, connection):
        self.left -= 1
        if self.left == 0:
            await connection.stop()

    async def deactivate(self, connection):
        self.report("deactivated")


class Battery(Device, FRBCControlType):
    """Two operation modes, one actuator."""

    def __init__(self, report, stop_after):
        super().__init__(report, stop_after)
        self.actuator, self.idle, self.charge = uuid.uuid4(), uuid.uuid4(), uuid.uuid4()

    def mode(self, identifier, rate, power):
        return FRBCOperationMode(
            id=identifier,
            elements=[
                FRBCOperationModeElement(
                    fill_level_range=NumberRange(start_of_range=0.0, end_of_range=100.0),
                    fill_rate=NumberRange(start_of_range=0.0, end_of_range=rate),
                    power_ranges=[PowerRange(start_of_range=0.0, end_of_range=power, commodity_quantity=POWER)],
                )
            ],
            abnormal_condition_only=False,
        )

    async def activate(self, connection):
        self.report("activated", control_type="FRBC")
        actuator = FRBCActuatorDescription(
            id=self.actuator,
            supported_commodities=[Commodity.ELECTRICITY],
            operation_modes=[self.mode(self.idle, 0.0, 0.0), self.mode(self.charge, 0.01, 3000.0)],
            transitions=[],
            timers=[],
        )
        storage = FRBCStorageDescription(
            provides_leakage_behaviour=False,
            provides_fill_level_target_profile=False,
            provides_usage_forecast=False,
            fill_level_range=NumberRange(start_of_range=0.0, end_of_range=100.0),
        )
        for message in (
            FRBCSystemDescription(message_id=uuid.uuid4(), valid_from=now(), actuators=[actuator], storage=storage),
            FRBCStorageStatus(message_id=uuid.uuid4(), present_fill_level=42.5),
            self.status(self.idle, 0.0),
        ):
            await connection.send_msg_and_await_reception_status(message)

    def status(self, mode, factor):
        return FRBCActuatorStatus(
            message_id=uuid.uuid4(),
            actuator_id=self.actuator,
            active_operation_mode_id=mode,
            operation_mode_factor=factor,
        )

    async def handle_instruction(self, connection, msg, send_okay):
        await self.accept(connection, msg, send_okay)
        await connection.send_msg_and_await_reception_status(self.status(msg.operation_mode, msg.operation_mode_factor))
        await self.done(connection)


class Inverter(Device, PEBCControlType):
    """Its power can be limited."""

    async def activate(self, connection):
        self.report("activated", control_type="PEBC")
        limits = [
            PEBCAllowedLimitRange(
                commodity_quantity=POWER,
                limit_type=limit,
                range_boundary=NumberRange(start_of_range=start, end_of_range=end),
                abnormal_condition_only=False,
            )
            for limit, start, end in (
                (PEBCPowerEnvelopeLimitType.UPPER_LIMIT, 0.0, 0.0),
                (PEBCPowerEnvelopeLimitType.LOWER_LIMIT, -5000.0, 0.0),
            )
        ]
        await connection.send_msg_and_await_reception_status(
            PEBCPowerConstraints(
                message_id=uuid.uuid4(),
                id=uuid.uuid4(),
                valid_from=now(),
                consequence_type=PEBCPowerEnvelopeConsequenceType.VANISH,
                allowed_limit_ranges=limits,
            )
        )

    async def handle_instruction(self, connection, msg, send_okay):
        await self.accept(connection, msg, send_okay)
        lower = msg.power_envelopes[0].power_envelope_elements[0].lower_limit
        await connection.send_msg_and_await_reception_status(
            PowerMeasurement(
                message_id=uuid.uuid4(),
                measurement_timestamp=now(),
                values=[PowerValue(commodity_quantity=POWER, value=lower)],
            )
        )
        await self.done(connection)


async def run_rm(medium, kind, report, stop_after=1):
    """Be a device of the given kind (``FRBC`` or ``PEBC``)."""
    device = (Battery if kind == "FRBC" else Inverter)(report, stop_after)
    asset = AssetDetails(
        resource_id=uuid.uuid4(),
        name=f"s2-python {kind}",
        instruction_processing_delay=Duration.from_milliseconds(10),
        roles=[Role(role=RoleType.ENERGY_STORAGE, commodity=Commodity.ELECTRICITY)],
        provides_forecast=False,
        provides_power_measurements=[POWER],
    )
    connection = S2AsyncConnection(medium)
    ResourceManagerHandler(control_types=[device], asset_details=asset).register_handlers(connection)
    await connection.run()
    report("stopped")


# The energy manager. s2-python has no handler for it, so this is what its users write.


class Manager:
    """Selects the control type, sends one instruction for each description, and waits for its status.

    ``handshake`` is the order in which it shakes hands: ``first`` (its own Handshake as soon as it is connected),
    ``late`` (its HandshakeResponse before its Handshake) or ``none`` (the HandshakeResponse only).
    """

    def __init__(self, kind, report, stop_after, handshake):
        self.kind, self.report, self.left, self.handshake = kind, report, stop_after, handshake
        self.modes = None

    def register(self, connection):
        for message, handler in {
            ConnectionStarted: self.started,
            Handshake: self.shake,
            ResourceManagerDetails: self.details,
            FRBCSystemDescription: self.description,
            FRBCStorageStatus: self.note,
            FRBCActuatorStatus: self.actuator,
            PEBCPowerConstraints: self.constraints,
            PowerMeasurement: self.measurement,
            InstructionStatusUpdate: self.update,
        }.items():
            connection.register_handler(message, handler)

    def own_handshake(self):
        return Handshake(
            message_id=uuid.uuid4(), role=EnergyManagementRole.CEM, supported_protocol_versions=[S2_VERSION]
        )

    async def started(self, connection, _event, _okay):
        if self.handshake == "first":
            await connection.send_msg_and_await_reception_status(self.own_handshake())

    async def shake(self, connection, msg, send_okay):
        self.report("handshake", role=msg.role.value, versions=msg.supported_protocol_versions)
        await send_okay()
        await connection.send_msg_and_await_reception_status(
            HandshakeResponse(message_id=uuid.uuid4(), selected_protocol_version=msg.supported_protocol_versions[0])
        )
        if self.handshake == "late":
            # A handler of s2-python that waits here waits for a device whose own handler waits for us.
            await connection.send_and_forget(self.own_handshake())

    async def details(self, connection, msg, send_okay):
        await send_okay()
        self.report("details", name=msg.name, control_types=[t.value for t in msg.available_control_types])
        await connection.send_msg_and_await_reception_status(
            SelectControlType(message_id=uuid.uuid4(), control_type=CONTROL_TYPES[self.kind])
        )

    async def description(self, _connection, msg, send_okay):
        await send_okay()
        self.modes = [mode.id for mode in msg.actuators[0].operation_modes]
        self.report("description", modes=len(self.modes))

    async def note(self, _connection, msg, send_okay):
        await send_okay()
        self.report("status", type=msg.message_type)

    async def actuator(self, connection, msg, send_okay):
        await self.note(connection, msg, send_okay)
        if msg.active_operation_mode_id == self.modes[0]:
            await connection.send_msg_and_await_reception_status(
                FRBCInstruction(
                    message_id=uuid.uuid4(),
                    id=uuid.uuid4(),
                    actuator_id=msg.actuator_id,
                    operation_mode=self.modes[1],
                    operation_mode_factor=0.5,
                    execution_time=now(),
                    abnormal_condition=False,
                )
            )
        else:
            await self.done(connection)

    async def measurement(self, connection, msg, send_okay):
        await self.note(connection, msg, send_okay)
        await self.done(connection)

    async def constraints(self, connection, msg, send_okay):
        await send_okay()
        self.report("description", modes=0)
        element = PEBCPowerEnvelopeElement(
            duration=Duration.from_milliseconds(60000), upper_limit=0.0, lower_limit=-1500.0
        )
        await connection.send_msg_and_await_reception_status(
            PEBCInstruction(
                message_id=uuid.uuid4(),
                id=uuid.uuid4(),
                execution_time=now(),
                abnormal_condition=False,
                power_constraints_id=msg.id,
                power_envelopes=[
                    PEBCPowerEnvelope(id=str(uuid.uuid4()), commodity_quantity=POWER, power_envelope_elements=[element])
                ],
            )
        )

    async def update(self, _connection, msg, send_okay):
        await send_okay()
        self.report("update", id=str(msg.instruction_id), status=msg.status_type.value)

    async def done(self, connection):
        self.left -= 1
        if self.left == 0:
            await connection.stop()


async def run_cem(medium, kind, report, stop_after=1, handshake="first"):
    """Be an energy manager that controls by ``FRBC`` or ``PEBC``."""
    connection = S2AsyncConnection(medium)
    Manager(kind, report, stop_after, handshake).register(connection)
    await connection.run()
    report("stopped")
