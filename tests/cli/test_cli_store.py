"""``s2connect store``: key, tables and the way of a home into a database and back."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
import trustme

pytest.importorskip("psycopg")

from s2connect import EndpointConfig, create_home
from s2connect.cli import main
from s2connect.store.postgresql.sealing import read_keys
from tests.postgresql import Cluster

Capture = pytest.CaptureFixture[str]


def said(capsys: Capture) -> dict[str, object]:
    """Return the JSON that a command has printed with --json."""
    value: dict[str, object] = json.loads(capsys.readouterr().out)
    return value


def test_a_key_is_made_once_and_rotated(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "store.key"
    assert main(["store", "key", str(file)]) == 0
    (first,) = read_keys(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert main(["store", "key", str(file)]) == 2
    assert read_keys(file) == [first]
    assert main(["store", "key", str(file), "--rotate"]) == 0
    new, old = read_keys(file)
    assert (old, len(new)) == (first, 32)
    assert new != old
    shown = capsys.readouterr()
    assert not any(line in shown.out + shown.err for line in file.read_text().split())


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["key", "{}/missing/store.key"], "There is no directory"),
        (["key", "{}/store.key", "--rotate"], "s2connect store key"),
        (["migrate", "--store", "postgresql://s2@db.example:5432"], "names no database"),
        (["copy", "--yes"], "--from URL"),
        (["copy", "--to", "mysql://db/s2", "--yes"], "no URL of a PostgreSQL database"),
    ],
)
def test_wrong_input_is_said_with_what_helps(
    command: list[str], said: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S2CONNECT_HOME", str(tmp_path))
    assert main(["store", *(word.format(tmp_path) for word in command)]) == 2
    assert said in capsys.readouterr().err


def test_tables_are_made_and_then_left_as_they_are(
    postgresql_cluster: Cluster, capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    postgresql_cluster.sql("CREATE DATABASE bare")
    url = postgresql_cluster.url("bare").replace("postgres@", "postgres:hunter2@")
    monkeypatch.setenv("S2CONNECT_HOME", str(tmp_path))
    assert main(["store", "migrate", "--store", url]) == 2
    assert "shows to every user" in capsys.readouterr().err
    monkeypatch.setenv("S2CONNECT_STORE", url)
    assert main(["store", "migrate", "--store", url.replace(":hunter2", ""), "--json"]) == 0
    made = said(capsys)
    assert made["changed"] is True
    assert "hunter2" not in str(made["store"])
    assert main(["store", "migrate"]) == 0
    assert "are those of this version already" in capsys.readouterr().out
    assert main(["store", "migrate", "--contract", "--json"]) == 0
    assert said(capsys)["contracted"] == made["expanded"]
    assert main(["store", "migrate", "--store", postgresql_cluster.url("nowhere")]) == 7
    assert "createdb" in capsys.readouterr().err
    monkeypatch.delenv("S2CONNECT_STORE")
    assert main(["store", "migrate"]) == 2
    assert "--store" in capsys.readouterr().err


def test_a_home_is_copied_there_and_back(
    postgresql_cluster: Cluster, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, home, file = postgresql_cluster.new_database(), tmp_path / "home", tmp_path / "store.key"
    authority = trustme.CA().issue_cert("localhost")
    authority.cert_chain_pems[0].write_to_path(tmp_path / "chain.pem")
    authority.private_key_pem.write_to_path(tmp_path / "key.pem")
    settings = {
        "deployment": "WAN",
        "host": "localhost",
        "certificate": str(tmp_path / "chain.pem"),
        "private_key": str(tmp_path / "key.pem"),
        "nodes": [{"role": "CEM"}],
        "vault": "files",
    }
    create_home(home, EndpointConfig.model_validate(settings))
    assert main(["store", "key", str(file)]) == 0
    command = ["store", "copy", "--to", url, "--home", str(home), "--store-key-file", str(file)]
    assert main(command) == 2
    assert "--yes" in capsys.readouterr().err
    assert main([*command, "--yes"]) == 0
    assert "Moved the state with 0 pairings into" in capsys.readouterr().out
    assert main(["node", "list", "--home", str(home), "--json"]) == 0
    capsys.readouterr()
    assert main(["backup", str(tmp_path / "file"), "--home", str(home)]) == 2
    assert main(["store", "reseal", "--home", str(home)]) == 0
    (other := tmp_path / "other").mkdir(0o700)
    monkeypatch.setenv("S2CONNECT_STORE_KEY_FILE", str(file))
    capsys.readouterr()
    assert main(["store", "copy", "--from", url, "--home", str(other), "--yes"]) == 7
    assert "is not set up" in capsys.readouterr().err, "it has a key"
    assert main(["store", "copy", "--from", url, "--home", str(home), "--yes"]) == 0
    assert main(["status", "--home", str(home)]) == 0
