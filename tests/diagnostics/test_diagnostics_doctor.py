"""``doctor`` on real homes, services and peers."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from s2connect.certs.authority import CertificateAuthority
from s2connect.cli import main
from s2connect.cli.diagnostics_commands import MAX_TEXT, finding_object, findings_blocks
from s2connect.cli.terminal import PIPE, console, put
from s2connect.diagnostics import doctor, machine, peers
from s2connect.diagnostics import home as doctor_home
from s2connect.diagnostics.findings import Finding, Layer, Verdict
from s2connect.store.vault import open_vault
from tests.command import Running, make_home, pair
from tests.discovery.avahi_fixtures import Avahi, require_avahi
from tests.netns import Host, Lan, require_netns
from tests.waits import Deadline, patience

Start = Callable[..., Running]
Capture = pytest.CaptureFixture[str]

DAY = timedelta(days=1)


def test_names_from_the_network_are_cleaned_and_mean_nothing_to_the_terminal(capsys: Capture) -> None:
    hostile = Finding(
        Layer.PEER, "peer.1.name", Verdict.FAIL, "\x1b[2J[red]x\u202e" + "y" * 9000, "\x07", peer="[b]\n\x9b"
    )
    written = finding_object(hostile)
    assert "[red]x" in written["sentence"]
    assert not any(ord(c) < 32 or c in "\x7f\x9b\u202e" for text in written.values() for c in text)
    assert len(written["sentence"]) <= MAX_TEXT
    console().print(*findings_blocks([hostile], 80), sep="\n")
    shown = capsys.readouterr().out
    assert "[red]x" in shown
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(shown)


def test_a_command_of_a_cure_is_one_line_at_a_narrow_terminal() -> None:
    command = "Take it from them: chmod -R go-rwx '/var/lib/s2connect/a/long/path/of/a/state/directory'"
    prose = "See what the service says, and the line about multicast; until then others reach it by its address."
    found = [Finding(Layer.STORE, "a", Verdict.FAIL, "Too open. " * 9, cure) for cure in (command, prose)]
    out = Console(file=io.StringIO(), width=40, force_terminal=True, color_system=None)
    for block in findings_blocks(found, 40):
        put(out, block)
    shown = out.file.getvalue()  # type: ignore[attr-defined]
    assert f"       → {command}\n" in shown
    assert max(len(line) for line in shown.splitlines() if command not in line) <= 40


def test_findings_are_whole_lines_without_padding_in_a_pipe() -> None:
    found = [Finding(Layer.STORE, "a", Verdict.FAIL, "Too open. " * 20, "See what the service says. " * 9)]
    out = Console(file=io.StringIO(), width=80)
    for block in findings_blocks(found, PIPE):
        put(out, block)
    lines = out.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [line[:8] for line in lines] == ["[fail] T", "       →", "1 failed"]
    assert all(line == line.rstrip() for line in lines)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Listen for a short time only, which is enough on one machine."""
    monkeypatch.setattr(machine, "LISTEN_SECONDS", 0.1)
    monkeypatch.delenv("HTTPS_PROXY", raising=False)


