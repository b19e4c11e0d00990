"""Backup, restore and move of an endpoint's state directory: all of it in one encrypted file."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from uuid import uuid4

import msgspec

from s2connect.endpoint.certificate import CA_FILE, CA_KEY, LEAF_KEY
from s2connect.endpoint.config import CONFIG_FILE, EndpointConfig
from s2connect.endpoint.pairing import static_name
from s2connect.endpoint.settings import read_config
from s2connect.errors import (
    BackupRefused,
    ConfigurationError,
    NotInitialised,
    StorageError,
    StorageUnavailable,
    UsageError,
)
from s2connect.model.secret import Secret
from s2connect.store.backup_file import (
    ENTROPY_BYTES,
    MAX_BACKUP_BYTES,
    Contents,
    Passphrase,
    check_header,
    seal,
    unseal,
)
from s2connect.store.base import Vault
from s2connect.store.files import unavailable, write_private
from s2connect.store.home import MAX_FILE_BYTES, Home
from s2connect.store.restoring import DATABASE, SECRETS, commit, finish, is_reserved, own_files, stage
from s2connect.store.snapshot import check_database
from s2connect.store.sqlite import TOKENS, SqliteStore
from s2connect.store.vault import SERVICE_FILE, KeyringVault, open_vault

READ_FIRST = 128
"""Bytes of a file that are read and checked before the rest."""


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that was made.

    Attributes:
        file: Its content.
        made_at: When the state was read.
        pairings: Number of pairings in it.
        left_out: Files that it does not have: those in the state directory that do not belong to the state, and those
            elsewhere that the settings name.
    """

    file: bytes
    made_at: datetime
    pairings: int
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Restored:
    """A backup that was restored.

    Attributes:
        made_at: When its state was read.
        moved: Whether the home that it comes from was sealed with it: then its access tokens are the valid ones, unless
            that home was opened again, or the file was restored elsewhere before.
        pairings: Number of pairings in it.
        vault: Where the secrets are now.
        config: The settings.
        missing: Files that the settings name, and that are not there.
    """

    made_at: datetime
    moved: bool
    pairings: int
    vault: Literal["keyring", "files"]
    config: EndpointConfig
    missing: tuple[str, ...]


def passphrase_of(text: Secret | str) -> Passphrase:
    """Return a passphrase; UsageError if it is too short or too long. The error does not repeat it."""
    if isinstance(text, Passphrase):
        return text
    try:
        return Passphrase(text.reveal() if isinstance(text, Secret) else text)
    except ValueError:
        raise UsageError(f"The passphrase has to be {Passphrase.described}.") from None


async def take(home: Home, config: EndpointConfig, vault: Vault, store: SqliteStore, passphrase: Passphrase) -> Backup:
    """Return a backup of an open state directory, also of that of a running service.

    Raises:
        StorageError: Something could not be read, or is larger than a backup can be.
    """
    return await asyncio.to_thread(_sealed, *await collected(home, config, vault, store), config, passphrase)


async def collected(home: Home, config: EndpointConfig, vault: Vault, store: SqliteStore) -> tuple[Contents, list[str]]:
    """Return the state of an open state directory, and the files in it that do not belong to that."""
    made_at = time.time()
    database, secrets = await store.snapshot()
    return await asyncio.to_thread(_collect, home, config, vault, made_at, database, secrets)


def _sealed(contents: Contents, others: list[str], config: EndpointConfig, passphrase: Passphrase) -> Backup:
    file = seal(contents, passphrase, entropy=os.urandom(ENTROPY_BYTES))
    left_out = (*others, *(str(path) for path in named_files(config)))
    return Backup(file, datetime.fromtimestamp(contents.made_at, UTC), check_database(contents.database), left_out)


def _collect(
    home: Home,
    config: EndpointConfig,
    vault: Vault,
    made_at: float,
    database: bytes,
    secrets: dict[str, bytes],
) -> tuple[Contents, list[str]]:
    files: dict[str, bytes] = {}
    others: list[str] = []
    for path, belongs in own_files(home.path, MAX_FILE_BYTES):
        content = home.read(path.name) if belongs else None
        if content is None:
            others.append(str(path))
        elif path.name != SERVICE_FILE:  # that of the keyring of this machine
            files[path.name] = content
    # A keyring cannot be listed. Tokens that the database does not name are left over from a crash.
    listed = (name for name in vault.listed() if not name.startswith(TOKENS))
    for name in dict.fromkeys([CA_KEY, LEAF_KEY, *(static_name(node.id) for node in config.nodes), *listed]):
        secret = vault.get(name)
        if secret is not None:
            secrets[name] = secret
    return Contents(made_at=made_at, moved=False, files=files, secrets=secrets, database=database), others


