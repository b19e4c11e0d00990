"""The results of validating messages and conversations, valid and changed ones, as recorded from an earlier validator.

``verdicts.json`` was written by the validator on pydantic models, which looked at every member and every rule with its
place. Its texts are examples of all types with up to three changes, one for each kind of result. A result that changes
on purpose is changed there by hand.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from s2connect.messages.catalogue import parse, read_typed
from s2connect.messages.conversation import Conversation
from s2connect.messages.envelope import InvalidMessage, read_message
from s2connect.messages.rules import check
from s2connect.messages.rules.base import with_value
from s2connect.model.common import Role

RECORDED: dict[str, Any] = json.loads(Path(__file__).with_name("verdicts.json").read_text(encoding="utf-8"))
NOON = datetime(2026, 5, 4, 12, 30, tzinfo=UTC)


def verdict(text: str, version: str, *, strict: bool) -> list[Any]:
    try:
        message = read_message(text)
        parsed, tolerated = read_typed(message, version, strict=strict)
        assert parse(text, version, strict=strict) == parsed
    except InvalidMessage as error:
        with pytest.raises(InvalidMessage, match="^" + re.escape(error.label)):
            parse(text, version, strict=strict)
        return [str(error.status), error.label]
    return ["OK", [*(one.label for one in tolerated), *(with_value(one, message.body) for one in check(parsed))]]


@pytest.mark.rule("MSG-03")
def test_messages_have_the_recorded_verdicts() -> None:
    assert len(RECORDED["messages"]) > 100
    for row in RECORDED["messages"]:
        strict = verdict(row["text"], row["version"], strict=True)
        tolerant = verdict(row["text"], row["version"], strict=False)
        assert strict == row["strict"], row["text"]
        assert tolerant == (row["tolerant"] or row["strict"]), row["text"]


@pytest.mark.rule("MSG-03")
@pytest.mark.parametrize("number", range(len(RECORDED["conversations"])))
def test_conversations_have_the_recorded_verdicts(number: int) -> None:
    recorded = RECORDED["conversations"][number]
    conversation, now, open_ones = Conversation(recorded["version"]), NOON, []
    for step in recorded["steps"]:
        now += timedelta(minutes=3)
        clock = now if recorded["clock"] else None
        sender = Role(step["sender"])
        try:
            message = read_message(step["text"])
        except InvalidMessage as error:
            refused = f"{error.status}{error.label}"
            if step["said"] != refused:
                raise AssertionError(step["text"]) from error
            continue
        found = conversation.validate(sender, message, now=clock)
        warnings = [one.label for one in found.warnings]
        assert [str(found.status), found.label, found.subject_id, warnings] == step["said"], step["text"]
        match step["then"]:
            case "accept" if found.ok:
                conversation.accepted(sender, message, now=clock)
            case "sent":
                conversation.sent(sender, message, now=clock)
                open_ones.append((sender, message.id or ""))
            case "answer_ok" | "answer_no" if open_ones:
                conversation.answered(*open_ones.pop(0), ok=step["then"] == "answer_ok", now=clock)
