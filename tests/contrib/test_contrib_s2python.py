"""The medium for s2-python on a connection in memory, with s2-python's own connection on top where it matters."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from s2connect import ConnectionInfo, NodeId, Role
from s2connect.contrib.s2python import S2ConnectMedium
from s2connect.errors import ConfigurationError
from s2connect.messages import ddbc
from s2connect.messages.catalogue import V1, parse
from s2connect.transports.base import Connection
from s2connect.transports.memory import memory_pair
from tests.waits import patience, within

pytest.importorskip("s2python", reason="s2-python is not installed; the extra s2python brings it")

from s2python.common import (
    EnergyManagementRole,
    Handshake,
    NumberRange,
    PowerRange,
    ReceptionStatusValues,
    SelectControlType,
)
from s2python.connection.async_ import S2AsyncConnection
from s2python.connection.async_.medium.s2_medium import MediumClosedConnectionError, S2AsyncMediumConnection
from s2python.connection.sync import S2SyncConnection
from s2python.ddbc import DDBCActuatorDescription, DDBCOperationMode, DDBCSystemDescription
from s2python.s2_parser import S2Parser
from s2python.version import S2_VERSION

MODE = uuid4()
LOCAL, REMOTE = NodeId(uuid4()), NodeId(uuid4())


def connections(capacity: int = 16, version: str = V1) -> tuple[Connection, Connection]:
    """Ours, and the peer's."""
    return memory_pair(
        ConnectionInfo("Memory", LOCAL, REMOTE, version),
        ConnectionInfo("Memory", REMOTE, LOCAL, version),
        capacity=capacity,
    )


def text(message_type: str, **members: object) -> str:
    return json.dumps({"message_type": message_type, "message_id": str(uuid4()), **members})


def ok(message: dict[str, Any]) -> str:
    return json.dumps({"message_type": "ReceptionStatus", "subject_message_id": message["message_id"], "status": "OK"})


def selection() -> str:
    return text("SelectControlType", control_type="NOT_CONTROLABLE")


async def heard(messages: AsyncGenerator[str, None]) -> dict[str, Any]:
    async with within(5):
        value: dict[str, Any] = json.loads(await anext(messages))
    return value


async def received(connection: Connection) -> dict[str, Any]:
    async with within(5):
        value: dict[str, Any] = json.loads(await connection.recv())
    return value


def handshake(*versions: str) -> str:
    return text("Handshake", role="RM", supported_protocol_versions=versions)


# The handshake


@pytest.mark.rule("MSG-01")
async def test_a_device_shakes_hands_with_the_medium_and_nothing_of_it_reaches_the_session() -> None:
    ours, peers = connections()
    medium = S2ConnectMedium(ours, role=Role.RM)
    messages = medium.messages()

    opening = await heard(messages)
    assert (opening["message_type"], opening["role"]) == ("Handshake", "CEM")
    assert opening["supported_protocol_versions"] == [S2_VERSION]
    await medium.send(ok(opening))
    own = handshake("9.9", "v0.0.2-beta", "0.0.2-beta")
    await medium.send(own)
    status, response = await heard(messages), await heard(messages)
    assert status["subject_message_id"] == json.loads(own)["message_id"]
    assert status["status"] == "OK"
    assert response["selected_protocol_version"] == "v0.0.2-beta"  # as the application spells it
    await medium.send(ok(response))

    await medium.send(text("ResourceManagerDetails"))
    assert (await received(peers))["message_type"] == "ResourceManagerDetails"


@pytest.mark.rule("MSG-01")
async def test_an_energy_manager_shakes_hands_with_the_medium() -> None:
    ours, peers = connections()
    medium = S2ConnectMedium(ours, role=Role.CEM)
    messages = medium.messages()

    opening = await heard(messages)
    assert opening["role"] == "RM"
    for message in (text("Handshake", role="CEM"), text("HandshakeResponse", selected_protocol_version=S2_VERSION)):
        await medium.send(message)
        status = await heard(messages)
        assert status["subject_message_id"] == json.loads(message)["message_id"]
        assert status["status"] == "OK"
    await medium.send(ok(opening))

    await medium.send(selection())
    assert (await received(peers))["message_type"] == "SelectControlType"


