"""Refused messages of a link: counted by status, logged once, the last one shown; and answers of applications pass."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from uuid import uuid4

import aiohttp
import pytest

from s2connect import Message, NodeDescription, RefuseMessage, Session
from s2connect.bridge.counters import BRIDGE, MAX_LOGGED, OTHER, PEER, Counters
from s2connect.bridge.relay import FAR_SIDE_PATIENCE, Policy, Relay
from s2connect.cli.bridge_rows import Row
from s2connect.errors import MessageRefused
from s2connect.messages.enums import Check
from s2connect.model.common import NodeId, Role
from s2connect.web.metrics import Metrics
from s2connect.web.observation import Observation
from tests.bridge.link_fixtures import answer, message
from tests.bridge.test_bridge_bridge import FileSetup
from tests.bridge.test_bridge_relay import CEM, NOON, RM, V1, measurement, said
from tests.waits import within


def linked(*, cem: str = V1, check: Check = Check.ENVELOPE) -> tuple[Relay, Counters]:
    counters = Counters("house/battery")
    return Relay({RM: V1, CEM: cem}, Policy(check=check), counters=counters, wall=lambda: NOON), counters


def refused(subject: str, status: str, label: str | None = None) -> str:
    return json.dumps({**json.loads(answer(subject, status)), "diagnostic_label": label})


def test_what_the_far_side_refuses_is_counted_by_status_and_logged_once_with_its_label(
    caplog: pytest.LogCaptureFixture,
) -> None:
    link, counters = linked()
    for number, status in enumerate(["INVALID_CONTENT", "OK", "INVALID_CONTENT", "TEMPORARY_ERROR", "NO_SUCH", "X"]):
        link.received(CEM, message(f"m{number}", "FRBC.Instruction"), now=float(number))
        link.received(RM, refused(f"m{number}", status, f"no\x1b[31m {number}"), now=number + 0.5)
    assert counters.refused == {
        (CEM, PEER, "INVALID_CONTENT"): 2,
        (CEM, PEER, "TEMPORARY_ERROR"): 1,
        (CEM, PEER, OTHER): 2,
    }
    last = counters.last[CEM]
    assert (last.message_type, last.status, last.label) == ("FRBC.Instruction", "X", "no [31m 5")
    assert (last.by, last.at) == (PEER, 5.5)
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told[0] == "link house/battery: the RM refused FRBC.Instruction of the CEM: INVALID_CONTENT (no [31m 0)"
    assert len(told) == 4
    assert link.counters.messages[CEM]["acknowledged"] == 6


def test_what_the_bridge_refuses_itself_is_told_as_that(caplog: pytest.LogCaptureFixture) -> None:
    link, counters = linked(check=Check.SCHEMA)
    for identifier in ("m1", "m2"):
        (out,) = link.received(RM, message(identifier), now=1.0)
        assert said(out)[1] == "INVALID_MESSAGE"
    link.received(RM, "garbage", now=2.0)
    assert counters.refused == {(RM, BRIDGE, "INVALID_MESSAGE"): 2, (RM, BRIDGE, "INVALID_DATA"): 1}
    assert counters.last[RM].message_type == ""
    assert len(caplog.records) == 2
    assert "the bridge refused PowerMeasurement of the RM: INVALID_MESSAGE (" in caplog.text
    assert "the bridge refused a message of the RM: INVALID_DATA (" in caplog.text


def test_an_answer_that_does_not_come_and_one_that_comes_late_are_both_told() -> None:
    link, counters = linked()
    link.received(RM, measurement("m1"), now=0.0)
    assert len(link.overdue(FAR_SIDE_PATIENCE)) == 1
    assert counters.refused == {(RM, BRIDGE, "TEMPORARY_ERROR"): 1}
    assert counters.last[RM].message_type == "PowerMeasurement"
    link.received(CEM, answer("m1", "INVALID_CONTENT"), now=5.0)
    assert counters.refused[RM, PEER, "INVALID_CONTENT"] == 1
    assert counters.last[RM].message_type == "PowerMeasurement"
    link.received(CEM, answer("m1", "INVALID_CONTENT"), now=6.0)
    assert counters.refused[RM, PEER, "INVALID_CONTENT"] == 1, "a second answer is no refusal"


def test_between_two_versions_the_type_is_the_one_that_was_sent() -> None:
    link, counters = linked(cem="0.0.2-beta")
    link.received(RM, measurement("m1"), now=0.0)
    link.received(CEM, answer("m1", "PERMANENT_ERROR"), now=0.1)
    assert counters.refused == {(RM, PEER, "PERMANENT_ERROR"): 1}
    assert counters.last[RM].message_type == "PowerMeasurement"


def test_types_that_a_peer_makes_up_fill_neither_the_log_nor_the_memory(caplog: pytest.LogCaptureFixture) -> None:
    link, counters = linked()
    for number in range(3000):
        link.received(RM, message(f"m{number}", f"T{number}"), now=0.0)
        link.received(CEM, answer(f"m{number}", f"S{number}"), now=0.0)
    assert len(caplog.records) == MAX_LOGGED
    assert counters.refused == {(RM, PEER, OTHER): 3000}
    for number in range(20):  # a far side that never answers
        for identifier in range(1000):
            link.received(RM, message(f"n{number}-{identifier}"), now=number * 10.0)
        link.overdue(number * 10.0 + 9)
    assert len(link._sides[RM].types) <= 2000


def node(role: Role) -> NodeDescription:
    return NodeDescription(id=NodeId(uuid4()), brand="b", type="t", model_name="m", role=role)


@pytest.mark.rule("MSG-03", "MSG-07")
async def test_what_an_application_answers_behind_a_bridge_reaches_the_sender_and_the_operator(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    setup = FileSetup(tmp_path)

    def decide(_: Session, __: Message) -> None:
        raise RefuseMessage(to_come.pop(0), "<b>no</b> such phase")

    statuses = ("INVALID_CONTENT", "TEMPORARY_ERROR", "PERMANENT_ERROR")
    to_come = list(statuses)
    async with setup.managers("a") as acceptors, within(30):
        setup.write("a")
        async with (
            setup.bridge() as bridge,
            Metrics(Observation(bridge.endpoint, bridge), 0) as metrics,
            aiohttp.ClientSession() as http,
        ):
            near = await setup.device("a")
            far = await anext(acceptors["a"])
            manager = Session(far, peer=node(Role.RM), role=Role.CEM, answer=decide)
            device = Session(near, peer=node(Role.CEM), role=Role.RM)
            for status in statuses:
                with pytest.raises(MessageRefused) as caught:
                    await device.send(json.loads(measurement(f"m-{status}")))
                assert (caught.value.status, caught.value.label) == (status, "<b>no</b> such phase")
            await asyncio.gather(device.wait_closed(), manager.wait_closed())
            async with http.get(f"http://127.0.0.1:{metrics.port}/metrics") as response:
                lines = (await response.text()).splitlines()
            for status in statuses:
                assert (
                    f's2connect_bridge_refusals_total{{by="peer",route="old",sender="RM",status="{status}"}} 1.0'
                    in lines
                )
            shown = bridge.status()
            (link,) = shown["routes"][0]["links"]
            assert link["refusals"]["rm"]["by_peer"] == {
                "INVALID_CONTENT": 1,
                "TEMPORARY_ERROR": 1,
                "PERMANENT_ERROR": 1,
            }
            assert link["refusals"]["rm"]["last"].items() >= {
                ("type", "PowerMeasurement"),
                ("status", "PERMANENT_ERROR"),
                ("label", "<b>no</b> such phase"),
                ("by", "peer"),
            }
            assert link["refusals"]["cem"] == {"by_peer": {}, "by_bridge": {}, "last": None}
            (sentence,) = Row.of(link).refused
            assert sentence.endswith(
                "ago the energy manager refused PowerMeasurement of the device: PERMANENT_ERROR (<b>no</b> such phase)"
            )
    told = "link old/a: the CEM refused PowerMeasurement of the RM: INVALID_CONTENT (<b>no</b> such phase)"
    assert caplog.text.count(told) == 1
