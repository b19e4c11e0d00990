"""Metrics as Prometheus reads them, health, and their table in the documents."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from s2connect import Endpoint, EndpointConfig, MqttSettings, Role
from s2connect.errors import MessageRefused
from s2connect.events import PairingFailed, SessionFailed
from s2connect.https.server import free_port
from s2connect.model.secret import Secret
from s2connect.model.url import MqttUrl
from s2connect.transports.plain import connect_plain
from s2connect.web.facts import write_json
from s2connect.web.health import Part, is_ready, parts_of
from s2connect.web.metrics import Metrics, Monitoring
from s2connect.web.observation import Observation
from s2connect.web.server import PageServer
from tests.bridge.link_fixtures import answer
from tests.bridge.route_fixtures import private_file
from tests.bridge.test_bridge_bridge import PEER, FileSetup
from tests.bridge.test_bridge_relay import measurement
from tests.waits import until, within
from tests.web.test_web_observation import DETAILS, House, config, house, power

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"


def numbers(observation: Observation) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """The numbers as prometheus_client's own parser reads them, by sample and labels."""
    body = Monitoring(observation).metrics().body
    assert isinstance(body, bytes)
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in families(body.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def families(text: str) -> Iterable[Metric]:
    return text_string_to_metric_families(text)


def documented(heading: str) -> dict[str, set[str]]:
    """Names of the table below a heading, with their labels."""
    section = re.split(r"^## ", DOCUMENT.read_text("utf-8"), flags=re.MULTILINE)
    (found,) = (part for part in section if part.startswith(heading))
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*)\|", found, re.MULTILINE)
    return {name: set(re.findall(r"`(\w+)`", labels)) for name, _, labels in rows}


