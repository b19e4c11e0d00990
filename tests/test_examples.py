"""The examples do what they say, as programs of their own."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from s2connect import (
    Endpoint,
    EndpointConfig,
    Handlers,
    MqttSettings,
    NodeConfig,
    NodeDescription,
    NodeId,
    Role,
    Session,
    create_home,
)
from s2connect.endpoint.plain_server import PlainServer
from s2connect.https.server import free_port
from s2connect.messages.ddbc import BetaSystemDescription, Instruction
from s2connect.messages.general import CommodityQuantity, PowerMeasurement, PowerValue
from s2connect.model.secret import Secret
from s2connect.transports import ListedDevice, StaticGateway
from s2connect.transports.mqtt.parameters import SessionToken
from s2connect.transports.mqtt.transport import MqttTransport
from s2connect.transports.plain import PlainAcceptor
from tests.mosquitto import Mosquitto, access_list, password
from tests.waits import within

EXAMPLES = Path(__file__).parents[1] / "examples"
DETAILS = """{"message_type": "ResourceManagerDetails", "resource_id": "battery", "instruction_processing_delay": 100,
"roles": [{"role": "ENERGY_STORAGE", "commodity": "ELECTRICITY"}], "provides_forecast": false,
"available_control_types": ["FILL_RATE_BASED_CONTROL"], "provides_power_measurement_types": ["ELECTRIC.POWER.L1"]}"""


def make_home(path: Path, role: Role) -> None:
    node = NodeConfig(role=role, user_defined_name="Cellar battery" if role is Role.RM else "House")
    port = free_port()
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
    async with within(20):
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
            battery.stdin.write(f"{words[6]} {words[7]} {words[8]}\n".encode())
            await battery.stdin.drain()
            await read_until(battery, "in session with House")
            await read_until(manager, "Cellar battery FRBC.StorageStatus")
            await read_until(battery, "instructed")
            await read_until(manager, "Cellar battery InstructionStatusUpdate")
        finally:
            battery.terminate()
            await battery.communicate()
        await read_until(manager, "Cellar battery has left")
    finally:
        manager.terminate()
        await manager.communicate()
    assert manager.returncode == 0


async def test_the_battery_shows_a_code_once_and_comes_by_itself_when_it_is_paired(tmp_path: Path) -> None:
    await asyncio.to_thread(make_home, tmp_path / "ems", Role.CEM)
    await asyncio.to_thread(make_home, tmp_path / "battery", Role.RM)
    battery = await start("battery.py", str(tmp_path / "battery"))
    words = (await read_until(battery, "Pair at")).split()
    async with Endpoint.open(tmp_path / "ems") as ems:
        opened = asyncio.Queue[Session]()
        handlers = Handlers()
        handlers.on_open(opened.put_nowait)
        ems.node().handle(handlers)
        try:
            async with within(30):
                await ems.node().pair(words[2], " ".join(words[6:9]))
                await opened.get()
                await read_until(battery, "in session with House")
                battery.send_signal(signal.SIGTERM)
                output, _ = await battery.communicate()
                assert (battery.returncode, b"the session has ended" in output) == (0, True)
                battery = await start("battery.py", str(tmp_path / "battery"))
                await opened.get()
                await read_until(battery, "in session with House")
        finally:
            battery.send_signal(signal.SIGINT)
            output, _ = await battery.communicate()
    assert b"Pair at" not in output
    assert battery.returncode == 0


def test_the_tests_of_the_battery_pass_as_its_maker_runs_them() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLES / "test_battery.py")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stdout
    assert "3 passed" in result.stdout


def peer(role: Role) -> NodeDescription:
    return NodeDescription(id=NodeId(uuid4()), brand="test", type="test", model_name="test", role=role)


async def test_the_old_device_speaks_the_s2_of_yesterday_without_a_mistake() -> None:
    acceptor = PlainAcceptor(
        role=Role.CEM, local=NodeId(uuid4()), tokens={"heat-pump": Secret("token-of-the-heat-pump")}
    )
    async with PlainServer(acceptor, path="/heat-pump") as server:
        url = f"ws://127.0.0.1:{server.port}/heat-pump"
        device = await start("old_device.py", url, env={"S2_TOKEN": "token-of-the-heat-pump"})
        try:
            async with within(20):
                connection = await anext(server)
                assert connection.info.s2_version == "0.0.2-beta"
                session = Session(connection, peer=peer(Role.RM), role=Role.CEM)  # validates by all rules
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


SECRET = base64.b64encode(bytes(range(32))).decode()


def begin_broker(place: Path, cloud: NodeId) -> Mosquitto:
    broker = Mosquitto(place, ["cloud", "bridge"], access_list({"cloud": [str(cloud)]}))
    return broker.start()


def private(path: Path, text: str) -> Path:
    path.touch(0o600)
    path.write_text(text)
    return path


def account(broker: Mosquitto, user: str) -> str:
    file = private(broker.ca_file.parent / f"{user}-password", password(user).reveal())
    return f"""
