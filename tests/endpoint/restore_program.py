"""Restores a backup into a home, or moves one into a file, as a process that is killed. Arguments: what, home, file."""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from s2connect.endpoint.backup import move, read_backup, restore
from s2connect.store.backup_file import Passphrase

PHRASE = Passphrase("correct horse battery")


def main(what: str, home: Path, file: Path) -> None:
    if what == "restore":
        restore(home, read_backup(file), PHRASE, replace=True, vault="files")
    else:
        asyncio.run(move_from_one_thread(home, file))


async def move_from_one_thread(home: Path, file: Path) -> None:
    """Calls are counted by thread."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    await move(home, PHRASE, file)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
