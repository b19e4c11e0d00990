"""This endpoint and its nodes, as the protocols need them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from s2connect.model.alphabet import MAX_ALIAS_CHARACTERS, in_our_alphabet
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
    """A node of this endpoint, with its protocols and versions by preference."""

    description: NodeDescription
    alias: str | None = None
    """Short name for the pairing code, needed where the endpoint hosts several nodes (TOK-03)."""
    communication_protocols: tuple[str, ...] = (WEBSOCKET,)
    s2_versions: tuple[str, ...] = (DEFAULT_S2_VERSION,)

    @property
    def id(self) -> NodeId:
        return self.description.id

    def standard_only(self) -> LocalNode:
        """Return the node with the standard's communication protocols alone, for peers without others (MQ-01)."""
        if WEBSOCKET not in self.communication_protocols or self.communication_protocols == (WEBSOCKET,):
            return self
        return replace(self, communication_protocols=(WEBSOCKET,))


@dataclass(frozen=True, slots=True)
class LocalEndpoint:
    """This endpoint and its nodes."""

    description: EndpointDescription
    deployment: Deployment
    """Deployment of the nodes, which decides the communication roles (ROLE-02)."""
    nodes: Mapping[NodeId, LocalNode]

    def by_alias(self, alias: str) -> LocalNode | None:
        """Return the node of an alias; of one in another case, or with a look-alike, if only one node can be meant."""
        if (found := next((node for node in self.nodes.values() if node.alias == alias), None)) is not None:
            return found
        if len(alias) > MAX_ALIAS_CHARACTERS:
            return None  # none of those that we give
        folded = in_our_alphabet(alias)
        alike = [node for node in self.nodes.values() if node.alias and in_our_alphabet(node.alias) == folded]
        return alike[0] if len(alike) == 1 else None

    def only_node(self) -> LocalNode | None:
        """Return the node, where there is exactly one."""
        return next(iter(self.nodes.values())) if len(self.nodes) == 1 else None


def check_aliases(nodes: Iterable[LocalNode]) -> None:
    """Check that aliases are unique within the endpoint (TOK-03).

    Raises:
        ValueError: Two nodes have the same alias; it is named.
    """
    for alias, count in Counter(node.alias for node in nodes if node.alias is not None).items():
        if count > 1:
            raise ValueError(f"two nodes have the alias {alias}")
