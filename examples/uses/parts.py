"""Parts that the five uses share: a battery, an energy manager, and what the two say to each other.

None of it knows where the other side is, or how its messages travel: that is what differs between the uses.
"""

from datetime import UTC, datetime
from pathlib import Path

from s2connect import Deployment, EndpointConfig, NodeConfig, Role, Session
from s2connect.messages import general as s2
from s2connect.messages import new_id
from s2connect.messages.frbc import (
    ActuatorDescription,
    Instruction,
    OperationMode,
    OperationModeElement,
    StorageDescription,
    StorageStatus,
    SystemDescription,
)

INVERTER, CHARGE = "inverter", "charge"
WATTS, PERCENT_PER_SECOND = 3000.0, 0.01
BY_FILL_RATE = s2.ControlType.FILL_RATE_BASED_CONTROL


def details(name: str) -> s2.ResourceManagerDetails:
    return s2.ResourceManagerDetails(
        resource_id="battery",
        name=name,
        roles=[s2.Role(role=s2.RoleType.ENERGY_STORAGE, commodity=s2.Commodity.ELECTRICITY)],
        instruction_processing_delay=100,
        available_control_types=[BY_FILL_RATE],
        provides_forecast=False,
        provides_power_measurement_types=[s2.CommodityQuantity.ELECTRIC_POWER_L1],
    )


def description() -> SystemDescription:
    percent = s2.NumberRange(start_of_range=0, end_of_range=100)
    charge = OperationModeElement(
        fill_level_range=percent,
        fill_rate=s2.NumberRange(start_of_range=0, end_of_range=PERCENT_PER_SECOND),
        power_ranges=[
            s2.PowerRange(
                start_of_range=0, end_of_range=WATTS, commodity_quantity=s2.CommodityQuantity.ELECTRIC_POWER_L1
            )
        ],
    )
    inverter = ActuatorDescription(
        id=INVERTER,
        supported_commodities=[s2.Commodity.ELECTRICITY],
        operation_modes=[OperationMode(id=CHARGE, elements=[charge], abnormal_condition_only=False)],
        transitions=[],
        timers=[],
    )
    storage = StorageDescription(
        provides_leakage_behaviour=False,
        provides_fill_level_target_profile=False,
        provides_usage_forecast=False,
        fill_level_range=percent,
    )
    return SystemDescription(valid_from=datetime.now(UTC), actuators=[inverter], storage=storage)


async def battery(session: Session, name: str) -> None:
    """Say what the battery can do, and do what the energy manager asks for."""
    await session.send(details(name))
    async for message in session:
        match message.parsed:
            case s2.SelectControlType(control_type=control_type) if control_type is BY_FILL_RATE:
                await session.send(description())
                await session.send(StorageStatus(present_fill_level=40.0))
            case Instruction(id=instruction, operation_mode_factor=factor):
                print(f"{name}: charging with {WATTS * factor:.0f} W")
                done = s2.InstructionStatus.SUCCEEDED
                await session.send(
                    s2.InstructionStatusUpdate(
                        instruction_id=instruction, status_type=done, timestamp=datetime.now(UTC)
                    )
                )


async def energy_manager(session: Session) -> None:
    """Have the battery charge with half of its power, once."""
    name = session.peer.title
    async for message in session:
        match message.parsed:
            case s2.ResourceManagerDetails():
                print(f"energy manager: {name} is here")
                await session.send(s2.SelectControlType(control_type=BY_FILL_RATE))
            case StorageStatus(present_fill_level=level):
                print(f"energy manager: {name} is at {level:.0f} %, charge it")
                await session.send(
                    Instruction(
                        id=new_id(),
                        actuator_id=INVERTER,
                        operation_mode=CHARGE,
                        operation_mode_factor=0.5,
                        execution_time=datetime.now(UTC),
                        abnormal_condition=False,
                    )
                )
            case s2.InstructionStatusUpdate(status_type=status):
                print(f"energy manager: {name} says {status}")
                return


def settings(role: Role, *names: str, authority: Path | None = None, cloud: bool = False) -> EndpointConfig:
    """Return the settings of an endpoint on this machine, with a node for each name.

    A cloud has a certificate. ``authority`` is the directory of ``examples/uses/certificate.py``, with the one of the
    cloud and the authority that the others trust. On the internet a public authority takes its place, and
    ``allow_private_addresses`` is left out.
    """
    nodes = [
        NodeConfig(role=role, brand="Example", user_defined_name=name, alias=f"N{number}" if len(names) > 1 else None)
        for number, name in enumerate(names, 1)
    ]
    local = EndpointConfig(host="localhost", bind="127.0.0.1", port=0, advertise=False, nodes=tuple(nodes))
    if authority is None:
        return local
    trusting = local.model_copy(update={"trust_anchors": authority / "ca.pem"})
    if not cloud:
        return trusting
    certificate = {"certificate": authority / "cloud.pem", "private_key": authority / "cloud-key.pem"}
    in_wan = {"deployment": Deployment.WAN, "allow_private_addresses": True}  # "private": this machine
    return trusting.model_copy(update=certificate | in_wan)
