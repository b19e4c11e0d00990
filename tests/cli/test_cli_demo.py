"""The demonstration, from end to end, with both brokers, and what it and its processes write."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from s2connect.cli.demo_text import narrator
from s2connect.demo import broker as demo_broker
from s2connect.demo.files import prepare
from s2connect.service.failures import Failure
from tests.command import run
from tests.mosquitto import need_mosquitto
from tests.waits import patience

ROOT = Path(__file__).parents[2]

RECORDER = '''
"""Writes every secret of the process into a file of its own, without the code under test knowing."""
import atexit, os
from pathlib import Path
from s2connect.certs import authority
from s2connect.model import secret

_out = open(Path(os.environ["RECORDED_SECRETS"]) / str(os.getpid()), "a", encoding="ascii")


def _record(kind, value):
    _out.write(f"{kind} {value}\\n")
    _out.flush()


_init = secret.Secret.__init__


def _recording(self, value):
    _init(self, value)
    _record(type(self).__name__, value)


secret.Secret.__init__ = _recording
_key_as_pem = authority._key_as_pem


def _recording_key(key):
    pem = _key_as_pem(key)
    _record("PrivateKey", "".join(pem.decode("ascii").splitlines()[1:-1]))
    return pem


authority._key_as_pem = _recording_key
'''


def steps(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


class Shown(NamedTuple):
    """Output, files and secrets of one demonstration."""

    steps: list[dict[str, Any]]
    out: str
    err: str
    logs: dict[str, str]
    secrets: dict[str, set[str]]


@pytest.fixture(scope="module", params=["real", "embedded"])
def shown(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """One demonstration with each broker, with detailed logs."""
    arguments = []
    if request.param == "real":
        need_mosquitto()
    else:
        pytest.importorskip("iotcore", reason="iotcore is not installed; the extra demo brings it")
        arguments = ["--embedded-broker"]
    files = tmp_path_factory.mktemp("demo")
    directories = {name: files / name for name in ("temporary", "hooks", "recorded", "logs")}
    for directory in directories.values():
        directory.mkdir()
    (directories["hooks"] / "sitecustomize.py").write_text(RECORDER)
    env = {
        "PYTHONPATH": os.pathsep.join((str(directories["hooks"]), str(ROOT))),
        "RECORDED_SECRETS": str(directories["recorded"]),
        "TMPDIR": str(directories["temporary"]),
    }
    done = run(
        "demo", "--json", "--verbose", "--log-dir", str(directories["logs"]), *arguments, env=env, timeout=patience(100)
    )
    assert done.returncode == 0, (done.stdout[-2000:], done.stderr[-2000:])
    assert list(directories["temporary"].iterdir()) == [], "it leaves nothing behind"
    logs = {path.name: path.read_text(encoding="utf-8") for path in directories["logs"].iterdir()}
    return Shown(steps(done.stdout), done.stdout, done.stderr, logs, _recorded(directories["recorded"]))


def of(shown: Shown, step: str) -> list[dict[str, Any]]:
    return [one for one in shown.steps if one["step"] == step]


@pytest.mark.long
@pytest.mark.timeout(120)
def test_the_demonstration_runs_to_its_end_and_says_which_broker_it_has(
    shown: Shown, request: pytest.FixtureRequest
) -> None:
    names = [step["step"] for step in shown.steps]
    assert list(dict.fromkeys(names)) == [
        "broker",
        "cloud",
        "bridge",
        "device",
        "paired",
        "sessions",
        "link",
        "talk",
        "message",
        "broker_lost",
        "broker_back",
        "messages",
        "end",
    ]
    (broker,) = of(shown, "broker")
    real = "real" in request.node.callspec.params.values()
    assert ("Mosquitto" if real else "rumqttd") in broker["text"]
    assert all(step["text"][-1] in ".:" for step in shown.steps if step["step"] not in ("link", "message"))


@pytest.mark.long
def test_what_each_link_agreed_on_is_told(shown: Shown) -> None:
    links = {
        link["device"]: (*link["device_side"], *link["cloud_side"], link["translated"]) for link in of(shown, "link")
    }
    assert links == {
        "Battery": ("WebSocket", "v1.0.0", "WebSocket", "v1.0.0", False),
        "Solar roof": ("WebSocket", "v1.0.0", "X-MQTT5-0", "v1.0.0", False),
        "Heat pump": ("S2-WebSocket", "0.0.2-beta", "X-MQTT5-0", "v1.0.0", True),
    }


@pytest.mark.long
def test_every_device_is_controlled_and_every_message_counted(shown: Shown) -> None:
    said = {(m["device"], m["kind"]) for m in of(shown, "message") if "kind" in m}
    assert said >= {
        *((name, "SelectControlType") for name in ("Battery", "Solar roof", "Heat pump")),
        ("Battery", "FRBC.Instruction"),
        ("Heat pump", "DDBC.Instruction"),
    }
    (counted,) = of(shown, "messages")
    for senders in counted["messages"].values():
        for counts in senders.values():
            assert counts["acknowledged"] > 0
            assert counts["forwarded"] >= counts["acknowledged"]
            assert counts["refused"] == 0


@pytest.mark.long
@pytest.mark.rule("SEC-01", "TOK-06")
def test_no_secret_is_written_anywhere_even_in_detailed_logs(shown: Shown) -> None:
    kinds = {
        "PairingToken",
        "AccessToken",
        "CommunicationToken",
        "PairingAttemptId",
        "HmacChallengeResponse",
        "PrivateKey",
        "SessionToken",
        "MqttPassword",
    }
    assert kinds <= set(shown.secrets)
    processes = {"cloud.log", "bridge.log", "battery.log", "solar-roof.log", "heat-pump.log", "pair.log", "broker.log"}
    assert set(shown.logs) == processes
    assert "DEBUG" in shown.logs["bridge.log"]
    # Standard output shows the codes to the person; that is what it is for.
    out = shown.out
    codes = [step["code"] for step in shown.steps if "code" in step]
    assert len(codes) == 3
    for code in codes:
        assert code.rpartition("-")[2] in shown.secrets["PairingToken"]
        out = out.replace(code, "")
    written = {**shown.logs, "stderr": shown.err, "stdout": out}
    found = [
        (files, kind)
        for kind, values in shown.secrets.items()
        for value in values
        for form in _forms(value)
        for files, text in written.items()
        if form in text
    ]
    assert found == []


def test_people_read_sentences_and_a_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    counts = {"forwarded": 12, "acknowledged": 11, "refused": 0, "unanswered": 1}
    tell = narrator(as_json=False)
    tell("device", "Battery is paired, and this sentence is longer than a line of this terminal.", {})
    tell("message", "cloud to Battery: charge", {"at": "2026-01-01T10:20:00+00:00", "kind": "FRBC.Instruction"})
    tell("messages", "All was counted.", {"messages": {"Battery": {"device": counts, "cloud": counts}}})
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 60
    assert any(line.split() == ["10:20", "cloud", "to", "Battery:", "charge", "FRBC.Instruction"] for line in lines)
    assert any(line.split() == ["Battery", "cloud", "12", "11", "0", "1"] for line in lines)


def test_a_machine_without_a_broker_is_told_how_to_get_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo_broker, "mosquitto", lambda: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Failure, match="no MQTT broker") as failed:
        prepare(tmp_path, tmp_path)
    assert "apt-get install mosquitto" in failed.value.hint


@pytest.mark.long
def test_a_program_that_cannot_start_is_a_sentence(tmp_path: Path) -> None:
    need_mosquitto()
    broken = tmp_path / "sitecustomize.py"
    broken.write_text('import sys\nif "bridge" in sys.orig_argv: raise SystemExit(3)\n')
    done = run("demo", "--json", env={"PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))})
    assert done.returncode == 1
    assert "could not start cloud and bridge" in steps(done.stdout)[-1]["error"]["what"]


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_in_the_middle_its_processes_and_homes_are_gone(tmp_path: Path, number: int) -> None:
    need_mosquitto()
    process = subprocess.Popen(
        [sys.executable, "-m", "s2connect", "demo", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert process.stdout is not None
    while '"Heat pump"' not in process.stdout.readline():
        pass
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 6
    process.send_signal(number)
    _, err = process.communicate(timeout=patience(15))
    assert process.returncode == (130 if number == signal.SIGINT else 1)
    assert "Traceback" not in err
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
    assert list(tmp_path.iterdir()) == []


def _recorded(directory: Path) -> dict[str, set[str]]:
    secrets: dict[str, set[str]] = {}
    for path in directory.iterdir():
        for line in path.read_text(encoding="ascii").splitlines():
            kind, value = line.split(" ", 1)
            secrets.setdefault(kind, set()).add(value)
    return secrets


def _forms(value: str) -> set[str]:
    """A secret as it is, and what encodes it; a key also in part."""
    forms = {value, value[: max(16, len(value) // 2)] if len(value) >= 24 else value}
    if len(value) >= 24 and re.fullmatch(r"[A-Za-z0-9+/=]+", value) and len(value) % 4 == 0:
        raw = base64.b64decode(value)
        forms |= {raw.hex(), repr(raw)[2:-1], base64.urlsafe_b64encode(raw).decode("ascii").rstrip("=")}
    return forms
