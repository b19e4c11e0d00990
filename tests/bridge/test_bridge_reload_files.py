"""Files of a running bridge that a person changes: a reload takes them over, and says so; real broker, real process."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bridge.route_fixtures import private_file
from tests.command import Object, Running, run
from tests.mosquitto import Mosquitto, access_list, password
from tests.waits import Deadline

FILE = """
home = "home"
[endpoint]
host = "127.0.0.1"
bind = "127.0.0.1"
port = 0
vault = "files"
[mqtt]
url = "{url}"
client_id = "bridge"
username = "bridge"
password_file = "password"
ca_file = "{ca}"
[[route]]
name = "house"
devices = {{ type = "s2-connect" }}
manager = {{ type = "s2-connect", protocols = ["X-MQTT5-0"] }}
"""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    (tmp_path / "broker").mkdir()
    made = Mosquitto(tmp_path / "broker", ["bridge"], access_list({"bridge": []})).start()
    yield made
    made.kill()


def status(file: Path) -> Object:
    found: Object = json.loads(run("status", "--home", str(file.parent / "home"), "--json").stdout)["endpoint"][
        "broker"
    ]
    return found


def until_at_broker(file: Path, *, connected: bool) -> Object:
    deadline = Deadline(30)
    while (found := status(file))["connected"] is not connected:
        assert not deadline.passed(), found
    return found


@pytest.mark.long
def test_a_new_password_of_the_broker_counts_at_a_reload_and_doctor_asks_the_running_bridge(
    tmp_path: Path, broker: Mosquitto
) -> None:
    file = tmp_path / "bridge.toml"
    file.write_text(FILE.format(url=broker.url, ca=broker.ca_file))
    secret = private_file(tmp_path / "password", "wrong\n")
    bridge = Running(tmp_path / "home", command=("bridge", "run", str(file)))
    try:
        bridge.event("bridge_ready")
        assert "password" in str(until_at_broker(file, connected=False)["error"])
        checks = json.loads(run("doctor", "--home", str(tmp_path / "home"), "--json").stdout)["checks"]
        (login,) = (check for check in checks if check["name"] == "broker.login")
        assert (login["result"], "reload" in login["hint"]) == ("fail", True)
        assert any(check["name"] == "links" for check in checks)

        secret.write_text(f"{password('bridge').reveal()}\n")
        bridge.process.send_signal(signal.SIGHUP)
        done = bridge.event("reloaded")
        assert (done["reread"], done["kept"], done["restart_needed"]) == (["mqtt"], ["house"], [])
        until_at_broker(file, connected=True)
        said = run("bridge", "reload", str(file))
        assert said.stdout == "Read the file again: house untouched.\n"
        broker.kill()
        until_at_broker(file, connected=False)
    finally:
        bridge.kill()
