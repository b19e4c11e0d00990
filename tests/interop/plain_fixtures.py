"""Plain S2 with peers: their processes, and an energy manager and a device on our sessions."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from s2connect.messages.envelope import Message
from s2connect.model.common import NodeDescription, NodeId, Role
from s2connect.session.session import Session
from s2connect.transports.base import Connection
from tests.interop.peer_processes import peer_python
from tests.waits import within

OURS = NodeId(UUID(int=1))
CONTROL_TYPES = {"FRBC": "FILL_RATE_BASED_CONTROL", "PEBC": "POWER_ENVELOPE_BASED_CONTROL"}
POWER = "ELECTRIC.POWER.L1"
FRBC_PATH = ["FRBC.SystemDescription", "FRBC.StorageStatus", "FRBC.ActuatorStatus"]


# The peer's process


class Peer:
    """Description that s2-python sends of itself."""

    def __init__(self, output: asyncio.StreamReader) -> None:
        self._output = output
        self.events: list[dict[str, Any]] = []

    async def until(self, event: str) -> dict[str, Any]:
        """Wait for an event."""
        async for line in self._output:
            sys.stdout.write(line.decode())
            said: dict[str, Any] = json.loads(line)
            self.events.append(said)
            if said["event"] == event:
                return said
        raise AssertionError(f"s2-python ended without {event}")

    def all(self, event: str, fact: str) -> list[Any]:
        return [said[fact] for said in self.events if said["event"] == event]


@contextlib.asynccontextmanager
async def peer_process(
    name: str, script: Path, task: dict[str, Any] | None = None, environment: dict[str, str] | None = None
) -> AsyncIterator[Peer]:
    """Run a script in the environment of a peer; without a task its standard input stays open until the end."""
    process = await asyncio.create_subprocess_exec(
        *(peer_python(name), script),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | (environment or {}),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if task is not None:
            process.stdin.write(json.dumps(task).encode())
            process.stdin.close()
        async with within(20):
            yield Peer(process.stdout)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


def session(connection: Connection, role: Role) -> Session:
    peer = NodeDescription(id=connection.info.remote, brand="s2-python", type="T", model_name="M", role=role.other)
    return Session(connection, peer=peer, role=role)


# Our energy manager and our device


def now() -> str:
    return datetime.now(UTC).isoformat()


async def next_of(ours: Session, *kinds: str) -> list[Message]:
    messages = [await ours.receive() for _ in kinds]
    assert [message.type for message in messages] == list(kinds)
    return messages


async def manage(ours: Session, kind: str, *, fill_level: float = 42.5) -> list[str]:
    """Control the device once; returns the statuses of the instruction."""
    (details,) = await next_of(ours, "ResourceManagerDetails")
    assert details.body["available_control_types"] == [CONTROL_TYPES[kind]]
    await ours.send({"message_type": "SelectControlType", "control_type": CONTROL_TYPES[kind]})
    identifier = str(uuid4())
    common = {"id": identifier, "execution_time": now(), "abnormal_condition": False}
    if kind == "FRBC":
        description, storage, _ = await next_of(ours, *FRBC_PATH)
        assert storage.body["present_fill_level"] == fill_level
        (actuator,) = description.body["actuators"]
        instruction = {
            "message_type": "FRBC.Instruction",
            "actuator_id": actuator["id"],
            "operation_mode": actuator["operation_modes"][1]["id"],
            "operation_mode_factor": 0.5,
        }
    else:
        (constraints,) = await next_of(ours, "PEBC.PowerConstraints")
        element = {"duration": 60000, "upper_limit": 0.0, "lower_limit": -1500.0}
        envelope = {"id": str(uuid4()), "commodity_quantity": POWER, "power_envelope_elements": [element]}
        instruction = {
            "message_type": "PEBC.Instruction",
            "power_constraints_id": constraints.body["id"],
            "power_envelopes": [envelope],
        }
    await ours.send(instruction | common)
    updates = await next_of(ours, "InstructionStatusUpdate", "InstructionStatusUpdate")
    assert {update.body["instruction_id"] for update in updates} == {identifier}
    if kind == "FRBC":
        (after,) = await next_of(ours, "FRBC.ActuatorStatus")
        assert after.body["active_operation_mode_id"] == instruction["operation_mode"]
    else:
        (after,) = await next_of(ours, "PowerMeasurement")
        assert after.body["values"] == [{"commodity_quantity": POWER, "value": -1500.0}]
    return [update.body["status_type"] for update in updates]


def numbers(start: float, end: float) -> dict[str, float]:
    return {"start_of_range": start, "end_of_range": end}


def mode(identifier: str, power: float) -> dict[str, Any]:
    element = {
        "fill_level_range": numbers(0, 100),
        "fill_rate": numbers(0, power / 1e6),
        "power_ranges": [numbers(0, power) | {"commodity_quantity": POWER}],
    }
    return {"id": identifier, "elements": [element], "abnormal_condition_only": False}


async def be_device(ours: Session, kind: str) -> Message:
    """Be controlled once; returns the instruction."""
    await ours.send(
        {
            "message_type": "ResourceManagerDetails",
            "resource_id": str(uuid4()),
            "name": f"ours {kind}",
            "roles": [{"role": "ENERGY_STORAGE", "commodity": "ELECTRICITY"}],
            "instruction_processing_delay": 10,
            "available_control_types": [CONTROL_TYPES[kind]],
            "provides_forecast": False,
            "provides_power_measurement_types": [POWER],
        }
    )
    (selected,) = await next_of(ours, "SelectControlType")
    assert selected.body["control_type"] == CONTROL_TYPES[kind]
    actuator, idle, charge = (str(uuid4()) for _ in range(3))
    status = {"message_type": "FRBC.ActuatorStatus", "actuator_id": actuator}
    if kind == "FRBC":
        description = {
            "id": actuator,
            "supported_commodities": ["ELECTRICITY"],
            "operation_modes": [mode(idle, 0), mode(charge, 3000)],
            "transitions": [],
            "timers": [],
        }
        storage = {
            "provides_leakage_behaviour": False,
            "provides_fill_level_target_profile": False,
            "provides_usage_forecast": False,
            "fill_level_range": numbers(0, 100),
        }
        await ours.send(
            {
                "message_type": "FRBC.SystemDescription",
                "valid_from": now(),
                "actuators": [description],
                "storage": storage,
            }
        )
        await ours.send({"message_type": "FRBC.StorageStatus", "present_fill_level": 10.0})
        await ours.send(status | {"active_operation_mode_id": idle, "operation_mode_factor": 0.0})
    else:
        limits = [("UPPER_LIMIT", numbers(0, 0)), ("LOWER_LIMIT", numbers(-5000, 0))]
        await ours.send(
            {
                "message_type": "PEBC.PowerConstraints",
                "id": str(uuid4()),
                "valid_from": now(),
                "consequence_type": "VANISH",
                "allowed_limit_ranges": [
                    {
                        "commodity_quantity": POWER,
                        "limit_type": limit,
                        "range_boundary": bounds,
                        "abnormal_condition_only": False,
                    }
                    for limit, bounds in limits
                ],
            }
        )
    (instruction,) = await next_of(ours, f"{kind}.Instruction")
    for value in ("ACCEPTED", "SUCCEEDED"):
        update = {"instruction_id": instruction.body["id"], "status_type": value, "timestamp": now()}
        await ours.send({"message_type": "InstructionStatusUpdate"} | update)
    if kind == "FRBC":
        assert instruction.body["operation_mode"] == charge
        await ours.send(status | {"active_operation_mode_id": charge, "operation_mode_factor": 0.5})
    else:
        values = [{"commodity_quantity": POWER, "value": -1500.0}]
        await ours.send({"message_type": "PowerMeasurement", "measurement_timestamp": now(), "values": values})
    return instruction
