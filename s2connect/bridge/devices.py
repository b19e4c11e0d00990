"""Devices of a bridge, and the files with their secrets."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from s2connect import NodeDescription, Secret, read_private
from s2connect.errors import ConfigurationError

MAX_SECRET_BYTES: Final = 4096
"""Longest file with a token or a secret."""

UNKNOWN: Final = "unknown"
GENERIC: Final = "Generic"


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


async def read_secret(path: Path, what: str) -> str:
    """Read a file with one secret, which only its owner may read; ``what`` names it in an error.

    Raises:
        ConfigurationError: It is missing, empty, or no text.
        StorageError: It cannot be read, or others can read it.
    """
    content = await asyncio.to_thread(read_private, path, MAX_SECRET_BYTES)
    try:
        text = (content or b"").decode("utf-8").strip()
    except UnicodeDecodeError:
        text = ""
    if not text:
        raise ConfigurationError(f"{path} does not hold {what}.")
    return text


async def read_credentials(token_file: Path | None, login_file: Path | None) -> tuple[Secret | None, Secret | None]:
    """Read a token and a login from their files, as far as they are configured.

    Raises:
        ConfigurationError: A file is missing or empty, or not in ASCII.
        StorageError: It cannot be read, or others can read it.
    """
    found: list[Secret | None] = []
    for file, what in ((token_file, "a token"), (login_file, "user:password")):
        try:
            found.append(Secret(await read_secret(file, what)) if file is not None else None)
        except ValueError:
            raise ConfigurationError(f"{file} does not hold {what} in ASCII.") from None
    return found[0], found[1]
