"""``s2connect simulate``, as processes."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from s2connect.cli import main
from tests.command import Running, run
from tests.waits import patience

TABLE = "site,area,appliance,resource,count,kw,kwh,litres\nHere,Cellar,Battery,BESS,2,5,10,\nThere,Roof,Sun,PV,1,6,,\n"
SPEED = ("--speed", "600")


class Simulated:
    """A running simulation with ``--json``."""

    def __init__(self, *arguments: str, stdin: str = "") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "s2connect", "simulate", *arguments, "--json"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdin is not None
        self.process.stdin.write(stdin)
        self.process.stdin.close()
        self._guard = threading.Timer(40, self.kill)
        self._guard.start()

    def report(self, event: str) -> dict[str, Any]:
        """Wait for the next report of that event."""
        output: IO[str] = self.process.stdout  # type: ignore[assignment]  # a pipe
        for line in output:
            report: dict[str, Any] = json.loads(line)
            if report.get("event") == event:
                return report
        raise AssertionError(f"no {event}; {self.process.stderr.read() if self.process.stderr else ''}")

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        output: IO[str] = self.process.stdout  # type: ignore[assignment]  # a pipe
        output.read()
        return self.process.wait(patience(15))

    def kill(self) -> None:
        self._guard.cancel()
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def close(self) -> None:
        self.kill()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


@pytest.fixture
def simulate() -> Iterator[Callable[..., Simulated]]:
    running: list[Simulated] = []

    def begin(*arguments: str, stdin: str = "") -> Simulated:
        running.append(Simulated(*arguments, stdin=stdin))
        return running[-1]

    yield begin
    for one in running:
        one.close()


def test_a_device_and_an_energy_manager_find_each_other_and_end_when_they_are_told(
    simulate: Callable[..., Simulated], tmp_path: Path
) -> None:
    cem = simulate("cem", "--host", "127.0.0.1", "--bind", "127.0.0.1", "--home", str(tmp_path / "cem"), *SPEED)
    shown = cem.report("code")
    pairing = ("--pair", shown["pairing_url"])
    rm = simulate("rm", "battery", "--name", "Cellar", *pairing, *SPEED, stdin=shown["code"] + "\n")
    assert rm.report("connected")["name"] == "Cellar"
    assert "FILL_RATE" in rm.report("note")["text"]
    assert cem.report("code")["code"] != shown["code"], "a code counts once"
    assert rm.terminate() == 0
    cem.report("disconnected")
    assert cem.terminate() == 0
    assert (tmp_path / "cem" / "config.json").is_file()


@pytest.mark.long
def test_all_devices_of_a_site_take_one_code(simulate: Callable[..., Simulated], tmp_path: Path) -> None:
    table = tmp_path / "site.csv"
    table.write_text(TABLE, "utf-8")
    cem = simulate("cem", "--many", "--host", "127.0.0.1", "--bind", "127.0.0.1", *SPEED)
    shown = cem.report("code")
    arguments = ("site", str(table), "--site", "Here", "--pair", shown["pairing_url"], *SPEED)
    site = simulate(*arguments, stdin=shown["code"] + "\n")
    assert site.report("paired")["paired"] == 1
    assert site.report("paired")["paired"] == 2
    assert {site.report("connected")["name"] for _ in range(2)} == {"Cellar Battery 1", "Cellar Battery 2"}
    assert site.terminate() == 0


def test_a_plan_is_shown_without_anything_being_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "site.csv"
    table.write_text(TABLE, "utf-8")
    assert main(["simulate", "site", str(table), "--dry-run"]) == 0
    assert capsys.readouterr().out == "Here: 2 x battery\nThere: 1 x pv\nDevices in all: 3\n"
    assert main(["simulate", "site", str(table), "--dry-run", "--json", "--site", "There"]) == 0
    (device,) = json.loads(capsys.readouterr().out)["devices"]
    assert (device["resource_id"], device["settings"]) == ("pv-3", {"peak": 6000.0})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("rm", "toaster"), "toaster"),
        (("rm", "battery", "--control-type", "ppbc"), "frbc"),
        (("rm", "battery", "--pair", "https://127.0.0.1:1/pairing/"), "does not hold the pairing code"),
        (("site", "missing.csv"), "cannot be read"),
    ],
)
def test_mistakes_are_told(
    arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert main(["simulate", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_a_site_that_is_paired_with_nobody_says_what_to_add(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "site.csv"
    table.write_text(TABLE, "utf-8")
    assert main(["simulate", "site", str(table)]) == 2
    assert "--pair" in capsys.readouterr().err


@pytest.mark.long
def test_commands_on_the_directory_reach_a_simulated_device_while_it_runs(tmp_path: Path) -> None:
    home = tmp_path / "battery"
    local = ("--host", "localhost", "--bind", "127.0.0.1")
    device = Running(home, command=("simulate", "rm", "battery", "--home", str(home), *local))
    try:
        device.line(lambda line: json.loads(line)["event"] == "code")
        status = run("status", "--home", str(home), "--json")
        assert status.returncode == 0, status.stderr
        assert json.loads(status.stdout)["service"]["pid"] == device.process.pid
        assert run("code", "--home", str(home)).returncode == 0
    finally:
        device.kill()
