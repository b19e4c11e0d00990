"""The transport ``X-MQTT5-0``: sessions over a broker, with S2 Connect or by configuration alone (MQ-01 ... MQ-20)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from s2connect.certs.tls import wan_client_context
from s2connect.errors import (
    ConnectionClosed,
    NotReachable,
    PeerTimeout,
    ProtocolViolation,
    S2ConnectError,
    SessionRefused,
    UsageError,
)
from s2connect.model.common import MQTT, MalformedMessage, NodeId, Role
from s2connect.model.session_init import CommunicationDetails
from s2connect.supervisor import FailureLog, Supervisor
from s2connect.transports.base import GOING_AWAY, INTERNAL_ERROR, Connection, ConnectionInfo, Offer, Trust
from s2connect.transports.mqtt.admission import MAX_UNCONFIRMED_IN_ALL, Admission, Ignored, MqttOffer
from s2connect.transports.mqtt.channel import ClientChannel, ServerChannel
from s2connect.transports.mqtt.client import MqttClient
from s2connect.transports.mqtt.clients import MqttClients
from s2connect.transports.mqtt.connection import MqttConnection
from s2connect.transports.mqtt.device_list import ListedDevice
from s2connect.transports.mqtt.frames import (
    MAX_OPEN_PACKET_BYTES,
    Packet,
    payload_room,
)
from s2connect.transports.mqtt.gateways import (
    LIST_AGAIN,
    LIST_ANEW,
    Changed,
    Gateways,
    Newest,
    TakeListed,
    accepting,
)
from s2connect.transports.mqtt.parameters import (
    SUSPECT_AFTER,
    ChannelLimits,
    CloseReason,
    MqttCommunicationDetails,
    MqttPassword,
    SessionParameters,
    SessionToken,
    StaticGateway,
    StaticSession,
)
from s2connect.transports.mqtt.receiver import TopicHandler
from s2connect.transports.mqtt.sealing import SALT_BYTES
from s2connect.transports.mqtt.settings import NO_BROKER, MqttSettings
from s2connect.transports.mqtt.topics import MAX_TOPIC_BYTES, Direction, TopicSpace
from s2connect.transports.offers import MAX_OFFERS, OpenOffers

if TYPE_CHECKING:
    from s2connect.transports.mqtt.broker import BrokerConnection

_log = logging.getLogger(__name__)

MAX_ACCEPTING = MAX_OFFERS + MAX_UNCONFIRMED_IN_ALL
"""Sessions that may be being opened at the same time, at the communication server: those of S2 Connect are bounded by
the offers, those of static mode by themselves."""

MAX_USED = 4096
"""Session ids that the client remembers: with the same token and id, keys and nonces would be used again (MQ-07)."""


Credentials = Callable[[ConnectionInfo], "tuple[str, MqttPassword | None] | None"]
"""User name and password at the broker that an offer gives to its client (MQ-02); None to give none."""

_Hooks = tuple[Callable[[Connection], object], Callable[[str], Awaitable[bool]] | None]
"""Handler of the connections of a static session, and its admission hook."""


class MqttTransport:
    """S2 over MQTT 5.

    As communication server it needs ``settings``, and :meth:`start` before the first offer. As communication client it
    goes to the broker that the server's details name: over the connection of ``settings`` where that is the same broker
    and account, otherwise over one of its own, which lasts as long as there are sessions.

    Args:
        settings: Our broker, None on a client that has none.
        role_of: Role of one of our nodes.
        credentials: See :data:`Credentials`.
        guest_context: Makes the TLS context for brokers that peers name, in a thread; by default that of the system's
            CAs (MQ-18).
        addresses_of: Resolves or refuses the host of a broker that a peer names; None asks the operating system.
        limits: Seconds and bytes of the sessions.
        failures: Reports errors of ours in background tasks.
        on_suspicion: Called with a sentence where another client seems to have our client id (MQ-16).
        wall_time: Returns the seconds since the epoch for lists of devices, by a clock that all instances share.

    Attributes:
        drops: Messages on our topics that could not be used, by reason.
    """

    name = MQTT

    def __init__(
        self,
        settings: MqttSettings | None,
        *,
        role_of: Callable[[NodeId], Role],
        credentials: Credentials | None = None,
        guest_context: Callable[[], ssl.SSLContext] | None = None,
        addresses_of: Callable[[str], Awaitable[list[str]]] | None = None,
        limits: ChannelLimits | None = None,
        failures: FailureLog | None = None,
        on_suspicion: Callable[[str], None] | None = None,
        wall_time: Callable[[], float] = time.time,
    ) -> None:
        self._role_of = role_of
        self._credentials = credentials or (lambda _: None)
        self._limits = limits or ChannelLimits()
        self.drops: Counter[str] = Counter()
        self._offers: OpenOffers[MqttOffer] = OpenOffers()
        self._served: dict[NodeId, None] = {}
        self._static: dict[tuple[NodeId, NodeId], _Hooks] = {}
        self._gateways = Gateways(wall_time)
        self._sessions: dict[tuple[NodeId, NodeId], MqttConnection] = {}
        self._used: dict[str, None] = {}
        self._failures = failures if failures is not None else FailureLog()
        self._supervisor = Supervisor("s2connect", self._failures)
        self._asking: dict[tuple[tuple[NodeId, NodeId], str], asyncio.Task[bool]] = {}
        self._accepting: dict[ServerChannel, tuple[MqttConnection, asyncio.Task[None]]] = {}
        self._repeating: asyncio.Task[None] | None = None
        self._closed = False
        if settings is not None:
            self._admission = Admission(TopicSpace(settings.prefix), self._offers)
        self._clients = MqttClients(
            settings,
            greet=self._greet,
            guest_context=guest_context or wan_client_context,
            addresses_of=addresses_of,
            receive_bytes=self._limits.receive_bytes,
            drops=self.drops,
            supervisor=self._supervisor,
            failures=self._failures,
            on_suspicion=on_suspicion,
        )
        self._home = self._clients.home

    @property
    def client(self) -> MqttClient | None:
        """The client of our own broker; None without settings."""
        return self._home

    @property
    def client_id(self) -> str:
        """Our MQTT client id at our own broker. Raises UsageError without settings."""
        return self._need_home().client_id

    @property
    def opens_as(self) -> str:
        """``mc`` in the topics of the static sessions that we open. Raises UsageError without settings."""
        return self._need_home().settings.opens_as

    @property
    def prefix(self) -> str:
        """Topic prefix at our own broker. Raises UsageError without settings."""
        return self._need_home().settings.prefix

    def start(self) -> None:
        """Connect to our own broker and stay connected. Nothing without settings."""
        if self._home is not None:
            self._home.start()

    async def renew(self, settings: MqttSettings) -> None:
        """Use another password, CA or certificate of the same account at our own broker: connect anew with them.

        Raises:
            ConfigurationError: A file cannot be used; what is in force stays so.
        """
        await self._clients.renew(self._need_home(), settings)

    def forget_contexts(self) -> None:
        """Make the TLS contexts for brokers that peers name anew, the next time."""
        self._clients.forget_contexts()

    # --- communication server

    async def serve(self, node: NodeId) -> None:
        """Listen to the ``open`` frames for one of our nodes, now and after every reconnect.

        Raises:
            S2ConnectError: As :meth:`MqttClient.up`; it goes on trying.
            UsageError: This transport was made without settings.
        """
        home = self._need_home()
        self._served[node] = None
        broker = await home.up()
        await self._listen(home, broker, node)

    async def _listen(self, home: MqttClient, broker: BrokerConnection, node: NodeId) -> None:
        topic = home.space.open(node)
        handler = TopicHandler(lambda packet: self._on_open(broker, packet), MAX_OPEN_PACKET_BYTES, only_qos_1=True)
        broker.set_handler(topic, handler)
        group = home.settings.group
        await broker.subscribe_once(topic if group is None else home.space.shared_open(node, group))

    def can_offer(self) -> bool:
        """Return whether there is a broker of ours, and a connection to it. See :meth:`Transport.can_offer`."""
        return self._home is not None and self._home.connection is not None

    def offer(self, info: ConnectionInfo) -> Offer:
        """Make an offer to one client, once, for 30 seconds (MQ-02). See :meth:`Transport.offer`.

        Raises:
            SessionRefused: Too many offers wait already, or there is no connection to the broker now.
            UsageError: This transport was made without settings.
        """
        home = self._need_home()
        settings, broker = home.settings, home.connection
        if broker is None:
            home.start()
            raise SessionRefused("There is no connection to the MQTT broker now.", reason="Other")
        if info.local not in self._served:
            self._served[info.local] = None
            self._supervisor.spawn(self._listen_soon(home, broker, info.local), "mqtt-listen", info.local)
        sid, token = secrets.token_urlsafe(16), SessionToken.from_bytes(secrets.token_bytes(32))
        parameters = SessionParameters(
            space=home.space,
            server=info.local,
            client=info.remote,
            client_role=self._role_of(info.local).other,
            mc="",
            sid=sid,
            protection=settings.protection,
            versions=(info.s2_version,),
        )
        future = self._offers.open(sid, MqttOffer(info, parameters, token))
        username, secret = self._credentials(info) or (None, None)
        details = MqttCommunicationDetails(
            communication_protocol=MQTT,
            mqtt_url=broker.url,
            topic_prefix=settings.prefix,
            session_id=sid,
            session_token=token,
            username=username,
            password=secret,
            protection=settings.protection,
        )
        return Offer(details, future)

    async def _listen_soon(self, home: MqttClient, broker: BrokerConnection, node: NodeId) -> None:
        try:
            await self._listen(home, broker, node)
        except S2ConnectError as error:
            _log.warning("Sessions of %s over MQTT cannot be opened: %s", node, error)

    def _on_open(self, broker: BrokerConnection, packet: Packet) -> str | None:
        """Handle a packet on an ``open`` topic. Returns the reason why it is ignored; None if a session opens."""
        if self._closed:
            return None
        if len(self._accepting) >= MAX_ACCEPTING:
            return Ignored.TOO_MANY
        now = asyncio.get_running_loop().time()
        channel = self._admission.receive(
            packet, now=now, salt=secrets.token_bytes(SALT_BYTES), limits=self._limits_of(broker)
        )
        if isinstance(channel, Ignored):
            return channel
        for displaced in self._admission.displaced():
            if (accepting := self._accepting.get(displaced)) is not None:
                accepting[0].abandon()
                accepting[1].cancel()
        parameters = channel.parameters
        info = ConnectionInfo(MQTT, parameters.server, parameters.client, "")
        if channel.offered is not None:
            info = channel.offered[0].info
        connection = MqttConnection(info, broker, channel, unsubscribe=True)
        task = self._supervisor.spawn(self._accept(broker, channel, connection), "mqtt-accept", parameters.client)
        self._accepting[channel] = connection, task
        task.add_done_callback(lambda _: self._accepting.pop(channel, None))
        return None

    async def _accept(self, broker: BrokerConnection, channel: ServerChannel, connection: MqttConnection) -> None:
        parameters = channel.parameters
        pair = (parameters.server, parameters.client)
        future: asyncio.Future[Connection] | None = channel.offered and channel.offered[1]
        # An open of static mode may be an old one, published again. A session that stands is put at risk only for a
        # client that has confirmed the new one.
        hook = future is None and bool(channel.version)
        hook_later = hook and pair in self._sessions
        try:
            async with asyncio.timeout(self._limits.open_timeout):
                if hook and not hook_later and not await self._admitted(pair, channel.version):
                    connection.abandon()
                    return
                await broker.subscribe(channel.inbound_topic)
                await asyncio.sleep(broker.settle)
            await connection.open()
            if hook_later and not await self._admitted(pair, channel.version):
                await connection.close(GOING_AWAY)
                return
        except BaseException as error:
            connection.abandon()
            if future is not None:
                future.cancel()
            if not isinstance(error, S2ConnectError | TimeoutError):
                raise
            _log.info("A session of %s over MQTT did not open: %s", parameters.client, type(error).__name__)
            return
        if (older := self._sessions.get(pair)) is not None:
            await older.close(GOING_AWAY, CloseReason.SUPERSEDED)
        self._sessions[pair] = connection
        connection.at_close(lambda: self._sessions.get(pair) is connection and self._sessions.pop(pair))
        hooks = self._static.get(pair)
        try:
            if future is not None and not future.done():
                future.set_result(connection)
            elif future is None and hooks is not None:
                hooks[0](connection)
            else:
                await connection.close(GOING_AWAY)
        except BaseException:
            await connection.close(INTERNAL_ERROR)
            raise

    async def _admitted(self, pair: tuple[NodeId, NodeId], version: str) -> bool:
        """Call the admission hook once for all waiting, so that an old ``open`` cannot use up another one's answer."""
        asking = self._asking.get((pair, version))
        if asking is None:
            asking = self._supervisor.spawn(self._ask(pair, version), "mqtt-ask", pair[1])
            self._asking[pair, version] = asking
            asking.add_done_callback(lambda _: self._asking.pop((pair, version)))
        await asyncio.wait({asking})
        return not asking.cancelled() and asking.exception() is None and asking.result()

    async def _ask(self, pair: tuple[NodeId, NodeId], version: str) -> bool:
        _, admit = self._static.get(pair, (None, None))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.open_timeout):
                return pair in self._static and (admit is None or await admit(version))
        return False

    # --- communication client

    async def connect(self, info: ConnectionInfo, details: CommunicationDetails, trust: Trust | None) -> Connection:
        """Connect as communication client. See :meth:`Transport.connect`; cancel-safe.

        ``trust`` is not used: it is about the communication server, and the broker is somebody else (MQ-18).
        """
        if not isinstance(details, MqttCommunicationDetails):
            try:
                details = MqttCommunicationDetails.from_value(details.to_value())
            except MalformedMessage:
                raise ProtocolViolation("The other side gave no usable MQTT broker, topic and token.") from None
        if details.communication_protocol != MQTT:
            raise ProtocolViolation("The other side gave the address of another communication protocol.")
        if details.session_id in self._used:
            raise SessionRefused("The token of the session was used before.", reason="Other")
        self._used[details.session_id] = None
        if len(self._used) > MAX_USED:
            del self._used[next(iter(self._used))]
        client = self._clients.find(details)
        parameters = SessionParameters(
            space=TopicSpace(details.topic_prefix),
            server=info.remote,
            client=info.local,
            client_role=self._role_of(info.local),
            mc=client.client_id,
            sid=details.session_id,
            protection=details.protection,
            versions=(info.s2_version,),
        )
        return await self._connect(client, info, parameters, details.session_token)

    async def _connect(
        self, client: MqttClient, info: ConnectionInfo, parameters: SessionParameters, token: SessionToken | None
    ) -> MqttConnection:
        inbound = Direction.sent_by(parameters.client_role).other
        alone = parameters.mc != client.client_id  # several instances have that name: each reads its own sessions only
        connection = None
        client.users += 1
        client.uses += 1
        try:
            broker = await client.up()
            channel = ClientChannel(parameters, token=token, boot=self._clients.boot, limits=self._limits_of(broker))
            connection = MqttConnection(info, broker, channel, unsubscribe=alone)
            try:
                async with asyncio.timeout(self._limits.open_timeout):
                    if alone:
                        await broker.subscribe(channel.inbound_topic)
                        await asyncio.sleep(broker.settle)
                    else:
                        inbound_topic = parameters.space.inbound(client.client_id, inbound)
                        await broker.subscribe_once(inbound_topic, settle=broker.settle)
            except TimeoutError:
                raise PeerTimeout(f"The broker {broker.remote_address} does not answer.", hint=NO_BROKER) from None
            await asyncio.sleep(client.pace.wait(asyncio.get_running_loop().time()))
            await connection.open()
        except BaseException as error:
            if connection is not None:
                connection.abandon()
            self._clients.release(client)
            if isinstance(error, ConnectionClosed):
                raise NotReachable("The connection to the MQTT broker was lost.", hint=NO_BROKER) from error
            raise
        connection.at_close(lambda: self._clients.release(client))
        return connection

    # --- static mode

    async def listen_static(
        self,
        session: StaticSession,
        take: Callable[[Connection], object],
        *,
        admit: Callable[[str], Awaitable[bool]] | None = None,
    ) -> None:
        """Accept a configured client, now and after every reconnect, until :meth:`unlisten_static` (MQ-19).

        Args:
            session: As configured; its prefix is that of the settings.
            take: Called with every connection that has opened; an earlier one of the same two nodes is closed then.
            admit: Admission hook, awaited with the S2 version before a session is opened. Without True within the time
                for opening (MQ-11) the client gets no answer and has to try again. While an earlier session of the two
                nodes is open, it is awaited after the client has confirmed the new one, which is closed without True:
                so a replayed ``open`` ends nothing.

        Raises:
            UsageError: This transport has no settings, the prefix is another, or the two nodes are there already.
            S2ConnectError: As :meth:`MqttClient.up`; it goes on trying.
        """
        self._need_home()
        self._add_static(session, (take, admit))
        await self.serve(session.server)

    def _add_static(self, session: StaticSession, hooks: _Hooks) -> None:
        self._admission.add_static(session)
        self._static[session.server, session.client] = hooks

    def unlisten_static(self, session: StaticSession) -> None:
        """Stop accepting a configured client; an open connection stays open."""
        if self._home is not None:
            self._admission.remove_static(session)
        self._static.pop((session.server, session.client), None)

    async def connect_static(self, session: StaticSession) -> Connection:
        """Open a configured session as its client (MQ-19). Cancel-safe.

        Raises:
            UsageError: This transport has no settings, or the session has another name than theirs (``opens_as``).
            S2ConnectError: As :meth:`connect`.
        """
        home = self._need_home()
        if session.mc != home.settings.opens_as:
            raise UsageError("The static session is configured for another MQTT client id than that of the settings.")
        info = ConnectionInfo(MQTT, session.client, session.server, session.versions[0])
        parameters = SessionParameters.of_static(session, secrets.token_urlsafe(16))
        return await self._connect(home, info, parameters, session.secret)

    # --- gateways in static mode

    async def listen_gateway(
        self,
        gateway: StaticGateway,
        take: TakeListed,
        *,
        changed: Changed | None = None,
        newest: int = 0,
        on_newest: Newest | None = None,
    ) -> None:
        """Accept the devices that a gateway lists, now and after every reconnect, as they come and go (MQ-19).

        A device that is not listed any more is not accepted any more; its open connection stays open.

        Args:
            gateway: As configured; its prefix is that of the settings.
            take: Called with every connection that has opened, and the device, as it was listed first.
            changed: Called with the devices that are new in the list, and those that are gone from it.
            newest: What ``on_newest`` was last called with, in an earlier run: older lists are dropped, which a broker
                could give again.
            on_newest: Called with the time of each newer list, before it counts: store it.

        Raises:
            UsageError: This transport has no settings.
            SessionRefused: The broker does not allow the subscriptions.
            S2ConnectError: As :meth:`MqttClient.up`; it goes on trying.
        """
        home = self._need_home()
        accept = accepting(gateway, take, self._add_static, self.unlisten_static, changed)
        self._gateways.follow(gateway, accept, newest, on_newest)
        await self.serve(gateway.server)
        await self._gateways.subscribe(await home.up(), gateway)

    async def list_devices(
        self, gateway: StaticGateway, part: Hashable, devices: Sequence[ListedDevice] | None
    ) -> None:
        """As a gateway: publish its devices for a server, retained, now and after every reconnect (MQ-19).

        Args:
            gateway: What the server knows us by; ``mc`` is :attr:`opens_as`. Several instances have the same devices,
                and each publishes them.
            part: What sets the devices: a list may have several parts, as of several routes.
            devices: All devices of this part; None forgets it and leaves the list as it was published.

        Raises:
            UsageError: This transport has no settings, or the gateway has another name than theirs.
        """
        home = self._need_home()
        if gateway.mc != home.settings.opens_as:
            raise UsageError("The gateway is configured for another MQTT client id than that of the settings.")
        every = LIST_AGAIN if home.settings.settle_seconds else LIST_ANEW if home.settings.gateway is not None else None
        if every is not None and self._repeating is None and not self._closed:
            self._repeating = self._supervisor.keep(partial(self._repeat_lists, every), "mqtt-lists")
        await self._gateways.publish(home.connection, gateway, part, devices)

    async def _repeat_lists(self, every: float) -> None:
        home = self._need_home()
        while True:
            await asyncio.sleep(every)
            with contextlib.suppress(ConnectionClosed):  # they are published with the next connection
                if home.connection is not None:
                    await self._gateways.repeat(home.connection, anew=home.settings.gateway is not None)

    # --- the end

    async def close(self) -> None:
        """Withdraw all offers, and disconnect from the brokers; sessions end with it. See :meth:`Transport.close`."""
        self._closed = True
        self._offers.close()
        await self._supervisor.close()
        await self._clients.close()

    def _need_home(self) -> MqttClient:
        if self._home is None:
            raise UsageError("This transport has no MQTT broker of its own.")
        return self._home

    async def _greet(self, client: MqttClient, broker: BrokerConnection) -> None:
        """Use a new connection to our own broker: listen for our nodes, publish and follow the lists of gateways."""
        for node in list(self._served):
            await self._listen(client, broker, node)
        await self._gateways.greet(broker)

    def _limits_of(self, broker: BrokerConnection) -> ChannelLimits:
        limits = self._limits
        if broker.settle and limits.suspect_after is None:
            limits = replace(limits, suspect_after=SUSPECT_AFTER)
        if broker.max_packet is None:
            return limits
        room = payload_room("x" * MAX_TOPIC_BYTES, broker.max_packet)
        return replace(limits, send_bytes=max(1, min(limits.send_bytes, room)))