@pytest.mark.parametrize(
    ("role", "message"),
    [
        (Role.RM, handshake("1.0.0")),
        (Role.CEM, text("HandshakeResponse", selected_protocol_version="1.0.0")),
    ],
    ids=["RM", "CEM"],
)
async def test_a_version_that_s2python_does_not_speak_is_refused(role: Role, message: str) -> None:
    medium = S2ConnectMedium(connections()[0], role=role)
    messages = medium.messages()
    await heard(messages)
    await medium.send(message)
    status = await heard(messages)
    assert (status["status"], status["diagnostic_label"]) == (
        "INVALID_CONTENT",
        "the application was to speak 0.0.2-beta",
    )


@pytest.mark.rule("MSG-01")
async def test_a_handshake_of_the_peer_is_refused_and_not_shown() -> None:
    ours, peers = connections()
    messages = S2ConnectMedium(ours, role=Role.RM).messages()
    await heard(messages)
    wrong = handshake(S2_VERSION)
    await peers.send(wrong)
    await peers.send(selection())
    assert (await heard(messages))["message_type"] == "SelectControlType"
    refusal = await received(peers)
    assert refusal["subject_message_id"] == json.loads(wrong)["message_id"]
    assert refusal["status"] == "INVALID_CONTENT"


@pytest.mark.rule("MSG-03", "MSG-06")
@pytest.mark.rule("MSG-03")
async def test_an_answer_to_the_peer_that_has_to_wait_is_not_lost_when_the_application_shakes_hands() -> None:
    ours, theirs = connections(capacity=1)
    async with S2ConnectMedium(ours, role=Role.RM) as medium:
        messages = medium.messages()
        await anext(messages)
        await medium.send(text("FRBC.StorageStatus", present_fill_level=1.0))  # now there is no room
        receiving = asyncio.ensure_future(anext(messages))
        refused = text("Handshake", role="CEM")
        await theirs.send(refused)
        await asyncio.sleep(0.01)
        await medium.send(text("Handshake", role="RM", supported_protocol_versions=[S2_VERSION]))
        await asyncio.sleep(0.01)
        assert json.loads(await theirs.recv())["message_type"] == "FRBC.StorageStatus"
        assert json.loads(await receiving)["status"] == "OK"
        assert json.loads(await anext(messages))["message_type"] == "HandshakeResponse"
        receiving = asyncio.ensure_future(anext(messages))
        async with within(5):
            answer = json.loads(await theirs.recv())
        assert answer["subject_message_id"] == json.loads(refused)["message_id"]
        assert answer["status"] == "INVALID_CONTENT"
        receiving.cancel()
        await asyncio.wait({receiving})


async def test_everything_else_passes_as_it_is_even_what_is_no_message() -> None:
    ours, peers = connections()
    medium = S2ConnectMedium(ours, role=Role.RM)
    messages = medium.messages()
    await heard(messages)
    for odd in ("{", "[]", '{ "message_type" : "Unknown","message_id":"ab"}', ok({"message_id": "somebody-elses"})):
        await peers.send(odd)
        assert await anext(messages) == odd
        await medium.send(odd)
        assert await peers.recv() == odd


async def test_the_next_application_on_the_medium_has_a_handshake_of_its_own_and_loses_nothing() -> None:
    ours, peers = connections()
    medium = S2ConnectMedium(ours, role=Role.RM)
    first = medium.messages()
    await heard(first)
    await first.aclose()
    await peers.send(selection())
    second = medium.messages()
    assert [(await heard(second))["message_type"] for _ in range(2)] == ["Handshake", "SelectControlType"]


# As s2-python wants it


async def test_it_is_a_medium_to_s2python() -> None:
    ours, peers = connections()
    medium = S2ConnectMedium(ours, role=Role.RM)
    assert isinstance(medium, S2AsyncMediumConnection)
    application = S2AsyncConnection(medium)
    selected: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def select(_: object, message: SelectControlType, okay: Any) -> None:
        await okay()
        selected.set_result(message.control_type.value)

    application.register_handler(SelectControlType, select)
    running = asyncio.create_task(application.run())
    await asyncio.sleep(0)
    answer = await application.send_msg_and_await_reception_status(
        Handshake(message_id=uuid4(), role=EnergyManagementRole.RM, supported_protocol_versions=[S2_VERSION])
    )
    assert answer.status is ReceptionStatusValues.OK
    await peers.send(selection())
    assert await selected == "NOT_CONTROLABLE"
    assert (await received(peers))["status"] == "OK"

    await application.stop()
    await running
    assert await medium.is_connected()
    await medium.close()


