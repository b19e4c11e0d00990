"""The table of rules in the documentation is that of the code; tests/messages/rules_document.py writes it."""

from __future__ import annotations

import pytest

from s2connect.messages.rules import RULES
from tests.messages.rules_document import DOCUMENT, written


def test_the_document_has_the_rules_of_the_code() -> None:
    if DOCUMENT.read_text("utf-8") != written():
        pytest.fail("docs/message-rules.md is not that of the code; run: python -m tests.messages.rules_document")


def test_rules_are_numbered_without_gaps() -> None:
    for prefix in {number.split("-")[0] for number in RULES}:
        mine = [number for number in RULES if number.startswith(f"{prefix}-")]
        assert mine == [f"{prefix}-{count:02}" for count in range(1, len(mine) + 1)]


def test_no_sentence_breaks_the_table() -> None:
    for rule in RULES.values():
        assert "|" not in rule.sentence + rule.applies_to
        assert rule.sentence.rstrip(")").endswith(".")
