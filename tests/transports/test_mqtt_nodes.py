"""Order in which the nodes of a broker's cluster are tried."""

from __future__ import annotations

import random

import pytest

from s2connect.model.url import MqttUrl
from s2connect.transports.mqtt.nodes import Nodes

URLS = tuple(MqttUrl(f"mqtts://{name}.example") for name in "abc")


def test_a_single_broker_is_the_only_one_and_every_failure_waits() -> None:
    nodes = Nodes(URLS[:1], lambda: 0.5)
    assert not nodes.failed()
    nodes.lost()
    assert nodes.current == URLS[0]
    assert str(nodes) == "a.example:8883"


def test_all_nodes_are_tried_at_once_before_the_first_wait() -> None:
    nodes = Nodes(URLS, lambda: 0.5)
    tried = [nodes.current]
    while nodes.failed():
        tried.append(nodes.current)
    assert tuple(tried) == URLS
    assert [nodes.failed() for _ in URLS] == [True, True, False], "and so again"


def test_the_node_that_was_lost_comes_last() -> None:
    nodes = Nodes(URLS, lambda: 0.5)
    nodes.established()
    nodes.lost()
    assert nodes.current == URLS[1]
    assert [nodes.failed(), nodes.failed(), nodes.failed()] == [True, True, False]


def test_clients_spread_over_the_nodes_and_over_the_rest_when_one_is_lost() -> None:
    chance = random.Random(1).random
    many = [Nodes(URLS, chance) for _ in range(300)]
    assert all(60 < sum(nodes.current == url for nodes in many) < 140 for url in URLS)
    at_first = [nodes for nodes in many if nodes.current == URLS[0]]
    for nodes in at_first:
        nodes.lost()
    assert {nodes.current for nodes in at_first} == {URLS[1], URLS[2]}


@pytest.mark.parametrize(("url", "known"), [("mqtts://B.example:8883", True), ("mqtts://b.example:8884", False)])
def test_a_url_that_a_peer_names_is_one_of_the_nodes(url: str, known: bool) -> None:
    assert (MqttUrl(url) in Nodes(URLS, lambda: 0.5)) is known
