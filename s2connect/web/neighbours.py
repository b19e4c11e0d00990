"""Endpoints in the local network, and their nodes, as long as somebody wants to see them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from s2connect import Endpoint
from s2connect.errors import NotReachable, S2ConnectError
from s2connect.model.common import Deployment, NodeDescription, NodeId
from s2connect.model.url import BaseUrl
from s2connect.web.facts import FoundFacts

if TYPE_CHECKING:
    from s2connect.discovery.browse import Browser  # loads zeroconf

MAX_FOUND: Final = 100
"""Endpoints that are shown."""

MAX_NODES: Final = 32
"""Nodes of one endpoint that are shown."""

LOOK_TIMEOUT: Final = 10.0
"""Seconds for an endpoint to describe itself; then it is shown by what it advertises alone."""

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

        async with Browser() as browser:
            self.note, self._browser = "", browser
            try:
                async for event in browser:
                    url = event.endpoint.pairing_url
                    if url is not None and len(browser.found()) <= MAX_FOUND:
                        self._nodes.pop(url, None)
                        await self._look_at(url)
                    self._forget({one.pairing_url for one in browser.found()})
            finally:
                self._browser = None

    async def _look_at(self, url: BaseUrl) -> None:
        """Ask an endpoint for its nodes, one endpoint after the other."""
        if url == self._endpoint.pairing_url:
            return
        with contextlib.suppress(S2ConnectError, TimeoutError):
            async with asyncio.timeout(LOOK_TIMEOUT):
                _, nodes = await self._endpoint.look_at(url)
                self._nodes[url] = tuple(nodes[:MAX_NODES])

    def _forget(self, there: set[BaseUrl | None]) -> None:
        self._nodes = {url: nodes for url, nodes in self._nodes.items() if url in there}

    def found(self, paired: set[NodeId]) -> Iterator[FoundFacts]:
        """Iterate over the endpoints that are there now; ``paired`` are the peers of our pairings."""
        found = self._browser.found() if self._browser is not None else []
        for one in found[:MAX_FOUND]:
            nodes = self._nodes.get(one.pairing_url, ()) if one.pairing_url is not None else ()
            yield FoundFacts(
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
