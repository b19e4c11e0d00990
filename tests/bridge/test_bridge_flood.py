"""One device of a bridge sends the worst it can, over TLS, and the others go on."""

from __future__ import annotations

import pytest

from benchmarks.flood import ATTACKS, under_attack
from benchmarks.worst import cost, hostile_texts, rich_messages, with_escape
from s2connect.messages.catalogue import MESSAGES, V1

MOST = 0.25
"""Seconds of a processor that a text may cost, and that the loop may work in one go: five times what is aimed for, for
slow machines."""


@pytest.mark.rule("SEC-03", "SEC-04")
@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in hostile_texts()])
def test_no_hostile_text_costs_much(text: str) -> None:
    assert cost(text) < MOST


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.rule("SEC-03")
@pytest.mark.parametrize("kind", list(MESSAGES[V1].values()), ids=list(MESSAGES[V1]))
def test_no_message_of_any_type_costs_much(kind: type) -> None:
    for text in rich_messages(kind):
        assert cost(text) < MOST
        assert cost(with_escape(text)) < MOST


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.rule("SEC-03")
def test_while_one_device_floods_the_bridge_the_others_go_on() -> None:
    quiet, *floods = under_attack(ATTACKS, seconds=5)
    assert quiet.rounds > 0
    for flood in floods:
        assert flood.sent > 0, flood
        assert flood.stretch < MOST, flood
        assert flood.rounds > 20, flood
        assert flood.p99 < 0.5 + 5 * quiet.p99, flood