def named_files(config: EndpointConfig) -> list[Path]:
    """Return the files of the operator that settings name."""
    named = [config.certificate, config.private_key, config.trust_anchors]
    if (mqtt := config.mqtt) is not None:
        named += [mqtt.password_file, mqtt.ca_file, mqtt.certificate_file, mqtt.key_file]
    return [path for path in named if path is not None]


@contextlib.asynccontextmanager
async def _opened(path: Path) -> AsyncIterator[tuple[Home, EndpointConfig, Vault, SqliteStore]]:
    """Open and lock a state directory whose service does not run."""
    async with contextlib.AsyncExitStack() as stack:
        home = await asyncio.to_thread(Home.open, path)
        if (await asyncio.to_thread(read_config, home)).store is not None:
            raise UsageError(
                f"The state of {path} is in a database.",
                hint="Back it up with PostgreSQL's own means; s2connect store copy --from URL brings it into a home.",
            )
        await asyncio.to_thread(stack.enter_context, home.lock())
        data = await asyncio.to_thread(home.read, CONFIG_FILE)
        if data is None:
            raise NotInitialised(f"{home.path} is not set up.")
        config = EndpointConfig.from_json(data)
        vault, _ = await asyncio.to_thread(open_vault, config.vault, path / SECRETS)
        store = await SqliteStore.open(path / DATABASE, vault)
        stack.push_async_callback(store.close)
        yield home, config, vault, store


async def back_up(path: Path, passphrase: Passphrase) -> Backup:
    """Return a backup of a state directory whose service does not run.

    Raises:
        HomeInUse, HomeMoved, NotInitialised, StorageError: It cannot be read.
    """
    async with _opened(path) as (home, config, vault, store):
        return await take(home, config, vault, store, passphrase)


async def move(path: Path, passphrase: Passphrase, file: Path) -> Backup:
    """Write a backup into a file, then seal the state directory, whose service does not run.

    A crash leaves the directory as it was, or sealed; where it is sealed the file is whole. The file says that the home
    was sealed only once it is: it is written as a backup first, then once more.

    Raises:
        HomeInUse, HomeMoved, NotInitialised, StorageError: Nothing was sealed.
    """
    async with _opened(path) as (home, config, vault, store):
        contents, others = await collected(home, config, vault, store)
        return await asyncio.to_thread(_move, home, contents, others, config, passphrase, file)


def _move(
    home: Home, contents: Contents, others: list[str], config: EndpointConfig, passphrase: Passphrase, file: Path
) -> Backup:
    first = _sealed(contents, others, config, passphrase)
    moved = _sealed(msgspec.structs.replace(contents, moved=True), others, config, passphrase)
    write_private(file, first.file)
    unseal(read_backup(file), passphrase)
    home.seal(file, first.made_at)
    try:
        write_private(file, moved.file)
    except StorageError:
        return first  # The home is sealed and the file whole; it only does not say that its tokens are valid.
    return moved


def undo_move(path: Path) -> None:
    """Open a sealed state directory again. Blocks.

    Raises:
        UsageError: It is not sealed.
        HomeInUse, StorageError: It cannot be used.
    """
    home = Home.open(path)
    with home.lock(moved=True):
        if home.moved() is None:
            raise UsageError(f"{path} was not moved.")
        home.unseal()


def read_backup(file: Path) -> bytes:
    """Read a file and check its beginning. Blocks.

    Raises:
        BackupRefused: It is none that this version can read.
        StorageUnavailable: It cannot be read.
    """
    try:
        with file.open("rb") as opened:
            begin = opened.read(READ_FIRST)
            check_header(begin)
            data = begin + opened.read(MAX_BACKUP_BYTES + 1 - len(begin))
    except OSError as error:
        raise unavailable("read", file, error) from error
    check_header(data)
    return data


