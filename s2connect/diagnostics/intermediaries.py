"""Checks of intermediaries: the HTTP proxy, the MQTT broker."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING
from uuid import uuid4

from s2connect import EndpointConfig
from s2connect.diagnostics.checks import (
    BROKER_LOGIN,
    BROKER_ROUND_TRIP,
    BROKER_SETTINGS,
    BROKER_TLS,
    PROXY,
    proxy,
    round_trip,
)
from s2connect.diagnostics.findings import Finding, milliseconds
from s2connect.diagnostics.home import ExaminedEndpoint
from s2connect.diagnostics.probes import ASK_TIMEOUT, connect
from s2connect.errors import S2ConnectError
from s2connect.model.proxy import Proxies

if TYPE_CHECKING:
    from s2connect.transports.mqtt.broker import BrokerConnection

ROUNDS = 12
"""Messages that are sent through the broker one after the other."""


def proxies_of(config: EndpointConfig | None, environment: Mapping[str, str]) -> Proxies:
    """Return the proxy that an endpoint uses; its service may run with another environment.

    Raises:
        ConfigurationError: Its URL cannot be used.
    """
    settings = (config.proxy, config.proxy_exceptions) if config is not None else (None, ())
    return Proxies.of(*settings, environment)


async def check_proxy(config: EndpointConfig | None, found: list[Finding]) -> None:
    """Check that the proxy towards the internet can be reached, if one is set."""
    try:
        proxies = proxies_of(config, os.environ)
    except S2ConnectError as unusable:
        found.append(PROXY.error(unusable))
        return
    seconds, error = 0.0, None
    if proxies.proxy is not None:
        try:
            seconds = await connect(proxies.proxy.host, proxies.proxy.port, timeout=ASK_TIMEOUT)
        except S2ConnectError as failed:
            error = failed
    configured = config is not None and config.proxy is not None
    found.append(proxy(proxies, configured=configured, seconds=seconds, error=error))


async def check_broker(endpoint: ExaminedEndpoint, found: list[Finding]) -> None:
    """Check the MQTT broker: reachable, its certificate, our login, and the time that a message takes.

    A second login could end the connection of the running service (MQ-16), so there is none beside it.
    """
    mqtt = endpoint.config.mqtt
    if mqtt is None:
        return
    from s2connect.transports.mqtt.broker import BrokerConnection  # only where MQTT is used

    check = BROKER_SETTINGS
    try:
        settings = await asyncio.to_thread(mqtt.complete, endpoint.config.host)
        context = await asyncio.to_thread(settings.context)
        check = BROKER_TLS
        url = settings.url
        took = milliseconds(await connect(url.host, url.port, context, timeout=ASK_TIMEOUT))
        found.append(check.ok(f"The MQTT broker {url.host}:{url.port} answers with TLS, in {took}."))
        check = BROKER_LOGIN
        if endpoint.running:
            found.append(check.ok("Login and speed at the broker are checked while the service does not run."))
            return
        connection = await BrokerConnection.open(settings, context, open_timeout=ASK_TIMEOUT)
        try:
            found.append(check.ok(f"The broker lets {settings.client_id} in."))
            check = BROKER_ROUND_TRIP
            topic = f"{settings.prefix}/s2/0/{uuid4()}/{settings.client_id}/doctor"  # its own, by MQ-03
            async with asyncio.timeout(ASK_TIMEOUT):
                found.append(await _measure(connection, topic))
        finally:
            await connection.close()
    except S2ConnectError as error:
        found.append(check.error(error))
    except TimeoutError:
        found.append(
            check.fail(
                "No message of ours came back from the broker.",
                "Check its access list: a client has topics of its own, see docs/s2-over-mqtt.md.",
            )
        )


async def _measure(broker: BrokerConnection, topic: str) -> Finding:
    """Send messages to ourselves one by one; each has come back and is acknowledged before the next."""
    from s2connect.transports.mqtt.frames import Packet
    from s2connect.transports.mqtt.receiver import Route

    seen: list[float] = []
    both = asyncio.Event()

    def note(_: object) -> None:
        seen.append(time.monotonic())
        if len(seen) == 2:
            both.set()

    broker.route(topic, Route(note))
    await broker.subscribe(topic, probe=True)
    answers, pauses = [], []
    for _ in range(ROUNDS):
        seen.clear()
        both.clear()
        begun = time.monotonic()
        broker.put(Packet(topic, b"doctor"), note)
        await both.wait()
        answers.append(seen[1] - begun)
        pauses.append(seen[1] - seen[0])
    return round_trip(answers, pauses)
