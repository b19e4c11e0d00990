"""``validate`` and ``replay`` on files of other software, in other encodings and of other kinds."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from s2connect.cli import main
from s2connect.diagnostics import message_files
from s2connect.diagnostics.message_files import Entry, entries_of, facts_of, is_log, phrase_of, time_of
from s2connect.service.failures import Failure

Capture = pytest.CaptureFixture[str]

FRBC = "FILL_RATE_BASED_CONTROL"
HANDSHAKE_RM = (
    '{"message_type":"Handshake","message_id":"m-rm-1","role":"RM","supported_protocol_versions":["0.0.2-beta"]}'
)
HANDSHAKE_CEM = (
    '{"message_type":"Handshake","message_id":"m-cem-1","role":"CEM","supported_protocol_versions":["0.0.2-beta"]}'
)
RESPONSE = '{"message_type":"HandshakeResponse","message_id":"m-cem-2","selected_protocol_version":"0.0.2-beta"}'
DETAILS = json.dumps(
    {
        "message_type": "ResourceManagerDetails",
        "message_id": "m-rm-2",
        "resource_id": "r-1",
        "roles": [{"role": "ENERGY_STORAGE", "commodity": "ELECTRICITY"}],
        "instruction_processing_delay": 0,
        "available_control_types": [FRBC],
        "provides_forecast": False,
        "provides_power_measurement_types": ["ELECTRIC.POWER.L1"],
    }
)
SELECT = f'{{"message_type":"SelectControlType","message_id":"m-cem-3","control_type":"{FRBC}"}}'
STATUS = '{"message_type":"FRBC.StorageStatus","message_id":"m-rm-3","present_fill_level":5}'
MEASUREMENT = (
    '{"message_type":"PowerMeasurement","message_id":"m-rm-3","measurement_timestamp":"2026-11-28T12:25:21Z",'
    '"values":[{"commodity_quantity":"ELECTRIC.POWER.L1","value":1}]}'
)
WRONG = '{"message_type":"FRBC.StorageStatus","message_id":"m-rm-4","present_fill_level":"5"}'


def ok(subject: str) -> str:
    return json.dumps({"message_type": "ReceptionStatus", "subject_message_id": subject, "status": "OK"})


CONVERSATION = [
    ("RM", HANDSHAKE_RM),
    ("CEM", ok("m-rm-1")),
    ("CEM", HANDSHAKE_CEM),
    ("RM", ok("m-cem-1")),
    ("CEM", RESPONSE),
    ("RM", ok("m-cem-2")),
    ("RM", DETAILS),
    ("CEM", ok("m-rm-2")),
    ("CEM", SELECT),
    ("RM", ok("m-cem-3")),
    ("RM", MEASUREMENT),
    ("CEM", ok("m-rm-3")),
]
"""One session of plain S2, by sender, in order."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "what people have.log"


def validated(capsys: Capture, path: Path, code: int = 0) -> list[tuple[int, str]]:
    """Lines and status of the messages found."""
    assert main(["validate", str(path), "--json"]) == code
    return [(one["line"], one["status"]) for one in json.loads(capsys.readouterr().out)["messages"]]


