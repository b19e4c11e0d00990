"""What ``doctor`` finds out about what stands between this machine and others: the HTTP proxy, the MQTT broker."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING
from uuid import uuid4

from s2connect import EndpointConfig
from s2connect.certs.tls import describe_tls_error
from s2connect.diagnostics.checks import Check, Layer, fail, fault, milliseconds, ok, warn
from s2connect.diagnostics.endpoint import ASK_TIMEOUT, Found
from s2connect.errors import NotReachable, PeerTimeout, S2ConnectError
from s2connect.model.proxy import Proxies

if TYPE_CHECKING:
    from s2connect.transports.mqtt.broker import BrokerConnection

ROUNDS = 12
"""Messages that are sent through the broker one after the other."""

NAGLE_SECONDS = 0.03
"""Shortest wait for a delayed acknowledgement of TCP: 40 ms, or a little less where the clock is coarse."""


def proxy(proxies: Proxies, *, configured: bool, seconds: float, error: S2ConnectError | None) -> Check:
    """Whether the proxy towards the internet answers. Its user and password are never shown.

    Args:
        proxies: The proxy, and what is reached without it.
        configured: The settings name it, and not the environment.
        seconds: How long it took to connect to it.
        error: What went wrong.
    """
    if proxies.proxy is None:
        return ok(Layer.NETWORK, "proxy", "No proxy is set; connections are direct.")
    source = "settings" if configured else "environment"
    where = f"The proxy of the {source}, {proxies.proxy.place},"
    if error is not None:
        hint = "Check proxy in the settings." if configured else "Check HTTPS_PROXY."
        return fail(Layer.NETWORK, "proxy", f"{where} cannot be reached: {error.what}", hint)
    return ok(
        Layer.NETWORK, "proxy", f"{where} answers, in {milliseconds(seconds)}; the internet is reached through it."
    )


def round_trip(answers: Sequence[float], pauses: Sequence[float]) -> Check:
    """Whether the broker passes small messages on at once.

    Args:
        answers: Seconds until a message of ours had come back, and was acknowledged.
        pauses: Seconds of these between the first and the last packet of the broker.
    """
    took, pause = median(answers), median(pauses)
    through = f"A message goes through the broker and back in {milliseconds(took)}"
    if pause < NAGLE_SECONDS:
        return ok(Layer.BROKER, "broker.round_trip", f"{through}.")
    return warn(
        Layer.BROKER,
        "broker.round_trip",
        f"{through}, of which it holds back a packet for {milliseconds(pause)}.",
        "Switch Nagle's algorithm off at the broker: in Mosquitto, set_tcp_nodelay true.",
    )


def proxies_of(config: EndpointConfig | None, environment: Mapping[str, str]) -> Proxies:
    """The proxy that an endpoint uses, as far as can be told from here: its service may have another environment.

    Raises:
        ConfigurationError: Its URL cannot be used.
    """
    if config is None:
        return Proxies.of(None, (), environment)
    return Proxies.of(config.proxy, config.proxy_exceptions, environment)


async def examine_proxy(config: EndpointConfig | None, found: list[Check]) -> None:
    """Whether the proxy towards the internet is there, where there is to be one."""
    try:
        proxies = proxies_of(config, os.environ)
    except S2ConnectError as unusable:
        found.append(fault(Layer.NETWORK, "proxy", unusable))
        return
    error, begun = None, time.monotonic()
    if proxies.proxy is not None:
        try:
            await _connect(proxies.proxy.host, proxies.proxy.port, None)
        except S2ConnectError as failed:
            error = failed
    configured = config is not None and config.proxy is not None
    found.append(proxy(proxies, configured=configured, seconds=time.monotonic() - begun, error=error))


async def examine_broker(endpoint: Found, found: list[Check]) -> None:
    """The MQTT broker: reachable, its certificate, our login, and how long a message takes.

    A second login could end the connection of the running service (MQ-16), so there is none beside it.
    """
    mqtt = endpoint.config.mqtt
    if mqtt is None:
        return
    from s2connect.transports.mqtt.broker import BrokerConnection, BrokerOptions  # only where MQTT is used

    step = "broker.settings"
    try:
        settings = await asyncio.to_thread(mqtt.settings, endpoint.config.host)
        context = await asyncio.to_thread(settings.context)
        step = "broker.tls"
        url, begun = settings.url, time.monotonic()
        await _connect(url.host, url.port, context)
        took = milliseconds(time.monotonic() - begun)
        found.append(ok(Layer.BROKER, step, f"The MQTT broker {url.host}:{url.port} answers with TLS, in {took}."))
        step = "broker.login"
        if endpoint.running:
            what = "Login and speed at the broker are checked while the service does not run."
            found.append(ok(Layer.BROKER, step, what))
            return
        options = BrokerOptions(
            host=url.host,
            port=url.port,
            context=context,
            client_id=settings.client_id,
            url=str(url) if url.is_websocket else None,
            username=settings.username,
            password=settings.password,
            open_timeout=ASK_TIMEOUT,
        )
        connection = await BrokerConnection.open(options)
        try:
            found.append(ok(Layer.BROKER, step, f"The broker lets {settings.client_id} in."))
            step = "broker.round_trip"
            topic = f"{settings.prefix}/s2/0/{uuid4()}/{settings.client_id}/doctor"  # its own, by MQ-03
            async with asyncio.timeout(ASK_TIMEOUT):
                found.append(await _measure(connection, topic))
        finally:
            await connection.close()
    except TimeoutError as error:
        late = (
            error
            if isinstance(error, S2ConnectError)
            else PeerTimeout(
                "No message of ours came back from the broker.",
                hint="Check its access list: a client has topics of its own, see docs/s2-over-mqtt.md.",
            )
        )
        found.append(fault(Layer.BROKER, step, late))
    except S2ConnectError as error:
        found.append(fault(Layer.BROKER, step, error))


async def _measure(broker: BrokerConnection, topic: str) -> Check:
    """Send messages to ourselves; each is done when it has come back and the broker has acknowledged it."""
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


async def _connect(host: str, port: int, context: ssl.SSLContext | None) -> None:
    """Connect and hang up.

    Raises:
        NetworkError: Not reachable, or too slow.
        TrustError: The certificate is refused.
        ProtocolViolation: There is no such TLS.
    """
    try:
        async with asyncio.timeout(ASK_TIMEOUT):
            name = host if context is not None else None
            _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=name)
    except TimeoutError as error:
        raise PeerTimeout(f"{host}:{port} did not answer in time.") from error
    except OSError as error:
        refused = describe_tls_error(error, host) if context is not None else None
        raise refused or NotReachable.because(host, port, error) from error
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