def shown(observation: Observation) -> dict[str, set[str]]:
    """Names and labels of our metrics, as the table writes them: a histogram without its parts."""
    body = Monitoring(observation).metrics().body
    assert isinstance(body, bytes)
    found = {}
    for family in families(body.decode()):
        if family.name.startswith("s2connect"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            found[name] = {label for sample in family.samples for label in sample.labels} - {"le"}
    return found


async def busy_house(found: House) -> None:
    session = await found.start()
    await session.send(DETAILS)
    await session.send(power(1.0))
    found.refusing = "no"
    with pytest.raises(MessageRefused):
        await session.send(power(2.0))
    peer = found.peer(found.device).peer
    found.rm._state.events.publish(PairingFailed(node=found.rm.node().id, peer=peer, reason="wrong_code"))
    found.rm.supervisor.failures.failed("connector", RuntimeError())
    await until(lambda: found.device.totals["refused", "wrong_code"])


async def test_the_numbers_of_serve_are_true() -> None:
    async with house() as found:
        await busy_house(found)
        read = numbers(found.device)
        assert read["s2connect_sessions"] == {(("role", "RM"),): 1}
        pairings = read["s2connect_pairings"]
        assert pairings[("role", "RM"), ("state", "connected")] == 1
        assert sum(pairings.values()) == 1
        fates = {labels[0][1]: value for labels, value in read["s2connect_messages_total"].items()}
        assert fates == {
            "received": 0,
            "sent": 3,
            "acknowledged": 3,
            "unacknowledged": 0,
            "refused_by_us": 0,
            "refused_by_peer": 1,
        }
        assert read["s2connect_refusals_total"] == {(("by", "peer"), ("status", "INVALID_CONTENT")): 1}
        assert read["s2connect_acknowledgement_seconds_count"] == {(): 3}
        assert read["s2connect_acknowledgement_seconds_bucket"][(("le", "+Inf"),)] == 3
        assert 0 < read["s2connect_acknowledgement_seconds_sum"][()] < 30
        assert 0 < read["s2connect_certificate_expires_seconds"][()] < 400 * 86_400
        assert read["s2connect_pairing_attempts_refused_total"] == {(("reason", "wrong_code"),): 1}
        assert read["s2connect_task_failures_total"] == {(("task", "connector"),): 1}
        assert read["s2connect_reconnects_total"] == {(): 0}
        assert read["process_resident_memory_bytes"][()] > 1e6
        there = numbers(found.manager)
        assert there["s2connect_refusals_total"] == {(("by", "us"), ("status", "INVALID_CONTENT")): 1}
        assert there["s2connect_received_characters_total"][()] > 300


@pytest.mark.long
async def test_what_was_counted_of_a_peer_stays_when_it_is_unpaired_and_a_second_session_is_a_reconnect() -> None:
    async with house() as found:
        session = await found.start()
        await session.send(DETAILS)
        await session.close()
        await until(lambda: numbers(found.device)["s2connect_reconnects_total"][()] == 1)
        before = numbers(found.device)["s2connect_messages_total"]
        await found.rm.node().unpair(found.cem.node().id)
        await until(lambda: not found.device.snapshot().peers)
        after = numbers(found.device)
        assert after["s2connect_messages_total"] == before
        assert after["s2connect_unpaired_total"] == {(("by", "us"),): 1}
        await until(lambda: [meter.key for meter in found.device.meters()] == [""])  # the sum of the past


async def test_every_metric_of_serve_is_in_the_documents_and_the_other_way_round() -> None:
    async with house() as found:
        await busy_house(found)
        await found.rm.node().unpair(found.cem.node().id)
        peer = found.cem.node().description
        failed = SessionFailed(node=found.rm.node().id, peer=peer, kind="not_reachable", sentence="", retry_in=None)
        found.rm._state.events.publish(failed)
        await until(lambda: found.device.totals["failed", "not_reachable"] and found.device.totals["unpaired", "us"])
        table = documented("Of both") | documented("Of `serve`")
        del table["s2connect_broker_connected"]  # there is no broker
        assert shown(found.device) == table


async def test_every_metric_of_a_bridge_is_in_the_documents_and_its_histogram_is_true(tmp_path: Path) -> None:
    setup = FileSetup(tmp_path)
    async with setup.managers("a") as acceptors, within(30):
        setup.write("a")
        async with setup.bridge() as bridge:
            observation = Observation(bridge.endpoint, bridge)
            device = await setup.device("a")
            manager = await anext(acceptors["a"])
            await device.send(measurement("m1"))
            await manager.recv()
            await manager.send(answer("m1", "INVALID_CONTENT"))
            await device.recv()
            bridge.endpoint.supervisor.failures.failed("link", RuntimeError())
            read = numbers(observation)
            key = ("route", "old"), ("sender", "RM")
            assert read["s2connect_bridge_acknowledgement_seconds_count"][key] == 1
            names, table = shown(observation), documented("Of both") | documented("Of a bridge")
            for rare in ("unpaired", "pairing_attempts_refused", "connect_failures"):  # none here: no label is shown
                table[f"s2connect_{rare}_total"] = set()
            table["s2connect_pairings"] = set()  # nor a node
            del table["s2connect_broker_connected"]  # nor a broker
            del table["s2connect_certificate_due_seconds"]
            del table["s2connect_certificate_expires_seconds"]  # nor a server of S2 Connect
            assert names == table
            assert [name for name in names if "task_failures" in name] == ["s2connect_task_failures_total"]
            await device.close()
            await manager.close()
            await until(lambda: numbers(observation)["s2connect_bridge_links"][("route", "old"), ("state", "up")] == 0)
            assert numbers(observation)["s2connect_bridge_acknowledgement_seconds_count"][key] == 1


@pytest.mark.long
async def test_no_label_has_a_text_of_a_peer_beyond_the_names_of_devices_and_no_secret_is_shown() -> None:
    async with house(by_code=True) as found:
        await busy_house(found)
        body = Monitoring(found.manager).metrics().body
        assert isinstance(body, bytes)
        for token in await _tokens(found.rm):
            assert token not in body.decode()
            for observation in (found.manager, found.device):
                everything = write_json([observation.snapshot(), observation.messages(), observation.curves()])
                assert token not in everything
        assert str(found.rm.node().id) not in body.decode()


async def _tokens(endpoint: Endpoint) -> list[str]:
    found = []
    for pairing in await endpoint.pairings():
        found += [token.reveal() for token in await endpoint._state.store.candidate_tokens(pairing)]
    assert found
    return found


# Health


async def answers(url: str, path: str) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as http, http.get(f"{url.rstrip('/')}{path}") as response:
        text = await response.text()
        return response.status, json.loads(text) if response.content_type == "application/json" else text


async def test_an_endpoint_is_ready_once_it_listens_and_an_application_takes_sessions() -> None:
    async with within(20), Endpoint.open(config=config(Role.CEM), listen=False) as endpoint:
        observation = Observation(endpoint)
        server = PageServer(supervisor=endpoint.supervisor, port=0)
        Monitoring(observation).install(server)
        await server.start()
        try:
            assert await answers(server.url, "/healthz") == (200, {"alive": True})
            status, body = await answers(server.url, "/readyz")
            assert status == 503
            assert {part["name"] for part in body["parts"] if not part["ready"]} == {"endpoint", "sessions"}
            await endpoint.listen()
            endpoint.supervisor.spawn(anext(aiter(endpoint.node().sessions())), "test-take")
            await until(lambda: is_ready(list(parts_of(observation))))
            status, body = await answers(server.url, "/readyz")
            assert (status, body["ready"]) == (200, True)
            assert all(part["sentence"] == "" for part in body["parts"])
            status, text = await answers(server.url, "/metrics")
            assert status == 200
            assert "s2connect_info" in text
        finally:
            await server.close()


def test_what_is_not_needed_does_not_make_a_service_unready() -> None:
    assert is_ready([Part("a", ready=True), Part("b", ready=False, needed=False)])
    assert not is_ready([Part("a", ready=True), Part("b", ready=False)])


async def test_a_bridge_whose_route_does_not_run_says_which(tmp_path: Path) -> None:
    setup = FileSetup(tmp_path)
    setup.write("a")
    async with within(20), setup.bridge() as bridge:
        observation = Observation(bridge.endpoint, bridge)
        async with Metrics(observation, 0) as metrics:
            url = f"http://127.0.0.1:{metrics.port}"
            assert await answers(url, "/healthz") == (200, {"alive": True})
            assert (await answers(url, "/readyz"))[0] == 200
            bridge.failed["old"] = "The port is taken."
            status, body = await answers(url, "/readyz")
            assert status == 503
            assert [(part["name"], part["sentence"]) for part in body["parts"] if not part["ready"]] == [
                ("route old", "The port is taken.")
            ]
            (task,) = bridge.routes["old"]._tasks.values()
            task.cancel()
            await until(task.done)
            assert await answers(url, "/healthz") == (503, {"alive": False})


async def test_what_a_bridge_shows_has_no_token_of_a_device_and_no_handshake(tmp_path: Path) -> None:
    setup, token = FileSetup(tmp_path), "a-token-that-nobody-sees"
    private_file(tmp_path / "token", token)
    async with setup.managers("a") as acceptors, within(30):
        setup.write("a")
        text = setup.file.read_text().replace('name = "a"\n', 'name = "a"\ntoken_file = "token"\n')
        setup.file.write_text(text)
        async with setup.bridge() as bridge:
            observation = Observation(bridge.endpoint, bridge)
            url = f"ws://127.0.0.1:{setup.port}/a"
            device = await connect_plain(url, role=Role.RM, local=PEER, token=Secret(token))
            manager = await anext(acceptors["a"])
            await device.send(measurement("m1"))
            await manager.recv()
            assert {one.type for one in observation.messages()} == {"PowerMeasurement"}
            everything = write_json([observation.snapshot(), observation.messages(), observation.curves()])
            body = Monitoring(observation).metrics().body
            assert isinstance(body, bytes)
            assert token not in everything + body.decode() + json.dumps(bridge.status())
            await device.close()
            await manager.close()


async def test_a_broker_that_is_away_is_a_number() -> None:
    broker = MqttSettings(url=MqttUrl(f"mqtts://localhost:{free_port()}"), client_id="house")
    async with Endpoint.open(config=EndpointConfig(host="localhost", mqtt=broker), serve=False) as endpoint:
        assert numbers(Observation(endpoint))["s2connect_broker_connected"] == {(): 0}
