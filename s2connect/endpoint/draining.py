"""Drain: hand the sessions of an instance that is about to end over to the others, at a rate that they can take."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from s2connect.endpoint.connections import ConnectionManager, LiveConnection
from s2connect.endpoint.state import EndpointState
from s2connect.errors import S2ConnectError
from s2connect.model.common import NodeId
from s2connect.session.shared import SharedOfferingSessions

if TYPE_CHECKING:  # a device that only connects does without a server
    from s2connect.https.server import HttpsServer

_log = logging.getLogger(__name__)

NOTICED_AFTER: Final = 5.0
"""Seconds in which a balancer that asks every two seconds sees that ``/readyz`` fails, and sends nobody any more."""

LOOK_EVERY: Final = 0.25
"""Seconds between two looks whether offers are left."""

LAST_LOOKS: Final = 3
"""Times that sessions are looked for; those of the second time came while those of the first were handed over."""

STEP: Final = 0.1
"""Seconds between two groups of sessions that are asked to connect anew."""

HandOver = Callable[[float], Awaitable[int]]
"""Function that has the peers of an application's connections go elsewhere, so many a second; returns their number."""

REASON: Final = "this instance is about to end"


async def drain(
    state: EndpointState,
    connections: Mapping[NodeId, ConnectionManager],
    offers: SharedOfferingSessions | None,
    server: HttpsServer | None,
    hand_over: HandOver | None = None,
    *,
    wait: float,
    rate: float,
) -> int:
    """Take nothing new, and have the peers of all sessions connect to other instances. Returns how many there were.

    Requests and connections are served while a balancer notices, and until the offers that were made before are used
    or have expired, for ``wait`` seconds at most. Then the port is closed, and each peer gets a ``SessionRequest
    RECONNECT``, ``rate`` a second: by ``hand_over``, called with the rate, where an application has the sessions.
    """
    state.draining = True
    if state.presence is not None:
        state.presence.drain()
    name = state.presence.name if state.presence is not None else ""
    _log.warning("the instance %s drains: it serves what was begun, then its sessions go to others", name)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(wait):
            await asyncio.gather(_none_left(offers), asyncio.sleep(NOTICED_AFTER))
    if server is not None:
        server.stop_accepting()
    for manager in connections.values():
        await manager.stop_connecting()
    number = await hand_over(rate) if hand_over is not None else 0
    for _ in range(LAST_LOOKS):  # a connection that was taken before the port was closed may be a session since
        live = [one for manager in connections.values() for one in manager.peers().values()]
        await _hand_over(state, live, rate)
        number += len(live)
    _log.warning("the instance %s has drained; sessions that were asked to connect anew: %d", name, number)
    return number


async def _none_left(offers: SharedOfferingSessions | None) -> None:
    """Wait until the offers that were made before now are used or have expired. Without the database nobody can."""
    if offers is None:
        return
    with contextlib.suppress(S2ConnectError):
        _, until = await offers.open_offers(None)
        left, _ = await offers.open_offers(until)
        while left:
            await asyncio.sleep(LOOK_EVERY)
            left, _ = await offers.open_offers(until)


async def _hand_over(state: EndpointState, live: Sequence[LiveConnection], rate: float) -> None:
    loop = asyncio.get_running_loop()
    began, ending = loop.time(), []
    for number, one in enumerate(live):
        due = began + number / rate
        if due > loop.time() + STEP:
            await asyncio.sleep(due - loop.time())
        ending.append(state.supervisor.spawn(one.end(REASON, ask_to_reconnect=True), "end", expected=logging.INFO))
    if ending:
        await asyncio.wait(ending)
