"""A bridge in the local network: it has no nodes at first, and is found by name all the same."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.netns import Lan, require_netns

BRIDGE = """
home = "home"

[endpoint]
host = "bridge.local"
name = "Bridge"
vault = "files"

[[route]]
name = "house"
devices = { type = "s2-connect" }
manager = { type = "s2-connect" }
"""


@pytest.mark.long
@pytest.mark.timeout(120)
@pytest.mark.rule("DISC-02", "DISC-06", "DISC-09")
def test_a_new_bridge_is_found_in_the_network_and_devices_pair_with_it_by_name(tmp_path: Path) -> None:
    require_netns()
    (tmp_path / "bridge.toml").write_text(BRIDGE)
    command = (sys.executable, "-m", "s2connect")
    with Lan(2, ipv6=False) as lan:
        gateway, device = lan.hosts
        bridge = gateway.start(*command, "bridge", "run", str(tmp_path / "bridge.toml"), "--json")
        ready = json.loads(bridge.wait_for(lambda line: '"bridge_ready"' in line, 20))
        node = ready["routes"][0]["devices"]
        pairing = gateway.start(*command, "bridge", "pair", str(tmp_path / "bridge.toml"))
        found = json.loads(device.run(*command, "discover", "--json", "--seconds", "5").stdout)
        (shown,) = found["endpoints"]
        assert shown["pairing_url"] == node["pairing_url"] == "https://bridge.local:8443/pairing/"
        code = pairing.wait_for(lambda line: "Pairing code" in line, 20).split()[-1]
        battery = device.start(*command, "simulate", "rm", "battery", "--pair", node["pairing_url"], "--json")
        battery.say(code)
        bridge.wait_for(lambda line: '"event":"paired"' in line.replace(" ", ""), 20)
