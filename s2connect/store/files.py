"""Files that only their owner may read, written so that a crash leaves the old content or the new (SEC-02)."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import re
import secrets
import shlex
import sqlite3
import stat
from pathlib import Path

from s2connect.errors import InsecurePermissions, StorageUnavailable

_TEMPORARY = ".s2connect-tmp"
_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{16}" + re.escape(_TEMPORARY))

_REASONS: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("the disk is full", "Free some space, then try again."),
    errno.EDQUOT: ("the disk quota is used up", "Free some space, then try again."),
    errno.EROFS: ("the file system is read-only", "Mount it writable, then try again."),
    errno.EACCES: ("permission denied", "Run as the user that owns the state directory."),
    errno.ENOTDIR: ("a part of it is no directory", "Name a directory with --home."),
    errno.ELOOP: ("it is a symbolic link", "Replace the link by the file itself."),
}
_SQLITE_REASONS: dict[int, tuple[str, str]] = {
    sqlite3.SQLITE_FULL: _REASONS[errno.ENOSPC],
    sqlite3.SQLITE_READONLY: ("it is read-only", "Run as the user that owns the state directory."),
    sqlite3.SQLITE_BUSY: ("another process is using it", "Stop the other process, then try again."),
    sqlite3.SQLITE_CORRUPT: ("the file is damaged", "Restore it from a backup, or move it away and pair again."),
    sqlite3.SQLITE_NOTADB: ("the file is damaged", "Restore it from a backup, or move it away and pair again."),
}


def unavailable(doing: str, path: Path, error: OSError | sqlite3.Error) -> StorageUnavailable:
    """Describe a failed access for a person: "Could not <doing> <path>". Raise it ``from`` the error."""
    if isinstance(error, OSError):
        reason, hint = _REASONS.get(error.errno or 0, (error.strerror or type(error).__name__, None))
    else:
        primary_code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        reason, hint = _SQLITE_REASONS.get(primary_code, (str(error), None))
    return StorageUnavailable(f"Could not {doing} {path}: {reason}.", hint=hint)


def make_private_directory(path: Path) -> None:
    """Create a directory 0700 with its parents, durably; one that exists is only checked.

    Parents that are created are writable by us only, whatever the umask: who could replace the directory could read it.
    Raises the errors of :func:`check_private_directory`, and StorageUnavailable where it cannot be created.
    """
    try:
        try:
            path.mkdir(mode=0o700)
        except FileNotFoundError:
            _make_parents(path.parent)
            path.mkdir(mode=0o700)
        sync_directory(path.parent)
    except FileExistsError:
        pass
    except OSError as error:
        raise unavailable("create the directory", path, error) from error
    check_private_directory(path)


def _make_parents(path: Path) -> None:
    missing = [parent for parent in (path, *path.parents) if not parent.exists()]
    for parent in reversed(missing):
        with contextlib.suppress(FileExistsError):  # made by somebody else meanwhile
            parent.mkdir(mode=0o755)
            sync_directory(parent.parent)


def check_private_directory(path: Path) -> None:
    """Refuse a directory that others can read (SEC-02).

    Raises:
        InsecurePermissions: Group or others have any right on it, or it belongs to somebody else.
        StorageUnavailable: It is missing or no directory.
    """
    try:
        link, found = path.lstat(), path.stat()
    except OSError as error:
        raise unavailable("read the directory", path, error) from error
    if stat.S_ISLNK(link.st_mode) and link.st_uid not in (0, os.geteuid()):
        raise InsecurePermissions(
            f"{path} is a symbolic link of the user with id {link.st_uid}, who can point it elsewhere.",
            hint="Remove the link, or name the directory itself.",
        )
    if not stat.S_ISDIR(found.st_mode):
        raise StorageUnavailable(f"{path} is not a directory.", hint="Move it away, or name another one with --home.")
    _check_private(path, found, "700")


def open_private(path: Path, flags: int) -> int:
    """Open a regular file that only its owner may access; a new one is created 0600. Links are not followed.

    Raises:
        InsecurePermissions: Others have rights on it, or it belongs to somebody else.
        OSError: It cannot be opened.
    """
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        _check_private(path, found, "600")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def as_user(user: int) -> str:
    """Return the beginning of a command line that runs a command as this user."""
    try:
        return "sudo" if user == 0 else f"sudo -u {shlex.quote(pwd.getpwuid(user).pw_name)}"
    except KeyError:
        return f"sudo -u '#{user}'"


_NOT_OURS = "It is no state directory of s2connect: name another one with --home."


def _is_empty(path: Path) -> bool:
    """Return whether a path is a directory with nothing in it; not if that cannot be seen."""
    try:
        return not any(path.iterdir())
    except OSError:
        return False


def _may_be_ours(path: Path, found: os.stat_result) -> bool:
    """Return whether the permissions of a path are ours to change: a directory with settings in it, or an empty one."""
    try:
        return not stat.S_ISDIR(found.st_mode) or (path / "config.json").exists() or _is_empty(path)
    except OSError:
        return False


def _check_private(path: Path, found: os.stat_result, wanted: str) -> None:
    if found.st_uid != os.geteuid():
        raise InsecurePermissions(
            f"{path} belongs to the user with id {found.st_uid}, not to the one running this ({os.geteuid()}).",
            hint=f"It is empty. Give it to this user, as root: chown {os.geteuid()} '{path}'"
            if _is_empty(path)
            else f"Run it as that user: {as_user(found.st_uid)} s2connect …",
        )
    if found.st_mode & 0o077:
        raise InsecurePermissions(
            f"Other users have access to {path} (mode {stat.S_IMODE(found.st_mode):o}).",
            hint=f"Take it from them: chmod {wanted} '{path}'" if _may_be_ours(path, found) else _NOT_OURS,
        )


def read_private(path: Path, limit: int) -> bytes | None:
    """Content of a private file, or None where there is none.

    Raises:
        InsecurePermissions: Others have rights on it, or it belongs to somebody else.
        StorageUnavailable: It cannot be read, or holds more than ``limit`` bytes.
    """
    try:
        descriptor = open_private(path, os.O_RDONLY)
        with os.fdopen(descriptor, "rb") as file:
            content = file.read(limit + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unavailable("read", path, error) from error
    if len(content) > limit:
        raise StorageUnavailable(f"{path} is larger than {limit} bytes.", hint="It is not a file of s2connect.")
    return content


def temporary(path: Path) -> Path:
    """Return a new name beside a file, for what is not finished; :func:`remove_leftovers` removes such files."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}{_TEMPORARY}")


