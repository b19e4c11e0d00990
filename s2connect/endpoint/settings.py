"""Settings of an endpoint: read from its home, changed while it is open, and written there, or to the database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING
from uuid import uuid4

from pydantic import ValidationError

from s2connect.endpoint.config import CONFIG_FILE, EndpointConfig, NodeConfig, checked
from s2connect.endpoint.hosted import check_new_aliases
from s2connect.endpoint.state import EndpointState
from s2connect.errors import ConfigurationError, NotInitialised, StorageUnavailable, UsageError
from s2connect.model.common import NodeId
from s2connect.model.faults import first_fault
from s2connect.store.home import Home

if TYPE_CHECKING:  # of the extra
    from s2connect.store.postgresql.nodes import NodeRows


def read_config(home: Home) -> EndpointConfig:
    """Read the settings of a home, with the store of the environment where there is one.

    Raises:
        NotInitialised, ConfigurationError, StorageError: It has none; or they cannot be used, or not be read.
    """
    data = home.read(CONFIG_FILE)
    if data is None:
        raise NotInitialised(f"{home.path} is not set up.")
    config = EndpointConfig.from_json(data)
    config = config.with_environment()
    if config.store is None:
        _check_ids(config)
    return config


def _check_ids(config: EndpointConfig) -> None:
    """Refuse a node without an id, which would be another one with every start, and lose its pairings."""
    for number, node in enumerate(config.nodes):
        if "id" not in node.model_fields_set:
            raise ConfigurationError(
                f"{CONFIG_FILE}: nodes.{number}.id is missing.",
                hint=f'Add it, and never change it: "id": "{uuid4()}"',
            )


class SharedNodes:
    """Nodes of an endpoint in a database, for all of its instances."""

    def __init__(self, rows: NodeRows) -> None:
        self._rows = rows

    async def read(self, config: EndpointConfig) -> EndpointConfig:
        """Return settings with the nodes of the database; those that are only in the settings are put there.

        Raises:
            ConfigurationError: They do not go together, e.g. because two have the same alias.
            StorageUnavailable: The database is not there.
        """
        return await self._change(config, lambda known: known, new=config.nodes)

    async def reread(self, config: EndpointConfig) -> EndpointConfig:
        """Return settings with the nodes as they are in the database now. Raises as :meth:`read`."""
        rows = await self._rows.read()
        nodes = _nodes_of(rows)
        return config if tuple(nodes) == config.nodes else with_nodes(config, nodes)

    async def change(
        self, config: EndpointConfig, change: Callable[[Sequence[NodeConfig]], Sequence[NodeConfig]]
    ) -> EndpointConfig:
        """Return settings with the nodes that ``change`` makes of those in the database, where they are then.

        ``change`` may run several times. Raises what it raises, and as :meth:`read`.
        """
        return await self._change(config, change)

    async def _change(
        self,
        config: EndpointConfig,
        change: Callable[[Sequence[NodeConfig]], Sequence[NodeConfig]],
        new: Sequence[NodeConfig] = (),
    ) -> EndpointConfig:
        result = config

        def changed(rows: dict[NodeId, bytes | None]) -> dict[NodeId, bytes | None]:
            nonlocal result
            known = _nodes_of(rows)
            # One without an id has another one with every start: it is for a database that has none yet.
            known += [node for node in new if node.id not in rows and ("id" in node.model_fields_set or not rows)]
            nodes = tuple(change(known))
            result = with_nodes(config, nodes)
            kept = {node.id: node.model_dump_json(exclude_none=True).encode() for node in nodes}
            return {**dict.fromkeys(rows), **kept}

        await self._rows.change(lambda rows: changed(dict(rows)))
        return result


def _nodes_of(rows: Mapping[NodeId, bytes | None]) -> list[NodeConfig]:
    """Return the nodes of a database. Raises StorageUnavailable where a later version has written one."""
    nodes = []
    for node, settings in rows.items():
        if settings is not None:
            try:
                nodes.append(NodeConfig.model_validate_json(settings))
            except ValidationError as error:
                setting, what = first_fault(error)
                raise StorageUnavailable(
                    f"The settings of the node {node} in the database cannot be used by this version: "
                    f"{f'{setting}: ' if setting else ''}{what}.",
                    hint="Update s2connect on this machine.",
                ) from None
    return nodes


def with_nodes(config: EndpointConfig, nodes: Sequence[NodeConfig]) -> EndpointConfig:
    """Return settings with these nodes. Raises ConfigurationError where they do not go together."""
    settings = config.model_dump() | {"nodes": nodes}
    return checked(lambda: EndpointConfig.model_validate(settings), "the nodes")


class Settings:
    """Settings of an open endpoint: those in force, and those in its home. The errors are those of :class:`Endpoint`.

    Args:
        state: Has those in force.
        home: Where they are kept, if anywhere.
        nodes: The nodes in the database, where they are kept there; the home is only read then.
        from_home: Whether those in force were read there. A person may change those in the home meanwhile, which
            count from the next opening on.

    Attributes:
        lock: Held by a caller of :meth:`change_nodes`.
    """

    def __init__(
        self, state: EndpointState, home: Home | None, nodes: SharedNodes | None = None, *, from_home: bool
    ) -> None:
        self.lock = asyncio.Lock()
        self._state = state
        self._home = home
        self._nodes = nodes
        self._from_home = from_home

    async def change_nodes(self, change: Callable[[Sequence[NodeConfig]], Sequence[NodeConfig]]) -> None:
        """Set the nodes that ``change`` makes of those there are, here and where they are kept."""

        def changed(before: Sequence[NodeConfig]) -> Sequence[NodeConfig]:
            nodes = change(before)
            check_new_aliases(before, nodes)
            return nodes

        if self._nodes is not None:
            config = await self._nodes.change(self._state.config, changed)
        else:
            config = with_nodes(self._state.config, changed(self._state.config.nodes))
            if self._home is not None:
                await self._write(self._home, (await self._stored()).model_copy(update={"nodes": config.nodes}))
        self.apply(config)

    async def reread_nodes(self) -> EndpointConfig:
        """Return the settings in force, with the nodes that other instances have changed; the caller applies them."""
        return self._state.config if self._nodes is None else await self._nodes.reread(self._state.config)

    def apply(self, config: EndpointConfig) -> None:
        """Put settings in force."""
        self._state.config, self._state.local = config, config.endpoint()

    async def change(self, change: Callable[[EndpointConfig], EndpointConfig]) -> None:
        """Change the settings in the home; names and the nodes that are here count at once."""
        if self._home is None or not self._from_home:
            raise UsageError("The settings of this endpoint are not those of a state directory.")
        if self._nodes is not None:
            raise UsageError(
                "The settings of an instance are read only.",
                hint="Change config.json of every instance, and restart them; nodes: s2connect node list, add, remove.",
            )
        async with self.lock:
            wanted = await asyncio.to_thread(change, await self._stored())
            await self._write(self._home, wanted)
            config, stored = self._state.config, {node.id: node for node in wanted.nodes}
            # Those that a person has added to the file, or removed there, come and go with the next opening.
            nodes = tuple(stored.get(node.id, node) for node in config.nodes)
            self._state.config = config.model_copy(update={"nodes": nodes, "name": wanted.name})
            self._state.local = self._state.config.endpoint()

    async def keep(self) -> None:
        """Write those in force to the home, if there is one and those there are others."""
        if self._home is None or self._nodes is not None:
            return
        async with self.lock:
            if await asyncio.to_thread(read_config, self._home) != self._state.config:
                await self._write(self._home, self._state.config)

    async def _stored(self) -> EndpointConfig:
        if self._home is None or not self._from_home:
            return self._state.config
        return await asyncio.to_thread(read_config, self._home)

    @staticmethod
    async def _write(home: Home, config: EndpointConfig) -> None:
        await asyncio.to_thread(home.write_private, CONFIG_FILE, config.to_json())
