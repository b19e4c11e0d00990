"""Endpoints in the local network, and their nodes, as long as somebody wants to see them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from s2connect import Endpoint
from s2connect.discovery.resolve import is_local_name
from s2connect.errors import NotReachable, S2ConnectError
from s2connect.model.common import Deployment, NodeDescription, NodeId
from s2connect.model.url import BaseUrl, is_local_address
from s2connect.web.facts import FoundFacts

if TYPE_CHECKING:
    from s2connect.discovery.browse import Browser  # loads zeroconf
    from s2connect.discovery.txt import FoundEndpoint

MAX_FOUND: Final = 100
"""Endpoints that are shown."""

MAX_NODES: Final = 32
"""Nodes of one endpoint that are shown."""

LOOK_TIMEOUT: Final = 10.0
"""Seconds for an endpoint to describe itself; then it is shown by what it advertises alone."""

LOOK_PAUSE: Final = 0.5
"""Seconds between two such questions."""

LOOK_EVERY: Final = 60.0
"""Seconds after which the same endpoint is asked again, when its advertisement changes."""

RETRY: Final = 60.0
"""Seconds until mDNS is tried again on a machine that could not use it."""


class Neighbours:
    """Follows the local network while :meth:`run` does.

    Attributes:
        note: Why nothing can be found; empty otherwise.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.note = ""
        self._endpoint = endpoint
        self._browser: Browser | None = None
        self._due: set[BaseUrl | None] = set()
        self._looked: dict[BaseUrl, float] = {}
        self._nodes: dict[BaseUrl, tuple[NodeDescription, ...]] = {}

    async def run(self) -> None:
        """Follow the network until cancelled."""
        if self._endpoint.config.deployment is not Deployment.LAN:
            self.note = "This endpoint is in the internet: it looks for nobody in a local network."
            return
        while True:
            try:
                await self._follow()
            except NotReachable as error:
                self.note = f"Nothing can be found: {error}"
            await asyncio.sleep(RETRY)

    async def _follow(self) -> None:
        from s2connect.discovery.browse import Browser

        clock, looked_at = asyncio.get_running_loop().time, 0.0
        async with Browser() as browser:
            self.note, self._browser = "", browser
            try:
                while True:
                    next_look = looked_at + LOOK_PAUSE
                    if self._due and clock() >= next_look:
                        self._forget({one.pairing_url for one in browser.found()})
                        if (url := self._next(browser.found(), clock())) is not None:
                            await self._look_at(url)
                            looked_at = clock()
                        continue
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout_at(next_look if self._due else None):
                            self._due.add((await anext(browser)).endpoint.pairing_url)
            finally:
                self._browser = None

    def _next(self, found: Sequence[FoundEndpoint], now: float) -> BaseUrl | None:
        """Return the URL that is to be asked next, of those that came or changed; None if there is none.

        No stranger is asked before the first ones of the others, and none beyond those that are shown.
        """
        for one in found[:MAX_FOUND]:
            if one.pairing_url in self._due:
                self._due.discard(one.pairing_url)
                if self._is_to_be_looked_at(one.pairing_url, now):
                    return one.pairing_url
        self._due.clear()
        return None

    def _is_to_be_looked_at(self, url: BaseUrl | None, now: float) -> bool:
        """Return whether to ask the endpoint of a URL now. A stranger chooses it, and how often it comes.

        Nobody outside of the network is asked, and nobody often.
        """
        if url is None or url == self._endpoint.pairing_url or not _is_near(url.host):
            return False
        looked = self._looked.get(url)
        if looked is not None and now - looked < LOOK_EVERY:
            return False
        self._looked[url] = now
        return True

    async def _look_at(self, url: BaseUrl) -> None:
        """Ask an endpoint for its nodes."""
        with contextlib.suppress(S2ConnectError, TimeoutError):
            async with asyncio.timeout(LOOK_TIMEOUT):
                _, nodes = await self._endpoint.look_at(url)
                self._nodes[url] = tuple(nodes[:MAX_NODES])

    def _forget(self, there: set[BaseUrl | None]) -> None:
        self._nodes = {url: nodes for url, nodes in self._nodes.items() if url in there}
        self._looked = {url: at for url, at in self._looked.items() if url in there}
        self._due &= there

    def found(self, paired: set[NodeId]) -> tuple[tuple[FoundFacts, ...], int]:
        """Return the endpoints that are there now, and the number of those that are left out.

        Those that are paired come first, then those that have described themselves. ``paired`` are the peers of our
        pairings.
        """
        there = self._browser.found() if self._browser is not None else []
        found = sorted((self._facts(one, paired) for one in there), key=lambda one: (not one.paired, not one.nodes))
        return tuple(found[:MAX_FOUND]), max(0, len(found) - MAX_FOUND)

    def _facts(self, one: FoundEndpoint, paired: set[NodeId]) -> FoundFacts:
        nodes = self._nodes.get(one.pairing_url, ()) if one.pairing_url is not None else ()
        return FoundFacts(
            name=one.name,
            instance=one.instance,
            roles=tuple(sorted(one.roles)),
            pairing_url=str(one.pairing_url or ""),
            host=one.host,
            addresses=one.addresses,
            nodes=nodes,
            ours=one.pairing_url is not None and one.pairing_url == self._endpoint.pairing_url,
            paired=any(node.id in paired for node in nodes),
        )


def _is_near(host: str) -> bool:
    """Return whether a host is in the local network by its name or address."""
    return is_local_name(host) or is_local_address(host.strip("[]"))
