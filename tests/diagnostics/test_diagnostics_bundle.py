"""The archive of ``doctor --bundle``: what is in it, and what is not."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from s2connect.cli import main
from s2connect.diagnostics.bundle import redacted
from tests.command import Running, cem, make_home, pair, rm, start

__all__ = ["cem", "rm", "start"]


@pytest.mark.long
@pytest.mark.rule("SEC-01")
def test_the_bundle_of_a_paired_service_has_what_helps_and_no_secret(
    cem: Path,
    rm: Path,
    tmp_path: Path,
    start: Callable[..., Running],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://somebody:pass-of-proxy@127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    manager, device = start(cem), start(rm, "--verbose")
    pair(manager, device)
    code = device.command("code")["code"]
    capsys.readouterr()
    file = tmp_path / "report.zip"
    main(["doctor", "--home", str(rm), "--bundle", str(file)])
    shown = capsys.readouterr().out
    assert file.stat().st_mode & 0o777 == 0o600
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name).decode() for name in archive.namelist()}
    wanted = {"README.txt", "findings.json", "versions.json", "settings.json", "status.json", "log.txt"}
    assert set(parts) == wanted
    assert all(name in shown for name in wanted), "what is in it is said"
    assert "names of people's devices" in shown
    assert json.loads(parts["versions.json"])["packages"]["cryptography"]
    assert "House manager" in parts["status.json"]
    assert "is connected with" in parts["log.txt"]
    assert json.loads(parts["settings.json"])["host"] == "127.0.0.1"
    everything = "".join(parts.values())
    kept = {each.read_text("ascii", "replace").strip() for each in rm.glob("secrets/*")}
    assert len(kept) > 2
    for secret in kept | {code, "pass-of-proxy"}:
        assert secret not in everything


def test_the_bundle_of_a_machine_that_is_not_set_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "report.zip"
    main(["doctor", "--home", str(tmp_path / "none"), "--bundle", str(file), "--json"])
    said = json.loads(capsys.readouterr().out)
    assert set(said["parts"]) == {"README.txt", "findings.json", "versions.json"}
    with zipfile.ZipFile(file) as archive:
        assert set(archive.namelist()) == set(said["parts"])


@pytest.mark.parametrize("file", ["there.zip", "nowhere/report.zip"])
def test_no_file_is_overwritten_and_no_directory_made(file: str, tmp_path: Path) -> None:
    (tmp_path / "there.zip").write_text("mine")
    assert main(["doctor", "--home", str(make_home(tmp_path / "rm", "rm")), "--bundle", str(tmp_path / file)]) == 2
    assert (tmp_path / "there.zip").read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()


def test_what_may_be_secret_goes_and_names_of_files_stay() -> None:
    value = {
        "mqtt": {"password_file": "/etc/p", "password": "x", "url": "mqtts://a:b@broker"},
        "private_key": "/etc/key.pem",
        "tokens": ["x"],
        "code": "x",
        "error": {"code": 3},
        "text": "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----",
    }
    assert redacted(value) == {
        "mqtt": {"password_file": "/etc/p", "password": "(removed)", "url": "mqtts://(removed)@broker"},
        "private_key": "/etc/key.pem",
        "tokens": ["(removed)"],
        "code": "(removed)",
        "error": {"code": 3},
        "text": "(removed)",
    }
