"""Endpoints in the local network, over mDNS in a network made for the test."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast
from uuid import uuid4

import pytest

from s2connect import Endpoint, NodeDescription, NodeId, Role
from s2connect.discovery.browse import Browser
from s2connect.discovery.endpoint_table import in_turn
from s2connect.discovery.txt import FoundEndpoint
from s2connect.model.url import BaseUrl
from s2connect.web.neighbours import LOOK_EVERY, MAX_FOUND, Neighbours
from tests.netns import Lan, require_netns
from tests.web.test_web_observation import config


@pytest.mark.long
def test_what_is_found_in_the_network_is_shown_with_its_nodes() -> None:
    require_netns()
    with Lan(2, ipv6=False) as lan:
        device = lan.hosts[1].start_python("""
            import asyncio
            from s2connect import Endpoint, EndpointConfig, NodeConfig, Role

            async def main():
                node = NodeConfig(role=Role.RM, brand="Acme", type="Battery", model_name="One")
                config = EndpointConfig(name="Garage", host="battery.local", port=8443, nodes=(node,))
                async with Endpoint.open(config=config):
                    print("runs", flush=True)
                    await asyncio.to_thread(input)

            asyncio.run(main())
        """)
        lan.hosts[0].python("""
            import asyncio
            from s2connect import Endpoint, EndpointConfig, NodeConfig, Role
            from s2connect.web.observation import Observation
            from tests.waits import until, within

            def found(observation):
                return [one for one in observation.snapshot().found if not one.ours]

            async def main():
                node = NodeConfig(role=Role.CEM, brand="Acme", type="Manager", model_name="Two")
                config = EndpointConfig(name="House", host="manager.local", port=8443, nodes=(node,))
                async with within(30), Endpoint.open(config=config) as endpoint:
                    observation = Observation(endpoint)
                    endpoint.supervisor.keep(observation.run, "observation")
                    endpoint.supervisor.keep(observation.follow_network, "look-around")
                    await until(lambda: found(observation) and found(observation)[0].nodes, 20)
                    (one,) = found(observation)
                    assert (one.name, one.roles, one.pairing_url) == (
                        "Garage", (Role.RM,), "https://battery.local:8443/pairing/"
                    )
                    assert [(n.brand, n.model_name) for n in one.nodes] == [("Acme", "One")]
                    assert not one.paired
                    await until(lambda: any(one.ours for one in observation.snapshot().found), 20)
                    assert observation.snapshot().found_note == ""

            asyncio.run(main())
        """)
        device.stop()


async def test_a_stranger_who_advertises_makes_this_endpoint_ask_nobody_elsewhere_and_nobody_often() -> None:
    async with Endpoint.open(config=config(Role.CEM)) as endpoint:
        neighbours = Neighbours(endpoint)

        def asks(url: str, now: float) -> bool:
            return neighbours._is_to_be_looked_at(BaseUrl(url), now)

        assert asks("https://battery.local:8443/pairing/", 0.0)
        assert not asks("https://battery.local:8443/pairing/", LOOK_EVERY - 1)
        assert asks("https://battery.local:8443/pairing/", LOOK_EVERY)
        assert asks("https://192.168.1.5:8443/pairing/", 0.0)
        assert asks("https://[fe80::1]:8443/pairing/", 0.0)
        for elsewhere in ("victim.example", "8.8.8.8", "[2001:4860:4860::8888]", "[2001:0:808:808::1]"):
            assert not asks(f"https://{elsewhere}/pairing/", 0.0)
        assert not asks(str(endpoint.pairing_url), 0.0), "itself"


def advertised(instance: str, address: str) -> FoundEndpoint:
    url = BaseUrl(f"https://{instance}.local:8443/pairing/")
    return FoundEndpoint(
        instance=instance, roles=frozenset(Role), host=f"{instance}.local", addresses=(address,), pairing_url=url
    )


@pytest.mark.rule("SEC-03")
async def test_a_hundred_endpoints_of_a_stranger_keep_nobody_from_being_asked_and_shown() -> None:
    evil = [advertised(f"evil-{number}", "10.0.0.66") for number in range(2 * MAX_FOUND)]
    there = in_turn([*evil, advertised("battery", "10.0.0.2"), advertised("charger", "10.0.0.3")])
    battery = NodeDescription(id=NodeId(uuid4()), brand="Acme", type="Battery", model_name="One", role=Role.RM)
    async with Endpoint.open(config=config(Role.CEM)) as endpoint:
        neighbours = Neighbours(endpoint)
        neighbours._browser = cast("Browser", SimpleNamespace(found=lambda: there))
        neighbours._due = {one.pairing_url for one in there}
        asked = []
        while (url := neighbours._next(there, 0.0)) is not None:
            asked.append(url.host)
        assert asked[:4] == ["evil-0.local", "battery.local", "charger.local", "evil-1.local"]
        assert len(asked) == MAX_FOUND, "nobody beyond those that are shown"
        found, more = neighbours.found(set())
        assert [one.instance for one in found[:4]] == ["evil-0", "battery", "charger", "evil-1"]
        assert (len(found), more) == (MAX_FOUND, MAX_FOUND + 2)
        neighbours._nodes = {BaseUrl("https://charger.local:8443/pairing/"): (battery,)}
        assert neighbours.found(set())[0][0].instance == "charger", "it has answered"
        neighbours._nodes |= {BaseUrl("https://evil-150.local:8443/pairing/"): (replace_id(battery),)}
        first, second, *_ = neighbours.found({battery.id})[0]
        assert (first.instance, first.paired, second.instance) == ("charger", True, "evil-150")


async def test_a_stranger_whose_url_changes_all_the_time_leaves_nothing_behind() -> None:
    async with Endpoint.open(config=config(Role.CEM)) as endpoint:
        neighbours = Neighbours(endpoint)
        neighbours._due = {BaseUrl(f"https://evil-{number}.local/pairing/") for number in range(50)}
        neighbours._forget({BaseUrl("https://evil-7.local/pairing/"), BaseUrl("https://evil-70.local/pairing/")})
        assert neighbours._due == {BaseUrl("https://evil-7.local/pairing/")}


def replace_id(node: NodeDescription) -> NodeDescription:
    return node.model_copy(update={"id": NodeId(uuid4())})
