"""Facts of the links and routes of a bridge."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Final

from s2connect import Connection, PairKey, Role
from s2connect.bridge.bridge import Bridge
from s2connect.bridge.counters import BRIDGE, PEER, Counters
from s2connect.bridge.link import Link
from s2connect.bridge.link_state import LinkState
from s2connect.bridge.nodes import NodeDevicesSide, NodeLinkSide
from s2connect.bridge.sides import Initiator
from s2connect.endpoint.connections import PeerHistory
from s2connect.web import advice
from s2connect.web.facts import MAX_PEERS, LinkFacts, Refusal, RouteFacts, SideFacts, Traffic, Tries
from s2connect.web.peer_facts import connection_facts, is_silent
from s2connect.web.watches import LinkWatch, side_key

_TRIED: Final = (LinkState.FAILED, LinkState.REFUSED)


Histories = Mapping[PairKey, PeerHistory]


def links_of(
    bridge: Bridge, histories: Histories, wall: Callable[[float], datetime], now: datetime
) -> tuple[tuple[LinkFacts, ...], int]:
    """Return the facts of the links, those that need a person first, and the number of those that are left out."""
    links = [(name, key, link) for name, route in bridge.routes.items() for key, link in route.links.items()]
    if len(links) > MAX_PEERS:
        links.sort(key=lambda one: one[2].state is LinkState.UP)
    file = str(bridge.config.file)
    shown = [link_facts(name, key, link, histories, file, wall, now) for name, key, link in links[:MAX_PEERS]]
    shown.sort(key=lambda link: link.state == LinkState.UP)
    return tuple(shown), max(0, len(links) - MAX_PEERS)


def link_facts(
    route: str,
    device: str,
    link: Link,
    histories: Histories,
    file: str,
    wall: Callable[[float], datetime],
    now: datetime,
) -> LinkFacts:
    """Return the facts of one link."""
    status, key, connections = link.status(), f"{route}/{device}", link.connections()
    opens = {role: side.initiator for role, side in link.sides.items()}
    missing, helps = advice.of_link(status.state, opens, set(connections), status.reason, file)
    for role, side in link.sides.items():
        pairing = side.pairing if isinstance(side, NodeLinkSide) else None
        trouble = histories[pairing.key].trouble if pairing is not None and pairing.key in histories else None
        if missing and trouble is not None:
            missing, helps = advice.of_trouble(role, trouble[0], f"s2connect bridge pair {file}")
    since = now - timedelta(seconds=status.for_seconds)
    failed = status.state in _TRIED
    ours = all(initiator is Initiator.BRIDGE for initiator in opens.values())
    return LinkFacts(
        key=key,
        route=route,
        name=link.name,
        state=str(status.state),
        since=since,
        reason=status.reason,
        missing=missing,
        helps=helps,
        times_up=status.times_up,
        queued=sum(status.queued.values()),
        tries=Tries(
            last=since if failed else None,
            error=str(status.state) if failed else "",
            sentence=status.reason if failed else "",
            next=None if status.retry_in is None else now + timedelta(seconds=status.retry_in),
            can_try_now=ours and status.retry_in is not None and link.waits_to_connect,
        ),
        device=_side(key, Role.RM, link, opens[Role.RM], connections.get(Role.RM), wall),
        manager=_side(key, Role.CEM, link, opens[Role.CEM], connections.get(Role.CEM), wall),
    )


def _side(
    key: str,
    role: Role,
    link: Link,
    initiator: Initiator | None,
    connection: Connection | None,
    wall: Callable[[float], datetime],
) -> SideFacts:
    side = link.sides[role]
    pairing = side.pairing if isinstance(side, NodeLinkSide) else None
    return SideFacts(
        key=side_key(key, role),
        role=role,
        title=side.title,
        peer=None if pairing is None else pairing.peer,
        paired=initiator is not None,
        opens="" if initiator is None else "bridge" if initiator is Initiator.BRIDGE else "peer",
        connected=connection is not None and not is_silent(connection),
        connection=None if connection is None else connection_facts(connection),
        traffic=traffic_of(link.counters, role, link.watch if isinstance(link.watch, LinkWatch) else None, wall),
    )


def traffic_of(counters: Counters, role: Role, watch: LinkWatch | None, wall: Callable[[float], datetime]) -> Traffic:
    """Return the numbers of one side of a link: what the peer there sent, and what was sent to it."""
    mine, others = counters.messages[role], counters.messages[role.other]
    now = asyncio.get_running_loop().time()
    latencies = counters.latencies.get(role.other)
    by_us, by_peer = dict[str, int](), dict[str, int]()
    for (sender, by, status), number in counters.refused.items():
        if by == BRIDGE and sender is role:
            by_us[status] = number
        elif by == PEER and sender is role.other:
            by_peer[status] = number
    return Traffic(
        received=mine.get("forwarded", 0) + mine.get("refused", 0),
        sent=others.get("forwarded", 0),
        received_last_minute=watch.sides[role].last_minute(now) if watch is not None else 0,
        sent_last_minute=watch.sides[role.other].last_minute(now) if watch is not None else 0,
        slowest_acknowledgement=None if latencies is None else latencies.slowest(now),
        unacknowledged=others.get("unanswered", 0),
        refused_by_us=by_us,
        refused_by_peer=by_peer,
        refusals=tuple(
            Refusal(
                at=wall(one.at),
                by="us" if one.by == BRIDGE else "peer",
                type=one.message_type,
                status=one.status,
                label=one.label,
            )
            for sender, one in reversed(counters.recent)
            if (one.by == BRIDGE) == (sender is role)
        ),
    )


def routes_of(bridge: Bridge) -> Iterator[RouteFacts]:
    """Iterate over the routes of a bridge."""
    for config in bridge.config.routes:
        route = bridge.routes.get(config.name)
        states = [link.state for link in route.links.values()] if route is not None else []
        devices = route.devices if route is not None else None
        yield RouteFacts(
            name=config.name,
            devices=config.devices.type,
            manager=config.manager.type,
            check=str(config.check),
            links=len(states),
            up=states.count(LinkState.UP),
            node=devices.node.id if isinstance(devices, NodeDevicesSide) else None,
            failed=bridge.failed.get(config.name, ""),
        )
