"""The units of systemd, in a machine in which systemd runs: the user, the state, reload, restart, watchdog, journal."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine import Machine, require_machine

UNITS = Path(__file__).resolve().parents[2] / "examples" / "systemd"
BRIDGE = """
home = "/var/lib/s2connect-bridge"
[endpoint]
host = "127.0.0.1"
port = 8553
vault = "files"
[[route]]
name = "house"
[route.devices]
type = "s2-connect"
[route.manager]
type = "s2-connect"
"""
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    require_machine()
    with Machine() as booted:
        booted.run("useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", "s2connect")
        for unit in UNITS.glob("*.service"):
            booted.write(f"/etc/systemd/system/{unit.name}", unit.read_text())
        booted.run("systemctl", "daemon-reload")
        booted.run("install", "-d", "-m", "700", "-o", "s2connect", "/var/lib/s2connect")
        options = ["--role", "rm", "--host", "127.0.0.1", "--port", "8543", "--vault", "files"]
        booted.run(
            *("runuser", "-u", "s2connect", "--", "/usr/local/bin/s2connect", "init"),
            *("--home", "/var/lib/s2connect", *options),
        )
        booted.run("mkdir", "-p", "/etc/s2connect")
        booted.write("/etc/s2connect/bridge.toml", BRIDGE)
        yield booted


def shown(machine: Machine, unit: str, name: str) -> str:
    return machine.run("systemctl", "show", "--value", "--property", name, unit).strip()


def journal(machine: Machine, unit: str) -> list[dict[str, str]]:
    lines = machine.run("journalctl", "--unit", unit, "--output", "json", "--no-pager").splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


@pytest.mark.parametrize(("unit", "state"), [("s2connect", "1 node"), ("s2connect-bridge", "1 routes")])
def test_a_unit_starts_reloads_and_comes_back_after_it_was_killed(machine: Machine, unit: str, state: str) -> None:
    machine.run("systemctl", "start", unit)  # returns once it is ready: Type=notify
    assert shown(machine, unit, "ActiveState") == "active"
    assert state in shown(machine, unit, "StatusText")
    pid = shown(machine, unit, "MainPID")
    assert machine.run("stat", "-c", "%U", f"/proc/{pid}").strip() == "s2connect"
    assert machine.run("stat", "-c", "%U %a", f"/var/lib/{unit}").split() == ["s2connect", "700"]

    machine.run("systemctl", "reload", unit)
    machine.wait("systemctl", "show", "--value", "--property", "ActiveState", unit, until="active")
    assert shown(machine, unit, "MainPID") == pid

    machine.run("systemctl", "kill", "--signal", "KILL", unit)
    machine.wait("systemctl", "show", "--value", "--property", "NRestarts", unit, until="1")
    machine.wait("systemctl", "show", "--value", "--property", "ActiveState", unit, until="active")
    machine.wait("systemctl", "show", "--value", "--property", "StatusText", unit, until=state)
    assert shown(machine, unit, "MainPID") not in ("0", pid)

    machine.run("systemctl", "stop", unit)
    assert shown(machine, unit, "Result") == "success"


@pytest.mark.parametrize("unit", ["s2connect", "s2connect-bridge"])
def test_a_unit_is_hardened(machine: Machine, unit: str) -> None:
    words = machine.run("systemd-analyze", "security", "--no-pager", unit).splitlines()[-1]
    exposure = re.search(r"(\d+\.\d)", words)
    assert exposure is not None, words
    assert float(exposure[1]) < 3.0
    assert machine.run("systemd-analyze", "verify", f"/etc/systemd/system/{unit}.service") == ""


def test_the_journal_has_the_priority_of_each_line(machine: Machine) -> None:
    drop_in = "/run/systemd/system/s2connect.service.d/log.conf"
    machine.run("mkdir", "-p", "/run/systemd/system/s2connect.service.d")
    machine.write(drop_in, "[Service]\nEnvironment=S2CONNECT_LOG_LEVEL=info,service=debug\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "s2connect")
    machine.run("rm", drop_in)
    machine.run("systemctl", "daemon-reload")
    found = [line for line in journal(machine, "s2connect") if "s2connect.service" in str(line["MESSAGE"])]
    assert {line["PRIORITY"] for line in found if "the event loop is of" in line["MESSAGE"]} == {"7"}
    assert not [line for line in found if line["MESSAGE"].startswith(("<", "20"))]
    machine.run("systemctl", "stop", "s2connect")


def test_a_service_that_hangs_is_started_again(machine: Machine) -> None:
    machine.run("mkdir", "-p", "/run/systemd/system/s2connect.service.d")
    drop_in = "/run/systemd/system/s2connect.service.d/watchdog.conf"
    machine.write(drop_in, "[Service]\nWatchdogSec=3\nWatchdogSignal=SIGKILL\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "s2connect")
    pid = shown(machine, "s2connect", "MainPID")
    machine.run("kill", "-STOP", pid)
    machine.wait("journalctl", "--unit", "s2connect", "--no-pager", until="Watchdog timeout")
    machine.wait("systemctl", "show", "--value", "--property", "StatusText", "s2connect", until="1 node")
    assert shown(machine, "s2connect", "MainPID") != pid
    machine.run("rm", drop_in)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "stop", "s2connect")


def test_an_instance_on_a_database_is_started_again_and_has_time_to_drain(machine: Machine) -> None:
    machine.run("mkdir", "-p", "/run/systemd/system/s2connect.service.d")
    drop_in = "/run/systemd/system/s2connect.service.d/database.conf"
    machine.write(drop_in, (UNITS / "s2connect-database.conf").read_text())
    machine.write("/etc/s2connect/database.env", "PGPASSWORD=secret\n")
    machine.run("chmod", "600", "/etc/s2connect/database.env")
    machine.run("systemctl", "daemon-reload")
    try:
        assert machine.run("systemd-analyze", "verify", "/etc/systemd/system/s2connect.service") == ""
        wanted = {"RestartPreventExitStatus": "2", "TimeoutStopUSec": "3min", "LimitNOFILE": "65536"}
        assert {name: shown(machine, "s2connect", name) for name in wanted} == wanted
        machine.run("systemctl", "start", "s2connect")
        pid = shown(machine, "s2connect", "MainPID")
        assert "PGPASSWORD=secret" in machine.run("cat", f"/proc/{pid}/environ").split("\0")
        machine.run("systemctl", "stop", "s2connect")
    finally:
        machine.run("rm", drop_in)
        machine.run("systemctl", "daemon-reload")


def test_a_home_that_is_no_home_is_not_tried_again(machine: Machine) -> None:
    machine.run("systemctl", "reset-failed")
    machine.write("/etc/s2connect/bridge.toml", "home = 7\n")
    machine.run("systemctl", "start", "s2connect-bridge", check=False)
    assert shown(machine, "s2connect-bridge", "ActiveState") == "failed"
    assert shown(machine, "s2connect-bridge", "ExecMainStatus") == "2"
    assert shown(machine, "s2connect-bridge", "NRestarts") == "0"
