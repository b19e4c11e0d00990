"""Store on disk: files, reopening, locking, damage, cancellation."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import logging
import os
import random
import sqlite3
import stat
import threading
from pathlib import Path

import pytest

import s2connect.store.sqlite as sqlite_module
from s2connect.errors import InsecurePermissions, NotPaired, PairingsLost, StorageUnavailable
from s2connect.model.roles import CommunicationRole
from s2connect.store.base import Pin, Vault, token_digest
from s2connect.store.memory import MemoryVault
from s2connect.store.sqlite import SqliteStore
from s2connect.store.sqlite_rows import SCHEMA_VERSION
from s2connect.store.vault import FileVault
from tests.store.store_examples import CLIENT, SERVER, active_digest, contents, key, pairing, token

KEYS = [key(number) for number in range(5)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def vault(tmp_path: Path) -> FileVault:
    return FileVault(tmp_path / "vault")


class GatedVault(MemoryVault):
    """A vault whose next ``put`` waits until it may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def put(self, name: str, secret: bytes) -> None:
        self.reached.set()
        assert self.go_on.wait(10)
        super().put(name, secret)


class BrokenVault(MemoryVault):
    """A vault that fails as long as the test says."""

    broken = False

    def put(self, name: str, secret: bytes) -> None:
        if self.broken:
            # As a keyring may: the entry is there, and the caller is told it is not.
            super().put(name, secret)
            raise StorageUnavailable("The keyring is locked.")
        super().put(name, secret)

    def delete(self, name: str) -> None:
        if self.broken:
            raise StorageUnavailable("The keyring is locked.")
        super().delete(name)

    @property
    def names(self) -> list[str]:
        return sorted(name for name in self._secrets if name.startswith("tokens-"))


async def fill(store: SqliteStore) -> None:
    await store.save_pairing(pairing(1), token("a"))
    await store.add_pending_token(pairing(1), token("b"))
    await store.save_pairing(pairing(1, confirmed=False), token("c"))
    await store.save_pairing(pairing(2, SERVER), token("d"))
    await store.save_pairing(pairing(3), token("e"))
    await store.remove_pairing(pairing(3), tombstone=True)


@pytest.mark.rule("PAIR-10")
async def test_everything_is_there_after_reopening(path: Path, vault: FileVault) -> None:
    store = await SqliteStore.open(path, vault)
    await fill(store)
    before = await contents(store, KEYS)
    await store.close()
    store = await SqliteStore.open(path, vault)
    assert await contents(store, KEYS) == before
    await store.close()


@pytest.mark.rule("SES-06", "SEC-02", "SEC-01")
async def test_no_secret_is_in_the_files_of_the_database(path: Path, vault: FileVault) -> None:
    store = await SqliteStore.open(path, vault)
    await fill(store)
    files = [found for found in path.parent.iterdir() if found.name.startswith(path.name)]
    assert len(files) >= 2, "the write-ahead log is looked at, too"
    for content in [found.read_bytes() for found in files]:
        for name in "abcde":
            raw = base64.b64decode(token(name).reveal())
            assert token(name).reveal().encode() not in content
            assert raw not in content
            assert raw.hex().encode() not in content
            assert base64.urlsafe_b64encode(raw) not in content
    assert any(token_digest(token("d")) in found.read_bytes() for found in files)
    await store.close()


async def test_tables_of_the_version_before_are_brought_to_this_one(path: Path, vault: FileVault) -> None:
    store = await SqliteStore.open(path, vault)
    await store.save_pairing(pairing(1, SERVER), token("a"))
    await store.close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("ALTER TABLE pairing DROP COLUMN token_issued_at")
        db.execute("PRAGMA user_version = 1")
        db.commit()
    for issued_at in (None, 1.9e9):
        store = await SqliteStore.open(path, vault)
        record = await store.record(pairing(1, SERVER).key)
        assert record.confirmed == (pairing(1, SERVER), token_digest(token("a")))
        assert record.issued_at == issued_at
        await store.activate_token(pairing(1, SERVER), token_digest(token("a")), 1.9e9)
        await store.close()


