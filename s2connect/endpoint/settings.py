"""Settings of an endpoint: read from its home, changed while it is open, and written there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from s2connect.endpoint.config import CONFIG_FILE, EndpointConfig, NodeConfig, checked
from s2connect.endpoint.hosted import check_new_aliases
from s2connect.endpoint.state import EndpointState
from s2connect.errors import NotInitialised, UsageError
from s2connect.store.home import Home


def read_config(home: Home) -> EndpointConfig:
    """Read the settings of a home.

    Raises:
        NotInitialised, ConfigurationError, StorageError: It has none; or they cannot be used, or not be read.
    """
    data = home.read(CONFIG_FILE)
    if data is None:
        raise NotInitialised(f"{home.path} is not set up.")
    return EndpointConfig.from_json(data)


class Settings:
    """Settings of an open endpoint: those in force, and those in its home. The errors are those of :class:`Endpoint`.

    Args:
        state: Has those in force.
        home: Where they are kept, if anywhere.
        from_home: Whether those in force were read there. A person may change those in the home meanwhile, which
            count from the next opening on.

    Attributes:
        lock: Held by a caller of :meth:`write_nodes`, from before it reads the nodes.
    """

    def __init__(self, state: EndpointState, home: Home | None, *, from_home: bool) -> None:
        self.lock = asyncio.Lock()
        self._state = state
        self._home = home
        self._from_home = from_home

    async def write_nodes(self, nodes: Sequence[NodeConfig]) -> None:
        """Set other nodes, here and in the home."""
        config = self._state.config
        check_new_aliases(config.nodes, nodes)
        settings = config.model_dump() | {"nodes": nodes}
        config = checked(lambda: EndpointConfig.model_validate(settings), "the nodes")
        if self._home is not None:
            await self._write(self._home, (await self._stored()).model_copy(update={"nodes": config.nodes}))
        self._state.config, self._state.local = config, config.endpoint()

    async def change(self, change: Callable[[EndpointConfig], EndpointConfig]) -> None:
        """Change the settings in the home; names and the nodes that are here count at once."""
        if self._home is None or not self._from_home:
            raise UsageError("The settings of this endpoint are not those of a state directory.")
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
        if self._home is None:
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
