"""Sessions over MQTT: over the broker of the settings if there is one, otherwise over those that peers name."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from s2connect.certs.tls import wan_client_context
from s2connect.endpoint.instances import mqtt_instance
from s2connect.endpoint.state import EndpointState

if TYPE_CHECKING:  # of the extra
    from s2connect.transports.mqtt.transport import MqttTransport


async def mqtt_transport(state: EndpointState) -> MqttTransport:
    """Return the transport of an endpoint, not yet started. Raises ConfigurationError where it cannot be used."""
    from s2connect.transports.mqtt.transport import MqttTransport

    config, settings = state.config, None
    if config.mqtt is not None:
        settings = await asyncio.to_thread(config.mqtt.complete, config.host, mqtt_instance(config))
    return MqttTransport(
        settings,
        role_of=lambda node: state.local.nodes[node].description.role,
        guest_context=lambda: wan_client_context(state.config.trust_anchors),
        addresses_of=state.resolver.resolve if config.connects_to_internet_only else None,
        failures=state.supervisor.failures,
        wall_time=state.wall_time,
        on_suspicion=lambda sentence: state.notice("broker_client_id", sentence),
    )
