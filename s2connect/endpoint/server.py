"""The server of an endpoint: pairing, session initiation and WebSockets on one port. Imported only where one is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from aiohttp import web

from s2connect.certs.tls import ServerContext, leaf_fingerprint_of
from s2connect.endpoint.config import EndpointConfig
from s2connect.endpoint.local_network import LocalNetwork
from s2connect.https import PAIRING_PATH, SESSION_PATH, WEBSOCKET_PATH
from s2connect.https.server import HttpsServer, tls_object
from s2connect.model.common import Deployment
from s2connect.model.local import LocalEndpoint
from s2connect.pairing.challenge import lan_binding, wan_binding
from s2connect.pairing.http_server import PairingService
from s2connect.pairing.manager import PairingManager, PairingServerEvent
from s2connect.pairing.server_core import PairingServer
from s2connect.session.http_server import SessionManager, SessionService
from s2connect.session.server_core import SessionServer
from s2connect.store.base import Store
from s2connect.supervisor import Supervisor
from s2connect.transports.base import Transport
from s2connect.transports.websocket import WebSocketTransport


class Manager(PairingManager, SessionManager, Protocol):
    """Interface of the two protocols to the manager of pairings."""


class Server:
    """A running server. Make it with :meth:`start`.

    Attributes:
        port: The port it listens on.
    """

    def __init__(self, server: HttpsServer, pairing: PairingService) -> None:
        self._server = server
        self._pairing = pairing
        self.port = server.port

    @classmethod
    async def start(
        cls,
        config: EndpointConfig,
        tls: ServerContext,
        *,
        manager: Manager,
        supervisor: Supervisor,
        on_failed: Callable[[PairingServerEvent], None],
        endpoint: Callable[[], LocalEndpoint],
        ready: Callable[[], bool],
        pairing_server: PairingServer,
        session_server: SessionServer,
        store: Store,
        transports: Mapping[str, Transport],
        websocket: WebSocketTransport,
        lan: LocalNetwork | None,
    ) -> Server:
        """Listen.

        Raises:
            ConfigurationError: The address or port cannot be used.
        """

        def binding(request: web.Request) -> bytes:
            """F or D of HMAC-02 for the connection of a request."""
            if config.deployment is Deployment.WAN or config.wan_pairing_server:
                return wan_binding(config.host)
            return lan_binding(leaf_fingerprint_of(tls_object(request)))

        async def upgrade(request: web.Request) -> web.StreamResponse:
            return await websocket.handler(request, accepted=lambda: server.release(request))

        server = HttpsServer(tls.context, host=config.bind, port=config.port)
        pairing = PairingService(pairing_server, manager, binding=binding, ready=ready, on_failed=on_failed)
        session = SessionService(session_server, endpoint, store, manager, transports, supervisor)
        pairing.mount(server, PAIRING_PATH)
        session.mount(server, SESSION_PATH)
        if lan is not None:
            lan.mount(server, PAIRING_PATH)
        server.add_get(WEBSOCKET_PATH, upgrade)
        await server.start()
        return cls(server, pairing)

    async def close(self) -> None:
        """Stop accepting and end what is open."""
        self._pairing.close()
        await self._server.close()
