"""The page by command: where it is, links, its password, and when a service has it."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import ssl
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from s2connect.cli import main
from s2connect.store.home import Home
from s2connect.web.password import read_password
from tests.command import Running, make_home, run
from tests.waits import patience

Start = Callable[..., Running]


def status_of(request: urllib.request.Request | str, context: ssl.SSLContext | None = None) -> int:
    try:
        with urllib.request.urlopen(request, timeout=patience(10), context=context) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.long
def test_a_sidecar_has_a_page_where_that_is_asked_for(
    cem: Path, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    running = start(cem, "--page-port", "0")
    url = running.event("ready")["page"]
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url)
    if sys.platform == "linux":
        assert status_of(url) == 200, "it is of our user"
    capsys.readouterr()
    home = ["--home", str(cem)]
    assert main(["page", *home]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{url}\n", "to be copied, and for scripts"
    assert f"page link --home {cem}" in shown.err
    assert main(["page", "link", *home]) == 0
    assert re.fullmatch(rf"{url}login#[\w-]{{43}}\n", capsys.readouterr().out)
    linked = json.loads(run("page", "link", "--json", *home).stdout)
    form = urllib.parse.urlencode({"link": linked["url"].partition("#")[2]}).encode()
    assert [status_of(urllib.request.Request(f"{url}login", form)) for _ in range(2)] == [200, 403]
    done = run("page", "password", "--password-stdin", *home, stdin="correct horse\n")
    assert (done.returncode, done.stdout) == (
        0,
        "The password of the page is set. Whoever was logged in is logged out.\n",
    )
    assert running.command("page") | {"time": 0, "id": 0} == {
        "event": "result",
        "time": 0,
        "id": 0,
        "ok": True,
        "url": url,
        "has_password": True,
        "certificate_sha256": None,
    }
    assert not running.command("page_password", password="short")["ok"]
    assert running.command("page_link")["url"].startswith(url)
    running.end_input()
    assert running.ended() == 0
    assert "correct horse" not in "".join(running.errors) + "".join(running.lines)


@pytest.mark.long
def test_without_a_page_the_commands_say_how_to_get_one(
    cem: Path, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    home = ["--home", str(cem)]
    assert main(["page", "link", *home]) == 8
    assert "s2connect serve" in capsys.readouterr().err
    running = start(cem)
    assert running.event("ready")["page"] is None
    assert main(["page", "link", *home]) == 2
    assert "--page" in capsys.readouterr().err
    assert main(["page", *home, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["url"] is None
    assert main(["page", "password", *home]) == 2
    assert "--password-stdin" in capsys.readouterr().err
    assert main(["page", "password", "--remove", *home]) == 0
    assert main(["page", *home, "link"]) == 2
    assert main(["serve", *home, "--no-page", "--page-port", "1"]) == 2


@pytest.mark.long
def test_metrics_have_a_port_of_their_own_without_the_page(
    cem: Path, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "set", "metrics.port", "0", "--home", str(cem)]) == 0
    running = start(cem, "--no-page", as_json=False)
    url = running.line(lambda text: "Metrics: " in text).split()[-1]
    with urllib.request.urlopen(url, timeout=patience(10)) as response:
        assert b's2connect_info{kind="serve"' in response.read()
    place = url.removesuffix("metrics")
    assert [status_of(place + path) for path in ("healthz", "readyz", "status.json", "")] == [200, 200, 200, 404]
    port = str(urllib.parse.urlsplit(url).port)
    capsys.readouterr()
    other = make_home(cem.with_name("other"), "rm")
    assert main(["serve", "--home", str(other), "--no-page", "--metrics-port", port]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"The metrics: Cannot listen on port {port}" in said
    assert re.search(r"--metrics-port, or s2connect config set --home \S+ metrics.port", said)
    assert main(["config", "unset", "metrics.port", "--home", str(cem)]) == 0
    assert "port" not in json.loads((cem / "config.json").read_text())["metrics"]


def test_a_password_is_set_and_removed_while_no_service_runs(cem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = ["--home", str(cem)]
    for given, code in (("correct horse\n", 0), ("short\n", 2), ("\n", 2), ("", 2)):
        monkeypatch.setattr(sys, "stdin", io.StringIO(given))
        assert main(["page", "password", "--password-stdin", *home]) == code
        kept = read_password(Home.open(cem))
        assert kept is not None
        assert kept.matches("correct horse")
    assert main(["page", "password", "--remove", *home]) == 0
    assert read_password(Home.open(cem)) is None


@pytest.mark.long
def test_settings_of_the_home_put_the_page_into_the_network(cem: Path, start: Start) -> None:
    file = cem / "config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps(settings | {"page": {"bind": "*", "port": 0}}))
    running = start(cem)
    url = running.event("ready")["page"]
    assert url.startswith("https://127.0.0.1:")
    tls = ssl.create_default_context(cafile=str(cem / "ca.pem"))
    assert status_of(url, context=tls) == 401
    proxied = {"X-Forwarded-For": "192.0.2.1"}
    assert status_of(urllib.request.Request(f"{url}metrics", headers=proxied), context=tls) == 401
    done = run("page", "--home", str(cem))
    assert done.stdout == f"{url}\n"
    assert re.search(r"SHA-256.*\n  ([0-9A-F]{2}:){31}[0-9A-F]{2}\n", done.stderr)
    token = run("page", "token", "--home", str(cem)).stdout.strip()
    asked = urllib.request.Request(f"{url}metrics", headers={**proxied, "Authorization": f"Bearer {token}"})
    assert status_of(asked, context=tls) == 200


@pytest.mark.parametrize("setting", [{"port": 70_000}, {"bind": ""}, {"prot": 1}, {"enabled": "perhaps"}])
def test_a_wrong_setting_is_named(cem: Path, setting: dict[str, object], capsys: pytest.CaptureFixture[str]) -> None:
    file = cem / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"page": setting}))
    assert main(["serve", "--home", str(cem)]) == 2
    assert f"config.json: page.{next(iter(setting))}" in capsys.readouterr().err


@pytest.mark.long
def test_a_service_for_people_has_a_page_and_says_where(cem: Path, start: Start) -> None:
    running = start(cem, "--page-port", "0", as_json=False)
    line = running.line(lambda text: "Page for browsers" in text)
    assert re.fullmatch(r"  Page for browsers: http://127\.0\.0\.1:\d+/\n", line)


@pytest.mark.long
def test_a_person_types_the_new_password_twice(cem: Path) -> None:
    def typed(*answers: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "s2connect", "page", "password", "--home", str(cem)]
        master, slave = pty.openpty()
        process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        os.close(slave)
        shown, left = "", list(answers)
        while True:
            try:
                chunk = os.read(master, 1000)
            except OSError:
                break
            shown += chunk.decode()
            if left and shown.rstrip(" ").endswith(":"):
                os.write(master, left.pop(0).encode())
        os.close(master)
        return process.wait(patience(20)), shown

    code, shown = typed("correct horse\n", "correct hrose\n")
    assert (code, "not the same" in shown) == (1, True)
    assert read_password(Home.open(cem)) is None
    code, shown = typed("correct horse\n", "correct horse\n")
    assert code == 0
    assert "correct" not in shown, "it is not shown"
    assert read_password(Home.open(cem)) is not None
    code, shown = typed("\x04")
    assert (code, "nothing was changed" in shown) == (1, True)
