"""``replay``: refused, unanswered, late and repeated messages of a log."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from s2connect.cli import main

Capture = pytest.CaptureFixture[str]
BEGIN = datetime(2026, 1, 1, 12, tzinfo=UTC)
L1 = "ELECTRIC.POWER.L1"


class Log:
    """A log as the device writes it."""

    def __init__(self, *, role: str | None = "RM", opened: bool = True) -> None:
        self.lines: list[str] = []
        self._role = {"role": role} if role is not None else {}
        self._now = BEGIN
        self._ids = 0
        if opened:
            self.event("session_opened", s2_version="v1.0.0")

    def after(self, seconds: float) -> Log:
        self._now += timedelta(seconds=seconds)
        return self

    def event(self, name: str, **fields: Any) -> None:
        self._write({"event": name, "node": "n", **self._role, "peer": {}, **fields})

    def _write(self, entry: dict[str, Any]) -> int:
        time = self._now.isoformat().replace("+00:00", "Z")
        self.lines.append(json.dumps({"time": time, "session": "s1", **entry}))
        return len(self.lines)

    def say(self, direction: str, kind: str, *, answer: str | None = "OK", id: str = "", **members: Any) -> int:  # noqa: A002
        """A message and its answer; returns its line."""
        self._ids += 1
        identifier = id or f"m-{self._ids}"
        line = self.raw(direction, {"message_type": kind, "message_id": identifier, **members})
        if answer is not None:
            self.answer("received" if direction == "sent" else "sent", identifier, answer)
        return line

    def answer(self, direction: str, subject: str, status: str = "OK", **members: Any) -> int:
        content = {"message_type": "ReceptionStatus", "subject_message_id": subject, "status": status, **members}
        return self.raw(direction, content)

    def raw(self, direction: str, message: Any) -> int:
        return self._write({"direction": direction, "node": "n", **self._role, "message": message})

    def details(self) -> None:
        self.say(
            "sent",
            "ResourceManagerDetails",
            resource_id="r-1",
            roles=[{"role": "ENERGY_STORAGE", "commodity": "ELECTRICITY"}],
            instruction_processing_delay=0,
            available_control_types=["FILL_RATE_BASED_CONTROL"],
            provides_forecast=False,
            provides_power_measurement_types=[L1],
        )

    def measure(self, **more: Any) -> int:
        at = self._now.isoformat()
        values = [{"commodity_quantity": L1, "value": 1}]
        return self.say("sent", "PowerMeasurement", measurement_timestamp=at, values=values, **more)

    def select(self) -> int:
        return self.say("received", "SelectControlType", control_type="FILL_RATE_BASED_CONTROL")

    def fill_level(self, **more: Any) -> int:
        return self.say("sent", "FRBC.StorageStatus", present_fill_level=5, **more)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


def replayed(log: Log, path: Path, capsys: Capture, *options: str, code: int, end: str = "\n") -> dict[str, Any]:
    path.write_text("\n".join(log.lines) + end)
    assert main(["replay", str(path), "--json", *options]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def remarks(found: dict[str, Any]) -> list[tuple[int, str]]:
    """Lines and problems, without warnings of rules that are tested elsewhere."""
    return [(one["line"], one["problem"]) for one in found["remarks"] if one["finding"] is None]


@pytest.mark.rule("MSG-02", "MSG-03")
def test_a_conversation_in_order_has_nothing_to_remark(path: Path, capsys: Capture) -> None:
    log = Log()
    log.details()
    log.select()
    log.after(14).measure()
    log.event("session_closed", reason="lost")
    found = replayed(log, path, capsys, code=0)
    assert found["remarks"] == []
    assert found["summary"] | {"messages": 6, "answers": 3, "sessions": 1} == found["summary"]
    assert main(["replay", str(path)]) == 0
    assert capsys.readouterr().out == "1 session, 6 messages, of which 3 answers: nothing to remark.\n"


@pytest.mark.rule("MSG-02")
def test_what_is_refused_is_reported_with_rule_and_line(path: Path, capsys: Capture) -> None:
    log = Log()
    log.details()
    early = log.fill_level()
    log.select()
    broken = log.raw("received", {"message_type": "FRBC.Instruction", "message_id": "m-77", "id": "x"})
    log.answer("sent", "m-77", "INVALID_MESSAGE")
    nothing = log.raw("received", {"no": "id"})
    nil = log.answer("sent", "00000000-0000-0000-0000-000000000000", "INVALID_DATA")
    found = replayed(log, path, capsys, code=1)
    assert remarks(found) == [
        (early, "refused"),
        (broken, "refused"),
        (broken, "not_ok"),
        (nothing, "refused"),
        (nil, "answer_to_nothing"),
    ]
    assert found["remarks"][0]["detail"].startswith("INVALID_CONTENT: MSG-02: FRBC.StorageStatus")
    assert (found["remarks"][0]["sender"], found["remarks"][1]["sender"]) == ("RM", "CEM")
    assert found["remarks"][1]["detail"].startswith("INVALID_MESSAGE: ")


@pytest.mark.rule("MSG-02")
def test_the_history_counts(path: Path, capsys: Capture) -> None:
    log = Log()
    log.details()
    log.select()
    instruction = {
        "message_type": "FRBC.Instruction",
        "message_id": "m-50",
        "id": "i-1",
        "actuator_id": "nobody",
        "operation_mode": "o-1",
        "operation_mode_factor": 0,
        "execution_time": "2026-01-01T12:00:00Z",
        "abnormal_condition": False,
    }
    log.raw("received", instruction)
    log.answer("sent", "m-50")
    found = replayed(log, path, capsys, code=1)
    assert found["summary"]["refused"] == 1
    assert "HIST-" in found["remarks"][0]["detail"]


@pytest.mark.rule("MSG-03")
def test_answers_that_are_missing_late_double_or_bad_are_reported(path: Path, capsys: Capture) -> None:
    log = Log()
    log.details()
    never = log.measure(answer=None, id="m-20")
    late = log.measure(answer=None, id="m-21")
    log.after(15.5).answer("received", "m-21")
    twice = log.measure(id="m-22")
    log.answer("received", "m-22")
    refused = log.measure(id="m-23", answer="TEMPORARY_ERROR")
    again = log.measure(id="m-22")
    log.after(5).measure(answer=None)  # the log ends before its time is over
    found = replayed(log, path, capsys, code=1)
    assert remarks(found) == [
        (never, "unanswered"),
        (late, "late"),
        (twice, "answered_twice"),
        (refused, "not_ok"),
        (again, "duplicate_id"),
    ]
    assert "15.5 s" in found["remarks"][1]["detail"]
    assert found["summary"]["late"] == 1


@pytest.mark.rule("MSG-03")
def test_late_answers_and_refusals_of_the_other_side_are_no_failure(path: Path, capsys: Capture) -> None:
    log = Log()
    log.details()
    log.measure(answer=None, id="m-21")
    log.after(20).answer("received", "m-21", "TEMPORARY_ERROR", diagnostic_label="\x1b[31m[red]busy")
    replayed(log, path, capsys, code=0)
    assert main(["replay", str(path)]) == 0
    out = capsys.readouterr().out
    assert "RM  PowerMeasurement  late  Answered after 20.0 s" in out
    assert "[31m[red]busy" in out
    assert "\x1b" not in out


def test_a_torn_last_line_is_tolerated_and_so_is_one_before_a_restart(path: Path, capsys: Capture) -> None:
    log = Log()
    log.details()
    whole = replayed(log, path, capsys, code=0)
    log.measure()
    log.lines.pop()
    torn = log.lines[-1] = log.lines[-1][:-30]
    found = replayed(log, path, capsys, code=0, end="")
    assert remarks(found) == [(len(log.lines), "torn")]
    assert found["summary"]["messages"] == whole["summary"]["messages"]
    log.event("session_opened", s2_version="v1.0.0")
    log.details()
    assert replayed(log, path, capsys, code=0)["summary"]["sessions"] == 2
    log.lines.insert(1, torn)
    assert remarks(replayed(log, path, capsys, code=1))[0] == (2, "unreadable")


def test_every_session_has_a_conversation_of_its_own(path: Path, capsys: Capture) -> None:
    log = Log()
    log.details()
    log.select()
    other = [line.replace('"s1"', '"s2"') for line in log.lines]
    log.fill_level()
    one, two = log.lines, other
    log.lines = [line for pair in zip(one, two, strict=False) for line in pair] + one[len(two) :]
    assert replayed(log, path, capsys, code=0)["summary"]["sessions"] == 2
    log.event("session_closed")
    log.event("session_opened", s2_version="v1.0.0")
    early = log.fill_level()
    assert remarks(replayed(log, path, capsys, code=1)) == [(early, "refused")]


def test_the_author_of_a_log_is_given_seen_or_asked_for(path: Path, capsys: Capture) -> None:
    log = Log(role=None, opened=False)
    log.details()
    replayed(log, path, capsys, code=0)
    assert replayed(log, path, capsys, "--role", "cem", code=1)["summary"]["refused"] == 1
    log = Log(role=None)
    log.say("sent", "SessionRequest", request="RECONNECT")
    path.write_text("\n".join(log.lines))
    assert main(["replay", str(path)]) == 2
    assert "--role cem or --role rm" in capsys.readouterr().err
    replayed(log, path, capsys, "--role", "rm", code=0)


def test_what_is_no_log_ends_with_two(path: Path, capsys: Capture) -> None:
    for content in (" ", "{}", '{"message_type":"FRBC.StorageStatus","message_id":"m-1","present_fill_level":5}'):
        path.write_text(content)
        assert main(["replay", str(path)]) == 2
        assert "no recorded conversation in" in capsys.readouterr().err
    assert main(["replay", str(path) + "-none"]) == 2


def test_lines_that_were_left_out_are_reported(path: Path, capsys: Capture) -> None:
    log = Log()
    log.details()
    log.event("left_out", lines=7)
    assert replayed(log, path, capsys, code=0)["summary"]["left_out"] == 1


def test_what_was_left_out_is_not_missed(path: Path, capsys: Capture) -> None:
    log = Log()
    log.details()
    log.measure(answer=None)
    log.event("left_out", lines=7)
    log.answer("received", "m-of-what-was-left-out")
    log.after(60).measure()
    assert [problem for _, problem in remarks(replayed(log, path, capsys, code=0))] == ["left_out"]


@pytest.mark.parametrize(("reason", "reported"), [("closed_by_peer", ["unanswered"]), ("lost", [])])
@pytest.mark.rule("MSG-03")
def test_a_session_goes_on_until_it_is_closed_unless_the_peer_was_lost(
    path: Path, capsys: Capture, reason: str, reported: list[str]
) -> None:
    log = Log()
    log.details()
    log.measure(answer=None)
    log.after(60).event("session_closed", reason=reason)
    found = replayed(log, path, capsys, code=1 if reported else 0)
    assert [problem for _, problem in remarks(found)] == reported


def test_a_message_of_an_unknown_sender_is_reported(path: Path, capsys: Capture) -> None:
    log = Log()
    log.details()
    line = log.raw("sideways", {})
    assert remarks(replayed(log, path, capsys, code=1)) == [(line, "unreadable")]


def test_a_log_of_an_unknown_version_asks_for_another(path: Path, capsys: Capture) -> None:
    log = Log(opened=False)
    log.event("session_opened", s2_version="v7")
    log.details()
    path.write_text("\n".join(log.lines))
    assert main(["replay", str(path)]) == 2
    assert "--version" in capsys.readouterr().err
    replayed(log, path, capsys, "--version", "v1.0.0", code=0)


def test_the_summary_is_one_line_however_narrow_the_terminal_is(path: Path, capsys: Capture) -> None:
    log = Log()
    log.details()
    log.answer("received", "m-1")
    log.raw("sent", {})
    log.fill_level(answer="INVALID_CONTENT")
    path.write_text("\n".join([*log.lines, "{"]))
    assert main(["replay", str(path)]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("1 session, ")
    assert len(last) > 80
