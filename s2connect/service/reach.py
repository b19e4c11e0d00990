"""Access of commands to an endpoint: by its running service, or opened for one command."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol, TypeVar

from s2connect import Endpoint, EndpointConfig
from s2connect.errors import ConfigurationError, HomeInUse, S2ConnectError
from s2connect.service.commands import Command
from s2connect.service.control import Control, connect
from s2connect.service.failures import Failure
from s2connect.service.sidecar import Service
from s2connect.store.home import Home, default_home

_Result = TypeVar("_Result")


class Reached(Protocol):
    """Executes commands on an endpoint."""

    async def ask(self, command: Command[_Result]) -> _Result:
        """Execute a command of the sidecar contract and return its result.

        Raises:
            Failure: It failed.
        """


class _Opened:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def ask(self, command: Command[_Result]) -> _Result:
        try:
            return await self._service.perform(command)
        except S2ConnectError as error:
            raise Failure.of(error) from error


@contextlib.asynccontextmanager
async def reach(path: Path, *, serve: bool = False) -> AsyncIterator[Reached]:
    """Reach the endpoint of a state directory.

    Args:
        path: The state directory.
        serve: Where no service runs, listen and be found for the while, if that is possible, so that devices can wait
            here.

    Raises:
        S2ConnectError: It cannot be opened; ``HomeInUse`` where another process has it and is no service.
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
            yield _Opened(Service(endpoint, path))
    except HomeInUse as error:
        raise HomeInUse(error.what, hint="It does not answer here; wait until it has ended, or stop it.") from error


def reaches_service(reached: Reached) -> bool:
    """Return whether a running service was reached."""
    return isinstance(reached, Control)


@contextlib.asynccontextmanager
async def reach_nothing() -> AsyncIterator[Reached]:
    """Open an endpoint without a state directory, which is enough to look at others."""
    async with Endpoint.open(config=EndpointConfig(vault="files"), serve=False) as endpoint:
        yield _Opened(Service(endpoint, default_home()))