def test_a_synchronous_application_runs_on_the_loop_of_its_connection() -> None:
    selected: list[str] = []

    def select(_: object, message: Any, okay: Any) -> None:
        okay()
        selected.append(message.control_type.value)

    async def peer(connection: Connection) -> dict[str, Any]:
        await connection.send(selection())
        status = await received(connection)
        await connection.close()
        return status

    with asyncio.Runner() as runner:
        ours, peers = connections()
        application = S2SyncConnection(S2ConnectMedium(ours, role=Role.RM), runner.get_loop())
        application.register_handler(SelectControlType, select)
        talking = runner.get_loop().create_task(peer(peers))
        application.run()
        assert talking.result()["status"] == "OK"
    assert selected == ["NOT_CONTROLABLE"]


async def test_messages_end_where_the_peer_closed_normally() -> None:
    ours, peers = connections()
    medium = S2ConnectMedium(ours, role=Role.RM)
    await peers.send(selection())
    await peers.close()
    kinds = [json.loads(message)["message_type"] async for message in medium.messages()]
    assert kinds == ["Handshake", "SelectControlType"]
    assert not await medium.is_connected()


async def test_losing_the_connection_is_told_in_s2pythons_words() -> None:
    ours, peers = connections()
    medium = S2ConnectMedium(ours, role=Role.RM)
    messages = medium.messages()
    await heard(messages)
    await peers.close(1008, "no \x1b[31mmore")
    with pytest.raises(MediumClosedConnectionError) as caught:
        await anext(messages)
    assert "\x1b" not in str(caught.value)
    with pytest.raises(MediumClosedConnectionError):
        await medium.send(text("ResourceManagerDetails"))
    assert not await medium.is_connected()


async def test_sending_on_a_lost_connection_shows_that_it_is_lost() -> None:
    ours, peers = connections()
    medium = S2ConnectMedium(ours, role=Role.RM)
    await peers.close()
    with pytest.raises(MediumClosedConnectionError):
        await medium.send(text("ResourceManagerDetails"))
    assert not await medium.is_connected()


async def test_leaving_the_medium_closes_the_connection() -> None:
    ours, peers = connections()
    async with S2ConnectMedium(ours, role=Role.RM):
        pass
    async with within(5):
        await peers.wait_closed()


async def test_a_receiver_that_is_cancelled_anywhere_loses_nothing() -> None:
    ours, peers = connections(capacity=2)
    medium = S2ConnectMedium(ours, role=Role.RM)
    sent = [selection() for _ in range(200)]
    chance = random.Random(7)
    seen: list[str] = []

    async def send() -> None:
        for message in sent:
            await peers.send(message)
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)

    async def receive() -> None:
        async for message in medium.messages():
            if json.loads(message)["message_type"] != "Handshake":
                seen.append(message)
            if chance.random() < 0.3:
                await asyncio.sleep(0)

    sending = asyncio.create_task(send())
    async with within(20):
        while len(seen) < len(sent):
            receiving = asyncio.create_task(receive())
            for _ in range(chance.randrange(12)):
                await asyncio.sleep(0)
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)
    await sending
    assert seen == sent


async def test_many_may_send_at_once_and_the_cancelled_send_whole_messages_or_none() -> None:
    ours, peers = connections(capacity=1)
    medium = S2ConnectMedium(ours, role=Role.RM)
    texts = [text("PowerMeasurement") for _ in range(30)]
    senders = [asyncio.create_task(medium.send(one)) for one in texts]
    await asyncio.sleep(0)
    for sender in senders[::3]:
        sender.cancel()
    arrived: list[Any] = []
    async with within(5):
        while not all(sender.done() for sender in senders) or len(arrived) < 20:
            arrived.append(await peers.recv())
    await asyncio.gather(*senders, return_exceptions=True)
    kept = {one for one, sender in zip(texts, senders, strict=True) if not sender.cancelled()}
    assert kept <= set(arrived) <= set(texts)
    assert len(set(arrived)) == len(arrived)


# Demand driven control, where the versions differ and s2-python's models are of neither


def description() -> DDBCSystemDescription:
    mode = DDBCOperationMode(
        Id=str(MODE),
        id=MODE,
        power_ranges=[PowerRange(start_of_range=0, end_of_range=9, commodity_quantity="ELECTRIC.POWER.L1")],
        supply_range=[NumberRange(start_of_range=0, end_of_range=4)],
        abnormal_condition_only=False,
    )
    actuator = DDBCActuatorDescription(
        id=uuid4(),
        supported_commodites=["ELECTRICITY"],
        operation_modes=[mode],
        transitions=[],
        timers=[],
    )
    return DDBCSystemDescription(
        message_id=uuid4(),
        valid_from=datetime.now(UTC),
        actuators=[actuator],
        present_demand_rate=NumberRange(start_of_range=1, end_of_range=2),
        provides_average_demand_rate_forecast=False,
    )


