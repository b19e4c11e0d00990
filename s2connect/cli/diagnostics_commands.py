"""The commands ``doctor``, ``validate`` and ``replay``, as ``app`` registers them: they print the results."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s2connect.cli.terminal import (
    PIPE,
    Options,
    RoleChoice,
    as_role,
    console,
    counted,
    interruptible,
    print_json,
    run_work,
    tell,
    with_home,
    with_options,
)
from s2connect.errors import UsageError
from s2connect.model.text import for_display
from s2connect.service.failures import ExitCode

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from s2connect.diagnostics import Finding as DoctorFinding
    from s2connect.diagnostics import Verdict
    from s2connect.diagnostics.replay import ReplayResult
    from s2connect.diagnostics.validate import ValidatedMessage
    from s2connect.messages.rules import Finding

VersionOption = Annotated[
    str | None, typer.Option("--version", metavar="VERSION", help="S2 JSON version: v1.0.0, or 0.0.2-beta of plain S2.")
]
MAX_TEXT = 500  # longest text of a finding, in characters

_COMMANDS = re.compile(r"://|\b(?:s2connect|chmod|chown|sudo|runuser|ss|systemctl|timedatectl|nmcli|resolvectl|ip) \S")
_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@with_options(
    "s2connect doctor", "s2connect doctor --json", "s2connect doctor --bundle report.zip", level=logging.CRITICAL
)
def doctor(
    options: Options,
    bundle: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also write an archive for those who help: findings, versions, settings, status, latest log lines; "
            "no keys, tokens, codes or passwords.",
        ),
    ] = None,
) -> ExitCode:
    """Check network, discovery, clock, storage, certificate, service and the way to every peer. Changes nothing.

    Says how to mend what is broken. Exit code 0 if nothing failed (warnings are allowed), otherwise 1.
    """
    from s2connect.diagnostics import examine, passes

    if bundle is not None:
        from s2connect.diagnostics.bundle import check_new, write_bundle

        check_new(bundle)
    if not options.as_json and sys.stderr.isatty():
        tell("Checking; this takes a few seconds …")
    found = run_work(examine(options.path))
    result: dict[str, object] = {"checks": [finding_object(finding) for finding in found], "ok": passes(found)}
    if bundle is None:
        options.show(result, partial(findings_blocks, found))
    else:
        parts = run_work(write_bundle(bundle, options.path, found))
        result |= {"bundle": str(bundle), "parts": parts}
        options.show(result, lambda width: [*findings_blocks(found, width), *_bundle_blocks(bundle, parts)])
    return ExitCode.OK if passes(found) else ExitCode.FAILED


@with_options("s2connect explain not_reachable", "s2connect explain FRBC-03", home=False)
def explain(
    options: Options,
    code: Annotated[
        str | None, typer.Argument(metavar="[CODE]", help="Kind of an error, reason of a refusal or number of a rule.")
    ] = None,
) -> None:
    """Explain an error: what it means and what helps. Without CODE it lists all codes."""
    from s2connect.diagnostics import explanations

    if code is None:
        listed = {group.title: [each.code for each in group.explanations] for group in explanations.GROUPS}
        options.report({"codes": listed}, *(f"{title}: {', '.join(codes)}." for title, codes in listed.items()))
        return
    found = explanations.explain(code)
    if found is None:
        meant = " or ".join(explanations.similar(code))
        hint = f"Did you mean {meant}?" if meant else "Without a code the command lists all of them."
        raise UsageError(f"There is no code {for_display(code, explanations.MAX_CODE_CHARACTERS)}.", hint=hint)
    cures = [f"- {cure}" for cure in found.cures]
    options.report(
        {"code": found.code, "meaning": found.meaning, "cures": found.cures}, f"{found.code}: {found.meaning}", *cures
    )


def finding_object(finding: DoctorFinding) -> dict[str, str]:
    """Return a finding for programs, its texts fit for a terminal."""
    sentence = f"{finding.peer}: {finding.cause}" if finding.peer else finding.cause
    return {
        "name": finding.name,
        "layer": finding.layer,
        "result": finding.verdict,
        "sentence": for_display(sentence, MAX_TEXT),
        "hint": for_display(finding.cure, MAX_TEXT),
    }


def _bundle_blocks(file: Path, parts: dict[str, str]) -> list[RenderableType]:
    from rich.text import Text

    lines = [f"{file} holds:", *(f"  {name}: {what}" for name, what in parts.items())]
    lines.append("Keys, tokens, pairing codes and passwords are not in it. Look through it before you mail it.")
    return [Text("\n".join(lines))]


def findings_blocks(findings: Sequence[DoctorFinding], width: int) -> list[RenderableType]:
    """Return the findings for people: one line each, but one for all steps to a peer that went well."""
    from rich.table import Table
    from rich.text import Text

    blocks: list[RenderableType] = []
    for verdict, sentence, hint in _lines(findings):
        if width == PIPE:
            cure = f"\n       → {with_home(hint.strip())}" if hint else ""
            blocks.append(Text(f"{f'[{verdict}]':6} {sentence.strip()}{cure}"))
            continue
        table = Table.grid(padding=(0, 1))
        table.add_column(no_wrap=True, width=len("[fail]"))
        table.add_column(overflow="fold")
        table.add_row(Text(f"[{verdict}]", style=_STYLES[verdict]), sentence)
        copied = _COMMANDS.search(hint) is not None
        if hint and not copied:
            table.add_row("", Text(f"→ {with_home(hint)}", style="bold"))
        blocks.append(table)
        if copied:  # the terminal wraps it, so that it is copied as one line
            blocks.append(Text(f"       → {with_home(hint)}", style="bold", overflow="ignore"))
    return [*blocks, Text(_summary(findings))]


def _lines(findings: Sequence[DoctorFinding]) -> Iterator[tuple[Verdict, str, str]]:
    for (peer, verdict), group in groupby(findings, key=lambda finding: (finding.peer, finding.verdict)):
        shown = [finding_object(finding) for finding in group]
        if peer and verdict == "ok":
            first, *others = (one["sentence"] for one in shown)
            yield verdict, " ".join([first, *(text.removeprefix(f"{peer}: ") for text in others)]), ""
        else:
            yield from ((verdict, one["sentence"], one["hint"]) for one in shown)


def _summary(findings: Sequence[DoctorFinding]) -> str:
    failed = sum(finding.verdict == "fail" for finding in findings)
    warned = sum(finding.verdict == "warn" for finding in findings)
    if not failed and not warned:
        return "All is well."
    warnings = counted(warned, "warning")
    return f"{failed} failed, {warnings}." if failed else f"Nothing failed; {warnings}."


@with_options("s2connect validate messages.jsonl", "s2connect validate --version 0.0.2-beta old.log", home=False)
def validate(
    options: Options,
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE…",
            help="Messages (one, an array, one a line) or a log, also of other software; '-' is standard input.",
        ),
    ],
    version: VersionOption = None,
) -> ExitCode:
    """Check S2 messages in files: their schema, and the rules about their meaning. Needs no set-up.

    Each message is checked on its own; for a whole conversation there is s2connect replay.
    Exit code 0 if all are valid (warnings are allowed), 1 if one is not, 2 if a file cannot be read or has no message.
    """
    from s2connect.diagnostics.validate import validate_files

    with interruptible():
        messages, failures = validate_files(files, version)
    if options.as_json:
        objects = [one._asdict() | {"findings": [_finding_object(f) for f in one.findings]} for one in messages]
        failed = [{"file": name} | failure.to_object() for name, failure in failures.items()]
        print_json({"messages": objects, "failures": failed, "summary": _numbers(messages)})
    else:
        if messages:
            console().print(*_message_lines(messages, several=len(files) > 1), sep="\n", soft_wrap=True)
        for failure in failures.values():
            tell(str(failure))
    if failures:
        return ExitCode.USAGE
    return ExitCode.OK if all(one.ok for one in messages) else ExitCode.FAILED


@with_options("s2connect replay messages.jsonl", "s2connect replay --role rm device.log", home=False)
def replay(
    options: Options,
    log: Annotated[
        str, typer.Argument(metavar="LOG", help="What serve --record or other software wrote; '-' is standard input.")
    ],
    role: Annotated[
        RoleChoice | None,
        typer.Option("--role", case_sensitive=False, help="Role that wrote the log, if it names none: cem or rm."),
    ] = None,
    version: VersionOption = None,
) -> ExitCode:
    """Check a recorded conversation: every message against those before it, and the answers. Needs no set-up.

    Exit code 0 if nothing is wrong (warnings, late answers and refusals by the other side are allowed), otherwise 1;
    2 if the log cannot be read, or there is no conversation in it.
    """
    from s2connect.diagnostics.replay import Problem, replay_file

    with interruptible():
        result = replay_file(log, version, as_role(role))
    problems = {str(problem): sum(one.problem is problem for one in result.remarks) for problem in Problem}
    if options.as_json:
        numbers = {"sessions": result.sessions, "messages": result.messages, "answers": result.answers}
        remarks = [one._asdict() | {"finding": one.finding and _finding_object(one.finding)} for one in result.remarks]
        print_json({"remarks": remarks, "summary": numbers | problems})
    else:
        console().print(*_replay_lines(result, problems), sep="\n", soft_wrap=True)
    return ExitCode.OK if result.ok else ExitCode.FAILED


def _numbers(messages: list[ValidatedMessage]) -> dict[str, int]:
    invalid = sum(not one.ok for one in messages)
    return {
        "messages": len(messages),
        "valid": len(messages) - invalid,
        "invalid": invalid,
        "with_warnings": sum(one.ok and one.warnings for one in messages),
    }


def _finding_object(finding: Finding) -> dict[str, Any]:
    rule = finding.rule
    return {"rule": rule.id, "severity": rule.severity, "path": finding.path, "detail": finding.detail}


def _message_lines(messages: list[ValidatedMessage], *, several: bool) -> Iterator[Text | str]:
    """Yield the results for people, with the file of each message if there are several."""
    from rich.text import Text

    from s2connect.diagnostics.message_sources import STDIN, shown_name

    for one in messages:
        file = one.file if one.file == STDIN else shown_name(one.file)
        place = f"{file}:{one.line}" if several else f"{one.line}"
        line = Text(f"{place:>4}  {for_display(one.type or 'no message_type', 60)}  ")
        outcome = str(one.status) if not one.ok else "OK, with warnings" if one.warnings else "OK"
        yield line.append(outcome, style="green" if one.ok else "bold red")
        if one.label is not None:
            yield f"      {for_display(one.label, 400)}"
        yield from map(_finding_line, one.findings)
    numbers = _numbers(messages)
    warned = f", of which {numbers['with_warnings']} with warnings" if numbers["with_warnings"] else ""
    total = counted(numbers["messages"], "message")
    yield f"{total}: {numbers['valid']} valid{warned}, {numbers['invalid']} invalid."


def _replay_lines(result: ReplayResult, problems: dict[str, int]) -> Iterator[Text | str]:
    from rich.text import Text

    from s2connect.diagnostics.replay import HARMLESS

    for one in result.remarks:
        kind = for_display(one.type or ("message" if one.sender else "line"), 60)
        session = f"  {for_display(one.session, 20)}" if one.session else ""
        sender = f"  {one.sender}" if one.sender else ""
        line = Text(f"{one.line:>4}{session}{sender}  {kind}  ")
        if one.finding is not None:
            yield from (line, _finding_line(one.finding))
            continue
        line.append(one.problem.replace("_", " "), style="yellow" if one.problem in HARMLESS else "bold red")
        yield line.append(f"  {for_display(one.detail, 500)}")
    found = [f"{number} {problem.replace('_', ' ')}" for problem, number in problems.items() if number]
    sessions, messages = counted(result.sessions, "session"), counted(result.messages, "message")
    heading = f"{sessions}, {messages}, of which {counted(result.answers, 'answer')}"
    yield f"{heading}: {', '.join(found) or 'nothing to remark'}."


def _finding_line(finding: Finding) -> Text:
    from rich.text import Text

    warning = finding.rule.severity == "warning"
    text = Text("      ").append("warning" if warning else "error", style="yellow" if warning else "red")
    return text.append(f"  {for_display(finding.label, 400)}")
