"""docs/s2-over-mqtt.asyncapi.yaml: valid AsyncAPI, and what our code publishes fits it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from s2connect.model.common import Role
from s2connect.transports.mqtt.channel import Channel
from s2connect.transports.mqtt.device_list import ListedDevice, write_list
from s2connect.transports.mqtt.frames import Packet, presence
from s2connect.transports.mqtt.parameters import CloseReason, Protection, StaticGateway
from tests.transports.mqtt_sessions import (
    BOOT,
    CLIENT,
    MC,
    MESSAGE,
    SALT,
    SERVER,
    SID,
    SPACE,
    TOKEN,
    new_static_pair,
    static_session,
)
from tests.waits import patience

REPOSITORY = Path(__file__).resolve().parents[2]
FILE = REPOSITORY / "docs" / "s2-over-mqtt.asyncapi.yaml"
HOME = REPOSITORY / ".peers" / "asyncapi"
DOCUMENT: dict[str, Any] = yaml.safe_load(FILE.read_text("utf-8"))


def _resolved(value: Any) -> Any:
    """A schema with its references put in place."""
    if isinstance(value, list):
        return [_resolved(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        target: Any = DOCUMENT
        for part in value["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return _resolved(target)
    return {name: _resolved(item) for name, item in value.items()}


MESSAGES: dict[str, Any] = _resolved(DOCUMENT["components"]["messages"])


def _fits(packet: Packet, name: str) -> bool:
    message = MESSAGES[name]
    if packet.content_type != message["contentType"]:
        return False
    payload = message["payload"]
    try:
        if "headers" in message:
            jsonschema.validate(dict(packet.user_properties), message["headers"])
        if payload.get("format") == "binary":
            return len(packet.payload) >= payload["minLength"]
        jsonschema.validate(json.loads(packet.payload), payload)
    except jsonschema.ValidationError:
        return False
    return True


def test_the_parser_of_asyncapi_finds_the_file_valid() -> None:
    node = shutil.which("node")
    if node is None or not (HOME / ".installed").is_file():
        reason = "AsyncAPI's parser is not installed (bash tests/npm.sh; it needs node and npm)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    script = Path(__file__).with_name("asyncapi_check.mjs")
    done = subprocess.run([node, script, HOME, FILE], capture_output=True, text=True, timeout=patience(50), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "valid: {prefix}/s2/0/{server}/open " in done.stdout


@pytest.mark.rule("MQ-03")
def test_the_addresses_are_our_topics() -> None:
    values = {"prefix": "acme", "server": SERVER, "client": CLIENT, "mc": MC, "sid": SID}
    topics = {name: channel["address"].format(**values) for name, channel in DOCUMENT["channels"].items()}
    client, _ = new_static_pair(static_session())
    assert topics == {
        "open": SPACE.open(SERVER),
        "rm2cem": client.outbound_topic,
        "cem2rm": client.inbound_topic,
        "presence": SPACE.presence(MC),
        "devices": SPACE.devices(SERVER, MC),
    }


def _conversation(protection: Protection) -> list[Packet]:
    client, server = new_static_pair(static_session(protection=protection))
    packets: list[Packet] = []

    def carry(source: Channel, target: Channel) -> None:
        for packet in source.packets():
            packets.append(packet)
            target.receive(packet, 0.0)

    server.start(0.0)
    carry(server, client)
    carry(client, server)
    carry(server, client)
    client.send(MESSAGE, 0.0)
    client.close(CloseReason.RECONNECT, 0.0)
    carry(client, server)
    return packets


@pytest.mark.rule("MQ-05", "MQ-06")
def test_what_we_publish_fits_the_messages() -> None:
    plain = _conversation(Protection.PLAIN)
    for packet, name in zip(plain, ("accept", "ping", "pong", "data", "close"), strict=True):
        assert [found for found in MESSAGES if _fits(packet, found)] == [name]
    sealed = _conversation(Protection.SEALED)
    expected = ("sealedControl", "sealedControl", "sealedControl", "sealedData", "sealedControl")
    for packet, name in zip(sealed, expected, strict=True):
        assert [found for found in MESSAGES if _fits(packet, found)] == [name]
    assert _fits(presence(SPACE, MC, "online", BOOT), "presence")
    gateway = StaticGateway(
        topic_prefix="acme", server=SERVER, mc=MC, client_role=Role.RM, versions=("v1.0.0",), secret=TOKEN
    )
    for protection, name in ((Protection.PLAIN, "devices"), (Protection.SEALED, "sealedDevices")):
        packet = write_list(
            replace(gateway, protection=protection), [ListedDevice(id=CLIENT, name="ü")], at=1, salt=SALT
        )
        assert [found for found in MESSAGES if _fits(packet, found)] == [name]


@pytest.mark.rule("MQ-16")
def test_the_reasons_of_close_are_ours() -> None:
    assert DOCUMENT["components"]["schemas"]["Close"]["properties"]["reason"]["enum"] == [*CloseReason]


@pytest.mark.rule("MQ-11")
def test_the_open_of_the_vectors_fits() -> None:
    vectors = json.loads((REPOSITORY / "docs" / "s2-over-mqtt-vectors.json").read_text("utf-8"))
    for name in ("open", "staticOpen"):
        jsonschema.validate(json.loads(vectors[name]["payload"]), MESSAGES["open"]["payload"])
