"""Endpoints in the local network, over mDNS in a network made for the test."""

from __future__ import annotations

import pytest

from tests.netns import Lan, require_netns


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