[mqtt]
url = "{broker.url}"
client_id = "{user}"
username = "{user}"
password_file = "{file}"
ca_file = "{broker.ca_file}"
"""


def write_cloud(place: Path, broker: Mosquitto, cloud: NodeId) -> None:
    secret = private(place / "secret", SECRET)
    top = f'id = "{cloud}"\nbridge = "bridge"\nsecret_file = "{secret.name}"\nnewest_file = "newest"\n'
    (place / "cloud.toml").write_text(top + account(broker, "cloud"))


async def test_the_cloud_reads_its_devices_from_mqtt(tmp_path: Path) -> None:
    cloud_id, device_id = NodeId(uuid4()), NodeId(uuid4())
    broker = await asyncio.to_thread(begin_broker, tmp_path, cloud_id)
    write_cloud(tmp_path, broker, cloud_id)
    bridge = MqttTransport(broker.settings("bridge"), role_of=lambda _: Role.RM)
    bridge.start()
    cloud = await start("cloud_cem_mqtt.py", str(tmp_path / "cloud.toml"))
    try:
        gateway = StaticGateway(
            topic_prefix="s2",
            server=cloud_id,
            mc="bridge",
            client_role=Role.RM,
            versions=("v1.0.0",),
            secret=SessionToken(SECRET),
        )
        await read_until(cloud, "waiting for the devices of bridge")
        await bridge.list_devices(gateway, "house", [ListedDevice(id=device_id, name="Cellar battery")])
        await read_until(cloud, "new device: Cellar battery")
        known = gateway.session(device_id)
        async with within(20):
            session = Session(await bridge.connect_static(known), peer=peer(Role.CEM), role=Role.RM)
            await read_until(cloud, "Cellar battery is here")
            details = json.loads(DETAILS)
            await session.send(details)
            assert (await session.receive()).body["control_type"] == "FILL_RATE_BASED_CONTROL"
            await session.close()
        await read_until(cloud, "Cellar battery has left")
        await bridge.list_devices(gateway, "house", [])
        await read_until(cloud, "no longer there: Cellar battery")
        assert int((tmp_path / "newest").read_text()) > 1_700_000_000_000
    finally:
        cloud.terminate()
        await cloud.communicate()
        await bridge.close()
        await asyncio.to_thread(broker.stop)


@pytest.mark.long
async def test_the_old_device_reaches_the_cloud_program_through_a_bridge(tmp_path: Path) -> None:
    cloud_id, port = NodeId(uuid4()), free_port()
    broker = await asyncio.to_thread(begin_broker, tmp_path, cloud_id)
    processes = []
    try:
        (tmp_path / "bridge.toml").write_text(
            f"""
home = "bridge"
{account(broker, "bridge")}
[endpoint]
host = "127.0.0.1"
bind = "127.0.0.1"
port = {free_port()}
vault = "files"

