"""Conclusions of ``doctor`` from facts, in tables."""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import socket
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from s2connect import EndpointConfig
from s2connect.diagnostics import home, machine, server
from s2connect.diagnostics.findings import Check, Layer, Verdict
from s2connect.diagnostics.home import FileFacts
from s2connect.diagnostics.intermediaries import service_at_broker
from s2connect.diagnostics.links import links
from s2connect.diagnostics.machine import MulticastResult, udp_inodes
from s2connect.diagnostics.peers import access
from s2connect.diagnostics.server import ServiceResponse
from s2connect.errors import NotReachable, PeerTimeout
from s2connect.https.own_addresses import Links, OwnAddress
from s2connect.service.commands import BrokerStatus
from s2connect.service.objects import Trouble
from tests.netns import Lan, require_netns

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
NAMES = {1: "lo", 2: "eth0", 3: "wlan0"}


def own(*addresses: str) -> list[OwnAddress]:
    """Addresses as ``index:address/prefix``."""
    found = []
    for text in addresses:
        index, _, address = text.partition(" ")
        found.append(OwnAddress(ipaddress.ip_interface(address), int(index)))
    return found


LOOPBACK = ("1 127.0.0.1/8", "1 ::1/128")


@pytest.mark.parametrize(
    ("addresses", "result", "cause"),
    [
        ((), "warn", "no network address"),
        (LOOPBACK, "warn", "no network address"),
        ((*LOOPBACK, "2 192.168.1.5/24"), "ok", "eth0 (192.168.1.5/24)"),
        (("2 192.168.1.5/24", "3 10.0.0.1/8"), "ok", "wlan0 (10.0.0.1/8)"),
        (tuple(f"2 10.0.0.{i}/8" for i in range(1, 8)), "ok", "and 3 more"),
    ],
)
def test_interfaces_are_listed_and_none_is_a_warning(addresses: tuple[str, ...], result: str, cause: str) -> None:
    finding = machine.interfaces(own(*addresses), NAMES)
    assert (finding.verdict, cause in finding.cause) == (result, True), finding
    assert bool(finding.cure) == (result != "ok")


def test_an_interface_without_a_cable_is_a_warning_if_it_is_the_only_one() -> None:
    both = own("2 192.168.1.5/24", "3 10.0.0.1/8")
    assert machine.interfaces(both, NAMES, Links(frozenset({"eth0", "wlan0"}))).verdict == "warn"
    finding = machine.interfaces(both, NAMES, Links(frozenset({"eth0"})))
    assert (finding.verdict, finding.cause) == ("ok", "Network: wlan0 (10.0.0.1/8), eth0 (not connected).")


def test_an_interface_that_is_switched_off_is_no_network_though_it_has_an_address() -> None:
    off = Links(off=frozenset({"eth0"}))
    finding = machine.interfaces(own("2 192.168.1.5/24"), NAMES, off)
    assert (finding.verdict, finding.cause) == ("warn", "Switched off: eth0.")
    assert finding.cure == "Switch it on: sudo ip link set eth0 up"
    both = Links(frozenset({"wlan0"}), off.off)
    finding = machine.interfaces(own("2 192.168.1.5/24", "3 10.0.0.1/8"), NAMES, both)
    assert finding.cause == "No cable or WLAN is connected to wlan0. Switched off: eth0."
    finding = machine.interfaces(own("2 192.168.1.5/24", "3 10.0.0.1/8"), NAMES, off)
    assert (finding.verdict, finding.cause) == ("ok", "Network: wlan0 (10.0.0.1/8), eth0 (switched off).")


@pytest.mark.long
@pytest.mark.parametrize("how", ["unplugged", "off"])
def test_doctor_and_discover_see_a_link_that_is_down(how: str, tmp_path: Path) -> None:
    require_netns()
    command = (sys.executable, "-m", "s2connect")
    with Lan(2, ipv6=False) as lan:
        host = lan.hosts[0]
        if how == "off":
            host.ip("link", "set", "eth0", "down")
        else:
            host.unplug()
        found = host.run(*command, "doctor", "--home", str(tmp_path / "none"), "--json", check=False, timeout=60).stdout
        (interfaces,) = (one for one in json.loads(found)["checks"] if one["name"] == "interfaces")
        assert interfaces["result"] == "warn", interfaces
        assert ("Switched off: eth0." in interfaces["sentence"]) == (how == "off")
        heard = host.run(*command, "discover", "--seconds", "0.5", "--json", check=False, timeout=60).stdout
        assert "No cable or WLAN of this machine is connected" in heard