def replayed(capsys: Capture, path: Path, *options: str, code: int = 0) -> dict[str, Any]:
    assert main(["replay", str(path), "--json", *options]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


# Text logs

BASIC = "DEBUG:s2python:{}"
BARE = "{}"
STAMPED = "2026-11-28 12:25:21,{:03d} DEBUG s2python {}"
BRACKETS = "[2026-11-28T12:25:21.{:03d}Z] [debug] s2python: {}"
SYSLOG = "Nov 28 12:25:21 gateway device[{}]: {}"


def log_of_s2python(role: str, form: str) -> list[str]:
    """The conversation in the words of the log of s2-python, with what it says beside and twice."""
    lines = ["Starting S2 connection on eventloop 140064275200592."]
    for sender, message in CONVERSATION:
        if sender == role:
            lines += [f"Sending message {message}", "Waiting for ReceptionStatus for m-1 5.0 seconds"]
            continue
        lines.append(f"Received message {message}")
        if "ReceptionStatus" not in message:
            lines += [
                "Message is not a reception status, putting it in the received messages queue.",
                f"Handling received message {message}",
                "Handling S2 message with message id m-1 using handler <bound method Handler of <object at 0x7f6341>>",
            ]
        if "HandshakeResponse" in message:
            lines.append(f"Received HandshakeResponse {message}")
        if "SelectControlType" in message:
            lines.append("Supports S2 protocol versions: ['0.0.2-beta'] {not JSON} {} [1, 2]")
    return [
        form.format(number, line) if form.count("{") > 1 else form.format(line) for number, line in enumerate(lines)
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("form", [BASIC, BARE, STAMPED, BRACKETS, SYSLOG])
@pytest.mark.parametrize("role", ["RM", "CEM"])
def test_a_log_of_s2_python_is_a_conversation(file: Path, capsys: Capture, role: str, form: str, end: str) -> None:
    file.write_bytes(end.join(log_of_s2python(role, form)).encode())
    found = validated(capsys, file)
    assert [status for _, status in found] == ["OK"] * len(CONVERSATION)
    assert [line for line, _ in found] == sorted({line for line, _ in found})
    summary = replayed(capsys, file)["summary"]
    assert summary | {"sessions": 1, "messages": 12, "answers": 6, "warning": 0, "not_ok": 0} == summary


def test_a_reconnect_in_a_text_log_is_a_session_of_its_own(file: Path, capsys: Capture) -> None:
    lines = log_of_s2python("RM", STAMPED)
    again = [line.replace("m-rm-", "m-rm-9").replace("m-cem-", "m-cem-9") for line in lines]
    file.write_text("\n".join([*lines, "2026-11-28 12:26:00,000 INFO s2python The other party closed it.", *again]))
    summary = replayed(capsys, file)["summary"]
    assert (summary["sessions"], summary["messages"]) == (2, 24)


def test_lines_with_time_stamps_are_enough_where_the_type_tells_the_sender(file: Path, capsys: Capture) -> None:
    file.write_text("\n".join(f"2026-11-28T12:00:{n:02d}+01:00 {text}" for n, (_, text) in enumerate(CONVERSATION)))
    summary = replayed(capsys, file)["summary"]
    assert (summary["messages"], summary["answers"], summary["unreadable"]) == (12, 6, 0)


def test_what_is_wrong_in_a_text_log_is_found_in_its_line(file: Path, capsys: Capture) -> None:
    lines = [*log_of_s2python("RM", STAMPED), f"2026-11-28 12:25:23,000 DEBUG s2python Sending message {WRONG}"]
    file.write_text("\n".join([*lines, "2026-11-28 12:25:50,000 INFO s2python Stopped."]))
    assert validated(capsys, file, code=1)[-1] == (len(lines), "INVALID_MESSAGE")
    (remark,) = replayed(capsys, file, code=1)["remarks"]
    assert (remark["line"], remark["problem"], remark["sender"]) == (len(lines), "refused", "RM")


def test_an_answer_that_never_came_is_missed_by_naive_times_too(file: Path, capsys: Capture) -> None:
    lines = [line for line in log_of_s2python("RM", STAMPED) if "m-rm-2" not in line or "Sending" in line]
    late = MEASUREMENT.replace("m-rm-3", "m-rm-8")
    file.write_text("\n".join([*lines, f"2026-11-28 12:25:40,000 DEBUG s2python Sending message {late}"]))
    found = replayed(capsys, file, code=1)
    (remark,) = (one for one in found["remarks"] if one["finding"] is None)
    assert remark["problem"] == "unanswered"
    assert "went on for" in remark["detail"]


def test_without_times_the_last_message_may_be_without_an_answer(file: Path, capsys: Capture) -> None:
    lines = log_of_s2python("RM", BARE)
    cut = next(number for number, line in enumerate(lines) if "m-rm-3" in line) + 1
    file.write_text("\n".join(lines[:cut]))
    assert replayed(capsys, file)["remarks"] == []
    file.write_text("\n".join(line for line in lines if "m-rm-2" not in line or "Sending" in line))
    (remark,) = (one for one in replayed(capsys, file, code=1)["remarks"] if one["finding"] is None)
    assert (remark["problem"], remark["type"]) == ("unanswered", "ResourceManagerDetails")


def test_a_message_on_lines_of_its_own_belongs_to_the_line_before(file: Path, capsys: Capture) -> None:
    text = ""
    for sender, message in CONVERSATION:
        word = "sending" if sender == "RM" else "received"
        text += f"2026-11-28 12:00:00 INFO {word}:\n{json.dumps(json.loads(message), indent=2)}\n"
    file.write_text(text)
    assert {status for _, status in validated(capsys, file)} == {"OK"}
    assert replayed(capsys, file)["summary"]["messages"] == 12


def frame(way: str, text: str, shown: str | None = None) -> str:
    return f"DEBUG:websockets.client:{way} TEXT '{shown or text}' [{len(text)} bytes]"


def test_frames_of_the_debug_log_of_websockets_count_only_if_they_are_whole(file: Path, capsys: Capture) -> None:
    half = '{"message_type":"FRBC.StorageStatus","message_id...":5}'
    file.write_text("\n".join([frame(">", STATUS, half), f"DEBUG:s2python:Sending message {STATUS}"]))
    assert validated(capsys, file) == [(2, "OK")]
    file.write_text(
        "\n".join([frame(">", STATUS), f"DEBUG:s2python:Sending message {STATUS}", frame("<", ok("m-rm-3"))])
    )
    assert validated(capsys, file) == [(1, "OK"), (3, "OK")]
    assert [entry.record.direction for entry in entries_of(file.read_text()) if entry.record] == ["sent", "received"]
    file.write_text("\n".join([frame(">", STATUS, half), frame("<", ok("m-1"), '{"message_type":"Rece...OK"}')]))
    for command in ("validate", "replay"):
        assert main([command, str(file)]) == 2
        assert "WEBSOCKETS_MAX_LOG_SIZE" in capsys.readouterr().err


def test_a_message_that_its_logger_has_cut_is_reported(file: Path, capsys: Capture) -> None:
    lines = log_of_s2python("RM", STAMPED)
    file.write_text("\n".join([*lines, f"2026-11-28 12:25:23,000 DEBUG s2python Sending message {STATUS[:60]}"]))
    assert main(["validate", str(file)]) == 1
    out = capsys.readouterr().out
    assert "is no JSON, or ends before its end" in out
    (remark,) = replayed(capsys, file)["remarks"]
    assert (remark["problem"], remark["detail"]) == ("left_out", "The message in this line is cut off.")


def test_what_python_prints_of_an_object_is_named(file: Path, capsys: Capture) -> None:
    file.write_text(f"Received: {json.loads(STATUS)}\n{json.loads(STATUS)}\n")
    assert main(["validate", str(file)]) == 1
    assert capsys.readouterr().out.count("so Python prints an object, and JSON has double quotes") == 2


# Wrappers


def of_analyzer(number: int, sender: str, message: Any, **members: Any) -> dict[str, Any]:
    """One message as the debugger WebSocket of the S2 analyzer tells it."""
    head = {"session_id": "0af0a3f2-2f0c-4a3f-8a08-2f1d3c7ad0f1", "cem_id": "cem1", "rm_id": "battery1"}
    about = {"timestamp": f"2026-11-28T12:25:21.{number:06d}", "message_type": "S2", "origin": sender}
    kind = json.loads(message)["message_type"] if isinstance(message, str) else None
    return head | about | {"s2_msg_type": kind, "s2_validation_error": None} | members


def analyzer_debugger() -> list[dict[str, Any]]:
    lines = [
        of_analyzer(number, sender, text, msg=json.loads(text), s2_msg=json.loads(text) | {"name": None})
        for number, (sender, text) in enumerate(CONVERSATION)
    ]
    started = of_analyzer(0, "RM", None, msg=None, s2_msg=None, message_type="SESSION_STARTED")
    ended = of_analyzer(99, "RM", None, msg=None, s2_msg=None, message_type="SESSION_ENDED")
    return [started, *lines, ended]


def analyzer_history() -> list[dict[str, Any]]:
    return [
        of_analyzer(number, sender, text, s2_msg=json.loads(text), validation_errors=[])
        for number, (sender, text) in enumerate(CONVERSATION)
    ]


def analyzer_documented() -> list[dict[str, Any]]:
    """As its documentation has it: no session, no ``message_type``."""
    dropped = ("session_id", "message_type", "s2_validation_error")
    return [{name: value for name, value in one.items() if name not in dropped} for one in analyzer_history()]


def analyzer_database() -> list[dict[str, Any]]:
    """Rows of its database as ``sqlite3 -json`` prints them."""
    return [
        of_analyzer(number, sender, text, s2_msg=text, id=number) for number, (sender, text) in enumerate(CONVERSATION)
    ]


@pytest.mark.parametrize("shape", [analyzer_debugger, analyzer_history, analyzer_documented, analyzer_database])
@pytest.mark.parametrize("form", ["lines", "array", "indented"])
def test_what_the_s2_analyzer_tells_is_a_conversation(file: Path, capsys: Capture, shape: Any, form: str) -> None:
    lines = shape()
    if form == "lines":
        file.write_text("\n".join(json.dumps(line) for line in lines))
    else:
        file.write_text(json.dumps(lines, indent=2 if form == "indented" else None))
    assert [status for _, status in validated(capsys, file)] == ["OK"] * 12
    summary = replayed(capsys, file)["summary"]
    assert summary | {"sessions": 1, "messages": 12, "answers": 6} == summary


def test_a_transcript_of_s2_kit_is_a_conversation(file: Path, capsys: Capture) -> None:
    def line(number: int, sender: str, text: str) -> str:
        way = "rm>cem" if sender == "RM" else "cem>rm"
        return f'{{"t":"2026-11-28T12:25:21.{number:03d}Z","dir":"{way}","msg":{text}}}'

    lines = [line(number, sender, text) for number, (sender, text) in enumerate(CONVERSATION)]
    file.write_text("\n".join(lines))
    assert [status for _, status in validated(capsys, file)] == ["OK"] * 12
    summary = replayed(capsys, file)["summary"]
    assert summary | {"sessions": 1, "messages": 12, "answers": 6} == summary
    senders = [entry.record.sender for entry in entries_of(file.read_text()) if entry.record]
    assert senders == [sender for sender, _ in CONVERSATION]


def test_what_is_wrong_is_what_came_to_the_analyzer_and_not_what_it_made_of_it(file: Path, capsys: Capture) -> None:
    made = json.loads(STATUS) | {"message_id": "m-rm-9"}
    file.write_text(json.dumps(of_analyzer(1, "RM", WRONG, s2_msg=made, msg=json.loads(WRONG))))
    assert validated(capsys, file, code=1) == [(1, "INVALID_MESSAGE")]


@pytest.mark.parametrize(
    "line",
    [
        {"message": json.loads(STATUS)},
        {"message": STATUS},
        {"sender": "battery1", "receiver": "cem1", "message": STATUS},
        {"topic": "s2/x", "payload": {"body": json.loads(STATUS)}},
        {
            "log": f"DEBUG:s2python:Sending message {STATUS}\n",
            "stream": "stderr",
            "time": "2026-11-28T12:00:00.1234567Z",
        },
        {"level": "debug", "ts": 1795868721.5, "msg": f"Received message {STATUS}"},
        {"time": 1795868721500, "level": 20, "msg": "in", "data": STATUS},
        {"event": "received", "timestamp": "2026-11-28T12:00:00Z", "message": STATUS},
        {"type": "receive", "time": 1795868721.5, "opcode": 1, "data": STATUS},
        {"messages": [json.loads(STATUS), json.loads(STATUS)]},
        STATUS,
        [STATUS, json.loads(STATUS)],
        json.dumps(STATUS),
    ],
)
def test_wrappers_and_strings_are_looked_into(file: Path, capsys: Capture, line: Any) -> None:
    file.write_text(json.dumps(line) + "\n" + json.dumps({"level": "info", "msg": "something else"}) + "\n")
    assert set(validated(capsys, file)) == {(1, "OK")}


def test_direction_and_time_of_a_wrapper_count(file: Path, capsys: Capture) -> None:
    lines: list[dict[str, Any]] = [
        {"ts": 1795868721 + number, "dir": "tx" if sender == "RM" else "rx", "payload": text}
        for number, (sender, text) in enumerate(CONVERSATION)
    ]
    lines[7]["ts"] += 20  # the answer to the details
    file.write_text("\n".join(json.dumps(line) for line in lines))
    (remark,) = replayed(capsys, file)["remarks"]
    assert (remark["problem"], remark["line"], remark["sender"]) == ("late", 7, "RM")


def test_a_message_in_a_wrapper_is_validated_as_it_was_on_the_wire(file: Path, capsys: Capture) -> None:
    twice = STATUS.replace('"present_fill_level":5', '"present_fill_level":5,"present_fill_level":6')
    file.write_text(f'{{"message":{twice}}}\n{{"message":{json.dumps(twice)}}}\nReceived {twice}\n')
    assert validated(capsys, file, code=1) == [(1, "INVALID_DATA"), (2, "INVALID_DATA"), (3, "INVALID_DATA")]


# Encodings


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_encodings_of_windows_are_read(file: Path, capsys: Capture, encoding: str, end: str) -> None:
    text = STATUS.replace('"m-rm-3"', '"m-rm-3","\u00e4\U0001f50b":1').replace(',"\u00e4\U0001f50b":1', "")
    file.write_bytes(f"{STATUS}{end}Received {text}{end}".encode(encoding))
    assert validated(capsys, file) == [(1, "OK"), (2, "OK")]


def test_a_file_of_utf_16_that_was_cut_in_a_character_is_read_to_there(file: Path, capsys: Capture) -> None:
    file.write_bytes(f"{STATUS}\n \n".encode("utf-16")[:-1])
    assert validated(capsys, file) == [(1, "OK")]
    lone = STATUS.replace("m-rm-3", "m-\ud800")
    file.write_bytes(f"\ufeff{lone}\n{STATUS}".encode("utf-16-le", "surrogatepass"))
    assert validated(capsys, file, code=1) == [(1, "INVALID_DATA"), (2, "OK")]


# Files without messages

SQLITE = b"SQLite format 3\0" + bytes(100)
PCAP = bytes.fromhex("d4c3b2a1020004000000000000000000ffff000001000000")
YAML = b"message_types:\n  - FRBC.StorageStatus\nhost: gateway\n"
XML = b"<?xml version='1.0'?><s2><message>FRBC</message></s2>"


@pytest.mark.parametrize(
    ("content", "reported"),
    [
        (b"", "it is empty"),
        (b"\n \n", "Understood are"),
        (gzip.compress(STATUS.encode(), mtime=0), "gunzip -c FILE | s2connect validate -"),
        (PCAP, "serve --record"),
        (b"\n\r\r\n" + bytes(20), "a capture of packets"),
        (SQLITE, "sqlite3 -json"),
        (b"PK\x03\x04" + bytes(30), "a ZIP archive"),
        (b"\x7fELF\x02\x01" + bytes(30), "a program"),
        (b"\x89PNG\r\n\x1a\n" + bytes(30), "a picture"),
        (b"\x01\x02\x00\x00\x03" * 50, "a binary file"),
        (YAML, "Understood are"),
        (XML, "Understood are"),
        (b"Dear all,\nthe {device} did not answer.\n", "Understood are"),
        (b'{"name": "s2connect", "scripts": {}}', "Understood are"),
        (b"[1, 2, 3]", "Understood are"),
        (b"{broken: json}", "Understood are"),
        (b'"message"', "Understood are"),
    ],
)
@pytest.mark.parametrize("command", ["validate", "replay"])
def test_no_file_of_messages_is_another_result_than_an_invalid_message(
    file: Path, capsys: Capture, command: str, content: bytes, reported: str
) -> None:
    file.write_bytes(content)
    assert main([command, str(file), "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["kind"] == "no_messages"
    assert str(file) in error["what"]
    if command == "validate" or "Understood" not in reported:
        assert reported in error["what"] + error["hint"]


@pytest.mark.parametrize(
    "content", [WRONG, STATUS[:50], '{"message_id":"m-1"}', '{"message_type":7}', f"x {STATUS[:60]}"]
)
def test_a_broken_message_alone_is_an_invalid_message(file: Path, capsys: Capture, content: str) -> None:
    file.write_text(content)
    assert main(["validate", str(file)]) == 1
    assert "1 invalid" in capsys.readouterr().out


def test_of_several_files_the_good_ones_are_validated_and_the_others_reported(
    file: Path, tmp_path: Path, capsys: Capture
) -> None:
    good, yaml = tmp_path / "good.json", tmp_path / "config.yaml"
    good.write_text(STATUS)
    yaml.write_bytes(YAML)
    assert main(["validate", str(good), str(yaml), str(file)]) == 2
    said = capsys.readouterr()
    assert f"{good}:1  FRBC.StorageStatus  OK\n1 message: 1 valid, 0 invalid.\n" == said.out
    assert f"There is no message in {yaml}." in said.err
    assert f"Cannot read {file}: No such file or directory." in said.err
    assert main(["validate", "--json", str(good), str(yaml), str(file)]) == 2
    found = json.loads(capsys.readouterr().out)
    assert [one["status"] for one in found["messages"]] == ["OK"]
    assert [(one["file"], one["kind"]) for one in found["failures"]] == [
        (str(yaml), "no_messages"),
        (str(file), "unreadable"),
    ]


def test_names_of_files_are_whole_when_piped(tmp_path: Path) -> None:
    """Through a real pipe: nothing is cut or wrapped at the 80 columns that a pipe does not have."""
    deep = tmp_path / ("long directory " * 8).strip() / ("name " * 20).strip()
    deep.mkdir(parents=True)
    good, missing = deep / "good.json", deep / "missing.json"
    good.write_text(STATUS)
    environment = os.environ | {"COLUMNS": "40", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-m", "s2connect", "validate", str(good), str(missing)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stdout.splitlines()[0] == f"{good}:1  FRBC.StorageStatus  OK"
    assert done.stderr.splitlines() == [f"Cannot read {missing}: No such file or directory."]
    done = subprocess.run(
        [sys.executable, "-m", "s2connect", "replay", str(good)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
    )
    assert f"Error: There is no recorded conversation in {good}." in done.stderr.splitlines()


def test_a_hostile_name_of_a_file_has_no_control_characters(tmp_path: Path, capsys: Capture) -> None:
    evil = tmp_path / "\x1b[31mred\u202e"
    evil.write_text(STATUS)
    assert main(["validate", str(evil), str(evil)]) == 0
    assert main(["validate", "no\0name"]) == 2
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
    assert "no such name is possible" in said.err


# Bounds


@pytest.mark.rule("SEC-04")
@pytest.mark.parametrize(
    "content",
    [
        "{x" * 100_000,
        '{"\\"' * 50_000,
        'x "{\\"' * 50_000,
        '{"a":[\n' * 50_000,
        'x {"a":"' * 50_000,
        "[" * 100_000,
        "x " + '{"a":' * 100_000,
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        '["' + "[" * 100_000 + 'message_type"]',
        "9" * 100_000,
        f'[{"1," * 100_000}"message_type"]',
    ],
    ids=lambda content: content[:10],
)
def test_hostile_files_end_soon(content: str) -> None:
    """Without the bounds each takes minutes; what comes out does not matter, but that it comes."""
    with contextlib.suppress(Failure):
        assert len(list(entries_of(content))) <= 3


@pytest.mark.rule("SEC-04")
def test_wrappers_in_wrappers_are_looked_into_up_to_a_depth(file: Path, capsys: Capture) -> None:
    def wrapped(times: int) -> str:
        text = STATUS
        for _ in range(times):
            text = json.dumps({"message": text})
        return text

    file.write_text(wrapped(message_files.MAX_WRAPPERS // 2))
    assert validated(capsys, file) == [(1, "OK")]
    file.write_text(wrapped(12))
    assert main(["validate", str(file)]) == 2


def test_more_messages_than_are_counted_are_refused(
    file: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_files, "MAX_ENTRIES", 3)
    file.write_text(f"{STATUS}\n" * 4)
    assert main(["validate", str(file)]) == 2
    assert "more than 3 messages" in capsys.readouterr().err


# Lines


@pytest.mark.parametrize(
    ("prefix", "direction", "sender"),
    [
        ("DEBUG:s2python:Sending message ", "sent", None),
        ("Received message ", "received", None),
        ("sender.py INFO Received: ", "received", None),
        ("2026-11-28 CEM -> RM: ", None, "CEM"),
        ("got from RM ", "received", "RM"),
        ("presented and received-ish x=1 ", "received", None),
        ("28 Nov 12:25:21 - [info] [s2-websocket:cem] [s2-websocket] -> ", "sent", None),
        ("28 Nov 12:25:21 - [info] [s2-websocket:cem] [s2-websocket] <- ", "received", None),
        ("essential ", None, None),
        ("", None, None),
    ],
)
def test_what_a_line_says_before_its_message(prefix: str, direction: str | None, sender: str | None) -> None:
    facts = facts_of(prefix)
    assert (facts.direction, facts.sender) == (direction, sender)


@pytest.mark.parametrize(
    ("text", "iso"),
    [
        ("2026-11-28 12:25:21,007", "2026-11-28T12:25:21.007000"),
        ("2026-11-28T12:25:21Z", "2026-11-28T12:25:21+00:00"),
        ("2026-11-28T12:25:21.123456789+0100", "2026-11-28T12:25:21.123456+01:00"),
        (1795868721, "2026-11-28T12:25:21+00:00"),
        (1795868721000, "2026-11-28T12:25:21+00:00"),
        ("yesterday", None),
        (True, None),
        (1e300, None),
        (7, None),
    ],
)
def test_times_as_logs_write_them(text: Any, iso: str | None) -> None:
    found = time_of(text)
    assert (found.isoformat() if found is not None else None) == iso


def test_two_loggers_differ_in_their_words_and_two_lines_of_one_do_not() -> None:
    assert phrase_of("2026-11-28 12:25:21,007 Received message ") == phrase_of(
        "2026-11-29 01:00:00,100 Received message "
    )
    assert phrase_of("Received message ") != phrase_of("Handling received message ")


def test_a_file_of_bare_messages_is_no_log() -> None:
    assert not is_log(list(entries_of(f"{STATUS}\n{STATUS}")))
    assert is_log(list(entries_of(f"Received {STATUS}")))
    assert next(entries_of(f"a\nb\nReceived {STATUS}\nc")) == Entry(1, "a\nb", broken=True, other=True)


def test_standard_input_is_named_as_such(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(YAML)))
    assert main(["validate", "-"]) == 2
    assert "There is no message in standard input." in capsys.readouterr().err


@pytest.mark.parametrize("place", ["before", "between", "after"])
def test_rows_of_zero_bytes_as_a_power_cut_or_copytruncate_leaves_them_do_not_hide_a_log(
    tmp_path: Path, capsys: Capture, place: str
) -> None:
    first, second = (f"2026-11-28T12:00:0{second} recv {text}\n" for second, text in enumerate((STATUS, WRONG)))
    rows = {name: bytes(4096) if name == place else b"" for name in ("before", "between", "after")}
    log = tmp_path / "torn.log"
    log.write_bytes(rows["before"] + first.encode() + rows["between"] + second.encode() + rows["after"])
    assert main(["validate", "--json", str(log)]) == 1
    messages = json.loads(capsys.readouterr().out)["messages"]
    assert [(one["line"], one["status"]) for one in messages] == [(1, "OK"), (2, "INVALID_MESSAGE")]
