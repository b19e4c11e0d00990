"""Copies of a home into a database and back. The side that is left is sealed, so that no two go on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from s2connect.endpoint.backup import collected, put_into_home
from s2connect.endpoint.config import CONFIG_FILE, EndpointConfig, NodeConfig, checked
from s2connect.endpoint.settings import with_nodes
from s2connect.errors import NotInitialised, UsageError
from s2connect.store.backup_file import Contents
from s2connect.store.home import Home
from s2connect.store.postgresql import copying
from s2connect.store.postgresql.address import shown, without_password
from s2connect.store.restoring import DATABASE, SECRETS
from s2connect.store.snapshot import check_database
from s2connect.store.sqlite import SqliteStore
from s2connect.store.vault import open_vault

__all__ = ["copy_to_database", "copy_to_home"]


async def copy_to_database(path: Path, url: str, keys: Sequence[bytes], key_file: Path | None) -> int:
    """Move the state of a home, whose service does not run, into a database without one; return the number of pairings.

    The home is sealed first, then the database is filled in one transaction, then the settings of the home name the
    database. Cut off anywhere it can be run again, and goes on.

    Raises:
        UsageError: The database has nodes or pairings, or instances use it.
        ConfigurationError: The endpoint is none that several instances can be: in the LAN, or its own CA.
        HomeInUse, HomeMoved, StorageError: The home cannot be read, or the database not be written.
    """
    home = await asyncio.to_thread(Home.open, path)
    async with contextlib.AsyncExitStack() as stack:
        await asyncio.to_thread(stack.enter_context, home.lock(moved=True))
        again = await asyncio.to_thread(home.moved_to) is not None
        if again and await asyncio.to_thread(home.moved_to) != shown(url):
            raise await asyncio.to_thread(home.moved) or UsageError("The home was moved.")
        config = await asyncio.to_thread(_settings, home)
        wanted = checked(
            lambda: EndpointConfig.model_validate(
                config.model_dump()
                | {"store": without_password(url), "store_key_file": key_file or config.store_key_file}
            ),
            CONFIG_FILE,
        )
        vault, _ = await asyncio.to_thread(open_vault, config.vault, path / SECRETS)
        store = await SqliteStore.open(path / DATABASE, vault)
        try:
            contents, _ = await collected(home, config, vault, store)
        finally:
            await store.close()
        nodes = {UUID(bytes=one.id.bytes): one.model_dump_json(exclude_none=True).encode() for one in config.nodes}
        documents = {name: content for name, content in contents.files.items() if name == Home.BRIDGE_FILE}
        state = copying.State(contents.database, contents.secrets, nodes, documents)
        where = await asyncio.to_thread(_place, path)
        if not again:
            await copying.check_target(url, where)
            await asyncio.to_thread(home.seal, shown(url), datetime.now(UTC))
        number = await copying.write(url, keys, state, where, again=again)
        await asyncio.to_thread(home.write_private, CONFIG_FILE, wanted.to_json())
        return number


async def copy_to_home(path: Path, url: str, keys: Sequence[bytes]) -> int:
    """Move the state of a database that no instance uses into a home; return the number of pairings.

    The home has settings, and no state of its own: it is empty, or sealed because its state went to that database. The
    database is sealed first, then the home has the state at one moment. Cut off anywhere it can be run again.

    Raises:
        UsageError: The home has pairings, or instances use the database.
        HomeInUse, HomeMoved, StorageError: The database cannot be read, or the home not be written.
    """
    home = await asyncio.to_thread(Home.open, path)
    async with contextlib.AsyncExitStack() as stack:
        await asyncio.to_thread(stack.enter_context, home.lock(moved=True))
        moved_to = await asyncio.to_thread(home.moved_to)
        if moved_to not in (None, shown(url)):
            raise await asyncio.to_thread(home.moved) or UsageError("The home was moved.")
        config = await asyncio.to_thread(_settings, home)
        if moved_to is None and await asyncio.to_thread(lambda: home.has_pairings):
            raise UsageError(f"{path} has pairings already.", hint="Name another state directory with --home.")
        state = await copying.read(url, keys, await asyncio.to_thread(_place, path))
        nodes = [NodeConfig.model_validate_json(settings) for settings in state.nodes.values()]
        kept = with_nodes(config.model_copy(update={"store": None, "store_key_file": None, "instance": None}), nodes)
        contents = Contents(
            made_at=datetime.now(UTC).timestamp(),
            moved=True,
            files={CONFIG_FILE: kept.to_json(), **state.documents},
            secrets=dict(state.secrets),
            database=state.database,
        )
        await asyncio.to_thread(put_into_home, home, contents, kept, keep_files=True)
        return await asyncio.to_thread(check_database, state.database)


def _settings(home: Home) -> EndpointConfig:
    """Return the settings in a home as they are in the file: without those of the environment."""
    data = home.read(CONFIG_FILE)
    if data is None:
        raise NotInitialised(f"{home.path} is not set up.")
    return EndpointConfig.from_json(data)


def _place(path: Path) -> str:
    return str(path.resolve())
