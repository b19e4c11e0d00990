"""Store and vault for tests, demonstrations and short-lived processes: everything is gone at the end of the process."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from s2connect.errors import NotPaired, StorageUnavailable
from s2connect.model.common import EndpointDescription, NodeDescription, NodeId
from s2connect.model.roles import CommunicationRole
from s2connect.model.secret import AccessToken
from s2connect.model.url import BaseUrl
from s2connect.store.base import (
    GONE,
    MAX_REFUSED_SERVERS,
    MAX_TOMBSTONES,
    Pairing,
    PairKey,
    Pin,
    Record,
    Replaced,
    check_alone,
    token_digest,
    with_candidate,
)
from s2connect.store.vault import check_entry

__all__ = ["MemoryStore", "MemoryVault"]


@dataclass(slots=True)
class _Entry:
    pairing: Pairing
    tokens: list[AccessToken] = field(default_factory=list)
    digest: bytes | None = None
    issued_at: float | None = None


class MemoryStore:
    """The contract of :class:`~s2connect.store.base.Store` without durability. Belongs to one event loop."""

    def __init__(self, *, max_tombstones: int = MAX_TOMBSTONES) -> None:
        self._entries: dict[tuple[PairKey, bool], _Entry] = {}
        self._tombstones: dict[PairKey, None] = {}
        self._max_tombstones = max_tombstones
        self._refused: dict[BaseUrl, None] = {}
        self._closed = False

    async def pairings(self, local: NodeId | None = None) -> list[Pairing]:
        self._check_open()
        return [e.pairing for e in self._entries.values() if local is None or e.pairing.key.local == local]

    async def refuse_server(self, url: BaseUrl) -> None:
        self._check_open()
        self._refused.pop(url, None)
        self._refused[url] = None
        while len(self._refused) > MAX_REFUSED_SERVERS:
            del self._refused[next(iter(self._refused))]

    async def refused_servers(self) -> list[BaseUrl]:
        self._check_open()
        return list(self._refused)

    async def pairings_of(self, key: PairKey) -> list[Pairing]:
        self._check_open()
        return [self._entries[key, which].pairing for which in (True, False) if (key, which) in self._entries]

    async def save_pairing(
        self, pairing: Pairing, token: AccessToken, *further: AccessToken, alone: bool = False
    ) -> list[Replaced]:
        self._check_open()
        check_alone(pairing, alone)
        self._entries.pop((pairing.key, pairing.confirmed), None)
        if pairing.communication_role is CommunicationRole.CLIENT:
            entry = _Entry(pairing, tokens=[token, *further])
        else:
            entry = _Entry(pairing, digest=token_digest(token), issued_at=pairing.paired_at)
        self._entries[pairing.key, pairing.confirmed] = entry
        return self._supersede(pairing.key, alone) if pairing.confirmed else []

    async def confirm_pairing(self, pairing: Pairing, *, alone: bool = False) -> list[Replaced] | None:
        entry = self._entry(pairing)
        if entry is None:
            raise NotPaired(GONE)
        if entry.pairing.confirmed:
            return None
        self._entries.pop((pairing.key, True), None)
        entry.pairing = replace(entry.pairing, confirmed=True)
        # The pairing keeps its place in the order.
        self._entries = {(k, found.pairing.confirmed): found for (k, _), found in self._entries.items()}
        return self._supersede(pairing.key, alone)

    def _supersede(self, key: PairKey, alone: bool) -> list[Replaced]:
        self._tombstones.pop(key, None)
        if not alone:
            return []
        ended = [e for k, e in self._entries.items() if k[0].local == key.local and k[0].remote != key.remote]
        for entry in ended:
            self._remove(entry.pairing)
            self._bury(entry.pairing.key)
        return [Replaced(entry.pairing, tuple(entry.tokens)) for entry in ended]

    def _entry(self, pairing: Pairing) -> _Entry | None:
        self._check_open()
        entries = (self._entries.get((pairing.key, confirmed)) for confirmed in (True, False))
        return next((e for e in entries if e is not None and e.pairing.is_same(pairing)), None)

    def _remove(self, pairing: Pairing) -> None:
        del self._entries[pairing.key, pairing.confirmed]

    def _bury(self, key: PairKey) -> None:
        self._tombstones.pop(key, None)
        self._tombstones[key] = None
        while len(self._tombstones) > self._max_tombstones:
            del self._tombstones[next(iter(self._tombstones))]

    async def drop_unconfirmed(self, pairing: Pairing) -> bool:
        entry = self._entry(pairing)
        if entry is None or entry.pairing.confirmed:
            return False
        self._remove(entry.pairing)
        return True

    async def candidate_tokens(self, pairing: Pairing) -> list[AccessToken]:
        return list(self._client_entry(pairing).tokens)

    async def add_pending_token(self, pairing: Pairing, token: AccessToken) -> None:
        entry = self._client_entry(pairing)
        entry.tokens = with_candidate(entry.tokens, token)

    async def keep_token(self, pairing: Pairing, token: AccessToken) -> None:
        self._client_entry(pairing).tokens = [token]

    def _client_entry(self, pairing: Pairing) -> _Entry:
        entry = self._entry(pairing)
        if entry is None or entry.pairing.communication_role is not CommunicationRole.CLIENT:
            raise NotPaired(GONE)
        return entry

    async def active_digest(self, pairing: Pairing) -> bytes | None:
        entry = self._entry(pairing)
        return entry.digest if entry else None

    async def record(self, key: PairKey) -> Record:
        self._check_open()
        confirmed, unconfirmed = (self._entries.get((key, which)) for which in (True, False))
        return Record(
            (confirmed.pairing, confirmed.digest) if confirmed else None,
            (unconfirmed.pairing, unconfirmed.digest) if unconfirmed else None,
            key in self._tombstones,
            confirmed.issued_at if confirmed else None,
        )

    async def activate_token(self, pairing: Pairing, digest: bytes, issued_at: float) -> bool:
        entry = self._entry(pairing)
        if entry is None or entry.pairing.communication_role is not CommunicationRole.SERVER:
            return False
        entry.digest, entry.issued_at = digest, issued_at
        return True

    async def remove_pairing(self, pairing: Pairing, *, tombstone: bool) -> bool:
        entry = self._entry(pairing)
        if entry is None:
            return False
        self._remove(entry.pairing)
        if tombstone:
            self._bury(pairing.key)
        return True

    async def was_unpaired(self, key: PairKey) -> bool:
        self._check_open()
        return key in self._tombstones

    async def update_descriptions(
        self, key: PairKey, *, node: NodeDescription | None, endpoint: EndpointDescription | None
    ) -> None:
        self._check_open()
        for confirmed in (True, False):
            if entry := self._entries.get((key, confirmed)):
                entry.pairing = replace(
                    entry.pairing,
                    peer=node or entry.pairing.peer,
                    peer_endpoint=endpoint or entry.pairing.peer_endpoint,
                )

    async def set_pin(self, pairing: Pairing, pin: Pin) -> None:
        if entry := self._entry(pairing):
            entry.pairing = replace(entry.pairing, pin=pin)

    async def close(self) -> None:
        """See :meth:`Store.close`. Everything is forgotten."""
        self._closed = True
        self._entries.clear()
        self._tombstones.clear()

    def _check_open(self) -> None:
        if self._closed:
            raise StorageUnavailable("The store is closed.", hint="")


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
