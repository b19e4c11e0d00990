"""Nodes that come and go while an endpoint runs, and their aliases."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from uuid import uuid4

import pytest

from s2connect import Endpoint, NodeConfig, NodeId, PairingCode, Role, create_home
from s2connect.endpoint.settings import read_config
from s2connect.errors import ConfigurationError, NetworkError, NoLongerPaired, PairingRefused, UsageError
from s2connect.store.home import Home
from tests.endpoint.conftest import OpenEndpoint, lan_config
from tests.waits import until, within


def thing(role: Role = Role.RM, alias: str | None = None) -> NodeConfig:
    return NodeConfig(role=role, brand="Test", type="Thing", model_name="Two", alias=alias)


@pytest.mark.rule("TOK-03", "PAIR-01")
async def test_the_only_node_gets_an_alias_when_a_second_one_comes(cem: Endpoint, rm: Endpoint) -> None:
    first = cem.node()
    assert first.alias is None
    second = await cem.create_node(thing(Role.CEM))
    assert (first.alias, second.alias) == ("1", "2")
    code = second.issue_pairing_code()
    assert code.shown.startswith("2-")
    with pytest.raises(PairingRefused) as caught:
        await rm.node().pair(cem.pairing_url, code.token.reveal())
    assert caught.value.reason == "NoNodeIdProvided"
    pairing = await rm.node().pair(cem.pairing_url, code.shown.lower())  # as a person types it
    assert pairing.key.remote == second.id
    assert (await cem.create_node(thing())).alias == "3"


@pytest.mark.rule("TOK-03")
async def test_aliases_differ_by_more_than_case_and_look_alikes_and_older_ones_stay(cem: Endpoint) -> None:
    await cem.create_nodes([thing(Role.CEM, "O1"), thing(Role.CEM, "b")])
    for wrong in ("o1", "0I", "ol", "B"):
        with pytest.raises(ConfigurationError, match="is taken"):
            await cem.create_node(thing(Role.CEM, wrong))
    assert [node.alias for node in cem.nodes.values()] == ["1", "O1", "b"]
    assert cem.node(alias="B") is cem.node(alias="b")
    assert cem.node(alias="ol").alias == "O1"
    with pytest.raises(UsageError, match="no such node"):
        cem.node(alias="x")
    described = next(node for node in cem.config.nodes if node.alias == "b")
    await cem.describe_node(described.model_copy(update={"alias": None, "brand": "New"}))
    assert cem.node(alias="b").description.brand == "New"


async def test_homes_with_aliases_that_differ_by_case_only_open(open_endpoint: OpenEndpoint) -> None:
    nodes = (thing(alias="a"), thing(alias="A"))
    opened = await open_endpoint(lan_config(Role.RM, nodes=nodes))
    assert opened.node(alias="A").id == nodes[1].id
    await opened.create_node(thing())
    assert [node.alias for node in opened.nodes.values()] == ["a", "A", "1"]


@pytest.mark.rule("UNP-01", "UNP-02")
async def test_removing_a_node_ends_its_pairings_on_both_sides_and_its_codes(
    open_endpoint: OpenEndpoint, cem: Endpoint, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    await asyncio.to_thread(create_home, home, lan_config(Role.RM, vault="files"))
    async with Endpoint.open(home) as device:
        kept = device.node()
        gone = await device.create_node(thing())
        code = await gone.set_static_code()
        await gone.pair(cem.pairing_url, str(cem.node().issue_pairing_code()))
        ended = await device.remove_node(gone.id)
        assert [pairing.key.remote for pairing in ended] == [cem.node().id]
        assert list(device.nodes) == [kept.id]
        assert await cem.pairings() == []
        other = await open_endpoint(lan_config(Role.CEM))
        with pytest.raises(PairingRefused) as caught:
            await other.node().pair(device.pairing_url, code)
        assert caught.value.reason == "NodeNotFound"
        with pytest.raises(UsageError, match="only node"):
            await device.remove_node(kept.id)
        with pytest.raises(UsageError, match="no such node"):
            await device.remove_node(NodeId(uuid4()))
    assert [node.id for node in read_config(Home.open(home)).nodes] == [kept.id]
    async with Endpoint.open(home) as device:
        assert await device.pairings() == []
        again = await device.create_node(NodeConfig(role=Role.RM, id=gone.id))
        assert again.valid_pairing_code() is None


@pytest.mark.rule("UNP-02", "SES-01")
async def test_the_peer_of_a_removed_node_learns_that_the_pairing_is_over(cem: Endpoint, rm: Endpoint) -> None:
    first = cem.node()
    second = await cem.create_node(thing(Role.CEM))
    waiting = asyncio.create_task(anext(second.sessions()), name="test-sessions")
    await rm.node().pair(cem.pairing_url, str(second.issue_pairing_code()))
    async with within(10):
        session, far = await anext(rm.node().sessions()), await waiting
        async with session, far:
            assert len(await cem.remove_node(second.id)) == 1
            await session.wait_closed()
    assert cem.connected() == {}
    with pytest.raises(NoLongerPaired):
        await rm.node().open(second.id)
    assert await first.pairings() == []


@pytest.mark.rule("UNP-01")
async def test_a_node_whose_peer_cannot_be_reached_stays_unless_it_is_to_be_forgotten(
    open_endpoint: OpenEndpoint, rm: Endpoint
) -> None:
    async with Endpoint.open(config=lan_config(Role.CEM)) as manager:
        gone = await rm.create_node(thing())
        await gone.pair(manager.pairing_url, str(manager.node().issue_pairing_code()))
    with pytest.raises(NetworkError):
        await rm.remove_node(gone.id)
    assert (len(rm.nodes), len(await rm.pairings())) == (2, 1)
    await rm.remove_node(gone.id, forget=True)
    assert (len(rm.nodes), len(await rm.pairings())) == (1, 0)


@pytest.mark.rule("PAIR-01", "PAIR-02")
async def test_requests_that_wait_for_their_turn_at_a_node_that_is_removed_are_refused(
    cem: Endpoint, rm: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    gone = await cem.create_node(thing(Role.CEM))
    tries = [asyncio.create_task(rm.node().pair(cem.pairing_url, "2-AAAABBBBCCCC"), name="try") for _ in range(3)]
    core = cem._pairing.server  # only there is seen that they wait
    async with within(10):
        await until(lambda: core._in_flight.total() == 3)
        await cem.remove_node(gone.id)
        ends = await asyncio.gather(*tries, return_exceptions=True)
    assert [end.reason for end in ends if isinstance(end, PairingRefused)] == ["NodeNotFound"] * 3
    assert core._in_flight.total() == 0
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_nodes_that_a_person_changed_in_the_file_come_and_go_with_the_next_start(tmp_path: Path) -> None:
    home = tmp_path / "home"
    await asyncio.to_thread(create_home, home, lan_config(Role.CEM, vault="files"))
    async with Endpoint.open(home) as endpoint:
        await endpoint.create_node(thing())
        first, gone = endpoint.config.nodes
        edited = endpoint.config.model_copy(update={"nodes": (first, thing(alias="X"))})
        await asyncio.to_thread(Home.open(home).write_private, "config.json", edited.to_json())
        await endpoint.change_settings(lambda config: config.model_copy(update={"name": "Cellar"}))
        assert (endpoint.config.name, list(endpoint.nodes)) == ("Cellar", [first.id, gone.id])
        assert [node.id for node in endpoint.config.nodes] == list(endpoint.nodes)
        assert endpoint.nodes[gone.id].description.role is Role.RM
    assert read_config(Home.open(home)).nodes == edited.nodes


async def test_codes_of_a_removed_node_are_not_shown_any_more(rm: Endpoint) -> None:
    gone = await rm.create_node(thing())
    shown: list[PairingCode] = []
    showing = gone.show_codes(shown.append, lifetime=0.05)
    await until(lambda: bool(shown))
    await rm.remove_node(gone.id)
    async with within(10):
        await showing
    assert rm.supervisor.failures.counts == {}
    with pytest.raises(UsageError, match="removed"):
        gone.issue_pairing_code()


def test_a_node_without_an_id_in_the_home_is_refused_with_the_line_to_add(tmp_path: Path) -> None:
    create_home(tmp_path / "home", lan_config(Role.RM))
    home = Home.open(tmp_path / "home")
    settings = json.loads((home.path / "config.json").read_bytes())
    del settings["nodes"][0]["id"]
    home.write_private("config.json", json.dumps(settings).encode())
    with pytest.raises(ConfigurationError, match=r"nodes\.0\.id is missing") as refused:
        read_config(home)
    settings["nodes"][0] |= json.loads("{" + refused.value.hint.partition(": ")[2] + "}")
    home.write_private("config.json", json.dumps(settings).encode())
    assert read_config(home).nodes[0].role is Role.RM
