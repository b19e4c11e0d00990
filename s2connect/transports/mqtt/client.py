"""MQTT client of an endpoint: connects to a broker, and again after a loss (MQ-12, MQ-16, MQ-17, MQ-20)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from s2connect.errors import ConnectionClosed, NotReachable, PeerTimeout, S2ConnectError
from s2connect.model.text import for_display
from s2connect.supervisor import FailureLog, Supervisor
from s2connect.transports.backoff import Backoff
from s2connect.transports.mqtt.nodes import Nodes, name_of
from s2connect.transports.mqtt.publish import TAKEN_OVER
from s2connect.transports.mqtt.rivals import QUICK_LOSS, WINDOW, Rivals
from s2connect.transports.mqtt.settings import NO_BROKER
from s2connect.transports.mqtt.topics import TopicSpace

if TYPE_CHECKING:
    from s2connect.model.url import MqttUrl
    from s2connect.transports.mqtt.broker import BrokerConnection, BrokerLost
    from s2connect.transports.mqtt.frames import Packet
    from s2connect.transports.mqtt.settings import MqttSettings

_log = logging.getLogger(__name__)

UP_TIMEOUT = 12.0
"""Seconds for which a session waits for the connection: a little more than one attempt takes."""

STABLE = 5.0
"""A connection that lasted as long, in seconds, starts the back-off anew."""

OPEN_INTERVAL = 0.01
"""MQ-17: seconds between two ``open`` frames of one connection to a broker."""

TAKEN_OVER_DELAY = 60.0
"""MQ-16: seconds at least until the next attempt after another client has taken our client id, up to twice as many."""


PROBE_TIMEOUT = 2.0
"""Seconds within which a broker that has not ended itself takes a TCP connection."""


PROBE_QUIET = 0.25
"""Seconds for which a broker that goes on keeps a new connection: one that is ending may close its port last."""


class Pace:
    """Spreads the ``open`` frames of one connection over time (MQ-17). No I/O."""

    def __init__(self, interval: float = OPEN_INTERVAL) -> None:
        self._interval = interval
        self._next = float("-inf")

    def wait(self, now: float) -> float:
        """Take the next turn. Returns the seconds until it."""
        turn = max(now, self._next)
        self._next = turn + self._interval
        return turn - now


class MqttClient:
    """MQTT client of one account at a broker: it connects, and again after a loss.

    All sessions of an endpoint over this broker share its :class:`BrokerConnection` (MQ-20) and end with it (MQ-10).

    Args:
        settings: Broker and account; a change counts from the next connection on.
        connect: Opens a connection to a node of the broker; called for every attempt.
        greet: Called with each new connection before it is used: subscriptions, presence.
        farewell: Published before a clean end, None for nothing.
        guest: Whether a peer named this broker.
        chance: Uniform in [0, 1), spreads the attempts.
        failures: Reports errors of ours; the client starts again after them.
        on_suspicion: Called with a sentence where another client seems to have our client id (MQ-16).

    Attributes:
        users: Sessions that need it; ``uses`` counts those of the past as well.
        nodes: Nodes of the broker, one where it is no cluster; ``current`` is that of the connection.
        error: Why the last attempt failed, None if it did not.
        rivals: Hints at another client with our client id.
    """

    def __init__(
        self,
        settings: MqttSettings,
        connect: Callable[[MqttUrl], Awaitable[BrokerConnection]],
        *,
        greet: Callable[[BrokerConnection], Awaitable[None]],
        farewell: Packet | None = None,
        guest: bool = False,
        chance: Callable[[], float] = random.random,
        failures: FailureLog | None = None,
        on_suspicion: Callable[[str], None] | None = None,
    ) -> None:
        self.settings = settings
        self.guest = guest
        self.pace = Pace()
        self.users = self.uses = self.attempts = 0
        self._connect = connect
        self._greet = greet
        self._farewell = farewell
        self.nodes = Nodes(settings.nodes, chance)
        self._chance = chance
        self._supervisor = Supervisor("s2connect-mqtt", failures)
        self._task: asyncio.Task[None] | None = None
        self._connection: BrokerConnection | None = None
        self.error: S2ConnectError | None = None
        self._changed = asyncio.Event()
        self._renewed = asyncio.Event()
        self._since = 0.0
        self._closed = False
        self._on_suspicion = on_suspicion or (lambda sentence: _log.warning("%s", sentence))
        self.rivals = Rivals(str(self.nodes), for_display(self.client_id, 80))

    @property
    def where(self) -> str:
        """Host and port of the broker's node that it is connected to, or tries; for display."""
        return name_of(self.nodes.current)

    @property
    def space(self) -> TopicSpace:
        """The topics under our prefix."""
        return TopicSpace(self.settings.prefix)

    @property
    def client_id(self) -> str:
        """Our MQTT client id."""
        return self.settings.client_id or ""

    @property
    def connection(self) -> BrokerConnection | None:
        """The connection that stands now."""
        connection = self._connection
        return connection if connection is not None and connection.lost is None else None

    @property
    def suspicion(self) -> str:
        """Sentence about another client with our client id; empty where nothing hints at one (MQ-16)."""
        holds = self.connection is not None and asyncio.get_running_loop().time() - self._since >= WINDOW
        return "" if holds else self.rivals.suspicion

    def start(self) -> None:
        """Connect, and keep connected until :meth:`close`; nothing where it does already."""
        if (self._task is None or self._task.done()) and not self._closed:
            self.error = None
            self._task = self._supervisor.keep(self._run, "mqtt-client", str(self.nodes))

    async def up(self, timeout: float = UP_TIMEOUT) -> BrokerConnection:
        """Return the connection; wait for an attempt that is on its way.

        While it waits before its next attempt the last error is raised at once. Cancel-safe.

        Raises:
            S2ConnectError: As :meth:`BrokerConnection.open`; ConfigurationError where paho-mqtt is missing or a file
                of the settings cannot be used; ConnectionClosed where the client is closed.
        """
        self.start()
        try:
            async with asyncio.timeout(timeout):
                while True:
                    if self._closed:
                        raise ConnectionClosed(reason="this endpoint closes its connection to the broker")
                    if self.connection is not None:
                        return self.connection
                    if self.error is not None:
                        raise self.error.with_traceback(None)
                    await self._changed.wait()
        except TimeoutError as error:
            if isinstance(error, S2ConnectError):
                raise
            raise PeerTimeout(f"There is no connection to the broker {self.where} yet.", hint=NO_BROKER) from None

    async def renew(self, settings: MqttSettings) -> None:
        """Connect anew, at once, with another password or TLS context of the same account."""
        self.settings = settings
        self._renewed.set()
        if (connection := self.connection) is not None:
            await connection.close()

    async def close(self) -> None:
        """Clear the presence, disconnect in good order and stop; idempotent, bounded, never raises for the network."""
        self._closed = True
        self._wake()
        self._task = None
        await self._supervisor.close()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _run(self) -> None:
        backoff = Backoff()
        try:
            while True:
                self.attempts += 1
                self.error = None
                self._renewed.clear()
                delay_at_least = await self._attempt(backoff)
                self._wake()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(backoff.failed(self._chance()), delay_at_least)):
                        await self._renewed.wait()
        except Exception:  # an error of ours: no waiter shall wait until the supervisor's restart
            self.error = NotReachable(f"The connection to the broker {self.where} failed.", hint="The log says why.")
            self._wake()
            raise

    async def _attempt(self, backoff: Backoff) -> float:
        """Connect to a node, and stay connected. Returns the least delay until the next attempt in seconds."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection = await self._open()
                break
            except S2ConnectError as error:
                where = self.where
                if not self.nodes.failed():
                    self._failed(error, where)
                    return 0.0
                _log.info("No connection to the node %s of the broker: %s", where, error)
        self.nodes.established()
        since = self._since = loop.time()
        lost = await self._stay(connection)
        lasted = loop.time() - since
        if lasted >= STABLE:
            backoff.established()
        if lost.reason_code == TAKEN_OVER:
            text = f"Another client came to the broker {self.where} with our client id."
            self._failed(NotReachable(text, hint="Give each endpoint a client id of its own."), self.where)
            known = self.rivals.suspicion
            if self.rivals.taken_over() != known:
                self._on_suspicion(self.rivals.suspicion)
            return TAKEN_OVER_DELAY * (1 + self._chance())
        counts = not self._renewed.is_set() and await self._is_unexplained(lost, lasted)
        if counts and self.rivals.lost(lasted=lasted, now=loop.time()):
            self._on_suspicion(self.rivals.suspicion)
        _log.warning("The connection to the broker %s ended: %s", self.where, lost.text)
        self.error = NotReachable(f"The connection to the broker {self.where} was lost.", hint=NO_BROKER)
        self.nodes.lost()
        return 0.0

    async def _is_unexplained(self, lost: BrokerLost, lasted: float) -> bool:
        """Return whether the end of a connection may be the doing of another client: not where the broker says why.

        Nor where nobody listens at its address: then it has ended itself, or starts again.
        """
        if lost.reason_code:
            return False
        if lasted >= QUICK_LOSS or self.guest:
            return True
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                reader, writer = await asyncio.open_connection(self.nodes.current.host, self.nodes.current.port)
        except (OSError, TimeoutError):
            return False
        try:
            async with asyncio.timeout(PROBE_QUIET):
                await reader.read(1)
            return False
        except (OSError, TimeoutError) as error:
            return isinstance(error, TimeoutError)
        finally:
            writer.close()

    async def _open(self) -> BrokerConnection:
        connection = await self._connect(self.nodes.current)
        try:
            async with asyncio.timeout(UP_TIMEOUT):
                await self._greet(connection)
        except BaseException as error:
            await connection.close()
            if isinstance(error, TimeoutError) and not isinstance(error, S2ConnectError):
                raise PeerTimeout(f"The broker {self.where} does not answer.", hint=NO_BROKER) from None
            raise
        return connection

    async def _stay(self, connection: BrokerConnection) -> BrokerLost:
        self._connection = connection
        _log.info("Connected to the broker %s", self.where)
        self._wake()
        try:
            await connection.ended.wait()
        except asyncio.CancelledError:
            if self._farewell is not None:
                with contextlib.suppress(ConnectionClosed):
                    connection.put(self._farewell)
            await connection.close()
            raise
        finally:
            self._connection = None
        assert connection.lost is not None
        return connection.lost

    def _failed(self, error: S2ConnectError, where: str) -> None:
        if self.error is None:
            _log.warning("No connection to the broker %s: %s", where, error)
        self.error = error
