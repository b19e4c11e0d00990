"""Settings of the nodes of one endpoint together: their aliases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from s2connect.endpoint.config import NodeConfig
from s2connect.errors import ConfigurationError
from s2connect.model.alphabet import free_aliases, in_our_alphabet


def with_aliases(nodes: Sequence[NodeConfig], *, also_alone: bool = False) -> list[NodeConfig]:
    """Return the nodes with a short alias for each that has none, where there are several (TOK-03)."""
    if len(nodes) < 2 and not also_alone:
        return list(nodes)
    free = free_aliases([node.alias for node in nodes if node.alias is not None])
    return [node if node.alias is not None else node.model_copy(update={"alias": next(free)}) for node in nodes]


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
