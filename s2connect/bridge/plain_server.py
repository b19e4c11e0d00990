"""Acceptor of a bridge for clients of plain S2, each at a path of its own."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

from s2connect import Connection, NodeId, PlainAcceptor, PlainServer, Role
from s2connect.bridge.config import Listening, PlainServerDevice, PlainServerDevices, PlainServerManager
from s2connect.bridge.devices import read_credentials
from s2connect.bridge.sides import NOT_NOW, RouteLinks
from s2connect.errors import ConfigurationError
from s2connect.transports import PlainConnection, ServerContext, ServerIdentity

Observe = Callable[[PlainConnection], Connection]
"""Given the connection of a device, returns the one to use."""


class LinkAcceptor:
    """Admits clients only while the other side of their link can be opened, and hands their connections to the route.

    Args:
        settings: Address, port and TLS.
        role: Role of the clients.
    """

    def __init__(self, settings: Listening, role: Role) -> None:
        self._settings = settings
        self._role = role
        self._server: PlainServer | None = None
        self._paths: dict[str, str] = {}

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._settings.port if self._server is None else self._server.port

    async def start(self, links: RouteLinks) -> None:
        """Listen.

        Raises:
            ConfigurationError: The address or port, or a file, cannot be used; or other machines could come in without
                TLS, and that is not allowed.
        """
        self._links = links
        settings, tls = self._settings, None
        if settings.certificate is not None and settings.private_key is not None:
            tls = await asyncio.to_thread(_server_context, settings.certificate, settings.private_key)
        self._server = PlainServer(
            host=None if settings.host == "*" else settings.host,
            port=settings.port,
            tls=tls,
            allow_unencrypted=settings.allow_unencrypted,
        )
        await self._server.start()

    async def close(self) -> None:
        """End all connections, and stop; idempotent."""
        if self._server is not None:
            await self._server.close()

    async def add(
        self,
        path: str,
        key: str | None,
        local: NodeId,
        access: PlainServerDevice | PlainServerDevices | PlainServerManager,
        observe: Observe = lambda connection: connection,
        known: Callable[[str], Awaitable[bool]] | None = None,
    ) -> None:
        """Accept the client of one device at a path of its own.

        Without a key, ``path`` is a template with the id of the device, and ``known`` returns whether it may connect.
        """

        async def admit(name: str) -> str | None:
            if known is not None and not await known(name):
                return NOT_NOW
            # The version that the client will choose is not known before the handshake.
            return await self._links.request_session(key or name, self._role, "")

        token, login = await read_credentials(access.token_file, access.login_file)
        acceptor = PlainAcceptor(
            role=self._role.other,
            local=local,
            tokens={"client": token} if token is not None else None,
            logins={"client": login} if login is not None else None,
            by_path=key is None,
            admission=admit,
            allow_unencrypted=self._settings.allow_unencrypted,
        )

        async def accept() -> None:
            async for connection in acceptor:
                self._links.hand_over(key or connection.name, self._role, observe(connection))

        assert self._server is not None
        self._server.add(path, acceptor)
        if key is not None:
            self._paths[key] = path
        self._links.supervisor.keep(accept, "accept", key[:40] if key is not None else "by path")

    async def remove(self, key: str) -> None:
        """Accept the client of a device no more."""
        if (path := self._paths.pop(key, None)) is not None and self._server is not None:
            await self._server.remove(path)


def _server_context(certificate: Path, private_key: Path) -> ssl.SSLContext:
    try:
        chain, key = certificate.read_bytes(), private_key.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{error.filename} cannot be read ({error.strerror}).") from None
    return ServerContext(ServerIdentity.load(chain, key)).context
