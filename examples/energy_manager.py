"""An energy manager: controls batteries by their fill rate, from half full to full and back. Ctrl-C or SIGTERM ends it.

    s2connect init --home ems --role cem --name "House"
    python examples/energy_manager.py ems

It shows a code for the next device; those that are paired come by themselves.
"""

import asyncio
import logging
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime

from s2connect import Endpoint, Handlers, Session, errors
from s2connect.messages import S2Message, frbc, new_id
from s2connect.messages.general import ControlType, InstructionStatusUpdate, PowerMeasurement, ResourceManagerDetails

log = logging.getLogger("energy-manager")

LOW, HIGH = 0.5, 0.95  # parts of the range of the fill level between which a battery goes up and down


@dataclass
class Device:
    """Knowledge of an energy manager about one device."""

    description: frbc.SystemDescription | None = None
    fill_level: float | None = None
    charges: bool = True
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def wanted(self) -> frbc.Instruction | None:
        """Return the instruction that would be right now; None while too little is known."""
        if self.description is None or self.fill_level is None:
            return None
        level = self.description.storage.fill_level_range
        part = (self.fill_level - level.start_of_range) / (level.end_of_range - level.start_of_range)
        if part <= LOW or part >= HIGH:
            self.charges = part <= LOW
        (actuator, *_) = self.description.actuators
        return frbc.Instruction(
            id=new_id(),
            actuator_id=actuator.id,
            operation_mode=actuator.operation_modes[0].id,
            operation_mode_factor=1.0 if self.charges else 0.0,
            execution_time=datetime.now(UTC),
            abnormal_condition=False,
        )


def make_handlers() -> Handlers:
    """Return what the energy manager does with the messages of its devices."""
    handlers = Handlers(select=[ControlType.FILL_RATE_BASED_CONTROL])
    devices: dict[Session, Device] = {}

    @handlers.on_open
    def arrived(session: Session) -> None:
        log.info("%s is here", session.peer.title)
        devices[session] = Device()

    @handlers.on_close
    def left(session: Session) -> None:
        log.info("%s has left: %s", session.peer.title, session.end_reason)
        del devices[session]

    @handlers.on(ResourceManagerDetails, PowerMeasurement, InstructionStatusUpdate)
    def note(session: Session, message: S2Message) -> None:
        log.info("%s %s", session.peer.title, message.message_type)

    @handlers.on(frbc.SystemDescription)
    def describe(session: Session, message: frbc.SystemDescription) -> None:
        devices[session].description = message
        devices[session].changed.set()

    @handlers.on(frbc.StorageStatus)
    def fill(session: Session, message: frbc.StorageStatus) -> None:
        log.info("%s %s %.1f", session.peer.title, message.message_type, message.present_fill_level)
        devices[session].fill_level = message.present_fill_level
        devices[session].changed.set()

    @handlers.while_selected(ControlType.FILL_RATE_BASED_CONTROL)
    async def control(session: Session) -> None:
        device, factor = devices[session], None
        while True:
            await device.changed.wait()
            device.changed.clear()
            instruction = device.wanted()
            if instruction is not None and instruction.operation_mode_factor != factor:
                try:
                    await session.send(instruction, retries=3)
                    factor = instruction.operation_mode_factor
                except errors.MessageRefused as error:  # tried again when something changes
                    log.warning("%s: %s", session.peer.title, error)

    return handlers


async def main(home: str) -> None:
    async with Endpoint.open(home) as endpoint:
        node = endpoint.node()
        node.handle(make_handlers())
        node.show_codes(
            lambda code: print("Pair at", endpoint.pairing_url, "with the code", code.shown, flush=True), always=True
        )
        await endpoint.run_until_stopped()


if __name__ == "__main__":
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        asyncio.run(main(sys.argv[1]))
    except errors.S2ConnectError as error:
        sys.exit(str(error))
