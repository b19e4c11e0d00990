"""Server for plain S2 over WebSocket, for applications without a web server of their own."""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import ssl
from typing import TYPE_CHECKING, Final, Self

from s2connect.endpoint.instances import shared_port
from s2connect.errors import ConfigurationError, UsageError
from s2connect.https.server import HttpsServer
from s2connect.model.text import for_display
from s2connect.transports.plain import EAVESDROPPING, PlainAcceptor, PlainConnection, is_this_machine

if TYPE_CHECKING:
    from aiohttp import web

_log = logging.getLogger(__name__)

MAX_PATHS: Final = 10_000
"""Paths of one server."""


class PlainServer:
    """Server for clients of plain S2, with the limits for strangers of an endpoint's server (SEC-03).

    ::

        acceptor = PlainAcceptor(role=Role.CEM, local=node_id, tokens={"battery": Secret("its token")})
        async with PlainServer(acceptor, port=8080, path="/s2") as server:
            async for connection in server:
                ...

    Leaving the context ends the iteration and every connection of its acceptors. A server for several acceptors is made
    without one: each comes and goes with :meth:`add` and :meth:`remove`, and is iterated itself.

    Args:
        acceptor: Admits the clients; closed with the server.
        host: Address to listen on; None for all.
        port: TCP port, 0 for any.
        path: Path of the URL; with ``{id}`` where the acceptor identifies its clients by their paths (``by_path``).
        tls: TLS server context, e.g. ``ServerContext(…).context``; None for ``ws://``.
        allow_unencrypted: Listen for other machines without TLS, with a warning in the log; None takes the acceptor's.

    Attributes:
        port: The port it listens on, once started.

    Raises:
        ConfigurationError: Without TLS, ``host`` is not of this machine only, and that is not allowed; or ``path``
            does not begin with a slash, or has ``{id}`` without ``by_path``, or the other way round.
    """

    def __init__(
        self,
        acceptor: PlainAcceptor | None = None,
        *,
        host: str | None = "127.0.0.1",
        port: int = 0,
        path: str = "/",
        tls: ssl.SSLContext | None = None,
        allow_unencrypted: bool | None = None,
    ) -> None:
        self.port = port
        self._acceptor = acceptor
        self._acceptors: dict[str, PlainAcceptor] = {}
        self._templates: dict[str, re.Pattern[str]] = {}  # of those that have {id}
        if acceptor is not None:
            self.add(path, acceptor)
        if host is None or not is_this_machine(host):
            if allow_unencrypted is None:
                allow_unencrypted = acceptor is not None and acceptor.allow_unencrypted
            if tls is None and not allow_unencrypted:
                raise ConfigurationError(
                    "Other machines could come in without TLS.",
                    hint=f"Give a certificate, or set allow_unencrypted. {EAVESDROPPING}",
                )
            if tls is None:
                _log.warning("Listening for other machines without TLS. %s", EAVESDROPPING)
            if acceptor is not None and acceptor.open_to_all:
                _log.warning("Listening for other machines without tokens: anybody in the network can pose as a peer.")
        # Several processes of one service are behind the same port (``--workers``).
        self._server = HttpsServer(tls, host=host, port=port, shared=shared_port() is not None)
        self._server.add_get("/{path:.*}", self._handle)

    def add(self, path: str, acceptor: PlainAcceptor) -> None:
        """Accept the clients of an acceptor at a path, or at the paths of a template.

        Raises:
            ConfigurationError: The path is taken, or there are too many; or it does not fit the acceptor.
        """
        if not path.startswith("/"):
            raise ConfigurationError("The path of a URL begins with a slash.")
        if ("{id}" in path) is not acceptor.by_path:
            raise ConfigurationError(
                "A path has {id} if the acceptor identifies clients by their paths, and only then."
            )
        if path in self._acceptors or len(self._acceptors) >= MAX_PATHS:
            raise ConfigurationError(f"The path {for_display(path, 200)} is that of another device already.")
        self._acceptors[path] = acceptor
        if acceptor.by_path:
            before, _, after = path.partition("{id}")
            self._templates[path] = re.compile(f"{re.escape(before)}([^/]+){re.escape(after)}")

    async def remove(self, path: str) -> None:
        """Stop accepting at a path, and end the connections of its acceptor."""
        self._templates.pop(path, None)
        if (acceptor := self._acceptors.pop(path, None)) is not None:
            await acceptor.close()

    async def start(self) -> None:
        """Listen; entering the context does it, too. ConfigurationError if the address or port cannot be used."""
        await self._server.start()
        self.port = self._server.port

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End every connection, and stop. Idempotent; leaving the context does it, too."""
        try:
            await asyncio.gather(*(acceptor.close() for acceptor in self._acceptors.values()))
        finally:
            await self._server.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> PlainConnection:
        """Wait for the next connection of the acceptor that the server was made with. Cancel-safe."""
        if self._acceptor is None:
            raise UsageError("This server was made without an acceptor; iterate over those that it was given.")
        return await anext(self._acceptor)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        acceptor, name = self._acceptors.get(request.path), None
        if acceptor is None or acceptor.by_path:
            for path, pattern in self._templates.items():
                if (match := pattern.fullmatch(request.path)) is not None:
                    acceptor, name = self._acceptors[path], match[1]
        if acceptor is None:
            raise web.HTTPNotFound
        return await acceptor.handler(request, accepted=functools.partial(self._server.release, request), name=name)
