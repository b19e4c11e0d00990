"""Files of the page in the state directory of an endpoint. All functions block: call them in a thread."""

from __future__ import annotations

import secrets
from typing import Final

from s2connect.store.home import Home
from s2connect.web.access import SALT_BYTES, TOKEN_BYTES, PasswordHash

PASSWORD_FILE: Final = "page-password.json"
TOKEN_FILE: Final = "page-token"
"""File with the bearer token of monitoring, where the page is in the network."""

_NONE: Final = b"{}\n"  # written, because a file that is removed may come back after a power cut


def read_password(home: Home) -> PasswordHash | None:
    """Return the password that is set, as its hash.

    Raises:
        StorageError: The file cannot be read, or is damaged.
    """
    kept = home.read(PASSWORD_FILE)
    return None if kept is None or kept.strip() == _NONE.strip() else PasswordHash.from_json(kept)


def store_password(home: Home | None, password: str | None) -> PasswordHash | None:
    """Set or remove the password; None for a home keeps nothing. Returns its hash.

    Raises:
        UsageError: It is too short or too long.
        StorageError: It cannot be stored; nothing is changed.
    """
    made = None if password is None else PasswordHash.of(password, secrets.token_bytes(SALT_BYTES))
    if home is not None:
        home.write_private(PASSWORD_FILE, _NONE if made is None else made.to_json())
    return made


def monitoring_token(home: Home) -> str:
    """Return the bearer token with which monitoring asks over the network; the first time it is made.

    Raises:
        StorageError: Its file cannot be read or written.
    """
    kept = home.read(TOKEN_FILE)
    if kept is None or not kept.strip():
        kept = secrets.token_urlsafe(TOKEN_BYTES).encode("ascii") + b"\n"
        home.write_private(TOKEN_FILE, kept)
    return kept.decode("ascii", "replace").strip()
