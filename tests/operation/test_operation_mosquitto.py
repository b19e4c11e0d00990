"""The recipe for Mosquitto in docs/howto/mosquitto.md, as it is printed, in a machine with Debian's Mosquitto."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.documents.blocks import SHELL, TEXT, blocks
from tests.machine import Machine, require_machine
from tests.mosquitto import need_mosquitto

RECIPE = Path(__file__).resolve().parents[2] / "docs" / "howto" / "mosquitto.md"
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    require_machine()
    need_mosquitto()
    with Machine() as booted:
        booted.run("sh", "-c", "echo 127.0.0.1 broker.local >> /etc/hosts")
        yield booted


def s2connect(machine: Machine, home: str, *arguments: str) -> dict[str, Any]:
    shown = machine.run("s2connect", *arguments, "--home", home, "--json").splitlines()[-1]
    found: dict[str, Any] = json.loads(shown)
    return found


def test_the_recipe_makes_a_broker_for_a_session(machine: Machine) -> None:
    found = list(blocks(RECIPE))
    shell = [block.code for block in found if block.language == SHELL]
    access_list, configuration = (block.code for block in found if block.language == TEXT)
    for home, role, port in (("/root/house", "rm", "8643"), ("/root/energy-cloud", "cem", "8644")):
        options = ["--role", role, "--host", "127.0.0.1", "--port", port, "--vault", "files"]
        s2connect(machine, home, "init", *options)
    node = s2connect(machine, "/root/energy-cloud", "status")["nodes"][0]["id"]
    certificate, passwords, restart, client = shell
    machine.run("sh", "-ec", certificate)
    machine.run("sh", "-ec", passwords)
    machine.write("/etc/mosquitto/s2/acl", access_list.replace("NODE-ID", node))
    machine.write("/etc/mosquitto/conf.d/s2.conf", configuration)
    machine.run("sh", "-ec", restart)
    machine.wait("ss", "-ltn", until=":8883")
    copied = "cp /etc/mosquitto/s2/*.password /etc/mosquitto/s2/ca.pem /root/; chown root: /root/*.p*"
    machine.run("sh", "-ec", f"umask 077; {copied}")
    for name in ("house", "energy-cloud"):
        configured = client.replace(" house", f" {name}").replace("~/house", f"/root/{name}").replace("~", "/root")
        set_only = configured.partition("s2connect doctor")[0]
        machine.run("sh", "-ec", f"export S2CONNECT_HOME=/root/{name}\n{set_only}")
    broker = json.loads(machine.run("s2connect", "doctor", "--home", "/root/house", "--json", check=False))
    assert {one["result"] for one in broker["checks"] if one["layer"] == "broker"} == {"ok"}, broker
    for name in ("energy-cloud", "house"):
        start = f"Type=notify\nExecStart=/usr/local/bin/s2connect serve --home /root/{name}\n"
        machine.write(f"/run/systemd/system/{name}.service", f"[Service]\n{start}")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "energy-cloud", "house")
    code = s2connect(machine, "/root/energy-cloud", "code")
    machine.run("s2connect", "pair", code["pairing_url"], "--home", "/root/house", stdin=code["code"] + "\n")
    machine.wait("s2connect", "status", "--home", "/root/house", "--json", until="X-MQTT5-0")


def test_a_stranger_and_a_wrong_topic_are_kept_out(machine: Machine) -> None:
    tools = ["-h", "broker.local", "-p", "8883", "--cafile", "/etc/mosquitto/s2/ca.pem", "-V", "mqttv5"]
    refused = machine.run("mosquitto_pub", *tools, "-t", "s2/s2/0/x/open", "-m", "x", check=False)
    assert "not auth" in refused.lower()
    password = machine.run("cat", "/etc/mosquitto/s2/house.password").strip()
    house = [*tools, "-u", "house", "-P", password, "-i", "house"]
    refused = machine.run("mosquitto_sub", *house, "-t", "s2/s2/0/+/energy-cloud/#", "-C", "1", "-W", "3", check=False)
    assert "denied" in refused.lower() or "timed out" in refused.lower()
