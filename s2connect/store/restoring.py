"""Restore of a state directory, atomic: a crash at any moment leaves the old state or the new one, whole.

The new state is first written beside the old one, in a directory of its own. The file :data:`COMMIT` then decides:
where it is, the next opening of the state directory moves the new state into its place, as often as it takes. The
directory itself stays, because it may be a volume of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from s2connect.errors import StorageUnavailable
from s2connect.store.files import (
    make_private_directory,
    read_private,
    remove_private,
    sync_directory,
    unavailable,
    write_private,
)

COMMIT: Final = "restoring.json"
"""File that exists from the moment on in which the new state counts, until it is in its place."""

STAGED: Final = "restoring"
"""Directory with the new state."""

_RUNNING = re.compile(r"lock|control(-.+)?\.(sock|path)")
"""Files of a running process."""

DATABASE: Final = "state.sqlite"
SECRETS: Final = "secrets"

MOVED: Final = "moved.json"
"""File that seals a state directory which was moved elsewhere."""

PLACES: Final = (f"{DATABASE}-wal", f"{DATABASE}-shm", f"{DATABASE}-journal", DATABASE, MOVED, SECRETS)
"""Files that every restore removes: logs of writes before their database, so that none is applied to another one."""

_RESERVED = {*PLACES, COMMIT, STAGED}
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
_MAX_COMMIT_BYTES = 64 * 1024 * 1024


def is_reserved(name: str) -> bool:
    """Return whether a name in a state directory is not that of a file of the state."""
    return name.startswith(".") or name in _RESERVED or _RUNNING.fullmatch(name) is not None


def own_files(home: Path, limit: int) -> Iterator[tuple[Path, bool]]:
    """Yield the files of the state that are no database and no secrets, and others, with whether they belong to it.

    To it belong the plain files of up to ``limit`` bytes that only their owner can access.

    Raises:
        StorageUnavailable: The directory cannot be read.
    """
    try:
        for path in sorted(home.iterdir()):
            name = path.name
            if is_reserved(name):
                continue
            found = path.lstat()
            private = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
            yield path, private and found.st_size <= limit and _NAME.fullmatch(name) is not None
    except OSError as error:
        raise unavailable("read the directory", home, error) from error


def stage(home: Path, files: Mapping[str, bytes], secrets: Mapping[str, bytes], database: bytes) -> None:
    """Write a new state beside the old one, durably; the old one counts until :func:`commit`.

    Raises:
        StorageUnavailable: It could not be written, or a directory is in the place of a file; nothing has changed.
    """
    for name in files:
        if (place := home / name).is_dir() and not place.is_symlink():  # no file could ever take its place
            raise StorageUnavailable(
                f"{place} is a directory, and the backup has a file of that name.", hint="Move the directory elsewhere."
            )
    staged = home / STAGED
    try:
        _remove_tree(staged)
        make_private_directory(staged)
        for name, content in files.items():
            _write_new(staged / name, content)
        if database:
            _write_new(staged / DATABASE, database)
        make_private_directory(staged / SECRETS)
        for name, content in secrets.items():
            _write_new(staged / SECRETS / name, content)
        sync_directory(staged / SECRETS)
        sync_directory(staged)
        sync_directory(home)
    except OSError as error:
        with contextlib.suppress(OSError):
            _remove_tree(staged)
        raise unavailable("write the restored state into", home, error) from error


def commit(home: Path, removed: Sequence[str]) -> None:
    """Make the staged state the one that counts; ``removed`` are the own files of the old one."""
    _decide(home, [*PLACES, *removed])


def _decide(home: Path, removed: list[str]) -> None:
    """Write what is left to be done: to remove these files, then to move what is staged."""
    write_private(home / COMMIT, json.dumps({"removed": removed}).encode("ascii"))


def finish(home: Path) -> None:
    """Put a committed state into its place; remove one that was not committed. The home is locked by this process.

    Raises:
        StorageUnavailable: It could not be finished; the next call goes on.
    """
    decided = read_private(home / COMMIT, _MAX_COMMIT_BYTES)
    try:
        if decided is not None:
            _put_into_place(home, _names(decided))
        _remove_tree(home / STAGED)
        if decided is not None:
            sync_directory(home)
            remove_private(home / COMMIT)
    except (ValueError, KeyError, TypeError):
        raise StorageUnavailable(f"{home / COMMIT} is damaged.", hint="Restore the backup once more.") from None
    except OSError as error:
        raise unavailable("finish the restore of", home, error) from error


def _names(decided: bytes) -> list[str]:
    names = json.loads(decided)["removed"]
    if any(Path(name).name != name for name in names):
        raise ValueError
    return list(names)


def _put_into_place(home: Path, removed: list[str]) -> None:
    """Remove the old state, then move what is staged. Every step can be done again."""
    if removed:
        for name in removed:
            path = home / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        sync_directory(home)
        _decide(home, [])  # from here on what is in the home is new
    if (home / STAGED).exists():
        for path in sorted((home / STAGED).iterdir()):
            path.rename(home / path.name)
        sync_directory(home)


def _write_new(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _remove_tree(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
