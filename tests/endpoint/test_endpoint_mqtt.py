"""Endpoints that pair and have their session over a real Mosquitto, and over WebSocket where that cannot be."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import web

from s2connect import Endpoint, EndpointConfig, NodeConfig, Role
from s2connect.model.common import MQTT, WEBSOCKET, NodeId
from s2connect.model.roles import CommunicationRole
from s2connect.model.url import MqttUrl
from s2connect.transports.base import Connection
from s2connect.transports.mqtt.settings import MqttSettings
from tests.endpoint.conftest import MEASUREMENT, Interloper, OpenEndpoint, Wan, identity_of, lan_config
from tests.mosquitto import Mosquitto, access_list, password
from tests.waits import until, within

RM, CEM = NodeId(uuid4()), NodeId(uuid4())
IDS = {Role.RM: RM, Role.CEM: CEM}


@pytest.fixture
def broker(tmp_path: Path) -> Any:
    users = {"cem": [str(CEM)], "rm": [str(RM)]}
    directory = tmp_path / "broker"
    directory.mkdir()
    found = Mosquitto(directory, list(users), access_list(users))
    found.start()
    yield found
    found.kill()


@pytest.fixture
def config(broker: Mosquitto, tmp_path: Path) -> Callable[..., EndpointConfig]:
    def make(role: Role, *, base: EndpointConfig | None = None, mqtt: bool = True) -> EndpointConfig:
        user = role.lower()
        secret = tmp_path / f"{user}.password"
        secret.touch(0o600)
        secret.write_text(f"{password(user).reveal()}\n")
        settings = MqttSettings(
            url=MqttUrl(broker.url), client_id=user, username=user, password_file=secret, ca_file=broker.ca_file
        )
        node = NodeConfig(id=IDS[role], role=role, communication_protocols=(MQTT, WEBSOCKET) if mqtt else (WEBSOCKET,))
        return (base or lan_config(role)).model_copy(update={"nodes": (node,), "mqtt": settings if mqtt else None})

    return make


async def linked(endpoint: Endpoint) -> None:
    """Wait until an endpoint is connected with its broker."""
    mqtt = endpoint.mqtt
    assert mqtt is not None
    await until(mqtt.can_offer)


async def meet(rm: Endpoint, cem: Endpoint) -> tuple[Connection, Connection]:
    async with within(30):
        (one, _), (other, _) = await asyncio.gather(anext(rm.node().connections()), anext(cem.node().connections()))
    return one, other


async def exchange(one: Connection, other: Connection) -> None:
    for sender, receiver in ((one, other), (other, one)):
        text = json.dumps({**MEASUREMENT, "message_id": "m-1"}, indent=1)
        await sender.send(text)
        assert await receiver.recv() == text
    await part(one, other)


async def part(*connections: Connection) -> None:
    await asyncio.gather(*(connection.close() for connection in connections))


@pytest.mark.rule("MQ-01", "MQ-02", "MQ-20")
async def test_two_endpoints_of_the_lan_pair_and_have_a_session_over_the_broker(
    open_endpoint: OpenEndpoint, config: Callable[..., EndpointConfig]
) -> None:
    cem, rm = await open_endpoint(config(Role.CEM)), await open_endpoint(config(Role.RM))
    await asyncio.gather(linked(cem), linked(rm))
    pairing = await rm.node().pair(cem.pairing_url, cem.node().issue_pairing_code())
    assert pairing.communication_role is CommunicationRole.CLIENT
    device, manager = await meet(rm, cem)
    assert device.info.protocol == manager.info.protocol == MQTT
    await exchange(device, manager)


@pytest.mark.rule("MQ-01", "ROLE-02")
async def test_a_device_in_the_cloud_is_the_server_of_a_session_over_the_broker(
    open_endpoint: OpenEndpoint, config: Callable[..., EndpointConfig], wan: Wan
) -> None:
    rm = await open_endpoint(config(Role.RM, base=wan.config(Role.RM, "rm.example.com")))
    base = lan_config(Role.CEM, trust_anchors=wan.anchors)
    cem = await open_endpoint(config(Role.CEM, base=base), addresses={"rm.example.com": "127.0.0.1"})
    await asyncio.gather(linked(cem), linked(rm))
    pairing = await cem.node().pair(rm.pairing_url, rm.node().issue_pairing_code())
    assert pairing.communication_role is CommunicationRole.CLIENT
    device, manager = await meet(rm, cem)
    assert device.info.protocol == MQTT
    await exchange(device, manager)


@pytest.mark.rule("MQ-01")
async def test_without_the_broker_the_session_is_over_websocket(
    open_endpoint: OpenEndpoint, config: Callable[..., EndpointConfig], broker: Mosquitto
) -> None:
    broker.stop()
    cem, rm = await open_endpoint(config(Role.CEM)), await open_endpoint(config(Role.RM))
    await rm.node().pair(cem.pairing_url, cem.node().issue_pairing_code())
    device, manager = await meet(rm, cem)
    assert device.info.protocol == manager.info.protocol == WEBSOCKET
    await exchange(device, manager)


@pytest.mark.rule("MQ-01")
async def test_with_a_peer_that_does_not_speak_it_the_session_is_over_websocket(
    open_endpoint: OpenEndpoint, config: Callable[..., EndpointConfig]
) -> None:
    cem, rm = await open_endpoint(config(Role.CEM, mqtt=False)), await open_endpoint(config(Role.RM))
    await rm.node().pair(cem.pairing_url, cem.node().issue_pairing_code())
    device, manager = await meet(rm, cem)
    assert device.info.protocol == manager.info.protocol == WEBSOCKET
    await part(device, manager)


def stumbling(operation: str, answer: Callable[[], web.Response]) -> tuple[list[str], Any]:
    """A peer that does not get over the first request in which it finds a name that it does not know."""
    stumbled: list[str] = []

    async def spoil(name: str, forward: Callable[[], Awaitable[web.Response]]) -> web.Response:
        if name == operation and not stumbled:
            stumbled.append(name)
            return answer()
        return await forward()

    return stumbled, spoil


def parsing_error() -> web.Response:
    return web.json_response({"errorMessage": "ParsingError"}, status=400)


def server_error() -> web.Response:
    return web.Response(status=500)


@pytest.mark.rule("MQ-01")
@pytest.mark.parametrize("answer", [parsing_error, server_error])
async def test_a_peer_that_stumbles_over_the_name_when_pairing_is_asked_again_with_websocket_alone(
    open_endpoint: OpenEndpoint, config: Callable[..., EndpointConfig], answer: Callable[[], web.Response]
) -> None:
    cem, rm = await open_endpoint(config(Role.CEM)), await open_endpoint(config(Role.RM))
    front = Interloper(cem, identity_of(cem))
    stumbled, front.spoil = stumbling("requestPairing", answer)
    async with front.running():
        pairing = await rm.node().pair(front.pairing_url, cem.node().issue_pairing_code())
    assert stumbled
    assert front.seen.count("requestPairing") == 2
    assert pairing.peer.id == CEM


@pytest.mark.rule("MQ-01")
@pytest.mark.parametrize("answer", [parsing_error, server_error])
async def test_a_peer_that_stumbles_over_the_name_is_asked_for_a_session_over_websocket_from_then_on(
    open_endpoint: OpenEndpoint, config: Callable[..., EndpointConfig], answer: Callable[[], web.Response]
) -> None:
    cem, rm = await open_endpoint(config(Role.CEM)), await open_endpoint(config(Role.RM))
    await asyncio.gather(linked(cem), linked(rm))
    pairing = await rm.node().pair(cem.pairing_url, cem.node().issue_pairing_code())
    came: list[Connection] = []

    async def take() -> None:
        async for connection, _ in cem.node().connections():
            came.append(connection)
            async for _ in connection:
                pass

    taking = asyncio.create_task(take())
    front = Interloper(cem, identity_of(cem))
    stumbled, front.spoil = stumbling("initiateSession", answer)
    async with front.running(), within(20):
        url = type(cem.session_url)(f"https://127.0.0.1:{front.port}/session/")
        pairing = replace(pairing, initiate_session_url=url)
        for number in (2, 3):
            connection, _ = await rm._client.open(rm._state.local, rm._state.local.nodes[RM], pairing)
            assert connection.info.protocol == WEBSOCKET
            assert front.seen.count("initiateSession") == number, "remembered: it stumbles no second time"
            await connection.close()
    assert stumbled
    assert {connection.info.protocol for connection in came} == {WEBSOCKET}
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)
