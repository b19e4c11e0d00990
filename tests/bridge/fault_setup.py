"""A device, a bridge and an energy manager as processes of their own, which a test may kill."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from uuid import uuid4

import pytest

from s2connect import Endpoint, EndpointConfig, NodeConfig, Role, create_home
from s2connect.bridge.bridge import Bridge
from s2connect.bridge.config import BridgeConfig
from s2connect.bridge.config_file import load
from s2connect.bridge.nodes import NodeDevicesSide, representative_id
from s2connect.https.server import free_port
from s2connect.model.common import MQTT, WEBSOCKET, NodeId
from s2connect.transports.mqtt.settings import MqttSettings
from tests.bridge.bridge_fixtures import introduce
from tests.mosquitto import Mosquitto, access_list, password
from tests.netns import Host, Process

ROOT = Path(__file__).resolve().parents[2]
CHILD = str(ROOT / "tests" / "bridge" / "fault_child.py")


class FaultSetup:
    """Homes that are paired; processes begin with :meth:`start`.

    Args:
        directory: For the homes.
        kind: How the bridge speaks with the energy manager: ``wss`` or ``mqtt``.
        addresses: Of device, bridge and manager.
        fast: Whether silence is noticed within seconds.
    """

    def __init__(
        self,
        directory: Path,
        kind: str = "wss",
        *,
        addresses: Sequence[str] = ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        hosts: Sequence[Host] | None = None,
        fast: bool = True,
    ) -> None:
        self.directory = directory
        self.kind = kind
        self.fast = fast
        self.addresses = dict(zip(("device", "bridge", "manager"), addresses, strict=True))
        self.hosts = dict(zip(("device", "bridge", "manager"), hosts, strict=True)) if hosts else None
        self.ids = {"device": NodeId(uuid4()), "manager": NodeId(uuid4())}
        self.broker: Mosquitto | None = None
        self.stack = contextlib.ExitStack()
        self.running: dict[str, Process] = {}

    def _mqtt(self, name: str) -> MqttSettings | None:
        if self.broker is None or name == "device":
            return None
        file = self.directory / f"{name}.password"
        file.touch(0o600)
        file.write_text(password(name).reveal())
        return self.broker.settings(name, password_file=file)

    async def prepare(self) -> None:
        """Make the homes and pair them."""
        if self.kind == "mqtt":
            place = self.directory / "broker"
            place.mkdir()
            users = {"manager": [str(self.ids["manager"])]}
            self.broker = Mosquitto(place, ["manager", "bridge"], access_list(users)).start()
            self.stack.callback(self.broker.kill)
        for name, role in (("device", Role.RM), ("manager", Role.CEM)):
            mqtt = self._mqtt(name)
            node = NodeConfig(id=self.ids[name], role=role, communication_protocols=(MQTT,) if mqtt else (WEBSOCKET,))
            address = self.addresses[name]
            config = EndpointConfig(
                host=address, bind=address, port=free_port(), nodes=(node,), mqtt=mqtt, vault="files", advertise=False
            )
            create_home(self.directory / name, config)
        file = self.directory / "bridge.toml"
        address = self.addresses["bridge"]
        mqtt = self._mqtt("bridge")
        section = (
            ""
            if mqtt is None
            else "[mqtt]\n"
            + "".join(
                f'{key} = "{getattr(mqtt, key)}"\n'
                for key in ("url", "client_id", "username", "password_file", "ca_file")
            )
        )
        file.write_text(
            f'home = "bridge"\n[endpoint]\nhost = "{address}"\nbind = "{address}"\nport = {free_port()}\n'
            f'vault = "files"\nadvertise = false\n{section}'
            '[[route]]\nname = "house"\ncheck = "rules"\n[route.devices]\ntype = "s2-connect"\n'
            f'[route.manager]\ntype = "s2-connect"\nprotocols = ["{WEBSOCKET if mqtt is None else MQTT}"]\n'
        )
        settings, _ = load(file)
        async with (
            Endpoint.open(self.directory / "device", serve=False) as device,
            Endpoint.open(self.directory / "manager", serve=False) as manager,
            open_without_listening(settings) as bridge,
        ):
            devices = bridge.routes["house"].devices
            assert isinstance(devices, NodeDevicesSide)
            own = settings.routes[0].id_in(bridge.id)
            self.ids["bridge"] = devices.node.id
            self.ids["representative"] = representative_id(own, str(self.ids["device"]))
            rm = self.ids["device"]
            await introduce(device, rm, bridge.endpoint, self.ids["bridge"], rm)
            there = self.ids["representative"]
            await introduce(bridge.endpoint, there, manager, self.ids["manager"], there)

    def start(self, *names: str, command: bool = False) -> None:
        """Begin processes; ``command`` runs the bridge by the command line, with the times of the standard."""
        for name in names:
            if name == "bridge" and command:
                arguments = ["-m", "s2connect", "bridge", "run", str(self.directory / "bridge.toml"), "--json"]
            else:
                where = str(self.directory / ("bridge.toml" if name == "bridge" else name))
                what = "bridge" if name == "bridge" else "peer"
                arguments = [CHILD, what, where, *(["fast"] if self.fast else [])]
            if self.hosts is not None:
                process = self.hosts[name].start(sys.executable, "-u", *arguments)
            else:
                process = Process([sys.executable, "-u", *arguments], {})
                self.stack.callback(process.stop)
            self.running[name] = process

    def kill(self, name: str) -> None:
        """End a process as a power cut does."""
        process = self.running.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.stop()

    def close(self) -> None:
        """End everything."""
        self.stack.close()


@contextlib.asynccontextmanager
async def open_without_listening(config: BridgeConfig) -> AsyncIterator[Bridge]:
    """The bridge, only to make its home and ids."""
    with pytest.MonkeyPatch.context() as patch:
        real = Endpoint.open
        patch.setattr(Endpoint, "open", lambda *arguments, **more: real(*arguments, **{**more, "serve": False}))
        async with Bridge.open(config) as bridge:
            yield bridge
