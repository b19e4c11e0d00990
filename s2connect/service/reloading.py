"""Settings that a running endpoint takes over from its file, and the result of that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from s2connect import Endpoint, EndpointConfig, NodeConfig


def reread_result(changed: Sequence[str], failed: Mapping[str, str]) -> dict[str, Any]:
    """Return what became of changed files, for the result of a reload."""
    return {"reread": list(changed), "unread": [{"what": what, "reason": why} for what, why in failed.items()]}


async def reconfigure(endpoint: Endpoint, stored: EndpointConfig) -> tuple[list[str], list[str]]:
    """Use settings that a person has changed in the file of a running endpoint.

    Returns:
        The ids of nodes that are described anew, and the names of settings that take effect with the next start.
    """
    known = {node.id: node for node in endpoint.config.nodes}
    changed = [node for node in stored.nodes if node.id in known and known[node.id] != node]
    # Only what is shown to others: the rest of a node decides how it was opened.
    shown = [node for node in changed if node.model_copy(update=_shown(known[node.id])) == known[node.id]]
    await endpoint.describe_nodes(shown)
    restart = [
        name
        for name in EndpointConfig.model_fields
        if name != "nodes" and getattr(stored, name) != getattr(endpoint.config, name)
    ]
    if len(shown) != len(changed) or {node.id for node in stored.nodes} != set(known):
        restart.append("nodes")
    return [str(node.id) for node in shown], restart


def _shown(node: NodeConfig) -> dict[str, Any]:
    return {name: getattr(node, name) for name in ("brand", "type", "model_name", "user_defined_name", "logo_url")}
