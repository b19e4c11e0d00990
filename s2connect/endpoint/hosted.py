"""Nodes of one endpoint together: their aliases and settings, and which one is meant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from itertools import islice

from s2connect.endpoint.config import NodeConfig
from s2connect.errors import ConfigurationError, UsageError
from s2connect.model.alphabet import free_aliases, in_our_alphabet
from s2connect.model.common import NodeId, Role
from s2connect.model.local import LocalEndpoint

MAX_NAMED = 20
"""Most nodes that an error names."""


def find_node(
    local: LocalEndpoint, ready: Container[NodeId], node_id: NodeId | None, role: Role | None, alias: str | None
) -> NodeId:
    """Return the one of the nodes that are ready with that id, role or alias; without any, the only one.

    Raises:
        UsageError: None or several fit.
    """
    named = local.by_alias(alias) if alias is not None else None
    nodes = [node for node in local.nodes.values() if node.id in ready]
    found = [
        node.id
        for node in nodes
        if (node_id is None or node.id == node_id)
        and (role is None or node.description.role is role)
        and (alias is None or (named is not None and node.id == named.id))
    ]
    if len(found) != 1:
        shown = (f"{node.alias or node.id} ({node.description.role})" for node in nodes)
        names = ", ".join(islice(shown, MAX_NAMED)) or "none"
        raise UsageError(f"{'Several nodes fit' if found else 'There is no such node'}; nodes here: {names}.")
    return found[0]


def described(known: NodeConfig, new: NodeConfig | None) -> NodeConfig:
    """Return the settings of a node with a new description, if there is one; an alias that is left out stays."""
    return known if new is None else new if new.alias else new.model_copy(update={"alias": known.alias})


def with_aliases(nodes: Sequence[NodeConfig], *, also_alone: bool = False) -> list[NodeConfig]:
    """Return the nodes with a short alias for each that has none, where there are several (TOK-03)."""
    if len(nodes) < 2 and not also_alone:
        return list(nodes)
    free = free_aliases([node.alias for node in nodes if node.alias is not None])
    return [node if node.alias is not None else node.model_copy(update={"alias": next(free)}) for node in nodes]


def with_added(
    known: Sequence[NodeConfig], nodes: Sequence[NodeConfig], shared: bool, *, also_alone: bool
) -> list[NodeConfig]:
    """Return the nodes with further ones. Where they are ``shared``, another instance may have added one already."""
    there = {node.id for node in known} if shared else set()
    return with_aliases([*known, *(node for node in nodes if node.id not in there)], also_alone=also_alone)


def check_new_aliases(before: Iterable[NodeConfig], nodes: Sequence[NodeConfig]) -> None:
    """Check that aliases which are new differ from all others by more than case and look-alikes.

    Raises:
        ConfigurationError: One does not. Older ones may be alike, so that every home opens.
    """
    known = {node.id: node.alias for node in before}
    spelled = Counter(in_our_alphabet(node.alias) for node in nodes if node.alias is not None)
    for node in nodes:
        if node.alias is None or node.alias == known.get(node.id) or spelled[in_our_alphabet(node.alias)] == 1:
            continue
        raise ConfigurationError(
            f"The alias {node.alias} is taken: others differ from it by case, O and 0, or I, L and 1 at most.",
            hint="Choose another one, or leave it out to get the next number.",
        )
