"""Failures of the command: exit codes, sentences for people, objects for programs."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Any

from s2connect import errors
from s2connect.errors import MessageRefused, PairingRefused, S2ConnectError, SessionRefused


class ExitCode(IntEnum):
    """Exit codes of the command; ``docs/command.md`` explains them to people."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NETWORK = 3
    CERTIFICATE = 4
    PAIRING = 5
    SESSION = 6
    STORAGE = 7
    SERVICE = 8
    INTERRUPTED = 130


_CODES: tuple[tuple[type[S2ConnectError], ExitCode], ...] = (
    (errors.HomeInUse, ExitCode.SERVICE),
    (errors.InstanceRuns, ExitCode.SERVICE),
    (errors.StorageError, ExitCode.STORAGE),
    (errors.UsageError, ExitCode.USAGE),
    (errors.NetworkError, ExitCode.NETWORK),
    (errors.TrustError, ExitCode.CERTIFICATE),
    (errors.PairingError, ExitCode.PAIRING),
    (errors.SessionError, ExitCode.SESSION),
)
"""From the error tree to exit codes; the first that fits counts, and all others are ``FAILED``."""

NO_SERVICE = "service_not_running"  # kind of the failure of what only a running service can do
STOPPING = "stopping"  # kind of the failure of a command that was under way when the service stopped


class Failure(S2ConnectError):
    """Failure of a command, whose kind and exit code are named where it is raised; ``details`` are for programs."""

    kind: str  # type: ignore[misc]  # of each failure, not of the class

    def __init__(
        self,
        kind: str,
        what: str,
        hint: str = "",
        *,
        code: ExitCode | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(what, hint=hint)
        self.kind = kind
        self.code = _code_of_kind(kind) if code is None else code
        self.details = details or {}

    @classmethod
    def of(cls, error: S2ConnectError) -> Failure:
        """Return an error of the library as failure."""
        details: dict[str, Any] = {}
        match error:
            case Failure():
                return error
            case PairingRefused() | SessionRefused():
                details = {"reason": error.reason, "additional_info": error.additional_info}
            case MessageRefused():
                details = {"status": error.status, "label": error.label}
        return cls(error.kind, error.what, error.hint, code=exit_code(type(error)), details=details)

    @classmethod
    def from_object(cls, value: object) -> Failure:
        """Read what :meth:`to_object` wrote, e.g. in a running service."""
        fields = {k: v for k, v in value.items() if isinstance(v, str)} if isinstance(value, dict) else {}
        kind, what, hint = (fields.pop(name, "") for name in ("kind", "what", "hint"))
        return cls(kind or "error", what or "The service reported an error without a reason.", hint, details=fields)

    def to_object(self) -> dict[str, Any]:
        """Return the failure for programs."""
        return {"kind": self.kind, "what": self.what, "hint": self.hint, **self.details}


def no_service(what: str, start: str = "s2connect serve") -> Failure:
    """Return the failure of what only a running service can do."""
    return Failure(NO_SERVICE, what, f"Start the service: {start}")


def exit_code(error: type[S2ConnectError]) -> ExitCode:
    """Return the exit code of a class of errors."""
    return next((code for kind, code in _CODES if issubclass(error, kind)), ExitCode.FAILED)


def _code_of_kind(kind: str) -> ExitCode:
    if kind in (NO_SERVICE, STOPPING):
        return ExitCode.SERVICE
    return next((exit_code(error) for error in _tree(S2ConnectError) if error.kind == kind), ExitCode.FAILED)


def _tree(error: type[S2ConnectError]) -> Iterator[type[S2ConnectError]]:
    yield error
    for further in error.__subclasses__():
        yield from _tree(further)
