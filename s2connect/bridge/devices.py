"""Devices of a bridge, and the files with their secrets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from s2connect import NodeDescription, Secret, read_private
from s2connect.errors import ConfigurationError

MAX_SECRET_BYTES: Final = 4096
"""Longest file with a token or a secret."""

UNKNOWN: Final = "unknown"
GENERIC: Final = "Generic"

SecretT = TypeVar("SecretT")


@dataclass(frozen=True, slots=True)
class Device:
    """A device of a route.

    Attributes:
        key: Its permanent identifier: of an S2 Connect node its id, otherwise its id or name in the configuration.
        name: For people; from the network, clean it before display.
        description: As the device presents itself, or as the configuration describes it.
    """

    key: str
    name: str
    description: NodeDescription


def is_file(path: Path) -> bool:
    """Return whether there is a file of that name, also for a name that no file can have."""
    try:
        return path.is_file()
    except OSError:
        return False


async def read_secret(path: Path, what: str, make: Callable[[str], SecretT]) -> SecretT:
    """Read a file with one secret, which only its owner may read; ``make`` raises ValueError for another."""
    content = await asyncio.to_thread(read_private, path, MAX_SECRET_BYTES)
    try:
        if text := (content or b"").decode("utf-8").strip():
            return make(text)
    except ValueError:
        pass
    raise ConfigurationError(f"{path} does not hold {what}.")


async def read_credentials(token_file: Path | None, login_file: Path | None) -> tuple[Secret | None, Secret | None]:
    """Read a token and a login from their files, as far as they are configured."""
    token = await read_secret(token_file, "a token in ASCII", Secret) if token_file is not None else None
    login = await read_secret(login_file, "user:password in ASCII", Secret) if login_file is not None else None
    return token, login
