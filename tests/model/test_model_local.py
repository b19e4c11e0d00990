"""This endpoint and its nodes."""

from __future__ import annotations

from uuid import UUID

import pytest

from s2connect.model.common import Deployment, EndpointDescription, NodeDescription, NodeId, Role
from s2connect.model.local import LocalEndpoint, LocalNode, check_aliases


def _node(number: int, alias: str | None) -> LocalNode:
    description = NodeDescription(id=NodeId(UUID(int=number)), brand="b", type="t", model_name="m", role=Role.RM)
    return LocalNode(description, alias)


def _endpoint(*nodes: LocalNode) -> LocalEndpoint:
    return LocalEndpoint(EndpointDescription(), Deployment.LAN, {node.id: node for node in nodes})


@pytest.mark.rule("TOK-03")
def test_two_nodes_cannot_have_one_alias() -> None:
    check_aliases([_node(1, "A"), _node(2, "B"), _node(3, None), _node(4, None), _node(5, "a")])
    with pytest.raises(ValueError, match="alias B"):
        check_aliases([_node(1, "A"), _node(2, "B"), _node(3, None), _node(4, "B")])


@pytest.mark.rule("TOK-03")
def test_nodes_are_found_by_their_alias() -> None:
    endpoint = _endpoint(_node(1, "A"), _node(2, None), _node(3, "B"))
    found = endpoint.by_alias("B")
    assert found is not None
    assert found.id == UUID(int=3)
    assert endpoint.by_alias("b") is found
    assert endpoint.by_alias("") is None


def test_the_only_node_is_known_where_there_is_exactly_one() -> None:
    assert _endpoint().only_node() is None
    assert _endpoint(_node(1, None)).only_node() == _node(1, None)
    assert _endpoint(_node(1, None), _node(2, None)).only_node() is None
