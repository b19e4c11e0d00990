"""SQLite store of one endpoint: runs the database in its own thread."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from s2connect.errors import StorageUnavailable
from s2connect.model.common import EndpointDescription, NodeDescription, NodeId
from s2connect.model.secret import AccessToken
from s2connect.model.url import BaseUrl
from s2connect.store.base import (
    MAX_TOMBSTONES,
    Pairing,
    PairKey,
    Pin,
    Record,
    Replaced,
    Vault,
    check_alone,
)
from s2connect.store.database import Activation, Database
from s2connect.store.files import unavailable

__all__ = ["SqliteStore"]

T = TypeVar("T")

MAX_ACTIVATIONS = 256
"""Most token activations in one transaction, which bounds the wait of each."""


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
        self._database: Database
        self._closing: Future[None] | None = None
        self._activations: _Activations | None = None

    @classmethod
    async def open(
        cls, path: Path, vault: Vault, *, max_tombstones: int = MAX_TOMBSTONES, anew: bool = False
    ) -> SqliteStore:
        """Open the database, creating it 0600 where there is none, and clear up after a crash.

        Args:
            path: The database file; its directory must exist.
            vault: Keeps the access tokens. It must be the same each time.
            max_tombstones: How many unpairings are remembered.
            anew: Begin with an empty database, and without the secrets of pairings, where the pairings are lost.

        Raises:
            PairingsLost: The database is empty or missing, although there were pairings.
            StorageUnavailable: It cannot be opened: damaged, of a later version, in use by another process, disk full.
            InsecurePermissions: Others have rights on the file (SEC-02).
        """
        store = cls(path)

        def connect() -> None:
            store._database = Database(path, vault, max_tombstones, anew)

        try:
            await store._in_thread("open", connect)
        except BaseException:
            # A cancelled opening goes on in the thread, and is closed there when it is done.
            await store.close()
            raise
        return store

    async def _run(self, doing: str, work: Callable[[Database], T]) -> T:
        return await self._in_thread(doing, lambda: work(self._database))

    async def _in_thread(self, doing: str, work: Callable[[], T]) -> T:
        """Run work in the thread of the store; once begun it completes even if the caller is cancelled."""
        if self._closing is not None:
            raise StorageUnavailable(f"The store {self._path} is closed.", hint="")
        return await asyncio.shield(asyncio.wrap_future(self._executor.submit(self._translated, doing, work)))

    def _translated(self, doing: str, work: Callable[[], T]) -> T:
        try:
            return work()
        except (OSError, sqlite3.Error) as error:
            raise unavailable(doing, self._path, error) from error

    async def pairings(self, local: NodeId | None = None) -> list[Pairing]:
        return await self._run("read", lambda db: db.pairings(local))

    async def refuse_server(self, url: BaseUrl) -> None:
        await self._run("write", lambda db: db.refuse_server(url))

    async def refused_servers(self) -> list[BaseUrl]:
        return await self._run("read", lambda db: db.refused_servers())

    async def pairings_of(self, key: PairKey) -> list[Pairing]:
        return await self._run("read", lambda db: db.pairings_of(key))

    async def save_pairing(
        self, pairing: Pairing, token: AccessToken, *further: AccessToken, alone: bool = False
    ) -> list[Replaced]:
        check_alone(pairing, alone)
        return await self._run("write", lambda db: db.save_pairing(pairing, [token, *further], alone))

    async def confirm_pairing(self, pairing: Pairing, *, alone: bool = False) -> list[Replaced] | None:
        return await self._run("write", lambda db: db.confirm_pairing(pairing, alone))

    async def drop_unconfirmed(self, pairing: Pairing) -> bool:
        return await self._run("write", lambda db: db.drop_unconfirmed(pairing))

    async def candidate_tokens(self, pairing: Pairing) -> list[AccessToken]:
        return await self._run("read", lambda db: db.candidate_tokens(pairing))

    async def add_pending_token(self, pairing: Pairing, token: AccessToken) -> None:
        await self._run("write", lambda db: db.add_pending_token(pairing, token))

    async def keep_token(self, pairing: Pairing, token: AccessToken) -> None:
        await self._run("write", lambda db: db.keep_token(pairing, token))

    async def active_digest(self, pairing: Pairing) -> bytes | None:
        return await self._run("read", lambda db: db.active_digest(pairing))

    async def record(self, key: PairKey) -> Record:
        return await self._run("read", lambda db: db.record(key))

    async def activate_token(self, pairing: Pairing, digest: bytes, issued_at: float) -> bool:
        """See :meth:`Store.activate_token`. Requests during a commit share the next one."""
        batch, change = self._activations, (pairing, digest, issued_at)
        if batch is None or (place := batch.join(change)) is None:
            made = batch = self._activations = _Activations(change)
            place = 0
            batch.done = asyncio.ensure_future(self._run("write", lambda db: db.activate_tokens(made.begin())))
            batch.done.add_done_callback(_seen)  # where every caller was cancelled
        assert batch.done is not None
        return (await asyncio.shield(batch.done))[place]

    async def remove_pairing(self, pairing: Pairing, *, tombstone: bool) -> bool:
        return await self._run("write", lambda db: db.remove_pairing(pairing, tombstone))

    async def was_unpaired(self, key: PairKey) -> bool:
        return await self._run("read", lambda db: db.was_unpaired(key))

    async def update_descriptions(
        self, key: PairKey, *, node: NodeDescription | None, endpoint: EndpointDescription | None
    ) -> None:
        await self._run("write", lambda db: db.update_descriptions(key, node, endpoint))

    async def set_pin(self, pairing: Pairing, pin: Pin) -> None:
        await self._run("write", lambda db: db.set_pin(pairing, pin))

    async def close(self) -> None:
        """See :meth:`Store.close`. Cancelling it does not stop the closing."""
        if self._closing is None:
            self._closing = self._executor.submit(self._translated, "close", self._close)
            self._executor.shutdown(wait=False)
        await asyncio.shield(asyncio.wrap_future(self._closing))

    def _close(self) -> None:
        if hasattr(self, "_database"):
            self._database.close()


class _Activations:
    """Token activations that share one transaction, and so one wait for the disk."""

    def __init__(self, first: Activation) -> None:
        self.done: asyncio.Future[list[bool]] | None = None
        self._changes = [first]
        self._begun = False
        self._lock = threading.Lock()  # callers are in the loop's thread, the transaction is in the store's

    def join(self, change: Activation) -> int | None:
        """Add an activation. Returns its index in the results, or None if the transaction has begun or is full."""
        with self._lock:
            if self._begun or len(self._changes) >= MAX_ACTIVATIONS:
                return None
            self._changes.append(change)
            return len(self._changes) - 1

    def begin(self) -> Sequence[Activation]:
        """Begin the transaction, and return its activations."""
        with self._lock:
            self._begun = True
            return self._changes


def _seen(done: asyncio.Future[list[bool]]) -> None:
    if not done.cancelled():
        done.exception()
