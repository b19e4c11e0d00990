"""The bridge as a service: an endpoint and routes from a file, reloaded without touching what did not change."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Final

from s2connect import (
    Endpoint,
    LinkHold,
    Node,
    NodeConfig,
    NodeId,
    PairKey,
    Role,
    for_display,
)
from s2connect.bridge.config import (
    VERSIONS,
    BridgeConfig,
    ConfiguredDevices,
    MqttDevices,
    MqttManager,
    NodeDevices,
    NodeManager,
    PlainClientDevices,
    PlainClientManager,
    PlainServerDevices,
    PlainServerManager,
    RouteConfig,
)
from s2connect.bridge.counters import Totals
from s2connect.bridge.identity import check_names
from s2connect.bridge.link import Link
from s2connect.bridge.link_state import LinkState, LinkStatus
from s2connect.bridge.mqtt import MqttDevicesSide, MqttManagerSide
from s2connect.bridge.nodes import (
    NodeDevicesSide,
    NodeLinkSide,
    NodeManagerSide,
    provide_nodes,
    representative_id,
)
from s2connect.bridge.plain import (
    PlainClientDevicesSide,
    PlainClientManagerSide,
    PlainServerDevicesSide,
    PlainServerLinkSide,
    PlainServerManagerSide,
)
from s2connect.bridge.preparing import prepare_home, provided_identity, remember_routes
from s2connect.bridge.recording import Record
from s2connect.bridge.relay import Policy
from s2connect.bridge.route import Route
from s2connect.bridge.sides import ConfiguredDevicesSide, DevicesSide, LinkSide, ManagerSide
from s2connect.errors import ConfigurationError, S2ConnectError
from s2connect.session import Latencies, PeerLimits
from s2connect.transports import MqttTransport

_log = logging.getLogger(__name__)

DRAINS: Final = "this instance is about to end"

LEFT_WITHIN: Final = 8.0
"""Seconds in which the last sessions end that were told to."""

LOOK_EVERY: Final = 0.05
"""Seconds between two looks whether they have."""

Object = dict[str, Any]
OnChange = Callable[[str, LinkStatus], None]


@dataclass(frozen=True, slots=True)
class Reloaded:
    """Result of a reload.

    Attributes:
        kept: Routes that are untouched.
        updated: Routes of which only devices were changed, with their number.
        begun: Routes that are new, or were started again.
        ended: Routes that were removed.
        failed: Routes that could not be started, with the reason.
        restart: Tables whose change takes effect with the next start.
        reread: Files whose new content is in force: ``certificate``, ``trust_anchors``, ``mqtt``.
        unread: Files whose new content cannot be used, with the reason; the old one stays in force.
    """

    kept: list[str] = field(default_factory=list)
    updated: dict[str, int] = field(default_factory=dict)
    begun: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    restart: list[str] = field(default_factory=list)
    reread: list[str] = field(default_factory=list)
    unread: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Running:
    config: RouteConfig
    route: Route


@dataclass(eq=False, repr=False)
class Bridge:
    """A bridge: use :meth:`open` with ``async with``.

    Attributes:
        config: The settings in force.
        endpoint: Its endpoint.
        id: Id from which those of its routes and representatives are derived.
        failed: Routes that do not run, with the reason.
    """

    config: BridgeConfig
    endpoint: Endpoint
    id: NodeId
    _on_change: OnChange | None
    _record: Record | None
    failed: dict[str, str] = field(default_factory=dict, init=False)
    _running: dict[str, _Running] = field(default_factory=dict, init=False)
    _past: dict[str, Totals] = field(default_factory=dict, init=False)
    _past_latencies: dict[tuple[str, Role], Latencies] = field(default_factory=dict, init=False)
    _since: float = field(default_factory=time.time, init=False)
    _watch: Callable[[str, str, Link], None] | None = field(default=None, init=False)
    _on_news: Callable[[], None] | None = field(default=None, init=False)
    _reloading: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        config: BridgeConfig,
        *,
        on_change: OnChange | None = None,
        addresses: Mapping[str, str] | None = None,
        record: Record | None = None,
    ) -> AsyncIterator[Bridge]:
        """Run a bridge until the context ends; then end its sessions and stop. The first run creates the home.

        Args:
            config: Its settings.
            on_change: Called with the name of the route and the link after every change of a link's state.
            addresses: Address of a host name, instead of resolving it.
            record: Given every connection of every link, to observe it.

        Raises:
            ConfigurationError: A setting cannot be used, or a port is taken.
            StorageError: The home cannot be used, or another process has it.
        """
        settings = await asyncio.to_thread(prepare_home, config)
        # With a database it is an instance, whatever its routes are.
        serves = settings.store is not None or any(_is_node(route) for route in config.routes)
        async with Endpoint.open(
            config.home, config=settings, serve=serves, listen=False, addresses=addresses
        ) as endpoint:
            identity = await provided_identity(config, endpoint)
            check_names(config, identity)
            if endpoint.sharing is not None:
                endpoint.sharing.exchange_pairings()
            made = cls(config, endpoint, identity.id, on_change, record)
            try:
                await endpoint.keep_settings()  # other commands read them in the home
                for route in config.routes:
                    await made._begin(route)
                await remember_routes(config, endpoint)
                await endpoint.listen()  # now every device that connects finds its link
                yield made
            finally:
                await made._close()

    async def _begin(self, config: RouteConfig) -> None:
        policy = Policy(
            check=config.check,
            max_message_bytes=config.max_message_bytes,
            messages_per_second=config.messages_per_second,
            burst=config.burst,
            limits=PeerLimits(
                messages_per_second=config.slow_beyond_messages,
                bytes_per_second=config.slow_beyond_bytes,
                busy_share=config.slow_beyond_share,
            ),
        )
        route = Route(
            config.name,
            await self._devices_side(config),
            self._manager_side(config),
            policy,
            on_change=partial(self._changed, config.name),
            failures=self.endpoint.supervisor.failures,
            record=self._record,
            hold=self._hold_of(config.id_in(self.id)),
        )
        if self._watch is not None:
            route.watch_links(partial(self._watch, config.name))
        await route.start()
        self._running[config.name] = _Running(config, route)

    def _hold_of(self, route: NodeId) -> Callable[[str], LinkHold] | None:
        """Return what gives the hold of a device's link; None where no other instance may have it."""
        sharing = self.endpoint.sharing
        return None if sharing is None else lambda key: sharing.link_hold(route, representative_id(route, key))

    async def _devices_side(self, route: RouteConfig) -> DevicesSide:
        config, own = route.devices, route.id_in(self.id)
        match config:
            case NodeDevices():
                return NodeDevicesSide(self.endpoint, await self._node(own, config))
            case PlainClientDevices():
                return PlainClientDevicesSide(own, config, self.endpoint.proxies)
            case PlainServerDevices():
                return PlainServerDevicesSide(own, config)
            case MqttDevices():
                return MqttDevicesSide(self._mqtt(), own, config)

    def _manager_side(self, route: RouteConfig) -> ManagerSide:
        config, own = route.manager, route.id_in(self.id)
        match config:
            case NodeManager():
                return NodeManagerSide(self.endpoint, own, tuple(config.protocols))
            case PlainClientManager():
                return PlainClientManagerSide(own, config, self.endpoint.proxies)
            case PlainServerManager():
                return PlainServerManagerSide(own, config)
            case MqttManager():
                return MqttManagerSide(self._mqtt(), own, config)

    async def _node(self, own: NodeId, config: NodeDevices) -> Node:
        """Return the node with which the devices of a route pair; it is stored in the home."""
        wanted = NodeConfig(
            id=own,
            role=Role.CEM,
            brand=config.brand,
            type="Bridge",
            model_name=config.model,
            user_defined_name=config.name,
            communication_protocols=config.protocols,
            s2_versions=VERSIONS,
        )
        await provide_nodes(self.endpoint, [wanted])
        return self.endpoint.node(own)

    def _mqtt(self) -> MqttTransport:
        if self.endpoint.mqtt is None or self.endpoint.config.mqtt is None:
            raise ConfigurationError('A route of type "mqtt" needs the broker of [mqtt].')
        return self.endpoint.mqtt

    def _changed(self, route: str, link: Link) -> None:
        status = link.status()
        if status.state is LinkState.STOPPED:
            self._past.setdefault(route, Counter()).update(link.counters.totals())
            for role, latencies in link.counters.latencies.items():
                self._past_latencies.setdefault((route, role), Latencies()).absorb(latencies)
        if self._on_change is not None:
            self._on_change(route, status)
        if self._on_news is not None:
            self._on_news()

    def watch_links(self, on_link: Callable[[str, str, Link], None], on_change: Callable[[], None]) -> None:
        """Show every link, now and later, to ``on_link``, with the names of its route and its device.

        ``on_change`` is called after every change of a link's state.
        """
        self._watch, self._on_news = on_link, on_change
        for name, running in self._running.items():
            running.route.watch_links(partial(on_link, name))

    async def _close(self) -> None:
        running, self._running = list(self._running.values()), {}
        await asyncio.gather(*(one.route.close() for one in running))

    # End as one of several instances

    async def drain(self, *, wait: float, rate: float) -> int:
        """Serve what was begun, for ``wait`` seconds at most; then have peers go elsewhere, ``rate`` links a second.

        Returns the number of links that had a session.
        """
        return await self.endpoint.drain(wait=wait, rate=rate, hand_over=self._hand_over)

    async def _hand_over(self, rate: float) -> int:
        loop, links = (
            asyncio.get_running_loop(),
            [link for running in self._running.values() for link in running.route.links.values()],
        )
        for link in links:
            link.begin_none(DRAINS)
        used = [link for link in links if link.is_used]
        began = loop.time()
        for number, link in enumerate(used):
            if (due := began + number / rate) > loop.time():
                await asyncio.sleep(due - loop.time())
            link.leave()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEFT_WITHIN):
                left = used
                while left:
                    await asyncio.sleep(LOOK_EVERY)
                    left = [link for link in left if link.is_used]
        return len(used)

    # Reload

    async def reload(self, config: BridgeConfig) -> Reloaded:
        """Use other settings. Routes and devices that did not change keep their links untouched.

        A route that cannot be started is reported, and tried again with the next reload; the others are not affected.
        """
        async with self._reloading:
            done = Reloaded()
            if self.endpoint.sharing is not None:
                check_names(config, await provided_identity(config, self.endpoint))
            self.failed.clear()
            old = self.config
            tables = ("home", "endpoint", "mqtt", "proxy", "metrics", "page")
            done.restart.extend(table for table in tables if getattr(old, table) != getattr(config, table))
            if any(map(_is_node, config.routes)) and not any(map(_is_node, old.routes)):
                done.restart.append("endpoint")
            wanted = {route.name: route for route in config.routes}
            for name in [name for name in self._running if name not in wanted]:
                await self._running.pop(name).route.close()
                done.ended.append(name)
            for name, new in wanted.items():
                await self._renew(name, new, done)
            files = await self.endpoint.reread_files()
            done.reread.extend(files.changed)
            done.unread.update(files.failed)
            await remember_routes(config, self.endpoint)
            self.config = config
            return done

    async def _renew(self, name: str, new: RouteConfig, done: Reloaded) -> None:
        running = self._running.get(name)
        try:
            if running is not None and running.config == new:
                done.kept.append(name)
            elif running is not None and _same_but_devices(running.config, new):
                assert isinstance(running.route.devices, ConfiguredDevicesSide)
                assert isinstance(new.devices, ConfiguredDevices)
                done.updated[name] = len(await running.route.devices.update(new.devices.device))
                running.config = new
            else:
                if running is not None:
                    await self._running.pop(name).route.close()
                await self._begin(new)
                done.begun.append(name)
        except S2ConnectError as error:
            self.failed[name] = done.failed[name] = str(error)
            _log.error("the route %s does not run: %s", name, error)

    # Status

    @property
    def routes(self) -> Mapping[str, Route]:
        """The routes that run."""
        return {name: running.route for name, running in self._running.items()}

    def alive(self) -> bool:
        """Return whether every link still has its task."""
        return all(running.route.alive() for running in self._running.values())

    def status(self) -> Object:
        """Return the status as a JSON object; texts from the network are cleaned."""
        return {
            "id": str(self.id),
            "file": str(self.config.file),
            "running_for": round(time.time() - self._since, 3),
            "routes": [self._route_object(running) for running in self._running.values()],
            "failed": [{"name": name, "reason": why} for name, why in self.failed.items()],
            "ended": [
                {
                    "node": str(event.node),
                    "peer": str(event.peer.id),
                    "name": for_display(event.peer.title, 100),
                    "role": str(event.peer.role),
                    "by": str(event.by),
                    "since": event.at.isoformat(timespec="milliseconds"),
                    "text": event.sentence,
                }
                for event in self.endpoint.ended_pairings()
            ],
        }

    def _route_object(self, running: _Running) -> Object:
        config, route, own = running.config, running.route, running.config.id_in(self.id)
        history = self.endpoint.history()
        found: Object = {
            "name": config.name,
            "id": str(own),
            "check": str(config.check),
            "devices": {"type": config.devices.type},
            "manager": {"type": config.manager.type},
            "links": [
                {**_link_object(key, link, history), "node": str(representative_id(own, key))}
                for key, link in sorted(route.links.items(), key=lambda item: item[1].name)
            ],
        }
        if isinstance(route.devices, NodeDevicesSide):
            node = route.devices.node
            found["devices"] |= {
                "node": str(node.id),
                "alias": node.alias,
                "pairing_url": str(self.endpoint.pairing_url),
            }
        return found

    def totals(self) -> Mapping[str, Totals]:
        """Return the messages since the start, by route; they never decrease."""
        found = {name: Counter(past) for name, past in self._past.items()}
        for name, running in self._running.items():
            sums = found.setdefault(name, Counter())
            for link in running.route.links.values():
                if link.status().state is not LinkState.STOPPED:  # that is counted with what is past
                    sums.update(link.counters.totals())
        return found

    def latencies(self) -> Mapping[tuple[str, Role], Latencies]:
        """Return the times that acknowledgements took, by route and role of the sender; they never decrease."""
        found: dict[tuple[str, Role], Latencies] = {}
        for key, past in self._past_latencies.items():
            found.setdefault(key, Latencies()).absorb(past)
        for name, running in self._running.items():
            for link in running.route.links.values():
                if link.state is not LinkState.STOPPED:
                    for role, latencies in link.counters.latencies.items():
                        found.setdefault((name, role), Latencies()).absorb(latencies)
        return found


