"""MQTT clients of a transport: of our own broker, and of brokers that peers name (MQ-18, MQ-20)."""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from s2connect.errors import ConfigurationError, SessionRefused, UsageError
from s2connect.model.url import MqttUrl
from s2connect.supervisor import FailureLog, Supervisor
from s2connect.transports.mqtt.client import MqttClient
from s2connect.transports.mqtt.frames import PACKET_ROOM_BYTES, no_presence, presence
from s2connect.transports.mqtt.parameters import MqttCommunicationDetails
from s2connect.transports.mqtt.settings import MqttSettings
from s2connect.transports.mqtt.topics import InvalidTopic, TopicSpace, check_client_id

if TYPE_CHECKING:
    from s2connect.transports.mqtt.broker import BrokerConnection

LINGER = 30.0
"""Seconds for which a connection to a broker that a peer named stays without a session."""

MAX_GUESTS = 64
"""Bound on connections to brokers that peers name."""


class MqttClients:
    """The MQTT clients of a transport.

    Args:
        settings: Our broker, None where there is none.
        greet: Called with our client and each new connection of it, before that is used.
        guest_context: Makes the TLS context for brokers that peers name, in a thread.
        addresses_of: Resolves or refuses the host of a broker that a peer names; None asks the operating system.
        receive_bytes: Longest message to receive.
        drops: Counts messages that could not be used, by reason.
        supervisor: Runs what closes clients later.
        failures: Reports errors of ours.
        on_suspicion: Called with a sentence where another client seems to have our client id (MQ-16).

    Attributes:
        boot: Id of this run of the program (MQ-11).
        home: The client of our own broker; None without settings.

    Raises:
        UsageError: The settings have no client id.
    """

    def __init__(
        self,
        settings: MqttSettings | None,
        *,
        greet: Callable[[MqttClient, BrokerConnection], Awaitable[None]],
        guest_context: Callable[[], ssl.SSLContext],
        addresses_of: Callable[[str], Awaitable[list[str]]] | None,
        receive_bytes: int,
        drops: Counter[str],
        supervisor: Supervisor,
        failures: FailureLog,
        on_suspicion: Callable[[str], None] | None,
    ) -> None:
        self._greet = greet
        self._guest_context = guest_context
        self._addresses_of = addresses_of
        self._receive_bytes = receive_bytes
        self._drops = drops
        self._supervisor = supervisor
        self._failures = failures
        self._on_suspicion = on_suspicion
        self._guests: dict[tuple[str, str | None], MqttClient] = {}
        self._contexts: dict[tuple[bool, bool], ssl.SSLContext] = {}
        self._closed = False
        self.boot = secrets.token_urlsafe(12)
        if settings is not None and settings.client_id is None:
            raise UsageError("The MQTT settings have no client id; MqttSettings.complete makes one.")
        self.home = None if settings is None else self._client_of(settings, guest=False)

    async def renew(self, home: MqttClient, settings: MqttSettings) -> None:
        """Use another password, CA or certificate of the same account at our own broker: connect anew with them.

        Raises:
            ConfigurationError: A file cannot be used; what is in force stays so.
        """
        context = await asyncio.to_thread(settings.context)
        self._contexts[False, home.settings.url.is_websocket] = context
        await home.renew(settings)

    def forget_contexts(self) -> None:
        """Make the TLS contexts for brokers that peers name anew, the next time."""
        self._contexts = {key: context for key, context in self._contexts.items() if not key[0]}

    async def close(self) -> None:
        """Disconnect from all brokers."""
        self._closed = True
        clients = [*self._guests.values(), self.home]
        self._guests.clear()
        await asyncio.gather(*(client.close() for client in clients if client is not None))

    def find(self, details: MqttCommunicationDetails) -> MqttClient:
        """Return the client for the broker of a server's details: ours where it is the same broker and account.

        Raises:
            SessionRefused: There are connections to too many brokers already.
        """
        url, home = details.mqtt_url, self.home
        # All nodes of a cluster reach the same clients.
        if home is not None and url in home.nodes and details.username in (None, home.settings.username):
            return home
        key = (str(url), details.username)
        client = self._guests.get(key)
        if client is None:
            if len(self._guests) >= MAX_GUESTS:
                raise SessionRefused("There are connections to too many MQTT brokers already.", reason="Other")
            try:
                client_id = check_client_id(details.username or "")  # the account, where it can be one
            except InvalidTopic:
                client_id = f"s2-{self.boot}"
            account = MqttSettings(url=url, client_id=client_id, prefix=details.topic_prefix, username=details.username)
            client = self._guests[key] = self._client_of(account, guest=True)
        client.settings = client.settings.with_password(details.password)
        return client

    def _client_of(self, settings: MqttSettings, *, guest: bool) -> MqttClient:
        space, mc = TopicSpace(settings.prefix), settings.client_id or ""

        async def connect(node: MqttUrl) -> BrokerConnection:
            try:
                from s2connect.transports.mqtt.broker import BrokerConnection  # needs paho-mqtt, which is an extra
            except ModuleNotFoundError as error:
                if error.name is None or error.name.partition(".")[0] != "paho":
                    raise
                raise ConfigurationError(
                    "S2 over MQTT needs the package paho-mqtt, which is not installed.",
                    hint="Install s2connect with its extra mqtt: pip install 's2connect[mqtt]'.",
                ) from None
            found = await self._addresses_of(node.host) if guest and self._addresses_of is not None else []
            return await BrokerConnection(
                client.settings.at(node),
                await self._context(client, guest=guest),
                address=found[0] if found else None,
                will=presence(space, mc, "lost", self.boot),
                max_packet=self._receive_bytes + PACKET_ROOM_BYTES,
                drops=self._drops,
            ).open()

        async def greet(broker: BrokerConnection) -> None:
            await broker.publish(presence(space, mc, "online", self.boot))
            if not guest:
                await self._greet(client, broker)

        farewell = no_presence(space, mc)
        client = MqttClient(
            settings,
            connect,
            greet=greet,
            farewell=farewell,
            guest=guest,
            failures=self._failures,
            on_suspicion=None if guest else self._on_suspicion,
        )
        return client

    async def _context(self, client: MqttClient, *, guest: bool) -> ssl.SSLContext:
        url = client.settings.url
        key = guest, url.is_websocket
        if key not in self._contexts:
            make = self._guest_context if guest else client.settings.context
            context = await asyncio.to_thread(make)
            if guest:
                context.set_alpn_protocols(["http/1.1" if url.is_websocket else "mqtt"])
            self._contexts[key] = context
        return self._contexts[key]

    def release(self, client: MqttClient) -> None:
        """Note that a session needs a client no more; that of a broker that a peer named is closed after a while."""
        client.users -= 1
        if client.guest and client.users == 0 and not self._closed:
            self._supervisor.spawn(self._part(client, client.uses), "mqtt-part")

    async def _part(self, client: MqttClient, uses: int) -> None:
        """Close the client of a broker that a peer named, unless a session needs it before it is time."""
        await asyncio.sleep(LINGER)
        if client.uses == uses:
            self._guests = {key: value for key, value in self._guests.items() if value is not client}
            await client.close()
