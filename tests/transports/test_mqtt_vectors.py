"""The published vectors: computed anew, and run against our code."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from s2connect.model.common import MQTT, NodeId, Role
from s2connect.transports.base import ConnectionInfo
from s2connect.transports.mqtt.admission import Admission, MqttOffer
from s2connect.transports.mqtt.channel import ClientChannel, ServerChannel
from s2connect.transports.mqtt.device_list import DeviceList, ListedDevice, read_list, write_list
from s2connect.transports.mqtt.frames import Frame, FrameKind, Packet, read_frame, write_control, write_frame
from s2connect.transports.mqtt.parameters import (
    Closed,
    CloseReason,
    Event,
    Opened,
    Protection,
    Received,
    SessionParameters,
    SessionToken,
    StaticGateway,
    StaticSession,
)
from s2connect.transports.mqtt.sealing import NotAuthentic, Sealer, _place, open_proof, session_key
from s2connect.transports.mqtt.topics import Direction, TopicSpace
from s2connect.transports.offers import OfferTable
from tests.transports import mqtt_vectors
from tests.waits import patience

VECTORS: dict[str, Any] = json.loads(mqtt_vectors.FILE.read_text("utf-8"))
SESSION = VECTORS["session"]
TOKEN = SessionToken(SESSION["sessionToken"])
SPACE = TopicSpace(SESSION["topicPrefix"])
SERVER, CLIENT = NodeId(UUID(SESSION["server"])), NodeId(UUID(SESSION["client"]))
SALT = bytes.fromhex(SESSION["staticSalt"])
PARAMETERS = SessionParameters(
    space=SPACE,
    server=SERVER,
    client=CLIENT,
    client_role=Role(SESSION["clientRole"]),
    mc=SESSION["mc"],
    sid=SESSION["sid"],
    protection=Protection.SEALED,
    versions=(SESSION["version"],),
)


def _packet(frame: dict[str, Any]) -> Packet:
    properties = tuple((name, value) for name, value in frame["userProperties"])
    payload = bytes.fromhex(frame["sealed"]) if "sealed" in frame else frame["payload"].encode()
    return Packet(frame["topic"], payload, frame["contentType"], properties)


def _opened_server() -> ServerChannel:
    offers: OfferTable[tuple[MqttOffer, Any]] = OfferTable()
    info = ConnectionInfo(MQTT, SERVER, CLIENT, PARAMETERS.versions[0])
    offers.add(PARAMETERS.sid, (MqttOffer(info, replace(PARAMETERS, mc=""), TOKEN), None), now=0.0)
    channel = Admission(SPACE, offers).receive(_packet(VECTORS["open"]), now=0.0, salt=bytes(32))
    assert isinstance(channel, ServerChannel)
    assert channel.start(0.0) == [Opened(SESSION["version"])]
    return channel


def test_the_file_is_what_its_generator_writes() -> None:
    assert mqtt_vectors.FILE.read_text("utf-8") == mqtt_vectors.text()


@pytest.mark.rule("MQ-07")
def test_the_hkdf_of_the_generator_is_that_of_rfc_5869() -> None:
    """Test case 1 and 3 of its appendix A."""
    key = bytes.fromhex("0b" * 22)
    first = mqtt_vectors.hkdf(key, bytes(range(13)), bytes(range(0xF0, 0xFA)), 42)
    assert first.hex().startswith("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf")
    third = mqtt_vectors.hkdf(key, b"", b"", 42)
    assert third.hex().startswith("8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d")


@pytest.mark.rule("MQ-07", "MQ-09", "MQ-11")
def test_another_language_comes_to_the_same_results() -> None:
    node = shutil.which("node")
    if node is None:
        reason = "node is not installed (Debian: apt-get install nodejs)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    script = Path(__file__).with_name("vectors_check.mjs")
    command: list[str | Path] = [node, script, mqtt_vectors.FILE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=patience(30), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^[4-9]\d passed, 0 failed$", done.stdout, re.MULTILINE)


@pytest.mark.rule("MQ-03")
def test_topics() -> None:
    topics = VECTORS["topics"]
    assert SPACE.open(SERVER) == topics["open"]
    assert SPACE.read_open(topics["open"]) == SERVER
    assert PARAMETERS.topic(Direction.RM2CEM) == topics["rm2cem"]
    assert PARAMETERS.topic(Direction.CEM2RM) == topics["cem2rm"]
    assert SPACE.presence(SESSION["mc"]) == topics["presence"]
    assert SPACE.inbound(SESSION["mc"], Direction.CEM2RM) == topics["inboundOfClient"]


@pytest.mark.rule("MQ-07")
@pytest.mark.parametrize("entry", VECTORS["keys"], ids=lambda e: e["direction"] + ("-salted" if e["salt"] else ""))
def test_keys(entry: dict[str, str]) -> None:
    key = session_key(TOKEN, Direction(entry["direction"]), SESSION["sid"], salt=bytes.fromhex(entry["salt"]))
    assert key.hex() == entry["key"]


@pytest.mark.rule("MQ-11")
@pytest.mark.parametrize("name", ["open", "staticOpen"])
def test_the_proof_of_open(name: str) -> None:
    versions = SESSION["staticVersions"] if name == "staticOpen" else ()
    proof = open_proof(TOKEN, SESSION["sid"], SESSION["mc"], SESSION["boot"], versions)
    assert proof.hex() == VECTORS[name]["proof"]
    assert json.loads(VECTORS[name]["payload"])["proof"] == base64.b64encode(proof).decode()


@pytest.mark.rule("MQ-06", "MQ-07")
@pytest.mark.parametrize("frame", VECTORS["frames"], ids=lambda f: f"{f['kind']}-{f['seq']}")
def test_sealed_frames(frame: dict[str, Any]) -> None:
    kind, seq, plaintext = frame["kind"], frame["seq"], frame["plaintext"].encode()
    assert (_place(frame["topic"], kind) + seq.to_bytes(8)).hex() == frame["associatedData"]
    sealer = Sealer(session_key(TOKEN, Direction(frame["direction"]), SESSION["sid"]), frame["topic"])
    sealed = sealer.seal(kind, seq, plaintext)
    assert sealed.hex() == frame["sealed"]
    assert sealer.unseal(kind, seq, sealed) == plaintext
    version = SESSION["version"] if kind == "data" else None
    ours = write_frame(frame["topic"], Frame(FrameKind(kind), seq, sealed, version), sealed=True)
    assert ours == _packet(frame)
    assert read_frame(_packet(frame), sealed=True) == Frame(FrameKind(kind), seq, sealed, version)


@pytest.mark.rule("MQ-11")
def test_our_client_opens_with_the_bytes_of_the_vectors() -> None:
    client = ClientChannel(PARAMETERS, token=TOKEN, boot=SESSION["boot"])
    client.start(0.0)
    (packet,) = client.packets()
    assert replace_expiry(packet) == _packet(VECTORS["open"])
    assert client.receive(_packet(VECTORS["frames"][0]), 0.0) == [Opened(SESSION["version"])]
    client.send(VECTORS["frames"][1]["plaintext"], 0.0)
    (packet,) = client.packets()
    assert replace_expiry(packet) == _packet(VECTORS["frames"][1])


@pytest.mark.rule("MQ-19")
def test_our_static_client_takes_the_accept_of_the_vectors() -> None:
    session = StaticSession(
        topic_prefix=SESSION["topicPrefix"],
        server=SERVER,
        client=CLIENT,
        mc=SESSION["mc"],
        client_role=Role.RM,
        versions=tuple(SESSION["staticVersions"]),
        secret=TOKEN,
    )
    client = ClientChannel(SessionParameters.of_static(session, SESSION["sid"]), token=TOKEN, boot=SESSION["boot"])
    client.start(0.0)
    assert replace_expiry(client.packets()[0]) == _packet(VECTORS["staticOpen"])
    assert client.receive(_packet(VECTORS["staticAccept"]), 0.0) == [Opened(SESSION["version"])]

    admission = Admission(SPACE, OfferTable())
    admission.add_static(session)
    server = admission.receive(_packet(VECTORS["staticOpen"]), now=0.0, salt=SALT)
    assert isinstance(server, ServerChannel)
    assert server.start(0.0) == []
    assert replace_expiry(server.packets()[0]) == _packet(VECTORS["staticAccept"])


def replace_expiry(packet: Packet) -> Packet:
    """The packet as a receiver sees it who does not look at the expiry."""
    assert packet.expiry
    return Packet(
        packet.topic,
        packet.payload,
        packet.content_type,
        packet.user_properties,
        packet.correlation,
        None,
        packet.retain,
    )


@pytest.mark.rule("MQ-07", "MQ-09")
@pytest.mark.parametrize("case", VECTORS["received"], ids=lambda c: c["name"])
def test_what_becomes_of_received_frames(case: dict[str, Any]) -> None:
    server = _opened_server()
    events: list[Event] = []
    for frame in case["frames"]:
        events += server.receive(_packet(frame), 1.0)
    assert len([event for event in events if isinstance(event, Received)]) == case["delivered"]
    reasons = [event.reason for event in events if isinstance(event, Closed)]
    assert reasons == ([CloseReason(case["closesWith"])] if case["closesWith"] else [])


@pytest.mark.rule("MQ-07")
def test_the_control_payloads_of_the_vectors_are_written_as_ours() -> None:
    assert write_control({"reason": "reconnect", "after": 2.5}).decode() == VECTORS["frames"][5]["plaintext"]
    with pytest.raises(NotAuthentic):
        Sealer(bytes(32), VECTORS["topics"]["rm2cem"]).unseal("data", 1, b"")


@pytest.mark.rule("MQ-19")
def test_the_list_of_devices_has_the_bytes_of_the_vectors() -> None:
    gateway = StaticGateway(
        topic_prefix=SESSION["topicPrefix"],
        server=SERVER,
        mc=SESSION["mc"],
        client_role=Role.RM,
        versions=("v1.0.0",),
        secret=TOKEN,
    )
    devices = [ListedDevice(id=CLIENT, name="W\u00e4rmepumpe", brand="Acme")]
    packet = write_list(gateway, devices, at=1767225600000, salt=SALT)
    assert (packet.topic, packet.payload.hex()) == (VECTORS["devices"]["topic"], VECTORS["devices"]["sealed"])
    assert [list(each) for each in packet.user_properties] == VECTORS["devices"]["userProperties"]
    assert packet.content_type == VECTORS["devices"]["contentType"]
    assert read_list(gateway, packet) == DeviceList(tuple(devices), 1767225600000)
