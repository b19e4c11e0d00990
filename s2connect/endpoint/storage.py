"""Storage of an endpoint: in memory, in its state directory, or in a database that several instances share."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from s2connect.endpoint.config import EndpointConfig
from s2connect.endpoint.instances import instance_name, shared_port
from s2connect.endpoint.settings import SharedNodes, read_config
from s2connect.endpoint.state import SharedState
from s2connect.errors import UsageError
from s2connect.store.base import Store, Vault
from s2connect.store.home import Home
from s2connect.store.memory import MemoryStore, MemoryVault
from s2connect.store.postgresql.address import STORE_VARIABLE, require_extra, without_password
from s2connect.store.restoring import DATABASE, SECRETS
from s2connect.store.sqlite import SqliteStore
from s2connect.store.vault import open_vault

if TYPE_CHECKING:  # psycopg is an extra
    from s2connect.store.postgresql.documents import DocumentRows
    from s2connect.store.postgresql.instances import Presence

KEY_FILE_VARIABLE: Final = "S2CONNECT_STORE_KEY_FILE"
"""Environment variable with the path of the key file, before that of the settings."""


@dataclass(frozen=True, slots=True)
class Storage:
    """Open state of one endpoint.

    Attributes:
        config: Settings, with the nodes of the database where there is one.
        store: Pairings.
        vault: Secrets.
        nodes: The nodes in the database; None where they are in the settings.
        shared: What instances share in the database while requests are under way; None without one.
        presence: This process as one of the instances on the database, not claimed yet; None without one.
        documents: Documents of the application in the database; None without one.
    """

    config: EndpointConfig
    store: Store
    vault: Vault
    nodes: SharedNodes | None = None
    shared: SharedState | None = None
    presence: Presence | None = None
    documents: DocumentRows | None = None


def store_url(config: EndpointConfig) -> str | None:
    """Return the URL of the database, with the password that it has in the environment; None without a database."""
    url = os.environ.get(STORE_VARIABLE, "")
    return url if config.store is not None and without_password(url) == config.store else config.store


def key_file(config: EndpointConfig) -> Path | None:
    """Return the key file of the environment, or else of the settings; None without one."""
    named = os.environ.get(KEY_FILE_VARIABLE)
    return Path(named) if named else config.store_key_file


async def open_storage(
    stack: contextlib.AsyncExitStack, home: Home | None, config: EndpointConfig | None = None, *, anew: bool = False
) -> Storage:
    """Open what the settings name, until the stack ends: None are those of the home.

    A home that keeps the state is locked. Beside a database it is only read, also by several instances at a time.
    With ``anew`` lost pairings of a home are no error.

    Raises:
        UsageError: There is neither a home nor settings.
        ConfigurationError: The extra, or the key of the database is missing, or it is another one; or nodes do not go
            together.
        StorageError: It cannot be opened.
    """
    found: EndpointConfig
    if home is not None:
        found = config if config is not None else await asyncio.to_thread(read_config, home)
        if found.store is None:
            await asyncio.to_thread(stack.enter_context, home.lock())
            if config is None:
                found = await asyncio.to_thread(read_config, home)  # nobody changes it any more
    elif config is not None:
        found = config
    else:
        raise UsageError("An endpoint needs a home or settings.")
    return await _open(stack, home, found, anew=anew)


async def _open(stack: contextlib.AsyncExitStack, home: Home | None, config: EndpointConfig, *, anew: bool) -> Storage:
    url = store_url(config)
    if url is not None:
        return await _open_database(stack, config, url)
    if home is None:
        memory = MemoryStore()
        stack.push_async_callback(memory.close)
        return Storage(config, memory, MemoryVault())
    vault, _ = await asyncio.to_thread(open_vault, config.vault, home.path / SECRETS)
    store = await SqliteStore.open(home.path / DATABASE, vault, anew=anew)
    stack.push_async_callback(store.close)
    return Storage(config, store, vault)


async def _open_database(stack: contextlib.AsyncExitStack, config: EndpointConfig, url: str) -> Storage:
    require_extra()
    from s2connect.shared.state import PostgresqlShared
    from s2connect.store.postgresql.documents import DocumentRows
    from s2connect.store.postgresql.instances import Presence
    from s2connect.store.postgresql.key_check import check_key
    from s2connect.store.postgresql.nodes import NodeRows
    from s2connect.store.postgresql.sealing import Sealer, read_keys
    from s2connect.store.postgresql.store import PostgresqlStore
    from s2connect.store.postgresql.vault import PostgresqlVault

    if (port := shared_port()) is not None:
        config = config.model_copy(update={"port" if config.listen_port is None else "listen_port": port})
    keys = await asyncio.to_thread(read_keys, key_file(config))
    name = instance_name(config)
    store = await PostgresqlStore.open(url, keys, instance=name)
    stack.push_async_callback(store.close)
    sealer = Sealer(keys)
    await store.database.read("read", lambda connection: check_key(connection, sealer, store.database.shown))
    nodes = SharedNodes(NodeRows(store.database))
    shared = PostgresqlShared(store.database, sealer)
    await shared.read_clock()
    vault = PostgresqlVault(url, keys, instance=name)
    stack.callback(vault.close)
    presence = Presence(store.database, name, version=version("s2connect"))
    stack.push_async_callback(presence.leave)
    documents = DocumentRows(store.database)
    return Storage(await nodes.read(config), store, vault, nodes, shared, presence, documents)
