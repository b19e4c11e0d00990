"""Commands about pairings that a vendor's WAN pairing server hands to their devices (ROLE-03 a)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from s2connect import Endpoint, Node
from s2connect.errors import UsageError
from s2connect.service.commands import Command, DiscardPairing, ExportedPairing, ExportPairing, ImportPairing
from s2connect.service.objects import OwnNode, PairingEntry, own_node
from s2connect.service.pairing_list import find


def _node(endpoint: Endpoint, name: str | None) -> Node:
    nodes = [OwnNode(**dict(node.description), alias=node.alias) for node in endpoint.nodes.values()]
    return endpoint.nodes[own_node(nodes, name).id]


async def _find(endpoint: Endpoint, peer: str, node: str | None) -> PairingEntry:
    """Return the pairing of a peer; ``NotPaired`` for none, ``UsageError`` for several."""
    return await find(endpoint, peer, None if node is None else _node(endpoint, node).id)


def _refuse_device(endpoint: Endpoint) -> None:
    """Raise ``UsageError`` where pairings are the endpoint's own: they would be lost, or be used twice."""
    if not endpoint.config.wan_pairing_server:
        raise UsageError(
            "This endpoint is no vendor's pairing server: its pairings are its own.",
            hint="To end one: s2connect unpair. To take all of them to another machine: s2connect move.",
        )


async def export_pairing(endpoint: Endpoint, command: ExportPairing) -> ExportedPairing:
    """Return a pairing for its device; it stays here."""
    found = await _find(endpoint, command.peer, command.node)
    _refuse_device(endpoint)
    data = await endpoint.node(found.node).export_pairing(found.peer.id)
    return ExportedPairing(node=found.node, peer=found.peer, pairing=data.decode("utf-8"))


async def discard_pairing(endpoint: Endpoint, command: DiscardPairing) -> PairingEntry:
    """Remove a pairing that its device has, without unpairing at the other side."""
    found = await _find(endpoint, command.peer, command.node)
    _refuse_device(endpoint)
    await endpoint.node(found.node).discard_pairing(found.peer.id)
    return found


async def import_pairing(endpoint: Endpoint, command: ImportPairing) -> PairingEntry:
    """Take over a pairing that was made for a node of this endpoint."""
    node = _node(endpoint, command.node)
    return PairingEntry.of(await node.import_pairing(command.pairing.encode("utf-8", "replace")))


def commands_of(endpoint: Endpoint) -> dict[type[Command[Any]], Callable[[Any], Awaitable[Any]]]:
    """Return what executes these commands on an endpoint."""
    return {
        ExportPairing: partial(export_pairing, endpoint),
        ImportPairing: partial(import_pairing, endpoint),
        DiscardPairing: partial(discard_pairing, endpoint),
    }
