"""Whole conversations through the bridge, over each pair of transports, unchanged byte for byte."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from s2connect import Role
from s2connect.bridge.link_state import LinkState
from s2connect.messages.envelope import read_message
from tests.bridge.bridge_fixtures import MQ, PLAIN, WSS, BridgeSetup, both
from tests.bridge.frbc_texts import ALL_FROM_CEM, ALL_FROM_RM, converse
from tests.mosquitto import HOST, password
from tests.waits import patience, within

RM, CEM = Role.RM, Role.CEM

PAIRS = [(WSS, WSS), (WSS, MQ), (MQ, WSS), (MQ, MQ), (PLAIN, WSS), (PLAIN, MQ), (WSS, PLAIN)]


def messages(texts: list[str]) -> list[str]:
    return [text for text in texts if read_message(text).id is not None]


def answers(texts: list[str]) -> list[str]:
    return sorted(text for text in texts if read_message(text).id is None)


async def carry_a_conversation(setup: BridgeSetup) -> None:
    iterators = {role: setup.sessions(role) for role in Role}
    sessions = await both(setup, iterators)
    async with within(20):
        await converse(sessions[RM], sessions[CEM])
    rm, cem = setup.heard[RM], setup.heard[CEM]
    for sender, receiver, said in ((rm, cem, ALL_FROM_RM), (cem, rm, ALL_FROM_CEM)):
        assert sorted(messages(sender.sent)) == sorted(said)
        assert messages(receiver.received) == messages(sender.sent), "unchanged, once, in order"
        assert answers(sender.received) == answers(receiver.sent), "the answers as the other side wrote them"
        assert len(answers(sender.received)) == len(said)
    status = setup.link.status()
    assert status.state is LinkState.UP
    for role, kind in setup.kinds.items():
        assert status.sides[role].protocol == {WSS: "WebSocket", MQ: "X-MQTT5-0", PLAIN: "S2-WebSocket"}[kind]
    for role, said in ((RM, ALL_FROM_RM), (CEM, ALL_FROM_CEM)):
        counts = status.counts[role]
        assert counts["forwarded"] == counts["acknowledged"] == len(said)
        assert counts["refused"] == counts["unanswered"] == counts["late"] == counts["stray"] == 0
    await asyncio.gather(*(session.close() for session in sessions.values()))


@pytest.mark.rule("MSG-06")
@pytest.mark.parametrize(("devices", "manager"), PAIRS)
async def test_a_conversation_passes_unchanged_in_both_directions_at_once(
    devices: str, manager: str, tmp_path: Path
) -> None:
    async with BridgeSetup(tmp_path, devices, manager) as setup:
        await carry_a_conversation(setup)


@pytest.mark.parametrize("kind", [WSS, MQ])
async def test_the_bridge_connects_to_the_device_and_the_energy_manager_to_the_bridge(
    kind: str, tmp_path: Path
) -> None:
    async with BridgeSetup(tmp_path, kind, kind, device_is_server=True, manager_is_client=True) as setup:
        await carry_a_conversation(setup)


@pytest.mark.rule("MQ-03")
async def test_a_client_that_tries_the_topics_of_another_one_is_refused_by_the_access_list(tmp_path: Path) -> None:

    async with BridgeSetup(tmp_path, MQ, MQ) as setup:
        iterators = {role: setup.sessions(role) for role in Role}
        sessions = await both(setup, iterators)
        broker, loop = setup.broker, asyncio.get_running_loop()
        assert broker is not None
        bridge, device = setup.ids["bridge"], setup.ids["device"]

        def spy() -> None:
            heard: list[str] = []
            client = paho.Client(CallbackAPIVersion.VERSION2, "stranger", protocol=paho.MQTTv5)
            client.username_pw_set("stranger", password("stranger").reveal())
            client.tls_set_context(broker.context())
            client.on_message = lambda c, u, message: heard.append(message.topic)
            client.connect(HOST, broker.port)
            client.loop_start()
            subscribed = threading.Semaphore(0)
            client.on_subscribe = lambda *told: subscribed.release()
            topics = [f"s2/s2/0/{bridge}/device/#", f"s2/s2/0/{bridge}/open", f"s2/s2/0/{bridge}/#", "#", "+/#"]
            for topic in topics:
                client.subscribe(topic, 1)
                assert subscribed.acquire(timeout=patience(5))
            for name in ("x", str(device)):
                client.publish(f"s2/s2/0/{bridge}/device/{name}/r", b"forged", 1).wait_for_publish(patience(5))
            listening.set()
            assert finished.wait(patience(20))
            client.disconnect()
            client.loop_stop()
            assert not heard

        listening, finished = threading.Event(), threading.Event()
        spying = loop.run_in_executor(None, spy)
        try:
            assert await asyncio.to_thread(listening.wait, patience(20))
            async with within(20):
                await converse(sessions[RM], sessions[CEM])
        finally:
            finished.set()
            await spying
        assert setup.link.status().state is LinkState.UP, "the session did not notice anything"
        log = broker.log_file.read_text()
        assert "Denied PUBLISH from stranger" in log
        assert messages(setup.heard[CEM].received) == messages(setup.heard[RM].sent)
        await asyncio.gather(*(session.close() for session in sessions.values()))
