from __future__ import annotations

import base64
from typing import Any

import pytest

from s2connect.errors import ConfigurationError, InvalidUrl
from s2connect.model.common import MQTT, MalformedMessage
from s2connect.model.session_init import CommunicationDetails
from s2connect.model.url import MqttUrl
from s2connect.transports.mqtt.parameters import (
    MAX_VERSIONS,
    ChannelLimits,
    MqttCommunicationDetails,
    Protection,
    SessionParameters,
    SessionToken,
)
from tests.transports.mqtt_sessions import CLIENT, SERVER, SID, TOKEN, static_session

WIRE = {
    "communicationProtocol": MQTT,
    "mqttUrl": "mqtts://broker.example/",
    "topicPrefix": "acme/site-7",
    "sessionId": SID,
    "sessionToken": TOKEN.reveal(),
    "username": "gateway-7",
    "password": "a secret word",
    "protection": "plain",
}


@pytest.mark.rule("MQ-01", "MQ-02")
def test_details_are_read_as_they_are_written() -> None:
    assert MQTT == "X-MQTT5-0"
    details = MqttCommunicationDetails.from_value(WIRE)
    assert details.to_value() == WIRE
    assert details.mqtt_url.port == 8883
    # What the session core read without knowing the protocol is enough to read it again.
    general = CommunicationDetails.from_value(WIRE)
    assert MqttCommunicationDetails.from_value(general.to_value()) == details


@pytest.mark.rule("MQ-02", "MQ-07")
def test_sealed_is_the_default_and_credentials_are_optional() -> None:
    few = {name: value for name, value in WIRE.items() if name not in ("username", "password", "protection")}
    details = MqttCommunicationDetails.from_value(few)
    assert details.protection is Protection.SEALED
    assert details.username is details.password is None


@pytest.mark.rule("MQ-02")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mqttUrl", "mqtt://broker.example/"),
        ("mqttUrl", "ws://broker.example/"),
        ("mqttUrl", "mqtts://user:word@broker.example/"),
        ("mqttUrl", None),
        ("topicPrefix", "a/#"),
        ("topicPrefix", ""),
        ("sessionId", "a/b"),
        ("sessionToken", base64.b64encode(bytes(31)).decode()),
        ("sessionToken", "no base64"),
        ("username", ""),
        ("username", "a\0b"),
        ("protection", "none"),
    ],
)
def test_details_that_cannot_be_used(name: str, value: Any) -> None:
    with pytest.raises(MalformedMessage) as caught:
        MqttCommunicationDetails.from_value({**WIRE, name: value})
    assert str(caught.value).startswith(f"{name} is ") or f"{name} cannot be used" in str(caught.value)
    assert not value or name == "protection" or str(value) not in str(caught.value)


@pytest.mark.rule("MQ-02", "VER-07")
def test_null_for_the_protection_counts_as_absent() -> None:
    assert MqttCommunicationDetails.from_value({**WIRE, "protection": None}).protection is Protection.SEALED


@pytest.mark.rule("SEC-01")
def test_details_do_not_show_their_secrets() -> None:
    shown = repr(MqttCommunicationDetails.from_value(WIRE)) + repr(static_session())
    assert TOKEN.reveal() not in shown
    assert "a secret word" not in shown


@pytest.mark.rule("MQ-02")
def test_urls_of_brokers() -> None:
    assert (MqttUrl("mqtts://b.example").port, MqttUrl("mqtts://b.example").is_websocket) == (8883, False)
    assert (MqttUrl("wss://b.example/mqtt").port, MqttUrl("wss://b.example/mqtt").is_websocket) == (443, True)
    assert MqttUrl("mqtts://[::1]:18883").port == 18883
    with pytest.raises(InvalidUrl, match="mqtts:// or wss://"):
        MqttUrl("https://b.example/")


@pytest.mark.rule("MQ-19")
@pytest.mark.parametrize(
    "changes",
    [
        {"topic_prefix": "#"},
        {"mc": "open"},
        {"client": SERVER},
        {"versions": ()},
        {"versions": ("",)},
        {"versions": ("a|b",)},
        {"versions": ("1.0.0,2",)},
        {"versions": ("1",) * (MAX_VERSIONS + 1)},
        {"secret": None},
    ],
)
def test_a_static_session_names_what_is_wrong_with_it(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        static_session(**changes)
    assert caught.value.what
    assert caught.value.hint


@pytest.mark.rule("MQ-19")
def test_a_static_session_has_the_same_topics() -> None:
    parameters = SessionParameters.of_static(static_session(), SID)
    assert (parameters.server, parameters.client, parameters.static, parameters.sealed) == (SERVER, CLIENT, True, True)
    assert static_session(secret=None, protection=Protection.PLAIN).secret is None


@pytest.mark.rule("MQ-14")
def test_limits_are_checked() -> None:
    with pytest.raises(ConfigurationError):
        ChannelLimits(expiry=4.9)
    with pytest.raises(ConfigurationError):
        ChannelLimits(send_bytes=0)


def test_a_session_token_has_32_bytes() -> None:
    with pytest.raises(ValueError, match="SessionToken"):
        SessionToken.from_bytes(bytes(31))