@pytest.mark.rule("SEC-02")
async def test_files_are_for_their_owner_only_whatever_the_umask(path: Path, vault: FileVault) -> None:
    before = os.umask(0)
    try:
        store = await SqliteStore.open(path, vault)
        await fill(store)
        for found in path.parent.rglob("*"):
            wanted = 0o700 if found.is_dir() else 0o600
            assert stat.S_IMODE(found.stat().st_mode) == wanted, found
        await store.close()
    finally:
        os.umask(before)


@pytest.mark.rule("SEC-02")
async def test_a_database_that_others_can_read_is_refused(path: Path, vault: FileVault) -> None:
    await (await SqliteStore.open(path, vault)).close()
    path.chmod(0o640)
    with pytest.raises(InsecurePermissions, match=f"chmod 600 '{path}'"):
        await SqliteStore.open(path, vault)


async def test_a_link_in_place_of_the_database_is_refused(path: Path, vault: FileVault) -> None:
    path.symlink_to(path.with_name("elsewhere"))
    with pytest.raises(StorageUnavailable, match="symbolic link"):
        await SqliteStore.open(path, vault)
    assert not path.with_name("elsewhere").exists()


async def test_secrets_of_removed_and_replaced_pairings_leave_the_vault(path: Path, tmp_path: Path) -> None:
    store = await SqliteStore.open(path, FileVault(tmp_path / "vault"))

    def entries() -> int:
        return len(list((tmp_path / "vault").glob("tokens-*")))

    await store.save_pairing(pairing(1), token("a"))
    await store.save_pairing(pairing(1), token("b"))
    assert entries() == 1
    await store.save_pairing(pairing(1, confirmed=False), token("c"))
    await store.save_pairing(pairing(2), token("d"))
    assert entries() == 3
    await store.confirm_pairing(pairing(1, confirmed=False), alone=True)
    assert entries() == 1
    await store.save_pairing(pairing(1, confirmed=False), token("e"))
    await store.drop_unconfirmed(pairing(1, confirmed=False))
    assert entries() == 1
    await store.save_pairing(pairing(1, SERVER), token("f"))
    assert entries() == 0
    await store.save_pairing(pairing(3), token("g"))
    await store.remove_pairing(pairing(3), tombstone=False)
    assert entries() == 0
    await store.close()


async def test_a_vault_that_fails_fails_the_pairing_and_keeps_the_one_before(path: Path) -> None:
    vault = BrokenVault()
    store = await SqliteStore.open(path, vault)
    await store.save_pairing(pairing(1), token("a"))
    vault.broken = True
    for failing in (store.save_pairing(pairing(1), token("b")), store.add_pending_token(pairing(2), token("c"))):
        with pytest.raises(Exception, match=r"locked|removed"):
            await failing
    assert await store.candidate_tokens(pairing(1)) == [token("a")]
    assert len(vault.names) == 2
    vault.broken = False
    await store.save_pairing(pairing(2, SERVER), token("d"))
    assert len(vault.names) == 1, "the next write clears up"
    assert await store.candidate_tokens(pairing(1)) == [token("a")]
    await store.close()


