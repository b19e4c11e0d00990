"""SQLite store of one endpoint: one file, one thread, and the secrets in a vault.

How database and vault stay together (PAIR-10, SESC-06)
-------------------------------------------------------
A communication client's access tokens are one vault entry for each pairing, a list that is replaced atomically; the
row of the pairing holds its name. A rotation is two ``put`` and no write to the database. Where entries come and
go, the table ``vault_journal`` names those that no pairing refers to: a new one before it is put, a dropped one in the
transaction that drops it. What is named there when the store opens is deleted from the vault. So a crash anywhere
leaves the state before or after, and no secret without a pairing.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import sqlite3
import uuid
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from s2connect.errors import NotPaired, PairingsLost, StorageError, StorageUnavailable
from s2connect.model.common import EndpointDescription, MalformedMessage, NodeDescription, NodeId
from s2connect.model.roles import CommunicationRole
from s2connect.model.secret import AccessToken
from s2connect.model.url import BaseUrl
from s2connect.store.base import (
    GONE,
    MAX_FOUND,
    MAX_REFUSED_SERVERS,
    MAX_TOMBSTONES,
    Page,
    Pairing,
    PairKey,
    Pin,
    Record,
    Replaced,
    Vault,
    ids_beginning_with,
    token_digest,
    with_candidate,
)
from s2connect.store.columns import read_tokens, write_tokens
from s2connect.store.files import open_private, sync_directory, unavailable
from s2connect.store.sqlite_rows import (
    MIGRATIONS,
    PAIR,
    SAME,
    SCHEMA,
    SCHEMA_VERSION,
    columns,
    pair_columns,
    pairing_columns,
    pairing_of,
)

__all__ = ["SqliteStore"]

P = ParamSpec("P")
T = TypeVar("T")

TOKENS = "tokens-"
"""Name prefix of vault entries with the access tokens of a pairing."""

PAIRED = "was-paired"
"""Vault entry that exists from the first pairing on."""

IN_MEMORY = Path(":memory:")
"""Path of a database without a file, which is gone when it is closed."""

BUSY_TIMEOUT_S = 1.0
"""Seconds for which opening waits until another process releases the database."""

MAX_ACTIVATIONS = 256
"""Most token activations in one transaction, which bounds the wait of each."""

MAX_RECORDS = 512
"""Records kept in memory, some 3 KB each: a server needs that of a pair whenever a session begins."""

Activation = tuple[Pairing, bytes, float]
"""A pairing, the digest of its new token, and the time of its issue."""

_log = logging.getLogger(__name__)


_Method = Callable[Concatenate["SqliteStore", P], T]


def _operation(doing: str) -> Callable[[_Method[P, T]], _Method[P, Coroutine[Any, Any, T]]]:
    """Return a decorator that makes a blocking method an operation, in the thread of the store: "Could not <doing>"."""

    def decorate(method: _Method[P, T]) -> _Method[P, Coroutine[Any, Any, T]]:
        @functools.wraps(method)
        async def operation(store: SqliteStore, /, *args: P.args, **kwargs: P.kwargs) -> T:
            return await store._run(doing, lambda: method(store, *args, **kwargs))

        return operation

    return decorate


class SqliteStore:
    """The contract of :class:`~s2connect.store.base.Store`, in one SQLite file.

    All work happens in one thread of the store, one operation after the other, so operations never interleave. An
    operation whose caller is cancelled goes on to its end there. The database is locked as long as it is open: a second
    process cannot open it.
    """

    def __init__(self, path: Path) -> None:
        """Use :meth:`open` instead."""
        self._path = path
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"s2connect-store-{path.name}")
        self._closing: Future[None] | None = None
        self._activations: deque[tuple[Future[bool], Activation]] = deque()
        self._marked = False
        # Changed in the thread of the store, read anywhere. A record is here only while it is what the database says.
        self._records: dict[PairKey, Record] = {}
        self._db: sqlite3.Connection

    @classmethod
    async def open(cls, path: Path, vault: Vault, *, anew: bool = False) -> SqliteStore:
        """Open the database, creating it 0600 where there is none, and clear up after a crash.

        The vault keeps the access tokens, and must be the same each time. With ``anew`` lost pairings are no error: the
        database is empty then, and their secrets are deleted.

        Raises:
            PairingsLost: The database is empty or missing, although there were pairings.
            StorageUnavailable: It cannot be opened: damaged, of a later version, in use by another process, disk full.
            InsecurePermissions: Others have rights on the file (SEC-02).
        """
        store = cls(path)
        try:
            await store._run("open", lambda: store._connect(vault, anew))
        except BaseException:
            # A cancelled opening goes on in the thread, and is closed there when it is done.
            await store.close()
            raise
        return store

    async def close(self) -> None:
        """See :meth:`Store.close`. Cancelling it does not stop the closing."""
        if self._closing is None:
            self._closing = self._executor.submit(self._translated, "close", self._disconnect)
            self._executor.shutdown(wait=False)
        await asyncio.shield(asyncio.wrap_future(self._closing))

    async def _run(self, doing: str, work: Callable[[], T]) -> T:
        """Run work in the thread of the store; once begun it completes even if the caller is cancelled."""
        self._check_open()
        return await asyncio.shield(asyncio.wrap_future(self._executor.submit(self._translated, doing, work)))

    def _check_open(self) -> None:
        if self._closing is not None:
            raise StorageUnavailable(f"The store {self._path} is closed.", hint="")

    def _translated(self, doing: str, work: Callable[[], T]) -> T:
        try:
            return work()
        except (OSError, sqlite3.Error) as error:
            raise unavailable(doing, self._path, error) from error

    # Database

    def _connect(self, vault: Vault, anew: bool) -> None:
        """Open the database, in the thread of the store."""
        path = self._path
        self._vault = vault
        if path != IN_MEMORY:
            # SQLite gives its companion files the mode of this one.
            os.close(open_private(path, os.O_RDWR | os.O_CREAT))
            sync_directory(path.parent)
        self._db = sqlite3.connect(
            path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=path != IN_MEMORY
        )
        self._db.row_factory = sqlite3.Row
        try:
            # Exclusive, because a second process would take the entries of a pairing in progress for leftovers.
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            version = self._check_version()
            if not version:
                self._check_not_lost(anew)
            # Measured: one fsync for each commit, a third of the time of a rollback journal.
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            with self._transaction():
                for statement in MIGRATIONS.get(version, ()) if version else SCHEMA:
                    self._db.execute(statement)
            self._sweep()
        except BaseException:
            self._db.close()
            raise

    def _disconnect(self) -> None:
        if hasattr(self, "_db"):
            self._db.close()

    def _check_version(self) -> int:
        """Return the version of the tables, 0 for a new database."""
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
        return int(version)

    def _check_not_lost(self, anew: bool) -> None:
        """Refuse an emptied database, which the vault's mark of earlier pairings distinguishes from a new one."""
        secrets = [name for name in self._vault.listed() if name.startswith(TOKENS)]
        if not secrets and self._vault.get(PAIRED) is None:
            return
        if not anew:
            raise PairingsLost(f"{self._path} is empty or missing, although this endpoint had pairings.")
        for name in (*secrets, PAIRED):
            self._vault.delete(name)

    @contextlib.contextmanager
    def _transaction(self, *, changes_records: bool = True) -> Iterator[None]:
        """Transaction: all statements inside are durable at the end, or none."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
            if changes_records:
                self._records.clear()
        except BaseException:
            self._records.clear()
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
        self._vault.put(name, write_tokens(tokens))

    def _get_tokens(self, name: str) -> list[AccessToken]:
        content = self._vault.get(name)
        if content is None:
            _log.warning("The vault of %s holds no tokens for a pairing; it has to be paired again", self._path)
            return []
        try:
            return read_tokens(content)
        except ValueError:
            raise StorageUnavailable(
                f"The vault entry {name} of {self._path} is damaged.", hint="Unpair and pair the two again."
            ) from None

    def _client_vault_name(self, pairing: Pairing) -> str:
        row = self._row_of(pairing)
        if row is None or row["vault_name"] is None:
            raise NotPaired(GONE)
        return str(row["vault_name"])

    # Backup

    @_operation("read")
    def snapshot(self) -> tuple[bytes, dict[str, bytes]]:
        """Return the database as the content of a file, and its secrets, both of one moment."""
        with contextlib.closing(sqlite3.connect(IN_MEMORY)) as copy:
            self._db.backup(copy)
            content = copy.serialize()
        names = [name for (name,) in self._db.execute("SELECT vault_name FROM pairing WHERE vault_name IS NOT NULL")]
        found = {name: self._vault.get(name) for name in (*names, PAIRED)}
        return content, {name: secret for name, secret in found.items() if secret is not None}

    # Pairings

    def _rows(self, which: str, values: Sequence[object]) -> list[tuple[sqlite3.Row, Pairing]]:
        rows = self._db.execute(f"SELECT * FROM pairing {which}", values)  # noqa: S608 - constants
        try:
            return [(row, pairing_of(row)) for row in rows]
        except (ValueError, TypeError, MalformedMessage) as error:
            raise StorageUnavailable(
                f"A pairing in {self._path} cannot be understood: {error}.", hint="Restore the file from a backup."
            ) from error

    def _row_of(self, pairing: Pairing) -> sqlite3.Row | None:
        found = self._db.execute(f"SELECT * FROM pairing WHERE {SAME}", pairing_columns(pairing))  # noqa: S608 - constants
        row: sqlite3.Row | None = found.fetchone()
        return row

    @_operation("read")
    def pairings(
        self,
        local: NodeId | None = None,
        *,
        role: CommunicationRole | None = None,
        confirmed: bool | None = None,
        newest: int | None = None,
    ) -> list[Pairing]:
        wanted = {
            "local = ?": None if local is None else local.bytes,
            "communication_role = ?": role,
            "confirmed = ?": confirmed,
        }
        wanted = {condition: value for condition, value in wanted.items() if value is not None}
        which = f"WHERE {' AND '.join(wanted)} " if wanted else ""
        order = "ORDER BY sequence" if newest is None else f"ORDER BY sequence DESC LIMIT {newest:d}"
        found = [pairing for _, pairing in self._rows(f"{which}{order}", tuple(wanted.values()))]
        return found if newest is None else found[::-1]

    @_operation("read")
    def page(self, most: int, *, local: NodeId | None = None, before: int | None = None) -> Page:
        wanted = {"local = ?": None if local is None else local.bytes, "sequence < ?": before}
        wanted = {condition: value for condition, value in wanted.items() if value is not None}
        which = f"WHERE {' AND '.join(wanted)} " if wanted else ""
        rows = self._rows(f"{which}ORDER BY sequence DESC LIMIT {most + 1:d}", tuple(wanted.values()))
        found = [pairing for _, pairing in rows[:most]]
        return Page(found[::-1], rows[most - 1][0]["sequence"] if len(rows) > most else None)

    @_operation("read")
    def counts(self) -> dict[NodeId, int]:
        rows = self._db.execute("SELECT local, count(*) FROM pairing GROUP BY local").fetchall()
        return {NodeId(uuid.UUID(bytes=local)): count for local, count in rows}

    @_operation("read")
    def beginning_with(self, beginning: str, *, local: NodeId | None = None) -> list[Pairing]:
        if (ids := ids_beginning_with(beginning)) is None:
            return []
        ours, values = ("", ids) if local is None else ("AND local = ? ", (*ids, local))
        which = f"WHERE remote BETWEEN ? AND ? {ours}ORDER BY remote LIMIT {MAX_FOUND}"
        return [pairing for _, pairing in self._rows(which, [one.bytes for one in values])]

    @_operation("read")
    def pairings_of(self, key: PairKey) -> list[Pairing]:
        return [pairing for _, pairing in self._rows(f"WHERE {PAIR} ORDER BY confirmed DESC", pair_columns(key))]

    @_operation("write")
    def save_pairing(
        self, pairing: Pairing, token: AccessToken, *further: AccessToken, alone: bool = False
    ) -> list[Replaced]:
        if alone and not pairing.confirmed:
            raise ValueError("an unconfirmed pairing replaces no other pair before it is confirmed")
        if not self._marked and self._vault.get(PAIRED) is None:  # in case the database gets lost
            self._vault.put(PAIRED, b"yes")
        self._marked = True
        replaced = self._others(pairing.key) if alone else []
        name = digest = issued_at = None
        if pairing.communication_role is CommunicationRole.SERVER:
            digest, issued_at = token_digest(token), pairing.paired_at
        else:
            name = f"{TOKENS}{uuid.uuid4().hex}"
            with self._transaction():
                self._db.execute("INSERT INTO vault_journal (name) VALUES (?)", (name,))
        try:
            if name is not None:
                self._put_tokens(name, [token, *further])
            with self._transaction():
                self._remove(f"{PAIR} AND confirmed = ?", (*pair_columns(pairing.key), pairing.confirmed))
                if pairing.confirmed:
                    self._supersede(pairing.key, replaced)
                row = columns(pairing) | {"vault_name": name, "active_digest": digest, "token_issued_at": issued_at}
                places = f"({', '.join(row)}) VALUES (:{', :'.join(row)})"
                self._db.execute(f"INSERT INTO pairing {places}", row)
                self._db.execute("DELETE FROM vault_journal WHERE name = ?", (name,))
        finally:
            self._sweep_later()
        return replaced

    def _others(self, key: PairKey) -> list[Replaced]:
        """Return the pairings of a pair's node with other peers, with the tokens that still exist."""
        others = self._rows("WHERE local = ? AND remote != ? ORDER BY sequence", pair_columns(key))
        return [Replaced(pairing, self._last_tokens(row["vault_name"])) for row, pairing in others]

    def _last_tokens(self, name: str | None) -> tuple[AccessToken, ...]:
        try:
            return tuple(self._get_tokens(name)) if name is not None else ()  # none as communication server
        except StorageError as error:
            _log.warning("The server of a replaced pairing cannot be notified: %s", error)
            return ()

    def _supersede(self, key: PairKey, replaced: Sequence[Replaced]) -> None:
        self._db.execute(f"DELETE FROM tombstone WHERE {PAIR}", pair_columns(key))  # noqa: S608 - constants
        for other in replaced:
            self._remove(SAME, pairing_columns(other.pairing))
            self._bury(other.pairing.key)

    def _remove(self, where: str, values: tuple[Any, ...]) -> bool:
        """Inside a transaction: delete rows and mark their vault entries as dropped."""
        dropped = f"SELECT vault_name FROM pairing WHERE {where} AND vault_name IS NOT NULL"  # noqa: S608 - constants
        self._db.execute(f"INSERT INTO vault_journal (name) {dropped}", values)
        return self._db.execute(f"DELETE FROM pairing WHERE {where}", values).rowcount > 0  # noqa: S608 - constants

    def _bury(self, key: PairKey) -> None:
        self._db.execute("INSERT OR REPLACE INTO tombstone (local, remote) VALUES (?, ?)", pair_columns(key))
        self._db.execute(
            "DELETE FROM tombstone WHERE sequence IN"
            " (SELECT sequence FROM tombstone ORDER BY sequence DESC LIMIT -1 OFFSET ?)",
            (MAX_TOMBSTONES,),
        )

    @_operation("write")
    def confirm_pairing(self, pairing: Pairing, *, alone: bool = False) -> list[Replaced] | None:
        row = self._row_of(pairing)
        if row is None:
            raise NotPaired(GONE)
        if row["confirmed"]:
            return None
        replaced = self._others(pairing.key) if alone else []
        try:
            with self._transaction():
                self._remove(f"{PAIR} AND confirmed = 1", pair_columns(pairing.key))
                self._db.execute(f"UPDATE pairing SET confirmed = 1 WHERE {SAME}", pairing_columns(pairing))  # noqa: S608 - constants
                self._supersede(pairing.key, replaced)
        finally:
            self._sweep_later()
        return replaced

    @_operation("write")
    def drop_unconfirmed(self, pairing: Pairing) -> bool:
        return self._remove_one(f"{SAME} AND confirmed = 0", pairing, tombstone=False)

    @_operation("write")
    def remove_pairing(self, pairing: Pairing, *, tombstone: bool) -> bool:
        return self._remove_one(SAME, pairing, tombstone)

    def _remove_one(self, where: str, pairing: Pairing, tombstone: bool) -> bool:
        try:
            with self._transaction():
                removed = self._remove(where, pairing_columns(pairing))
                if removed and tombstone:
                    self._bury(pairing.key)
        finally:
            self._sweep_later()
        return removed

    @_operation("write")
    def refuse_server(self, url: BaseUrl) -> None:
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO refused_server (url) VALUES (?)", (str(url),))
            self._db.execute(
                "DELETE FROM refused_server WHERE sequence NOT IN"
                " (SELECT sequence FROM refused_server ORDER BY sequence DESC LIMIT ?)",
                (MAX_REFUSED_SERVERS,),
            )

    @_operation("read")
    def refused_servers(self) -> list[BaseUrl]:
        return [BaseUrl(url) for (url,) in self._db.execute("SELECT url FROM refused_server ORDER BY sequence")]

    @_operation("write")
    def update_descriptions(
        self, key: PairKey, *, node: NodeDescription | None, endpoint: EndpointDescription | None
    ) -> None:
        with self._transaction():
            self._db.execute(
                "UPDATE pairing SET peer = coalesce(?, peer), peer_endpoint = coalesce(?, peer_endpoint)"  # noqa: S608 - constants
                f" WHERE {PAIR}",
                (node and node.to_json(), endpoint and endpoint.to_json(), *pair_columns(key)),
            )

    @_operation("write")
    def set_pin(self, pairing: Pairing, pin: Pin) -> None:
        with self._transaction():
            self._db.execute(
                f"UPDATE pairing SET ca_fingerprint = ?, ca_der = ? WHERE {SAME}",  # noqa: S608 - constants
                (pin.ca_fingerprint, pin.ca_der, *pairing_columns(pairing)),
            )

    # Access tokens

    @_operation("read")
    def candidate_tokens(self, pairing: Pairing) -> list[AccessToken]:
        return self._get_tokens(self._client_vault_name(pairing))

    @_operation("write")
    def add_pending_token(self, pairing: Pairing, token: AccessToken) -> None:
        name = self._client_vault_name(pairing)
        self._put_tokens(name, with_candidate(self._get_tokens(name), token))

    @_operation("write")
    def keep_token(self, pairing: Pairing, token: AccessToken) -> None:
        self._put_tokens(self._client_vault_name(pairing), [token])

    async def record(self, key: PairKey) -> Record:
        """See :meth:`Store.record`. It comes from memory if it was read before and has not changed."""
        self._check_open()
        return self._records.get(key) or await self._read_record(key)

    @_operation("read")
    def _read_record(self, key: PairKey) -> Record:
        rows = {pairing.confirmed: (pairing, row) for row, pairing in self._rows(f"WHERE {PAIR}", pair_columns(key))}
        entries = {confirmed: (pairing, row["active_digest"]) for confirmed, (pairing, row) in rows.items()}
        issued_at = rows[True][1]["token_issued_at"] if True in rows else None
        tombstone = self._db.execute(f"SELECT 1 FROM tombstone WHERE {PAIR}", pair_columns(key)).fetchone()  # noqa: S608 - constants
        record = Record(entries.get(True), entries.get(False), tombstone is not None, issued_at)
        if record.confirmed is not None:  # strangers name pairs that do not exist
            while len(self._records) >= MAX_RECORDS:
                del self._records[next(iter(self._records))]
            self._records[key] = record
        return record

    async def activate_token(self, pairing: Pairing, digest: bytes, issued_at: float) -> bool:
        """See :meth:`Store.activate_token`. Requests during a commit share the next one."""
        self._check_open()
        done: Future[bool] = Future()
        self._activations.append((done, (pairing, digest, issued_at)))
        if len(self._activations) == 1:  # otherwise the thread has still to take the ones before, and takes this one
            self._executor.submit(self._activate_all)
        return await asyncio.shield(asyncio.wrap_future(done))

    def _activate_all(self) -> None:
        while count := min(len(self._activations), MAX_ACTIVATIONS):
            waiting, changes = zip(*(self._activations.popleft() for _ in range(count)), strict=True)
            try:
                results = self._translated("write", functools.partial(self._activate, changes))
            except BaseException as error:
                for done in waiting:
                    done.set_exception(error)
            else:
                for done, result in zip(waiting, results, strict=True):
                    done.set_result(result)

    def _activate(self, changes: Sequence[Activation]) -> list[bool]:
        with self._transaction(changes_records=False):
            results = [
                self._db.execute(
                    "UPDATE pairing SET active_digest = ?, token_issued_at = ?"  # noqa: S608 - constants
                    f" WHERE {SAME} AND communication_role = ?",
                    (digest, issued_at, *pairing_columns(pairing), CommunicationRole.SERVER),
                ).rowcount
                > 0
                for pairing, digest, issued_at in changes
            ]
        for (pairing, digest, issued_at), active in zip(changes, results, strict=True):
            known = self._records.pop(pairing.key, None)
            if active and known is not None and known.confirmed is not None and known.confirmed[0].is_same(pairing):
                confirmed = known.confirmed[0], digest
                self._records[pairing.key] = replace(known, confirmed=confirmed, issued_at=issued_at)
        return results
