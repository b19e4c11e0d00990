"""SQLite database of a store, with its secrets in a vault. Methods block and belong to one thread.

How database and vault stay together (PAIR-10, SESC-06)
-------------------------------------------------------
A communication client's access tokens are one vault entry for each pairing, a list that is replaced atomically; the
row of the pairing holds its name. A rotation is two ``put`` and no write to the database. Where entries come and
go, the table ``vault_journal`` names those that no pairing refers to: a new one before it is put, a dropped one in the
transaction that drops it. What is named there when the store opens is deleted from the vault. So a crash anywhere
leaves the state before or after, and no secret without a pairing.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from s2connect.errors import NotPaired, PairingsLost, StorageError, StorageUnavailable
from s2connect.model.common import EndpointDescription, MalformedMessage, NodeDescription, NodeId
from s2connect.model.roles import CommunicationRole
from s2connect.model.secret import AccessToken
from s2connect.model.strict_json import read_json
from s2connect.model.url import BaseUrl
from s2connect.store.base import (
    GONE,
    MAX_REFUSED_SERVERS,
    Pairing,
    PairKey,
    Pin,
    Record,
    Replaced,
    Vault,
    token_digest,
    with_candidate,
)
from s2connect.store.files import open_private, sync_directory

SCHEMA_VERSION = 2
"""Version of the tables, in the database's ``user_version``."""

_TOKENS = "tokens-"
"""Name prefix of vault entries with the access tokens of a pairing."""

_PAIRED = "was-paired"
"""Vault entry that exists from the first pairing on."""

IN_MEMORY = Path(":memory:")
"""Path of a database without a file, which is gone when it is closed."""

BUSY_TIMEOUT_S = 1.0
"""Seconds for which opening waits until another process releases the database."""

_SCHEMA = (
    """
    CREATE TABLE pairing (
        sequence INTEGER PRIMARY KEY,
        local BLOB NOT NULL,
        remote BLOB NOT NULL,
        confirmed INTEGER NOT NULL,
        communication_role TEXT NOT NULL,
        peer BLOB NOT NULL,
        peer_endpoint BLOB NOT NULL,
        initiate_session_url TEXT,
        ca_fingerprint BLOB,
        ca_der BLOB,
        paired_at REAL NOT NULL,
        vault_name TEXT,
        active_digest BLOB,
        token_issued_at REAL,
        UNIQUE (local, remote, confirmed)
    )
    """,
    "CREATE TABLE tombstone (sequence INTEGER PRIMARY KEY, local BLOB NOT NULL, remote BLOB NOT NULL,"
    " UNIQUE (local, remote))",
    "CREATE TABLE refused_server (sequence INTEGER PRIMARY KEY, url TEXT NOT NULL UNIQUE)",
    "CREATE TABLE vault_journal (name TEXT PRIMARY KEY, attempts INTEGER NOT NULL DEFAULT 0)",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)

_MIGRATIONS = {
    1: ("ALTER TABLE pairing ADD COLUMN token_issued_at REAL", f"PRAGMA user_version = {SCHEMA_VERSION}"),
}
"""Migrations of the tables from earlier versions."""

_log = logging.getLogger(__name__)

Activation = tuple[Pairing, bytes, float]
"""A pairing, the digest of its new token, and the time of its issue."""