async def test_a_pairing_is_removed_even_if_its_secrets_can_be_only_later(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    vault = BrokenVault()
    store = await SqliteStore.open(path, vault)
    await store.save_pairing(pairing(1), token("a"))
    vault.broken = True
    with caplog.at_level(logging.WARNING):
        assert await store.remove_pairing(pairing(1), tombstone=True)
    assert "stay in the vault" in caplog.text
    assert await store.pairings() == []
    await store.close()
    assert len(vault.names) == 1
    vault.broken = False
    await (await SqliteStore.open(path, vault)).close()
    assert vault.names == []


async def test_a_vault_that_was_emptied_leaves_a_pairing_without_candidates(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = await SqliteStore.open(path, MemoryVault())
    await store.save_pairing(pairing(1), token("a"))
    await store.close()
    store = await SqliteStore.open(path, MemoryVault())
    assert await store.pairings() == [pairing(1)]
    assert await store.candidate_tokens(pairing(1)) == []
    assert "has to be paired again" in caplog.text
    await store.add_pending_token(pairing(1), token("b"))
    assert await store.candidate_tokens(pairing(1)) == [token("b")]
    await store.close()


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1}', b'[""]', b'["two words"]', b"[1]", b"\xff", b"7"])
async def test_a_damaged_vault_entry_is_named_and_never_repeated(path: Path, tmp_path: Path, content: bytes) -> None:
    store = await SqliteStore.open(path, FileVault(tmp_path / "vault"))
    await store.save_pairing(pairing(1), token("a"))
    (entry,) = (tmp_path / "vault").glob("tokens-*")
    entry.write_bytes(content)
    with pytest.raises(StorageUnavailable, match=entry.name) as caught:
        await store.candidate_tokens(pairing(1))
    assert "short" not in str(caught.value)
    await store.close()


async def test_a_second_process_cannot_open_the_database(path: Path, vault: FileVault) -> None:
    store = await SqliteStore.open(path, vault)
    with pytest.raises(StorageUnavailable, match="another process is using it"):
        await SqliteStore.open(path, vault)
    await store.save_pairing(pairing(1), token("a"))
    await store.close()
    await (await SqliteStore.open(path, vault)).close()


async def test_a_database_of_a_later_version_is_refused_untouched(path: Path, vault: FileVault) -> None:
    await (await SqliteStore.open(path, vault)).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StorageUnavailable, match=f"{path} was written by a later version"):
        await SqliteStore.open(path, vault)
    assert path.read_bytes() == before


async def test_a_database_of_something_else_is_refused_untouched(path: Path, vault: FileVault) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE pairing (cheese TEXT, wine TEXT)")
    db.close()
    path.chmod(0o600)
    before = path.read_bytes()
    with pytest.raises(StorageUnavailable, match="not a database of s2connect"):
        await SqliteStore.open(path, vault)
    assert path.read_bytes() == before


async def test_a_damaged_database_is_named_and_kept(path: Path, vault: FileVault) -> None:
    store = await SqliteStore.open(path, vault)
    for number in range(20):
        await store.save_pairing(pairing(number, SERVER), token("a"))
    await store.close()
    for damaged in (b"no database " * 1000, path.read_bytes()[:5000], damage(path.read_bytes())):
        path.write_bytes(damaged)
        with pytest.raises(StorageUnavailable, match=f"{path}: the file is damaged"):
            await SqliteStore.open(path, vault)
        assert path.read_bytes() == damaged


def damage(content: bytes) -> bytes:
    return content[:4096] + bytes(byte ^ 0x5A for byte in content[4096:12288]) + content[12288:]


async def test_a_row_that_cannot_be_understood_is_reported_as_such(path: Path, vault: FileVault) -> None:
    store = await SqliteStore.open(path, vault)
    await store.save_pairing(pairing(1, SERVER), token("a"))
    await store.close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE pairing SET peer = '{}'")
    db.close()
    store = await SqliteStore.open(path, vault)
    with pytest.raises(StorageUnavailable, match=f"A pairing in {path} cannot be understood"):
        await store.pairings()
    await store.close()


async def test_a_directory_that_is_missing_is_named(tmp_path: Path, vault: FileVault) -> None:
    with pytest.raises(StorageUnavailable, match=r"Could not open .*/nowhere/state\.db"):
        await SqliteStore.open(tmp_path / "nowhere" / "state.db", vault)


async def test_an_operation_goes_on_when_its_caller_is_cancelled(path: Path) -> None:
    vault = GatedVault()
    store = await SqliteStore.open(path, vault)
    caller = asyncio.create_task(store.save_pairing(pairing(1), token("a")))
    await asyncio.to_thread(vault.reached.wait)
    queued = asyncio.create_task(store.save_pairing(pairing(2, SERVER), token("b")))
    await asyncio.sleep(0)
    for task in (caller, queued):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    vault.go_on.set()
    assert await store.pairings() == [pairing(1), pairing(2, SERVER)]
    assert await store.candidate_tokens(pairing(1)) == [token("a")]
    await store.close()


