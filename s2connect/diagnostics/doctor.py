"""``doctor``: checks each layer, from the network to every paired peer, and says how to mend what is broken.

It changes nothing. It works with and without a running service, and on a machine that is not set up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from s2connect.diagnostics.findings import Check, Finding, Findings, Layer
from s2connect.diagnostics.home import ExaminedEndpoint, check_database, check_home, check_vault
from s2connect.diagnostics.intermediaries import check_broker, check_proxy, proxies_of
from s2connect.diagnostics.links import LINKS, check_links
from s2connect.diagnostics.machine import check_multicast, check_network
from s2connect.diagnostics.peers import check_peer, step_of
from s2connect.diagnostics.server import check_certificates, check_name, check_service
from s2connect.errors import ConfigurationError
from s2connect.model.proxy import Proxies
from s2connect.service.bridge_advice import in_bridge
from s2connect.store.home import Home

_log = logging.getLogger(__name__)

DEADLINE = 15.0
"""Seconds for everything; what is not done by then is reported as such."""

_Checks = Callable[[Findings], Awaitable[object]]
_Job = tuple[Findings, _Checks]


async def examine(path: Path, *, deadline: float = DEADLINE) -> list[Finding]:
    """Examine machine, endpoint and peers; changes nothing, and may be cancelled at any time.

    For the home of a bridge the cures name its file instead of commands that change settings.

    Args:
        path: The state directory, which need not exist.
        deadline: Seconds for everything.

    Returns:
        The findings, from the wire upwards. What cannot be examined is a finding, too, and never an exception.
    """
    found = await _examine(path, deadline)
    if not Home(path).is_of_bridge:
        return found
    return [replace(one, cause=in_bridge(one.cause), cure=in_bridge(one.cure)) for one in found]


async def _examine(path: Path, deadline: float) -> list[Finding]:
    until = asyncio.get_running_loop().time() + deadline
    opened: list[ExaminedEndpoint] = []

    async def open_home(found: Findings) -> None:
        endpoint = await check_home(path, found)
        if endpoint is not None:
            opened.append(endpoint)
            found += await check_database(endpoint)

    network, home = _job(Layer.NETWORK, "network", check_network), _job(Layer.STORE, "home", open_home)
    await _run_all(until, network, home)
    endpoint = opened[0] if opened else None
    config = endpoint.config if endpoint is not None else None
    service = endpoint.status.service.pid if endpoint is not None and endpoint.status is not None else None
    proxy = _job(Layer.NETWORK, "proxy", partial(check_proxy, config))
    multicast = _job(Layer.DISCOVERY, "multicast", partial(check_multicast, service))
    if endpoint is None:
        await _run_all(until, proxy, multicast)
        return _findings(network, proxy, multicast, home)

    async def check_server(found: Findings) -> None:
        await check_certificates(endpoint, found, datetime.now(UTC))
        await check_service(endpoint, found)
        found.check = LINKS
        await check_links(endpoint, found)

    name = _job(Layer.DISCOVERY, "own_name", partial(check_name, endpoint))
    vault = _job(Layer.STORE, "vault", partial(check_vault, endpoint))
    server = _job(Layer.SERVICE, "port", check_server)
    broker = _job(Layer.BROKER, "broker", partial(check_broker, endpoint))
    peers = list(_peers(endpoint))
    await _run_all(until, proxy, multicast, name, vault, server, broker, *peers)
    return _findings(network, proxy, multicast, name, home, vault, server, broker, *peers)


def _job(layer: Layer, name: str, run: _Checks) -> _Job:
    return Findings(Check(layer, name)), run


def _findings(*jobs: _Job) -> list[Finding]:
    return [finding for found, _ in jobs for finding in found]


def _peers(endpoint: ExaminedEndpoint) -> Iterator[_Job]:
    """Yield the checks of the peers of all confirmed pairings."""
    proxies = Proxies()
    with contextlib.suppress(ConfigurationError):  # the check of the proxy reports it
        proxies = proxies_of(endpoint.config, os.environ)
    status, anchors = endpoint.status, endpoint.config.trust_anchors
    sessions = {(one.node, one.peer.id) for one in status.pairings if one.connected} if status is not None else set()
    troubles = {(one.node, one.peer.id): one.trouble for one in status.pairings} if status is not None else {}
    for one in endpoint.pairings:
        connected = (one.key.local, one.key.remote) in sessions if status is not None else None
        if one.confirmed:
            yield (
                Findings(step_of(one, "session")),
                partial(check_peer, one, connected, anchors, proxies, troubles.get((one.key.local, one.key.remote))),
            )


async def _run_all(until: float, *jobs: _Job) -> None:
    """Run jobs at the same time; cancel those that are not done at a point in time of the loop."""
    tasks = [asyncio.create_task(found.collect(run), name="s2connect-doctor") for found, run in jobs]
    try:
        await asyncio.wait(tasks, timeout=max(0.0, until - asyncio.get_running_loop().time()))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task, (found, _) in zip(tasks, jobs, strict=True):
        if task.cancelled():
            name = found.check.name.rpartition(".")[2]
            found.append(found.check.warn(f"There was no time left for the check '{name}'.", "Run this again."))
        elif (error := task.exception()) is not None:
            # One check that breaks must not cost the report of all others.
            _log.debug("a check broke", exc_info=error)
            what = f"A check stopped with an unexpected error ({type(error).__name__})."
            found.append(found.check.fail(what, "Run it again with --verbose for the details."))
