"""Content of a database file, checked without writing anything."""

from __future__ import annotations

import contextlib
import sqlite3

from s2connect.store.sqlite import IN_MEMORY
from s2connect.store.sqlite_rows import SCHEMA_VERSION


def check_database(content: bytes) -> int:
    """Check the content of a database file, without writing anything; return the number of its pairings.

    Raises:
        ValueError: It is damaged, of a later version, or something else; the text says so.
    """
    # A database in memory has no log of writes: without this SQLite does not open one that had one.
    content = content[:18] + b"\1\1" + content[20:]
    try:
        with contextlib.closing(sqlite3.connect(IN_MEMORY)) as database:
            database.deserialize(content)
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if not 0 < version <= SCHEMA_VERSION:
                raise ValueError(f"its database has tables of version {version}, and {SCHEMA_VERSION} is known here")
            (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise ValueError("its database is damaged")
            (number,) = database.execute("SELECT count(*) FROM pairing").fetchone()
            return int(number)
    except (sqlite3.Error, OverflowError):
        raise ValueError("its database is damaged") from None