def restore(
    path: Path,
    data: bytes,
    passphrase: Passphrase,
    *,
    replace: bool = False,
    vault: Literal["auto", "keyring", "files"] = "auto",
) -> Restored:
    """Restore a backup into a state directory, which is made if there is none. Blocks, for a second.

    It is atomic: a crash leaves the old state or the new one.

    Args:
        path: The state directory.
        data: Content of the file.
        passphrase: That of the file.
        replace: Also where the directory is set up already; its state is lost then.
        vault: Where to keep the secrets; ``auto`` is as it was, if that is possible here.

    Raises:
        BackupRefused: The file cannot be used; nothing was changed.
        UsageError: The directory is set up already.
        HomeInUse: Its service runs.
        StorageError: It could not be written; nothing was changed.
    """
    contents = unseal(data, passphrase)
    config, pairings = _check(contents)
    home = Home.create(path)
    with home.lock(moved=True):
        if not replace and home.read(CONFIG_FILE) is not None:
            raise UsageError(
                f"{path} is set up already.",
                hint="Nothing was changed. With --replace its state, and with it every pairing of it, is lost.",
            )
        kind, config = put_into_home(home, contents, config, vault=vault)
    missing = tuple(str(named) for named in named_files(config) if not named.exists())
    return Restored(datetime.fromtimestamp(contents.made_at, UTC), contents.moved, pairings, kind, config, missing)


def put_into_home(
    home: Home,
    contents: Contents,
    config: EndpointConfig,
    *,
    vault: Literal["auto", "keyring", "files"] = "auto",
    keep_files: bool = False,
) -> tuple[Literal["keyring", "files"], EndpointConfig]:
    """Replace the state of a locked home, atomically, and return where its secrets are and its settings. Blocks.

    With ``keep_files`` the files that the contents do not have stay as they are.
    """
    path, files, secrets = home.path, dict(contents.files), dict(contents.secrets)
    kind, put = _vault_for(config.vault if vault == "auto" else vault, forced=vault == "keyring")
    if put is not None:
        files[SERVICE_FILE] = put(secrets).encode("ascii") + b"\n"
        secrets = {}
    config = config.model_copy(update={"vault": kind})
    files[CONFIG_FILE] = config.to_json()
    old = [found.name for found, belongs in own_files(path, MAX_FILE_BYTES) if belongs]
    if keep_files:
        old = [name for name in old if name in files or name == SERVICE_FILE]
    stage(path, files, secrets, contents.database)
    commit(path, old)
    finish(path)
    return kind, config


def _check(contents: Contents) -> tuple[EndpointConfig, int]:
    """Check that contents are a state that this version can use, before anything is written."""

    def refused(why: str) -> BackupRefused:
        return BackupRefused(f"The file holds no state that can be used: {why}.", reason="contents")

    if strange := [name for name in contents.files if is_reserved(name)]:
        raise refused(f"a file is named {strange[0]}")
    if any(len(content) > MAX_FILE_BYTES for content in contents.files.values()):
        raise refused("one of its files is too large")
    if CONFIG_FILE not in contents.files:
        raise refused("the settings are missing")
    try:
        config = EndpointConfig.from_json(contents.files[CONFIG_FILE])
        pairings = check_database(contents.database) if contents.database else 0
        datetime.fromtimestamp(contents.made_at, UTC)
    except ConfigurationError as error:
        raise refused(error.what.rstrip(".")) from None
    except (ValueError, OverflowError, OSError) as error:
        raise refused(str(error)) from None
    if config.is_own_ca and (CA_FILE not in contents.files or CA_KEY not in contents.secrets):
        raise refused("the certificate authority is missing")
    return config, pairings


def _vault_for(
    kind: str, *, forced: bool
) -> tuple[Literal["keyring", "files"], Callable[[dict[str, bytes]], str] | None]:
    """Return the kind of vault for restored secrets, and what puts them into a keyring and returns its service."""
    if kind == "files":
        return "files", None
    service = f"s2connect:{uuid4()}"
    try:
        keyring = KeyringVault(service)
        if not forced and not keyring.is_safe:
            return "files", None
        keyring.put("probe", b"probe")
        works = keyring.get("probe") == b"probe"
        keyring.delete("probe")
        if not works:
            raise StorageUnavailable("The keyring does not keep what is written to it.", hint="Take --vault files.")
    except (ConfigurationError, StorageUnavailable):
        if forced:
            raise
        return "files", None

    def put(secrets: dict[str, bytes]) -> str:
        for name, secret in secrets.items():
            keyring.put(name, secret)
        return service

    return "keyring", put


def sentences(restored: Restored) -> Sequence[str]:
    """Return what a person has to know of a restored backup."""
    at = f"{restored.made_at.astimezone():%Y-%m-%d %H:%M}"
    found = []
    if restored.moved:
        found.append(
            f"The home it comes from was sealed at {at}: nothing has to be paired again, unless that one was opened "
            "again (move --undo), or the file was restored before. Only one of them may run."
        )
    else:
        found.append(
            f"Sessions rotate tokens: what was paired or connected since {at} may have to be paired again. "
            "s2connect status shows it once the service runs."
        )
    found += [f"Not in the file, and missing here: {path}" for path in restored.missing]
    return found
