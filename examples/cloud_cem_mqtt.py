"""A cloud energy manager that reads its devices from its own MQTT broker, without S2 Connect (MQ-19, static mode).

    python examples/cloud_cem_mqtt.py cloud.toml

A bridge in the building opens the sessions: its route has a manager of type "mqtt" (examples/bridge-building.toml).
"""

import asyncio
import sys
import tomllib
from pathlib import Path
from typing import Any
from uuid import UUID

from s2connect import Connection, MqttSettings, NodeDescription, NodeId, Role, Session, errors
from s2connect.transports import MqttTransport, SessionToken, StaticSession


async def converse(connection: Connection) -> None:
    device = NodeDescription(id=connection.info.remote, brand="-", type="-", model_name="-", role=Role.RM)
    session = Session(connection, peer=device, role=Role.CEM)
    print(device.id, "is here")
    try:
        async for message in session:
            print(device.id, message.type)
            if message.type == "ResourceManagerDetails":
                offered = message.body["available_control_types"][0]
                await session.send({"message_type": "SelectControlType", "control_type": offered})
    except errors.SessionError as error:
        print(device.id, error)
    print(device.id, "has left:", session.end_reason)


async def main(cloud: dict[str, Any], secret: SessionToken) -> None:
    broker = MqttSettings(**cloud["mqtt"]).complete("cloud")
    server = NodeId(UUID(cloud["id"]))
    transport = MqttTransport(broker, role_of=lambda _: Role.CEM)
    transport.start()
    async with asyncio.TaskGroup() as talks:
        for device in cloud["devices"]:
            session = StaticSession(
                topic_prefix=broker.prefix,
                server=server,
                client=NodeId(UUID(device)),
                mc=cloud["bridge"],
                client_role=Role.RM,
                secret=secret,
                versions=("v1.0.0",),
            )
            await transport.listen_static(session, lambda connection: talks.create_task(converse(connection)))
        print("waiting for", len(cloud["devices"]), "devices at", broker.url)
        await asyncio.Event().wait()


if __name__ == "__main__":
    settings = tomllib.loads(Path(sys.argv[1]).read_text())
    try:
        asyncio.run(main(settings, SessionToken(Path(settings["secret_file"]).read_text().strip())))
    except errors.S2ConnectError as error:
        sys.exit(str(error))
