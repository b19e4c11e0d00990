"""Checks of the state directory, the database, the vault and the running service. They write and lock nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from cryptography import x509

from s2connect import EndpointConfig
from s2connect.diagnostics.database import check_shared, read_secrets
from s2connect.diagnostics.findings import Check, Finding, Findings, Layer, passes
from s2connect.diagnostics.probes import run_in_thread
from s2connect.endpoint.certificate import CA_KEY, load_ca
from s2connect.endpoint.settings import read_config
from s2connect.errors import InsecurePermissions, NotInitialised, S2ConnectError, StorageUnavailable
from s2connect.service.commands import FullStatus, Status
from s2connect.service.control import connect
from s2connect.store.base import MAX_VAULT_BYTES, Pairing
from s2connect.store.files import as_user, check_private_directory, open_private, read_private, unavailable
from s2connect.store.home import Home
from s2connect.store.memory import MemoryVault
from s2connect.store.restoring import DATABASE as DATABASE_FILE
from s2connect.store.restoring import SECRETS
from s2connect.store.sqlite import SqliteStore
from s2connect.store.vault import KeyringVault, keyring_service

SET_UP = Check(Layer.STORE, "set_up")
PERMISSIONS = Check(Layer.STORE, "permissions")
DISK = Check(Layer.STORE, "disk")
SETTINGS = Check(Layer.STORE, "settings")
ENDPOINT = Check(Layer.STORE, "endpoint")
DATABASE = Check(Layer.STORE, "database")
SERVICE = Check(Layer.SERVICE, "service")

LOW_SPACE_BYTES = 50 * 1_000_000
"""Free disk space below which a warning is due; the database of a large endpoint has some megabytes."""

NO_SPACE_BYTES = 1_000_000
"""Free disk space below which no change of the database can be relied on."""

CONTROL_TIMEOUT = 3.0
"""Seconds for the service to report its state."""

KEYRING_TIMEOUT = 5.0
"""Seconds for the keyring, which may ask its user for a password."""

MAX_ENTRIES = 10_000
"""Most files of a state directory whose permissions are checked."""

_COPIES = 5
_LOG_OF_WRITES = "-wal"


@dataclass(slots=True)
class ExaminedEndpoint:
    """The endpoint of a state directory, as far as it has been examined."""

    home: Home
    config: EndpointConfig
    status: FullStatus | None = None  # of its service, if that runs
    mute: bool = False  # its service runs but does not respond
    ca: x509.Certificate | None = None  # its own, if it has one that can be read
    leaf: x509.Certificate | None = None
    pairings: list[Pairing] = field(default_factory=list)

    @property
    def running(self) -> bool:
        """True if its service runs."""
        return self.status is not None or self.mute


async def check_home(path: Path, found: Findings) -> ExaminedEndpoint | None:
    """Check state directory, settings and service; return None if there is no endpoint."""
    try:
        files = await asyncio.to_thread(_files, path)
    except FileNotFoundError:
        found.append(_not_set_up(path))
        return None
    except OSError as error:
        found.append(PERMISSIONS.error(unavailable("read", path, error)))
        return None
    found.append(permissions(files, os.geteuid()))
    found.append(disk(await asyncio.to_thread(_free_bytes, path)))
    closed = await asyncio.to_thread(write_protected, path)
    try:
        home = await asyncio.to_thread(Home.open, path)
        config = await asyncio.to_thread(read_config, home)
        if closed is not None and config.store is None:  # beside a database it is only read
            found.append(closed)
    except NotInitialised:
        found += [] if closed is None else [closed]
        found.append(_not_set_up(path))
        return None
    except S2ConnectError as error:
        found += [] if closed is None else [closed]
        if not isinstance(error, InsecurePermissions) or passes(found):  # not reported yet
            found.append(SETTINGS.error(error))
        what = "The endpoint could not be checked any further."
        found.append(ENDPOINT.warn(what, "Mend the line above, then run this again."))
        return None
    if config.store is None and (moved := await asyncio.to_thread(home.moved)) is not None:
        found.append(SET_UP.warn(moved.what, moved.hint))
        return None
    endpoint = ExaminedEndpoint(home, config)
    found.append(await _check_status(endpoint))
    return endpoint


def _not_set_up(path: Path) -> Finding:
    return SET_UP.warn(
        f"No endpoint is set up in {path}: only the machine was checked.",
        "Set one up with s2connect setup, or name another directory with --home.",
    )


class FileFacts(NamedTuple):
    """Permissions of a file or directory, and the id of the user it belongs to."""

    path: str
    mode: int
    owner: int


def permissions(files: Sequence[FileFacts], user: int) -> Finding:
    """Check that nobody else has rights on the state (SEC-02)."""
    home = files[0].path
    strange = next((file for file in files if file.owner != user), None)
    if strange is not None:
        return PERMISSIONS.fail(
            f"{strange.path} belongs to the user with id {strange.owner}, not to the one running this ({user}).",
            f"Run it as that user: {as_user(strange.owner)} s2connect doctor --home '{home}'",
        )
    if open_ones := [file for file in files if file.mode & 0o077]:
        more = f", and to {len(open_ones) - 1} more" if len(open_ones) > 1 else ""
        return PERMISSIONS.fail(
            f"Other users have access to {open_ones[0].path} (mode {open_ones[0].mode:o}){more}.",
            f"Take it from them: chmod -R go-rwx '{home}'",
        )
    return PERMISSIONS.ok(f"{home}: only its owner has access.")


def disk(free_bytes: int) -> Finding:
    """Check that there is disk space for changes."""
    shown = f"{free_bytes / 1e9:.1f} GB" if free_bytes >= 1e9 else f"{free_bytes // 1_000_000} MB"
    cure = "Free some space: without it pairings and access tokens cannot be kept."
    if free_bytes < NO_SPACE_BYTES:
        return DISK.fail("There is no free disk space for the state directory.", cure)
    if free_bytes < LOW_SPACE_BYTES:
        return DISK.warn(f"Only {shown} of disk space are free for the state directory.", cure)
    return DISK.ok(f"{shown} of disk space are free.")


def write_protected(path: Path) -> Finding | None:
    """Check that files can be written into a state directory; None where they can."""
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return DISK.fail(f"{path} is on a file system that is read-only.", "Mount it writable: nothing can be kept.")
    if not os.access(path, os.W_OK) and path.stat().st_uid == os.geteuid():
        cure = f"Allow it to its owner: chmod -R u+rwX '{path}'"
        return DISK.fail(f"Nothing can be written into {path}.", cure)
    return None


def _files(path: Path) -> list[FileFacts]:
    paths = sorted(path.iterdir())
    with contextlib.suppress(OSError):
        paths += sorted((path / SECRETS).iterdir())
    files = [_file(path, path.stat())]
    for one in paths[:MAX_ENTRIES]:
        with contextlib.suppress(FileNotFoundError):  # the service replaces files
            facts = one.lstat()
            if not stat.S_ISLNK(facts.st_mode):  # a link has no permissions of its own
                files.append(_file(one, facts))
    return files


def _file(path: Path, facts: os.stat_result) -> FileFacts:
    return FileFacts(str(path), stat.S_IMODE(facts.st_mode), facts.st_uid)


def _free_bytes(path: Path) -> int:
    facts = os.statvfs(path)
    if facts.f_files and not facts.f_favail:  # no room for another file
        return 0
    return facts.f_bavail * facts.f_frsize


async def _check_status(endpoint: ExaminedEndpoint) -> Finding:
    """Ask the service for its state."""
    try:
        async with asyncio.timeout(CONTROL_TIMEOUT), connect(endpoint.home) as control:
            if control is None:
                return SERVICE.ok("The service is not running.")
            endpoint.status = await control.ask(Status())
    except (TimeoutError, S2ConnectError) as error:
        endpoint.mute = True
        what = error.what if isinstance(error, S2ConnectError) else "It does not answer to commands."
        cure = "Stop it and start it again; if that does not help, see its log."
        if isinstance(error, S2ConnectError) and error.kind == StorageUnavailable.kind:
            cure = error.hint or cure
        return SERVICE.fail(f"The service is there but cannot tell its state. {what}", cure)
    return SERVICE.ok(f"The service is running, process {endpoint.status.service.pid}.")


# --- store


async def check_database(endpoint: ExaminedEndpoint) -> list[Finding]:
    """Read the pairings from the database."""
    if endpoint.config.store is None:
        return [await _check_own_database(endpoint)]
    found, pairings = await check_shared(DATABASE, endpoint.config)
    endpoint.pairings = list(pairings)
    return found


async def _check_own_database(endpoint: ExaminedEndpoint) -> Finding:
    """Read the pairings from the database in the home.

    The service has the database for itself, and opening it clears up after a crash: so a copy is opened, with a vault
    in which there is nothing to clear.
    """
    path = endpoint.home.path / DATABASE_FILE
    try:
        directory = await asyncio.to_thread(
            lambda: tempfile.TemporaryDirectory(prefix="s2connect-doctor-", ignore_cleanup_errors=True)
        )
        copy = Path(directory.name) / DATABASE_FILE
        try:
            if not await asyncio.to_thread(_copy_database, path, copy):
                return DATABASE.ok("There is no database yet; it is made with the first use.")
            store = await SqliteStore.open(copy, MemoryVault())
            try:
                endpoint.pairings = await store.pairings()
            finally:
                await store.close()
        finally:
            await asyncio.to_thread(directory.cleanup)
    except S2ConnectError as error:
        error.what = error.what.replace(str(copy), str(path))
        return DATABASE.error(error)
    except OSError as error:
        return DATABASE.error(unavailable("make a copy of", path, error))
    confirmed = sum(pairing.confirmed for pairing in endpoint.pairings)
    held = "1 pairing" if confirmed == 1 else f"{confirmed or 'no'} pairings"
    return DATABASE.ok(f"The database can be read and holds {held}.")


def _copy_database(path: Path, copy: Path) -> bool:
    """Copy the database and its log of writes as of one moment; return False if there is none."""
    for _ in range(_COPIES):
        before = _states(path)
        if before[0] is None:
            return False
        for suffix in ("", _LOG_OF_WRITES):
            target = copy.with_name(copy.name + suffix)
            target.unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                descriptor = open_private(path.with_name(path.name + suffix), os.O_RDONLY)
                with os.fdopen(descriptor, "rb") as source, target.open("xb") as sink:
                    target.chmod(0o600)
                    shutil.copyfileobj(source, sink)
        if _states(path) == before:
            return True
    raise StorageUnavailable(f"{path} changes all the time.", hint="Try again when fewer devices are being paired.")


def _states(path: Path) -> list[tuple[int, int, int] | None]:
    states: list[tuple[int, int, int] | None] = []
    for suffix in ("", _LOG_OF_WRITES):
        try:
            facts = path.with_name(path.name + suffix).stat()
            states.append((facts.st_ino, facts.st_size, facts.st_mtime_ns))
        except FileNotFoundError:
            states.append(None)
    return states


async def check_vault(endpoint: ExaminedEndpoint, found: Findings) -> None:
    """Read the secrets. They are dropped at once, except the key that must match the CA."""
    config, home = endpoint.config, endpoint.home
    if config.store is not None:
        found.append(found.check.ok(await asyncio.to_thread(read_secrets, config, MAX_ENTRIES)))
        return
    read = _read_keyring if config.vault == "keyring" else _read_files
    try:
        cause, ca_key = await run_in_thread(lambda: read(home), KEYRING_TIMEOUT)
    except TimeoutError:
        found.append(found.check.fail("The keyring does not answer.", "Unlock it, then run this again."))
        return
    if config.is_own_ca:
        await asyncio.to_thread(load_ca, home, ca_key)
    found.append(found.check.ok(cause))


def _read_files(home: Home) -> tuple[str, bytes | None]:
    directory = home.path / SECRETS
    check_private_directory(directory)
    try:
        names = [entry.name for entry in directory.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise unavailable("read", directory, error) from error
    for name in names[:MAX_ENTRIES]:
        read_private(directory / name, MAX_VAULT_BYTES)
    entries = "1 entry" if len(names) == 1 else f"{len(names)} entries"
    return f"The vault (files) can be read: {entries}.", read_private(directory / CA_KEY, MAX_VAULT_BYTES)


def _read_keyring(home: Home) -> tuple[str, bytes | None]:
    vault = KeyringVault(keyring_service(home.path / SECRETS))
    return "The vault (keyring) can be read.", vault.get(CA_KEY)
