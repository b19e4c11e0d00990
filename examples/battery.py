"""A battery as Resource Manager: an energy manager controls it by its fill rate. Ctrl-C or SIGTERM ends it.

    s2connect init --home battery --role rm --type Battery --name "Cellar battery"
    python examples/battery.py battery
    python examples/battery.py battery https://ems.local:8443/pairing/

The first shows a code to type at the energy manager, the second asks for the code that the energy manager shows. Once
it is paired, neither is needed: it connects by itself.
"""

import asyncio
import logging
import sys
from datetime import UTC, datetime

from s2connect import Endpoint, Handlers, RefuseMessage, Session, errors
from s2connect.messages import S2Message, frbc
from s2connect.messages.general import (
    Commodity,
    CommodityQuantity,
    ControlType,
    NumberRange,
    PowerMeasurement,
    PowerRange,
    PowerValue,
    ResourceManagerDetails,
    Role,
    RoleType,
)

log = logging.getLogger("battery")

INVERTER, MODE = "inverter", "charge-or-discharge"
POWER = 5000.0  # W, in both directions
CAPACITY = 10_000.0  # Wh
REPORT_EVERY = 10.0  # seconds


class Battery:
    """The device; yours asks its hardware instead. The factor is from 0, full discharge, to 1, full charge."""

    fill_level = 40.0  # per cent
    factor = 0.5
    is_locked = False

    @property
    def power(self) -> float:
        return (2 * self.factor - 1) * POWER

    def advance(self, seconds: float) -> None:
        charged = self.power * seconds / 3600 / CAPACITY * 100
        self.fill_level = min(100.0, max(0.0, self.fill_level + charged))


def details() -> ResourceManagerDetails:
    return ResourceManagerDetails(
        resource_id="cellar-battery",
        name="Cellar battery",
        roles=[Role(role=RoleType.ENERGY_STORAGE, commodity=Commodity.ELECTRICITY)],
        instruction_processing_delay=100,
        available_control_types=[ControlType.FILL_RATE_BASED_CONTROL],
        provides_forecast=False,
        provides_power_measurement_types=[CommodityQuantity.ELECTRIC_POWER_L1],
    )


def description() -> frbc.SystemDescription:
    full, rate = NumberRange(start_of_range=0, end_of_range=100), POWER / 3600 / CAPACITY * 100
    element = frbc.OperationModeElement(
        fill_level_range=full,
        fill_rate=NumberRange(start_of_range=-rate, end_of_range=rate),
        power_ranges=[
            PowerRange(
                start_of_range=-POWER, end_of_range=POWER, commodity_quantity=CommodityQuantity.ELECTRIC_POWER_L1
            )
        ],
    )
    inverter = frbc.ActuatorDescription(
        id=INVERTER,
        supported_commodities=[Commodity.ELECTRICITY],
        operation_modes=[frbc.OperationMode(id=MODE, elements=[element], abnormal_condition_only=False)],
        transitions=[],
        timers=[],
    )
    storage = frbc.StorageDescription(
        provides_leakage_behaviour=False,
        provides_fill_level_target_profile=False,
        provides_usage_forecast=False,
        fill_level_range=full,
    )
    return frbc.SystemDescription(valid_from=datetime.now(UTC), actuators=[inverter], storage=storage)


def status(battery: Battery) -> list[S2Message]:
    power = PowerValue(commodity_quantity=CommodityQuantity.ELECTRIC_POWER_L1, value=battery.power)
    return [
        frbc.ActuatorStatus(actuator_id=INVERTER, active_operation_mode_id=MODE, operation_mode_factor=battery.factor),
        frbc.StorageStatus(present_fill_level=battery.fill_level),
        PowerMeasurement(measurement_timestamp=datetime.now(UTC), values=[power]),
    ]


def handlers_of(battery: Battery) -> Handlers:
    """Return what the battery does with the messages of an energy manager."""
    handlers = Handlers()

    @handlers.on_open
    def introduce(session: Session) -> ResourceManagerDetails:
        log.info("in session with %s", session.peer.title)
        return details()

    @handlers.on_close
    def rest(session: Session) -> None:
        log.info("the session has ended (%s)", session.end_reason)
        battery.factor = 0.5  # nobody is there to say otherwise

    @handlers.while_selected(ControlType.FILL_RATE_BASED_CONTROL)
    async def report(session: Session) -> None:
        await session.send(description())
        while True:
            for message in status(battery):
                await session.send(message)
            await asyncio.sleep(REPORT_EVERY)

    @handlers.on(frbc.Instruction)
    def check(session: Session, instruction: frbc.Instruction) -> None:  # before it is answered
        if battery.is_locked:
            raise RefuseMessage("TEMPORARY_ERROR", "the battery is locked for service")

    @handlers.on_instruction(frbc.Instruction)
    def follow(session: Session, instruction: frbc.Instruction) -> list[S2Message]:  # at its time of execution
        battery.factor = instruction.operation_mode_factor
        log.info("instructed: %.0f W", battery.power)
        return status(battery)

    return handlers


async def live(battery: Battery) -> None:
    while True:
        await asyncio.sleep(1)
        battery.advance(1)


async def main(home: str, url: str = "", code: str = "") -> None:
    battery = Battery()
    async with Endpoint.open(home) as endpoint:
        node = endpoint.node()
        node.handle(handlers_of(battery))
        endpoint.supervisor.keep(lambda: live(battery), "battery")
        if url:
            await node.pair(url, code)
        node.show_codes(lambda code: print("Pair at", endpoint.pairing_url, "with the code", code.shown, flush=True))
        await endpoint.run_until_stopped()


if __name__ == "__main__":
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    arguments = sys.argv[1:3]
    if not arguments:
        sys.exit(__doc__)
    if len(arguments) == 2:
        arguments.append(input("Code shown by the energy manager: "))
    try:
        asyncio.run(main(*arguments))
    except errors.S2ConnectError as error:
        sys.exit(str(error))
