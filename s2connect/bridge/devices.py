"""Devices that do not present themselves: the configuration does it for them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import NAMESPACE_URL, UUID, uuid5

from s2connect.bridge.ports import Device
from s2connect.errors import ConfigurationError
from s2connect.model.common import NodeDescription, NodeId, Role
from s2connect.store.files import read_private

MAX_SECRET_BYTES: Final = 4096
"""Longest file with a token or a secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfiguredDevice:
    """A device as the configuration describes it.

    Attributes:
        key: What it is recognised by for ever.
        name: For people.
        brand: Its maker.
        type: Kind of device, e.g. ``Heat pump``.
        model_name: Model.
    """

    key: str
    name: str
    brand: str = "unknown"
    type: str = "Generic"
    model_name: str = "unknown"

    def device(self) -> Device:
        """The device, as a route knows it."""
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

    def node_id(self) -> NodeId:
        """The key, where it is a UUID; otherwise one that is made of it, always the same."""
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