async def test_a_device_of_demand_driven_control_is_understood_on_a_session_of_v1() -> None:
    ours, peers = connections()
    medium = S2ConnectMedium(ours, role=Role.RM)
    messages = medium.messages()
    await heard(messages)
    written = description()
    await medium.send(written.to_json())

    told = [parse(await peers.recv(), V1) for _ in range(2)]
    assert isinstance(told[0], ddbc.SystemDescription)
    assert told[0].actuators[0].operation_modes[0].id == str(MODE)
    assert isinstance(told[1], ddbc.PresentDemandStatus)
    assert told[1].present_demand_rate.end_of_range == 2
    for message in told:
        await peers.send(ok({"message_id": getattr(message, "message_id", None)}))
    await peers.send(selection())
    assert (await heard(messages))["subject_message_id"] == str(written.message_id)
    assert (await heard(messages))["message_type"] == "SelectControlType", "one answer, not two"


async def test_an_energy_manager_of_demand_driven_control_understands_a_session_of_v1() -> None:
    ours, peers = connections()
    medium = S2ConnectMedium(ours, role=Role.CEM)
    messages = medium.messages()
    await heard(messages)
    value = json.loads(description().to_json())
    rate = value.pop("present_demand_rate")
    mode = value["actuators"][0]["operation_modes"][0]
    del mode["id"]
    mode["supply_range"] = mode["supply_range"][0]
    await peers.send(json.dumps(value))
    await peers.send(text("DDBC.PresentDemandStatus", present_demand_rate=rate))

    read = S2Parser.parse_as_any_message(await anext(messages))
    assert isinstance(read, DDBCSystemDescription)
    assert read.present_demand_rate.end_of_range == 2
    assert read.actuators[0].operation_modes[0].id == MODE
    await medium.send(ok({"message_id": str(read.message_id)}))
    assert [(await received(peers))["status"] for _ in range(2)] == ["OK", "OK"]


async def test_two_of_demand_driven_control_understand_each_other_in_the_beta() -> None:
    ours, peers = connections(version="0.0.2-beta")
    device, manager = S2ConnectMedium(ours, role=Role.RM), S2ConnectMedium(peers, role=Role.CEM)
    messages = manager.messages()
    await heard(messages)
    written = description()
    await device.send(written.to_json())
    assert S2Parser.parse_as_any_message(await anext(messages)) == written


@pytest.mark.rule("MSG-03")
async def test_what_cannot_be_translated_is_refused_to_whoever_sent_it() -> None:
    ours, peers = connections()
    medium = S2ConnectMedium(ours, role=Role.CEM)
    messages = medium.messages()
    await heard(messages)
    beta = text("DDBC.SystemDescription", present_demand_rate={"start_of_range": 1, "end_of_range": 2})
    await peers.send(beta)
    await peers.send(text("PowerMeasurement"))
    assert (await heard(messages))["message_type"] == "PowerMeasurement"
    refusal = await received(peers)
    assert (refusal["subject_message_id"], refusal["status"]) == (json.loads(beta)["message_id"], "INVALID_MESSAGE")
    unknown = text("DDBC.PresentDemandStatus")
    await medium.send(unknown)
    refusal = await heard(messages)
    assert (refusal["subject_message_id"], refusal["status"]) == (json.loads(unknown)["message_id"], "INVALID_MESSAGE")


async def test_what_was_received_is_delivered_although_sending_fails() -> None:
    ours, peers = connections()
    medium = S2ConnectMedium(ours, role=Role.CEM)
    await peers.send(text("DDBC.SystemDescription"))  # to be refused, which cannot be sent any more
    await peers.send(text("PowerMeasurement"))
    await peers.close()
    with pytest.raises(MediumClosedConnectionError):
        await medium.send(selection())
    kinds = [json.loads(message)["message_type"] async for message in medium.messages()]
    assert kinds == ["Handshake", "PowerMeasurement"]


# Without s2-python


def test_the_module_is_imported_without_s2python() -> None:
    code = "import sys, s2connect.contrib.s2python; assert not {m for m in sys.modules if m.startswith('s2python')}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=patience(30))


async def test_the_medium_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s2python.version", None)
    with pytest.raises(ConfigurationError) as caught:
        S2ConnectMedium(connections()[0], role=Role.RM)
    assert "s2connect[s2python]" in (caught.value.hint or "")
