"""Endpoints on several machines, in networks made for the test."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.netns import Host, Lan, Process, require_netns
from tests.waits import Deadline

pytestmark = [pytest.mark.timeout(180)]


@pytest.fixture(autouse=True)
def _possible() -> None:
    require_netns()


class LanEndpoint:
    """One endpoint on a machine."""

    def __init__(self, machine: Host, home: Path, **settings: object) -> None:
        self.machine = machine
        self.process: Process = machine.start(
            sys.executable, "-m", "tests.endpoint.lan_program", str(home), json.dumps(settings)
        )
        ready = self.event("ready")
        self.url, self.id = ready["url"], ready["id"]

    def event(self, name: str, timeout: float = 20, **fields: object) -> dict[str, Any]:
        def wanted(line: str) -> bool:
            if f'"event": "{name}"' not in line:
                return False
            found = json.loads(line)
            return all(found.get(key) == value for key, value in fields.items())

        return json.loads(self.process.wait_for(wanted, timeout))

    def ask(self, *order: object, timeout: float = 30) -> dict[str, Any]:
        self.process.say(json.dumps(order))
        return json.loads(self.process.wait_for(lambda line: line.startswith(('{"result"', '{"error"')), timeout))

    def do(self, *order: object, timeout: float = 30) -> Any:
        answer = self.ask(*order, timeout=timeout)
        assert "result" in answer, answer
        return answer["result"]


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[Path]:
    return (tmp_path / f"home-{number}" for number in itertools.count())


@pytest.mark.rule("DISC-06", "DISC-09", "VER-04", "LAN-01", "LAN-02", "LAN-03", "LAN-05")
@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_two_hosts_pair_by_name_and_talk_after_one_announced_it(homes: Iterator[Path], family: str) -> None:
    with Lan(2, ipv4=family == "IPv4", ipv6=family == "IPv6") as lan:
        manager = LanEndpoint(lan.hosts[0], next(homes), role="CEM", host="ems.local", title="Manager")
        device = LanEndpoint(lan.hosts[1], next(homes), role="RM", host="battery.local", title="Battery")
        name, titles, peer = device.do("look", manager.url, None)
        assert (name, titles) == ("House of CEM", ["Manager"])
        device.do("announce", manager.url, peer)
        manager.event("PairingAnnounced", peer="Battery")
        assert device.do("pair", manager.url, manager.do("code"), None) == manager.id
        address = device.event("session")["address"]
        # IPv6 hosts answer with the address of their link as well, and whichever connects first is used.
        is_its_own = any(given.startswith(f"{address}/") for given in lan.hosts[0].addresses)
        assert is_its_own or (family == "IPv6" and address.startswith("fe80:")), (address, lan.hosts[0].addresses)
        manager.event("session")


@pytest.mark.rule("DISC-08", "LAN-05")
def test_the_pairing_of_the_page_on_the_library_finds_its_peer_by_name_and_works(homes: Iterator[Path]) -> None:
    with Lan(2, ipv6=False) as lan:
        manager = LanEndpoint(lan.hosts[0], next(homes), role="CEM", host="ems.local")
        device = LanEndpoint(lan.hosts[1], next(homes), role="RM", host="battery.local", title="Battery")
        assert device.do("guided pair", "house of cem", manager.do("code")) == manager.id
        manager.event("PairingAnnounced", peer="Battery")
        manager.event("session")


@pytest.mark.long
@pytest.mark.rule("DISC-09", "REC-01")
def test_the_session_comes_back_when_either_host_gets_another_address(homes: Iterator[Path]) -> None:
    with Lan(2, ipv6=False) as lan:
        manager = LanEndpoint(lan.hosts[0], next(homes), role="CEM", host="ems.local")
        device = LanEndpoint(lan.hosts[1], next(homes), role="RM", host="battery.local")
        device.do("pair", manager.url, manager.do("code"), None)
        device.event("session")
        lan.hosts[1].change_address("10.77.1.2/24", "10.77.1.92/24")
        device.event("session", timeout=30)
        lan.hosts[0].change_address("10.77.1.1/24", "10.77.1.91/24")
        assert device.event("session", timeout=30)["address"] == "10.77.1.91"


@pytest.mark.rule("DISC-08", "REC-02")
@pytest.mark.long
def test_a_host_that_vanishes_and_comes_back_is_connected_to_again(homes: Iterator[Path]) -> None:
    with Lan(2, ipv6=False) as lan:
        manager = LanEndpoint(lan.hosts[0], next(homes), role="CEM", host="ems.local")
        device = LanEndpoint(lan.hosts[1], next(homes), role="RM", host="battery.local")
        device.do("pair", manager.url, manager.do("code"), None)
        device.event("session")
        lan.hosts[0].unplug()
        device.event("SessionFailed", timeout=120)  # noticed by its silence
        lan.hosts[0].plug()
        device.event("session", timeout=40)


@pytest.mark.rule("LAN-02", "TRUST-04")
def test_a_host_in_another_subnet_is_told_nothing_and_can_still_pair_by_a_typed_url(homes: Iterator[Path]) -> None:
    with Lan(1, ipv6=False, far_hosts=1) as lan:
        manager = LanEndpoint(lan.hosts[0], next(homes), role="CEM", host="ems.local")
        far = LanEndpoint(lan.far_hosts[0], next(homes), role="RM", host="shed.local")
        refused = far.ask("look", manager.url, "10.77.1.1")
        assert refused["error"] == "pairing_refused"
        assert "network" in refused["sentence"]
        assert far.do("pair", manager.url, manager.do("code"), "10.77.1.1") == manager.id
        far.event("session")


@pytest.mark.long
@pytest.mark.rule("DISC-07")
def test_the_second_of_two_endpoints_with_one_name_says_so_and_keeps_serving(homes: Iterator[Path]) -> None:
    with Lan(3, ipv6=False) as lan:
        LanEndpoint(lan.hosts[0], next(homes), role="CEM", host="ems.local")
        lan.hosts[0].run("sleep", "2")  # until the first has its name
        second = LanEndpoint(lan.hosts[1], next(homes), role="CEM", host="ems.local")
        assert "ems" in second.event("Notice", kind="name_conflict")["sentence"]
        device = LanEndpoint(lan.hosts[2], next(homes), role="RM", host="battery.local")
        assert device.do("pair", second.url, second.do("code"), "10.77.1.2") == second.id


@pytest.mark.long
@pytest.mark.rule("DISC-07")
def test_two_copies_of_an_endpoint_in_the_network_recognise_each_other_by_their_keys(homes: Iterator[Path]) -> None:
    with Lan(2, ipv6=False) as lan:
        home, copied = next(homes), next(homes)
        first = LanEndpoint(lan.hosts[0], home, role="CEM", host="ems.local")
        lan.hosts[0].run("sleep", "2")  # until the first has its name
        shutil.copytree(home, copied, ignore=shutil.ignore_patterns("lock", "control*"), dirs_exist_ok=True)
        second = LanEndpoint(lan.hosts[1], copied, role="CEM", host="ems.local", retry=1.0)
        assert first.id == second.id
        assert "10.77.1.1" in second.event("Notice", kind="copy_of_this_endpoint")["sentence"]
        assert "10.77.1.2" in first.event("Notice", kind="copy_of_this_endpoint")["sentence"]
        first.process.end_input()
        second.event("Advertised")  # is found by its name once the other has stopped


@pytest.mark.long
@pytest.mark.rule("DISC-07")
def test_an_endpoint_says_so_once_the_copy_of_it_has_stopped(homes: Iterator[Path]) -> None:
    with Lan(2, ipv6=False) as lan:
        home, copied = next(homes), next(homes)
        first = LanEndpoint(lan.hosts[0], home, role="CEM", host="ems.local", retry=1.5)
        first.event("Advertised")
        shutil.copytree(home, copied, ignore=shutil.ignore_patterns("lock", "control*"), dirs_exist_ok=True)
        second = LanEndpoint(lan.hosts[1], copied, role="CEM", host="ems.local", retry=0.3)
        first.event("Notice", kind="copy_of_this_endpoint")
        known = len(first.process.lines)
        lan.hosts[0].run("sleep", "6")  # while it looks once whether the copy is gone, which shows itself all the time
        assert first.do("code")
        assert not [line for line in first.process.lines[known:] if '"Advertised"' in line]
        second.process.end_input()
        first.event("Advertised")


@pytest.mark.long
def test_two_copies_of_an_endpoint_on_one_machine_recognise_each_other(homes: Iterator[Path]) -> None:
    with Lan(1, ipv6=False) as lan:
        home, copied = next(homes), next(homes)
        first = LanEndpoint(lan.hosts[0], home, role="CEM", host="ems.local")
        lan.hosts[0].run("sleep", "2")  # until the first has its name
        shutil.copytree(home, copied, ignore=shutil.ignore_patterns("lock", "control*"), dirs_exist_ok=True)
        config = copied / "config.json"
        config.write_text(config.read_text("utf-8").replace("8443", "8444"), "utf-8")
        second = LanEndpoint(lan.hosts[0], copied, role="CEM", host="ems.local")
        assert "this machine, port 8443" in second.event("Notice", kind="copy_of_this_endpoint")["sentence"]
        assert "this machine, port 8444" in first.event("Notice", kind="copy_of_this_endpoint")["sentence"]


@pytest.mark.long
@pytest.mark.rule("LP-01", "LP-02", "LP-04", "LP-05", "ROLE-03", "ROLE-04", "DISC-05")
def test_a_device_without_a_server_is_paired_by_the_code_on_its_sticker(homes: Iterator[Path]) -> None:
    with Lan(2, ipv6=False) as lan:
        manager = LanEndpoint(lan.hosts[0], next(homes), role="CEM", host="ems.local")
        device = LanEndpoint(
            lan.hosts[1], next(homes), role="RM", host="tiny.local", server=False, title="Tiny heat pump"
        )
        waits = manager.event("DeviceWaits", timeout=40)
        assert (waits["peer"], waits["name"]) == (device.id, "Tiny heat pump")
        manager.do("announce waiting", device.id)
        device.event("PairingAnnounced", url=manager.url)
        missing = manager.ask("pair waiting", device.id, "STICKER42")
        assert missing["error"] == "pairing_refused"
        device.do("sticker", "STICKER42")
        wrong = manager.ask("pair waiting", device.id, "WRONG4242")
        assert wrong["error"] == "wrong_pairing_code"
        assert manager.do("pair waiting", device.id, "STICKER42") < 3.0  # the mandatory second included
        device.event("session")
        manager.event("session")


@pytest.mark.rule("LP-01", "DISC-05")
def test_a_device_waits_as_long_as_a_manager_advertises_that_it_may(homes: Iterator[Path]) -> None:
    with Lan(2, ipv6=False) as lan:
        manager = LanEndpoint(lan.hosts[0], next(homes), role="CEM", host="ems.local", advertise=False)
        device = LanEndpoint(lan.hosts[1], next(homes), role="RM", host="tiny.local", server=False)

        def polls(*urls: str) -> None:
            deadline = Deadline(20)
            while device.do("polling") != [*urls]:
                assert not deadline.passed()
                time.sleep(0.1)

        program = [sys.executable, "-m", "tests.discovery.network_program", "advertise", "--host", "ems.local"]
        shown = lan.hosts[0].start(*program)
        shown.wait_for(lambda line: '"up"' in line, 20)
        polls()

        def show(url: str | None) -> None:
            shown.say(json.dumps({"longpolling_url": url}))

        show(manager.url)
        polls(manager.url)
        assert manager.event("DeviceWaits", timeout=40)["peer"] == device.id
        show(None)
        polls()
