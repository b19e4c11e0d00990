"""The sidecar contract, with real processes."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from s2connect import EndpointConfig, NodeConfig, Role, create_home
from s2connect.https.server import free_port
from tests.command import Running, SilentServer, pair, run
from tests.waits import patience

Start = Callable[..., Running]

MEASUREMENT = {
    "message_type": "PowerMeasurement",
    "measurement_timestamp": "2026-01-01T00:00:00Z",
    "values": [{"commodity_quantity": "ELECTRIC.POWER.L1", "value": 1.0}],
}

FORECAST = {
    "message_type": "PowerForecast",
    "start_time": "2026-01-01T00:00:00Z",
    "elements": [
        {
            "duration": 900_000,
            "power_values": [{"value_expected": 1.0, "commodity_quantity": "ELECTRIC.POWER.L1"}],
        }
    ],
}


def test_two_sidecars_pair_talk_and_part_with_the_events_of_the_contract_in_order(
    cem: Path, rm: Path, start: Start
) -> None:
    manager, battery = start(cem), start(rm)
    at_manager, at_battery = pair(manager, battery)
    sent = battery.command("send", session=at_battery, message=MEASUREMENT)
    assert sent["ok"] is True
    received = manager.event("message", direction="received")
    assert received["session"] == at_manager
    assert received["message"] == {**MEASUREMENT, "message_id": sent["message_id"]}
    peer = manager.command("status")["pairings"][0]["peer"]
    assert manager.command("unpair", peer=peer["id"])["ok"] is True
    assert battery.event("unpaired")["by"] == "peer"
    manager.end_input()
    battery.end_input()
    assert (manager.ended(), battery.ended()) == (0, 0)
    names = [e["event"] for e in manager.events]
    assert names == [
        "ready",
        "pairing_code",
        "paired",
        "session_opened",
        "message",
        "result",
        *(n for n in names[6:]),
    ]
    assert {"unpaired", "session_closed", "result"} <= set(names[6:])
    assert next(e for e in manager.events if e["event"] == "unpaired")["by"] == "us"
    paired = manager.events[2]
    assert paired["peer"]["user_defined_name"] == "Battery"
    assert {"id", "role", "brand", "type", "model_name"} <= set(paired["peer"])
    assert paired["communication_role"] == "server"
    assert manager.events[0]["deployment"] == "LAN"
    assert manager.events[0]["nodes"][0]["role"] == "CEM"
    opened = manager.events[3]
    assert (opened["protocol"], opened["s2_version"]) == ("WebSocket", "v1.0.0")
    own = [e for e in battery.events if e["event"] == "message"]
    assert own[0]["direction"] == "sent"
    assert all(e["time"].endswith("Z") for e in manager.events + battery.events)
    assert manager.errors == ""
    (warning,) = battery.errors.splitlines()
    assert "ended by peer: if the user of the energy manager did not mean that" in warning


def test_sends_of_one_session_keep_their_order_and_a_slow_pair_blocks_nothing(
    cem: Path, rm: Path, start: Start, silent_server: SilentServer
) -> None:
    manager, battery = start(cem), start(rm)
    _, session = pair(manager, battery)
    slow = battery.begin("pair", url=silent_server.url, code="ABCDEFGH")
    lines = [
        json.dumps({"command": "send", "id": i, "session": session, "message": {**MEASUREMENT, "message_id": f"m-{i}"}})
        for i in range(1000, 1200)
    ]
    battery.write("\n".join(lines) + "\n")
    got = [manager.event("message", direction="received")["message"]["message_id"] for _ in lines]
    assert got == [f"m-{i}" for i in range(1000, 1200)]
    assert battery.command("status")["ok"]
    results = [e["id"] for e in battery.events if e["event"] == "result"]
    assert slow not in results
    battery.process.send_signal(signal.SIGTERM)
    assert battery.ended() == 0
    last = {e["id"]: e for e in battery.events if e["event"] == "result"}[slow]
    assert last["error"]["kind"] == "stopping"
    assert "Traceback" not in battery.errors


def test_commands_that_cannot_be_executed_are_answered_and_nothing_stops(cem: Path, start: Start) -> None:
    manager = start(cem)
    manager.ready()
    manager.write('\n  \nno json\n[1]\n{"command":"code","command":"code"}\n{"command":1,"id":[2]}\n')
    errors = [manager.event("result")["error"]["kind"] for _ in range(4)]
    assert sorted(errors) == ["malformed_command"] * 3 + ["unknown_command"]
    assert manager.events[-1]["id"] in (None, [2])
    manager.write('{"id":9,"command":"' + "x" * 1_300_000 + '"}\n')
    long = manager.event("result")
    assert (long["ok"], long["id"], long["error"]["kind"]) == (False, None, "line_too_long")
    for command, kind in (
        ({"command": "send", "session": "s9", "message": {}}, "connection_closed"),
        ({"command": "send"}, "usage"),
        ({"command": "close", "session": 3}, "usage"),
        ({"command": "unpair", "peer": "nobody"}, "not_paired"),
        ({"command": "code", "node": "nobody"}, "usage"),
        ({"command": "code", "static": True, "token": "ABC"}, "invalid_pairing_code"),
        ({"command": "pair", "url": "http://x", "code": "ABCD"}, "invalid_url"),
        ({"command": "pair", "url": "https://x", "code": "?"}, "invalid_pairing_code"),
    ):
        manager.write(json.dumps({**command, "id": kind}) + "\n")
        result = manager.event("result")
        assert (result["id"], result["ok"], result["error"]["kind"]) == (kind, False, kind)
        assert result["error"]["what"]
    assert manager.command("stop")["ok"] is True
    assert manager.ended() == 0
    assert manager.errors == ""


def test_the_session_takes_no_message_that_is_none(cem: Path, rm: Path, start: Start) -> None:
    manager, battery = start(cem), start(rm)
    _, session = pair(manager, battery)
    for message in ({}, {"message_type": "Handshake"}, {"message_type": "ReceptionStatus"}, "text", None):
        assert battery.command("send", session=session, message=message)["error"]["kind"] == "usage"
    assert battery.command("close", session=session)["ok"] is True
    assert battery.event("session_closed")["reason"] == "closed_by_us"
    assert manager.event("session_closed")["reason"] == "closed_by_peer"
    assert battery.event("session_opened")["session"] == "s2"


@pytest.mark.rule("MSG-02")
def test_what_breaks_a_rule_is_refused_with_its_number_before_it_is_sent_unless_a_setting_says_otherwise(
    cem: Path, rm: Path, start: Start
) -> None:
    manager, battery = start(cem), start(rm, "--check", "schema")
    at_manager, at_battery = pair(manager, battery)
    select = {"message_type": "SelectControlType", "control_type": "NO_SELECTION"}
    refused = battery.command("send", session=at_battery, message=select)["error"]
    assert (refused["kind"], refused["status"]) == ("message_refused", "INVALID_CONTENT")
    assert refused["label"].startswith("MSG-02: SelectControlType")
    refused = manager.command("send", session=at_manager, message=MEASUREMENT)["error"]
    assert refused["kind"] == "usage"
    assert "MSG-02: PowerMeasurement" in refused["what"]
    broken = {**MEASUREMENT, "values": []}
    assert "values" in battery.command("send", session=at_battery, message=broken)["error"]["what"]
    messages = [(e["direction"], e["message"]["message_type"]) for e in battery.events if e["event"] == "message"]
    assert messages == [("sent", "SelectControlType")]
    assert not [e for e in manager.events if e["event"] == "message"]


@pytest.mark.rule("MSG-03", "MSG-07")
def test_a_program_answers_the_types_that_it_names_and_what_it_forgets_is_answered_for_it(
    cem: Path, rm: Path, start: Start
) -> None:
    manager, battery = start(cem, "--answer", "PowerMeasurement"), start(rm)
    at_manager, at_battery = pair(manager, battery)

    def send(message: object, **more: object) -> tuple[int, dict[str, Any]]:
        sending = battery.begin("send", session=at_battery, message=message, **more)
        return sending, manager.event("message", direction="received")

    sending, event = send(MEASUREMENT)
    assert event["answer_within"] == 3.0
    about = {"session": at_manager, "message_id": event["message"]["message_id"]}
    assert manager.command("answer", **about)["ok"]
    assert battery.event("result", id=sending)["ok"]
    again = manager.command("answer", **about)
    assert (again["ok"], again["error"]["kind"]) == (False, "usage")

    sending, event = send(MEASUREMENT)
    about["message_id"] = event["message"]["message_id"]
    assert manager.command("answer", **about, status="INVALID_DATA")["error"]["kind"] == "usage"
    assert manager.command("answer", **about, status="INVALID_CONTENT", label="no such phase")["ok"]
    error = battery.event("result", id=sending)["error"]
    assert (error["kind"], error["status"], error["label"]) == ("message_refused", "INVALID_CONTENT", "no such phase")

    sending, event = send(MEASUREMENT, retries=1)
    about["message_id"] = event["message"]["message_id"]
    assert manager.command("answer", **about, status="TEMPORARY_ERROR")["ok"]
    event = manager.event("message", direction="received")
    assert event["message"] == {**MEASUREMENT, "message_id": event["message"]["message_id"]}
    about["message_id"] = event["message"]["message_id"]
    assert manager.command("answer", **about)["ok"]
    assert battery.event("result", id=sending)["message_id"] == about["message_id"]

    sending, event = send(FORECAST)
    assert "answer_within" not in event
    assert battery.event("result", id=sending)["ok"]

    sending, _ = send(MEASUREMENT)
    error = battery.event("result", id=sending)["error"]
    assert (error["status"], error["label"]) == ("TEMPORARY_ERROR", "the application has not answered within 3 s")
    assert battery.command("send", session=at_battery, message=MEASUREMENT, retries=99)["error"]["kind"] == "usage"

    sending, event = send(MEASUREMENT)
    about["message_id"] = event["message"]["message_id"]
    assert manager.command("answer", **about, status="PERMANENT_ERROR")["ok"]
    assert battery.event("result", id=sending)["error"]["status"] == "PERMANENT_ERROR"
    assert battery.event("session_closed", session=at_battery)["reason"] == "permanent_error"


def test_answers_need_a_program_that_gives_them(cem: Path) -> None:
    ended = run("serve", "--home", str(cem), "--answer", "all")
    assert ended.returncode == 2
    assert "--json" in ended.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_signals_end_it_cleanly(cem: Path, start: Start, number: int, code: int) -> None:
    manager = start(cem)
    manager.ready()
    manager.process.send_signal(number)
    assert manager.ended() == code
    assert manager.errors == ""
    assert not (cem / "control.sock").exists()


def test_input_from_a_file_is_executed_and_its_end_stops(cem: Path, tmp_path: Path) -> None:
    commands = tmp_path / "commands"
    commands.write_text('{"command":"code","id":"a"}\n{"command":"status","id":"b"}')
    done = run_with_input_file(cem, commands)
    results = {e["id"]: e["ok"] for e in done if e["event"] == "result"}
    assert results == {"a": True, "b": True}
    assert [e["event"] for e in run_with_input_file(cem, Path("/dev/null"))] == ["ready", "pairing_code"]


def run_with_input_file(home: Path, commands: Path) -> list[dict[str, object]]:
    import subprocess
    import sys

    with commands.open("rb") as file:
        done = subprocess.run(
            [sys.executable, "-m", "s2connect", "serve", "--json", "--home", str(home)],
            stdin=file,
            capture_output=True,
            timeout=patience(20),
        )
    assert (done.returncode, done.stderr) == (0, b"")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_reader_that_goes_away_ends_it_quietly(cem: Path, start: Start) -> None:
    reading, writing = os.pipe()
    manager = start(cem, stdout=writing)
    os.close(writing)
    assert b"ready" in os.read(reading, 10_000)
    os.close(reading)
    manager.begin("status")
    assert manager.ended() == 0
    assert manager.errors == ""


def test_a_reader_that_stops_reading_slows_the_peer_down_and_does_not_keep_it_from_stopping(
    cem: Path, rm: Path, start: Start
) -> None:
    reading, writing = os.pipe()
    envelope = ("--check", "envelope")
    manager, battery = start(cem, *envelope, stdout=writing), start(rm, *envelope)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as out:
        url, code = json.loads(out.readline())["pairing_url"], json.loads(out.readline())["code"]
        battery.ready()
        assert battery.command("pair", url=url, code=code)["ok"]
        session = battery.event("session_opened")["session"]
        big = {**MEASUREMENT, "padding": "x" * 250_000}
        for i in range(7):  # 1.7 MB; the inbox has room for all of them
            assert battery.command("send", session=session, message={**big, "message_id": f"m-{i}"})["ok"]
        # What waits for the reader is bounded; its rest is in the inbox of the session.
        pairings = run("pairings", "--json", "--home", str(cem))
        assert json.loads(pairings.stdout)["pairings"][0]["connected"] is True
        manager.process.send_signal(signal.SIGTERM)
        assert manager.ended(15) == 0
    assert manager.errors == ""


def test_the_control_socket_is_private_and_a_stale_one_is_replaced(cem: Path, start: Start) -> None:
    manager = start(cem)
    manager.ready()
    mode = (cem / "control.sock").stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    manager.kill()
    assert (cem / "control.sock").exists()
    assert run("code", "--home", str(cem)).returncode == 8
    again = start(cem)
    again.ready()
    assert run("code", "--home", str(cem)).returncode == 0


def test_a_home_with_a_long_path_has_its_socket_elsewhere(tmp_path: Path, start: Start) -> None:
    from tests.command import make_home

    home = make_home(tmp_path / ("x" * 120), "cem")
    manager = start(home)
    manager.ready()
    socket = Path((home / "control.path").read_text())
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    assert run("status", "--home", str(home)).stdout.splitlines()[0].startswith("Service: running")
    manager.kill()
    again = start(home)
    again.ready()
    assert not socket.exists()
    again.end_input()
    assert again.ended() == 0
    assert not (home / "control.path").exists()


def test_no_sidecar_without_a_home_or_with_one_in_use(cem: Path, tmp_path: Path, start: Start) -> None:
    none = run("serve", "--json", "--home", str(tmp_path / "none"))
    assert none.returncode == 7
    assert json.loads(none.stdout)["error"]["kind"] == "not_initialised"
    start(cem).ready()
    second = run("serve", "--json", "--home", str(cem))
    assert second.returncode == 8
    assert json.loads(second.stdout)["error"]["kind"] == "home_in_use"


def test_with_several_nodes_commands_name_one(tmp_path: Path, start: Start) -> None:
    home = tmp_path / "two"
    nodes = (NodeConfig(role=Role.RM, alias="A"), NodeConfig(role=Role.RM, alias="B"))
    create_home(
        home, EndpointConfig(host="127.0.0.1", bind="127.0.0.1", port=free_port(None), vault="files", nodes=nodes)
    )
    service = start(home)
    assert [n["alias"] for n in service.event("ready")["nodes"]] == ["A", "B"]
    assert [service.event("pairing_code")["code"][:2] for _ in nodes] == ["A-", "B-"]
    error = service.command("code")["error"]
    assert error["kind"] == "usage"
    assert "There are: A (" in error["what"]
    assert service.command("code", node="B")["code"].startswith("B-")
    assert service.command("code", node=str(nodes[0].id))["code"].startswith("A-")
    assert run("code", "--node", "A", "--home", str(home)).stdout.startswith("A-")


def test_the_end_of_input_closes_sessions_and_says_so(cem: Path, rm: Path, start: Start) -> None:
    manager, battery = start(cem), start(rm)
    pair(manager, battery)
    battery.end_input()
    assert battery.ended() == 0
    assert battery.events[-1]["event"] == "session_closed"
    assert battery.events[-1]["reason"] == "closed_by_us"
    assert manager.event("session_closed")["reason"] == "closed_by_peer"
    assert manager.command("status")["sessions"] == []
