"""A battery written for s2-python, as Resource Manager over S2 Connect.

    pip install 's2connect[s2python]'
    s2connect init --home battery --role rm --type Battery --name "Cellar battery"
    python examples/s2python_battery.py battery https://ems.local:8443/pairing/

Run it without the URL once it is paired. Everything down to ``Battery`` is what the application would be on plain S2.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from uuid import UUID, uuid4

from s2python.common import (
    Commodity,
    CommodityQuantity,
    Duration,
    InstructionStatus,
    InstructionStatusUpdate,
    NumberRange,
    PowerRange,
    Role,
    RoleType,
)
from s2python.connection import AssetDetails
from s2python.connection.async_ import S2AsyncConnection
from s2python.connection.async_.control_type.class_based import FRBCControlType, ResourceManagerHandler
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

from s2connect import Endpoint, errors
from s2connect.contrib.s2python import S2ConnectMedium

ACTUATOR, MODE = uuid4(), uuid4()
DETAILS = AssetDetails(
    resource_id=UUID("7f3f6f55-6d4a-4b7c-9a53-2f0f4f8f3c11"),
    name="Cellar battery",
    roles=[Role(role=RoleType.ENERGY_STORAGE, commodity=Commodity.ELECTRICITY)],
    instruction_processing_delay=Duration.from_milliseconds(100),
    provides_forecast=False,
    provides_power_measurements=[CommodityQuantity.ELECTRIC_POWER_L1],
)
POWER = PowerRange(start_of_range=-3000, end_of_range=3000, commodity_quantity=CommodityQuantity.ELECTRIC_POWER_L1)
FULL = NumberRange(start_of_range=0, end_of_range=100)


def description() -> FRBCSystemDescription:
    element = FRBCOperationModeElement(
        fill_level_range=FULL, fill_rate=NumberRange(start_of_range=-0.01, end_of_range=0.01), power_ranges=[POWER]
    )
    mode = FRBCOperationMode(id=MODE, elements=[element], abnormal_condition_only=False)
    return FRBCSystemDescription(
        message_id=uuid4(),
        valid_from=datetime.now(UTC),
        actuators=[
            FRBCActuatorDescription(
                id=ACTUATOR,
                supported_commodities=[Commodity.ELECTRICITY],
                operation_modes=[mode],
                transitions=[],
                timers=[],
            )
        ],
        storage=FRBCStorageDescription(
            provides_leakage_behaviour=False,
            provides_fill_level_target_profile=False,
            provides_usage_forecast=False,
            fill_level_range=FULL,
        ),
    )


class Battery(FRBCControlType):
    _reporting: asyncio.Task[None] | None = None

    async def activate(self, connection: S2AsyncConnection) -> None:
        print("controlled by fill rate")
        await connection.send_msg_and_await_reception_status(description())
        await self._set(connection, 0.0)
        self._reporting = asyncio.create_task(self._report(connection), name="report")

    async def deactivate(self, connection: S2AsyncConnection) -> None:
        if self._reporting is not None:
            self._reporting.cancel()
            await asyncio.gather(self._reporting, return_exceptions=True)
            self._reporting = None

    async def handle_instruction(
        self, connection: S2AsyncConnection, message: FRBCInstruction, send_okay: Callable[[], Awaitable[None]]
    ) -> None:
        await send_okay()
        print("instructed to", message.operation_mode_factor)
        update = InstructionStatusUpdate(
            message_id=uuid4(),
            instruction_id=message.id,
            status_type=InstructionStatus.SUCCEEDED,
            timestamp=datetime.now(UTC),
        )
        await connection.send_msg_and_await_reception_status(update)
        await self._set(connection, message.operation_mode_factor)

    async def _set(self, connection: S2AsyncConnection, factor: float) -> None:
        status = FRBCActuatorStatus(
            message_id=uuid4(), actuator_id=ACTUATOR, active_operation_mode_id=MODE, operation_mode_factor=factor
        )
        await connection.send_msg_and_await_reception_status(status)

    async def _report(self, connection: S2AsyncConnection) -> None:
        fill_level = 40.0
        while True:
            status = FRBCStorageStatus(message_id=uuid4(), present_fill_level=fill_level)
            await connection.send_msg_and_await_reception_status(status)
            fill_level = min(100.0, fill_level + 0.5)
            await asyncio.sleep(10)


async def main(home: str, url: str | None) -> None:
    async with Endpoint.open(home) as endpoint:
        rm = endpoint.node()
        if url is not None:
            code = await asyncio.to_thread(input, "Code shown by the energy manager: ")
            await rm.pair(url, code)
        async for connection, pairing in rm.connections():
            print("in session with", pairing.peer.title)
            async with S2ConnectMedium(connection, role=rm.role) as medium:
                application = S2AsyncConnection(medium)
                ResourceManagerHandler([Battery()], DETAILS).register_handlers(application)
                await application.run()
            print("the session has ended")


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None))
    except errors.S2ConnectError as error:
        sys.exit(str(error))
