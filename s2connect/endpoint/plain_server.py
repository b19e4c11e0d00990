"""A listener for plain S2 over WebSocket, where no web server of the application's own takes the clients in."""

from __future__ import annotations

import logging
import ssl
from types import TracebackType
from typing import TYPE_CHECKING, Self

from s2connect.errors import ConfigurationError
from s2connect.https.server import HttpsServer
from s2connect.transports.legacy import EAVESDROPPING, PlainConnection, PlainDoor, is_this_machine

if TYPE_CHECKING:
    from aiohttp import web

_log = logging.getLogger(__name__)


class PlainServer:
    """Listens for a :class:`PlainDoor`, with the bounds on strangers that an endpoint's server has (SEC-03).

    ::

        door = PlainDoor(role=Role.CEM, local=node_id, tokens={"battery": Secret("its token")})
        async with PlainServer(door, port=8080, path="/s2") as server:
            async for connection in server:
                ...

    Leaving the context ends the iteration and every connection of the door.

    Args:
        door: Decides who comes in; belongs to the server from now on.
        host: Address to listen on; None for all.
        port: TCP port, 0 for any.
        path: Path of the URL; with ``{id}`` where the door tells its clients by their paths (``by_path``).
        tls: TLS server context, e.g. ``ServerContext(…).context``; None for ``ws://``.

    Attributes:
        port: The port it listens on, once started.

    Raises:
        ConfigurationError: Without TLS, ``host`` is not of this machine only, and the door does not allow that; or
            ``path`` does not begin with a slash, or has ``{id}`` without ``by_path``, or the other way round.
    """

    def __init__(
        self,
        door: PlainDoor,
        *,
        host: str | None = "127.0.0.1",
        port: int = 0,
        path: str = "/",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        if not path.startswith("/"):
            raise ConfigurationError("The path of a URL begins with a slash.")
        if ("{id}" in path) is not door.by_path:
            raise ConfigurationError("A path has {id} if the door tells its clients by their paths, and only then.")
        if host is None or not is_this_machine(host):
            if tls is None and not door.allow_unencrypted:
                raise ConfigurationError(
                    "Other machines could come in without TLS.",
                    hint=f"Give a TLS context, or set allow_unencrypted on the door. {EAVESDROPPING}",
                )
            if tls is None:
                _log.warning("Listening for other machines without TLS. %s", EAVESDROPPING)
            if door.open_to_all:
                _log.warning("Listening for other machines without tokens: anybody in the network can pose as a peer.")
        self.port = port
        self._door = door
        self._server = HttpsServer(tls, host=host, port=port)
        self._server.add_get(path, self._handle)

    async def __aenter__(self) -> Self:
        """Listen.

        Raises:
            ConfigurationError: The address or port cannot be used.
        """
        await self._server.start()
        self.port = self._server.port
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._door.close()
        finally:
            await self._server.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> PlainConnection:
        """Wait for the next connection. Cancel-safe."""
        return await anext(self._door)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info.get("id")
        return await self._door.handler(request, accepted=lambda: self._server.release(request), name=name)
