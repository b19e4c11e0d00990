"""``serve`` reads its settings again: by SIGHUP and by command; what cannot be used changes nothing."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from s2connect.cli import main
from tests.command import Running

Start = Callable[..., Running]


def edit(home: Path, **changes: object) -> None:
    file = home / "config.json"
    settings = json.loads(file.read_text())
    node = changes.pop("node", {})
    assert isinstance(node, dict)
    settings["nodes"][0] |= node
    file.write_text(json.dumps(settings | changes))


def test_a_hangup_has_serve_read_its_settings_again(
    cem: Path, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    service = start(cem)
    service.ready()
    good = (cem / "config.json").read_text()
    edit(cem, node={"user_defined_name": "New name"}, port=12345)
    service.process.send_signal(signal.SIGHUP)
    done = service.event("reloaded")
    assert len(done["described"]) == 1
    assert (done["restart_needed"], done["reread"], done["unread"]) == (["port"], [], [])
    assert service.command("status")["nodes"][0]["user_defined_name"] == "New name"
    assert json.loads((cem / "config.json").read_text())["port"] == 12345, "what was edited stays in the file"

    (cem / "config.json").write_text(good[:-20])
    assert main(["reload", "--home", str(cem)]) == 2
    failed = service.event("reload_failed")
    assert "config.json" in failed["error"]["what"]
    (cem / "config.json").write_text(good)
    capsys.readouterr()
    assert main(["reload", "--home", str(cem)]) == 0
    assert "described anew" in capsys.readouterr().out
    service.end_input()
    assert service.ended() == 0
    assert main(["reload", "--home", str(cem)]) == 8