def write_private(path: Path, content: bytes) -> None:
    """Write or replace a file 0600 atomically; durable when it returns.

    After a crash, :func:`remove_leftovers` clears what was not finished.

    Raises:
        StorageUnavailable: It cannot be written. Then the content is the old or the new one, never a mix.
    """
    unfinished = temporary(path)
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                rest = memoryview(content)
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(descriptor)
            unfinished.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise
        sync_directory(path.parent)
    except OSError as error:
        raise unavailable("write", path, error) from error


def remove_private(path: Path) -> None:
    """Remove a file, durably; no error where there is none. Raises StorageUnavailable if it cannot be removed."""
    try:
        path.unlink(missing_ok=True)
        sync_directory(path.parent)
    except OSError as error:
        raise unavailable("remove", path, error) from error


def remove_leftovers(directory: Path) -> None:
    """Remove temporary files of :func:`write_private` that a crash left in a directory, and nothing else.

    Nobody else may write into the directory meanwhile. Raises StorageUnavailable if one cannot be removed.
    """
    try:
        for entry in directory.iterdir():
            if _UNFINISHED.fullmatch(entry.name) and stat.S_ISREG(entry.lstat().st_mode):
                entry.unlink(missing_ok=True)
    except OSError as error:
        raise unavailable("clear unfinished files from", directory, error) from error


def sync_directory(path: Path) -> None:
    """Make created, renamed and removed entries of a directory durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
