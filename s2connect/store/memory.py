"""Store and vault for tests, demonstrations and short-lived processes: everything is gone at the end of the process."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TypeVar

from s2connect.errors import StorageUnavailable
from s2connect.store.base import Pairing
from s2connect.store.sqlite import IN_MEMORY, SqliteStore
from s2connect.store.vault import check_entry

__all__ = ["MemoryStore", "MemoryVault"]

T = TypeVar("T")


class MemoryVault:
    """The contract of :class:`~s2connect.store.base.Vault` without durability."""

    def __init__(self) -> None:
        self._secrets: dict[str, bytes] = {}

    def get(self, name: str) -> bytes | None:
        check_entry(name)
        return self._secrets.get(name)

    def put(self, name: str, secret: bytes) -> None:
        check_entry(name, secret)
        self._secrets[name] = secret

    def delete(self, name: str) -> None:
        check_entry(name)
        self._secrets.pop(name, None)

    def listed(self) -> list[str]:
        return list(self._secrets)


class MemoryStore(SqliteStore):
    """The contract of :class:`~s2connect.store.base.Store` without durability. Operations never suspend the caller."""

    def __init__(self) -> None:
        super().__init__(IN_MEMORY)
        self._connect(MemoryVault(), anew=False)
        self._finalize = weakref.finalize(self, self._db.close)

    async def _run(self, doing: str, work: Callable[[], T]) -> T:
        self._check_open()
        return work()

    def _check_open(self) -> None:
        if not self._finalize.alive:
            raise StorageUnavailable("The store is closed.", hint="")

    async def activate_token(self, pairing: Pairing, digest: bytes, issued_at: float) -> bool:
        return (await self._run("write", lambda: self._activate([(pairing, digest, issued_at)])))[0]

    async def close(self) -> None:
        self._finalize()
