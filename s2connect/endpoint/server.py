"""Server of an endpoint: pairing, session initiation and WebSockets on one port. Imported only where one is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from aiohttp import web

from s2connect.certs.tls import ServerContext, leaf_fingerprint_of
from s2connect.endpoint.instances import shared_port
from s2connect.endpoint.local_network import LocalNetwork
from s2connect.endpoint.pairing import PairingManager
from s2connect.endpoint.pairings import Pairings
from s2connect.endpoint.state import EndpointState
from s2connect.https import SESSION_PATH, WEBSOCKET_PATH
from s2connect.https.proxy_protocol import Balancers
from s2connect.https.server import HttpsServer, tls_object
from s2connect.model.common import Deployment
from s2connect.model.url import PAIRING_PATH
from s2connect.pairing.challenge import lan_binding, wan_binding
from s2connect.pairing.http_server import PairingService
from s2connect.session.http_server import SessionService
from s2connect.session.shared import SharedOfferingSessions, TakenOffer
from s2connect.transports.base import Connection, ConnectionInfo, Transport
from s2connect.transports.offers import NotPrepared
from s2connect.transports.websocket import WebSocketTransport


class OffersOfInstances:
    """Offers that instances share, for the WebSocket transport."""

    def __init__(self, offers: SharedOfferingSessions, session: SessionService) -> None:
        self.is_open = offers.is_open
        self._offers = offers
        self._session = session

    async def take(self, key: str) -> tuple[ConnectionInfo, Callable[[Connection], None]] | None:
        taken = await self._offers.take(key)
        if taken is None and self._session.prepares():
            taken = await self._from_elsewhere(key)
        return None if taken is None else (taken.info, partial(self._session.arrived, taken))

    async def _from_elsewhere(self, key: str) -> TakenOffer | None:
        """Take a connection here that another instance is prepared for. Raises NotPrepared."""
        held = await self._offers.held_elsewhere(key)
        if held is None:
            return None
        if not await self._session.prepare(*held):
            raise NotPrepared
        return await self._offers.take(key, also_of_others=True)


class Server(HttpsServer):
    """Server of an endpoint."""

    def __init__(
        self,
        state: EndpointState,
        tls: ServerContext,
        pairing: PairingManager,
        pairings: Pairings,
        transports: Mapping[str, Transport],
        websocket: WebSocketTransport,
        lan: LocalNetwork | None,
    ) -> None:
        config = state.config
        at_balancer = config.tls == "balancer"
        super().__init__(
            None if at_balancer else tls.context,
            host=config.bind,
            port=config.listens_on,
            balancers=Balancers(config.balancers, only=config.balancers_only or at_balancer)
            if config.balancers
            else None,
            shared=config.store is not None and shared_port() is not None,
        )
        self.shares_store = state.shared is not None

        def binding(request: web.Request) -> bytes:
            """Return F or D of HMAC-02 for the connection of a request."""
            if config.deployment is Deployment.WAN or config.wan_pairing_server:
                return wan_binding(config.host)
            return lan_binding(leaf_fingerprint_of(tls_object(request)))

        async def upgrade(request: web.Request) -> web.StreamResponse:
            return await websocket.handler(request, accepted=lambda: self.release(request))

        self._pairing = PairingService(
            pairing.shared,
            pairings,
            state.supervisor,
            binding=binding,
            ready=lambda: state.ready,
            on_failed=pairing.attempt_failed,
            wall_time=state.wall_time,
        )
        self._pairing.mount(self, PAIRING_PATH)
        session = SessionService(
            pairings.shared, lambda: state.local, state.store, pairings, transports, state.supervisor, state.wall_time
        )
        session.mount(self, SESSION_PATH)
        if pairings.offers is not None:
            websocket.shared = OffersOfInstances(pairings.offers, session)
        if lan is not None:
            lan.mount(self, PAIRING_PATH)
        self.add_get(WEBSOCKET_PATH, upgrade)

    async def close(self) -> None:
        self._pairing.close()
        await super().close()
