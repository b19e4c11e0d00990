"""Devices of a bridge, as they present themselves or as the file configures them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from uuid import NAMESPACE_URL, UUID, uuid5

from s2connect import NodeDescription, NodeId, Role, Secret, for_display, read_private
from s2connect.errors import ConfigurationError

MAX_SECRET_BYTES: Final = 4096
"""Longest file with a token or a secret."""

UNKNOWN: Final = "unknown"
GENERIC: Final = "Generic"

_TYPES: Final = {
    "ENERGY_PRODUCER": "Energy producer",
    "ENERGY_CONSUMER": "Energy consumer",
    "ENERGY_STORAGE": "Energy storage",
}


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfiguredDevice:
    """Configuration of a device.

    Attributes:
        key: Its permanent identifier.
        name: For people.
        brand: Its maker; :data:`UNKNOWN` where the configuration does not say.
        type: Kind of device, e.g. ``Heat pump``.
        model_name: Model.
        named: The name is one for people; otherwise it is the id from the device's path.
    """

    key: str
    name: str
    brand: str = UNKNOWN
    type: str = GENERIC
    model_name: str = UNKNOWN
    named: bool = True

    def device(self) -> Device:
        """Return the device as configured."""
        return Device(
            self.key,
            self.name,
            NodeDescription(
                id=self.node_id(),
                brand=self.brand,
                type=self.type,
                model_name=self.model_name,
                user_defined_name=self.name,
                role=Role.RM,
            ),
        )

    def introduced(self, details: Mapping[str, Any]) -> Device:
        """Return the device with gaps of its configuration filled from its ``ResourceManagerDetails``.

        Args:
            details: The message; from the network, anything may be in it.
        """

        def text(name: str) -> str | None:
            value = details.get(name)
            return (for_display(value, 200) or None) if isinstance(value, str) else None

        roles = details.get("roles")
        first = roles[0].get("role") if isinstance(roles, list) and roles and isinstance(roles[0], dict) else None
        device = self.device()
        changes = {
            "brand": text("manufacturer") if self.brand == UNKNOWN else None,
            "model_name": text("model") if self.model_name == UNKNOWN else None,
            "type": _TYPES.get(first) if self.type == GENERIC and isinstance(first, str) else None,
            "user_defined_name": None if self.named else text("name"),
        }
        known = {name: value for name, value in changes.items() if value is not None}
        return replace(device, description=device.description.model_copy(update=known))

    def node_id(self) -> NodeId:
        """Return the key, where it is a UUID, otherwise a UUID made from it."""
        try:
            return NodeId(UUID(self.key))
        except ValueError:
            return NodeId(uuid5(NAMESPACE_URL, f"s2connect-device:{self.key}"))


async def read_secret(path: Path, what: str) -> str:
    """Read a file with one secret, which only its owner may read.

    Args:
        path: The file.
        what: What it holds, for an error.

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
    return await _read_ascii(token_file, "a token"), await _read_ascii(login_file, "user:password")


async def _read_ascii(file: Path | None, what: str) -> Secret | None:
    if file is None:
        return None
    try:
        return Secret(await read_secret(file, what))
    except ValueError:
        raise ConfigurationError(f"{file} does not hold {what} in ASCII.") from None
