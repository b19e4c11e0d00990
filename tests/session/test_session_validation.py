"""Validation of messages in both directions of a session."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from s2connect.errors import AcknowledgementTimeout, MessageRefused, UsageError
from s2connect.messages import frbc, general
from s2connect.messages.catalogue import parse
from s2connect.messages.enums import Check
from s2connect.messages.envelope import Message
from s2connect.messages.general import ControlType
from s2connect.model.common import NodeDescription, NodeId, Role
from s2connect.session.session import Session
from s2connect.transports.base import Connection, ConnectionInfo
from s2connect.transports.memory import memory_pair
from tests.session import battery_messages
from tests.waits import within

CEM, RM = NodeId(UUID(int=1)), NodeId(UUID(int=2))
SELECT = general.SelectControlType(control_type=ControlType.FILL_RATE_BASED_CONTROL)
STATUS = frbc.StorageStatus(present_fill_level=40.0)
MEASUREMENT = {
    "message_type": "PowerMeasurement",
    "message_id": "m1",
    "measurement_timestamp": "2026-01-01T00:00:00Z",
    "values": [{"commodity_quantity": "ELECTRIC.POWER.L1", "value": 1.0}],
}


def connections(capacity: int = 100, version: str = "v1.0.0") -> tuple[Connection, Connection]:
    cem, rm = ConnectionInfo("Memory", CEM, RM, version), ConnectionInfo("Memory", RM, CEM, version)
    return memory_pair(cem, rm, capacity=capacity)


def session(connection: Connection, **options: Any) -> Session:
    role = Role.CEM if connection.info.local == CEM else Role.RM
    peer = NodeDescription(id=connection.info.remote, brand="B", type="T", model_name="M", role=role.other)
    return Session(connection, peer=peer, role=role, **options)


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Session, Session]]:
    a, b = connections()
    async with session(a) as cem, session(b) as rm, within(10):
        yield cem, rm


async def said(connection: Connection) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(await connection.recv())
    return value


@pytest.mark.rule("MSG-02")
async def test_a_selection_opens_the_control_type_on_both_sides(pair: tuple[Session, Session]) -> None:
    cem, rm = pair
    for ours, message in ((rm, STATUS), (cem, frbc_instruction())):
        with pytest.raises(UsageError, match="MSG-02"):
            await ours.send(message)
    assert (cem.control_type, rm.control_type) == (None, None)
    await cem.send(SELECT)
    assert cem.control_type is rm.control_type is ControlType.FILL_RATE_BASED_CONTROL
    received = await rm.receive()
    assert isinstance(received.parsed, general.SelectControlType)
    await rm.send(STATUS)
    got = (await cem.receive()).parsed
    assert got == STATUS
    await cem.send(general.SelectControlType(control_type=ControlType.NO_SELECTION))
    with pytest.raises(UsageError, match="MSG-02"):
        await rm.send(STATUS)


def frbc_instruction() -> frbc.Instruction:
    return frbc.Instruction(
        message_id="i1",
        id="i1",
        actuator_id="a1",
        operation_mode="o1",
        operation_mode_factor=0.5,
        execution_time=datetime(2026, 1, 1, tzinfo=UTC),
        abnormal_condition=False,
    )


@pytest.mark.rule("MSG-03")
@pytest.mark.parametrize(
    ("changes", "status", "label"),
    [
        ({"values": []}, "INVALID_MESSAGE", "values"),
        ({"message_type": "SelectControlType"}, "INVALID_MESSAGE", "control_type"),
        ({"message_type": "Nonsense"}, "INVALID_MESSAGE", "message_type"),
        ({"values": MEASUREMENT["values"] * 2}, "INVALID_CONTENT", "COM-06"),  # type: ignore[operator]
    ],
)
async def test_what_the_peer_breaks_is_answered_seen_logged_and_not_delivered(
    changes: dict[str, Any], status: str, label: str, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[tuple[str, str, str | None]] = []

    def observe(direction: str, message: Message) -> None:
        seen.append((direction, message.type, message.status))

    a, b = connections()
    async with session(a, on_message=observe) as ours:
        broken = {**MEASUREMENT, **changes}
        await b.send(json.dumps(broken))
        answer = await said(b)
        assert (answer["subject_message_id"], answer["status"]) == ("m1", status)
        assert label in answer["diagnostic_label"]
        assert answer["diagnostic_label"] in caplog.text
        assert seen == [("received", broken["message_type"], None), ("sent", "ReceptionStatus", status)]
        await b.send(json.dumps({**MEASUREMENT, "message_id": "m2"}))
        assert (await said(b))["status"] == "OK"
        assert (await ours.receive()).id == "m2"


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ({**MEASUREMENT, "values": []}, "values"),
        ({**MEASUREMENT, "values": MEASUREMENT["values"] * 2}, "COM-06"),  # type: ignore[operator]
        (json.dumps({**MEASUREMENT, "message_type": "Nonsense"}), "message_type"),
        (SELECT, "MSG-02"),
    ],
)
async def test_what_we_break_is_an_error_that_names_it_and_nothing_leaves(message: Any, named: str) -> None:
    a, b = connections()
    async with session(b) as rm:
        with pytest.raises(UsageError, match=named):
            await rm.send(message)
        sending = asyncio.create_task(rm.send(MEASUREMENT))
        assert (await said(a))["message_id"] == "m1"
        await a.send(json.dumps({"message_type": "ReceptionStatus", "subject_message_id": "m1", "status": "OK"}))
        await sending


@pytest.mark.rule("MSG-06")
async def test_an_object_and_a_text_are_sent_as_they_are_written_and_a_typed_message_by_its_schema() -> None:
    a, b = connections()
    async with session(b, ack_timeout=0.05) as rm:
        for message, written in (
            (" " + json.dumps(MEASUREMENT, indent=1), " " + json.dumps(MEASUREMENT, indent=1)),
            (parse(json.dumps(MEASUREMENT)), None),
        ):
            with pytest.raises(AcknowledgementTimeout):
                await rm.send(message)
            received = await a.recv()
            assert json.loads(received) == MEASUREMENT
            assert written in (None, received)


@pytest.mark.rule("MSG-02", "MSG-03")
async def test_a_late_ok_selects_as_well(caplog: pytest.LogCaptureFixture) -> None:
    a, b = connections()
    async with session(a, ack_timeout=0.05) as cem:
        with pytest.raises(AcknowledgementTimeout):
            await cem.send(SELECT)
        assert cem.control_type is None
        await b.recv()
        ok = {"message_type": "ReceptionStatus", "subject_message_id": SELECT.message_id, "status": "OK"}
        await b.send(json.dumps(ok))
        await b.send(json.dumps({**MEASUREMENT}))
        assert (await said(b))["status"] == "OK"
        assert cem.control_type is ControlType.FILL_RATE_BASED_CONTROL
        assert cem.late_acknowledgements == 1
        assert "late" in caplog.text


@pytest.mark.rule("MSG-02")
async def test_a_refused_selection_changes_nothing() -> None:
    a, b = connections()
    async with session(a) as cem:
        sending = asyncio.create_task(cem.send(SELECT))
        await b.recv()
        await b.send(STATUS.to_json())
        assert (await said(b))["status"] == "OK", "the device may be ahead of its answer"
        no = {"message_type": "ReceptionStatus", "subject_message_id": SELECT.message_id, "status": "INVALID_CONTENT"}
        await b.send(json.dumps(no))
        with pytest.raises(MessageRefused):
            await sending
        await b.send(STATUS.replace(message_id="m2").to_json())
        assert (await said(b))["status"] == "INVALID_CONTENT"


@pytest.mark.rule("MSG-02", "MSG-04")
@pytest.mark.parametrize("capacity", [1, 100])
async def test_a_device_that_answers_a_selection_at_once_is_never_ahead_of_its_ok(capacity: int) -> None:
    a, b = connections(capacity)
    async with session(b) as rm, within(10):

        async def work() -> None:
            async for message in rm:
                if message.type == "SelectControlType":
                    await rm.send(STATUS.replace(message_id=f"after-{message.id}"))

        working = asyncio.create_task(work())
        for number in range(50):
            await a.send(SELECT.replace(message_id=f"s{number}").to_json())
            first, then = await said(a), await said(a)
            assert (first["message_type"], then["message_id"]) == ("ReceptionStatus", f"after-s{number}")
            ok = {"message_type": "ReceptionStatus", "subject_message_id": then["message_id"], "status": "OK"}
            await a.send(json.dumps(ok))
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


async def test_messages_that_build_on_each_other_need_not_wait_for_their_answers(
    pair: tuple[Session, Session],
) -> None:
    cem, rm = pair
    await rm.send(battery_messages.resource_manager_details())
    with pytest.raises(UsageError, match="HIST-"):
        await cem.send(battery_messages.select_control_type() | {"control_type": "OPERATION_MODE_BASED_CONTROL"})
    await cem.send(battery_messages.select_control_type())
    told = (
        battery_messages.system_description(),
        battery_messages.actuator_status(0.0),
        battery_messages.storage_status(40.0),
    )
    await asyncio.gather(*(rm.send(message) for message in told))
    orders = [battery_messages.instruction(power) for power in (1000.0, 2000.0)]
    await asyncio.gather(*(cem.send(order) for order in orders))
    updates = [battery_messages.instruction_status(order["id"], "ACCEPTED") for order in orders]
    await asyncio.gather(*(rm.send(update) for update in updates))
    with pytest.raises(UsageError, match="HIST-"):
        await cem.send(battery_messages.instruction(0.0) | {"operation_mode": "never-described"})
    with pytest.raises(UsageError, match="HIST-"):
        await rm.send(battery_messages.actuator_status(0.0) | {"actuator_id": "never-described"})


async def test_messages_beyond_all_room_change_nothing() -> None:
    a, b = connections()
    async with session(b, inbox_limit=1, overflow_limit=0) as rm:
        await a.send(general.SelectControlType(control_type=ControlType.NO_SELECTION).to_json())
        assert (await said(a))["status"] == "OK"
        await a.send(SELECT.to_json())
        assert (await said(a))["status"] == "TEMPORARY_ERROR"
        assert rm.control_type is None


@pytest.mark.rule("VER-06")
async def test_the_version_of_the_connection_decides_in_any_spelling() -> None:
    a, b = connections(version="v0.0.2-beta")
    async with session(a) as cem, session(b) as rm:
        await cem.send(general.SelectControlType(control_type=ControlType.DEMAND_DRIVEN_BASED_CONTROL))
        rate = {"start_of_range": 1.0, "end_of_range": 2.0}
        with pytest.raises(UsageError):
            await rm.send({"message_type": "DDBC.PresentDemandStatus", "present_demand_rate": rate})


async def test_a_version_that_is_unknown_can_be_spoken_without_validation_only() -> None:
    a, b = connections(version="v9")
    with pytest.raises(UsageError):
        session(a)
    async with session(a, check=Check.ENVELOPE) as cem, session(b, check=Check.ENVELOPE) as rm:
        await cem.send({"message_type": "Novelty"})
        received = await rm.receive()
        with pytest.raises(UsageError):
            _ = received.parsed


@pytest.mark.rule("MSG-08", "MSG-05", "MSG-03")
@pytest.mark.parametrize("identifier", ["rm1.msg.12", "{3F2504E0-4F89-11D3-9A0C-0305E82C3301}", "x" * 65, 'ü "a1"'])
async def test_an_odd_id_is_answered_about_itself_delivered_and_warned_of(
    identifier: str, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = connections()
    async with session(a) as cem, within(10):
        await b.send(json.dumps({**MEASUREMENT, "message_id": identifier}))
        answer = await said(b)
        assert (answer["subject_message_id"], answer["status"]) == (identifier, "OK")
        assert (await cem.receive()).id == identifier
        assert "COM-01" in caplog.text


@pytest.mark.rule("MSG-08", "MSG-03")
@pytest.mark.parametrize(("version", "status"), [("0.0.2-beta", "OK"), ("v1.0.0", "INVALID_MESSAGE")])
async def test_null_of_a_beta_peer_is_acknowledged_and_delivered_as_missing(
    version: str, status: str, caplog: pytest.LogCaptureFixture
) -> None:
    details = """{"message_type": "ResourceManagerDetails", "message_id": "m1", "resource_id": "ev-1", "name": null,
     "roles": [{"role": "ENERGY_STORAGE", "commodity": "ELECTRICITY"}], "instruction_processing_delay": 0,
     "available_control_types": ["FILL_RATE_BASED_CONTROL"], "provides_forecast": false, "currency": null,
     "provides_power_measurement_types": ["ELECTRIC.POWER.L1"]}"""
    a, b = connections(version=version)
    async with session(a) as cem, within(10):
        await b.send(details)
        answer = await said(b)
        assert (answer["subject_message_id"], answer["status"]) == ("m1", status)
        if status != "OK":
            assert answer["diagnostic_label"].startswith("name: is null, which no member may be")
            return
        received = await cem.receive()
        assert isinstance(received.parsed, general.ResourceManagerDetails)
        assert (received.text, received.parsed.name, received.parsed.currency) == (details, None, None)
    assert "READ-01: name: null is read as missing" in caplog.text


@pytest.mark.rule("MSG-08", "MSG-05")
async def test_what_we_write_is_strict() -> None:
    a, b = connections(version="0.0.2-beta")
    async with session(b) as rm, within(10):
        for message in (
            {**MEASUREMENT, "message_id": "rm1.msg.12"},
            json.dumps({**MEASUREMENT, "message_id": "rm1.msg.12"}),
            {**MEASUREMENT, "measurement_timestamp": "2016-12-31T23:59:60Z"},
            {"message_type": "SessionRequest", "request": "RECONNECT", "diagnostic_label": None},
        ):
            with pytest.raises(UsageError):
                await rm.send(message)
        await a.send(json.dumps({**MEASUREMENT, "message_id": "m1"}))
        assert (await said(a))["subject_message_id"] == "m1"


@pytest.mark.rule("MSG-08")
async def test_a_warning_is_logged_once_for_each_rule_and_side_of_a_session(
    caplog: pytest.LogCaptureFixture,
) -> None:
    a, b = connections(version="0.0.2-beta")
    async with session(a) as cem, within(10):
        for number in range(30):
            request = {"object_type": "PEBC.PowerConstraints", "object_id": "roof"}
            await b.send(json.dumps({"message_type": "RevokeObject", "message_id": f"m.{number}x", **request}))
            assert (await said(b))["status"] == "INVALID_CONTENT"
        for number in range(30):
            await b.send(json.dumps({**MEASUREMENT, "message_id": f"m.{number}x"}))
            assert (await said(b))["status"] == "OK"
            await cem.receive()
    warned = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    warned = [text for text in warned if "it sent " in text]
    assert sorted(text.split("it sent ")[1][:7] for text in warned) == ["COM-01:", "HIST-29"]


@pytest.mark.rule("MSG-08", "SEC-03")
async def test_a_peer_that_comes_again_and_again_or_sends_nonsense_does_not_fill_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for _ in range(10):
        a, b = connections()
        async with session(a), within(10):
            for text in (
                "nonsense",
                json.dumps({**MEASUREMENT, "values": []}),
                json.dumps({**MEASUREMENT, "message_id": "m.1x"}),
            ):
                for _ in range(5):
                    await b.send(text)
                    await said(b)
    lines = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert len(lines) == len(set(lines)) == 4, "no message; refused; two rules: an odd id, and the same one again"


async def test_warnings_are_logged_and_nothing_else(
    pair: tuple[Session, Session], caplog: pytest.LogCaptureFixture
) -> None:
    cem, rm = pair
    values = [
        {"commodity_quantity": "ELECTRIC.POWER.L1", "value": 1.0},
        {"commodity_quantity": "ELECTRIC.POWER.3_PHASE_SYMMETRIC", "value": 1.0},
    ]
    await rm.send({**MEASUREMENT, "values": values})
    assert (await cem.receive()).id == "m1"
    assert "we sent COM-07" in caplog.text
    assert "it sent COM-07" in caplog.text
