"""``s2connect validate``: messages of files by their schema and their rules, each on its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from rich.console import Console
from rich.text import Text

from s2connect.diagnostics.message_files import Entry, entries_of, is_log
from s2connect.diagnostics.message_lines import is_frame
from s2connect.diagnostics.message_sources import STDIN, UNCUT, no_messages, read_file, shown_name
from s2connect.errors import UsageError
from s2connect.messages.catalogue import V1, data_model, read_typed
from s2connect.messages.envelope import InvalidMessage, ReceptionStatusValue, read_message
from s2connect.messages.rules import Finding, Severity, check
from s2connect.model.text import for_display
from s2connect.service.failures import Failure
from s2connect.service.sidecar import Object

_NO_JSON: Final = "is no JSON, or ends before its end"
_PYTHON: Final = "is no JSON: so Python prints an object, and JSON has double quotes"


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
        """True if it breaks a rule that does not make it invalid."""
        return any(finding.rule.severity is Severity.WARNING for finding in self.findings)

    @property
    def ok(self) -> bool:
        """True if it is valid."""
        return self.status is ReceptionStatusValue.OK


def judge_files(names: Iterable[str], version: str | None) -> tuple[list[Judged], dict[str, Failure]]:
    """Validate all messages of files. Blocks.

    Args:
        names: The files; ``-`` is standard input.
        version: S2 JSON version; None takes that of the session in a log, and otherwise v1.0.0.

    Returns:
        What was found out about each message; and by file, why it could not be read or is no file of messages.

    Raises:
        Failure: That is so of the only file, or a log is in a version that is unknown.
        UsageError: The version is unknown.
    """
    wanted = data_model(version) if version is not None else None
    judged: list[Judged] = []
    failures: dict[str, Failure] = {}
    names = list(names)
    for name in names:
        try:
            judged += _judge_file(name, wanted)
        except Failure as failure:
            if len(names) == 1:
                raise
            failures[name] = failure
    return judged, failures


def _judge_file(name: str, wanted: str | None) -> list[Judged]:
    content = read_file(name)
    entries = list(entries_of(content))
    if not any(entry.text is not None and not entry.other for entry in entries):
        raise no_messages(name, *((": all are cut off", UNCUT) if is_frame(content) else ()))
    log = is_log(entries)
    found = []
    versions: dict[str, str] = {}
    for entry in entries:
        record = entry.record
        if record is not None and record.event == "session_opened" and record.s2_version is not None:
            versions[record.session] = record.s2_version
        if entry.text is None or (log and entry.other):
            continue
        session = record.session if record is not None else ""
        if (agreed := agreed_version(entry.text)) is not None:
            versions[session] = agreed
        found.append(_judge(name, entry, entry.text, wanted or known_version(versions.get(session, V1))))
    return found


def agreed_version(text: str) -> str | None:
    """Return the version in use from this message on: in plain S2 a HandshakeResponse names it."""
    if "HandshakeResponse" not in text:
        return None
    try:
        message = read_message(text)
        selected = message.body.get("selected_protocol_version") if message.type == "HandshakeResponse" else None
        return data_model(selected) if isinstance(selected, str) else None
    except (InvalidMessage, UsageError):
        return None


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
        label = error.label
        if entry.broken:
            label = _PYTHON if text.startswith("{'") else _NO_JSON
        return Judged(name, entry.line, kind, error.status, label)
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


def report(judged: list[Judged], failures: Mapping[str, Failure]) -> Object:
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
        "failures": [{"file": name} | failure.to_object() for name, failure in failures.items()],
        "summary": summary(judged),
    }


def show(judged: list[Judged], out: Console, *, several: bool) -> None:
    """Format the result for people, with the file of each message if there are several."""
    for one in judged:
        place = f"{_place(one.file)}:{one.line}" if several else f"{one.line}"
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


def _place(name: str) -> str:
    return name if name == STDIN else shown_name(name)


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
