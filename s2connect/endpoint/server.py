"""Server of an endpoint: pairing, session initiation and WebSockets on one port. Imported only where one is run."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from s2connect.certs.tls import ServerContext, leaf_fingerprint_of
from s2connect.endpoint.local_network import LocalNetwork
from s2connect.endpoint.pairing import PairingManager
from s2connect.endpoint.pairings import Pairings
from s2connect.endpoint.state import EndpointState
from s2connect.https import PAIRING_PATH, SESSION_PATH, WEBSOCKET_PATH
from s2connect.https.server import HttpsServer, tls_object
from s2connect.model.common import Deployment
from s2connect.pairing.challenge import lan_binding, wan_binding
from s2connect.pairing.http_server import PairingService
from s2connect.session.http_server import SessionService
from s2connect.transports.base import Transport
from s2connect.transports.websocket import WebSocketTransport


class Server:
    """Running server of an endpoint. Make it with :meth:`start`.

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
        state: EndpointState,
        tls: ServerContext,
        pairing: PairingManager,
        pairings: Pairings,
        transports: Mapping[str, Transport],
        websocket: WebSocketTransport,
        lan: LocalNetwork | None,
    ) -> Server:
        """Listen.

        Raises:
            ConfigurationError: The address or port cannot be used.
        """
        config = state.config

        def binding(request: web.Request) -> bytes:
            """Return F or D of HMAC-02 for the connection of a request."""
            if config.deployment is Deployment.WAN or config.wan_pairing_server:
                return wan_binding(config.host)
            return lan_binding(leaf_fingerprint_of(tls_object(request)))

        async def upgrade(request: web.Request) -> web.StreamResponse:
            return await websocket.handler(request, accepted=lambda: server.release(request))

        server = HttpsServer(tls.context, host=config.bind, port=config.port)
        service = PairingService(
            pairing.server,
            pairings,
            state.supervisor,
            binding=binding,
            ready=lambda: state.ready,
            on_failed=pairing.attempt_failed,
        )
        service.mount(server, PAIRING_PATH)
        SessionService(
            pairings.session_server, lambda: state.local, state.store, pairings, transports, state.supervisor
        ).mount(server, SESSION_PATH)
        if lan is not None:
            lan.mount(server, PAIRING_PATH)
        server.add_get(WEBSOCKET_PATH, upgrade)
        await server.start()
        return cls(server, service)

    async def close(self) -> None:
        """Stop accepting, and end the open connections."""
        self._pairing.close()
        await self._server.close()
