"""``s2connect doctor``: proves each layer, from the network to every paired peer, and says how to mend what is broken.

It changes nothing. It works with and without a running service, and on a machine that is not set up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from s2connect import EndpointConfig
from s2connect.diagnostics.checks import Check, Layer, Result, fail, passes, warn
from s2connect.diagnostics.endpoint import (
    Found,
    examine_certificates,
    examine_database,
    examine_home,
    examine_name,
    examine_service,
    examine_vault,
    now_utc,
)
from s2connect.diagnostics.intermediaries import examine_broker, examine_proxy, proxies_of
from s2connect.diagnostics.machine import examine_multicast, examine_network
from s2connect.diagnostics.peers import peers_of
from s2connect.errors import ConfigurationError
from s2connect.model.proxy import Proxies
from s2connect.service.sidecar import Object
from s2connect.store.base import Pairing

_log = logging.getLogger(__name__)

DEADLINE = 15.0
"""Seconds for everything; what is not done by then is reported as such."""

_STYLES = {Result.OK: "green", Result.WARN: "yellow", Result.FAIL: "bold red"}


@dataclass(slots=True)
class _Job:
    """Some checks that belong together, and what is noted when there is no time left for them."""

    work: Coroutine[Any, Any, object]
    found: list[Check]
    unfinished: Callable[[], Check]


async def examine(path: Path, *, deadline: float = DEADLINE) -> list[Check]:
    """Examine machine, endpoint and peers; changes nothing, and may be cancelled at any time.

    Args:
        path: The state directory, which need not exist.
        deadline: Seconds for everything.

    Returns:
        What was found, from the wire upwards.
    """
    until = asyncio.get_running_loop().time() + deadline
    network, home = _Part(Layer.NETWORK), _Part(Layer.STORE)
    endpoint: Found | None = None
    pairings: list[Pairing] = []

    async def look() -> None:
        nonlocal endpoint, pairings
        endpoint = await examine_home(path, home.found)
        if endpoint is not None:
            pairings = await examine_database(endpoint, home.found)

    await _together(until, [network.job("network", examine_network(network.found)), home.job("home", look())])
    multicast, name, vault = _Part(Layer.DISCOVERY), _Part(Layer.DISCOVERY), _Part(Layer.STORE)
    certificate, service, broker = _Part(Layer.CERTIFICATE), _Part(Layer.SERVICE), _Part(Layer.BROKER)
    proxy = _Part(Layer.NETWORK)
    settings = endpoint.config if endpoint is not None else None
    look_around = [proxy.job("proxy", examine_proxy(settings, proxy.found))]
    if endpoint is None:
        await _together(until, [*look_around, multicast.job("multicast", examine_multicast(multicast.found, None))])
        return [*network.found, *proxy.found, *multicast.found, *home.found]
    known, status = endpoint, endpoint.status

    async def look_at_server() -> None:
        await examine_certificates(known, certificate.found, now_utc())
        await examine_service(known, service.found)

    peers = peers_of(pairings, status, endpoint.config.trust_anchors, _proxies(endpoint.config))
    steps: list[list[Check]] = [[] for _ in peers]
    await _together(
        until,
        [
            multicast.job(
                "multicast", examine_multicast(multicast.found, status["service"]["pid"] if status else None)
            ),
            name.job("own_name", examine_name(known, name.found)),
            vault.job("vault", examine_vault(known, vault.found)),
            service.job("port", look_at_server()),
            broker.job("broker", examine_broker(known, broker.found)),
            *look_around,
            *(_Job(peer.examine(found), found, peer.unfinished) for peer, found in zip(peers, steps, strict=True)),
        ],
    )
    parts = (network, proxy, multicast, name, home, vault, certificate, service, broker)
    return [check for found in (*(part.found for part in parts), *steps) for check in found]


def _proxies(config: EndpointConfig) -> Proxies:
    with contextlib.suppress(ConfigurationError):  # the line about the proxy says so
        return proxies_of(config, os.environ)
    return Proxies()


class _Part:
    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.found: list[Check] = []

    def job(self, name: str, work: Coroutine[Any, Any, object]) -> _Job:
        return _Job(
            work,
            self.found,
            lambda: warn(self.layer, name, f"There was no time left for the check '{name}'.", "Run this again."),
        )


async def _together(until: float, jobs: Sequence[_Job]) -> None:
    """Run jobs at the same time; at a point in time of the loop, those not done are cancelled and noted as such."""
    tasks = [asyncio.create_task(job.work, name="s2connect-doctor") for job in jobs]
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
            job.found.append(fail(like.layer, like.name, what, "Run it again with --verbose for the details."))


def report(checks: Sequence[Check]) -> Object:
    """The checks for programs."""
    return {"checks": [check.to_object() for check in checks], "ok": passes(checks)}


def blocks(checks: Sequence[Check]) -> list[RenderableType]:
    """The checks for people: one line each, but one for all steps to a peer that went well."""
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for result, sentence, hint in _lines(checks):
        table.add_row(Text(f"[{result}]", style=_STYLES[result]), sentence)
        if hint:
            table.add_row("", Text(f"→ {hint}", style="bold"))
    return [table, Text(_summary(checks))]


def _lines(checks: Sequence[Check]) -> Iterator[tuple[Result, str, str]]:
    for (about, result), group in groupby(checks, key=lambda check: (check.about, check.result)):
        shown = [check.to_object() for check in group]
        if about and result is Result.OK:
            first, *others = (one["sentence"] for one in shown)
            yield result, " ".join([first, *(text.removeprefix(f"{about}: ") for text in others)]), ""
        else:
            yield from ((result, one["sentence"], one["hint"]) for one in shown)


def _summary(checks: Sequence[Check]) -> str:
    failed = sum(check.result is Result.FAIL for check in checks)
    warned = sum(check.result is Result.WARN for check in checks)
    if not failed and not warned:
        return "All is well."
    warnings = f"{warned} {'warning' if warned == 1 else 'warnings'}"
    return f"{failed} failed, {warnings}." if failed else f"Nothing failed; {warnings}."
