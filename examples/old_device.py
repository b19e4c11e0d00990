"""A device of yesterday: a hybrid heat pump that speaks plain S2 (0.0.2-beta) over WebSocket and knows no S2 Connect.

    python examples/old_device.py ws://127.0.0.1:8080/heat-pump

It imports nothing of s2connect. A bridge (examples/bridge-building.toml) takes it to an energy manager of today; its
token, if the bridge wants one, is read from the environment variable S2_TOKEN.
"""

import asyncio
import json
import os
import sys
from datetime import UTC, datetime
from uuid import uuid4

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

PUMP, OFF, HEAT = "heat-pump", "off", "heat"
CONTROL_TYPES = ["DEMAND_DRIVEN_BASED_CONTROL"]
DETAILS = {
    "resource_id": "hybrid-heat-pump",
    "name": "Hybrid heat pump",
    "roles": [{"role": "ENERGY_CONSUMER", "commodity": "ELECTRICITY"}],
    "instruction_processing_delay": 500,
    "available_control_types": CONTROL_TYPES,
    "provides_forecast": False,
    "provides_power_measurement_types": ["ELECTRIC.POWER.L1"],
}


def now() -> str:
    return datetime.now(UTC).isoformat()


def numbers(start: float, end: float) -> dict[str, float]:
    return {"start_of_range": start, "end_of_range": end}


def mode(identifier: str, watts: float) -> dict[str, object]:
    power = numbers(0, watts) | {"commodity_quantity": "ELECTRIC.POWER.L1"}
    supply = {"power_ranges": [power], "supply_range": numbers(0, 4 * watts)}
    return {"Id": identifier, "abnormal_condition_only": False} | supply


def description() -> dict[str, object]:
    switching = [("on", OFF, HEAT), ("off", HEAT, OFF)]
    freely = {"start_timers": [], "blocking_timers": [], "abnormal_condition_only": False}
    pump = {
        "id": PUMP,
        "supported_commodites": ["ELECTRICITY"],
        "operation_modes": [mode(OFF, 0), mode(HEAT, 1500)],
        "transitions": [{"id": name, "from": a, "to": b, **freely} for name, a, b in switching],
        "timers": [],
    }
    # The demand stands in the description: so it was in 0.0.2-beta, and so it is not in 1.0.0.
    demand = {"present_demand_rate": numbers(3000, 3000), "provides_average_demand_rate_forecast": False}
    return {"valid_from": now(), "actuators": [pump]} | demand


async def say(socket: ClientConnection, message_type: str, **members: object) -> None:
    await socket.send(json.dumps({"message_type": message_type, "message_id": str(uuid4())} | members))


async def status(socket: ClientConnection, operation_mode: str, factor: float) -> None:
    active = {"active_operation_mode_id": operation_mode, "operation_mode_factor": factor}
    await say(socket, "DDBC.ActuatorStatus", actuator_id=PUMP, **active)


async def converse(socket: ClientConnection) -> None:
    await say(socket, "Handshake", role="RM", supported_protocol_versions=["0.0.2-beta"])
    async for text in socket:
        message = json.loads(text)
        kind = message["message_type"]
        if kind == "ReceptionStatus":
            print("answered", message["status"], message.get("diagnostic_label", ""))
            continue
        print("received", kind)
        answer = {"subject_message_id": message["message_id"], "status": "OK"}
        await socket.send(json.dumps({"message_type": "ReceptionStatus"} | answer))
        if kind == "HandshakeResponse":
            await say(socket, "ResourceManagerDetails", **DETAILS)
        elif kind == "SelectControlType" and message["control_type"] in CONTROL_TYPES:
            await say(socket, "DDBC.SystemDescription", **description())
            await status(socket, OFF, 0.0)
        elif kind == "DDBC.Instruction":
            done = {"instruction_id": message["id"], "status_type": "SUCCEEDED", "timestamp": now()}
            await say(socket, "InstructionStatusUpdate", **done)
            await status(socket, message["operation_mode_id"], message["operation_mode_factor"])


async def main(url: str) -> None:
    token = os.environ.get("S2_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    while True:
        try:
            async with connect(url, additional_headers=headers) as socket:
                await converse(socket)
        except (OSError, InvalidHandshake, ConnectionClosed) as error:
            print("not connected:", error)
        await asyncio.sleep(5)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
