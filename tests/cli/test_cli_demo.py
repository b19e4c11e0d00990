"""The demonstration, from end to end, and what it and its two sidecars write."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from cli_kit import run

SCHEMAS = Path(__file__).parents[3] / "shared" / "spec" / "s2-json-1.0.0"

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


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What one demonstration told."""
    place = tmp_path_factory.mktemp("demo")
    done = run("demo", "--json", env={"TMPDIR": str(place)})
    assert (done.returncode, done.stderr) == (0, "")
    assert list(place.iterdir()) == []
    return steps(done.stdout)


def test_the_demonstration_runs_to_its_end_and_leaves_nothing(told: list[dict[str, Any]]) -> None:
    names = [step["step"] for step in told]
    assert [name for name in names if name != "message"] == ["setup", "code", "paired", "session", "unpaired", "end"]
    messages = [step["message"]["message_type"] for step in told if step["step"] == "message"]
    assert messages == [
        "ResourceManagerDetails",
        "SelectControlType",
        "FRBC.SystemDescription",
        "FRBC.ActuatorStatus",
        "FRBC.StorageStatus",
        "PowerMeasurement",
        "FRBC.Instruction",
        "InstructionStatusUpdate",
        "InstructionStatusUpdate",
        "FRBC.ActuatorStatus",
        "PowerMeasurement",
        "FRBC.StorageStatus",
    ]
    levels = [s["message"]["present_fill_level"] for s in told if s.get("message", {}).get("present_fill_level")]
    assert levels[1] > levels[0]
    assert all(step["text"].endswith(".") for step in told)


def test_its_messages_follow_the_schemas(told: list[dict[str, Any]]) -> None:
    messages = [step["message"] for step in told if step["step"] == "message"]
    assert messages
    if not SCHEMAS.is_dir():
        pytest.skip("the JSON schemas of S2 are not beside this checkout")
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    referencing = pytest.importorskip("referencing", reason="comes with jsonschema")
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in SCHEMAS.rglob("*.schema.json")]
    registry = referencing.Registry().with_resources(
        (content["$id"], referencing.Resource.from_contents(content)) for content in contents
    )
    by_type = {
        c["properties"]["message_type"]["const"]: c for c in contents if "message_type" in c.get("properties", {})
    }
    for message in messages:
        jsonschema.Draft202012Validator(by_type[message["message_type"]], registry=registry).validate(message)


def test_people_read_sentences(tmp_path: Path) -> None:
    done = run("demo", env={"COLUMNS": "60"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "They are paired." in " ".join(done.stdout.split())
    assert max(len(line) for line in done.stdout.splitlines()) <= 60


def test_a_side_that_cannot_start_is_a_sentence(tmp_path: Path) -> None:
    broken = tmp_path / "sitecustomize.py"
    broken.write_text('import sys\nif "serve" in sys.orig_argv: raise SystemExit(3)\n')
    done = run("demo", "--json", env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1
    assert "could not start the two sides" in steps(done.stdout)[-1]["error"]["what"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_in_the_middle_its_processes_and_homes_are_gone(tmp_path: Path, number: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "s2connect", "demo", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert process.stdout is not None
    while "pairing_url" not in process.stdout.readline():
        pass
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) == 2
    process.send_signal(number)
    _, err = process.communicate(timeout=15)
    assert process.returncode == (130 if number == signal.SIGINT else 1)
    assert "Traceback" not in err
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.rule("SEC-01", "TOK-06")
def test_no_secret_is_written_anywhere_even_in_detailed_logs(tmp_path: Path) -> None:
    hooks, recorded, logs = tmp_path / "hooks", tmp_path / "recorded", tmp_path / "logs"
    hooks.mkdir()
    recorded.mkdir()
    (hooks / "sitecustomize.py").write_text(RECORDER)
    env = {"PYTHONPATH": str(hooks), "RECORDED_SECRETS": str(recorded)}
    done = run("demo", "--json", "--verbose", "--log-dir", str(logs), env=env)
    assert done.returncode == 0, done.stderr
    secrets = _recorded(recorded)
    kinds = {
        "PairingToken",
        "AccessToken",
        "CommunicationToken",
        "PairingAttemptId",
        "HmacChallengeResponse",
        "PrivateKey",
    }
    assert kinds <= set(secrets)
    written = {path.name: path.read_text(encoding="utf-8") for path in logs.iterdir()}
    assert set(written) == {"cem.log", "rm.log"}
    assert all("DEBUG s2connect.cli.service: command" in text for text in written.values())
    written["stderr"] = done.stderr
    # Standard output shows the code to the person, once; that is what it is for.
    (code,) = (step["code"] for step in steps(done.stdout) if step["step"] == "code")
    assert code in secrets["PairingToken"]
    assert done.stdout.count(code) == 2, "once in the sentence, once beside it"
    written["stdout"] = done.stdout.replace(code, "")
    found = [
        (place, kind)
        for kind, values in secrets.items()
        for value in values
        for form in _forms(value)
        for place, text in written.items()
        if form in text
    ]
    assert found == []


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
