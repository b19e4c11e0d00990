"""Access of commands to an endpoint: by its running service, or opened for one command."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from s2connect import Endpoint, EndpointConfig
from s2connect.errors import ConfigurationError, HomeInUse
from s2connect.service.control import Control, connect
from s2connect.service.sidecar import Service
from s2connect.store.home import Home, default_home

Reached = Control | Service  # executes commands on an endpoint


@contextlib.asynccontextmanager
async def reach(path: Path, *, serve: bool = False) -> AsyncIterator[Reached]:
    """Reach the endpoint of a state directory.

    Where no service runs, ``serve`` has it listen and be found for the while, if that is possible, so that devices can
    wait here. ``HomeInUse`` says that another process has it and is no service.
    """
    home = await asyncio.to_thread(Home.open, path)
    async with connect(home) as control:
        if control is not None:
            yield control
            return
    try:
        async with contextlib.AsyncExitStack() as stack:
            try:
                endpoint = await stack.enter_async_context(Endpoint.open(path, serve=serve))
            except ConfigurationError:
                if not serve:
                    raise
                endpoint = await stack.enter_async_context(Endpoint.open(path, serve=False))
            yield Service(endpoint, path)
    except HomeInUse as error:
        raise HomeInUse(error.what, hint="It does not answer here; wait until it has ended, or stop it.") from error


@contextlib.asynccontextmanager
async def reach_nothing() -> AsyncIterator[Service]:
    """Open an endpoint without a state directory, which is enough to look at others."""
    async with Endpoint.open(config=EndpointConfig(vault="files"), serve=False) as endpoint:
        yield Service(endpoint, default_home())
