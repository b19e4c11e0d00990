"""``validate``: checks the messages of files by schema and rules, each on its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from s2connect.diagnostics.message_files import Entry, entries_of, is_frame, is_log
from s2connect.diagnostics.message_sources import UNCUT, no_messages, read_file
from s2connect.errors import UsageError
from s2connect.messages.catalogue import V1, data_model, read_typed
from s2connect.messages.envelope import InvalidMessage, Message, ReceptionStatusValue, read_message
from s2connect.messages.rules import Finding, Severity, check
from s2connect.service.failures import Failure

_NO_JSON: Final = "is no JSON, or ends before its end"
_PYTHON: Final = "is no JSON: so Python prints an object, and JSON has double quotes"


class ValidatedMessage(NamedTuple):
    """Result of the validation of one message. Its texts come from the file: clean them before display."""

    file: str  # "-" is standard input
    line: int
    type: str | None
    status: ReceptionStatusValue  # of the ReceptionStatus that it would get
    label: str | None = None  # violation of its schema
    findings: tuple[Finding, ...] = ()  # rules that it breaks

    @property
    def warnings(self) -> bool:
        """True if it breaks a rule that does not make it invalid."""
        return any(finding.rule.severity is Severity.WARNING for finding in self.findings)

    @property
    def ok(self) -> bool:
        """True if it is valid."""
        return self.status is ReceptionStatusValue.OK


def validate_files(names: Iterable[str], version: str | None) -> tuple[list[ValidatedMessage], dict[str, Failure]]:
    """Validate all messages of files, of which ``-`` is standard input. Blocks.

    Version None takes that of the session in a log, and otherwise v1.0.0. Returns the result of each message; and by
    file, why it could not be read or is no file of messages.

    Raises:
        Failure: That applies to the only file, or a log is in an unknown version.
        UsageError: The version is unknown.
    """
    wanted = data_model(version) if version is not None else None
    messages: list[ValidatedMessage] = []
    failures: dict[str, Failure] = {}
    names = list(names)
    for name in names:
        try:
            messages += _validate_file(name, wanted)
        except Failure as failure:
            if len(names) == 1:
                raise
            failures[name] = failure
    return messages, failures


def _validate_file(name: str, wanted: str | None) -> list[ValidatedMessage]:
    content = read_file(name)
    entries = list(entries_of(content))
    if not any(entry.text is not None and not entry.other for entry in entries):
        raise no_messages(name, *((": all are cut off", UNCUT) if is_frame(content) else ()))
    log = is_log(entries)
    validated = []
    versions: dict[str, str] = {}
    for entry in entries:
        record = entry.record
        if record is not None and record.event == "session_opened" and record.s2_version is not None:
            versions[record.session] = record.s2_version
        if entry.text is None or (log and entry.other):
            continue
        session = record.session if record is not None else ""
        message = parse(entry.text)
        if (agreed := agreed_version(message)) is not None:
            versions[session] = agreed
        version = wanted or known_version(versions.get(session, V1))
        validated.append(_validate(name, entry, message, version))
    return validated


def parse(text: str) -> Message | InvalidMessage:
    """Read a message; return the error if it is none."""
    try:
        return read_message(text)
    except InvalidMessage as error:
        return error


def agreed_version(message: Message | InvalidMessage) -> str | None:
    """Return the version in use from this message on: in plain S2 a HandshakeResponse names it."""
    if isinstance(message, InvalidMessage) or message.type != "HandshakeResponse":
        return None
    try:
        selected = message.body.get("selected_protocol_version")
        return data_model(selected) if isinstance(selected, str) else None
    except (InvalidMessage, UsageError):
        return None


def known_version(version: str) -> str:
    """Return the data model of a version that a log names. Raises UsageError if it is unknown."""
    try:
        return data_model(version)
    except UsageError as error:
        raise UsageError(error.what, hint="Say by which version it is to be read: --version") from None


def _validate(name: str, entry: Entry, message: Message | InvalidMessage, version: str) -> ValidatedMessage:
    kind = message.type if isinstance(message, Message) else None
    try:
        if isinstance(message, InvalidMessage):
            raise message
        parsed, tolerated = read_typed(message, version)
        findings = (*tolerated, *check(parsed))
    except InvalidMessage as error:
        label = error.label
        if entry.broken:
            label = _PYTHON if (entry.text or "").startswith("{'") else _NO_JSON
        return ValidatedMessage(name, entry.line, kind, error.status, label)
    wrong = any(finding.rule.severity is Severity.ERROR for finding in findings)
    status = ReceptionStatusValue.INVALID_CONTENT if wrong else ReceptionStatusValue.OK
    return ValidatedMessage(name, entry.line, kind, status, None, findings)
