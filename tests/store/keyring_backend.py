"""A keyring for tests: a backend as the ``keyring`` package wants it, in memory."""

from __future__ import annotations

from typing import Any

from keyring.backend import KeyringBackend
from keyring.errors import PasswordDeleteError


class DictionaryKeyring(KeyringBackend):
    """Like real backends it keeps text, and an entry that is not there cannot be deleted."""

    # Below zero, so that it is never chosen by itself; tests that need more set it on the instance.
    priority: Any = -5

    def __init__(self, priority: float = 5) -> None:
        super().__init__()
        self.priority = priority
        self.entries: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.entries[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        if self.entries.pop((service, username), None) is None:
            raise PasswordDeleteError("not found")