def _link_object(key: str, link: Link, history: Mapping[PairKey, Any]) -> Object:
    status = link.status()
    found: Object = {
        "name": status.name,
        "key": for_display(key, 64),
        "state": str(status.state),
        "for_seconds": round(status.for_seconds, 3),
        "reason": status.reason,
        "last_failure": status.last_failure,
        "retry_in": None if status.retry_in is None else round(status.retry_in, 3),
        "times_up": status.times_up,
    }
    by_role: dict[str, Mapping[Role, Any]] = {
        "sides": {role: asdict(side) for role, side in status.sides.items()},
        "messages": status.counts,
        "refusals": status.refusals,
        "queued": status.queued,
    }
    found |= {name: {role.lower(): part for role, part in parts.items()} for name, parts in by_role.items()}
    found["trouble"] = {
        # Whoever knows the ids of a pair can bring an unknown token while the right one is connected.
        role.lower(): None if status.sides[role].connected else _trouble(side, history)
        for role, side in link.sides.items()
    }
    manager = link.sides[Role.CEM]
    if isinstance(manager, NodeLinkSide):
        paired = manager.title if manager.pairing is not None else None
        found["representative"] = {"node": str(manager.node.id), "alias": manager.node.alias, "paired_with": paired}
    elif isinstance(manager, PlainServerLinkSide):
        found["path"] = manager.path
    return found


def _trouble(side: LinkSide, history: Mapping[PairKey, Any]) -> Object | None:
    """Return the trouble with the access of a side's pairing, None for none."""
    pairing = side.pairing if isinstance(side, NodeLinkSide) else None
    known = history.get(pairing.key) if pairing is not None else None
    if known is None or known.trouble is None:
        return None
    reason, since, text = known.trouble
    return {"reason": reason, "since": since.isoformat(timespec="milliseconds"), "text": for_display(text, 500)}


def _is_node(route: RouteConfig) -> bool:
    return isinstance(route.devices, NodeDevices) or isinstance(route.manager, NodeManager)


def _same_but_devices(old: RouteConfig, new: RouteConfig) -> bool:
    """Return whether two routes differ in their list of devices only, and no file that both name has changed."""
    if not isinstance(old.devices, ConfiguredDevices) or not isinstance(new.devices, ConfiguredDevices):
        return False
    before, after = {f[0]: f for f in old.files}, {f[0]: f for f in new.files}
    if any(before[name] != after[name] for name in before.keys() & after.keys()):
        return False
    devices = old.devices.model_copy(update={"device": new.devices.device})
    return old.model_copy(update={"devices": devices, "files": new.files}) == new
