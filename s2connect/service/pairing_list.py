"""Pairings of an endpoint for a list, and one of them for a command: of very many, without reading all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from s2connect import Endpoint, NodeId, Pairing
from s2connect.errors import UsageError
from s2connect.model.text import for_display
from s2connect.service.objects import PairingEntry, find_pairing, fitting
from s2connect.service.status import entries

LISTED: Final = 1000
"""Pairings in a list, at most, unless a command asks for fewer; and of those that are connected, beside the newest."""

TROUBLED: Final = 50
"""Pairings in a list whose access is not accepted, at most, beside the newest."""

SHORT_ID: Final = 8
"""Characters of an id that lists show, which are taken for the beginning of one before they are taken for a name."""

NAMES_SEARCHED: Final = 50_000
"""Pairings among which a name is looked for: each has to be read, which takes some seconds of a service."""

LAST_PLACE: Final = 2**63 - 1
"""Largest place that a store knows, for a larger one that somebody names."""

READ_AT_ONCE: Final = 500
"""Pairings that are read at once where a name is looked for."""


async def listed(
    endpoint: Endpoint,
    *,
    newest: int | None = None,
    node: NodeId | None = None,
    before: int | None = None,
    with_others: bool = False,
) -> tuple[list[PairingEntry], int | None]:
    """Return the newest pairings, or those before a page, oldest first, and where the older ones go on.

    ``with_others`` the newest have beside them older ones that are connected to this process or whose access is not
    accepted, as far as they are not too many; they come again on the page that is theirs. Raises StorageError.
    """
    place = None if before is None else min(before, LAST_PLACE)
    page = await endpoint.pairings_page(min(newest or LISTED, LISTED), node=node, before=place)
    connected, history = endpoint.connected(), endpoint.history()
    beside: list[Pairing] = []
    if with_others and before is None and page.before is not None:
        there = {pairing.key for pairing in page.pairings}
        beside = _of(node, (live.pairing for key, live in connected.items() if key not in there))[:LISTED]
        there |= connected.keys()
        troubled = [key for key, one in history.items() if one.trouble is not None and key not in there]
        for key in [key for key in troubled if node in (None, key.local) and key.local in endpoint.nodes][:TROUBLED]:
            beside += await endpoint.nodes[key.local].pairings(key.remote)
        beside.sort(key=lambda pairing: pairing.paired_at)
    found = [*beside, *page.pairings]
    elsewhere = await endpoint.elsewhere([pairing.key for pairing in found])
    return await entries(found, connected, history, elsewhere), page.before


async def find(endpoint: Endpoint, wanted: str, node: NodeId | None = None) -> PairingEntry:
    """Return the pairing that a person means by id, beginning of an id, or name of the peer.

    A whole id, or as much of it as lists show, is found by the index of the store; for anything else all pairings are
    read, some at a time, unless there are too many.

    Raises:
        NotPaired: There is none.
        UsageError: Several fit, or there are too many to look for a name.
        StorageError: The store cannot be read.
    """
    text = wanted.strip().lower()
    if len(text) >= SHORT_ID and (by_id := await endpoint.pairings_with(text, node=node)):
        return find_pairing([PairingEntry.of(one) for one in by_id], wanted)
    counts = await endpoint.pairing_counts()
    if (sum(counts.values()) if node is None else counts.get(node, 0)) > NAMES_SEARCHED:
        raise UsageError(
            f"{for_display(wanted, 60)} is the id of no pairing, and there are too many to look for a name.",
            hint=f"Name the id of the other side, or its first {SHORT_ID} characters.",
        )
    named: list[Pairing] = []
    before: int | None = None
    while True:
        page = await endpoint.pairings_page(READ_AT_ONCE, node=node, before=before)
        peers = {peer.id for peer in fitting([pairing.peer for pairing in page.pairings], wanted)}
        named += [pairing for pairing in page.pairings if pairing.key.remote in peers]
        before = page.before
        if before is None:
            break
    return find_pairing([PairingEntry.of(one) for one in named], wanted)


def _of(node: NodeId | None, pairings: Iterable[Pairing]) -> list[Pairing]:
    return [pairing for pairing in pairings if node in (None, pairing.key.local)]
