"""Check of the links of a running bridge: the service is asked, no connection of our own is made."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from s2connect.bridge.link_state import LinkState
from s2connect.diagnostics.findings import Check, Finding, Findings, Layer
from s2connect.diagnostics.home import CONTROL_TIMEOUT, ExaminedEndpoint
from s2connect.service.commands import ShowBridge
from s2connect.service.control import connect

LINKS = Check(Layer.SERVICE, "links")

MAX_LINKS: Final = 20
"""Most links that get a finding of their own."""

_CURES: Final = {
    LinkState.UNPAIRED: "Pair it: s2connect bridge pair FILE.",
    LinkState.REFUSED: "Put the newest state back, or pair again: s2connect bridge pair FILE.",
    LinkState.FAILED: "The bridge tries again by itself; mend what is named here.",
    LinkState.WAITING: "It waits for the side that connects to the bridge: is that on, and does it reach this machine?",
}
_UNDER_WAY: Final = "It is under way: ask again in some seconds."


async def check_links(endpoint: ExaminedEndpoint, found: Findings) -> None:
    """Ask a running bridge for its links; nothing where the home is none of a bridge, or it does not run."""
    if endpoint.status is None or not await asyncio.to_thread(lambda: endpoint.home.is_of_bridge):
        return
    async with asyncio.timeout(CONTROL_TIMEOUT), connect(endpoint.home) as control:
        if control is not None:
            found.extend(links((await control.ask(ShowBridge())).bridge))


def links(bridge: Mapping[str, Any]) -> list[Finding]:
    """Return the findings about the status of a bridge: one for each link that is not up, and one for all others."""
    found = [
        LINKS.fail(f"The route {failed['name']} does not run: {failed['reason']}", "Mend it, then: bridge reload FILE.")
        for failed in bridge["failed"]
    ]
    every = [link for route in bridge["routes"] for link in route["links"]]
    down = [link for link in every if link["state"] != LinkState.UP]
    for link in down[:MAX_LINKS]:
        state = LinkState(link["state"])
        last = link.get("last_failure", "")
        why = f": {link['reason']}" if link["reason"] else f"; the last attempt: {last}" if last else "."
        make = LINKS.fail if state is LinkState.REFUSED else LINKS.warn
        cure = _CURES.get(LinkState.FAILED if last else state, _UNDER_WAY)
        found.append(make(f"The link {link['name']} is {state}{why}", cure))
    if len(down) > MAX_LINKS:
        what = f"{len(down) - MAX_LINKS} more links are not up."
        found.append(LINKS.warn(what, "See all: s2connect bridge status FILE."))
    if not down:
        found.append(LINKS.ok(f"All links of the bridge are up: {len(every)}." if every else "The bridge has no link."))
    return found
