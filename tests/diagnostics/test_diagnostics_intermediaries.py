"""``doctor`` on the HTTP proxy and on a real MQTT broker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from s2connect import EndpointConfig
from s2connect.cli import main
from s2connect.cli.diagnostics_commands import finding_object
from s2connect.diagnostics.findings import Check, Finding, Findings, Layer
from s2connect.diagnostics.home import ExaminedEndpoint
from s2connect.diagnostics.intermediaries import ROUNDS, check_broker, check_proxy, round_trip
from s2connect.endpoint.settings import read_config
from s2connect.https.server import free_port
from s2connect.store.home import Home
from s2connect.transports.mqtt.settings import MqttSettings
from tests.command import make_home
from tests.mosquitto import Mosquitto, access_list, password

USER = "house"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


# --- proxy


async def proxy_check(config: EndpointConfig | None) -> Finding:
    found = Findings(Check(Layer.NETWORK, "proxy"))
    await found.collect(partial(check_proxy, config))
    (finding,) = found
    assert "hunter2" not in json.dumps(finding_object(finding))
    return finding


async def test_a_proxy_has_to_answer_and_its_password_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await proxy_check(None)).cause == "No proxy is set; connections are direct."
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:hunter2@127.0.0.1:{port}")
        finding = await proxy_check(None)
        assert finding.verdict == "ok"
        assert f"of the environment, 127.0.0.1:{port}," in finding.cause
        configured = EndpointConfig(host="127.0.0.1", proxy=f"http://127.0.0.1:{port}")
        assert "of the settings" in (await proxy_check(configured)).cause
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:hunter2@127.0.0.1:{free_port()}")
    finding = await proxy_check(None)
    assert (finding.verdict, finding.cure) == ("fail", "Check HTTPS_PROXY.")
    monkeypatch.setenv("HTTPS_PROXY", "socks5://user:hunter2@proxy.example")
    finding = await proxy_check(None)
    assert finding.verdict == "fail"
    assert "http://proxy.example:3128" in finding.cure


# --- broker


class BrokerSetup:
    """Endpoint that is set up with a broker."""

    def __init__(self, directory: Path, broker: Mosquitto) -> None:
        self.broker = broker
        self.home = Home.open(make_home(directory / "home", "cem"))
        self.password_file = directory / "password"
        self.password_file.touch(0o600)
        self.password_file.write_text(password(USER).reveal())
        self.settings = {
            "url": broker.url,
            "client_id": USER,
            "username": USER,
            "password_file": self.password_file,
            "ca_file": broker.ca_file,
        }

    async def examine(self, *, mute: bool = False, **changed: object) -> dict[str, Finding]:
        config = read_config(self.home).model_copy(
            update={"mqtt": MqttSettings.model_validate({**self.settings, **changed})}
        )
        found = Findings(Check(Layer.BROKER, "broker"))
        await found.collect(partial(check_broker, ExaminedEndpoint(self.home, config, mute=mute)))
        shown = json.dumps([finding_object(finding) for finding in found])
        assert password(USER).reveal() not in shown
        return {finding.name.removeprefix("broker."): finding for finding in found}


def make_setup(directory: Path, acl: str, options: Sequence[str] = ()) -> Iterator[BrokerSetup]:
    directory.chmod(0o700)
    broker = Mosquitto(directory, [USER], acl, options=options)
    broker.start()
    try:
        yield BrokerSetup(directory, broker)
    finally:
        broker.kill()


@pytest.fixture
def setup(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[BrokerSetup]:
    yield from make_setup(tmp_path, access_list({}), getattr(request, "param", ()))


async def test_a_good_broker_passes_and_one_that_is_broken_fails_at_its_step(
    setup: BrokerSetup, tmp_path: Path
) -> None:
    good = await setup.examine()
    assert [(name, finding.verdict) for name, finding in good.items()] == [
        ("tls", "ok"),
        ("login", "ok"),
        ("round_trip", "ok"),
    ]
    running = await setup.examine(mute=True)
    assert list(running) == ["tls", "login"]
    assert "while the service does not run" in running["login"].cause

    degraded = await setup.examine(urls=[f"mqtts://localhost:{free_port()}"])
    assert [(name, finding.verdict) for name, finding in degraded.items()] == [
        ("tls", "warn"),
        ("login", "ok"),
        ("round_trip", "ok"),
    ], "a node of the cluster is away"

    setup.password_file.write_text("wrong")
    refused = await setup.examine()
    assert refused["login"].verdict == "fail"
    assert "does not let this client in" in refused["login"].cause
    untrusted = await setup.examine(ca_file=None)
    assert untrusted["tls"].verdict == "fail"
    assert "certificate" in untrusted["tls"].cause
    missing = await setup.examine(password_file=tmp_path / "none")
    assert missing["settings"].verdict == "fail"
    setup.broker.kill()
    gone = await setup.examine()
    assert list(gone) == ["tls"]
    assert gone["tls"].verdict == "fail"


@pytest.mark.parametrize("setup", [["set_tcp_nodelay false"]], indirect=True)
async def test_a_broker_that_waits_for_nagle_is_found_with_the_line_that_mends_it(setup: BrokerSetup) -> None:
    finding = (await setup.examine())["round_trip"]
    assert finding.verdict == "warn"
    assert "set_tcp_nodelay true" in finding.cure


@pytest.mark.long
async def test_a_broker_without_the_topics_of_a_client_is_found(tmp_path: Path) -> None:
    for setup in make_setup(tmp_path, "topic read nothing\n"):
        finding = (await setup.examine())["round_trip"]
        assert finding.verdict == "fail"
        assert "access list" in finding.cure


def test_slow_is_not_held_back() -> None:
    far = round_trip([0.2] * ROUNDS, [0.001] * (ROUNDS - 1) + [0.5])
    assert (far.verdict, far.cause) == ("ok", "A message goes through the broker and back in 200 ms.")
    assert round_trip([0.088] * ROUNDS, [0.044] * ROUNDS).verdict == "warn"


def test_the_report_has_a_line_for_the_broker_where_there_is_one(
    rm: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = json.loads((rm / "config.json").read_text())
    settings["mqtt"] = {"url": f"mqtts://127.0.0.1:{free_port()}"}
    (rm / "config.json").write_text(json.dumps(settings))
    capsys.readouterr()
    assert main(["doctor", "--home", str(rm), "--json"]) == 1
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert (checks["broker.tls"]["layer"], checks["broker.tls"]["result"]) == ("broker", "fail")
    assert checks["proxy"]["result"] == "ok"
