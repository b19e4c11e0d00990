"""The five uses of S2 and the sidecars in other languages: each example runs to its end, as a program of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import make_home
from tests.documents.blocks import TEXT, blocks
from tests.waits import Deadline, patience

ROOT = Path(__file__).parents[1]
USES = ["house", "device_to_cloud", "cloud_to_cloud", "cloud_to_house", "modules"]
SIDECARS = ROOT / "examples" / "sidecar"


@pytest.mark.parametrize("use", [pytest.param(use, marks=[pytest.mark.long] * (use != "modules")) for use in USES])
def test_each_of_the_five_uses_runs_until_the_battery_has_done_what_it_should(use: str) -> None:
    command = [sys.executable, "-W", "error", "-m", f"uses.{use}"]
    done = subprocess.run(
        command, cwd=ROOT / "examples", capture_output=True, text=True, timeout=patience(30), check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "charging with 1500 W" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("says SUCCEEDED")


def test_the_page_about_the_five_uses_has_each() -> None:
    page = (ROOT / "docs" / "tutorial" / "five-uses.md").read_text("utf-8")
    assert all(f"examples/uses/{use}.py" in page and f"python -m uses.{use}" in page for use in USES)


class Program:
    """A program in another language, whose output is read line by line."""

    def __init__(self, *command: str | Path) -> None:
        scripts = sysconfig.get_path("scripts")  # where s2connect is
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PATH": os.pathsep.join([scripts, os.environ["PATH"]])},
        )

    def until(self, text: str) -> str:
        assert self.process.stdout is not None
        deadline = Deadline(60)
        while deadline.left():
            line = self.process.stdout.readline()
            assert line, f"ended before it said {text!r}"
            if text in line:
                return line.strip()
        raise AssertionError(text)

    def type(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def end(self) -> int:
        self.process.terminate()
        return self.process.wait(patience(20))


@pytest.fixture
def programs() -> Iterator[list[Program]]:
    started: list[Program] = []
    yield started
    for program in started:
        program.process.kill()
        program.process.communicate()


@pytest.mark.long
@pytest.mark.timeout(600)  # Go compiles its library
def test_an_energy_manager_in_node_and_a_device_in_go_pair_and_talk(tmp_path: Path, programs: list[Program]) -> None:
    for tool in ("node", "go"):
        if shutil.which(tool) is None:
            assert "CI" not in os.environ, f".ci/run installs {tool}"
            pytest.skip(f"{tool} is not installed")
    device = tmp_path / "device"
    subprocess.run(["go", "vet", "device.go"], cwd=SIDECARS, check=True, timeout=patience(240))
    subprocess.run(["go", "build", "-o", device, "device.go"], cwd=SIDECARS, check=True, timeout=patience(240))
    make_home(tmp_path / "ems", "cem", "--name", "House")
    make_home(tmp_path / "battery", "rm", "--name", "Cellar battery")

    manager = Program("node", SIDECARS / "energy_manager.mjs", tmp_path / "ems")
    programs.append(manager)
    at_manager, at_battery = (
        block.code.splitlines() for block in blocks(ROOT / "docs" / "howto" / "sidecar.md") if block.language == TEXT
    )
    words = manager.until("Pair at").split()
    assert at_manager[0].split()[:2] + at_manager[0].split()[3:-1] == words[:2] + words[3:-1]
    battery = Program(device, tmp_path / "battery", words[2])
    programs.append(battery)
    battery.type(words[-1])
    for line in at_battery[1:]:  # after the question for the code
        battery.until(line)
    manager.until("paired with Cellar battery")
    manager.until("Cellar battery: has taken the selection")
    manager.until("Cellar battery: FRBC.StorageStatus")
    assert battery.end() == 0
    assert manager.end() == 0

    again = Program("node", SIDECARS / "energy_manager.mjs", tmp_path / "ems")
    programs.append(again)
    again.until("Pair at")
    battery = Program(device, tmp_path / "battery")  # is paired: needs no URL
    programs.append(battery)
    again.until("Cellar battery: FRBC.StorageStatus")
