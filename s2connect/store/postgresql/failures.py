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
    (
        "pg_hba.*no encryption",
        "The database takes encrypted connections only from here: sslmode=verify-full in the URL.",
    ),
    ("password|pg_hba", _NO_PASSWORD),
    ("connection slots|too many clients|too many connections", _TOO_MANY),
    ("read-only|in recovery", _STANDBY),
    ("does not support SSL", "Set ssl = on and a certificate at PostgreSQL; without sslmode it goes on unencrypted."),
    ("does not match host name", "Name it in the URL as its certificate does, or give it a certificate for this name."),
    ("^could not read root|^root cert", "sslrootcert names the file with the CA of the database, or is: system"),
    (
        "certificate verify failed",
        "Its certificate is not of the CA that sslrootcert names, or one of the two has expired: "
        "openssl s_client -starttls postgres -connect HOST:5432 -CAfile FILE",
    ),
    (
        "alert|private key|client certificate|certificate authentication",
        "sslcert and sslkey of the URL name our certificate and its key, which nobody else may read. The database "
        "takes one of its ssl_ca_file that has not expired, for the user in its CN.",
    ),
    ("SSL|certificate", "sslmode, sslrootcert and the name in the URL decide how it is checked: PostgreSQL's manual."),
)
"""Sentences of libpq about a connection that failed, which has no code for them, and the hints."""


def _of_connection(text: str) -> str:
    """Return the reason in what libpq says of a connection that failed: for each host, where there are several."""
    first, _, others = text.partition("All failures were:")
    each = [(host, _of_host(said)) for host, said in _EACH.findall(others)]
    reasons = dict.fromkeys(reason for _, reason in each)
    if len(reasons) < 2:
        return _of_host(first)
    return "; ".join(f"{host}: {reason}" for host, reason in dict.fromkeys(each))


_EACH = re.compile(r"^- host: '?([^',]+)'?, .*?: (connection (?:failed|is bad): .*?)(?=^- host: |\Z)", re.M | re.S)


def _of_host(text: str) -> str:
    """Return the reason in a sentence of libpq, which repeats host and port."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = next((line for line in reversed(lines) if "failed:" in line), lines[-1] if lines else "")
    last = last.rpartition("failed:")[2].strip().removeprefix("FATAL:").strip().rstrip(".")
    return "".join(character for character in last if character.isprintable())[:200].rstrip()
