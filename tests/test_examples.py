"""The examples do what they say, as programs of their own."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from s2connect import EndpointConfig, NodeConfig, NodeDescription, NodeId, Role, Session, create_home
from s2connect.messages.ddbc import BetaSystemDescription, Instruction
from s2connect.model.secret import Secret
from s2connect.model.url import MqttUrl
from s2connect.plain import PlainServer
from s2connect.rest.server import free_port
from s2connect.transports.legacy import PlainDoor
from s2connect.transports.mqtt.details import MqttPassword, SessionToken, StaticSession
from s2connect.transports.mqtt.settings import MqttSettings
from s2connect.transports.mqtt.transport import MqttTransport
from tests.mosquitto import Mosquitto, access_list, password

EXAMPLES = Path(__file__).parents[1] / "examples"
DETAILS = """{"message_type": "ResourceManagerDetails", "resource_id": "battery", "instruction_processing_delay": 100,
"roles": [{"role": "ENERGY_STORAGE", "commodity": "ELECTRICITY"}], "provides_forecast": false,
"available_control_types": ["FILL_RATE_BASED_CONTROL"], "provides_power_measurement_types": ["ELECTRIC.POWER.L1"]}"""


def make_home(path: Path, role: Role) -> None:
    node = NodeConfig(role=role, user_defined_name="Cellar battery" if role is Role.RM else "House")
    port = free_port("127.0.0.1")
    create_home(path, EndpointConfig(host="127.0.0.1", bind="127.0.0.1", port=port, vault="files", nodes=(node,)))


async def start(name: str, *arguments: str, env: dict[str, str] | None = None) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-u",
        str(EXAMPLES / name),
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **(env or {})},
    )


async def read_until(process: asyncio.subprocess.Process, text: str) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(20):
        while True:
            line = (await process.stdout.readline()).decode()
            assert line, f"ended before it said {text!r}"
            if text in line:
                return line


@pytest.mark.parametrize("script", ["battery.py", "s2python_battery.py"])
async def test_the_battery_and_the_energy_manager_pair_and_talk(tmp_path: Path, script: str) -> None:
    if script == "s2python_battery.py":
        pytest.importorskip("s2python", reason="s2-python is not installed; the extra s2python brings it")
    await asyncio.to_thread(make_home, tmp_path / "ems", Role.CEM)
    await asyncio.to_thread(make_home, tmp_path / "battery", Role.RM)
    manager = await start("energy_manager.py", str(tmp_path / "ems"))
    try:
        words = (await read_until(manager, "Pair at")).split()
        battery = await start(script, str(tmp_path / "battery"), words[2])
        try:
            assert battery.stdin is not None
            battery.stdin.write(f"{words[-1]}\n".encode())
            await battery.stdin.drain()
            await read_until(battery, "in session with House")
            await read_until(manager, "Cellar battery FRBC.StorageStatus")
        finally:
            battery.terminate()
            await battery.communicate()
        await read_until(manager, "Cellar battery has left")
    finally:
        manager.terminate()
        await manager.communicate()


def peer(role: Role) -> NodeDescription:
    return NodeDescription(id=NodeId(uuid4()), brand="test", type="test", model_name="test", role=role)


async def test_the_old_device_speaks_the_s2_of_yesterday_without_a_mistake() -> None:
    door = PlainDoor(role=Role.CEM, local=NodeId(uuid4()), tokens={"heat-pump": Secret("token-of-the-heat-pump")})
    async with PlainServer(door, path="/heat-pump") as server:
        url = f"ws://127.0.0.1:{server.port}/heat-pump"
        device = await start("old_device.py", url, env={"S2_TOKEN": "token-of-the-heat-pump"})
        try:
            async with asyncio.timeout(20):
                connection = await anext(server)
                assert connection.info.s2_version == "0.0.2-beta"
                session = Session(connection, peer=peer(Role.RM), role=Role.CEM)  # judges by all rules
                assert (await session.receive()).type == "ResourceManagerDetails"
                await session.send({"message_type": "SelectControlType", "control_type": "DEMAND_DRIVEN_BASED_CONTROL"})
                description = (await session.receive()).parsed
                assert isinstance(description, BetaSystemDescription)
                assert (await session.receive()).type == "DDBC.ActuatorStatus"
                instruction = Instruction(
                    id=str(uuid4()),
                    execution_time=datetime.now(UTC),
                    abnormal_condition=False,
                    actuator_id=description.actuators[0].id,
                    operation_mode_id="heat",
                    operation_mode_factor=0.5,
                )
                await session.send(instruction)
                assert (await session.receive()).body["status_type"] == "SUCCEEDED"
                assert (await session.receive()).body["operation_mode_factor"] == 0.5
                await session.close()
        finally:
            device.terminate()
            output, _ = await device.communicate()
    assert "answered OK" in output.decode()
    assert "PERMANENT_ERROR" not in output.decode()


async def test_the_cloud_reads_its_devices_from_mqtt(tmp_path: Path) -> None:
    cloud_id, device_id = NodeId(uuid4()), NodeId(uuid4())
    broker = await asyncio.to_thread(Mosquitto, tmp_path, ["cloud", "bridge"], access_list({"cloud": [str(cloud_id)]}))
    await asyncio.to_thread(broker.start)
    secret = base64.b64encode(bytes(range(32))).decode()
    for name, text in (("secret", secret), ("broker-password", password("cloud").reveal())):
        (tmp_path / name).touch(0o600)
        (tmp_path / name).write_text(text)
    (tmp_path / "cloud.toml").write_text(
        f"""
id = "{cloud_id}"
bridge = "bridge"
secret_file = "{tmp_path / "secret"}"
devices = ["{device_id}"]

[mqtt]
url = "{broker.url}"
client_id = "cloud"
username = "cloud"
password_file = "{tmp_path / "broker-password"}"
ca_file = "{broker.ca_file}"
"""
    )
    settings = MqttSettings(
        url=MqttUrl(broker.url),
        client_id="bridge",
        username="bridge",
        password=MqttPassword(password("bridge").reveal()),
        ca_file=broker.ca_file,
    )
    bridge = MqttTransport(settings, role_of=lambda _: Role.RM)
    bridge.start()
    cloud = await start("cloud_cem_mqtt.py", str(tmp_path / "cloud.toml"))
    try:
        await read_until(cloud, "waiting for 1 devices")
        known = StaticSession(
            topic_prefix="s2",
            server=cloud_id,
            client=device_id,
            mc="bridge",
            client_role=Role.RM,
            versions=("v1.0.0",),
            secret=SessionToken(secret),
        )
        async with asyncio.timeout(20):
            session = Session(await bridge.connect_static(known), peer=peer(Role.CEM), role=Role.RM)
            await read_until(cloud, f"{device_id} is here")
            details = json.loads(DETAILS)
            await session.send(details)
            assert (await session.receive()).body["control_type"] == "FILL_RATE_BASED_CONTROL"
            await session.close()
        await read_until(cloud, f"{device_id} has left")
    finally:
        cloud.terminate()
        await cloud.communicate()
        await bridge.close()
        await asyncio.to_thread(broker.stop)
