"""``serve --record``: what is in the file, whatever happens to it."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from s2connect import SessionEnd
from s2connect.cli import main
from s2connect.errors import InsecurePermissions, StorageUnavailable
from s2connect.messages.envelope import read_message
from s2connect.model.common import NodeId, Role
from s2connect.service import lines
from s2connect.service.objects import PeerId
from s2connect.service.record import Recorder, open_log
from tests.command import Running, pair
from tests.waits import within

Start = Callable[..., Running]
Capture = pytest.CaptureFixture[str]
MEASUREMENT = {
    "message_type": "PowerMeasurement",
    "measurement_timestamp": "2026-01-01T12:00:00Z",
    "values": [{"commodity_quantity": "ELECTRIC.POWER.L1", "value": 1.50}],
}


def entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


NODE = NodeId(uuid4())


class FakeSession:
    """As much of a session as is recorded."""

    def __init__(self) -> None:
        self.role = Role.RM
        self.peer = PeerId(NODE)
        self.observe_with: Any = None

    def observe(self, on_message: Any) -> None:
        self.observe_with = on_message

    def says(self, text: str) -> None:
        self.observe_with("sent", read_message(text))


def text(**more: Any) -> str:
    return json.dumps(MEASUREMENT | {"message_id": str(uuid4())} | more)


@pytest.mark.rule("MSG-03")
def test_a_session_is_recorded_by_both_sides_and_replays(
    cem: Path, rm: Path, tmp_path: Path, start: Start, capsys: Capture
) -> None:
    logs = {"CEM": tmp_path / "cem.log", "RM": tmp_path / "rm.log"}
    manager, device = start(cem, "--record", str(logs["CEM"])), start(rm, "--record", str(logs["RM"]))
    _, session = pair(manager, device)
    assert device.command("send", session=session, message=MEASUREMENT)["ok"]
    assert device.command("close", session=session)["ok"]
    manager.event("session_closed")
    for one in (device, manager):
        one.end_input()
        assert one.ended() == 0
    for role, path in logs.items():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        found = entries(path)
        assert {(one["session"], one["role"]) for one in found if one["session"] == found[0]["session"]} == {
            (found[0]["session"], role)
        }
        assert found[0]["event"] == "session_opened"
        assert found[0]["s2_version"] == "v1.0.0"
        assert found[0]["peer"]["role"] != role
        said = [one for one in found if "message" in one and one["message"]["message_type"] == "PowerMeasurement"]
        assert [one["direction"] for one in said] == ["sent" if role == "RM" else "received"]
        assert any(one.get("message", {}).get("message_type") == "ReceptionStatus" for one in found)
        assert any(one.get("event") == "session_closed" for one in found)
        assert main(["replay", str(path), "--json"]) == 0, capsys.readouterr().out
        assert main(["validate", str(path)]) == 0


async def test_a_message_is_written_as_it_was_on_one_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    session: Any = FakeSession()
    odd = '{"message_type" :\r\n "Handshake","message_id":"m-1", "role":"RM","x":1.50,"x":"\u2028é"}'
    async with Recorder(open_log(path), lambda: None) as recorder:
        session.observe(recorder.opened("s1", NODE, session.role, session.peer, "v1.0.0"))
        session.says(odd)
        recorder.closed("s1", NODE, session.role, session.peer, SessionEnd.LOST)
    lines_of_file = path.read_text("utf-8").split("\n")
    assert len(lines_of_file) == 4
    assert odd.replace("\r\n", "  ") in lines_of_file[1]
    assert [json.loads(line).get("event") for line in lines_of_file[:3]] == ["session_opened", None, "session_closed"]


def test_a_file_is_appended_to_and_a_torn_line_gets_its_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for content, expected in ((b"", b"x"), (b"whole\n", b"whole\nx"), (b"torn", b"torn\nx")):
        path.write_bytes(content)
        path.chmod(0o600)
        descriptor = open_log(path)
        os.write(descriptor, b"x")
        os.close(descriptor)
        assert path.read_bytes() == expected


@pytest.mark.rule("SEC-02")
def test_a_file_that_others_can_read_is_not_written_to(tmp_path: Path, rm: Path, capsys: Capture) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"")
    path.chmod(0o644)
    with pytest.raises(InsecurePermissions):
        open_log(path)
    for impossible in (tmp_path / "none" / "log", tmp_path):
        with pytest.raises(StorageUnavailable) as caught:
            open_log(impossible)
        assert caught.value.hint is not None
        assert "another file for the record" in caught.value.hint
    assert main(["serve", "--home", str(rm), "--record", str(path)]) == 7
    assert str(path) in capsys.readouterr().err


async def test_a_full_disk_ends_the_recording_and_nothing_else() -> None:
    broken = asyncio.Event()
    session: Any = FakeSession()
    async with Recorder(os.open("/dev/full", os.O_WRONLY), broken.set) as recorder:
        session.observe(recorder.opened("s1", NODE, session.role, session.peer, "v1.0.0"))
        async with within(10):
            await broken.wait()
        session.says(text())
        recorder.closed("s1", NODE, session.role, session.peer, SessionEnd.LOST)


def test_the_service_says_that_recording_has_stopped_and_goes_on(
    rm: Path, cem: Path, tmp_path: Path, start: Start
) -> None:
    # A limit on the size of files is met as a full disk is: an error of the write.
    path = tmp_path / "log"
    manager = start(cem)
    device = start(rm, "--record", str(path))
    limit = 1_000_000
    resource.prlimit(device.process.pid, resource.RLIMIT_FSIZE, (limit, limit))
    _, session = pair(manager, device)
    with path.open("ab") as file:
        file.truncate(limit - 10)
    assert device.command("send", session=session, message=MEASUREMENT)["ok"]
    warning = device.event("warning", reason="recording_stopped")
    assert str(path) in warning["text"]
    assert device.command("send", session=session, message=MEASUREMENT)["ok"]
    assert device.command("status")["sessions"]


def test_after_a_kill_at_most_the_last_line_is_torn(
    rm: Path, cem: Path, tmp_path: Path, start: Start, capsys: Capture
) -> None:
    path = tmp_path / "log"
    manager, device = start(cem), start(rm, "--record", str(path))
    _, session = pair(manager, device)
    for _ in range(200):
        last = device.begin("send", session=session, message=MEASUREMENT)
    device.event("result", id=last - 100, ok=True)
    device.kill()
    *whole, _ = path.read_bytes().split(b"\n")
    assert sum("message" in json.loads(line) for line in whole) > 50
    assert main(["replay", str(path), "--json"]) == 0, capsys.readouterr().out


async def test_what_a_slow_disk_cannot_take_is_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_WAITING_BYTES", 10_000)
    read, write = os.pipe()
    session: Any = FakeSession()
    async with Recorder(write, lambda: None) as recorder:
        session.observe(recorder.opened("s1", NODE, session.role, session.peer, "v1.0.0"))
        for _ in range(1000):  # more than a pipe and the queue hold
            session.says(text())
        found = bytearray()
        os.set_blocking(read, False)

        def drain() -> None:
            try:
                while chunk := os.read(read, 65536):
                    found.extend(chunk)
            except BlockingIOError:
                pass

        while recorder._writer._bytes:
            drain()
            await asyncio.sleep(0.001)
        session.says(text(message_id="the-last"))
        while b'"the-last"' not in found or not found.endswith(b"}}\n"):
            drain()
            await asyncio.sleep(0.001)
    written = [json.loads(line) for line in found.decode().splitlines()]
    lost = sum(one["lines"] for one in written if one.get("event") == "left_out")
    assert lost + sum("message" in one for one in written) == 1001
    os.close(read)