async def test_closing_waits_for_what_was_begun_even_if_it_is_cancelled_itself(path: Path) -> None:
    vault = GatedVault()
    store = await SqliteStore.open(path, vault)
    caller = asyncio.create_task(store.save_pairing(pairing(1), token("a")))
    await asyncio.to_thread(vault.reached.wait)
    caller.cancel()
    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    with pytest.raises(StorageUnavailable, match="closed"):
        await store.pairings()
    vault.go_on.set()
    await store.close()
    store = await SqliteStore.open(path, vault)
    assert await store.pairings() == [pairing(1)]
    await store.close()


async def test_cancelled_opening_leaves_nothing_open(path: Path, vault: FileVault) -> None:
    opening = asyncio.create_task(SqliteStore.open(path, vault))
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await (await SqliteStore.open(path, vault)).close()


@pytest.mark.parametrize("role", [CLIENT, SERVER])
async def test_the_event_loop_is_never_blocked(path: Path, role: object) -> None:
    """Everything happens in the store's own thread, which has a name."""
    threads: set[str] = set()

    class WatchedVault(MemoryVault):
        def put(self, name: str, secret: bytes) -> None:
            threads.add(threading.current_thread().name)
            super().put(name, secret)

    vault: Vault = WatchedVault()
    store = await SqliteStore.open(path, vault)
    await store.save_pairing(pairing(1), token("a"))
    await store.add_pending_token(pairing(1), token("b"))
    assert threads == {"s2connect-store-state.db_0"}
    await store.close()


@pytest.mark.rule("SES-03")
async def test_activations_that_wait_for_the_disk_share_one_transaction(path: Path) -> None:
    vault = GatedVault()
    vault.go_on.set()
    store = await SqliteStore.open(path, vault)
    await store.save_pairing(pairing(0, CLIENT), token("a"))
    for number in range(1, 31):
        await store.save_pairing(pairing(number, SERVER), token("a"))
    begun: list[str] = []
    traced = store._db
    await store._run("trace", lambda: traced.set_trace_callback(lambda text: begun.append(text.split()[0])))
    vault.reached.clear()
    vault.go_on.clear()
    busy = asyncio.create_task(store.add_pending_token(pairing(0, CLIENT), token("b")))
    assert await asyncio.to_thread(vault.reached.wait, 10)
    begun.clear()
    asked = [
        asyncio.create_task(store.activate_token(pairing(n, SERVER), token_digest(token(str(n))), 1e9))
        for n in range(1, 31)
    ]
    await asyncio.sleep(0)
    asked[3].cancel()
    await asyncio.sleep(0)
    vault.go_on.set()
    await busy
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert begun.count("BEGIN") == begun.count("COMMIT") == 1
    assert [answer for answer in answers if answer is not True] == [answers[3]]
    assert isinstance(answers[3], asyncio.CancelledError)
    # One that was cancelled goes on to its end, as every operation does.
    assert [await active_digest(store, pairing(n, SERVER)) for n in range(1, 31)] == [
        token_digest(token(str(n))) for n in range(1, 31)
    ]
    await store.close()


async def _change(store: SqliteStore, chance: random.Random) -> None:
    """Do one of the operations that change what is known of a pair."""
    confirmed = chance.random() < 0.7
    one = pairing(chance.randrange(3), chance.choice([SERVER, SERVER, CLIENT]), confirmed=confirmed)
    node = dataclasses.replace(one, peer=one.peer.model_copy(update={"model_name": f"M{chance.randrange(9)}"})).peer
    digest = token_digest(token(str(chance.randrange(99))))
    match chance.randrange(8):
        case 0 | 1:
            await store.save_pairing(one, token("a"), alone=confirmed and chance.random() < 0.3)
        case 2:
            with contextlib.suppress(NotPaired):
                await store.confirm_pairing(one, alone=chance.random() < 0.3)
        case 3:
            await store.drop_unconfirmed(one)
        case 4:
            await store.remove_pairing(one, tombstone=chance.random() < 0.5)
        case 5:
            await store.update_descriptions(one.key, node=node, endpoint=None)
        case 6:
            await store.set_pin(one, Pin(bytes([chance.randrange(256)]) * 32))
        case 7:
            await asyncio.gather(*(store.activate_token(one, digest, float(n)) for n in range(2)))


