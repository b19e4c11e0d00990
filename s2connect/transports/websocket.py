"""WebSocket, the transport of the standard: websockets, with aiohttp's upgrade as communication server."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING

from s2connect.errors import ProtocolViolation
from s2connect.model.common import WEBSOCKET, MalformedMessage
from s2connect.model.secret import TOKEN_BYTES, CommunicationToken
from s2connect.model.session_init import CommunicationDetails, WebSocketCommunicationDetails
from s2connect.model.url import WebSocketUrl
from s2connect.transports.base import Connection, ConnectionInfo, Offer, Trust
from s2connect.transports.offers import NotPrepared, OpenOffers, SharedOffers
from s2connect.transports.websocket_client import open_client
from s2connect.transports.websocket_server import accept, bearer_of, upgraded, wants_upgrade

if TYPE_CHECKING:
    from aiohttp import web


class WebSocketTransport:
    """The standard's transport.

    As communication server it needs a URL and its :meth:`handler` at the path of that URL, on the HTTPS server that
    has the endpoint's certificate (WS-01). As communication client it needs nothing.

    Args:
        url: Where clients connect, or a function that says so when an offer is made; None on a client only.
        compression: Whether permessage-deflate is offered and accepted (WS-03). It costs latency and memory: turn it
            off on a link within one machine or network.

    Attributes:
        shared: Offers that are not of this process alone, where there are any.
    """

    name = WEBSOCKET

    def __init__(
        self,
        url: WebSocketUrl | Callable[[], WebSocketUrl] | None = None,
        *,
        compression: bool = True,
    ) -> None:
        self._url = url
        self._compression = compression
        self._offers: OpenOffers[ConnectionInfo] = OpenOffers()
        self.shared: SharedOffers | None = None

    def can_offer(self) -> bool:
        return self._url is not None

    def offer(self, info: ConnectionInfo) -> Offer:
        """Offer one client a connection, once, for 30 seconds (SES-04). See :meth:`Transport.offer`.

        Raises:
            SessionRefused: Too many offers wait already.
            RuntimeError: This transport was made without a URL.
        """
        if self._url is None:
            raise RuntimeError("this WebSocketTransport has no URL to offer")
        url = self._url if isinstance(self._url, WebSocketUrl) else self._url()
        token = CommunicationToken.from_bytes(secrets.token_bytes(TOKEN_BYTES))
        future = self._offers.open(token.reveal(), info)
        details = WebSocketCommunicationDetails(
            communication_protocol=WEBSOCKET, websocket_token=token, websocket_url=url
        )
        return Offer(details, future)

    async def handler(self, request: web.Request, *, accepted: Callable[[], None] | None = None) -> web.StreamResponse:
        """Serve the URL's path on aiohttp: check the token before the upgrade (WS-02).

        It returns after the upgrade: a session needs no task here, and ends by its connection.

        Args:
            request: The request.
            accepted: Called once the token has proved to be right.
        """
        from aiohttp import web  # a device that only connects does without aiohttp's server

        refused = web.Response(status=401, headers={"WWW-Authenticate": "Bearer"})
        presented, now = bearer_of(request), asyncio.get_running_loop().time()
        if presented is None or self._offers.get(presented, now=now) is None:
            if presented is None or self.shared is None:
                return refused
            answered = await self._handle_shared(request, presented, self.shared, accepted)
            return refused if answered is None else answered  # an empty response counts as false in aiohttp before 3.12
        if not wants_upgrade(request):
            return web.Response(status=400, text="a WebSocket upgrade is expected here")
        offer = self._offers.take(presented, now=now)
        if offer is None or offer[1].done() or request.transport is None:
            return refused
        if accepted is not None:
            accepted()
        info, future = offer
        try:
            future.set_result(accept(request, info, compression=self._compression))
        except BaseException:
            future.cancel()
            raise
        return upgraded()

    async def _handle_shared(
        self, request: web.Request, presented: str, offers: SharedOffers, accepted: Callable[[], None] | None
    ) -> web.StreamResponse | None:
        """Serve an offer that any process may take; None where there is none."""
        from aiohttp import web

        if not wants_upgrade(request):
            known = await offers.is_open(presented)
            return web.Response(status=400, text="a WebSocket upgrade is expected here") if known else None
        try:
            taken = await offers.take(presented)
        except NotPrepared:
            # The client comes again, from session initiation on (REC-01).
            return web.Response(status=503, headers={"Retry-After": "1"})
        if taken is None or request.transport is None:
            return None
        if accepted is not None:
            accepted()
        info, arrived = taken
        arrived(accept(request, info, compression=self._compression))
        return upgraded()

    async def connect(self, info: ConnectionInfo, details: CommunicationDetails, trust: Trust) -> Connection:
        """Connect as communication client. See :meth:`Transport.connect`; cancel-safe."""
        if not isinstance(details, WebSocketCommunicationDetails):
            try:
                details = WebSocketCommunicationDetails.from_value(details.to_value())
            except MalformedMessage as error:
                raise ProtocolViolation(
                    f"The other side gave no usable WebSocket address and token: {error}."
                ) from None
        if details.communication_protocol != WEBSOCKET:
            raise ProtocolViolation("The other side gave the address of another communication protocol.")
        return await open_client(
            details.websocket_url,
            info,
            compression=self._compression,
            token=details.websocket_token,
            trust=trust,
        )

    async def close(self) -> None:
        """Withdraw all offers. See :meth:`Transport.close`."""
        self._offers.close()
