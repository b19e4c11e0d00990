"""``s2connect validate``: messages of files by their schema and their rules, each on its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from rich.console import Console
from rich.text import Text

from s2connect.cli.failures import ExitCode, Failure
from s2connect.cli.message_files import Entry, entries_of, read_file, shown_name
from s2connect.cli.service import Object
from s2connect.errors import UsageError
from s2connect.messages.catalogue import V1, data_model, read_typed
from s2connect.messages.envelope import InvalidMessage, ReceptionStatusValue, read_message
from s2connect.messages.rules import Finding, Severity, check
from s2connect.model.text import for_display


class Judged(NamedTuple):
    """What was found out about one message.

    Attributes:
        file: Where it is; ``-`` is standard input.
        line: Where in the file it begins.
        type: Its ``message_type``, from the file: clean before display; None if it has none.
        status: What a ReceptionStatus about it says.
        label: What is wrong with it by its schema.
        findings: Which rules it breaks.
    """

    file: str
    line: int
    type: str | None
    status: ReceptionStatusValue
    label: str | None = None
    findings: tuple[Finding, ...] = ()

    @property
    def warnings(self) -> bool:
        """Whether it breaks a rule that does not make it invalid."""
        return any(finding.rule.severity is Severity.WARNING for finding in self.findings)

    @property
    def ok(self) -> bool:
        """Whether it is valid."""
        return self.status is ReceptionStatusValue.OK


def judge_files(names: Iterable[str], version: str | None) -> list[Judged]:
    """Judge all messages of files. Blocks.

    Args:
        names: The files; ``-`` is standard input.
        version: S2 JSON version; None takes that of the session in a log, and otherwise v1.0.0.

    Raises:
        Failure: A file cannot be read, or holds no message.
        UsageError: The version is unknown.
    """
    wanted = data_model(version) if version is not None else None
    return [judged for name in names for judged in _judge_file(name, wanted)]


def _judge_file(name: str, wanted: str | None) -> list[Judged]:
    found = []
    versions: dict[str, str] = {}
    for entry in entries_of(read_file(name)):
        record = entry.record
        if record is not None and record.event == "session_opened" and record.s2_version is not None:
            versions[record.session] = record.s2_version
        if entry.text is not None:
            spoken = versions.get(record.session, V1) if record is not None else V1
            found.append(_judge(name, entry, entry.text, wanted or known_version(spoken)))
    if not found:
        raise Failure("unreadable", f"There is no message in {shown_name(name)}.", code=ExitCode.USAGE)
    return found


def known_version(version: str) -> str:
    """The data model of a version that a log names.

    Raises:
        UsageError: It is unknown.
    """
    try:
        return data_model(version)
    except UsageError as error:
        raise UsageError(error.what, hint="Say by which version it is to be read: --version") from None


def _judge(name: str, entry: Entry, text: str, version: str) -> Judged:
    kind: str | None = None
    try:
        message = read_message(text)
        kind = message.type
        parsed, tolerated = read_typed(message, version)
        findings = (*tolerated, *check(parsed))
    except InvalidMessage as error:
        return Judged(name, entry.line, kind, error.status, error.label)
    wrong = any(finding.rule.severity is Severity.ERROR for finding in findings)
    status = ReceptionStatusValue.INVALID_CONTENT if wrong else ReceptionStatusValue.OK
    return Judged(name, entry.line, kind, status, None, findings)


def summary(judged: list[Judged]) -> dict[str, int]:
    """How many there are of each kind."""
    invalid = sum(not one.ok for one in judged)
    return {
        "messages": len(judged),
        "valid": len(judged) - invalid,
        "invalid": invalid,
        "with_warnings": sum(one.ok and one.warnings for one in judged),
    }


def finding_object(finding: Finding) -> Object:
    """A finding for programs."""
    rule = finding.rule
    return {"rule": rule.id, "severity": str(rule.severity), "path": finding.path, "detail": finding.detail}


def report(judged: list[Judged]) -> Object:
    """The result for programs."""
    return {
        "messages": [
            {
                "file": one.file,
                "line": one.line,
                "type": one.type,
                "status": str(one.status),
                "label": one.label,
                "findings": [finding_object(finding) for finding in one.findings],
            }
            for one in judged
        ],
        "summary": summary(judged),
    }


def show(judged: list[Judged], out: Console) -> None:
    """The result for people."""
    several = len({one.file for one in judged}) > 1
    for one in judged:
        place = f"{for_display(one.file, 60)}:{one.line}" if several else f"{one.line}"
        line = Text(f"{place:>4}  {for_display(one.type or 'no message_type', 60)}  ")
        line.append(_word(one), style="green" if one.ok else "bold red")
        out.print(line, soft_wrap=True)
        if one.label is not None:
            out.print(Text(f"      {for_display(one.label, 400)}"), soft_wrap=True)
        for finding in one.findings:
            out.print(finding_line(finding), soft_wrap=True)
    number = Counter(summary(judged))
    warned = f", of which {number['with_warnings']} with warnings" if number["with_warnings"] else ""
    messages = counted(number["messages"], "message")
    out.print(f"{messages}: {number['valid']} valid{warned}, {number['invalid']} invalid.", soft_wrap=True)


def counted(number: int, what: str) -> str:
    """A number of things, for people."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def finding_line(finding: Finding) -> Text:
    """A finding for people."""
    warning = finding.rule.severity is Severity.WARNING
    text = Text("      ").append("warning" if warning else "error", style="yellow" if warning else "red")
    return text.append(f"  {for_display(finding.label, 400)}")


def _word(one: Judged) -> str:
    if one.ok:
        return "OK, with warnings" if one.warnings else "OK"
    return str(one.status)