@pytest.mark.parametrize("seed", range(4))
async def test_a_record_in_memory_is_that_of_the_database_after_every_change(
    path: Path, vault: FileVault, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_module, "MAX_RECORDS", 2)
    store, chance = await SqliteStore.open(path, vault), random.Random(seed)
    kept = 0
    for number in range(150):
        await _change(store, chance)
        for remote in range(3):
            known = await store.record(key(remote))
            kept += known is await store.record(key(remote))
            assert known == await store._read_record(key(remote)), number
        assert len(store._records) <= 2
    assert kept
    await store.close()
    with pytest.raises(StorageUnavailable, match="closed"):
        await store.record(key(0))


async def test_a_stranger_who_names_pairs_takes_no_place_among_the_records_in_memory(
    path: Path, vault: FileVault
) -> None:
    store = await SqliteStore.open(path, vault)
    await store.save_pairing(pairing(0, SERVER), token("a"))
    await store.record(key(0))
    for number in range(1, 20):
        assert (await store.record(key(number))).confirmed is None
    assert list(store._records) == [key(0)]
    await store.close()


@pytest.mark.rule("SES-03")
async def test_activations_whose_transaction_fails_all_fail_and_change_nothing(path: Path, vault: FileVault) -> None:
    store = await SqliteStore.open(path, vault)
    for number in range(5):
        await store.save_pairing(pairing(number, SERVER), token("a"))
        await store.record(key(number))
    database = store._db
    await store._run("break", lambda: database.execute("PRAGMA query_only = 1"))
    asked = (store.activate_token(pairing(n, SERVER), token_digest(token("b")), 1e9) for n in range(5))
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(answer, StorageUnavailable) for answer in answers)
    await store._run("mend", lambda: database.execute("PRAGMA query_only = 0"))
    assert [await active_digest(store, pairing(n, SERVER)) for n in range(5)] == [token_digest(token("a"))] * 5
    assert await store.activate_token(pairing(1, SERVER), token_digest(token("b")), 1e9)
    await store.close()


@pytest.mark.rule("SESC-06")
@pytest.mark.parametrize("vault", [FileVault, MemoryVault])
@pytest.mark.parametrize("role", [CLIENT, SERVER])
@pytest.mark.parametrize("missing", [True, False])
async def test_a_database_that_was_emptied_is_not_taken_for_a_new_one(
    path: Path, tmp_path: Path, vault: type, role: CommunicationRole, missing: bool
) -> None:
    kept = FileVault(tmp_path / "vault") if vault is FileVault else Unlisted()
    store = await SqliteStore.open(path, kept)
    await store.save_pairing(pairing(1, role), token("a"))
    await store.close()
    for companion in path.parent.glob(f"{path.name}-*"):
        companion.unlink()
    if missing:
        path.unlink()
    else:
        path.write_bytes(b"")
    for _ in range(2):
        with pytest.raises(PairingsLost, match="although this endpoint had pairings") as caught:
            await SqliteStore.open(path, kept)
        assert "s2connect unpair --all" in caught.value.hint
    anew = await SqliteStore.open(path, kept, anew=True)
    assert await anew.pairings() == []
    await anew.close()
    await (await SqliteStore.open(path, kept)).close()
    assert not [name for name in kept.listed() if name.startswith("tokens-")]


class Unlisted(MemoryVault):
    """Like a keyring, which does not list what is in it."""

    def listed(self) -> list[str]:
        return []


async def test_secrets_of_pairings_beside_an_empty_database_are_enough(path: Path, tmp_path: Path) -> None:
    (vault := FileVault(tmp_path / "vault")).put("tokens-0123", b"[]")  # of a version that left no mark
    path.touch(0o600)
    with pytest.raises(PairingsLost):
        await SqliteStore.open(path, vault)


async def test_a_database_that_never_held_a_pairing_may_get_lost(path: Path, tmp_path: Path) -> None:
    vault = FileVault(tmp_path / "vault")
    vault.put("static-code-1", b"5hK7Zz")
    await (await SqliteStore.open(path, vault)).close()
    path.write_bytes(b"")
    await (await SqliteStore.open(path, vault)).close()