@pytest.mark.parametrize(
    ("addresses", "disabled", "result", "cause"),
    [
        (("2 192.168.1.5/24", "2 fe80::1/64"), False, "ok", "fe80::1%eth0"),
        (("2 fe80::1/64", "3 fe80::1/64"), False, "ok", "fe80::1%eth0, fe80::1%wlan0"),
        (("2 fd00::1/64",), False, "warn", "eth0"),
        (("2 fd00::1/64", "3 fe80::1/64"), False, "warn", "eth0"),
        (("2 192.168.1.5/24",), True, "ok", "switched off"),
        (("2 192.168.1.5/24",), False, "warn", "No interface has an IPv6 address"),
        (LOOPBACK, False, "ok", "No network interface"),
    ],
)
def test_link_local_addresses_are_shown_with_their_zone(
    addresses: tuple[str, ...], disabled: bool, result: str, cause: str
) -> None:
    finding = machine.ipv6(own(*addresses), NAMES, disabled=disabled)
    assert (finding.verdict, cause in finding.cause) == (result, True), finding


def test_another_port_is_advised_than_the_one_that_is_taken() -> None:
    assert "config set port 10443" in server.port_free(9443, None, errno.EADDRINUSE).cure


@pytest.mark.parametrize(
    ("inside", "bridged", "result"),
    [(False, False, "ok"), (True, False, "ok"), (True, True, "warn"), (False, True, "warn")],
)
def test_a_container_behind_a_bridge_is_a_warning(inside: bool, bridged: bool, result: str) -> None:
    finding = machine.container(inside=inside, bridged=bridged)
    assert finding.verdict == result
    assert ("--network host" in finding.cure) == bridged


_RETURNED = MulticastResult("eth0", 4, returned=True, others=frozenset({"10.0.0.2"}))
_LOST = MulticastResult("eth0", 6)


@pytest.mark.parametrize(
    ("results", "result", "cause"),
    [
        ([], "warn", "no interface"),
        ([_RETURNED], "ok", "eth0 (IPv4); 1 other host answers."),
        ([_RETURNED, MulticastResult("eth0", 6, returned=True)], "ok", "eth0 (IPv4, IPv6)"),
        (
            [_RETURNED, MulticastResult("eth0", 6, returned=True, others=frozenset({"fe80::2"}))],
            "ok",
            "; 1 other host answers.",
        ),
        (
            [_RETURNED, MulticastResult("wlan0", 4, returned=True, others=frozenset({"10.0.0.3"}))],
            "ok",
            "; 2 other hosts answer.",
        ),
        ([MulticastResult("eth0", 4, returned=True)], "ok", "no other host answers"),
        ([_RETURNED, _LOST], "warn", "eth0 (IPv6) does not come back"),
        ([_LOST], "fail", "does not come back"),
        ([MulticastResult("eth0", 4, error=errno.EPERM)], "fail", "operation not permitted"),
        ([MulticastResult("eth0", 4, error=errno.EADDRINUSE)] * 2, "fail", "keeps UDP port 5353 to itself"),
    ],
)
def test_multicast_has_to_come_back_everywhere(results: list[MulticastResult], result: str, cause: str) -> None:
    finding = machine.multicast(results)
    assert (finding.verdict, cause in finding.cause) == (result, True), finding


def test_other_programs_with_the_port_are_no_fault() -> None:
    for others, ours, answers, cause in [
        ({"avahi-daemon"}, True, True, "Shares UDP port 5353 with avahi-daemon"),
        (set[str](), True, True, "nobody else"),
        (set[str](), False, True, "Another program on this machine answers"),
        (set[str](), False, False, "No other program"),
    ]:
        finding = machine.responders(others, ours=ours, answers=answers)
        assert finding.verdict == "ok"
        assert cause in finding.cause


def test_sockets_on_a_port_are_read_from_the_systems_table() -> None:
    head = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref\n"
    mdns = "  10: 00000000:14E9 00000000:0000 07 00000000:00000000 00:00000000 00000000   108        0 17043 2 0 0\n"
    other = "  11: 0100007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000   101        0 17044 2 0 0\n"
    assert udp_inodes(head + mdns + other, 5353) == {"17043"}
    assert udp_inodes("", 5353) == set()
    assert udp_inodes(f"{head}\n nonsense 1:14E9\n", 5353) == set()


@pytest.mark.parametrize(
    ("host", "found", "running", "advertises", "result"),
    [
        ("a.local", ["10.0.0.1"], True, True, "ok"),
        ("a.local", ["10.0.0.1", "10.0.0.9"], True, True, "warn"),
        ("a.local", ["10.0.0.9"], True, True, "fail"),
        ("a.local", ["10.0.0.9"], False, True, "fail"),
        ("a.local", None, True, True, "warn"),
        ("a.local", None, True, False, "warn"),
        ("a.local", None, False, True, "ok"),
        ("a.example", None, True, True, "warn"),
        ("a.example", ["10.0.0.1"], True, True, "ok"),
    ],
)
def test_the_own_name_leads_here_or_is_a_fault(
    host: str, found: list[str] | None, running: bool, advertises: bool, result: str
) -> None:
    finding = server.own_name(host, found, {"10.0.0.1", "::1"}, running=running, advertises=advertises)
    assert finding.verdict == result, finding


