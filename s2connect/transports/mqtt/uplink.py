"""Uplink: one link to a broker, with the state of its present connection."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from s2connect.transports.mqtt.settings import MqttSettings
from s2connect.transports.mqtt.topics import TopicSpace

if TYPE_CHECKING:
    from s2connect.transports.mqtt.broker import BrokerConnection
    from s2connect.transports.mqtt.client import MqttLink

OPEN_INTERVAL = 0.01
"""MQ-17: seconds between two ``open`` frames of one connection to a broker."""


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


@dataclass(slots=True)
class Uplink:
    """One link to a broker, with the state of its present connection.

    Attributes:
        link: It makes the connections.
        settings: Broker and account; a change counts from the next connection on.
        guest: Whether a peer named this broker.
        pace: Of the ``open`` frames.
        users: Sessions that need it.
        linger: Ends the link of a guest that nobody needs.
    """

    link: MqttLink
    settings: MqttSettings
    guest: bool
    pace: Pace = field(default_factory=Pace)
    users: int = 0
    linger: asyncio.TimerHandle | None = None
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _subscribed: tuple[BrokerConnection | None, set[str]] = (None, set())

    @property
    def mc(self) -> str:
        """Our MQTT client id."""
        return self.settings.client_id or ""

    @property
    def space(self) -> TopicSpace:
        """The topics of our presence."""
        return TopicSpace(self.settings.prefix)

    async def subscribe(self, broker: BrokerConnection, topic: str) -> None:
        """Subscribe once per connection.

        Raises:
            SessionRefused: The broker does not allow it.
            ConnectionClosed: The connection is gone.
        """
        async with self._lock:
            if self._subscribed[0] is not broker:
                self._subscribed = (broker, set())
            if topic not in self._subscribed[1]:
                await broker.subscribe(topic)
                self._subscribed[1].add(topic)
