"""s2-python as device and as energy manager, as client and as server, with our side on plain S2 over WebSocket."""

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

import pytest

from s2connect.certs.authority import CertificateAuthority
from s2connect.certs.tls import ServerContext
from s2connect.errors import SessionRefused
from s2connect.messages.envelope import Message
from s2connect.model.common import NodeDescription, NodeId, Role
from s2connect.model.secret import Secret
from s2connect.plain import PlainServer
from s2connect.session.session import Session, SessionEnd
from s2connect.transports.base import Connection
from s2connect.transports.legacy import PlainDoor, connect_plain, plain_node_id
from s2connect.transports.websocket_ends import WebSocketTimings
from tests.interop.interop_kit import HERE, peer_python

OURS = NodeId(UUID(int=1))
TOKEN = Secret("a-token-of-s2-python")
TIMINGS = WebSocketTimings(close_timeout=0.5)
CONTROL_TYPES = {"FRBC": "FILL_RATE_BASED_CONTROL", "PEBC": "POWER_ENVELOPE_BASED_CONTROL"}
POWER = "ELECTRIC.POWER.L1"
FRBC_PATH = ["FRBC.SystemDescription", "FRBC.StorageStatus", "FRBC.ActuatorStatus"]


# The peer's process


class Peer:
    """What s2-python says about itself."""

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
async def s2python(
    role: str, kind: str, *, environment: dict[str, str] | None = None, **task: Any
) -> AsyncIterator[Peer]:
    process = await asyncio.create_subprocess_exec(
        *(peer_python("s2python"), HERE / "s2python_plain.py"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | (environment or {}),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps({"role": role, "kind": kind, "rounds": 1} | task).encode())
        process.stdin.close()
        async with asyncio.timeout(20):
            yield Peer(process.stdout)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


@contextlib.asynccontextmanager
async def our_server(role: Role, **options: Any) -> AsyncIterator[PlainServer]:
    door = PlainDoor(role=role, local=OURS, tokens={"peer": TOKEN}, timings=TIMINGS)
    async with PlainServer(door, path="/s2", **options) as server:
        yield server


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


async def manage(ours: Session, kind: str) -> list[str]:
    """Control the device once; returns the statuses of the instruction."""
    (details,) = await next_of(ours, "ResourceManagerDetails")
    assert details.body["available_control_types"] == [CONTROL_TYPES[kind]]
    await ours.send({"message_type": "SelectControlType", "control_type": CONTROL_TYPES[kind]})
    identifier = str(uuid4())
    common = {"id": identifier, "execution_time": now(), "abnormal_condition": False}
    if kind == "FRBC":
        description, storage, _ = await next_of(ours, *FRBC_PATH)
        assert storage.body["present_fill_level"] == 42.5
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


MANAGER_SAW = {
    "FRBC": ["handshake", "details", "description", "status", "status", "update", "update", "status", "stopped"],
    "PEBC": ["handshake", "details", "description", "update", "update", "status", "stopped"],
}


# s2-python as device


@pytest.mark.rule("MSG-02", "MSG-03")
@pytest.mark.parametrize("kind", ["FRBC", "PEBC"])
async def test_their_device_is_controlled_by_our_server(kind: str) -> None:
    async with our_server(Role.CEM) as server:
        url = f"ws://127.0.0.1:{server.port}/s2"
        async with s2python("RM", kind, url=url, token=TOKEN.reveal()) as peer:
            connection = await anext(server)
            assert (connection.info.s2_version, connection.info.remote) == ("0.0.2-beta", plain_node_id("peer"))
            async with session(connection, Role.CEM) as ours:
                assert await manage(ours, kind) == ["ACCEPTED", "SUCCEEDED"]
                await peer.until("stopped")
            assert peer.all("activated", "control_type") == [kind]


@pytest.mark.parametrize("kind", ["FRBC", "PEBC"])
async def test_their_device_as_server_is_controlled_by_our_client(kind: str) -> None:
    async with s2python("RM", kind, rounds=2) as peer:
        url = f"ws://127.0.0.1:{(await peer.until('listening'))['port']}/"
        for _ in range(2):
            connection = await connect_plain(url, role=Role.CEM, local=OURS, token=TOKEN, timings=TIMINGS)
            assert connection.info.remote == plain_node_id(url)
            async with session(connection, Role.CEM) as ours:
                assert await manage(ours, kind) == ["ACCEPTED", "SUCCEEDED"]
                await peer.until("stopped")
        assert peer.all("connected", "token") == [f"Bearer {TOKEN.reveal()}"] * 2


@pytest.mark.rule("REC-01")
async def test_their_device_comes_back_after_the_wire_was_cut() -> None:
    async with our_server(Role.CEM) as server:
        url = f"ws://127.0.0.1:{server.port}/s2"
        async with s2python("RM", "FRBC", url=url, token=TOKEN.reveal(), rounds=2) as peer:
            first = await anext(server)
            async with session(first, Role.CEM) as ours:
                await next_of(ours, "ResourceManagerDetails")
                await ours.send({"message_type": "SelectControlType", "control_type": CONTROL_TYPES["FRBC"]})
                await next_of(ours, *FRBC_PATH)
                first._end._transport.abort()  # type: ignore[attr-defined]
                await ours.wait_closed()
                assert ours.end_reason is SessionEnd.LOST
            await peer.until("stopped")
            second = await anext(server)
            assert second.info.remote == first.info.remote
            async with session(second, Role.CEM) as ours:
                assert await manage(ours, "FRBC") == ["ACCEPTED", "SUCCEEDED"]
                await peer.until("stopped")


async def test_their_device_comes_in_over_tls_with_its_certificate_checked(tmp_path: Path) -> None:
    authority = CertificateAuthority.create("CA of a test", now=datetime.now(UTC))
    tls = await asyncio.to_thread(ServerContext, authority.issue(["127.0.0.1"], now=datetime.now(UTC)))
    (tmp_path / "ca.pem").write_bytes(authority.to_pem())
    environment = {"SSL_CERT_FILE": str(tmp_path / "ca.pem")}
    async with our_server(Role.CEM, tls=tls.context) as server:
        url = f"wss://127.0.0.1:{server.port}/s2"
        async with (
            s2python("RM", "PEBC", url=url, token=TOKEN.reveal(), environment=environment) as peer,
            session(await anext(server), Role.CEM) as ours,
        ):
            assert await manage(ours, "PEBC") == ["ACCEPTED", "SUCCEEDED"]
            await peer.until("stopped")


# s2-python as energy manager


@pytest.mark.rule("MSG-02", "MSG-03")
@pytest.mark.parametrize("kind", ["FRBC", "PEBC"])
async def test_our_server_as_device_is_controlled_by_their_manager(kind: str) -> None:
    async with our_server(Role.RM) as server:
        url = f"ws://127.0.0.1:{server.port}/s2"
        async with s2python("CEM", kind, url=url, token=TOKEN.reveal()) as peer:
            async with session(await anext(server), Role.RM) as ours:
                await be_device(ours, kind)
                await peer.until("stopped")
            assert [said["event"] for said in peer.events[1:]] == MANAGER_SAW[kind]
            assert peer.all("update", "status") == ["ACCEPTED", "SUCCEEDED"]


@pytest.mark.parametrize("handshake", ["first", "late", "none"])
@pytest.mark.parametrize("kind", ["FRBC", "PEBC"])
async def test_our_client_as_device_is_controlled_however_their_manager_shakes_hands(kind: str, handshake: str) -> None:
    async with s2python("CEM", kind, rounds=2, handshake=handshake) as peer:
        url = f"ws://127.0.0.1:{(await peer.until('listening'))['port']}/"
        for _ in range(2):
            connection = await connect_plain(url, role=Role.RM, local=OURS, timings=TIMINGS)
            async with session(connection, Role.RM) as ours:
                await be_device(ours, kind)
                await peer.until("stopped")
        assert peer.all("handshake", "versions") == [["0.0.2-beta"]] * 2


# Refused


async def test_their_device_is_told_that_there_is_no_common_version() -> None:
    async with s2python("RM", "FRBC") as peer:
        url = f"ws://127.0.0.1:{(await peer.until('listening'))['port']}/"
        with pytest.raises(SessionRefused) as caught:
            await connect_plain(url, role=Role.CEM, local=OURS, versions=["v1.0.0"], timings=TIMINGS)
        assert caught.value.reason == "IncompatibleS2MessageVersions"
        assert "0.0.2-beta" in caught.value.what
        assert "INVALID_CONTENT" in (await peer.until("refused"))["text"]
