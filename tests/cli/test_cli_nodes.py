"""``s2connect node``: several nodes on one endpoint, with and without a running service."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from s2connect.cli import main
from tests.cli.test_cli_command import said
from tests.command import Running, make_home

Capture = pytest.CaptureFixture[str]
Start = Callable[..., Running]


def as_json(capsys: Capture, *arguments: str, code: int = 0) -> Any:
    return json.loads(said(capsys, *arguments, "--json", code=code)[0])


def aliases(capsys: Capture, home: Path) -> list[str | None]:
    return [node["alias"] for node in as_json(capsys, "node", "list", "--home", str(home))["nodes"]]


@pytest.mark.rule("TOK-03")
def test_nodes_are_added_named_and_removed_while_no_service_runs(rm: Path, capsys: Capture) -> None:
    home = ["--home", str(rm)]
    assert aliases(capsys, rm) == [None]
    out, _ = said(capsys, "node", "add", "--role", "rm", "--name", "Cellar \u00e4", *home)
    assert "Added Cellar \u00e4 (" in out
    assert "alias 2)." in out
    assert "codes begin with 1-" in out
    assert f"Next: s2connect code --home {rm} --node 2" in out
    assert aliases(capsys, rm) == ["1", "2"]
    _, err = said(capsys, "node", "alias", "2", "i", *home, code=2)
    assert "taken" in err, "it looks like 1"
    out, _ = said(capsys, "node", "alias", "2", "KE", *home)
    assert "begin with KE- now" in out
    assert as_json(capsys, "code", "--static", "--node", "ke", *home)["code"].startswith("KE-")
    out, _ = said(capsys, "node", "alias", "cellar \u00e4", "KELLER", *home)
    assert "Its codes have 19 characters to type" in out
    out, _ = said(capsys, "node", "alias", "KELLER", "KE", *home)
    assert "to type" not in out
    _, err = said(capsys, "code", "--static", *home, code=2)
    assert "Which node of this endpoint? There are: 1 (" in err
    assert "--node" in err
    _, err = said(capsys, "node", "remove", "KE", *home, code=2)
    assert "This removes Cellar \u00e4" in err
    assert "--yes" in err
    assert aliases(capsys, rm) == ["1", "KE"], "nobody could be asked"
    out, _ = said(capsys, "node", "remove", "KE", "--yes", *home)
    assert "Removed Cellar \u00e4" in out
    _, err = said(capsys, "node", "remove", "1", "--yes", *home, code=2)
    assert "only node" in err
    _, err = said(capsys, "node", "remove", "9", "--yes", *home, code=2)
    assert "There is no node 9 here; there are: 1 (" in err


def test_an_alias_that_cannot_be_one_is_refused_without_words_of_pydantic(rm: Path, capsys: Capture) -> None:
    _, err = said(capsys, "node", "add", "--role", "rm", "--alias", "a b", "--home", str(rm), code=2)
    assert "a b is no alias" in err
    assert "pattern" not in err
    for wrong in ("-", "\u70ed", "x" * 65):
        said(capsys, "node", "add", "--role", "rm", "--alias", wrong, "--home", str(rm), code=2)
    said(capsys, "node", "add", "--role", "rm", "--alias", "K\u00fc", "--home", str(rm))
    assert aliases(capsys, rm) == ["1", "Kue"]


@pytest.mark.rule("TOK-03", "UNP-02")
def test_nodes_come_and_go_while_the_service_runs_and_pairings_say_which_is_meant(
    tmp_path: Path, rm: Path, start: Start, capsys: Capture
) -> None:
    manager_home = make_home(tmp_path / "ems", "cem", "--name", "House")
    home = ["--home", str(manager_home)]
    manager, battery = start(manager_home), start(rm)
    url = str(manager.ready()[0])
    added = as_json(capsys, "node", "add", "--role", "cem", "--name", "Shed", *home)
    assert [node["alias"] for node in added["nodes"]] == ["1", "2"]
    assert [node["alias"] for node in manager.event("nodes")["nodes"]] == ["1", "2"]
    code = as_json(capsys, "code", "--node", "2", *home)["code"]
    paired = battery.command("pair", url=url, code=f" {code.lower()} ")
    assert paired["ok"] is True
    opened = manager.event("session_opened")
    assert opened["node"] == added["node"], "the service takes sessions of nodes that came later"
    out, _ = said(capsys, "pairings", *home)
    assert "2 (Shed)" in " ".join(out.split())
    peer = paired["node"][:8]
    _, err = said(capsys, "unpair", peer, *home, code=2)
    assert "pairing of our node 2 (Shed) with " in err
    _, err = said(capsys, "unpair", peer, "--node", "1", "--yes", *home, code=6)
    assert "no pairing" in err
    _, err = said(capsys, "node", "remove", "2", *home, code=2)
    assert "Its pairings end: " in err
    removed = as_json(capsys, "node", "remove", "2", "--yes", *home)
    assert [one["peer"]["id"] for one in removed["pairings"]] == [paired["node"]]
    assert battery.event("unpaired")["by"] == "peer"
    assert aliases(capsys, manager_home) == ["1"]
    manager.process.send_signal(signal.SIGTERM)
    assert manager.ended() == 0


def test_commands_of_the_sidecar_say_what_is_wrong(rm: Path, start: Start) -> None:
    service = start(rm)
    service.ready()
    assert service.command("add_node")["error"]["what"] == "The command's role is CEM or RM."
    assert service.command("add_node", role="EMS")["error"]["kind"] == "usage"
    assert service.command("set_alias", node="1")["error"]["kind"] == "usage"
    assert service.command("add_node", role="RM", alias="no alias")["error"]["kind"] == "usage"
    assert service.command("set_alias", node="x", alias="2")["error"]["kind"] == "usage"
    assert service.command("remove_node", node="x")["error"]["kind"] == "usage"


def test_the_nodes_of_a_bridge_are_left_to_its_file(rm: Path, capsys: Capture) -> None:
    (rm / "bridge.json").write_text('{"id": "00000000-0000-0000-0000-000000000001"}')
    _, err = said(capsys, "node", "add", "--role", "rm", "--home", str(rm), code=2)
    assert "nodes of a bridge" in err
    assert main(["node", "list", "--home", str(rm)]) == 0
