"""``validate``: results, output and exit codes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2connect.cli import main
from s2connect.diagnostics import message_sources
from s2connect.diagnostics.message_files import entries_of

Capture = pytest.CaptureFixture[str]

GOOD = '{"message_type":"FRBC.StorageStatus","message_id":"m-1","present_fill_level":5}'
WARNED = (
    '{"message_type":"FRBC.ActuatorStatus","message_id":"m-2","actuator_id":"a-1","active_operation_mode_id":"o-1",'
    '"operation_mode_factor":7}'
)
WRONG = '{"message_type":"FRBC.StorageStatus","message_id":"m-3","present_fill_level":"\x1b[31m5"}'.replace(
    "\x1b", "\\u001b"
)
TWICE = '{"message_type":"FRBC.StorageStatus","message_id":"m-4","present_fill_level":5,"present_fill_level":6}'
BACKWARDS = (
    '{"message_type":"PEBC.EnergyConstraint","message_id":"m-5","id":"c-1","valid_from":"2026-01-02T00:00:00Z",'
    '"valid_until":"2026-01-01T00:00:00Z","upper_average_power":1,"lower_average_power":0,'
    '"commodity_quantity":"ELECTRIC.POWER.L1"}'
)
BETA_ONLY = (
    '{"message_type":"DDBC.SystemDescription","message_id":"m-6","valid_from":"2026-01-01T00:00:00Z","actuators":'
    '[{"id":"a-1","supported_commodites":["HEAT"],"operation_modes":[{"Id":"o-1","power_ranges":[{"start_of_range":0,'
    '"end_of_range":1,"commodity_quantity":"HEAT.THERMAL_POWER"}],"supply_range":{"start_of_range":0,"end_of_range":1},'
    '"abnormal_condition_only":false}],"transitions":[],"timers":[]}],"provides_average_demand_rate_forecast":false,'
    '"present_demand_rate":{"start_of_range":0,"end_of_range":1}}'
)


def validated(capsys: Capture, path: Path | str, *options: str, code: int) -> list[dict[str, Any]]:
    assert main(["validate", str(path), "--json", *options]) == code
    found = json.loads(capsys.readouterr().out)
    assert found["summary"]["messages"] == len(found["messages"])
    messages: list[dict[str, Any]] = found["messages"]
    return messages


NULL = '{"message_type":"SessionRequest","message_id":"m.7x","request":"TERMINATE","diagnostic_label":null}'


@pytest.mark.rule("MSG-08")
def test_what_is_tolerated_is_a_warning(capsys: Capture, file: Path) -> None:
    file.write_text(NULL, "utf-8")
    (tolerated,) = validated(capsys, file, "--version", "0.0.2-beta", code=0)
    assert (tolerated["status"], {one["rule"] for one in tolerated["findings"]}) == ("OK", {"READ-01", "COM-01"})
    (refused,) = validated(capsys, file, code=1)
    assert refused["label"] == "diagnostic_label: is null, which no member may be"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "messages"


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (GOOD, [1]),
        (json.dumps(json.loads(GOOD), indent=2), [1]),
        (f"\ufeff{GOOD}\r\n", [1]),
        (f"{GOOD}\n\n{WARNED}\n", [1, 3]),
        (f"[{GOOD},\n {WARNED}\n]", [1, 2]),
        (f"[\n{json.dumps(json.loads(GOOD), indent=2)},\n{WARNED}]\n", [2, 7]),
        (f"{GOOD}{WARNED}", [1, 1]),
        (f"[{GOOD}]\n[]\n[{WARNED}]", [1, 3]),
    ],
)
def test_one_message_an_array_and_json_lines_are_told_apart_by_what_is_in_them(
    file: Path, capsys: Capture, content: str, lines: list[int]
) -> None:
    file.write_text(content, encoding="utf-8")
    found = validated(capsys, file, code=0)
    assert [one["line"] for one in found] == lines
    assert {one["status"] for one in found} == {"OK"}
    assert found[0]["type"] == "FRBC.StorageStatus"


@pytest.mark.rule("MSG-03")
def test_every_message_gets_its_status_its_place_and_the_number_of_the_rule(file: Path, capsys: Capture) -> None:
    file.write_text(f'{GOOD}\n{WARNED}\n{WRONG}\n{TWICE}\n{BACKWARDS}\nnonsense\n7\n{{"message_id":"m-7"}}\n{GOOD}')
    found = validated(capsys, file, code=1)
    assert [one["status"] for one in found] == [
        *("OK", "OK", "INVALID_MESSAGE", "INVALID_DATA", "INVALID_CONTENT"),
        *("INVALID_DATA", "INVALID_MESSAGE", "OK"),
    ]
    assert found[1]["findings"][0] | {"detail": ""} == {
        "rule": "COM-05",
        "severity": "warning",
        "path": "operation_mode_factor",
        "detail": "",
    }
    assert found[2]["label"] == 'present_fill_level: "[31m5"; a number is expected'
    assert any(finding["severity"] == "error" for finding in found[4]["findings"])


def test_people_get_lines_a_summary_and_no_control_characters(file: Path, capsys: Capture) -> None:
    evil = GOOD.replace("FRBC.StorageStatus", "[red]\\u001b[31mEvil\\u202e")
    file.write_text(f"{GOOD}\n{WARNED}\n{evil}\n")
    assert main(["validate", str(file)]) == 1
    out = capsys.readouterr().out
    assert "1  FRBC.StorageStatus  OK\n" in out
    assert "OK, with warnings" in out
    assert "COM-05: operation_mode_factor" in out
    assert "3  [red] [31mEvil  INVALID_MESSAGE" in out
    assert out.endswith("3 messages: 2 valid, of which 1 with warnings, 1 invalid.\n")
    assert "\x1b" not in out
    assert "\u202e" not in out


@pytest.mark.rule("VER-06")
def test_the_version_decides_by_which_data_model_is_validated(file: Path, capsys: Capture) -> None:
    file.write_text(BETA_ONLY)
    assert validated(capsys, file, code=1)[0]["status"] == "INVALID_MESSAGE"
    assert validated(capsys, file, "--version", "0.0.2-beta", code=0)[0]["status"] == "OK"
    opened = {"time": "2026-01-01T00:00:00Z", "session": "s1", "event": "session_opened", "s2_version": "v0.0.2-beta"}
    file.write_text(f'{json.dumps(opened)}\n{{"session":"s1","direction":"sent","message":{BETA_ONLY}}}\n')
    assert validated(capsys, file, code=0)[0]["line"] == 2
    assert main(["validate", str(file), "--version", "9"]) == 2
    assert "S2 JSON 9 is unknown here" in capsys.readouterr().err
    file.write_text(file.read_text().replace("v0.0.2-beta", "v9"))
    assert main(["validate", str(file)]) == 2
    assert "--version" in capsys.readouterr().err


def test_messages_of_a_log_are_validated_as_they_were_on_the_wire(file: Path, capsys: Capture) -> None:
    lines = [
        '{"time":"2026-01-01T00:00:00Z","session":"s1","event":"session_opened","s2_version":"v1.0.0"}',
        f'{{"time":"2026-01-01T00:00:01Z","session":"s1","direction":"sent" , "message" : {GOOD} }}',
        f'{{"message":{TWICE},"session":"s1","direction":"received"}}',
        json.dumps({"session": "s1", "direction": "received", "message": GOOD}),
        '{"session":"s1","event":"session_closed"}',
    ]
    file.write_text("\n".join(lines))
    found = validated(capsys, file, code=1)
    assert [(one["line"], one["status"]) for one in found] == [(2, "OK"), (3, "INVALID_DATA"), (4, "OK")]


def test_several_files_and_standard_input(file: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(GOOD)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(WARNED.encode())))
    assert main(["validate", str(file), "-"]) == 0
    out = capsys.readouterr().out
    assert f"{str(file)[:40]}" in out
    assert "-:1  FRBC.ActuatorStatus" in out


def test_what_cannot_be_read_ends_with_two(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "empty"
    empty.write_text(" \n")
    for path, what, kind in (
        (tmp_path / "none", "No such file", "unreadable"),
        (tmp_path, "directory", "unreadable"),
        (empty, "no message in", "no_messages"),
    ):
        assert main(["validate", str(path)]) == 2
        assert what in capsys.readouterr().err
        assert main(["validate", str(path), "--json"]) == 2
        assert json.loads(capsys.readouterr().out)["error"]["kind"] == kind
    assert main(["validate"]) == 2
    monkeypatch.setattr(message_sources, "MAX_FILE_BYTES", 10)
    empty.write_text(GOOD)
    assert main(["validate", str(empty)]) == 2
    assert "Split it" in capsys.readouterr().err


@pytest.mark.rule("SEC-04")
def test_a_large_file_of_something_else_is_given_up(file: Path, capsys: Capture) -> None:
    file.write_text("{x\n" * 200_000)
    assert main(["validate", str(file)]) == 2
    error = capsys.readouterr().err
    assert "Too much of the file looks like JSON and is none, the last of it in line " in error


def test_bytes_that_are_no_utf_8_spoil_their_message_only(file: Path, capsys: Capture) -> None:
    file.write_bytes(GOOD.encode() + b"\n" + GOOD.replace("m-1", "\xff").encode("latin-1") + b"\n" + GOOD.encode())
    assert [one["status"] for one in validated(capsys, file, code=1)] == ["OK", "INVALID_DATA", "OK"]


@pytest.mark.rule("SEC-04")
@settings(deadline=None)
@given(
    st.text(max_size=40)
    | st.lists(st.sampled_from([GOOD, TWICE, "[", "]", "{", "}", ",", "\n", '"session"', ":", '"message":', "1"])).map(
        "".join
    )
)
def test_any_file_is_taken_apart_and_lines_count_up(content: str) -> None:
    entries = list(entries_of(content))
    assert bool(entries) == bool(content.strip(" \t\r\n")) or content.strip(" \t\r\n[],") == ""
    lines = [entry.line for entry in entries]
    assert lines == sorted(lines)
    assert all(1 <= line <= content.count("\n") + 1 for line in lines)


@pytest.mark.rule("SEC-04")
def test_deep_nesting_is_one_broken_entry() -> None:
    (entry,) = entries_of("[" * 200_000)
    assert entry.broken
