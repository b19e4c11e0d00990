"""Errors of PostgreSQL for a person: reason, and the step that helps. Never a password."""

from __future__ import annotations

import re

import psycopg
from psycopg import errors

from s2connect.errors import StorageUnavailable
from s2connect.store.postgresql.address import shown

TRANSIENT = (errors.SerializationFailure, errors.DeadlockDetected)
"""Errors after which the database has rolled back, and the same transaction may succeed."""

_NO_DATABASE = "Make it with createdb, or mend the URL."
_NO_PASSWORD = "The password may be in S2CONNECT_STORE, in PGPASSWORD, or in the file that PGPASSFILE names."
_TOO_MANY = "Raise max_connections of PostgreSQL: each instance may have some ten."
_STANDBY = "Promote the synchronous standby, or name the primary, too: postgresql://user@a,b/name"

_REASONS: tuple[tuple[type[psycopg.Error], str, str | None], ...] = (
    (
        errors.UndefinedTable,
        "it has not the tables of this program",
        "Make them with: s2connect store migrate",
    ),
    (errors.UndefinedColumn, "its tables are older than this program", "Run: s2connect store migrate"),
    (errors.InvalidCatalogName, "there is no such database", _NO_DATABASE),
    (
        errors.InvalidAuthorizationSpecification,  # also a wrong password
        "it refuses the user or the password",
        _NO_PASSWORD,
    ),
    (errors.InsufficientPrivilege, "the user may not do that", "Give the user the rights on the tables, or own them."),
    (errors.TooManyConnections, "it has too many connections", _TOO_MANY),
    (errors.DiskFull, "its disk is full", "Free some space there, then try again."),
    (
        errors.ReadOnlySqlTransaction,
        "it is a standby, and no primary",
        _STANDBY,
    ),
    (errors.QueryCanceled, "it did not answer in time", "Look what keeps it busy: pg_stat_activity."),
    (errors.LockNotAvailable, "what is needed is locked for too long", "Look who holds it: pg_locks."),
    (errors.AdminShutdown, "it is shutting down", "Start it again."),
    (errors.CrashShutdown, "it has crashed", "It starts again by itself; look into its log."),
    (errors.CannotConnectNow, "it is starting or stopping", "Wait a little."),
)

_DOWN = "Check that the database runs and can be reached."


def is_lost(error: psycopg.Error) -> bool:
    """Return whether an error says that the connection is gone, or that there was none."""
    return isinstance(error, psycopg.OperationalError) and (
        error.sqlstate is None or error.sqlstate[:2] == "08" or error.sqlstate[:3] == "57P"
    )


def unavailable(doing: str, url: str, error: BaseException | None) -> StorageUnavailable:
    """Describe a failed access: "Could not <doing> <database>". Raise it ``from None``: libpq may say more."""
    reason, hint = "it does not answer", _DOWN
    for kind, its_reason, its_hint in _REASONS:
        if isinstance(error, kind):
            return StorageUnavailable(f"Could not {doing} {shown(url)}: {its_reason}.", hint=its_hint)
    if isinstance(error, psycopg.OperationalError):
        reason = _of_connection(str(error)) or reason
        hint = next((its for known, its in _HINTS if re.search(known, reason)), _DOWN)
        if hint is _STANDBY:
            reason = "none of its hosts is a primary"
    elif isinstance(error, psycopg.Error):
        reason, hint = f"{type(error).__name__} ({error.sqlstate})", "Look into the log of PostgreSQL."
    return StorageUnavailable(f"Could not {doing} {shown(url)}: {reason}.", hint=hint)


_HINTS = (
    ("^database .* does not exist", _NO_DATABASE),
    ("^role .* does not exist", "Make it with createuser, or mend the URL."),
    ("password|pg_hba", _NO_PASSWORD),
    ("connection slots|too many clients|too many connections", _TOO_MANY),
    ("read-only|in recovery", _STANDBY),
    ("does not support SSL", "Set ssl = on and a certificate at PostgreSQL; without sslmode it goes on unencrypted."),
    ("SSL|certificate", "sslmode, sslrootcert and the name in the URL decide how it is checked: PostgreSQL's manual."),
)
"""Sentences of libpq about a connection that failed, which has no code for them, and the hints."""


def _of_connection(text: str) -> str:
    """Return the reason in what libpq says of a connection that failed, whose sentences repeat host and port."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = next((line for line in reversed(lines) if "failed:" in line), lines[-1] if lines else "")
    last = last.rpartition("failed:")[2].strip().removeprefix("FATAL:").strip().rstrip(".")
    return "".join(character for character in last if character.isprintable())[:200]
