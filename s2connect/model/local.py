"""This endpoint and its nodes, as the protocols need them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from s2connect.model.common import (
    DEFAULT_S2_VERSION,
    WEBSOCKET,
    Deployment,
    EndpointDescription,
    NodeDescription,
    NodeId,
)


@dataclass(frozen=True, slots=True)
class LocalNode:
    """A node of this endpoint.

    Attributes:
        description: As it presents itself to peers.
        alias: Short name for the pairing code, needed where the endpoint hosts several nodes (TOK-03).
        communication_protocols: By preference.
        s2_versions: By preference.
    """

    description: NodeDescription
    alias: str | None = None
    communication_protocols: tuple[str, ...] = (WEBSOCKET,)
    s2_versions: tuple[str, ...] = (DEFAULT_S2_VERSION,)

    @property
    def id(self) -> NodeId:
        """The node's id."""
        return self.description.id

    def standard_only(self) -> LocalNode:
        """Return the node with the standard's communication protocols alone, for peers that know no others (MQ-01)."""
        known = tuple(name for name in self.communication_protocols if name == WEBSOCKET)
        return replace(self, communication_protocols=known or self.communication_protocols)


@dataclass(frozen=True, slots=True)
class LocalEndpoint:
    """This endpoint and its nodes.

    Attributes:
        description: As it presents itself to peers.
        deployment: Where the *nodes* run; decides the communication roles (ROLE-02).
        nodes: Its nodes by id.
    """

    description: EndpointDescription
    deployment: Deployment
    nodes: Mapping[NodeId, LocalNode]

    def by_alias(self, alias: str) -> LocalNode | None:
        """Return the node of that alias, or None."""
        return next((node for node in self.nodes.values() if node.alias == alias), None)

    def only_node(self) -> LocalNode | None:
        """Return the node, where there is exactly one."""
        return next(iter(self.nodes.values())) if len(self.nodes) == 1 else None


def check_aliases(nodes: Iterable[LocalNode]) -> None:
    """Check that aliases are unique within the endpoint (TOK-03).

    Raises:
        ValueError: Two nodes have the same alias; it is named.
    """
    seen: set[str] = set()
    for node in nodes:
        if node.alias is not None:
            if node.alias in seen:
                raise ValueError(f"two nodes have the alias {node.alias}")
            seen.add(node.alias)