@pytest.mark.parametrize(
    ("now", "result"),
    [(NOW, "ok"), (datetime(1970, 1, 1, tzinfo=UTC), "fail"), (datetime(2024, 12, 31, tzinfo=UTC), "fail")],
)
def test_a_clock_before_2025_is_wrong(now: datetime, result: str) -> None:
    finding = server.clock(now)
    assert finding.verdict == result
    assert ("NTP" in finding.cure) == (result == "fail")


@pytest.mark.parametrize(
    ("begin", "end", "renews", "running", "result", "cause"),
    [
        (NOW - DAY, NOW + 100 * DAY, True, True, "ok", "is valid for 100 days more"),
        (NOW - 170 * DAY, NOW + DAY, True, False, "ok", "1 day more"),  # the service renews it when it starts
        (NOW - 170 * DAY, NOW + DAY, True, True, "warn", "has not renewed it"),
        (NOW - 149 * DAY, NOW + 31 * DAY, False, True, "ok", "31 days more"),
        (NOW - 151 * DAY, NOW + 29 * DAY, False, True, "warn", "expires in 29 days"),
        (NOW - 72 * DAY, NOW + 18 * DAY, False, True, "ok", "18 days more"),  # of 90: its tool has just had its time
        (NOW - 76 * DAY, NOW + 14 * DAY, False, True, "warn", "expires in 14 days"),
        (NOW - 170 * DAY, NOW + DAY, False, True, "warn", "expires in 1 day"),
        (NOW - DAY, NOW + 5 * DAY, False, True, "ok", "5 days more"),  # a short-lived one, still fresh
        (NOW + DAY, NOW + 9 * DAY, True, True, "fail", "not valid before 2026-05-02"),
        (NOW - 9 * DAY, NOW - DAY, True, False, "fail", "expired on 2026-04-30"),
        (NOW - 9 * DAY, NOW - DAY, False, False, "fail", "expired on 2026-04-30"),
    ],
)
def test_certificates_have_their_time(
    begin: datetime, end: datetime, renews: bool, running: bool, result: str, cause: str
) -> None:
    finding = server.validity(server.LEAF, begin, end, NOW, renews=renews, running=running)
    assert (finding.verdict, cause in finding.cause) == (result, True), finding
    if result == "fail":
        assert "date and time" in finding.cure
        assert ("start the service" in finding.cure) == (renews and begin < NOW)


def test_a_certificate_authority_has_no_age() -> None:
    finding = server.validity(server.CA, NOW - 500 * DAY, NOW + 5 * DAY, NOW, renews=True, running=True)
    assert (finding.verdict, finding.cause) == ("ok", "The certificate authority is valid until 2026-05-06.")


@pytest.mark.rule("SEC-02")
def test_rights_of_others_are_a_fault_with_the_command_that_mends_it() -> None:
    directory, key = FileFacts("/s", 0o700, 1000), FileFacts("/s/secrets/ca-key", 0o600, 1000)
    assert home.permissions([directory, key], 1000).verdict == "ok"
    opened = home.permissions([directory, FileFacts("/s/x", 0o644, 1000), FileFacts("/s/y", 0o640, 1000)], 1000)
    assert (opened.verdict, opened.cure) == ("fail", "Take it from them: chmod -R go-rwx '/s'")
    assert "/s/x (mode 644), and to 1 more" in opened.cause
    strange = home.permissions([directory, FileFacts("/s/x", 0o600, 0)], 1000)
    assert strange.verdict == "fail"
    assert "s2connect doctor --home '/s'" in strange.cure


@pytest.mark.parametrize(
    ("free", "result"), [(0, "fail"), (999_999, "fail"), (49_000_000, "warn"), (50_000_000, "ok"), (10**12, "ok")]
)
def test_disk_space_runs_low_before_it_runs_out(free: int, result: str) -> None:
    assert home.disk(free).verdict == result


@pytest.mark.parametrize(
    ("error", "result", "cause"),
    [
        (None, "ok", "is free"),
        (errno.EADDRINUSE, "fail", "Another program"),
        (errno.EADDRNOTAVAIL, "fail", "no address of this machine"),
        (errno.EACCES, "fail", "may not listen"),
        (errno.EIO, "fail", "input/output error"),
    ],
)
def test_a_port_is_free_or_the_reason_is_given(error: int | None, result: str, cause: str) -> None:
    finding = server.port_free(8443, "10.0.0.1", error)
    assert (finding.verdict, cause in finding.cause) == (result, True), finding


