"""Vaults for secrets: files that only their owner may read, or the keyring of the desktop (SEC-02)."""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from s2connect.errors import ConfigurationError, StorageError, StorageUnavailable
from s2connect.store.base import MAX_VAULT_BYTES, Vault
from s2connect.store.files import (
    make_private_directory,
    read_private,
    remove_leftovers,
    remove_private,
    unavailable,
    write_private,
)

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

__all__ = ["FileVault", "KeyringVault", "VaultKind", "open_vault"]

VaultKind = Literal["auto", "keyring", "files"]

SERVICE_FILE = "keyring-service"
"""File of a state directory that names the service of its entries in the keyring."""

# No dot at the beginning: neither "." and ".." nor an unfinished file is a name.
_NAME = re.compile(r"[a-z0-9-][a-z0-9.-]{0,99}")


def check_entry(name: str, secret: bytes = b"") -> None:
    """Refuse names and sizes that no vault takes, with a ValueError (see :class:`~s2connect.store.base.Vault`)."""
    if not _NAME.fullmatch(name):
        raise ValueError("a name in a vault has 1 to 100 of a-z, 0-9, '-' and '.', and does not start with a dot")
    if len(secret) > MAX_VAULT_BYTES:
        raise ValueError(f"a secret in a vault has at most {MAX_VAULT_BYTES} bytes")


class FileVault:
    """One file 0600 for each secret in a directory 0700, replaced atomically.

    Only one process may use a directory at a time: opening removes what a crash has left unfinished. The lock of
    :class:`~s2connect.store.home.Home` sees to that.
    """

    def __init__(self, directory: Path) -> None:
        """Create the directory, or check the one there is, as :func:`make_private_directory`."""
        make_private_directory(directory)
        remove_leftovers(directory)
        self._directory = directory

    def _file(self, name: str, secret: bytes = b"") -> Path:
        check_entry(name, secret)
        return self._directory / name

    def get(self, name: str) -> bytes | None:
        return read_private(self._file(name), MAX_VAULT_BYTES)

    def put(self, name: str, secret: bytes) -> None:
        write_private(self._file(name, secret), secret)

    def delete(self, name: str) -> None:
        remove_private(self._file(name))

    def listed(self) -> list[str]:
        try:
            return [entry.name for entry in self._directory.iterdir() if _NAME.fullmatch(entry.name)]
        except OSError as error:
            raise unavailable("read the directory", self._directory, error) from error


class KeyringVault:
    """Entries of the operating system's keyring, through the ``keyring`` package (extra ``keyring``).

    Every entry belongs to one service name, which has to differ between state directories.
    """

    def __init__(self, service: str) -> None:
        """Use the keyring that ``keyring`` chooses or was given; ConfigurationError without the extra."""
        try:
            import keyring
        except ImportError as error:
            raise ConfigurationError(
                "The vault 'keyring' needs a package that is not installed.",
                hint="Install it with: pip install 's2connect[keyring]'",
            ) from error
        self._service = service
        with _translated("open", ""):
            self._backend: KeyringBackend = keyring.get_keyring()

    @property
    def is_safe(self) -> bool:
        """True if the keyring is a real and recommended one, by the ``keyring`` package's own ranking.

        Below priority 1 are no keyring at all, the one that forgets, and those that write plain files.
        """
        return float(self._backend.priority) >= 1

    def get(self, name: str) -> bytes | None:
        check_entry(name)
        with _translated("read", name):
            text = self._backend.get_password(self._service, name)
        if text is None:
            return None
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise StorageUnavailable(
                f"The entry {name} in the keyring is damaged.", hint="Delete it there; then pair again."
            ) from None

    def put(self, name: str, secret: bytes) -> None:
        check_entry(name, secret)
        text = base64.b64encode(secret).decode("ascii")
        try:
            with _translated("write", name):
                self._backend.set_password(self._service, name, text)
        except StorageUnavailable as error:
            # What a backend says of a value that it could not write may repeat the value (SEC-01).
            raise error from None

    def delete(self, name: str) -> None:
        check_entry(name)
        with _translated("delete", name):
            # Backends differ in what they raise for an entry that is not there.
            if self._backend.get_password(self._service, name) is not None:
                self._backend.delete_password(self._service, name)

    def listed(self) -> list[str]:
        return []  # backends do not list


@contextlib.contextmanager
def _translated(doing: str, name: str) -> Iterator[None]:
    """Make StorageUnavailable of whatever the keyring raises, whose backends are many."""
    try:
        yield
    except Exception as error:
        raise _unavailable(error, doing, name) from error


def _unavailable(error: Exception, doing: str, name: str) -> StorageUnavailable:
    from keyring.errors import KeyringLocked, NoKeyringError

    if isinstance(error, KeyringLocked):
        hint = "Unlock it: log in at the desktop, or open its passwords program; then run this again."
        return StorageUnavailable("The keyring is locked.", hint=hint)
    if isinstance(error, NoKeyringError):
        return StorageUnavailable(
            "There is no keyring here.",
            hint="Run it as the user whose keyring has the keys, in the session of the desktop. A machine without one "
            "needs a home made with: s2connect init --vault files",
        )
    entry = f" the entry {name} in" if name else ""
    return StorageUnavailable(
        f"Could not {doing}{entry} the keyring: {type(error).__name__}.",
        hint="Unlock the keyring; a machine without a desktop needs a home made with: s2connect init --vault files",
    )


def open_vault(kind: VaultKind, directory: Path) -> tuple[Vault, Literal["keyring", "files"]]:
    """Open the vault of a state directory, and return it with its kind. Blocks: call it in a thread.

    ``auto`` is the keyring where the extra is installed, a recommended backend exists and a trial entry can be written,
    read and deleted; otherwise files. Record the kind, because that may change.

    Raises:
        ConfigurationError: The kind is unknown, or the extra ``keyring`` is asked for and not installed.
        StorageUnavailable: The directory cannot be created, or the keyring asked for does not work.
        InsecurePermissions: The directory can be read by others.
    """
    if kind == "files":
        return FileVault(directory), "files"
    if kind not in ("auto", "keyring"):
        raise ConfigurationError(f"The vault {kind!r} is unknown.", hint="Choose 'auto', 'keyring' or 'files'.")
    try:
        vault = KeyringVault(keyring_service(directory))
        if kind == "auto" and not vault.is_safe:
            return FileVault(directory), "files"
        _probe(vault)
    except (ConfigurationError, StorageError):
        if kind == "keyring":
            raise
        return FileVault(directory), "files"
    return vault, "keyring"


def keyring_service(directory: Path) -> str:
    """Return the name under which the keyring has the secrets of a state directory, by the path of its secrets.

    A restored home names it in :data:`SERVICE_FILE`. Others have it of their path, and cannot be moved to another.
    """
    named = read_private(directory.parent / SERVICE_FILE, 200)
    return f"s2connect:{directory.resolve()}" if named is None else named.decode("ascii", "replace").strip()


def _probe(vault: Vault) -> None:
    name, value = f"probe-{secrets.token_hex(8)}", secrets.token_bytes(32)
    vault.put(name, value)
    try:
        kept = vault.get(name)
    finally:
        vault.delete(name)
    if kept != value:
        raise StorageUnavailable(
            "The keyring does not keep what is written to it.", hint="Use the vault 'files', or set up a keyring."
        )
