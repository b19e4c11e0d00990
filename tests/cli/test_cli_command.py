"""The commands of a person: flows between two homes, exit codes, sentences."""

from __future__ import annotations

import contextlib
import gc
import json
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from s2connect.cli import main
from s2connect.service.failures import ExitCode
from tests.command import Running, SilentServer, make_home, pair, run
from tests.waits import patience

Start = Callable[..., Running]
Capture = pytest.CaptureFixture[str]

NO_PAIRINGS: dict[str, object] = {"pairings": [], "total": 0, "before": None}


def result(capsys: Capture, *arguments: str, code: int = 0) -> dict[str, object]:
    """Run a command with ``--json`` in this process."""
    capsys.readouterr()
    assert main([*arguments, "--json"]) == code
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def said(capsys: Capture, *arguments: str, code: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    assert main([*arguments]) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.out, captured.err


def test_a_command_leaves_the_garbage_collector_as_it_was(rm: Path, tmp_path: Path, capsys: Capture) -> None:
    result(capsys, "pairings", "--home", str(rm))
    assert gc.isenabled()
    said(capsys, "pairings", "--home", str(tmp_path / "nothing"), code=ExitCode.STORAGE)
    assert gc.isenabled()


# init


def test_init_needs_the_role_only_and_names_the_next_step(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S2CONNECT_HOME", str(tmp_path / "home"))
    out, err = said(capsys, "init", "--role", "RM", "--vault", "files")
    assert out.splitlines()[-1] == "Next: s2connect serve"
    assert err == ""
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700
    assert json.loads((tmp_path / "home" / "config.json").read_text())["port"] == 8443


def test_init_again_changes_nothing_and_says_what_is_there(rm: Path, capsys: Capture) -> None:
    before = (rm / "config.json").read_bytes()
    _, err = said(capsys, "init", "--role", "cem", "--home", str(rm), code=2)
    assert "set up already" in err
    assert "RM" in err
    assert (rm / "config.json").read_bytes() == before


def test_init_refuses_settings_that_cannot_be(tmp_path: Path, capsys: Capture) -> None:
    home = str(tmp_path / "home")
    assert "role" in said(capsys, "init", "--home", home, code=2)[1]
    assert "host" in said(capsys, "init", "--home", home, "--role", "rm", "--host", "a b", code=2)[1]
    assert "brand" in said(capsys, "init", "--home", home, "--role", "rm", "--brand", "", code=2)[1]
    assert "private_key" in said(capsys, "init", "--home", home, "--role", "rm", "--certificate", "x", code=2)[1]
    assert not (tmp_path / "home").exists()


# two homes


@pytest.mark.rule("ROLE-08")
def test_a_person_pairs_looks_and_unpairs(cem: Path, rm: Path, start: Start, capsys: Capture) -> None:
    service = start(cem, as_json=False)
    url = service.line(lambda line: "Pairing URL" in line).split()[-1]
    first = service.line(lambda line: "Pairing code" in line).split()[2]
    out, err = said(capsys, "code", "--home", str(cem))
    code = out.strip()
    assert code != first
    assert url in err
    # An address as people type it, and the code from standard input.
    done = run("pair", url.removeprefix("https://").rstrip("/"), "--home", str(rm), stdin=f"{code}\n")
    assert done.returncode == 0, done.stderr
    assert "Paired with House manager (s2connect, energy manager)." in done.stdout
    assert "s2connect serve" in done.stdout.splitlines()[-1]
    assert code not in done.stdout + done.stderr
    service.line(lambda line: "Paired with Battery (s2connect, device)" in line)
    battery = start(rm, as_json=False)
    service.line(lambda line: "Session with Battery opened" in line)
    battery.line(lambda line: "Session with House manager opened" in line)
    out, _ = said(capsys, "pairings", "--home", str(cem))
    assert "Battery" in out
    assert "connected" in out
    status = result(capsys, "status", "--home", str(rm))
    assert status["service"] == {"running": True, "pid": battery.process.pid}
    assert len(status["sessions"]) == 1  # type: ignore[arg-type]
    peer = status["pairings"][0]["peer"]["id"]  # type: ignore[index]
    out, _ = said(capsys, "unpair", peer[:6], "--home", str(rm), "--yes")
    assert out == "The pairing with House manager has ended.\n"
    service.line(lambda line: "Battery has ended the pairing." in line)
    battery.line(lambda line: "The pairing with House manager has ended, as asked here." in line)
    assert result(capsys, "pairings", "--home", str(cem)) == NO_PAIRINGS
    for one in (service, battery):
        one.process.send_signal(signal.SIGINT)
        assert one.ended() == 130
    assert "is no longer paired with" in service.errors, "that the other side has ended it is worth a line in the log"
    assert (len(service.errors.splitlines()), battery.errors) == (1, "")


def test_a_wrong_code_is_a_sentence_on_both_sides(cem: Path, rm: Path, start: Start, capsys: Capture) -> None:
    service = start(cem, as_json=False)
    url = service.line(lambda line: "Pairing URL" in line).split()[-1]
    out, err = said(capsys, "pair", url, "ABCDEFGH", "--home", str(rm), code=5)
    assert out == ""
    assert "Read the code on the other device again" in err
    service.line(lambda line: "tried to pair" in line)
    assert result(capsys, "pair", url, "ABCDEFGH", "--home", str(rm), code=5)["error"]["kind"] == "wrong_pairing_code"  # type: ignore[index]
    for _ in range(3):
        said(capsys, "pair", url, "ABCDEFGH", "--home", str(rm), code=5)
    service.line(lambda line: "its code still counts" in line)


def test_pairing_without_a_service_and_unpairing_a_peer_that_is_gone(
    cem: Path, rm: Path, start: Start, capsys: Capture
) -> None:
    service = start(rm)
    url, code = service.ready()
    assert result(capsys, "pair", url, code, "--home", str(cem))["communication_role"] == "server"
    service.end_input()
    assert service.ended() == 0
    _, err = said(capsys, "unpair", "House manager", "--home", str(rm), "--yes", code=3)
    assert err
    assert "House manager" in said(capsys, "unpair", "house manager", "--home", str(rm), "--yes", "--forget")[0]
    assert "No pairings" in said(capsys, "pairings", "--home", str(rm))[0]
    assert "no pairing with nobody" in said(capsys, "unpair", "nobody", "--home", str(rm), code=6)[1]


def test_a_pairing_is_not_ended_where_nobody_can_be_asked(cem: Path, rm: Path, start: Start, capsys: Capture) -> None:
    url, code = start(cem).ready()
    result(capsys, "pair", url, code, "--home", str(rm))
    done = run("unpair", "House manager", "--home", str(rm), stdin="y\n")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--yes" in done.stderr
    assert result(capsys, "unpair", "House manager", "--home", str(rm), code=2)["error"]["kind"] == "usage"  # type: ignore[index]
    assert len(result(capsys, "pairings", "--home", str(rm))["pairings"]) == 1  # type: ignore[arg-type]


def test_an_unreachable_peer_and_a_home_that_is_not_set_up(rm: Path, tmp_path: Path, capsys: Capture) -> None:
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{taken.getsockname()[1]}/pairing"
        assert "Check that the other device is on" in said(capsys, "pair", url, "ABCDEF", "--home", str(rm), code=3)[1]
    assert "s2connect setup" in said(capsys, "status", "--home", str(tmp_path / "none"), code=7)[1]
    assert "s2connect serve" in said(capsys, "code", "--home", str(rm), code=8)[1]
    assert "plain http" in said(capsys, "pair", "http://x/", "ABCDEF", "--home", str(rm), code=2)[1]
    assert said(capsys, "pair", "https://x/", "?", "--home", str(rm), code=2)[1]


def test_a_static_code_needs_no_service_and_comes_from_standard_input(rm: Path, cem: Path, start: Start) -> None:
    done = run("code", "--static", "--token-stdin", "--home", str(rm), stdin="STICKER77\n")
    assert (done.returncode, done.stdout) == (0, "STICKER77\n")
    service = start(rm, "--no-code")
    url = service.event("ready")["pairing_url"]
    done = run("pair", url, "-", "--home", str(cem), "--json", stdin="STICKER77")
    assert done.returncode == 0, done.stdout
    assert [e["event"] for e in service.events] == ["ready"]
    assert run("code", "--token-stdin", "--home", str(rm), stdin="").returncode == 2


def test_the_code_of_a_sticker_is_not_replaced_where_nobody_can_be_asked(rm: Path, capsys: Capture) -> None:
    home = ("--home", str(rm))
    first = result(capsys, "code", "--static", *home)["code"]
    assert "--yes" in said(capsys, "code", "--static", *home, code=2)[1]
    assert "sticker" in result(capsys, "code", "--static", *home, code=2)["error"]["what"]  # type: ignore[index]
    assert result(capsys, "code", "--static", "--yes", *home)["code"] != first


def test_ctrl_c_in_pair(rm: Path, silent_server: SilentServer) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "s2connect", "pair", silent_server.url, "ABCDEFGH", "--home", str(rm)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert process.stderr.readline().startswith("Pairing with")
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=patience(10))
    assert (process.returncode, out, err) == (130, "", "Error: Stopped.\n")
    assert time.monotonic() - began < patience(5)


def test_ctrl_c_in_serve_while_somebody_pairs_through_it(rm: Path, start: Start, silent_server: SilentServer) -> None:
    service = start(rm)
    service.ready()
    process = subprocess.Popen(
        [sys.executable, "-m", "s2connect", "pair", silent_server.url, "ABCDEFGH", "--home", str(rm), "--json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    silent_server.wait_for_a_client()
    service.process.send_signal(signal.SIGINT)
    assert service.ended() == 130
    out, _ = process.communicate(timeout=patience(10))
    assert (process.returncode, json.loads(out)["error"]["kind"]) == (8, "service_not_running")
    assert service.errors == ""


# certificates


@pytest.mark.rule("TRUST-09", "ROLE-08")
def test_a_new_ca_ends_every_pairing_and_asks_before(cem: Path, rm: Path, start: Start, capsys: Capture) -> None:
    service = start(cem)
    url, code = service.ready()
    said(capsys, "pair", url, code, "--home", str(rm))
    service.event("paired")
    before = result(capsys, "certificate", "--home", str(rm))
    _, err = said(capsys, "certificate", "--new-ca", "--home", str(rm), code=2)
    assert "every pairing void" in err
    assert result(capsys, "certificate", "--home", str(rm)) == before
    assert said(capsys, "certificate", "--new-ca", "--yes", "--home", str(cem), code=8)
    after = result(capsys, "certificate", "--new-ca", "--yes", "--home", str(rm))
    assert after["pairings_ended"] == 1
    assert after["ca"]["fingerprint_sha256"] != before["ca"]["fingerprint_sha256"]  # type: ignore[index]
    assert service.event("unpaired")["by"] == "peer"
    assert result(capsys, "pairings", "--home", str(rm)) == NO_PAIRINGS
    out, _ = said(capsys, "certificate", "--home", str(rm))
    assert "SHA-256" in out


def test_a_lost_ca_is_made_anew(rm: Path, capsys: Capture) -> None:
    (rm / "ca.pem").unlink()
    assert "--new-ca" in said(capsys, "status", "--home", str(rm), code=7)[1]
    said(capsys, "certificate", "--new-ca", "--yes", "--home", str(rm))
    said(capsys, "status", "--home", str(rm))


# what people see


def test_hostile_names_reach_no_terminal(
    tmp_path: Path, cem: Path, start: Start, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    evil = "\x1b]0;owned\x07\x1b[31m[red]Bob[/red]\u202e\u0085:warning:"
    rm = make_home(tmp_path / "evil", "rm", "--name", evil, "--brand", "\x1b[2J")
    service = start(cem, as_json=False)
    url = service.line(lambda line: "Pairing URL" in line).split()[-1]
    code = service.line(lambda line: "Pairing code" in line).split()[2]
    said(capsys, "pair", url, code, "--home", str(rm))
    shown = [service.line(lambda line: "Paired with" in line)]
    shown += [said(capsys, command, "--home", str(cem))[0] for command in ("pairings", "status")]
    shown.append(said(capsys, "unpair", "--yes", "--home", str(cem), json_peer(capsys, cem))[0])
    shown.append(service.line(lambda line: "pairing with" in line))
    for text in shown:
        flat = "".join(text.split())
        assert "[red]Bob[/red]" in flat
        assert not set(text) & {"\x1b", "\x07", "\u202e", "\u0085"}
        assert ":warning:" in flat


def json_peer(capsys: Capture, home: Path) -> str:
    pairings: list[dict[str, dict[str, str]]] = result(capsys, "pairings", "--home", str(home))["pairings"]  # type: ignore[assignment]
    return pairings[0]["peer"]["id"]


def test_json_mode_says_wrong_usage_as_json(capsys: Capture) -> None:
    assert result(capsys, "pair", code=2)["error"]["kind"] == "usage"  # type: ignore[index]
    assert result(capsys, "nonsense", code=2)["error"]["kind"] == "usage"  # type: ignore[index]


def test_help_tells_the_exit_codes(capsys: Capture) -> None:
    out, _ = said(capsys, "--help")
    for code in ExitCode:
        assert f"{int(code)} " in out
    documented = (Path(__file__).parents[2] / "docs" / "command.md").read_text(encoding="utf-8")
    for code in ExitCode:
        assert f"| {int(code)} |" in documented


def test_an_unexpected_error_is_a_sentence(rm: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(home: object, config: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr("s2connect.endpoint.certificate.read_certificates", broken)
    _, err = said(capsys, "certificate", "--home", str(rm), code=1)
    assert "ZeroDivisionError" in err
    assert "--verbose" in err
    assert "secret" not in err
    capsys.readouterr()
    assert main(["certificate", "--home", str(rm), "--verbose"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_without_the_extra_it_says_what_to_install(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    assert "pip install 's2connect[cli]'" in said(capsys, "status", code=1)[1]


def test_nobody_reads_the_result(rm: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "s2connect", "status", "--home", str(rm)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(patience(20)) == 0
    assert process.stderr.read() == b""
    process.stderr.close()


def test_pairings_that_are_lost_are_named_and_begin_anew(rm: Path, capsys: Capture) -> None:
    (rm / "secrets" / "was-paired").write_bytes(b"yes")
    (rm / "secrets" / "was-paired").chmod(0o600)
    (rm / "state.sqlite").unlink(missing_ok=True)
    _, err = said(capsys, "pairings", "--home", str(rm), code=7)
    assert "although this endpoint had pairings" in err
    assert f"s2connect unpair --home {rm} --all" in err
    assert said(capsys, "unpair", "--home", str(rm), code=2)[1]
    assert result(capsys, "unpair", "--all", "--yes", "--home", str(rm)) == {"pairings_ended": 0}
    assert result(capsys, "pairings", "--home", str(rm)) == NO_PAIRINGS


@pytest.mark.parametrize("option", ["--loop", "--check"])
def test_a_wrong_choice_is_named_with_those_there_are(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", option, "foo"]) == 2
    said = capsys.readouterr().err
    assert f"Invalid value for '{option}': 'foo' is not one of '" in said
    assert "Value error" not in said


def test_the_directory_of_a_bridge_is_not_served_and_no_advice_says_so(rm: Path, capsys: Capture) -> None:
    (rm / "bridge.json").write_text("{}")
    where = ["--home", str(rm)]
    _, err = said(capsys, "serve", *where, code=2)
    assert "is the state directory of a bridge" in err
    assert "s2connect bridge run FILE" in err
    out, _ = said(capsys, "status", *where)
    assert "not running; start it: s2connect bridge run FILE" in out
    _, err = said(capsys, "code", *where, code=8)
    assert "s2connect bridge run FILE" in err
    said(capsys, "config", "set", "port", "9443", *where, code=2)
    assert "s2connect serve" not in out + err


def test_the_page_on_commands_names_every_command() -> None:
    import typer.main

    from s2connect.cli.app import app

    text = (Path(__file__).parents[2] / "docs" / "command.md").read_text("utf-8")
    missing = [name for name in typer.main.get_command(app).commands if f"`{name}" not in text]  # type: ignore[attr-defined]
    assert not missing


def test_since_is_that_of_the_connection_and_not_of_the_pairing(
    cem: Path, rm: Path, start: Start, capsys: Capture
) -> None:
    def entry() -> dict[str, Any]:
        found: Any = result(capsys, "pairings", "--home", str(cem))["pairings"]
        only: dict[str, Any] = found[0]
        return only

    manager, battery = start(cem), start(rm)
    pair(manager, battery)
    assert entry()["connected"] is True
    connected = entry()["state_since"]
    assert connected >= entry()["since"]
    battery.end_input()
    assert battery.ended() == 0
    manager.event("session_closed")
    assert entry()["connected"] is False
    assert entry()["state_since"] > connected
    text = " ".join(said(capsys, "pairings", "--home", str(cem))[0].split())
    assert "not connected since" in text
    assert "; paired 20" in text
