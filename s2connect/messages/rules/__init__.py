"""Rules about the meaning of S2 JSON messages, which the standard states and no schema checks."""

from s2connect.messages.rules.base import RULES, Finding, Rule, Severity
from s2connect.messages.rules.checks import check

__all__ = ["RULES", "Finding", "Rule", "Severity", "check"]