def test_a_program_gets_findings_without_the_libraries_of_the_command(tmp_path: Path) -> None:
    program = """
import asyncio, pathlib, sys
from s2connect.diagnostics import Layer, examine, passes
findings = asyncio.run(examine(pathlib.Path(sys.argv[1]), deadline=10))
(set_up,) = (finding for finding in findings if finding.name == "set_up")
assert set_up.layer is Layer.STORE and "s2connect setup" in set_up.cure
assert not {"typer", "rich"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "none")], check=True)


def checks_of(home: Path, capsys: Capture) -> dict[str, dict[str, str]]:
    """Run it with ``--json``; the checks by name. Its shape and its exit code are looked at every time."""
    capsys.readouterr()
    code = main(["doctor", "--home", str(home), "--json"])
    captured = capsys.readouterr()
    assert captured.err == ""
    found: dict[str, Any] = json.loads(captured.out)
    assert set(found) == {"checks", "ok"}
    for check in found["checks"]:
        assert list(check) == ["name", "layer", "result", "sentence", "hint"]
        assert check["layer"] in set(Layer)
        assert check["result"] in set(Verdict)
        assert check["sentence"].endswith((".", "…"))
        assert bool(check["hint"]) == (check["result"] != "ok"), check
    names = [check["name"] for check in found["checks"]]
    assert len(names) == len(set(names))
    assert found["ok"] == all(check["result"] != "fail" for check in found["checks"])
    assert code == (0 if found["ok"] else 1)
    return {check["name"]: check for check in found["checks"]}


def not_ok(checks: dict[str, dict[str, str]]) -> dict[str, str]:
    """Return the findings that are not ok, but for those about the network of this machine."""
    return {
        k: v["result"] for k, v in checks.items() if v["result"] != "ok" and v["layer"] not in ("network", "discovery")
    }


def contents(home: Path) -> dict[str, tuple[bytes, int, int]]:
    return {
        str(path): (path.read_bytes() if path.is_file() else b"", path.lstat().st_mode, path.lstat().st_mtime_ns)
        for path in home.rglob("*")
    }


def secrets_of(home: Path) -> list[str]:
    """Return what must not be printed: every line of every secret, and every token in it."""
    found: list[str] = []
    for path in (home / "secrets").iterdir():
        text = path.read_text("ascii")
        found += json.loads(text) if text.startswith("[") else text.splitlines()[1:-1]
    assert found
    return found


@pytest.fixture
def pairs(cem: Path, rm: Path, start: Start) -> tuple[Running, Running]:
    """An energy manager and a device that are paired and connected."""
    manager, device = start(cem), start(rm)
    pair(manager, device)
    return manager, device


def peer_steps(checks: dict[str, dict[str, str]]) -> dict[str, str]:
    return {name.rpartition(".")[2]: check["result"] for name, check in checks.items() if check["layer"] == "peer"}


def test_a_machine_that_is_not_set_up_is_examined_and_nothing_is_made(tmp_path: Path, capsys: Capture) -> None:
    checks = checks_of(tmp_path / "none", capsys)
    assert checks["set_up"]["result"] == "warn"
    assert "s2connect setup" in checks["set_up"]["hint"]
    assert {"interfaces", "multicast", "container", "proxy"} <= set(checks)
    assert not (tmp_path / "none").exists()
    (tmp_path / "empty").mkdir(mode=0o700)
    assert checks_of(tmp_path / "empty", capsys)["set_up"]["result"] == "warn"


def test_a_healthy_home_passes_and_is_left_as_it_was(rm: Path, capsys: Capture) -> None:
    before = contents(rm)
    checks = checks_of(rm, capsys)
    assert not_ok(checks) == {}
    assert "is free" in checks["port"]["sentence"]
    assert "not running" in checks["service"]["sentence"]
    assert contents(rm) == before
    secrets = secrets_of(rm)
    main(["doctor", "--home", str(rm), "--verbose"])
    captured = capsys.readouterr()
    assert "[ok]" in captured.out
    assert not any(secret in captured.out + captured.err for secret in secrets)


def test_two_connected_services_pass_on_both_sides_without_a_secret(
    cem: Path, rm: Path, pairs: tuple[Running, Running], capsys: Capture
) -> None:
    for home in (cem, rm):
        checks = checks_of(home, capsys)
        assert not_ok(checks) == {}
        assert "The service answers at 127.0.0.1, within" in checks["reachable"]["sentence"]
        assert "holds 1 pairing." in checks["database"]["sentence"]
        steps = peer_steps(checks)
        assert steps in (
            {"session": "ok"},
            dict.fromkeys(("name", "tcp", "tls", "pin", "version", "session"), "ok"),
        )
        main(["doctor", "--home", str(home), "--verbose"])
        captured = capsys.readouterr()
        assert not any(secret in captured.out + captured.err for secret in secrets_of(home))
        assert "Traceback" not in captured.err


def test_a_peer_that_is_gone_or_another_is_found_at_the_step_that_fails(
    cem: Path, rm: Path, pairs: tuple[Running, Running], capsys: Capture, tmp_path: Path
) -> None:
    # Whoever of the two is communication client looks at the other.
    manager, device = pairs
    (home, own), (other, far) = ((rm, device), (cem, manager))
    if "tcp" not in peer_steps(checks_of(home, capsys)):
        (home, own), (other, far) = (other, far), (home, own)
    far.kill()
    steps = peer_steps(checks_of(home, capsys))
    assert steps == {"name": "ok", "tcp": "fail"}
    own.kill()  # no good-bye: its database has a log of writes, its socket and lock are still there
    before = contents(home)
    checks = checks_of(home, capsys)
    assert peer_steps(checks) == {"name": "ok", "tcp": "fail"}
    assert "not running" in checks["service"]["sentence"]
    assert "holds 1 pairing." in checks["database"]["sentence"]
    assert contents(home) == before
    # Another endpoint at the same address, with a CA of its own.
    port = str(json.loads((other / "config.json").read_text())["port"])
    impostor = make_home(tmp_path / "impostor", "cem", "--port", port)
    service = Running(impostor)
    try:
        service.ready()
        checks = checks_of(home, capsys)
        assert peer_steps(checks) == {"name": "ok", "tcp": "ok", "tls": "ok", "pin": "fail"}
        pin = next(check for name, check in checks.items() if name.endswith(".pin"))
        assert "another CA than the one it was paired with" in pin["sentence"]
        assert "pair the two again" in pin["hint"]
    finally:
        service.kill()


def test_a_peer_that_says_nothing_costs_bounded_time_and_ctrl_c_ends_at_once(
    cem: Path, rm: Path, pairs: tuple[Running, Running], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    homes = [(rm, cem), (cem, rm)]
    home, other = next(both for both in homes if "tcp" in peer_steps(checks_of(both[0], capsys)))
    for one in pairs:
        one.kill()
    port = json.loads((other / "config.json").read_text())["port"]
    with socket.create_server(("127.0.0.1", port)) as silent:
        silent.settimeout(patience(10))
        doing = subprocess.Popen(
            [sys.executable, "-m", "s2connect", "doctor", "--home", str(home)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with contextlib.closing(silent.accept()[0]), contextlib.closing(silent.accept()[0]):  # TCP, TLS
            doing.send_signal(signal.SIGINT)
            begun = time.monotonic()
            out, err = doing.communicate(timeout=patience(10))
            assert time.monotonic() - begun < patience(2)
        assert (doing.returncode, out, err) == (130, "", "Error: Stopped.\n")
        monkeypatch.setattr(peers, "ASK_TIMEOUT", 0.2)
        assert peer_steps(checks_of(home, capsys)) == {"name": "ok", "tcp": "ok", "tls": "fail"}
        monkeypatch.setattr(peers, "ASK_TIMEOUT", 30)
        found = asyncio.run(doctor.examine(home, deadline=1.0))
        late = [finding for finding in found if "no time left" in finding.cause]
        assert [finding.name.rpartition(".")[2] for finding in late] == ["tls"]
        assert late[0].verdict == "warn"
    early = asyncio.run(doctor.examine(home, deadline=0.0))
    assert {"home", "multicast"} <= {finding.name for finding in early if "no time left" in finding.cause}


@pytest.mark.rule("SEC-02")
def test_wrong_permissions_are_found_with_the_command_that_mends_them(rm: Path, capsys: Capture) -> None:
    (rm / "secrets" / "ca-key").chmod(0o644)
    checks = checks_of(rm, capsys)
    assert not_ok(checks) == {"permissions": "fail", "vault": "fail"}
    assert "ca-key (mode 644)" in checks["permissions"]["sentence"]
    subprocess.run(checks["permissions"]["hint"].partition(": ")[2], shell=True, check=True)
    assert not_ok(checks_of(rm, capsys)) == {}
    rm.chmod(0o755)
    assert not_ok(checks_of(rm, capsys)) == {"permissions": "fail", "endpoint": "warn"}


def test_a_port_that_another_program_has_is_a_fault(rm: Path, capsys: Capture) -> None:
    port = json.loads((rm / "config.json").read_text())["port"]
    with socket.create_server(("127.0.0.1", port)):
        assert not_ok(checks := checks_of(rm, capsys)) == {"port": "fail"}
    assert f"Another program has TCP port {port} of 127.0.0.1." in checks["port"]["sentence"]


def write_identity(home: Path, at: datetime) -> None:
    """Give a home a CA and a leaf that were made at a point in time."""
    ca = CertificateAuthority.create("Test", now=at)
    leaf = ca.issue(["127.0.0.1", "localhost", "::1"], now=at)
    for name, content in {
        "ca.pem": ca.to_pem(),
        "leaf.pem": leaf.chain_pem,
        "secrets/ca-key": ca.key_pem(),
        "secrets/leaf-key": leaf.key_pem,
    }.items():
        (home / name).touch(mode=0o600)
        (home / name).write_bytes(content)


def test_an_expired_certificate_and_one_from_the_future_are_faults(rm: Path, capsys: Capture) -> None:
    now = datetime.now(UTC)
    write_identity(rm, now - 400 * DAY)
    checks = checks_of(rm, capsys)
    assert not_ok(checks) == {"leaf": "fail"}
    assert "has expired on" in checks["leaf"]["sentence"]
    assert "start the service, which makes a new one" in checks["leaf"]["hint"]
    write_identity(rm, now + 400 * DAY)
    assert not_ok(checks_of(rm, capsys)) == {"leaf": "fail"}
    write_identity(rm, now)
    checks = checks_of(rm, capsys)
    assert not_ok(checks) == {}
    assert "made out to 127.0.0.1 and valid for 17" in checks["leaf"]["sentence"]


def test_what_does_not_belong_together_is_named(rm: Path, tmp_path: Path, capsys: Capture) -> None:
    write_identity(rm, datetime.now(UTC))
    leaf = (rm / "leaf.pem").read_bytes()
    write_identity(rm, datetime.now(UTC))
    (rm / "leaf.pem").write_bytes(leaf)
    assert not_ok(checks_of(rm, capsys)) == {"leaf": "fail"}
    (rm / "leaf.pem").unlink()
    (rm / "secrets" / "ca-key").write_bytes((rm / "secrets" / "leaf-key").read_bytes())
    checks = checks_of(rm, capsys)
    assert not_ok(checks) == {"vault": "fail"}
    assert "does not belong to the certificate of the CA" in checks["vault"]["sentence"]
    (rm / "secrets" / "ca-key").unlink()
    assert "--new-ca" in checks_of(rm, capsys)["vault"]["hint"]
    (rm / "ca.pem").write_text("nonsense")
    assert checks_of(rm, capsys)["ca"]["result"] == "fail"


def test_damaged_settings_and_databases_are_named_by_their_own_path(rm: Path, capsys: Capture) -> None:
    (rm / "state.sqlite").touch(mode=0o600)
    (rm / "state.sqlite").write_bytes(b"not a database" * 100)
    checks = checks_of(rm, capsys)
    assert not_ok(checks) == {"database": "fail"}
    assert f"{rm}/state.sqlite" in checks["database"]["sentence"]
    assert "doctor-" not in checks["database"]["sentence"]
    (rm / "config.json").write_text('{"port": 70000}')
    checks = checks_of(rm, capsys)
    assert not_ok(checks) == {"settings": "fail", "endpoint": "warn"}
    assert "port" in checks["settings"]["sentence"]


def test_a_service_that_hangs_is_a_fault(
    rm: Path, start: Start, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_home, "CONTROL_TIMEOUT", 0.3)
    service = start(rm)
    service.ready()
    service.process.send_signal(signal.SIGSTOP)
    checks = checks_of(rm, capsys)
    assert not_ok(checks) == {"service": "fail"}
    assert "does not answer to commands" in checks["service"]["sentence"]


def test_the_certificate_of_an_operator_is_read_from_its_files(tmp_path: Path, capsys: Capture) -> None:
    now = datetime.now(UTC)
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"

    def write(at: datetime, *names: str) -> None:
        made = CertificateAuthority.create("Company", now=at).issue(names, now=at)
        chain.write_bytes(made.chain_pem)
        key.write_bytes(made.key_pem)

    write(now, "127.0.0.1")
    files = ("--certificate", str(chain), "--private-key", str(key))
    home = make_home(tmp_path / "wan", "cem", "--deployment", "wan", *files)
    assert not_ok(checks_of(home, capsys)) == {}
    write(now - 150 * DAY, "127.0.0.1")
    assert "Renew it" in checks_of(home, capsys)["leaf"]["hint"]
    write(now - 400 * DAY, "127.0.0.1")
    assert not_ok(checks_of(home, capsys)) == {"leaf": "fail"}
    write(now, "elsewhere.example")
    checks = checks_of(home, capsys)
    assert not_ok(checks) == {"leaf": "fail"}
    assert "not for 127.0.0.1" in checks["leaf"]["sentence"]
    key.unlink()
    assert "key.pem" in checks_of(home, capsys)["leaf"]["sentence"]


def test_an_endpoint_in_the_wan_is_asked_by_its_file_and_its_peer_by_the_trust_of_the_system(
    tmp_path: Path, start: Start, capsys: Capture
) -> None:
    now = datetime.now(UTC)
    company = CertificateAuthority.create("Company", now=now)
    chain, key, anchors = (tmp_path / name for name in ("chain.pem", "key.pem", "anchors.pem"))

    def write() -> None:
        made = company.issue(["localhost"], now=now)
        chain.write_bytes(made.chain_pem)
        key.write_bytes(made.key_pem)

    write()
    anchors.write_bytes(company.to_pem())
    files = ("--certificate", str(chain), "--private-key", str(key))
    wan = make_home(tmp_path / "wan", "cem", "--deployment", "wan", "--host", "localhost", *files)
    lan = make_home(tmp_path / "lan", "rm", "--trust-anchors", str(anchors))
    manager, device = start(wan), start(lan)
    pair(manager, device)
    assert not_ok(checks := checks_of(wan, capsys)) == {"trust": "warn"}
    assert "trust anchor" in checks["trust"]["hint"]
    assert peer_steps(checks) == {"session": "ok"}
    checks = checks_of(lan, capsys)
    assert peer_steps(checks) == dict.fromkeys(("name", "tcp", "tls", "pin", "version", "session"), "ok")
    assert any("a CA that this system trusts" in check["sentence"] for check in checks.values())
    anchors.write_bytes(CertificateAuthority.create("Another", now=now).to_pem())
    assert peer_steps(checks_of(lan, capsys)) == {"name": "ok", "tcp": "ok", "pin": "fail"}
    write()  # renewed, and the service does not know yet
    checks = checks_of(wan, capsys)
    assert checks["reachable"]["result"] == "fail"
    assert "another certificate than the file holds" in checks["reachable"]["sentence"]
    assert checks["reachable"]["hint"] == "Restart the service."


def test_a_keyring_is_read_and_not_written(rm: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    keyring = pytest.importorskip("keyring")
    from tests.store.keyring_backend import DictionaryKeyring

    backend = DictionaryKeyring()
    monkeypatch.setattr(keyring, "get_keyring", lambda: backend)
    settings = json.loads((rm / "config.json").read_text())
    (rm / "config.json").write_text(json.dumps({**settings, "vault": "keyring"}))
    assert not_ok(checks_of(rm, capsys)) == {"vault": "fail"}  # the key of the CA is not in it
    vault, kind = open_vault("keyring", rm / "secrets")
    assert kind == "keyring"
    vault.put("ca-key", (rm / "secrets" / "ca-key").read_bytes())
    before = dict(backend.entries)
    assert not_ok(checks_of(rm, capsys)) == {}
    assert backend.entries == before


# --- in networks


def seen_from(host: Host, home: Path) -> dict[str, dict[str, str]]:
    """The checks as a host in a network of its own gets them."""
    out = host.run(sys.executable, "-m", "s2connect", "doctor", "--home", str(home), "--json", check=False).stdout
    return {check["name"]: check for check in json.loads(out)["checks"]}


@pytest.mark.long
def test_in_a_network_it_hears_itself_and_the_others_and_a_twin_of_its_name_is_a_fault(tmp_path: Path) -> None:
    require_netns()
    twins = []
    for number in range(2):
        home = tmp_path / f"twin{number}"
        init = ["init", "--home", str(home), "--role", "rm", "--host", "twin.local", "--vault", "files"]
        assert main(init) == 0
        twins.append(home)
    with Lan(hosts=2) as lan:
        here, there = lan.hosts
        checks = seen_from(here, twins[0])
        assert checks["multicast"]["result"] == "ok"
        assert "eth0 (IPv4, IPv6); no other host answers" in checks["multicast"]["sentence"]
        assert "twin.local is free" in checks["own_name"]["sentence"]
        assert "%eth0" in checks["ipv6"]["sentence"]
        service = there.start(sys.executable, "-m", "s2connect", "serve", "--home", str(twins[1]))
        service.wait_for("Pairing code")
        deadline = Deadline(10)
        while (checks := seen_from(here, twins[0]))["own_name"]["result"] != "fail":  # until it has its name
            assert not deadline.passed(), checks["own_name"]
        assert "twin.local leads to another machine" in checks["own_name"]["sentence"]
        assert "; 1 other host answers." in checks["multicast"]["sentence"]
        checks = seen_from(there, twins[1])
        assert checks["own_name"]["sentence"] == "twin.local leads to this machine."
        assert checks["responders"]["sentence"] == "The service of this endpoint has UDP port 5353, and nobody else."
        addresses = [address.partition("/")[0] for address in there.addresses]
        assert all(address in checks["reachable"]["sentence"] for address in addresses)
        here.unplug()
        checks = seen_from(here, tmp_path / "none")
        assert (checks["interfaces"]["result"], checks["multicast"]["result"]) == ("warn", "warn")


def test_over_ipv6_alone_and_beside_avahi(tmp_path: Path) -> None:
    require_netns()
    require_avahi()
    with Lan(hosts=1, ipv4=False) as lan:
        (here,) = lan.hosts
        Avahi(here)
        checks = seen_from(here, tmp_path / "none")
        assert checks["multicast"]["result"] == "ok", checks
        assert "eth0 (IPv6)" in checks["multicast"]["sentence"]
        assert checks["responders"]["sentence"] == "Shares UDP port 5353 with avahi-daemon; that works."
