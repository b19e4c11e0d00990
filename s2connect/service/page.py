"""The page of a running service: its server, what it shows, and the commands that it executes."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from s2connect import PageSettings
from s2connect.bridge.bridge import Bridge
from s2connect.errors import ConfigurationError
from s2connect.service.control import as_line
from s2connect.service.observe import observation_of
from s2connect.service.sidecar import Service
from s2connect.store.home import Home
from s2connect.web.metrics import Monitoring
from s2connect.web.page import Execute, Page
from s2connect.web.server import DEFAULT_PORT, PageServer


def is_installed() -> bool:
    """Return whether the packages of the page are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("jinja2", "segno"))


@contextlib.asynccontextmanager
async def page_of(
    service: Service, home: Home, settings: PageSettings, bridge: Bridge | None = None
) -> AsyncIterator[None]:
    """Serve the page of a service until the context ends, as ``page`` of the service.

    Raises:
        ConfigurationError: The extra ``web`` is not installed, or address or port cannot be used.
        StorageError: The password of the page cannot be read.
    """
    if not is_installed():
        raise ConfigurationError("The page needs the packages of the extra web.", hint="pip install 's2connect[web]'")
    endpoint = service.endpoint
    observation = observation_of(service, bridge)
    endpoint.supervisor.keep(observation.follow_network, "look-around")
    page, monitoring = Page(observation, _executor(service)), Monitoring(observation)

    async def started(port: int) -> PageServer:
        server = PageServer(
            supervisor=endpoint.supervisor,
            bind=settings.bind,
            port=port,
            tls=endpoint.tls,
            host=endpoint.config.host,
            home=home,
        )
        page.install(server)
        monitoring.install(server)
        await server.start()
        return server

    try:
        server = await started(DEFAULT_PORT if settings.port is None else settings.port)
    except ConfigurationError as error:
        taken = isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE
        if settings.port is not None or not taken:
            hint = "Choose others: --page-bind, --page-port, s2connect config set page.port, or [page] of a bridge."
            raise ConfigurationError(f"The page: {error.what}", hint=hint) from error
        server = await started(0)  # another service of this machine has it
    try:
        service.page = server
        yield
    finally:
        service.page = None
        await server.close()


def _executor(service: Service) -> Execute:
    async def execute(command: Mapping[str, Any]) -> dict[str, Any]:
        result = await service.answer(as_line(dict(command)))
        written: dict[str, Any] = json.loads(as_line(result.to_object()))
        return written

    return execute
