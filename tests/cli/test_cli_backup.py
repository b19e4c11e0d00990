"""``backup``, ``restore`` and ``move`` by command, with real services that are paired."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from s2connect.cli import main
from tests.command import Object, Running, pair, run

PHRASE = "correct horse battery"
Start = Callable[..., Running]


def command(*arguments: str, code: int = 0, stdin: str = PHRASE + "\n") -> Object:
    done = run(*arguments, "--passphrase-stdin", "--json", stdin=stdin)
    assert done.returncode == code, done.stderr
    found: Object = json.loads(done.stdout)
    return found


def error(*arguments: str, code: int, stdin: str = PHRASE + "\n") -> Object:
    found: Object = command(*arguments, code=code, stdin=stdin)["error"]
    return found


@pytest.mark.long
def test_a_moved_device_goes_on_elsewhere_without_pairing_again(
    cem: Path, rm: Path, start: Start, tmp_path: Path
) -> None:
    manager, device = start(cem), start(rm)
    pair(manager, device)
    file = tmp_path / "battery.s2backup"
    made = command("move", str(file), "--home", str(rm), "--yes")
    assert made["pairings"] == 1
    assert device.ended() == 0, "the service was stopped"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert error("backup", str(tmp_path / "x"), "--home", str(rm), code=7)["kind"] == "home_moved"
    refused = run("serve", "--home", str(rm))
    assert refused.returncode == 7
    assert str(file) in refused.stderr
    again = run("setup", "--home", str(rm), "--trial")
    assert (again.returncode, again.stdout) == (7, ""), "before anybody answers a question"
    found = json.loads(run("doctor", "--home", str(rm), "--json").stdout)["checks"]
    assert any(str(file) in check["sentence"] and "--undo" in check["hint"] for check in found)
    there = command("restore", str(file), "--home", str(tmp_path / "there"))
    assert (there["moved"], there["pairings"]) == (True, 1)
    start(tmp_path / "there").event("session_opened")


@pytest.mark.long
def test_a_backup_of_a_running_service_holds_its_present_tokens(
    cem: Path, rm: Path, start: Start, tmp_path: Path
) -> None:
    manager, device = start(cem), start(rm)
    pair(manager, device)
    file = tmp_path / "battery.s2backup"
    assert command("backup", str(file), "--home", str(rm))["pairings"] == 1
    assert not [path for path in rm.iterdir() if path.name.startswith(".backup")]
    device.command("stop")
    device.ended()
    assert error("restore", str(file), "--home", str(rm), code=2)["what"].endswith("is set up already.")
    assert not command("restore", str(file), "--home", str(rm), "--replace", "--yes")["moved"]
    start(rm).event("session_opened")


def test_what_is_in_the_way_is_said_before_anybody_is_asked(
    rm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = ("--home", str(rm))

    def error(*arguments: str, code: int, stdin: str = PHRASE + "\n") -> Object:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        assert main([*arguments, "--passphrase-stdin", "--json"]) == code
        found: Object = json.loads(capsys.readouterr().out)["error"]
        return found

    inside = error("backup", str(rm / "file"), *home, code=2)
    assert "does not belong into the state directory" in inside["what"]
    assert "no directory" in error("backup", str(tmp_path / "no" / "file"), *home, code=2)["what"]
    (tmp_path / "there").write_text("mine")
    assert "exists already" in error("backup", str(tmp_path / "there"), *home, code=2)["what"]
    assert (tmp_path / "there").read_text() == "mine"
    os.mkfifo(tmp_path / "pipe")
    assert "device or pipe" in error("backup", str(tmp_path / "pipe"), *home, "--yes", code=2)["what"]
    assert "12 to 1024" in error("backup", str(tmp_path / "file"), *home, code=2, stdin="short\n")["what"]
    assert error("restore", str(tmp_path / "there"), *home, code=7)["kind"] == "backup_refused"
    assert "Add --yes" in error("move", str(tmp_path / "file"), *home, code=2)["hint"]
    assert "was not moved" in error("move", "--undo", *home, "--yes", code=2)["what"]
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert main(["backup", str(tmp_path / "file"), *home]) == 2
    assert "--passphrase-stdin" in capsys.readouterr().err


def test_a_passphrase_comes_from_a_file_that_only_its_owner_can_read(
    rm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret, file = tmp_path / "phrase", tmp_path / "file"
    secret.write_text(PHRASE + "\n")
    options = ("--passphrase-file", str(secret), "--home")
    assert main(["backup", str(file), *options, str(rm)]) == 7
    assert "chmod 600" in capsys.readouterr().err
    secret.chmod(0o600)
    assert main(["backup", str(file), *options, str(rm)]) == 0
    assert main(["restore", str(file), *options, str(tmp_path / "new")]) == 0
    said = capsys.readouterr().out
    assert "may have to be paired again" in said
    assert PHRASE not in said


@pytest.mark.long
def test_a_person_types_the_passphrase_twice_and_it_is_not_shown(rm: Path, tmp_path: Path) -> None:
    import pty

    file = tmp_path / "file"

    def typed(*lines: str) -> tuple[int, str]:
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "s2connect", "backup", str(file), "--home", str(rm)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
        )
        os.close(theirs)
        said = b""
        for line in lines:
            while not said.endswith(b": "):
                said += os.read(ours, 1000)
            os.write(ours, line.encode() + b"\n")
            said += b"|"
        try:
            while part := os.read(ours, 1000):
                said += part
        except OSError:
            pass  # the end, on Linux
        os.close(ours)
        return process.wait(), said.decode()

    code, said = typed(PHRASE, "another passphrase")
    assert (code, file.exists()) == (2, False)
    assert "differ" in said
    code, said = typed(PHRASE, PHRASE)
    assert (code, file.exists()) == (0, True), said
    assert PHRASE not in said
