"""Vaults: one contract, and what is special about files and keyrings."""

from __future__ import annotations

import base64
import builtins
import os
import stat
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keyring
import keyring.backends.fail
import keyring.backends.null
import pytest
from keyring.errors import KeyringLocked

from s2connect.errors import ConfigurationError, InsecurePermissions, StorageUnavailable
from s2connect.store.base import MAX_VAULT_BYTES, Vault
from s2connect.store.memory import MemoryVault
from s2connect.store.vault import FileVault, KeyringVault, open_vault
from tests.postgresql import STORE_KEYS
from tests.store.keyring_backend import DictionaryKeyring

SECRET = bytes(range(256))


@pytest.fixture(autouse=True)
def _keyring_is_put_back() -> Iterator[None]:
    before = keyring.get_keyring()
    yield
    keyring.set_keyring(before)


@pytest.fixture(params=["memory", "files", "keyring", "postgresql"])
def vault(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Vault]:
    if request.param == "memory":
        yield MemoryVault()
    elif request.param == "files":
        yield FileVault(tmp_path / "vault")
    elif request.param == "postgresql":
        url = request.getfixturevalue("postgresql")
        from s2connect.store.postgresql.vault import PostgresqlVault

        opened = PostgresqlVault(url, STORE_KEYS)
        yield opened
        opened.close()
    else:
        keyring.set_keyring(DictionaryKeyring())
        yield KeyringVault("test")


def test_a_secret_is_kept_replaced_and_deleted(vault: Vault) -> None:
    assert vault.get("ca.key") is None
    for secret in (SECRET, b"", b"\0" * MAX_VAULT_BYTES, b"x"):
        vault.put("ca.key", secret)
        assert vault.get("ca.key") == secret
    vault.put("other", b"y")
    vault.delete("ca.key")
    vault.delete("ca.key")
    assert vault.get("ca.key") is None
    assert vault.get("other") == b"y"


@pytest.mark.rule("SEC-02")
@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", ".x.tmp", "A", "ä", "a\n", "a b", "a\0", "x" * 101])
def test_other_names_are_refused(vault: Vault, name: str) -> None:
    for call in (vault.get, vault.delete, lambda name: vault.put(name, b"x")):
        with pytest.raises(ValueError, match="a name in a vault"):
            call(name)


def test_a_secret_that_is_too_long_is_refused(vault: Vault) -> None:
    with pytest.raises(ValueError, match="at most"):
        vault.put("a", bytes(MAX_VAULT_BYTES + 1))
    assert vault.get("a") is None


# Files


@pytest.mark.rule("SEC-02")
def test_files_are_0600_in_a_directory_0700(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        FileVault(tmp_path / "home" / "vault").put("a", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "home" / "vault").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "home" / "vault" / "a").stat().st_mode) == 0o600


@pytest.mark.rule("SEC-02")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_file_that_others_have_rights_on_is_refused(tmp_path: Path, mode: int) -> None:
    vault = FileVault(tmp_path / "vault")
    vault.put("a", SECRET)
    (tmp_path / "vault" / "a").chmod(mode)
    with pytest.raises(InsecurePermissions, match=f"chmod 600 '{tmp_path / 'vault' / 'a'}'"):
        vault.get("a")


@pytest.mark.rule("SEC-02")
@pytest.mark.parametrize("mode", [0o750, 0o705, 0o711])
def test_a_directory_that_others_have_rights_on_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "vault").mkdir()
    (tmp_path / "vault").chmod(mode)
    with pytest.raises(InsecurePermissions, match=f"chmod 700 '{tmp_path / 'vault'}'"):
        FileVault(tmp_path / "vault")


@pytest.mark.rule("SEC-02")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_of_somebody_else_are_refused(tmp_path: Path) -> None:
    vault = FileVault(tmp_path / "vault")
    vault.put("a", SECRET)
    os.chown(tmp_path / "vault" / "a", 12345, -1)
    with pytest.raises(InsecurePermissions, match="12345"):
        vault.get("a")
    os.chown(tmp_path / "vault", 12345, -1)
    with pytest.raises(InsecurePermissions, match="12345"):
        FileVault(tmp_path / "vault")


@pytest.mark.rule("SEC-02")
def test_links_pipes_and_directories_are_no_secrets(tmp_path: Path) -> None:
    vault = FileVault(tmp_path / "vault")
    (tmp_path / "elsewhere").write_bytes(b"x")
    (tmp_path / "elsewhere").chmod(0o600)
    (tmp_path / "vault" / "link").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "vault" / "pipe", 0o600)
    (tmp_path / "vault" / "directory").mkdir(mode=0o700)
    for name in ("link", "pipe", "directory"):
        with pytest.raises(StorageUnavailable, match=f"Could not read .*/{name}: it is"):
            vault.get(name)


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    vault = FileVault(tmp_path / "vault")
    (tmp_path / "elsewhere").write_bytes(b"x")
    (tmp_path / "vault" / "a").symlink_to(tmp_path / "elsewhere")
    vault.put("a", SECRET)
    assert vault.get("a") == SECRET
    assert (tmp_path / "elsewhere").read_bytes() == b"x"


