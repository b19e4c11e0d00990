"""Beside a real Avahi: both work, and each sees the other's endpoints."""

from __future__ import annotations

import pytest

from tests.discovery.avahi_fixtures import Avahi, browse_lines, require_avahi
from tests.discovery.test_discovery_lan import event, run, start
from tests.netns import Lan, require_netns

pytestmark = [pytest.mark.timeout(120)]


@pytest.fixture(autouse=True)
def _possible() -> None:
    require_netns()
    require_avahi()


@pytest.mark.rule("DISC-03", "DISC-06", "DISC-01")
@pytest.mark.parametrize("where", ["on the same host", "on another host"])
def test_avahi_shows_our_records_as_the_standard_writes_them(where: str) -> None:
    with Lan(2) as lan:
        ours = lan.hosts[0]
        avahi = Avahi(ours if where == "on the same host" else lan.hosts[1])
        start(ours, "advertise", host="ems-1a2b.local", roles="CEM,RM", name="Ein Haus mit Wärme").wait_for("up")
        shown = browse_lines(avahi.run("avahi-browse", "-rpt", "_s2connect._tcp"))
        assert sorted(line[:6] for line in shown) == [
            ["eth0", family, "ems-1a2b", "_s2connect._tcp", "local", "ems-1a2b.local"] for family in ("IPv4", "IPv6")
        ]
        for line in shown:
            assert line[7] == "8443"
            assert sorted(line[8][1:-1].split('" "')) == [
                "deployment=LAN",
                "e_name=Ein Haus mit W\\195\\164rme",  # as avahi-browse -p writes UTF-8
                "pairingUrl=https://ems-1a2b.local:8443/pairing/",
                "txtver=1",
            ]
        for subtype in ("_cem", "_rm"):
            found = browse_lines(avahi.run("avahi-browse", "-rpt", f"{subtype}._sub._s2connect._tcp"))
            assert {line[2] for line in found} == {"ems-1a2b"}
        resolved = avahi.run("avahi-resolve-host-name", "-4", "ems-1a2b.local")
        assert resolved.split() == ["ems-1a2b.local", "10.77.1.1"]
        assert not [line for line in avahi.lines if "conflict" in line.lower()]


@pytest.mark.rule("DISC-03", "DISC-06", "DISC-08")
@pytest.mark.parametrize("where", ["on the same host", "on another host"])
def test_an_endpoint_published_by_avahi_as_in_the_specification_is_found(where: str) -> None:
    with Lan(2) as lan:
        avahi = Avahi(lan.hosts[0])
        mine = lan.hosts[0 if where == "on the same host" else 1]
        browser = start(mine, "browse", role="RM")
        published = avahi.start(
            *("avahi-publish-service", "-s", "EVSE1038", "_s2connect._tcp", "443"),
            *("txtvers=1", "e_name=brand", "pairingUrl=https://EVSE1038.local:443/pairing/"),
            *("--sub", "_rm._sub._s2connect._tcp"),
        )
        found = event(browser, "Appeared", "EVSE1038")
        assert found["roles"] == ["RM"]
        assert found["name"] == "brand"
        assert found["pairing_url"] == "https://EVSE1038.local:443/pairing/"
        named = avahi.start("avahi-publish-address", "-R", "EVSE1038.local", "10.77.1.1")
        named.wait_for("Established")
        assert run(mine, "resolve", host="EVSE1038.local")["addresses"] == ["10.77.1.1"]
        published.stop()
        event(browser, "Vanished", "EVSE1038", timeout=5)


@pytest.mark.rule("DISC-07")
def test_a_name_that_avahi_holds_is_a_conflict() -> None:
    with Lan(2, ipv6=False) as lan:
        avahi = Avahi(lan.hosts[0])
        avahi.start("avahi-publish-service", "-s", "ems-1", "_s2connect._tcp", "443", "txtver=1").wait_for(
            "Established"
        )
        start(lan.hosts[1], "advertise", host="ems-1.local").wait_for("refused")
