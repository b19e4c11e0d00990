"""Rules about the meaning of messages, and findings about broken ones."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any, Final, NamedTuple

from s2connect.messages.labels import shown

MAX_LABEL_LENGTH: Final = 200
"""Characters of a label, which goes into ``diagnostic_label``."""

MAX_FINDINGS_PER_RULE: Final = 10
"""Places in one message that are named for one rule; the rest of them is passed over in silence."""


_STEP: Final = re.compile(r"\[\d+\]|[^.\[\]]+")


class Severity(StrEnum):
    """Consequence of a broken rule."""

    ERROR = "error"
    """The message is refused: the standard says "must" or "shall", or nobody could do what the message asks for."""
    WARNING = "warning"
    """The message is taken; somebody should look at it."""


class Rule(NamedTuple):
    """A requirement of the standard on messages that no schema checks.

    Attributes:
        id: Number of the rule, such as ``FRBC-03``. Numbers are never given anew.
        severity: Consequence of a violation.
        applies_to: Which messages or objects it is about.
        sentence: What it says.
    """

    id: str
    severity: Severity
    applies_to: str
    sentence: str


def error(number: str, applies_to: str, sentence: str) -> Rule:
    """Return a rule whose violation refuses the message."""
    return Rule(number, Severity.ERROR, applies_to, sentence)


def warning(number: str, applies_to: str, sentence: str) -> Rule:
    """Return a rule whose violation is only reported."""
    return Rule(number, Severity.WARNING, applies_to, sentence)


class Finding(NamedTuple):
    """A rule that a message breaks, and where.

    Attributes:
        rule: The rule.
        path: Where in the message, such as ``actuators[0].operation_modes[1]``; empty for the message as a whole.
        detail: What is wrong there, and what is allowed.
    """

    rule: Rule
    path: str
    detail: str

    @property
    def label(self) -> str:
        """Number, place and what is wrong, on one line of at most ``MAX_LABEL_LENGTH`` characters."""
        return self._label("")

    def _label(self, value: str) -> str:
        place = f"{self.path}: {value}" if self.path else ""
        label = f"{self.rule.id}: {place}{self.detail}"
        return label if len(label) <= MAX_LABEL_LENGTH else f"{label[: MAX_LABEL_LENGTH - 1]}…"


def with_value(finding: Finding, body: Any) -> str:
    """Return the label of a finding, with the value at its place, cut and fit for a terminal, unless it is an object.

    Args:
        finding: What was found.
        body: The message as JSON value.
    """
    value = body
    for step in _STEP.findall(finding.path):
        index = step[1:-1] if step.startswith("[") else step
        try:
            value = value[int(index) if isinstance(value, list) else index]
        except (KeyError, IndexError, ValueError, TypeError):
            return finding.label
    return finding.label if isinstance(value, dict | list) else finding._label(f"{shown(value)}, ")


class Findings(list[Finding]):
    """Findings about one message: of each rule the first ``MAX_FINDINGS_PER_RULE`` places."""

    _count: dict[str, int] | None = None

    def add(self, rule: Rule, path: str, detail: str) -> None:
        """Note that a rule is broken."""
        count = self._count
        if count is None:
            count = self._count = {}
        count[rule.id] = count.get(rule.id, 0) + 1
        if count[rule.id] <= MAX_FINDINGS_PER_RULE:
            self.append(Finding(rule, path, detail))
