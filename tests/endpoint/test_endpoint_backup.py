"""Backup, restore and move of a home: whole or not at all, also when killed, and with a keyring."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import keyring
import pytest

from s2connect import Endpoint, EndpointConfig, Home, NodeConfig, Role, create_home
from s2connect.endpoint import backup
from s2connect.endpoint.backup import back_up, move, read_backup, restore, undo_move
from s2connect.errors import BackupRefused, HomeInUse, HomeMoved, StorageUnavailable, UsageError
from s2connect.model.roles import CommunicationRole
from s2connect.model.secret import AccessToken
from s2connect.store.backup_file import Contents, seal
from s2connect.store.restoring import DATABASE, SECRETS
from s2connect.store.sqlite import SqliteStore
from s2connect.store.vault import open_vault
from tests.endpoint.restore_program import PHRASE
from tests.power_cut import Outcome, kill_points
from tests.store.keyring_backend import DictionaryKeyring
from tests.store.store_examples import pairing
from tests.waits import until

PROGRAM = [sys.executable, "-m", "tests.endpoint.restore_program"]


@pytest.fixture(autouse=True)
def _keyring_is_put_back() -> Iterator[None]:
    before = keyring.get_keyring()
    yield
    keyring.set_keyring(before)


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let scrypt cost little, here but not in the programs that are killed."""
    monkeypatch.setattr(backup, "seal", partial(seal, cost=(14, 1, 1)))


def make(path: Path, name: str, *, number: int = 1, vault: str = "files") -> None:
    """Make a home with one pairing."""
    settings = {"host": "127.0.0.1", "port": 0, "name": name, "vault": vault, "nodes": (NodeConfig(role=Role.CEM),)}
    config = create_home(path, EndpointConfig.model_validate(settings))

    async def fill() -> None:
        opened, _ = open_vault(config.vault, path / SECRETS)
        store = await SqliteStore.open(path / DATABASE, opened)
        await store.save_pairing(pairing(number), AccessToken(f"token-of-{name}"))
        await store.close()

    asyncio.run(fill())


def is_free(path: Path) -> bool:
    """Return whether no process has the home; the system takes it from a killed one a moment after its end."""
    with contextlib.suppress(HomeInUse), Home.open(path).lock(moved=True):
        return True
    return False


def state(path: Path) -> tuple[str | None, list[str], int]:
    """Return name, tokens and number of pairings of a home, opened as a service does; it must be able to run."""

    async def read() -> tuple[str | None, list[str], int]:
        await until(lambda: is_free(path))
        async with Endpoint.open(path, serve=False) as endpoint:
            store = endpoint._state.store
            clients = [p for p in await endpoint.pairings() if p.communication_role is CommunicationRole.CLIENT]
            tokens = [one.reveal() for p in clients for one in await store.candidate_tokens(p)]
            return endpoint.config.name, tokens, len(await endpoint.pairings())

    return asyncio.run(read())


