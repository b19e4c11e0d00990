"""``s2connect setup``: from nothing to the first message, at terminals, in pipes, again, and interrupted."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from s2connect.cli import main
from s2connect.cli.guided_setup import Reporter
from s2connect.cli.terminal import Options
from tests.command import Running, make_home, run
from tests.terminal import COMMAND, Terminal, at_terminal

Start = Callable[..., Running]
LOCAL = ("--host", "localhost", "--bind", "127.0.0.1", "--port", "0", "--vault", "files")


def steps(*arguments: str, stdin: str = "", code: int = 0) -> dict[str, dict[str, Any]]:
    """Run ``setup --json`` to its end; return its lines by event."""
    done = run("setup", *arguments, "--json", stdin=stdin, timeout=90)
    assert done.returncode == code, done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line.get("event", "error"): line for line in lines}


def pairings(home: Path, capsys: pytest.CaptureFixture[str]) -> list[Any]:
    capsys.readouterr()
    assert main(["pairings", "--home", str(home), "--json"]) == 0
    found: list[Any] = json.loads(capsys.readouterr().out)["pairings"]
    return found


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--role", "rm"), "Nobody can be asked here how to pair"),
        (("--trial",), "a device or an energy manager?"),
        (("--role", "rm", "--trial", "--show-code"), "One way to pair at a time"),
        (("--role", "rm", "--url", "7K4M 9QRT 2XYZ"), "looks like a pairing code"),
        (("--role", "rm", "--trial", "--host", "a b"), "host"),
    ],
)
def test_without_a_terminal_what_is_missing_or_wrong_is_said_and_nothing_is_made(
    tmp_path: Path, arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["setup", "--home", str(tmp_path / "home"), *arguments]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "home").exists()


@pytest.mark.long
@pytest.mark.parametrize("role", ["rm", "cem"])
def test_a_trial_shows_the_first_message_and_leaves_no_pairing(
    tmp_path: Path, role: str, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    done = steps("--role", role, "--trial", "--home", str(home), *LOCAL)
    assert done["first_message"]["type"] == "ResourceManagerDetails"
    assert done["first_message"]["direction"] == ("sent" if role == "rm" else "received")
    assert (done["done"]["trial"], done["done"]["service_running"]) == (True, False)
    assert pairings(home, capsys) == []


@pytest.mark.long
def test_a_fleet_tool_pairs_with_a_running_service_by_pipes_and_may_do_so_again(
    cem: Path, start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, code = start(cem).ready()
    home = tmp_path / "rm"
    asked = ["--role", "rm", "--name", "Battery", "--home", str(home), "--url", url, "--simulate", "battery"]
    done = steps(*asked, *LOCAL, stdin=f"{code}\n")
    assert done["set_up"]["made"] is True
    assert done["paired"]["pairing"]["peer"]["user_defined_name"] == "House manager"
    assert done["first_message"] | {"time": ""} == {
        "event": "first_message",
        "time": "",
        "direction": "sent",
        "type": "ResourceManagerDetails",
    }
    assert done["done"]["next"] == f"s2connect simulate rm battery --home {home}"
    again = steps(*asked)
    assert (again["set_up"]["made"], again["done"]["first_message"]["type"]) == (False, "ResourceManagerDetails")
    assert len(pairings(home, capsys)) == 1
    wrong = steps(*asked[:2], "--home", str(home), "--name", "Charger", "--trial", code=2)
    assert wrong["error"]["error"]["hint"] == "To change it: s2connect config set name Charger"


@pytest.mark.long
def test_through_a_running_service_the_program_behind_it_is_awaited(cem: Path, rm: Path, start: Start) -> None:
    """Neither ``serve`` sends anything by itself; then one program does."""
    manager, battery = start(cem), start(rm)
    _, code = manager.ready()
    battery.ready()
    url = manager.event("ready")["pairing_url"] if not manager.events else manager.events[0]["pairing_url"]
    silent = steps("--home", str(rm), "--url", url, "--wait", "2", stdin=f"{code}\n", code=3)
    assert "no message came" in silent["error"]["error"]["what"]
    assert "ResourceManagerDetails" in silent["error"]["error"]["hint"]
    message = {"message_type": "PowerMeasurement", "measurement_timestamp": "2026-01-01T00:00:00Z"}
    message["values"] = [{"commodity_quantity": "ELECTRIC.POWER.L1", "value": 1.0}]  # type: ignore[assignment]
    session = battery.event("session_opened")["session"]
    battery.command("send", session=session, message=message)
    details = {
        "message_type": "ResourceManagerDetails",
        "resource_id": "r1",
        "roles": [{"role": "ENERGY_STORAGE", "commodity": "ELECTRICITY"}],
        "instruction_processing_delay": 0,
        "available_control_types": ["NOT_CONTROLABLE"],
        "provides_forecast": False,
        "provides_power_measurement_types": ["ELECTRIC.POWER.L1"],
    }
    assert battery.command("send", session=session, message=details)["ok"]
    done = steps("--home", str(rm))
    assert done["service"]["running"] is True
    assert done["done"]["service_running"] is True
    assert done["first_message"]["direction"] == "sent"


@pytest.mark.long
@pytest.mark.timeout(180)
@pytest.mark.parametrize("columns", [60, 120])
def test_two_people_at_two_terminals_get_from_nothing_to_the_first_message_in_two_commands(
    tmp_path: Path, columns: int
) -> None:
    cem, rm = tmp_path / "cem", tmp_path / "rm"
    with (
        at_terminal(*COMMAND, "setup", "--home", str(cem), *LOCAL, columns=columns) as manager,
        at_terminal(*COMMAND, "setup", "--home", str(rm), *LOCAL, columns=columns) as battery,
    ):
        for screen, number, name in ((manager, "2", "House manager"), (battery, "1", "Battery")):
            screen.wait_for("Number: ")
            screen.type("a heat pump\n")
            screen.wait_for("Type 1 or 2.")
            screen.type(f"{number}\n")
            screen.wait_for("Its name")
            screen.type(f"{name}\n")
        battery.wait_for("(Enter: battery)")
        battery.type("\n")
        manager.wait_for("Enter looks again")
        manager.type("c\n")
        url, code = _shown(manager)
        battery.wait_for("Enter looks again")
        battery.type(f"{code}\n")  # at the wrong question
        battery.wait_for("looks like a pairing code")
        battery.wait_for("Enter looks again")
        battery.type(f"{url}\n")
        battery.wait_for("Pairing code: ")
        battery.type(f"{url}\n")  # likewise
        battery.wait_for("looks like a URL")
        battery.wait_for("Pairing code: ")
        battery.type(f"{code.lower()}\n")
        for screen in (battery, manager):
            screen.wait_for("First message: ResourceManagerDetails")
            screen.wait_for("It works.")
        assert (battery.ended(), manager.ended()) == (0, 0)
        # Commands are to be copied: never broken in two.
        assert f"  s2connect serve --home {cem}\r\n" in manager.text
        assert f"  s2connect simulate rm battery --home {rm}\r\n" in battery.text


def test_the_command_that_goes_on_names_the_home_where_it_would_keep_nothing_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S2CONNECT_HOME", str(tmp_path))
    report = Reporter(Options(home=None, as_json=False, verbose=False))
    assert report.command("serve") == "s2connect serve"
    assert report.command("simulate rm pv") == f"s2connect simulate rm pv --home {tmp_path}"


def test_a_wrong_url_at_a_terminal_is_asked_for_again(tmp_path: Path) -> None:
    arguments = ("--role", "rm", "--name", "Battery", "--simulate", "battery", *LOCAL)
    with at_terminal(*COMMAND, "setup", "--home", str(tmp_path / "rm"), *arguments) as screen:
        screen.wait_for("Enter looks again")
        screen.type("https://localhost:1/pairing/ ABCDEFGH\n")
        screen.wait_for("cannot be reached")
        screen.wait_for("Enter looks again")
        screen.type("localhost:1\n")
        assert "Pairing code" not in screen.wait_for("cannot be reached"), "nobody has to look for it in vain"


def _shown(screen: Terminal) -> tuple[str, str]:
    screen.wait_for("Waiting for the other side")
    url, code = (
        re.search(r"Pairing URL +(https://\S+)", screen.text),
        re.search(r"Pairing code  (.*?)  \(", screen.text),
    )
    assert url is not None
    assert code is not None
    return url[1], code[1]


@pytest.mark.long
def test_ctrl_c_leaves_nothing_half_and_setup_goes_on_later(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "home"
    begun = ("setup", "--home", str(home), "--role", "cem", "--name", "House", *LOCAL)
    with at_terminal(*COMMAND, *begun, "--show-code") as screen:
        screen.wait_for("Waiting for the other side")
        screen.type("\x03")
        assert screen.ended() == 130
        assert "Traceback" not in screen.text
        assert screen.text.endswith("\r\nError: Stopped.\r\n"), "on a line of its own"
    assert pairings(home, capsys) == []
    trial = Running(home, command=("setup", "--home", str(home), "--trial"))
    try:
        trial.event("paired")
        trial.process.send_signal(signal.SIGINT)
        assert trial.ended(30) == 130
    finally:
        trial.kill()
    assert pairings(home, capsys) == [], "the pairing of the trial has ended"
    assert steps("--home", str(home), "--trial")["set_up"]["made"] is False


@pytest.mark.long
def test_setup_leaves_the_code_of_a_sticker_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "home"
    assert main(["init", "--role", "rm", "--no-server", "--vault", "files", "--home", str(home)]) == 0
    expires = []
    for _ in range(2):
        setup = Running(home, command=("setup", "--home", str(home), "--show-code", "--simulate", "nothing", "--json"))
        try:
            expires.append(setup.event("pairing_code")["expires_at"])
        finally:
            setup.kill()
    assert expires[0] is None, "it gets one to print"
    assert expires[1] is not None, "and another one for this time only"


@pytest.mark.long
@pytest.mark.timeout(180)
def test_from_nothing_to_the_first_message_in_three_commands(tmp_path: Path, start: Start) -> None:
    """As on two machines: set up and serve one side, then set up the other."""
    cem, rm = tmp_path / "cem", tmp_path / "rm"
    make_home(cem, "cem")
    url, code = start(cem).ready()
    with at_terminal(
        *COMMAND, "setup", "--role", "rm", "--name", "B", "--simulate", "pv", "--url", url, "--home", str(rm), *LOCAL
    ) as screen:
        screen.wait_for("Pairing code: ")
        screen.type("ABCD EFGH JKMN\n")
        screen.wait_for("not the one of the other device")
        screen.wait_for("Pairing code: ")
        screen.type(f"{code}\n")
        screen.wait_for("First message: ResourceManagerDetails")
        assert screen.ended() == 0