def test_the_service_has_to_answer_at_every_address() -> None:
    good, bad = (
        ServiceResponse("127.0.0.1", 0.0123),
        ServiceResponse("10.0.0.1", 4, PeerTimeout("It did not answer in time.")),
    )
    assert "127.0.0.1, within 12 ms" in server.reachable([good]).cause
    finding = server.reachable([good, bad])
    assert finding.verdict == "fail"
    assert "10.0.0.1: It did not answer in time." in finding.cause
    assert Check(Layer.SERVICE, "x").error(NotReachable("Gone.")).cure


def test_an_access_that_one_side_does_not_accept_is_a_fault_with_what_mends_it() -> None:
    trouble = Trouble(reason="token_unknown", since=NOW, text="This home may be an older copy.")
    finding = access(Check(Layer.PEER, "peer.x.session", "Battery"), trouble)
    assert (finding.verdict, finding.cause) == ("fail", "This home may be an older copy.")
    assert "s2connect pair" in finding.cure


def link(state: str, reason: str = "") -> dict[str, str]:
    return {"name": "house/Battery", "state": state, "reason": reason}


@pytest.mark.parametrize(
    ("found", "failed", "verdicts", "words"),
    [
        ([link("up"), link("up")], [], ["ok"], "All links of the bridge are up: 2."),
        ([], [], ["ok"], "no link"),
        ([link("up"), link("refused", "access")], [], ["fail"], "house/Battery is refused: access"),
        ([link("unpaired")], [], ["warn"], "is unpaired."),
        ([link("waiting")], [], ["warn"], "is waiting."),
        ([link("reaching")], [], ["warn"], "is reaching."),
        ([link("reaching") | {"last_failure": "no answer"}], [], ["warn"], "is reaching; the last attempt: no answer"),
        ([], [{"name": "house", "reason": "port taken"}], ["fail", "ok"], "The route house does not run: port taken"),
        ([link("failed", "x")] * 30, [], ["warn"] * 21, "is failed: x"),
    ],
)
def test_the_links_of_a_running_bridge(found: Any, failed: Any, verdicts: list[str], words: str) -> None:
    findings = links({"routes": [{"links": found}], "failed": failed})
    assert [one.verdict for one in findings] == verdicts
    assert words in findings[0].cause
    assert all(one.cure for one in findings if one.verdict != "ok")


@pytest.mark.parametrize(
    ("broker", "verdict", "words"),
    [
        (None, "ok", "while the service does not run"),
        ({"connected": True}, "ok", "is connected to the broker b:1 as me"),
        (
            {"connected": False, "error": "The password is wrong."},
            "fail",
            "not connected to the broker b:1. The password",
        ),
        ({"connected": True, "suspicion": "A second client."}, "warn", "A second client."),
        ({"connected": True, "unused": "Set something."}, "warn", "connected and not used"),
    ],
)
def test_what_the_running_service_says_of_the_broker(broker: Any, verdict: str, words: str) -> None:
    facts = {"where": "b:1", "client_id": "me", "error": None, "suspicion": None}
    finding = service_at_broker(None if broker is None else BrokerStatus(**(facts | broker)))
    assert finding.verdict == verdict
    assert words in finding.cause


def test_a_state_directory_that_cannot_be_written_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only file system: the service does not start, and everything can be read."""
    assert home.write_protected(tmp_path) is None
    facts = os.statvfs(tmp_path)

    class ReadOnly:
        f_flag = facts.f_flag | os.ST_RDONLY

    monkeypatch.setattr(os, "statvfs", lambda _: ReadOnly())
    finding = home.write_protected(tmp_path)
    assert finding is not None
    assert (finding.verdict, "read-only" in finding.cause, "Mount it writable" in finding.cure) == ("fail", True, True)
    monkeypatch.undo()
    monkeypatch.setattr(os, "access", lambda *_: False)
    finding = home.write_protected(tmp_path)
    assert finding is not None
    assert finding.cure == f"Allow it to its owner: chmod -R u+rwX '{tmp_path}'"


async def test_behind_a_balancer_the_port_is_looked_at_and_no_request_is_made() -> None:
    balanced = {"deployment": "WAN", "host": "s2.example.com", "port": 443, "bind": "127.0.0.1"}
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        config = EndpointConfig.model_validate({**balanced, "listen_port": port, "balancers": ["192.0.2.10"]})
        found = await server._listens(config)
        assert (found.layer, found.verdict) == (Layer.SERVICE, Verdict.OK)
        assert str(port) in found.cause
    found = await server._listens(config)
    assert found.verdict is Verdict.FAIL
    assert found.cure
