"""``s2connect config``: settings with their source, changes with and without a running service, and wrong input."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from s2connect.cli import main
from s2connect.endpoint.config import EndpointConfig
from tests.command import Running

Start = Callable[..., Running]
Capture = pytest.CaptureFixture[str]


def result(capsys: Capture, *arguments: str, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def said(capsys: Capture, *arguments: str, code: int = 0) -> str:
    capsys.readouterr()
    assert main([*arguments]) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return " ".join((captured.out + captured.err).split())


def stored(home: Path) -> EndpointConfig:
    return EndpointConfig.from_json((home / "config.json").read_bytes())


def test_every_setting_is_shown_with_its_source(rm: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy.example:3128")
    monkeypatch.delenv("https_proxy", raising=False)
    shown = result(capsys, "config", "show", "--home", str(rm))["settings"]
    assert shown["bind"] == {"value": "127.0.0.1", "source": "file"}
    assert shown["advertise"] == {"value": True, "source": "default"}
    assert shown["proxy"] == {"value": "http://proxy.example:3128", "source": "HTTPS_PROXY"}
    assert shown["model"] == {"value": "s2connect", "source": "default"}
    text = said(capsys, "config", "show", "--home", str(rm))
    assert "HTTPS_PROXY" in text
    assert "secret" not in text
    assert list(result(capsys, "config", "show", "trust_anchors", "--home", str(rm))["settings"]) == ["trust-anchors"]


def test_settings_are_changed_and_taken_back(rm: Path, capsys: Capture) -> None:
    where = ["--home", str(rm)]
    told = result(capsys, "config", "set", "name", "In the cellar", "port", "9443", "advertise", "off", *where)
    assert told == {
        "changed": ["advertise", "name", "port"],
        "running": False,
        "now": ["name"],
        "at_restart": ["port", "advertise"],
    }
    config = stored(rm)
    assert (config.name, config.nodes[0].user_defined_name) == ("In the cellar", "In the cellar")
    assert (config.port, config.advertise) == (9443, False)
    said(capsys, "config", "set", "proxy", "http://proxy.example:3128", "proxy-exceptions", "a.example, b", *where)
    assert stored(rm).proxy_exceptions == ("a.example", "b")
    said(capsys, "config", "unset", "proxy", "proxy-exceptions", "name", *where)
    assert (stored(rm).proxy, stored(rm).proxy_exceptions, stored(rm).name) == (None, (), None)
    hint = said(capsys, "config", "set", "mqtt.url", "mqtts://broker.example", *where)
    assert f"s2connect config set --home {rm} communication-protocols X-MQTT5-0,WebSocket" in hint
    hint = said(capsys, "config", "set", "communication-protocols", "X-MQTT5-0,WebSocket", *where)
    assert "To use the broker" not in hint
    assert f"To take back all of it: s2connect config unset --home {rm} mqtt" in said(
        capsys, "config", "unset", "mqtt.url", *where, code=2
    )
    said(capsys, "config", "unset", "mqtt", *where)
    assert stored(rm).mqtt is None


@pytest.mark.parametrize(
    ("typed", "what"),
    [
        (("set", "port", "x"), "port: has to be a whole number."),
        (("set", "port", "99999"), "port: has to be at most 65535."),
        (("set", "port", "-1"), "No such option"),
        (("set", "prot", "1"), "There is no setting prot. Did you mean port?"),
        (("set", "host", "a b"), "host: The URL contains a character that no URL has."),
        (("set", "name", ""), "name: is empty"),
        (("set", "advertise", "perhaps"), "advertise: it is on or off, and not perhaps."),
        (("set", "deployment", "moon"), "deployment: has to be 'WAN' or 'LAN'."),
        (("set", "proxy", "ftp://x"), "proxy: The URL of the proxy cannot be used. It looks like"),
        (("set", "proxy", "http://u:geheim@x:1"), "HTTPS_PROXY"),
        (("set", "trust-anchors", "/nowhere.pem"), "trust-anchors: there is no file /nowhere.pem."),
        (("set", "vault", "keyring"), "Secrets cannot be moved"),
        (("set", "role", "cem"), "never changes"),
        (("set", "alias", "A"), "s2connect node alias"),
        (("set", "mqtt.url", "http://x"), "mqtt.url: cannot be used: The URL does not start with mqtts://"),
        (("set", "mqtt.protection", "none"), "mqtt"),
        (("set", "port"), "Each setting needs a name and a value."),
        (("unset", "nothing"), "There is no setting nothing."),
        (("show", "nothing"), "There is no setting nothing."),
        (("set", "model", "B", "--node", "Z"), "Which node of this endpoint?"),
    ],
)
def test_what_cannot_be_is_said_in_words_of_a_person_and_changes_nothing(
    rm: Path, capsys: Capture, typed: tuple[str, ...], what: str
) -> None:
    before = (rm / "config.json").read_bytes()
    text = said(capsys, "config", *typed, "--home", str(rm), code=2)
    assert what in text
    for word in ("Input should", "Field required", "pydantic", "String should", "geheim", "Value error"):
        assert word not in text
    assert (rm / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ('{\n  "port": 8443,\n}', "line 3, column 1"),
        (
            '{"port": 99999, "host": "a.local"}',
            "at most 65535. Change it with: s2connect config set --home",
        ),
        ('{"prot": 1, "host": "a.local"}', "prot: is no setting."),
        ('{"host": "a.local", "nodes": [{"role": "XX"}]}', "role: has to be 'CEM' or 'RM'"),
        ("[]", "does not hold an object"),
        ("", "line 1, column 1"),
    ],
)
@pytest.mark.parametrize("command", [("config", "show"), ("status",)])
def test_a_file_that_cannot_be_used_is_named_with_place_and_cause(
    rm: Path, capsys: Capture, content: str, what: str, command: tuple[str, ...]
) -> None:
    (rm / "config.json").write_text(content)
    text = said(capsys, *command, "--home", str(rm), code=2)
    for word in ("Input should", "Field required", "Extra inputs", "Invalid JSON"):
        assert word not in text
    if command[0] == "config":
        assert what in text


def test_a_file_that_is_no_json_is_named_with_place_and_cause_by_every_command(rm: Path, capsys: Capture) -> None:
    (rm / "config.json").write_text('{\n  "name": "x"\n  "port": 1\n}')
    for command in (("config", "show"), ("config", "set", "port", "9"), ("config", "unset", "port"), ("status",)):
        text = said(capsys, *command, "--home", str(rm), code=2)
        assert "line 3, column 3: a comma is missing" in text


def test_a_wrong_setting_in_the_file_is_mended_by_the_command_that_the_error_names(rm: Path, capsys: Capture) -> None:
    settings = json.loads((rm / "config.json").read_text())
    (rm / "config.json").write_text(json.dumps({**settings, "port": 99999}))
    assert "port" in said(capsys, "status", "--home", str(rm), code=2)
    said(capsys, "config", "unset", "port", "--home", str(rm))
    assert stored(rm).port == 8443


def test_a_running_service_takes_a_name_over_and_says_what_waits_for_its_next_start(
    rm: Path, start: Start, capsys: Capture
) -> None:
    service = start(rm)
    url, _ = service.ready()
    where = ["--home", str(rm)]
    assert "has taken it over" in said(capsys, "config", "set", "name", "New name", *where)
    status = result(capsys, "status", *where)
    assert (status["endpoint"]["name"], status["nodes"][0]["user_defined_name"]) == ("New name", "New name")
    assert "goes on with the old port until it starts again" in said(capsys, "config", "set", "port", "9443", *where)
    assert result(capsys, "status", *where)["endpoint"]["pairing_url"] == url
    # A later change of the service itself keeps what was set.
    assert service.command("add_node", role="RM")["ok"]
    assert (stored(rm).port, len(stored(rm).nodes)) == (9443, 2)
    assert service.command("configure", settings={"port": None})["at_restart"] == ["port"]
    assert service.command("configure", settings={"port": "x"})["error"]["what"] == "port: has to be a whole number."
    assert service.command("configure", settings=5)["error"]["kind"] == "usage"


@pytest.mark.long
def test_a_new_address_is_asked_about_where_peers_connect_to_the_old_one(
    cem: Path, rm: Path, start: Start, capsys: Capture
) -> None:
    url, code = start(cem).ready()
    assert main(["pair", url, code, "--home", str(rm)]) == 0
    text = said(capsys, "config", "set", "host", "other.local", "--home", str(cem), code=2)
    assert "1 paired peer connects to this endpoint under its old address" in text
    assert "--yes" in text
    said(capsys, "config", "set", "host", "other.local", "--home", str(cem), "--yes")
    assert stored(cem).host == "other.local"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to somebody else")
def test_the_home_of_another_user_names_the_command_that_runs_as_that_user(rm: Path, capsys: Capture) -> None:
    os.chown(rm, 1, 1)
    assert "Run it as that user: sudo -u daemon s2connect …" in said(capsys, "status", "--home", str(rm), code=7)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a command as somebody else")
def test_a_home_that_this_user_cannot_even_look_into_is_said_to_be_of_another(rm: Path, capsys: Capture) -> None:
    said(capsys, "status", "--home", str(rm))
    said(capsys, "status", "--home", str(rm / "none"), code=7)  # all is loaded now
    with tempfile.TemporaryDirectory(dir="/tmp") as home:
        os.seteuid(1)
        try:
            text = said(capsys, "status", "--home", home, code=7)
        finally:
            os.seteuid(0)
    assert f"{home} belongs to" in text
    assert "Run it as that user: sudo s2connect …" in text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to somebody else")
def test_an_empty_directory_of_another_user_is_to_be_given_to_this_one(tmp_path: Path, capsys: Capture) -> None:
    os.chown(tmp_path, 1, 1)
    text = said(capsys, "init", "--role", "rm", "--home", str(tmp_path), code=7)
    assert f"It is empty. Give it to this user, as root: chown {os.geteuid()} '{tmp_path}'" in " ".join(text.split())


def test_no_hint_sends_a_person_into_the_file_of_the_settings() -> None:
    import s2connect

    root = Path(s2connect.__file__).parent
    wrong = [str(file.relative_to(root)) for file in root.rglob("*.py") if "in config.json" in file.read_text("utf-8")]
    assert not wrong, "there is a command for it: s2connect config set"
