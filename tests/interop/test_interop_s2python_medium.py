"""The application of s2python_app.py, unchanged, over S2 Connect: in a process of its own, with s2-python's Python."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from s2connect import Endpoint, EndpointConfig, Message, NodeConfig, Role, Session
from tests.interop.peer_processes import HERE, START_TIMEOUT, peer_python
from tests.waits import within

SELECT = {
    "FRBC": {"message_type": "SelectControlType", "control_type": "FILL_RATE_BASED_CONTROL"},
    "PEBC": {"message_type": "SelectControlType", "control_type": "POWER_ENVELOPE_BASED_CONTROL"},
}
BETA_FIRST = ("0.0.2-beta", "v1.0.0")


@pytest.fixture(scope="session")
def s2python() -> Path:
    return peer_python("s2python")


def config(role: Role, *versions: str) -> EndpointConfig:
    node = NodeConfig(role=role, user_defined_name=f"our {role}", s2_versions=versions or ("v1.0.0",))
    return EndpointConfig(host="127.0.0.1", bind="127.0.0.1", port=0, nodes=(node,))


class Application:
    """The process, and what it reports."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.events: list[dict[str, Any]] = []

    async def until(self, event: str) -> dict[str, Any]:
        """Read on to the next event of this name."""
        assert self._process.stdout is not None
        async with within(START_TIMEOUT):
            async for line in self._process.stdout:
                self.events.append(json.loads(line))
                if self.events[-1]["event"] == event:
                    return self.events[-1]
        raise AssertionError(f"ended before {event!r}; said {self.events}")

    def names(self) -> list[str]:
        return [event["event"] for event in self.events]


