"""The command ``doctor``, as ``app`` registers it: runs the checks and prints their findings."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from s2connect.cli.terminal import Options, counted, run_work, tell, with_options
from s2connect.model.text import for_display
from s2connect.service.failures import ExitCode

if TYPE_CHECKING:
    from rich.console import RenderableType

    from s2connect.diagnostics import Finding, Verdict

MAX_TEXT = 500
"""Longest text of a finding, in characters."""

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@with_options(level=logging.CRITICAL)
def doctor(options: Options) -> ExitCode:
    """Check network, discovery, clock, storage, certificate, service and the way to every peer. Changes nothing.

    Says how to mend what is broken. Exit code 0 if nothing failed (warnings are allowed), otherwise 1.
    """
    from s2connect.diagnostics import examine, passes

    if not options.as_json and sys.stderr.isatty():
        tell("Checking; this takes a few seconds …")
    found = run_work(examine(options.path))
    result = {"checks": [finding_object(finding) for finding in found], "ok": passes(found)}
    options.show(result, lambda _: findings_blocks(found))
    return ExitCode.OK if passes(found) else ExitCode.FAILED


def finding_object(finding: Finding) -> dict[str, str]:
    """Return a finding for programs, its texts fit for a terminal."""
    sentence = f"{finding.peer}: {finding.cause}" if finding.peer else finding.cause
    return {
        "name": finding.name,
        "layer": str(finding.layer),
        "result": str(finding.verdict),
        "sentence": for_display(sentence, MAX_TEXT),
        "hint": for_display(finding.cure, MAX_TEXT),
    }


def findings_blocks(findings: Sequence[Finding]) -> list[RenderableType]:
    """Return the findings for people: one line each, but one for all steps to a peer that went well."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for verdict, sentence, hint in _lines(findings):
        table.add_row(Text(f"[{verdict}]", style=_STYLES[verdict]), sentence)
        if hint:
            table.add_row("", Text(f"→ {hint}", style="bold"))
    return [table, Text(_summary(findings))]


def _lines(findings: Sequence[Finding]) -> Iterator[tuple[Verdict, str, str]]:
    for (peer, verdict), group in groupby(findings, key=lambda finding: (finding.peer, finding.verdict)):
        shown = [finding_object(finding) for finding in group]
        if peer and verdict == "ok":
            first, *others = (one["sentence"] for one in shown)
            yield verdict, " ".join([first, *(text.removeprefix(f"{peer}: ") for text in others)]), ""
        else:
            yield from ((verdict, one["sentence"], one["hint"]) for one in shown)


def _summary(findings: Sequence[Finding]) -> str:
    failed = sum(finding.verdict == "fail" for finding in findings)
    warned = sum(finding.verdict == "warn" for finding in findings)
    if not failed and not warned:
        return "All is well."
    warnings = counted(warned, "warning")
    return f"{failed} failed, {warnings}." if failed else f"Nothing failed; {warnings}."
