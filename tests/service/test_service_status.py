"""Parts of the status of a service."""

from __future__ import annotations

import pytest

from s2connect import EndpointConfig, MqttSettings, NodeConfig, Role
from s2connect.service.status import unused_broker

BROKER = MqttSettings.model_validate({"url": "mqtts://broker.example"})
OLD = {"role": Role.RM, "alias": "1"}
BOTH = OLD | {"alias": "2", "communication_protocols": ("X-MQTT5-0", "WebSocket")}


@pytest.mark.parametrize(
    ("broker", "nodes", "ends"),
    [
        (None, [OLD], ""),
        (BROKER, [], ""),
        (BROKER, [OLD, BOTH], ""),
        (BROKER, [OLD], "s2connect config set communication-protocols X-MQTT5-0,WebSocket"),
        (BROKER, [OLD, OLD | {"alias": "3"}], "X-MQTT5-0,WebSocket --node NODE"),
    ],
)
def test_a_broker_that_no_session_can_use_is_said_with_the_command_that_helps(
    broker: MqttSettings | None, nodes: list[dict[str, object]], ends: str
) -> None:
    config = EndpointConfig(mqtt=broker, nodes=tuple(NodeConfig.model_validate(node) for node in nodes))
    told = unused_broker(config)
    assert bool(told) == bool(ends)
    assert told.endswith(ends)