class Database:
    """Tables and secrets of one store. Methods block, belong to one thread, and may raise OSError or sqlite3.Error."""

    def __init__(self, path: Path, vault: Vault, max_tombstones: int, anew: bool) -> None:
        self._marked = False
        self._path = path
        self._vault = vault
        self._max_tombstones = max_tombstones
        if path != IN_MEMORY:
            # SQLite gives its companion files the mode of this one.
            os.close(open_private(path, os.O_RDWR | os.O_CREAT))
            sync_directory(path.parent)
        self._db = sqlite3.connect(
            path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=path != IN_MEMORY
        )
        try:
            # Exclusive, because a second process would take the entries of a pairing in progress for leftovers.
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._check_version()
            self._check_not_lost(anew)
            # Measured: one fsync for each commit, a third of the time of a rollback journal.
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._create_tables()
            self._sweep()
        except BaseException:
            self._db.close()
            raise

    def _check_version(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise StorageUnavailable(
                f"{self._path} was written by a later version of s2connect (tables {version}, known {SCHEMA_VERSION}).",
                hint="Update s2connect.",
            )
        (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version < 0 or (version == 0 and tables):
            raise StorageUnavailable(f"{self._path} is not a database of s2connect.", hint="Choose another file.")
        (verdict,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(f"the file is damaged ({verdict})")

    def _check_not_lost(self, anew: bool) -> None:
        """Refuse an emptied database, which the vault's mark of earlier pairings distinguishes from a new one."""
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version:
            return
        secrets = [name for name in self._vault.listed() if name.startswith(_TOKENS)]
        if not secrets and self._vault.get(_PAIRED) is None:
            return
        if not anew:
            raise PairingsLost(f"{self._path} is empty or missing, although this endpoint had pairings.")
        for name in (*secrets, _PAIRED):
            self._vault.delete(name)

    def _mark(self) -> None:
        """Mark in the vault, before the first pairing, that there was one, in case the database is lost."""
        if not self._marked and self._vault.get(_PAIRED) is None:
            self._vault.put(_PAIRED, b"yes")
        self._marked = True

    def _create_tables(self) -> None:
        with self._transaction():
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            for statement in _MIGRATIONS.get(version, ()) if version else _SCHEMA:
                self._db.execute(statement)

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """Transaction: all statements inside are durable at the end, or none."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            # SQLite has rolled back by itself after some errors.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    # Vault

    def _sweep(self) -> None:
        """Delete the vault entries without a pairing that are known to be obsolete.

        A commit whose fsync failed, or which a crash overtook there, may or may not turn up after a power cut. The
        commit made here settles it before anything is deleted for good.
        """
        names = [name for (name,) in self._db.execute("SELECT name FROM vault_journal")]
        if names:
            with self._transaction():
                self._db.execute("UPDATE vault_journal SET attempts = attempts + 1")
            for name in names:
                self._vault.delete(name)
            with self._transaction():
                self._db.executemany("DELETE FROM vault_journal WHERE name = ?", [(name,) for name in names])

    def _sweep_later(self) -> None:
        """Delete obsolete entries if possible; the operation stands anyway, and failed deletions are retried later."""
        try:
            self._sweep()
        except (StorageError, OSError, sqlite3.Error) as error:
            _log.warning("Secrets of removed pairings stay in the vault of %s for now: %s", self._path, error)

    def _put_tokens(self, name: str, tokens: Sequence[AccessToken]) -> None:
        self._vault.put(name, json.dumps([token.reveal() for token in tokens]).encode("ascii"))

    def _get_tokens(self, name: str) -> list[AccessToken]:
        content = self._vault.get(name)
        if content is None:
            _log.warning("The vault of %s holds no tokens for a pairing; it has to be paired again", self._path)
            return []
        try:
            texts = read_json(content)
            if not isinstance(texts, list):
                raise ValueError
            return [AccessToken(text) for text in texts]
        except (ValueError, TypeError, AttributeError):
            raise StorageUnavailable(
                f"The vault entry {name} of {self._path} is damaged.", hint="Unpair and pair the two again."
            ) from None

    def _client_vault_name(self, pairing: Pairing) -> str:
        found = self._db.execute(f"SELECT vault_name FROM pairing WHERE {_SAME}", _identity(pairing)).fetchone()  # noqa: S608 - constants
        if found is None or found[0] is None:
            raise NotPaired(GONE)
        return str(found[0])

    # Pairings

    def pairings(self, local: NodeId | None) -> list[Pairing]:
        if local is None:
            return self._select("ORDER BY sequence", ())
        return self._select("WHERE local = ? ORDER BY sequence", (local.bytes,))

    def pairings_of(self, key: PairKey) -> list[Pairing]:
        return self._select("WHERE local = ? AND remote = ? ORDER BY confirmed DESC", _ids(key))

    def _select(self, which: str, values: Sequence[bytes]) -> list[Pairing]:
        rows = self._db.execute(f"SELECT {', '.join(_COLUMNS)} FROM pairing {which}", values)  # noqa: S608 - constants
        try:
            return [_pairing(row) for row in rows]
        except (ValueError, TypeError, MalformedMessage) as error:
            raise StorageUnavailable(
                f"A pairing in {self._path} cannot be understood: {error}.", hint="Restore the file from a backup."
            ) from error

    def save_pairing(self, pairing: Pairing, tokens: Sequence[AccessToken], alone: bool) -> list[Replaced]:
        self._mark()
        row = _row(pairing)
        if pairing.communication_role is CommunicationRole.SERVER:
            row["active_digest"], row["token_issued_at"] = token_digest(tokens[0]), pairing.paired_at
            return self._insert(pairing, row, alone)
        name = row["vault_name"] = f"{_TOKENS}{uuid.uuid4().hex}"
        with self._transaction():
            self._db.execute("INSERT INTO vault_journal (name) VALUES (?)", (name,))
        try:
            self._put_tokens(name, tokens)
        except BaseException:
            self._sweep_later()
            raise
        return self._insert(pairing, row, alone)

    def _insert(self, pairing: Pairing, row: dict[str, Any], alone: bool) -> list[Replaced]:
        replaced = self._others(pairing.key) if alone else []
        try:
            with self._transaction():
                self._remove("local = ? AND remote = ? AND confirmed = ?", (*_ids(pairing.key), pairing.confirmed))
                if pairing.confirmed:
                    self._supersede(pairing.key, replaced)
                places = ", ".join("?" * len(row))
                insert = f"INSERT INTO pairing ({', '.join(row)}) VALUES ({places})"  # noqa: S608 - constants
                self._db.execute(insert, tuple(row.values()))
                self._db.execute("DELETE FROM vault_journal WHERE name = ?", (row["vault_name"],))
        finally:
            self._sweep_later()
        return replaced

    def _others(self, key: PairKey) -> list[Replaced]:
        """Return the pairings of a pair's node with other peers, with the tokens that still exist."""
        others = [pairing for pairing in self.pairings(key.local) if pairing.key != key]
        return [Replaced(pairing, self._last_tokens(pairing)) for pairing in others]

    def _last_tokens(self, pairing: Pairing) -> tuple[AccessToken, ...]:
        try:
            return tuple(self.candidate_tokens(pairing))
        except NotPaired:
            return ()  # we are communication server
        except StorageError as error:
            _log.warning("The server of a replaced pairing cannot be told: %s", error)
            return ()

    def _supersede(self, key: PairKey, replaced: Sequence[Replaced]) -> None:
        self._db.execute("DELETE FROM tombstone WHERE local = ? AND remote = ?", _ids(key))
        for other in replaced:
            self._remove(_SAME, _identity(other.pairing))
            self._bury(other.pairing.key)

    def _remove(self, where: str, values: tuple[Any, ...]) -> bool:
        """Inside a transaction: delete rows and mark their vault entries as dropped."""
        dropped = f"SELECT vault_name FROM pairing WHERE {where} AND vault_name IS NOT NULL"  # noqa: S608 - constants
        self._db.execute(f"INSERT INTO vault_journal (name) {dropped}", values)
        return self._db.execute(f"DELETE FROM pairing WHERE {where}", values).rowcount > 0  # noqa: S608 - constants

    def _bury(self, key: PairKey) -> None:
        self._db.execute("DELETE FROM tombstone WHERE local = ? AND remote = ?", _ids(key))
        self._db.execute("INSERT INTO tombstone (local, remote) VALUES (?, ?)", _ids(key))
        self._db.execute(
            "DELETE FROM tombstone WHERE sequence IN"
            " (SELECT sequence FROM tombstone ORDER BY sequence DESC LIMIT -1 OFFSET ?)",
            (self._max_tombstones,),
        )

    def confirm_pairing(self, pairing: Pairing, alone: bool) -> list[Replaced] | None:
        found = self._db.execute(f"SELECT confirmed FROM pairing WHERE {_SAME}", _identity(pairing)).fetchone()  # noqa: S608 - constants
        if found is None:
            raise NotPaired(GONE)
        if found[0]:
            return None
        replaced = self._others(pairing.key) if alone else []
        try:
            with self._transaction():
                self._remove("local = ? AND remote = ? AND confirmed = 1", _ids(pairing.key))
                self._db.execute(f"UPDATE pairing SET confirmed = 1 WHERE {_SAME}", _identity(pairing))  # noqa: S608 - constants
                self._supersede(pairing.key, replaced)
        finally:
            self._sweep_later()
        return replaced

    def drop_unconfirmed(self, pairing: Pairing) -> bool:
        return self._remove_one(f"{_SAME} AND confirmed = 0", pairing, tombstone=False)

    def remove_pairing(self, pairing: Pairing, tombstone: bool) -> bool:
        return self._remove_one(_SAME, pairing, tombstone)

    def _remove_one(self, where: str, pairing: Pairing, tombstone: bool) -> bool:
        try:
            with self._transaction():
                removed = self._remove(where, _identity(pairing))
                if removed and tombstone:
                    self._bury(pairing.key)
        finally:
            self._sweep_later()
        return removed

    def refuse_server(self, url: BaseUrl) -> None:
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO refused_server (url) VALUES (?)", (str(url),))
            self._db.execute(
                "DELETE FROM refused_server WHERE sequence NOT IN"
                " (SELECT sequence FROM refused_server ORDER BY sequence DESC LIMIT ?)",
                (MAX_REFUSED_SERVERS,),
            )

    def refused_servers(self) -> list[BaseUrl]:
        return [BaseUrl(url) for (url,) in self._db.execute("SELECT url FROM refused_server ORDER BY sequence")]

    def was_unpaired(self, key: PairKey) -> bool:
        found = self._db.execute("SELECT 1 FROM tombstone WHERE local = ? AND remote = ?", _ids(key)).fetchone()
        return found is not None

    def update_descriptions(
        self, key: PairKey, node: NodeDescription | None, endpoint: EndpointDescription | None
    ) -> None:
        with self._transaction():
            self._db.execute(
                "UPDATE pairing SET peer = coalesce(?, peer), peer_endpoint = coalesce(?, peer_endpoint)"
                " WHERE local = ? AND remote = ?",
                (node and node.to_json(), endpoint and endpoint.to_json(), *_ids(key)),
            )

    def set_pin(self, pairing: Pairing, pin: Pin) -> None:
        with self._transaction():
            self._db.execute(
                f"UPDATE pairing SET ca_fingerprint = ?, ca_der = ? WHERE {_SAME}",  # noqa: S608 - constants
                (pin.ca_fingerprint, pin.ca_der, *_identity(pairing)),
            )

    # Access tokens

    def candidate_tokens(self, pairing: Pairing) -> list[AccessToken]:
        return self._get_tokens(self._client_vault_name(pairing))

    def add_pending_token(self, pairing: Pairing, token: AccessToken) -> None:
        name = self._client_vault_name(pairing)
        self._put_tokens(name, with_candidate(self._get_tokens(name), token))

    def keep_token(self, pairing: Pairing, token: AccessToken) -> None:
        self._put_tokens(self._client_vault_name(pairing), [token])

    def active_digest(self, pairing: Pairing) -> bytes | None:
        found = self._db.execute(f"SELECT active_digest FROM pairing WHERE {_SAME}", _identity(pairing)).fetchone()  # noqa: S608 - constants
        return found[0] if found else None

    def record(self, key: PairKey) -> Record:
        entries = {pairing.confirmed: (pairing, self.active_digest(pairing)) for pairing in self.pairings_of(key)}
        found = self._db.execute(
            "SELECT token_issued_at FROM pairing WHERE local = ? AND remote = ? AND confirmed = 1", _ids(key)
        ).fetchone()
        return Record(entries.get(True), entries.get(False), self.was_unpaired(key), found[0] if found else None)

    def activate_tokens(self, changes: Sequence[Activation]) -> list[bool]:
        """Activate the tokens of many pairings in one transaction; see :meth:`Store.activate_token`."""
        with self._transaction():
            return [
                self._db.execute(
                    "UPDATE pairing SET active_digest = ?, token_issued_at = ?"  # noqa: S608 - constants
                    f" WHERE {_SAME} AND communication_role = ?",
                    (digest, issued_at, *_identity(pairing), CommunicationRole.SERVER),
                ).rowcount
                > 0
                for pairing, digest, issued_at in changes
            ]


_SAME = "local = ? AND remote = ? AND paired_at = ?"
"""SQL condition for one pairing, with the values of :func:`_identity`."""


def _identity(pairing: Pairing) -> tuple[bytes, bytes, float]:
    return *_ids(pairing.key), pairing.paired_at


def _ids(key: PairKey) -> tuple[bytes, bytes]:
    return key.local.bytes, key.remote.bytes


_COLUMNS = (
    "local",
    "remote",
    "confirmed",
    "communication_role",
    "peer",
    "peer_endpoint",
    "initiate_session_url",
    "ca_fingerprint",
    "ca_der",
    "paired_at",
)


def _row(pairing: Pairing) -> dict[str, Any]:
    """Return the columns of a new row, except for those about tokens."""
    url, pin = pairing.initiate_session_url, pairing.pin
    values = (
        *_ids(pairing.key),
        pairing.confirmed,
        pairing.communication_role.value,
        pairing.peer.to_json(),
        pairing.peer_endpoint.to_json(),
        None if url is None else str(url),
        None if pin is None else pin.ca_fingerprint,
        None if pin is None else pin.ca_der,
        pairing.paired_at,
    )
    return dict(zip(_COLUMNS, values, strict=True)) | {
        "vault_name": None,
        "active_digest": None,
        "token_issued_at": None,
    }


def _pairing(row: tuple[Any, ...]) -> Pairing:
    """Return the pairing of a row of ``_COLUMNS``."""
    column = dict(zip(_COLUMNS, row, strict=True))
    url, fingerprint = column["initiate_session_url"], column["ca_fingerprint"]
    return Pairing(
        key=PairKey(
            NodeId(uuid.UUID(bytes=column["local"])),
            NodeId(uuid.UUID(bytes=column["remote"])),
        ),
        communication_role=CommunicationRole(column["communication_role"]),
        peer=NodeDescription.from_json(column["peer"]),
        peer_endpoint=EndpointDescription.from_json(column["peer_endpoint"]),
        initiate_session_url=None if url is None else BaseUrl(url),
        pin=None if fingerprint is None else Pin(fingerprint, column["ca_der"]),
        paired_at=column["paired_at"],
        confirmed=bool(column["confirmed"]),
    )
