"""Rules about the meaning of S2 JSON messages, which the standard states and no schema checks."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from s2connect.messages.base import S2Message
from s2connect.messages.rules import common, ddbc, frbc, general, history_rules, ombc, pebc, ppbc, tolerance
from s2connect.messages.rules.base import Finding, Findings, Rule, Severity

__all__ = ["RULES", "Finding", "Rule", "Severity", "check"]

_CONTROL_TYPES: Final = (general, pebc, ppbc, ombc, frbc, ddbc)

RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        rule.id: rule
        for module in (common, *_CONTROL_TYPES, history_rules, tolerance)
        for rule in vars(module).values()
        if isinstance(rule, Rule)
    }
)
"""All rules, by their number."""

_CHECKS: Final = {kind: checker for module in _CONTROL_TYPES for kind, checker in module.CHECKS.items()}


def check(message: S2Message) -> list[Finding]:
    """Return the findings about a message by itself, without what was said before.

    Never raises for a message of the data model. The rules that need what was said before are in
    :class:`s2connect.messages.rules.history.History`.

    Returns:
        What is found, in the order of the message; of each rule at most ``MAX_FINDINGS_PER_RULE`` places.
    """
    found = Findings()
    common.ids(message, found)
    checker = _CHECKS.get(type(message))
    if checker is not None:
        checker(message, found)
    return found
