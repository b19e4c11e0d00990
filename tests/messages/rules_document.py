"""Writes ``docs/message-rules.md`` from the rules: ``python -m tests.messages.rules_document``."""

from __future__ import annotations

from pathlib import Path

from s2connect.messages.rules import RULES

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "message-rules.md"

_HEAD = """\
# What messages have to mean

A message of S2 JSON can be of its schema and still make no sense. These are the rules that the standard states in the
descriptions of its schemas and in its prose, and that no schema checks, in our words. `s2connect.messages.rules.check`
holds one message against them, `s2connect.messages.rules.history.History` also against what was said before in the
session. The number of the rule, the place and what is wrong stand in the `diagnostic_label` of the answer.

- **error**: the message is answered with `INVALID_CONTENT`. The standard says "must" or "shall", or names it as an
  example of invalid content (an identifier that does not exist), or nobody could do what the message asks for.
- **warning**: the message is taken, and the finding is reported to the operator. A rule that deployed software, or
  an example of the standard, is known to break without harm is a warning.

Numbers are compared with a tolerance of one millionth, for what was calculated from them. Numbers of rules are never
given anew. Operation Mode Based Control has no rules of its own: all of its rules are shared (COM). Of what was said in
a session the last thousand identifiers of each kind are remembered; what was forgotten is never missed.

The table is written by `python -m tests.messages.rules_document`.
"""

_GROUPS = {
    "COM": "Shared by control types",
    "PEBC": "Power Envelope Based Control",
    "PPBC": "Power Profile Based Control",
    "FRBC": "Fill Rate Based Control",
    "DDBC": "Demand Driven Based Control",
    "HIST": "With what was said before",
    "READ": "How it is written",
}


def written() -> str:
    """The document."""
    parts = [_HEAD]
    for prefix, title in _GROUPS.items():
        rows = [
            f"| {rule.id} | {rule.severity} | {rule.sentence} | {rule.applies_to} |"
            for rule in RULES.values()
            if rule.id.startswith(f"{prefix}-")
        ]
        parts.append(
            "\n".join([f"## {title}", "", "| Rule | | What it says | Where |", "| --- | --- | --- | --- |", *rows, ""])
        )
    return "\n".join(parts)


if __name__ == "__main__":
    DOCUMENT.write_text(written(), "utf-8")