def test_a_backup_restores_everything_elsewhere(tmp_path: Path) -> None:
    make(tmp_path / "old", "first")
    (tmp_path / "old" / "bridge.json").touch(0o600)
    before = {path.name: path.read_bytes() for path in (tmp_path / "old" / SECRETS).iterdir()}
    made = asyncio.run(back_up(tmp_path / "old", PHRASE))
    done = restore(tmp_path / "new", made.file, PHRASE)
    assert (done.pairings, made.pairings, done.moved, done.vault) == (1, 1, False, "files")
    assert state(tmp_path / "new") == state(tmp_path / "old") == ("first", ["token-of-first"], 1)
    assert {p.name: p.read_bytes() for p in (tmp_path / "new" / SECRETS).iterdir()}.items() >= before.items()
    assert (tmp_path / "new" / "bridge.json").exists()
    for path in (tmp_path / "new").rglob("*"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077


def test_what_is_in_the_way_is_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    make(tmp_path / "a", "first")
    make(tmp_path / "b", "second", number=2)
    made = asyncio.run(back_up(tmp_path / "a", PHRASE))
    with pytest.raises(UsageError, match="set up already"):
        restore(tmp_path / "b", made.file, PHRASE)
    with Home.open(tmp_path / "b").lock(), pytest.raises(HomeInUse):
        restore(tmp_path / "b", made.file, PHRASE, replace=True)
    assert state(tmp_path / "b")[0] == "second"
    (tmp_path / "b" / "page.json").touch(0o600)
    restore(tmp_path / "b", made.file, PHRASE, replace=True)
    assert state(tmp_path / "b") == ("first", ["token-of-first"], 1)
    assert not (tmp_path / "b" / "page.json").exists(), "of the old state"


def test_a_directory_in_the_place_of_a_file_is_refused_and_the_old_state_goes_on(tmp_path: Path) -> None:
    make(tmp_path / "new", "new")
    make(tmp_path / "old", "old", number=2)
    (tmp_path / "new" / "notes").touch(0o600)
    (tmp_path / "old" / "notes").mkdir()
    before = state(tmp_path / "old")
    made = asyncio.run(back_up(tmp_path / "new", PHRASE))
    with pytest.raises(StorageUnavailable, match="notes is a directory"):
        restore(tmp_path / "old", made.file, PHRASE, replace=True)
    assert state(tmp_path / "old") == before


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"files": {}}, "the settings are missing"),
        ({"files": {"config.json": b"{"}}, "config.json"),
        ({"files": {"config.json": b"{}", "moved.json": b""}}, "a file is named moved.json"),
        ({"files": {"config.json": b"{}", "restoring.json": b""}}, "a file is named restoring.json"),
        ({"files": {"config.json": b"{}", "lock": b""}}, "a file is named lock"),
        ({"database": b"x" * 5000}, "its database is damaged"),
        ({"secrets": {}}, "the certificate authority is missing"),
        ({"made_at": float("nan")}, "no state"),
        ({"made_at": 1e300}, "no state"),
    ],
)
def test_a_file_with_a_state_that_cannot_be_used_is_refused_before_anything_is_written(
    tmp_path: Path, changes: dict[str, object], what: str
) -> None:
    good = {
        "made_at": 1e9,
        "moved": False,
        "files": {"config.json": b"{}", "ca.pem": b"x"},
        "secrets": {"ca-key": b"x"},
        "database": b"",
    }
    data = seal(Contents(**(good | changes)), PHRASE, entropy=bytes(28), cost=(14, 1, 1))  # type: ignore[arg-type]
    with pytest.raises(BackupRefused, match=what):
        restore(tmp_path / "home", data, PHRASE)
    assert not (tmp_path / "home").exists()


def test_secrets_of_a_keyring_are_in_the_backup_and_go_into_a_keyring_or_files(tmp_path: Path) -> None:
    keyring.set_keyring(DictionaryKeyring())
    make(tmp_path / "old", "first", vault="keyring")
    assert not list((tmp_path / "old").glob(f"{SECRETS}/*"))
    made = asyncio.run(back_up(tmp_path / "old", PHRASE))
    keyring.set_keyring(there := DictionaryKeyring())
    assert restore(tmp_path / "kept", made.file, PHRASE).vault == "keyring"
    assert there.entries
    assert not list((tmp_path / "kept").glob(f"{SECRETS}/*"))
    assert state(tmp_path / "kept") == ("first", ["token-of-first"], 1)
    (tmp_path / "kept").rename(tmp_path / "renamed")
    assert state(tmp_path / "renamed") == ("first", ["token-of-first"], 1)
    keyring.set_keyring(DictionaryKeyring(priority=0))
    assert restore(tmp_path / "without", made.file, PHRASE).vault == "files"
    assert state(tmp_path / "without") == ("first", ["token-of-first"], 1)


def test_a_moved_home_does_not_start_and_says_where_it_went_until_that_is_undone(tmp_path: Path) -> None:
    make(tmp_path / "old", "first")
    file = tmp_path / "house.s2backup"
    asyncio.run(move(tmp_path / "old", PHRASE, file))
    for use in (lambda: state(tmp_path / "old"), lambda: asyncio.run(back_up(tmp_path / "old", PHRASE))):
        with pytest.raises(HomeMoved, match=r"house\.s2backup on 20"):
            use()
    assert restore(tmp_path / "new", read_backup(file), PHRASE).moved
    assert state(tmp_path / "new") == ("first", ["token-of-first"], 1)
    undo_move(tmp_path / "old")
    assert state(tmp_path / "old") == ("first", ["token-of-first"], 1)
    with pytest.raises(UsageError, match="was not moved"):
        undo_move(tmp_path / "old")


