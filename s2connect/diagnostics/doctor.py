"""``doctor``: checks each layer, from the network to every paired peer, and says how to mend what is broken.

It changes nothing. It works with and without a running service, and on a machine that is not set up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from s2connect.diagnostics.findings import Check, Finding, Layer, Verdict, passes
from s2connect.diagnostics.home import ExaminedEndpoint, check_database, check_home, check_vault
from s2connect.diagnostics.intermediaries import check_broker, check_proxy, proxies_of
from s2connect.diagnostics.machine import check_multicast, check_network
from s2connect.diagnostics.peers import PeerChecks
from s2connect.diagnostics.server import check_certificates, check_name, check_service
from s2connect.errors import ConfigurationError
from s2connect.model.proxy import Proxies

__all__ = ["Finding", "Layer", "Verdict", "examine", "passes"]

_log = logging.getLogger(__name__)

DEADLINE = 15.0
"""Seconds for everything; what is not done by then is reported as such."""


@dataclass(slots=True)
class _Job:
    """Checks that run one after the other.

    Attributes:
        run: Runs them; adds to the list that it gets.
        unfinished: Returns the finding if there is no time left.
        found: Their findings.
    """

    run: Callable[[list[Finding]], Awaitable[object]]
    unfinished: Callable[[], Finding]
    found: list[Finding] = field(default_factory=list)


async def examine(path: Path, *, deadline: float = DEADLINE) -> list[Finding]:
    """Examine machine, endpoint and peers; changes nothing, and may be cancelled at any time.

    Args:
        path: The state directory, which need not exist.
        deadline: Seconds for everything.

    Returns:
        The findings, from the wire upwards.
    """
    until = asyncio.get_running_loop().time() + deadline
    opened: list[ExaminedEndpoint] = []

    async def open_home(found: list[Finding]) -> None:
        endpoint = await check_home(path, found)
        if endpoint is not None:
            opened.append(endpoint)
            found.append(await check_database(endpoint))

    network, home = _job(Layer.NETWORK, "network", check_network), _job(Layer.STORE, "home", open_home)
    await _run_all(until, [network, home])
    endpoint = opened[0] if opened else None
    config = endpoint.config if endpoint is not None else None
    service = endpoint.status.service.pid if endpoint is not None and endpoint.status is not None else None
    proxy = _job(Layer.NETWORK, "proxy", lambda found: check_proxy(config, found))
    multicast = _job(Layer.DISCOVERY, "multicast", lambda found: check_multicast(found, service))
    if endpoint is None:
        await _run_all(until, [proxy, multicast])
        return _findings([network, proxy, multicast, home])

    async def check_server(found: list[Finding]) -> None:
        await check_certificates(endpoint, found, datetime.now(UTC))
        await check_service(endpoint, found)

    name = _job(Layer.DISCOVERY, "own_name", lambda found: check_name(endpoint, found))
    vault = _job(Layer.STORE, "vault", lambda found: check_vault(endpoint, found))
    server = _job(Layer.SERVICE, "port", check_server)
    broker = _job(Layer.BROKER, "broker", lambda found: check_broker(endpoint, found))
    peers = [_Job(peer.run, peer.unfinished) for peer in _peers(endpoint)]
    await _run_all(until, [proxy, multicast, name, vault, server, broker, *peers])
    return _findings([network, proxy, multicast, name, home, vault, server, broker, *peers])


def _job(layer: Layer, name: str, run: Callable[[list[Finding]], Awaitable[object]]) -> _Job:
    check = Check(layer, name)
    return _Job(run, lambda: check.warn(f"There was no time left for the check '{name}'.", "Run this again."))


def _findings(jobs: Sequence[_Job]) -> list[Finding]:
    return [finding for job in jobs for finding in job.found]


def _peers(endpoint: ExaminedEndpoint) -> list[PeerChecks]:
    """Return the checks of the peers of all confirmed pairings."""
    proxies = Proxies()
    with contextlib.suppress(ConfigurationError):  # the check of the proxy reports it
        proxies = proxies_of(endpoint.config, os.environ)
    status, anchors = endpoint.status, endpoint.config.trust_anchors
    connected = {(one.node, one.peer.id) for one in status.pairings if one.connected} if status is not None else set()
    return [
        PeerChecks(one, (one.key.local, one.key.remote) in connected if status is not None else None, anchors, proxies)
        for one in endpoint.pairings
        if one.confirmed
    ]


async def _run_all(until: float, jobs: Sequence[_Job]) -> None:
    """Run jobs at the same time; cancel those that are not done at a point in time of the loop."""

    async def run(job: _Job) -> None:
        await job.run(job.found)

    tasks = [asyncio.create_task(run(job), name="s2connect-doctor") for job in jobs]
    try:
        await asyncio.wait(tasks, timeout=max(0.0, until - asyncio.get_running_loop().time()))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task, job in zip(tasks, jobs, strict=True):
        if task.cancelled():
            job.found.append(job.unfinished())
        elif (error := task.exception()) is not None:
            # One check that breaks must not cost the report of all others.
            _log.debug("a check broke", exc_info=error)
            what = f"A check stopped with an unexpected error ({type(error).__name__})."
            like = job.unfinished()
            check = Check(like.layer, like.name)
            job.found.append(check.fail(what, "Run it again with --verbose for the details."))