@contextlib.asynccontextmanager
async def application(python: Path, role: Role, kind: str, *versions: str, **more: Any) -> AsyncIterator[Application]:
    process = await asyncio.create_subprocess_exec(
        python,
        HERE / "s2python_medium.py",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )
    try:
        task = {"config": config(role, *versions).model_dump(mode="json"), "kind": kind, **more}
        assert process.stdin is not None
        process.stdin.write(json.dumps(task).encode() + b"\n")
        await process.stdin.drain()
        yield Application(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


def instruction(kind: str, description: Message) -> dict[str, Any]:
    common = {"id": str(uuid4()), "execution_time": datetime.now(UTC).isoformat(), "abnormal_condition": False}
    if kind == "FRBC":
        actuator = description.body["actuators"][0]
        mode = actuator["operation_modes"][1]["id"]
        own = {"actuator_id": actuator["id"], "operation_mode": mode, "operation_mode_factor": 0.5}
    else:
        element = {"duration": 60000, "upper_limit": 0, "lower_limit": -1500}
        envelope = {
            "id": str(uuid4()),
            "commodity_quantity": "ELECTRIC.POWER.L1",
            "power_envelope_elements": [element],
        }
        own = {"power_constraints_id": description.body["id"], "power_envelopes": [envelope]}
    return {"message_type": f"{kind}.Instruction", **common, **own}


DESCRIPTION = {"FRBC": "FRBC.SystemDescription", "PEBC": "PEBC.PowerConstraints"}


async def manage(session: Session, kind: str) -> list[str]:
    """Be the energy manager of a device until it leaves; returns what it sent."""
    heard = []
    async for message in session:
        heard.append(message.type)
        if message.type == "ResourceManagerDetails":
            assert message.body["name"] == f"s2-python {kind}"
            await session.send(SELECT[kind])
        elif message.type == DESCRIPTION[kind]:
            await session.send(instruction(kind, message))
        elif message.type == "InstructionStatusUpdate":
            heard[-1] = message.body["status_type"]
    return heard


HEARD = {
    "FRBC": {"FRBC.SystemDescription", "FRBC.StorageStatus", "FRBC.ActuatorStatus"},
    "PEBC": {"PEBC.PowerConstraints", "PowerMeasurement"},
}


@pytest.mark.parametrize(
    ("kind", "versions"), [("FRBC", ("v1.0.0",)), pytest.param("PEBC", BETA_FIRST, marks=pytest.mark.long)]
)
@pytest.mark.rule("MSG-01", "MSG-03", "REC-02")
async def test_s2python_is_a_device_of_our_energy_manager_and_reconnects(
    s2python: Path, kind: str, versions: tuple[str, ...]
) -> None:
    async with Endpoint.open(config=config(Role.CEM, *BETA_FIRST)) as endpoint:
        cem = endpoint.node()
        target = {"url": str(endpoint.pairing_url), "code": str(cem.issue_pairing_code())}
        async with application(s2python, Role.RM, kind, *versions, **target) as device:
            seen: list[str] = []
            sessions = cem.sessions(on_message=lambda _, message: seen.append(message.type))
            for _ in range(2):  # the device stops after one instruction, and comes back
                async with within(START_TIMEOUT):
                    session = await anext(sessions)
                assert session.info.s2_version == versions[0]
                heard = await manage(session, kind)

                assert heard[0] == "ResourceManagerDetails"
                assert set(heard[1:]) == HEARD[kind] | {"ACCEPTED", "SUCCEEDED"}
                assert (await device.until("connected"))["version"] == versions[0]
                assert (await device.until("activated"))["control_type"] == kind
                await device.until("instruction")
                await device.until("disconnected")
    assert not {"Handshake", "HandshakeResponse"} & set(seen)


class Device:
    """Our device, by hand."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.ids = {name: str(uuid4()) for name in ("actuator", "idle", "charge", "constraints")}

    def details(self) -> dict[str, Any]:
        return {
            "message_type": "ResourceManagerDetails",
            "resource_id": str(uuid4()),
            "name": "Cellar battery",
            "roles": [{"role": "ENERGY_STORAGE", "commodity": "ELECTRICITY"}],
            "instruction_processing_delay": 100,
            "available_control_types": [SELECT[self.kind]["control_type"]],
            "provides_forecast": False,
            "provides_power_measurement_types": ["ELECTRIC.POWER.L1"],
        }

    def descriptions(self) -> list[dict[str, Any]]:
        now = datetime.now(UTC).isoformat()
        if self.kind == "PEBC":
            limit = {"commodity_quantity": "ELECTRIC.POWER.L1", "abnormal_condition_only": False}
            limits = [
                {**limit, "limit_type": "UPPER_LIMIT", "range_boundary": {"start_of_range": 0, "end_of_range": 0}},
                {**limit, "limit_type": "LOWER_LIMIT", "range_boundary": {"start_of_range": -5000, "end_of_range": 0}},
            ]
            constraints = {"id": self.ids["constraints"], "valid_from": now, "consequence_type": "VANISH"}
            return [{"message_type": "PEBC.PowerConstraints", **constraints, "allowed_limit_ranges": limits}]
        levels = {"start_of_range": 0, "end_of_range": 100}
        power = {"start_of_range": 0, "end_of_range": 3000, "commodity_quantity": "ELECTRIC.POWER.L1"}
        element = {
            "fill_level_range": levels,
            "fill_rate": {"start_of_range": 0, "end_of_range": 0.01},
            "power_ranges": [power],
        }
        modes = [
            {"id": self.ids[name], "elements": [element], "abnormal_condition_only": False}
            for name in ("idle", "charge")
        ]
        actuator = {
            "id": self.ids["actuator"],
            "supported_commodities": ["ELECTRICITY"],
            "operation_modes": modes,
            "transitions": [],
            "timers": [],
        }
        storage = {
            "provides_leakage_behaviour": False,
            "provides_fill_level_target_profile": False,
            "provides_usage_forecast": False,
            "fill_level_range": levels,
        }
        return [
            {
                "message_type": "FRBC.SystemDescription",
                "valid_from": now,
                "actuators": [actuator],
                "storage": storage,
            },
            {"message_type": "FRBC.StorageStatus", "present_fill_level": 42.5},
            self.status("idle", 0),
        ]

    def status(self, mode: str, factor: float) -> dict[str, Any]:
        return {
            "message_type": "FRBC.ActuatorStatus",
            "actuator_id": self.ids["actuator"],
            "active_operation_mode_id": self.ids[mode],
            "operation_mode_factor": factor,
        }

    def outcome(self, instruction: Message) -> list[dict[str, Any]]:
        now = datetime.now(UTC).isoformat()
        updates = [
            {
                "message_type": "InstructionStatusUpdate",
                "instruction_id": instruction.body["id"],
                "status_type": status,
                "timestamp": now,
            }
            for status in ("ACCEPTED", "SUCCEEDED")
        ]
        if self.kind == "FRBC":
            assert instruction.body["operation_mode"] == self.ids["charge"]
            return [*updates, self.status("charge", 0.5)]
        value = {"commodity_quantity": "ELECTRIC.POWER.L1", "value": -1500}
        return [*updates, {"message_type": "PowerMeasurement", "measurement_timestamp": now, "values": [value]}]

    async def run(self, session: Session) -> None:
        await session.send(self.details())
        async for message in session:
            if message.type == "SelectControlType":
                for description in self.descriptions():
                    await session.send(description)
            elif message.type == f"{self.kind}.Instruction":
                for outcome in self.outcome(message):
                    await session.send(outcome)


@pytest.mark.parametrize("kind", ["FRBC", pytest.param("PEBC", marks=pytest.mark.long)])
@pytest.mark.rule("MSG-01", "MSG-03", "REC-02")
async def test_s2python_is_the_energy_manager_of_our_device_which_reconnects(s2python: Path, kind: str) -> None:
    async with (
        application(s2python, Role.CEM, kind) as manager,
        Endpoint.open(config=config(Role.RM, *BETA_FIRST)) as endpoint,
    ):
        target = await manager.until("code")
        await endpoint.node().pair(target["url"], target["code"])
        sessions = endpoint.node().sessions()
        for _ in range(2):  # the manager stops after one instruction, and we come back
            async with within(START_TIMEOUT):
                session = await anext(sessions)
            await Device(kind).run(session)

            shaken = await manager.until("handshake")
            assert shaken == {"event": "handshake", "role": "RM", "versions": ["0.0.2-beta"]}
            assert (await manager.until("details"))["name"] == "Cellar battery"
            await manager.until("description")
            assert [(await manager.until("update"))["status"] for _ in range(2)] == ["ACCEPTED", "SUCCEEDED"]
            await manager.until("disconnected")


@pytest.mark.long
async def test_s2python_talks_to_s2python(s2python: Path) -> None:
    async with application(s2python, Role.CEM, "FRBC") as manager:
        target = await manager.until("code")
        target = {name: target[name] for name in ("url", "code")}
        async with application(s2python, Role.RM, "FRBC", **target) as device:
            await asyncio.gather(manager.until("disconnected"), device.until("disconnected"))
            assert [e["status"] for e in manager.events if e["event"] == "update"] == ["ACCEPTED", "SUCCEEDED"]
            assert device.names()[:3] == ["connected", "activated", "instruction"]
