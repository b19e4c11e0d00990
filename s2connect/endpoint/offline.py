"""Operations on a state directory that no endpoint has open: to set it up, and to end all of its pairings."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from s2connect.endpoint.config import CONFIG_FILE, EndpointConfig
from s2connect.endpoint.endpoint import Endpoint
from s2connect.endpoint.rereading import certificates_of
from s2connect.endpoint.settings import read_config
from s2connect.endpoint.storage import open_storage
from s2connect.errors import ConfigurationError, NotInitialised, PairingsLost, UsageError
from s2connect.model.roles import CommunicationRole
from s2connect.store.base import Vault
from s2connect.store.home import Home
from s2connect.store.restoring import SECRETS
from s2connect.store.vault import open_vault


def create_home(path: Path, config: EndpointConfig) -> EndpointConfig:
    """Set up a state directory: settings, vault and, where it needs one, its own CA. Blocks; call it in a thread.

    Returns the settings as stored, with the vault that was chosen.

    Raises:
        UsageError: It is set up already.
        StorageError: It cannot be written.
    """
    home = Home.create(path)
    with home.lock():
        if home.read(CONFIG_FILE) is not None:
            raise UsageError(f"{path} is set up already.")
        vault, kind = open_vault(config.vault, path / SECRETS)
        config = config.model_copy(update={"vault": kind})
        if config.is_own_ca:
            certificates_of(config, home, vault).create_ca()
        # Last: a directory without settings is not set up, and the next call starts over.
        home.write_private(CONFIG_FILE, config.to_json())
    return config


async def new_certificate_authority(path: Path) -> int:
    """End every pairing, then make a new certificate authority (TRUST-09). Returns the number of pairings.

    Communication servers that can be reached get an ``unpair``. A crash in between leaves fewer pairings and the old
    certificate authority.

    Raises:
        HomeInUse: The service runs.
        UsageError: The certificate is the operator's.
    """
    home = await asyncio.to_thread(Home.open, path)
    config = await asyncio.to_thread(read_config, home)
    if not config.is_own_ca:
        raise UsageError("This endpoint has no certificate authority of its own: its certificate is a file.")
    return await _end_pairings(home, config, then=lambda vault: certificates_of(config, home, vault).create_ca())


async def unpair_all(path: Path) -> int:
    """End every pairing, also where only their secrets are left; otherwise as :func:`new_certificate_authority`.

    Raises:
        HomeInUse: The service runs.
    """
    home = await asyncio.to_thread(Home.open, path)
    return await _end_pairings(home, await asyncio.to_thread(read_config, home))


async def _end_pairings(home: Home, config: EndpointConfig, then: Callable[[Vault], object] = lambda _: None) -> int:
    ended = await _unpair(home.path)
    async with contextlib.AsyncExitStack() as stack:
        storage = await open_storage(stack, home, config, anew=True)
        store = storage.store
        left = await store.pairings()
        for pairing in left:
            server = pairing.communication_role is CommunicationRole.SERVER
            await store.remove_pairing(pairing, tombstone=server)
        await asyncio.to_thread(then, storage.vault)
    return ended + len(left)


async def _unpair(path: Path) -> int:
    """Unpair at the servers that can be reached; return the number of pairings."""
    try:
        async with Endpoint.open(path, serve=False) as endpoint:
            pairings = await endpoint.pairings()
            keys = {p.key for p in pairings}
            await asyncio.gather(*(endpoint.nodes[key.local].unpair(key.remote, forget=True) for key in keys))
            return len(keys)
    except (NotInitialised, ConfigurationError, PairingsLost):
        return 0  # certificate authority or pairings are lost, damaged or out of date: that is why they begin anew