async def test_a_program_backs_up_its_running_endpoint(tmp_path: Path) -> None:
    await asyncio.to_thread(make, tmp_path / "old", "first")
    async with Endpoint.open(tmp_path / "old", serve=False) as endpoint:
        made = await endpoint.backup("correct horse battery")
        with pytest.raises(UsageError, match="12 to 1024") as refused:
            await endpoint.backup("too short")
        assert "too short" not in str(refused.value)
    await asyncio.to_thread(restore, tmp_path / "new", made.file, PHRASE)
    assert (await asyncio.to_thread(state, tmp_path / "new"))[0] == "first"
    async with Endpoint.open(config=EndpointConfig(vault="files"), serve=False) as endpoint:
        with pytest.raises(UsageError, match="no state directory"):
            await endpoint.backup("correct horse battery")


def test_a_restore_takes_the_seal_off(tmp_path: Path) -> None:
    make(tmp_path / "home", "first")
    asyncio.run(move(tmp_path / "home", PHRASE, tmp_path / "file"))
    restore(tmp_path / "home", read_backup(tmp_path / "file"), PHRASE, replace=True)
    assert state(tmp_path / "home") == ("first", ["token-of-first"], 1)


def test_a_damaged_seal_is_a_seal(tmp_path: Path) -> None:
    make(tmp_path / "home", "first")
    (tmp_path / "home" / "moved.json").write_bytes(b"\xff")
    os.chmod(tmp_path / "home" / "moved.json", 0o600)
    with pytest.raises(HomeMoved, match="was moved elsewhere"):
        state(tmp_path / "home")


@pytest.mark.long
@pytest.mark.timeout(600)
def test_killed_at_any_change_a_restore_leaves_the_old_state_or_the_new(tmp_path: Path) -> None:
    make(tmp_path / "source", "new")
    file = tmp_path / "file"
    file.write_bytes(asyncio.run(back_up(tmp_path / "source", PHRASE)).file)
    seen = set()

    def prepare(home: Path) -> None:
        make(home, "old", number=2)
        (home / "bridge.json").touch(0o600)

    def check(outcome: Outcome) -> None:
        found = state(outcome.home)
        assert found in [("old", ["token-of-old"], 1), ("new", ["token-of-new"], 1)], f"killed at {outcome.change}"
        new = found[0] == "new"
        assert (outcome.home / "bridge.json").exists() is not new
        assert not (outcome.home / "restoring").exists()
        seen.add(found[0])

    assert kill_points([*PROGRAM, "restore", "{home}", str(file)], tmp_path, prepare, check) > 10
    assert seen == {"old", "new"}


@pytest.mark.long
@pytest.mark.timeout(600)
def test_killed_at_any_change_a_move_leaves_an_open_home_or_a_whole_file_and_the_file_says_no_more_than_is_true(
    tmp_path: Path,
) -> None:
    seen = set()

    def check(outcome: Outcome) -> None:
        file = outcome.home / "for-the-test"
        try:
            state(outcome.home)
            is_open = True
        except HomeMoved:
            is_open = False
        if is_open and not file.exists():
            seen.add("open")
            return
        done = restore(tmp_path / f"there-{outcome.home.name}", read_backup(file), PHRASE)
        assert done.pairings == 1
        assert not (is_open and done.moved), (
            f"killed at {outcome.change} the home goes on, and the file says it is sealed"
        )
        seen.add(f"{'open' if is_open else 'sealed'}, {'moved' if done.moved else 'backup'}")

    command = [*PROGRAM, "move", "{home}", "{home}/for-the-test"]
    assert kill_points(command, tmp_path, lambda home: make(home, "old"), check) > 3
    assert seen == {"open", "open, backup", "sealed, backup", "sealed, moved"}
