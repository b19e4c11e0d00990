"""Checks of intermediaries: the HTTP proxy, the MQTT broker."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING
from uuid import uuid4

from s2connect import EndpointConfig
from s2connect.certs.chain import verify_pki
from s2connect.diagnostics.findings import Check, Finding, Findings, Layer, milliseconds
from s2connect.diagnostics.home import ExaminedEndpoint
from s2connect.diagnostics.probes import ASK_TIMEOUT, connect
from s2connect.endpoint.instances import mqtt_instance
from s2connect.errors import CertificateRefused, S2ConnectError
from s2connect.model.proxy import Proxies
from s2connect.model.url import MqttUrl
from s2connect.service.commands import BrokerStatus
from s2connect.transports.mqtt.settings import refused_broker

if TYPE_CHECKING:
    from s2connect.transports.mqtt.broker import BrokerConnection

BROKER_ROUND_TRIP = Check(Layer.BROKER, "broker.round_trip")

NAGLE_SECONDS = 0.03
"""Shortest wait for a delayed acknowledgement of TCP: 40 ms, or a little less where the clock is coarse."""

ROUNDS = 12
"""Messages that are sent through the broker one after the other."""


def proxies_of(config: EndpointConfig | None, environment: Mapping[str, str]) -> Proxies:
    """Return the proxy that an endpoint uses; its service may run with another environment."""
    settings = (config.proxy, config.proxy_exceptions) if config is not None else (None, ())
    return Proxies.of(*settings, environment)


async def check_proxy(config: EndpointConfig | None, found: Findings) -> None:
    """Check that the proxy towards the internet answers, if one is set. Its user and password are never shown."""
    proxy = proxies_of(config, os.environ).proxy
    if proxy is None:
        found.append(found.check.ok("No proxy is set; connections are direct."))
        return
    configured = config is not None and config.proxy is not None
    where = f"The proxy of the {'settings' if configured else 'environment'}, {proxy.address},"
    try:
        took = milliseconds(await connect(proxy.host, proxy.port, timeout=ASK_TIMEOUT))
    except S2ConnectError as error:
        cure = (
            "Correct it: s2connect config set proxy http://HOST:PORT, or unset proxy"
            if configured
            else "Check HTTPS_PROXY."
        )
        found.append(found.check.fail(f"{where} cannot be reached: {error.what}", cure))
    else:
        found.append(found.check.ok(f"{where} answers, in {took}; the internet is reached through it."))


async def check_broker(endpoint: ExaminedEndpoint, found: Findings) -> None:
    """Check the MQTT broker: reachable, its certificate, our login, and the time that a message takes.

    A second login could end the connection of the running service (MQ-16), so there is none beside it.
    """
    mqtt = endpoint.config.mqtt
    if mqtt is None:
        return
    from s2connect.transports.mqtt.broker import BrokerConnection  # only where MQTT is used

    found.check = Check(Layer.BROKER, "broker.settings")
    settings = await asyncio.to_thread(mqtt.complete, endpoint.config.host, mqtt_instance(endpoint.config))
    context = await asyncio.to_thread(settings.context)
    found.check = Check(Layer.BROKER, "broker.tls")
    answering: list[MqttUrl] = []
    for url in settings.nodes:
        begun = time.monotonic()
        try:
            try:
                await verify_pki(url.host, url.port, context, timeout=ASK_TIMEOUT)
            except CertificateRefused as error:
                raise refused_broker(f"{url.host}:{url.port}", error) from error
        except S2ConnectError as error:
            if url == settings.nodes[-1] and not answering:
                raise
            found.append(found.check.warn(error.what, error.hint))  # the others do its work
            continue
        answering.append(url)
        took = milliseconds(time.monotonic() - begun)
        found.append(found.check.ok(f"The MQTT broker {url.host}:{url.port} answers with TLS, in {took}."))
    found.check = Check(Layer.BROKER, "broker.login")
    if endpoint.running:
        found.append(service_at_broker(endpoint.status.endpoint.broker if endpoint.status is not None else None))
        return
    connection = await BrokerConnection(settings.at(answering[0]), context).open(ASK_TIMEOUT)
    try:
        found.append(found.check.ok(f"The broker lets {settings.client_id} in."))
        found.check = BROKER_ROUND_TRIP
        topic = f"{settings.prefix}/s2/0/{uuid4()}/{settings.client_id}/doctor"  # its own, by MQ-03
        async with asyncio.timeout(ASK_TIMEOUT):
            found.append(await _measure(connection, topic))
    except TimeoutError:
        cure = "Check its access list: a client has topics of its own, see docs/s2-over-mqtt.md."
        found.append(found.check.fail("No message of ours came back from the broker.", cure))
    finally:
        await connection.close()


def service_at_broker(broker: BrokerStatus | None) -> Finding:
    """Check what the running service says of its connection to the broker."""
    check = Check(Layer.BROKER, "broker.login")
    if broker is None:
        return check.ok("Login and speed at the broker are checked while the service does not run.")
    if broker.suspicion:
        return check.warn(broker.suspicion, "Look for a second client in the log of the broker.")
    if not broker.connected:
        what = f"The running service is not connected to the broker {broker.where}. {broker.error or ''}".rstrip()
        cure = "After a change of password, CA or certificate: s2connect reload, or s2connect bridge reload FILE."
        return check.fail(what, cure)
    if broker.unused:
        return check.warn(f"The broker {broker.where} is connected and not used.", broker.unused)
    return check.ok(f"The running service is connected to the broker {broker.where} as {broker.client_id}.")


async def _measure(broker: BrokerConnection, topic: str) -> Finding:
    """Send messages to ourselves one by one; each has come back and is acknowledged before the next."""
    from s2connect.transports.mqtt.frames import Packet
    from s2connect.transports.mqtt.receiver import TopicHandler

    seen: list[float] = []
    both = asyncio.Event()

    def note(_: object) -> None:
        seen.append(time.monotonic())
        if len(seen) == 2:
            both.set()

    broker.set_handler(topic, TopicHandler(note))
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


def round_trip(answers: Sequence[float], pauses: Sequence[float]) -> Finding:
    """Check that the broker passes small messages on at once.

    Args:
        answers: Seconds until each of our messages had come back, and was acknowledged.
        pauses: Seconds of these between the first and the last packet of the broker.
    """
    pause = median(pauses)
    through = f"A message goes through the broker and back in {milliseconds(median(answers))}"
    if pause < NAGLE_SECONDS:
        return BROKER_ROUND_TRIP.ok(f"{through}.")
    return BROKER_ROUND_TRIP.warn(
        f"{through}, of which it holds back a packet for {milliseconds(pause)}.",
        "Switch Nagle's algorithm off at the broker: in Mosquitto, set_tcp_nodelay true.",
    )
