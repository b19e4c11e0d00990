"""The state directory of an endpoint: its default path, its lock, and its private files (SEC-02)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import ClassVar

import platformdirs

from s2connect.errors import HomeInUse, HomeMoved, NotInitialised, StorageUnavailable
from s2connect.store.files import (
    check_private_directory,
    make_private_directory,
    open_private,
    read_private,
    remove_leftovers,
    remove_private,
    unavailable,
    write_private,
)
from s2connect.store.postgresql.address import is_postgresql
from s2connect.store.restoring import COMMIT, DATABASE, MOVED, finish

__all__ = ["HOME_VARIABLE", "Home", "default_home"]

HOME_VARIABLE = "S2CONNECT_HOME"
"""Environment variable that names the state directory."""

MAX_FILE_BYTES = 1_048_576
"""Bound on a file read from the state directory; configuration and certificates are far smaller."""

_LOCK = "lock"
_HOME_OF_ROOT = Path("/var/lib/s2connect")


def expanded(path: str | Path) -> Path:
    """Return a path with ``~`` and ``~user`` replaced as a shell does; an unknown user's name stays as it is."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - the method raises RuntimeError for an unknown user


def default_home() -> Path:
    """Return the default state directory.

    ``$S2CONNECT_HOME`` if set; otherwise ``/var/lib/s2connect`` for root on Linux, and the state directory of the user
    by the platform's convention for all others (``~/.local/state/s2connect`` on Linux).
    """
    if named := os.environ.get(HOME_VARIABLE):
        return expanded(named).absolute()
    if sys.platform == "linux" and os.geteuid() == 0:
        return _HOME_OF_ROOT
    return platformdirs.user_state_path("s2connect", appauthor=False)


class Home:
    """A state directory, 0700, used by one process at a time. All methods block: call them in a thread.

    Attributes:
        path: The directory.
        BRIDGE_FILE: File that makes a directory that of a bridge.
    """

    BRIDGE_FILE: ClassVar[str] = "bridge.json"

    def __init__(self, path: Path) -> None:
        """Use :meth:`create` or :meth:`open`, which check the directory."""
        self.path = path

    @classmethod
    def create(cls, path: Path) -> Home:
        """Create the directory with its parents; one that exists is only checked.

        Raises:
            InsecurePermissions: Others have rights on it, or it belongs to somebody else.
            StorageUnavailable: It cannot be created.
        """
        make_private_directory(path)
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> Home:
        """Check a directory made before.

        Raises:
            NotInitialised: There is none.
            InsecurePermissions: Others have rights on it, or it belongs to somebody else.
            StorageUnavailable: It cannot be read, or is no directory.
        """
        try:
            check_private_directory(path)
        except StorageUnavailable as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise NotInitialised(f"There is no state directory {path}.") from None
            raise
        home = cls(path)
        if (path / COMMIT).exists():  # a restore was cut off: finish it, unless it still goes on
            with contextlib.suppress(HomeInUse), home.lock(moved=True):
                pass
        return home

    @property
    def is_of_bridge(self) -> bool:
        """Return whether a bridge has this directory: ``serve`` would run it without its routes."""
        try:
            return (self.path / self.BRIDGE_FILE).exists()
        except PermissionError:  # that of another user
            return False

    @property
    def has_pairings(self) -> bool:
        """Return whether the database in the directory has pairings, or is damaged."""
        from s2connect.store.snapshot import check_database

        try:
            return check_database((self.path / DATABASE).read_bytes()) > 0
        except FileNotFoundError:
            return False
        except (OSError, ValueError):
            return True

    @contextlib.contextmanager
    def lock(self, *, moved: bool = False) -> Iterator[None]:
        """Keep the directory for this process while the context lasts; the system lets go when the process dies.

        Also removes or finishes what a crash left unfinished. Does not wait.

        Args:
            moved: Also where it has been moved away.

        Raises:
            HomeMoved: It was sealed, because the endpoint goes on elsewhere.
            HomeInUse: Another process, or another part of this one, has it.
            StorageUnavailable: The lock file cannot be written.
            InsecurePermissions: Others have rights on the lock file.
        """
        path, owner = self.path / _LOCK, os.getpid()
        try:
            descriptor = open_private(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise unavailable("lock", path, error) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise unavailable("lock", path, error) from error
                raise self._in_use(descriptor) from None
            # The number is for the error of the next process, which finds the directory in use.
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
            remove_leftovers(self.path)
            finish(self.path)
            if not moved and (sealed := self.moved()) is not None:
                raise sealed
            yield
        finally:
            # Not only closed: a child that is being forked has the descriptor, and with it the lock, until it execs.
            if os.getpid() == owner:
                with contextlib.suppress(OSError):
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def _in_use(self, descriptor: int) -> HomeInUse:
        try:
            holder = f"The process {int(os.pread(descriptor, 20, 0))}"
        except (OSError, ValueError):
            holder = "Another process"
        return HomeInUse(
            f"{holder} is working with {self.path}.", hint="Stop it first, or name another state directory with --home."
        )

    def seal(self, to: Path | str, at: datetime) -> None:
        """Seal the directory, durably: :meth:`lock` refuses it from now on, and says where it went and when.

        Raises:
            StorageUnavailable: It could not be written; the directory is as before.
        """
        write_private(self.path / MOVED, json.dumps({"to": str(to), "at": at.isoformat()}).encode("ascii"))

    def unseal(self) -> None:
        """Take the seal off; StorageUnavailable if that is not possible."""
        remove_private(self.path / MOVED)

    def moved_to(self) -> str | None:
        """Return the file or database to which a sealed directory went, "" where that is damaged; None if not sealed.

        Raises:
            InsecurePermissions, StorageUnavailable: The seal cannot be read.
        """
        content = read_private(self.path / MOVED, MAX_FILE_BYTES)
        if content is None:
            return None
        try:
            return str(json.loads(content)["to"])
        except (ValueError, KeyError, TypeError):
            return ""

    def moved(self) -> HomeMoved | None:
        """Return the error of a sealed directory; None where it is not sealed.

        Raises:
            InsecurePermissions, StorageUnavailable: The seal cannot be read.
        """
        content = read_private(self.path / MOVED, MAX_FILE_BYTES)
        if content is None:
            return None
        try:
            read = json.loads(content)
            kind = "database" if is_postgresql(read["to"]) else "file"
            where = (
                f"into the {kind} {read['to']} on {datetime.fromisoformat(read['at']).astimezone():%Y-%m-%d at %H:%M}"
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            where = "elsewhere"  # damaged, and sealed all the same
        return HomeMoved(f"The endpoint of {self.path} was moved {where}; it does not start here any more.")

    def write_private(self, name: str, content: bytes) -> None:
        """Write or replace a file of the directory, 0600, atomically and durably.

        Raises:
            StorageUnavailable: It cannot be written; the content is the old or the new one.
            ValueError: The name is no plain file name.
        """
        write_private(self._file(name), content)

    def read(self, name: str) -> bytes | None:
        """Content of a file of the directory, or None where there is none.

        Raises:
            InsecurePermissions: Others have rights on the file, or it belongs to somebody else.
            StorageUnavailable: It cannot be read, or has more than 1 MiB.
            ValueError: The name is no plain file name.
        """
        return read_private(self._file(name), MAX_FILE_BYTES)

    def _file(self, name: str) -> Path:
        if not name or name.startswith(".") or "/" in name or "\0" in name:
            raise ValueError("a file of the state directory has a plain name")
        return self.path / name