[[route]]
name = "old devices"
check = "rules"
devices = {{ type = "plain-server", port = {port}, device = [{{ name = "Heat pump", path = "/heat-pump" }}] }}
manager = {{ type = "mqtt", id = "{cloud_id}", secret_file = "{private(tmp_path / "secret", SECRET)}" }}
"""
        )
        arguments = ["-m", "s2connect", "bridge", "run", str(tmp_path / "bridge.toml"), "--json"]
        bridge = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
        )
        processes.append(bridge)
        ready = json.loads(await read_until(bridge, "bridge_ready"))
        node = ready["routes"][0]["links"][0]["node"]
        await asyncio.to_thread(write_cloud, tmp_path, broker, cloud_id)
        cloud = await start("cloud_cem_mqtt.py", str(tmp_path / "cloud.toml"))
        processes.append(cloud)
        await read_until(cloud, f"new device: Heat pump ({node})")
        device = await start("old_device.py", f"ws://127.0.0.1:{port}/heat-pump")
        processes.append(device)
        await read_until(cloud, "Heat pump DDBC.SystemDescription")
        await read_until(cloud, "Heat pump DDBC.PresentDemandStatus")  # of 1.0.0, out of the description of the beta
    finally:
        for process in processes:
            process.terminate()
            await process.communicate()
        await asyncio.to_thread(broker.stop)


GUIDE = EXAMPLES.parent / "docs" / "tutorial" / "library.md"


def test_the_guide_shows_the_programs_as_they_are() -> None:
    programs, guide = (
        re.sub(r"\n\n+", "\n\n", text)  # functions within others have one line between them
        for text in ("\n".join(map(Path.read_text, sorted(EXAMPLES.glob("*.py")))), GUIDE.read_text("utf-8"))
    )
    *excerpts, whole = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    assert len(excerpts) == 9
    for excerpt in excerpts:
        found = excerpt in programs or textwrap.indent(excerpt, "    ") in programs
        assert found, "the guide shows other code than the examples have"
    assert "join_nodes" in whole


async def test_the_modules_of_one_system_talk_as_the_guide_has_them(capsys: pytest.CaptureFixture[str]) -> None:
    *_, whole = re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(whole, names)
    message = PowerMeasurement(
        measurement_timestamp=datetime.now(UTC),
        values=[PowerValue(commodity_quantity=CommodityQuantity.ELECTRIC_POWER_L1, value=-1500.0)],
    )
    names["inverter"].on_open(lambda _: message)
    task = asyncio.create_task(names["run"]())
    async with within(10):
        while "Inverter -1500.0" not in capsys.readouterr().out:
            await asyncio.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)
    await task


@pytest.mark.long
async def test_the_commands_of_the_guide_pair_the_two_programs(tmp_path: Path) -> None:
    """Word for word, but for the ports."""
    system, device = free_port(), free_port()
    text = GUIDE.read_text("utf-8").replace("8444", str(device)).replace("8443", str(system))
    first, second = (block.splitlines() for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)[:2])
    port = f" --port {system}"  # 8443 is the default
    for name in ("battery.py", "energy_manager.py"):
        (tmp_path / name).symlink_to(EXAMPLES / name)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    async def shell(line: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_shell(
            f"exec {line}",
            cwd=tmp_path,
            env={**environment, "PYTHONUNBUFFERED": "1"},
            stdin=pipe,
            stdout=pipe,
            stderr=asyncio.subprocess.STDOUT,
        )

    for line in (first[0] + port, second[0]):
        done = await shell(line)
        output, _ = await done.communicate()
        assert done.returncode == 0, output
    manager = await shell(first[1])
    battery = None
    try:
        words = (await read_until(manager, "Pair at")).split()
        assert words[2] in second[1]
        battery = await shell(second[1])
        assert battery.stdin is not None
        battery.stdin.write(f"{words[6]} {words[7]} {words[8]}\n".encode())
        await battery.stdin.drain()
        await read_until(battery, "in session with House")
        await read_until(battery, "instructed: 5000 W")
        battery.send_signal(signal.SIGINT)
        await battery.communicate()
        battery = await shell(second[1].rpartition(" ")[0])
        await read_until(battery, "in session with House")
    finally:
        for process in filter(None, (battery, manager)):
            process.send_signal(signal.SIGINT)
            await process.communicate()


def test_the_settings_of_the_cloud_fit_the_bridge_and_the_program() -> None:
    cloud = tomllib.loads((EXAMPLES / "cloud.toml").read_text("utf-8"))
    bridge = tomllib.loads((EXAMPLES / "bridge-building.toml").read_text("utf-8"))
    (route,) = (route for route in bridge["route"] if route["manager"]["type"] == "mqtt")
    assert (cloud["id"], cloud["bridge"]) == (route["manager"]["id"], bridge["mqtt"]["client_id"])
    assert cloud["secret_file"] == route["manager"]["secret_file"]
    assert MqttSettings(**cloud["mqtt"]).client_id == "cloud"
    assert sorted(set(re.findall(r'cloud\["(\w+)"\]', (EXAMPLES / "cloud_cem_mqtt.py").read_text("utf-8")))) == sorted(
        cloud
    )
