"""A cloud energy manager that takes its devices from its own MQTT broker, without S2 Connect (MQ-19, static mode).

    python examples/cloud_cem_mqtt.py examples/cloud.toml

A bridge in the building opens the sessions, and lists its devices at the broker: its route has a manager of type "mqtt"
(examples/bridge-building.toml). A device that is paired there comes here by itself.
"""

import asyncio
import logging
import os
import sys
import tomllib
from pathlib import Path
from typing import Any
from uuid import UUID

from s2connect import (
    Connection,
    Handlers,
    MqttSettings,
    NodeDescription,
    NodeId,
    Role,
    Session,
    Supervisor,
    errors,
    until_signal,
)
from s2connect.messages import S2Message
from s2connect.messages.ddbc import ActuatorStatus, PresentDemandStatus, SystemDescription
from s2connect.messages.general import ControlType, PowerMeasurement, ResourceManagerDetails
from s2connect.transports import ListedDevice, MqttTransport, SessionToken, StaticGateway

log = logging.getLogger("cloud")
NOTHING = {ControlType.NO_SELECTION, ControlType.NOT_CONTROLLABLE}


def make_handlers() -> Handlers:
    handlers = Handlers(select=[each for each in ControlType if each not in NOTHING])

    @handlers.on_open
    def arrived(session: Session) -> None:
        log.info("%s is here", session.peer.title)

    @handlers.on_close
    def left(session: Session) -> None:
        log.info("%s has left: %s", session.peer.title, session.end_reason)

    @handlers.on(ResourceManagerDetails, PowerMeasurement, SystemDescription, ActuatorStatus, PresentDemandStatus)
    def note(session: Session, message: S2Message) -> None:
        log.info("%s %s", session.peer.title, message.message_type)

    return handlers


def describe(device: ListedDevice) -> NodeDescription:
    return NodeDescription(
        id=device.id,
        brand=device.brand or "-",
        type=device.type or "-",
        model_name=device.model_name or "-",
        user_defined_name=device.name or None,
        role=Role.RM,
    )


def read_newest(file: Path) -> int:
    return int(file.read_text("ascii")) if file.exists() else 0


async def main(cloud: dict[str, Any], secret: SessionToken) -> None:
    broker = MqttSettings(**cloud["mqtt"]).complete("cloud")
    gateway = StaticGateway(
        topic_prefix=broker.prefix,
        server=NodeId(UUID(cloud["id"])),
        mc=cloud["bridge"],
        client_role=Role.RM,
        secret=secret,
        versions=("v1.0.0",),
    )
    newest = Path(cloud["newest_file"])  # the time of the newest list: a broker cannot give an older one again
    transport, handlers = MqttTransport(broker, role_of=lambda _: Role.CEM), make_handlers()

    async with Supervisor("cloud") as tasks:

        def take(connection: Connection, device: ListedDevice) -> None:
            session = Session(connection, peer=describe(device), role=Role.CEM)
            tasks.spawn(handlers.run(session, failures=tasks.failures), "session", device.id)

        def changed(added: list[ListedDevice], removed: list[ListedDevice]) -> None:
            for device in added:
                log.info("new device: %s (%s)", device.name, device.id)
            for device in removed:
                log.info("no longer there: %s (%s)", device.name, device.id)

        transport.start()
        try:
            await transport.listen_gateway(
                gateway,
                take,
                changed=changed,
                newest=read_newest(newest),
                on_newest=lambda at: newest.write_text(f"{at}\n", "ascii"),
            )
        except errors.NetworkError as error:
            log.warning("%s It is tried again.", error)
        log.info("waiting for the devices of %s at %s", gateway.mc, broker.url)
        await until_signal()
    await transport.close()


if __name__ == "__main__":
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    settings = Path(sys.argv[1])
    cloud = tomllib.loads(settings.read_text("utf-8"))
    os.chdir(settings.parent)  # the paths in it are relative to it
    try:
        asyncio.run(main(cloud, SessionToken(Path(cloud["secret_file"]).read_text("utf-8").strip())))
    except errors.S2ConnectError as error:
        sys.exit(str(error))
