"""Findings of ``doctor``: what a check found, and what to do about it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from s2connect.errors import S2ConnectError

_MAX_LISTED = 4


class Verdict(StrEnum):
    """Outcome of a check."""

    OK = "ok"
    WARN = "warn"
    """It may be intended, or will be a fault one day."""
    FAIL = "fail"


class Layer(StrEnum):
    """Subject of a check, from the wire upwards."""

    NETWORK = "network"
    DISCOVERY = "discovery"
    CLOCK = "clock"
    STORE = "store"
    CERTIFICATE = "certificate"
    SERVICE = "service"
    BROKER = "broker"
    PEER = "peer"


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check. Its texts hold no secret; clean them before display, parts come from the network.

    Attributes:
        layer: Layer that was checked.
        name: Stable name of the check for programs.
        verdict: Outcome.
        cause: What was found, a sentence.
        cure: What to do about it; empty if all is well.
        peer: Name of the peer that it concerns; empty for the machine and the endpoint.
    """

    layer: Layer
    name: str
    verdict: Verdict
    cause: str
    cure: str = ""
    peer: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """Layer and name of a check of ``doctor``; makes its findings."""

    layer: Layer
    name: str
    peer: str = ""

    def ok(self, cause: str) -> Finding:
        return self._finding(Verdict.OK, cause)

    def warn(self, cause: str, cure: str) -> Finding:
        return self._finding(Verdict.WARN, cause, cure)

    def fail(self, cause: str, cure: str) -> Finding:
        return self._finding(Verdict.FAIL, cause, cure)

    def error(self, error: S2ConnectError, verdict: Verdict = Verdict.FAIL) -> Finding:
        """Return the finding of a check that ended with an error of the library."""
        return self._finding(verdict, error.what, error.hint or "Mend what is named here, then run this again.")

    def _finding(self, verdict: Verdict, cause: str, cure: str = "") -> Finding:
        return Finding(self.layer, self.name, verdict, cause, cure, self.peer)


class Findings(list[Finding]):
    """Findings of checks that run one after the other.

    Attributes:
        check: The check in progress, which gets the finding where an error or the deadline ends them.
    """

    def __init__(self, check: Check) -> None:
        super().__init__()
        self.check = check

    async def collect(self, run: Callable[[Findings], Awaitable[object]]) -> None:
        """Run checks; an error of the library that ends them is a finding."""
        try:
            await run(self)
        except S2ConnectError as error:
            self.append(self.check.error(error))


def passes(findings: Collection[Finding]) -> bool:
    """Return whether nothing failed; warnings are allowed."""
    return all(finding.verdict is not Verdict.FAIL for finding in findings)


def listed(items: Sequence[str]) -> str:
    """Join items for a sentence; shorten a long list."""
    shown = ", ".join(items[:_MAX_LISTED])
    return shown if len(items) <= _MAX_LISTED else f"{shown} and {len(items) - _MAX_LISTED} more"


def milliseconds(seconds: float) -> str:
    """Format a measured time."""
    return f"{max(1, round(seconds * 1000))} ms"
