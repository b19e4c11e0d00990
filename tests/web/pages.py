"""A service with its page, in the process of the test."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2connect import Endpoint, EndpointConfig, NodeConfig, Role, create_home
from s2connect.https.server import free_port
from s2connect.service.control import as_line
from s2connect.service.sidecar import Service
from s2connect.supervisor import Supervisor
from s2connect.web.observation import Observation
from s2connect.web.page import Execute, Page
from s2connect.web.server import PageServer
from tests.web.shown import no_command


@dataclass
class Site:
    """An endpoint, its service, and its page."""

    endpoint: Endpoint
    service: Service
    server: PageServer

    @property
    def pairing_url(self) -> str:
        return str(self.endpoint.pairing_url)

    def code(self) -> str:
        return str(self.endpoint.node().issue_pairing_code())


@asynccontextmanager
async def site(home: Path, role: Role, *, bind: str = "127.0.0.1", **node: Any) -> AsyncIterator[Site]:
    """Run an endpoint on loopback with its page at any free port."""
    about = {"brand": "Acme", "type": "Battery" if role is Role.RM else "Energy manager", "model_name": "One"} | node
    nodes = (NodeConfig.model_validate({"role": role, **about}),)
    create_home(home, EndpointConfig(host="127.0.0.1", port=free_port(), nodes=nodes, advertise=False))
    async with Endpoint.open(home) as endpoint:
        service = Service(endpoint, home, stop=lambda: None)
        service.follow()

        async def execute(command: Mapping[str, Any]) -> Mapping[str, Any]:
            result = await service.answer(as_line(dict(command)))
            written: dict[str, Any] = json.loads(as_line(result.to_object()))
            return written

        observation = Observation(endpoint)
        endpoint.supervisor.keep(observation.run, "observation")
        tls = None if bind == "127.0.0.1" else endpoint._tls
        server = PageServer(supervisor=endpoint.supervisor, bind=bind, port=0, tls=tls)
        Page(observation, execute).install(server)
        await server.start()
        try:
            yield Site(endpoint, service, server)
        finally:
            await server.close()
            await service.finish(1.0)


@asynccontextmanager
async def serving(
    observation: Observation, *, port: int = 0, execute: Execute = no_command
) -> AsyncIterator[PageServer]:
    """Serve the page of an observation, whose buttons do nothing by themselves."""
    async with Supervisor("test") as supervisor:
        server = PageServer(supervisor=supervisor, port=port)
        Page(observation, execute).install(server)
        await server.start()
        try:
            yield server
        finally:
            await server.close()
