"""Preparation of a bridge: the settings in its home, and its identity, there or in the database of its instances."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Sequence
from typing import Final

from pydantic import ValidationError

from s2connect import Deployment, Endpoint, EndpointConfig, Home, create_home, first_fault, read_config
from s2connect.bridge.config import BridgeConfig, RouteConfig
from s2connect.bridge.identity import (
    BridgeIdentity,
    identity_of,
    made_identity,
    provide_identity,
    read_identity,
    write_identity,
)
from s2connect.errors import ConfigurationError, NotInitialised, StorageUnavailable, UsageError

_log = logging.getLogger(__name__)

CONFIG_FILE: Final = "config.json"
"""File of the home with the settings, for other commands."""


def prepare_home(config: BridgeConfig) -> EndpointConfig:
    """Create the home of a bridge, or update its settings from the file; return them. Blocks.

    Raises:
        ConfigurationError: They cannot be used.
        StorageError: The home cannot be used.
        UsageError: Its pairings have to be moved into the database first.
    """
    try:
        known = read_config(Home.open(config.home))
    except NotInitialised:
        known = None
    section = config.endpoint
    settings = {
        **section.model_dump(exclude_none=True),
        "vault": known.vault if known is not None else section.vault,
        "mqtt": config.mqtt,
        "proxy": config.proxy.url,
        "proxy_exceptions": config.proxy.exceptions,
        "nodes": known.nodes if known is not None else (),
    }
    if known is not None and section.host is None:
        settings["host"] = known.host
    elif section.host is None and section.deployment is Deployment.WAN:
        settings["host"] = socket.getfqdn()
    try:
        made = EndpointConfig.model_validate(settings)
    except ValidationError as error:
        setting, what = first_fault(error)
        raise ConfigurationError(f"{config.file}: {setting or 'the settings'}: {what}.") from None
    wanted = made.with_environment()
    if wanted.store is not None and known is not None:
        home = Home.open(config.home)
        if home.moved_to() is None and home.has_pairings:
            raise UsageError(
                f"The pairings of this bridge are in {config.home}, and not in the database that its file names.",
                hint=f"Move them there: s2connect store copy --to {wanted.store} --home {config.home}",
            )
    if known is None:
        made = create_home(config.home, made)
        wanted = made.with_environment()
    elif wanted.store is not None and wanted != known:
        with contextlib.suppress(StorageUnavailable):  # an instance can do with one that is read only
            Home.open(config.home).write_private(CONFIG_FILE, made.to_json())
    return wanted


async def provided_identity(config: BridgeConfig, endpoint: Endpoint) -> BridgeIdentity:
    """Return the identity of a bridge, and make it where there is none. The errors are those of reading it.

    All instances on a database have one. The first makes it, or has it in its home.
    """
    home = await asyncio.to_thread(Home.open, config.home)
    if endpoint.sharing is None:
        return await asyncio.to_thread(provide_identity, home)
    in_home = await asyncio.to_thread(read_identity, home)
    first = made_identity() if in_home is None else in_home
    content = await endpoint.sharing.change_document(
        Home.BRIDGE_FILE, lambda known: first.to_json() if known is None else known
    )
    return await _kept(home, in_home, identity_of(content or b"", "The database"))


async def remember_routes(config: BridgeConfig, endpoint: Endpoint) -> None:
    """Note the routes, so that one is recognised that is renamed later. Raises StorageError.

    Those of another instance, which are to be the same, are compared with them.
    """
    home = await asyncio.to_thread(Home.open, config.home)
    if endpoint.sharing is None:
        await asyncio.to_thread(_remember, home, config.routes)
        return
    known = made_identity()

    def with_routes(content: bytes | None) -> bytes:
        nonlocal known
        if content is not None:
            known = identity_of(content, "The database")
        return known.with_routes(config.routes).to_json()

    content = await endpoint.sharing.change_document(Home.BRIDGE_FILE, with_routes)
    in_home = await asyncio.to_thread(read_identity, home)
    await _kept(home, in_home, identity_of(content or b"", "The database"))
    if difference := known.difference(config.routes):
        await endpoint.sharing.report_difference(
            f"The routes of this instance are not those of the one that began last: {difference}. "
            "Give all instances the same file, and restart or reload them."
        )


def _remember(home: Home, routes: Sequence[RouteConfig]) -> None:
    known = provide_identity(home)
    if (wanted := known.with_routes(routes)) != known:
        write_identity(home, wanted)


async def _kept(home: Home, in_home: BridgeIdentity | None, identity: BridgeIdentity) -> BridgeIdentity:
    """Return an identity of the database, after a copy is in the home: for checks of the file without the database."""
    if in_home != identity:
        try:
            await asyncio.to_thread(write_identity, home, identity)
        except StorageUnavailable as error:
            _log.debug("the home has no copy of the bridge's identity: %s", error)
    return identity