def test_what_a_crash_left_unfinished_is_removed_at_opening(tmp_path: Path) -> None:
    FileVault(tmp_path / "vault").put("a", SECRET)
    (tmp_path / "vault" / ".a.0123456789abcdef.s2connect-tmp").write_bytes(b"half of a sec")
    vault = FileVault(tmp_path / "vault")
    assert [path.name for path in (tmp_path / "vault").iterdir()] == ["a"]
    assert vault.get("a") == SECRET


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    vault = FileVault(tmp_path / "vault")
    vault.put("a", b"")
    (tmp_path / "vault" / "a").write_bytes(bytes(MAX_VAULT_BYTES + 1))
    with pytest.raises(StorageUnavailable, match="larger than"):
        vault.get("a")


def test_a_file_in_the_way_of_the_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "vault").write_bytes(b"")
    with pytest.raises(StorageUnavailable, match="is not a directory"):
        FileVault(tmp_path / "vault")
    with pytest.raises(StorageUnavailable, match="Could not create the directory"):
        FileVault(tmp_path / "vault" / "below")


def test_a_directory_that_has_gone_is_named(tmp_path: Path) -> None:
    vault = FileVault(tmp_path / "vault")
    (tmp_path / "vault").rmdir()
    with pytest.raises(StorageUnavailable, match="Could not write"):
        vault.put("a", SECRET)
    with pytest.raises(StorageUnavailable, match="Could not remove"):
        vault.delete("a")
    assert vault.get("a") is None


# Keyrings


class Locked(DictionaryKeyring):
    """A keyring that nobody unlocks, as on a machine without a desktop."""

    def get_password(self, service: str, username: str) -> str | None:
        raise KeyringLocked("dismissed")

    def set_password(self, service: str, username: str, password: str) -> None:
        # Backends also raise what is no error of the keyring package.
        raise OSError(f"no bus for {password}")


class Forgetful(DictionaryKeyring):
    def get_password(self, service: str, username: str) -> str | None:
        return None


@pytest.mark.rule("SEC-01")
def test_what_a_backend_raises_becomes_an_error_of_ours_that_keeps_the_secret() -> None:
    keyring.set_keyring(Locked())
    vault = KeyringVault("test")
    for call in (lambda: vault.get("a"), lambda: vault.put("a", SECRET), lambda: vault.delete("a")):
        with pytest.raises(StorageUnavailable, match="Unlock") as caught:
            call()
        assert base64.b64encode(SECRET).decode() not in "".join(traceback.format_exception(caught.value))


def test_an_entry_that_was_changed_by_hand_is_named() -> None:
    backend = DictionaryKeyring()
    keyring.set_keyring(backend)
    backend.entries["test", "a"] = "not ours"
    with pytest.raises(StorageUnavailable, match="entry a in the keyring is damaged"):
        KeyringVault("test").get("a")


def test_state_directories_do_not_share_entries(tmp_path: Path) -> None:
    keyring.set_keyring(DictionaryKeyring())
    first, _ = open_vault("keyring", tmp_path / "one")
    second, _ = open_vault("keyring", tmp_path / "two")
    first.put("ca.key", b"1")
    assert second.get("ca.key") is None


# Choosing


def test_auto_takes_a_keyring_that_works_and_leaves_no_trace_in_it(tmp_path: Path) -> None:
    backend = DictionaryKeyring()
    keyring.set_keyring(backend)
    vault, kind = open_vault("auto", tmp_path / "vault")
    assert kind == "keyring"
    assert isinstance(vault, KeyringVault)
    assert not backend.entries
    assert not (tmp_path / "vault").exists()


@pytest.mark.parametrize(
    "backend",
    [
        keyring.backends.fail.Keyring(),
        keyring.backends.null.Keyring(),
        DictionaryKeyring(priority=0.5),
        Locked(),
        Forgetful(),
    ],
    ids=lambda backend: f"{type(backend).__module__}.{type(backend).__name__}",
)
def test_auto_takes_files_where_no_keyring_can_be_relied_on(tmp_path: Path, backend: Any) -> None:
    keyring.set_keyring(backend)
    vault, kind = open_vault("auto", tmp_path / "vault")
    assert kind == "files"
    assert isinstance(vault, FileVault)


@pytest.mark.parametrize("backend", [keyring.backends.fail.Keyring(), keyring.backends.null.Keyring(), Locked()])
def test_a_keyring_that_is_asked_for_and_does_not_work_is_an_error(tmp_path: Path, backend: Any) -> None:
    keyring.set_keyring(backend)
    with pytest.raises(StorageUnavailable, match="keyring"):
        open_vault("keyring", tmp_path / "vault")
    assert not (tmp_path / "vault").exists()


def test_files_never_touch_the_keyring(tmp_path: Path) -> None:
    keyring.set_keyring(Locked())
    assert open_vault("files", tmp_path / "vault")[1] == "files"


def test_without_the_extra_auto_takes_files_and_keyring_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without_keyring(name: str, *args: Any) -> Any:
        if name == "keyring":
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without_keyring)
    assert open_vault("auto", tmp_path / "vault")[1] == "files"
    with pytest.raises(ConfigurationError, match=r"pip install 's2connect\[keyring\]'"):
        open_vault("keyring", tmp_path / "vault")


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="'auto', 'keyring' or 'files'"):
        open_vault("cloud", tmp_path / "vault")  # type: ignore[arg-type]  # from a configuration file
