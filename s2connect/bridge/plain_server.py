"""Listener of a bridge for clients of plain S2, each at a path of its own."""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from s2connect.bridge.config import Listening, PlainServerDevice, PlainServerDevices, PlainServerManager
from s2connect.bridge.devices import read_credentials
from s2connect.bridge.sides import NOT_NOW, RouteLinks
from s2connect.certs.authority import ServerIdentity
from s2connect.certs.tls import ServerContext
from s2connect.errors import ConfigurationError
from s2connect.https.server import HttpsServer
from s2connect.model.common import NodeId, Role
from s2connect.model.text import for_display
from s2connect.transports.base import GOING_AWAY, Connection
from s2connect.transports.legacy import EAVESDROPPING, PlainDoor, is_this_machine

if TYPE_CHECKING:
    from aiohttp import web

_log = logging.getLogger(__name__)

MAX_PATHS: Final = 10_000
"""Paths of one server, one for each device."""


class PlainListener:
    """One server with an acceptor for every device, each at a path of its own, that can come and go.

    Args:
        settings: Address, port and TLS.

    Attributes:
        port: The port it listens on, once started.
    """

    def __init__(self, settings: Listening) -> None:
        self.port = settings.port
        self._settings = settings
        self._server: HttpsServer | None = None
        self._doors: dict[str, PlainDoor] = {}
        self._template: tuple[re.Pattern[str], PlainDoor] | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigurationError: The address or port, or a file, cannot be used; or other machines could come in without
                TLS, and that is not allowed.
        """
        settings, tls = self._settings, None
        host = None if settings.host == "*" else settings.host
        if settings.certificate is not None and settings.private_key is not None:
            tls = await asyncio.to_thread(_server_context, settings.certificate, settings.private_key)
        elif host is None or not is_this_machine(host):
            if not settings.allow_unencrypted:
                raise ConfigurationError(
                    "Other machines could come in without TLS.",
                    hint=f"Give certificate and private_key, or set allow_unencrypted. {EAVESDROPPING}",
                )
            _log.warning("Listening for other machines without TLS. %s", EAVESDROPPING)
        self._server = HttpsServer(tls, host=host, port=settings.port)
        self._server.add_get("/{path:.*}", self._handle)
        await self._server.start()
        self.port = self._server.port

    def add(self, path: str, door: PlainDoor) -> None:
        """Accept clients at a path.

        Raises:
            ConfigurationError: The path is taken, or there are too many.
        """
        if path in self._doors or len(self._doors) >= MAX_PATHS:
            raise ConfigurationError(f"The path {for_display(path, 200)} is that of another device already.")
        self._doors[path] = door

    def set_template(self, path: str, door: PlainDoor) -> None:
        """Accept clients at the paths of a template, after those of :meth:`add`; their ids identify them."""
        before, _, after = path.partition("{id}")
        self._template = re.compile(f"{re.escape(before)}([^/]+){re.escape(after)}"), door

    async def remove(self, path: str) -> None:
        """Accept nobody there any more, and end the connections."""
        if (door := self._doors.pop(path, None)) is not None:
            await door.close()

    async def close(self) -> None:
        """End everything; idempotent."""
        doors = [*self._doors.values(), *([] if self._template is None else [self._template[1]])]
        await asyncio.gather(*(door.close() for door in doors))
        self._doors.clear()
        self._template = None
        if self._server is not None:
            await self._server.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        door, name = self._doors.get(request.path), None
        if door is None and self._template is not None and (match := self._template[0].fullmatch(request.path)):
            door, name = self._template[1], match[1]
        if door is None:
            raise web.HTTPNotFound
        assert self._server is not None
        return await door.handler(request, accepted=functools.partial(self._server.release, request), name=name)


def _server_context(certificate: Path, private_key: Path) -> ssl.SSLContext:
    try:
        chain, key = certificate.read_bytes(), private_key.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{error.filename} cannot be read ({error.strerror}).") from None
    return ServerContext(ServerIdentity.load(chain, key)).context


Observe = Callable[[str, Connection], Connection]
"""Given the key of a device and its connection, returns the connection to use."""


class PlainAcceptor:
    """Admits clients only while the other side of their link can be opened, and hands their connections to the route.

    Args:
        settings: Address, port and TLS.
        role: Role of the clients.
    """

    def __init__(self, settings: Listening, role: Role) -> None:
        self.listener = PlainListener(settings)
        self._allow_unencrypted = settings.allow_unencrypted
        self._role = role
        self._paths: dict[str, str] = {}

    async def start(self, links: RouteLinks) -> None:
        """Listen."""
        self._links = links
        await self.listener.start()

    async def add(
        self,
        key: str,
        path: str,
        local: NodeId,
        access: PlainServerDevice | PlainServerManager,
        observe: Observe = lambda _, connection: connection,
    ) -> None:
        """Accept the client of one device at a path of its own."""

        async def admit(_: str) -> str | None:
            # The version that the client will choose is not known before the handshake.
            return await self._links.request_session(key, self._role, "")

        door = await self._door(local, access, admit, by_path=False)
        self.listener.add(path, door)
        self._paths[key] = path
        self._links.supervisor.keep(lambda: self._accept(key, door, observe), "accept", key[:40])

    async def add_template(
        self,
        template: str,
        local: NodeId,
        access: PlainServerDevices,
        known: Callable[[str], Awaitable[bool]],
        observe: Observe,
    ) -> None:
        """Accept clients whose id is in their path, those for which ``known`` returns True."""

        async def admit(name: str) -> str | None:
            return await self._links.request_session(name, self._role, "") if await known(name) else NOT_NOW

        door = await self._door(local, access, admit, by_path=True)
        self.listener.set_template(template, door)
        self._links.supervisor.keep(lambda: self._accept(None, door, observe), "accept", "by path")

    async def _door(
        self,
        local: NodeId,
        access: PlainServerDevice | PlainServerDevices | PlainServerManager,
        admit: Callable[[str], Awaitable[str | None]],
        *,
        by_path: bool,
    ) -> PlainDoor:
        token, login = await read_credentials(access.token_file, access.login_file)
        return PlainDoor(
            role=self._role.other,
            local=local,
            tokens={"client": token} if token is not None else None,
            logins={"client": login} if login is not None else None,
            by_path=by_path,
            gate=admit,
            allow_unencrypted=self._allow_unencrypted,
        )

    async def remove(self, key: str) -> None:
        """Accept the client of a device no more."""
        if (path := self._paths.pop(key, None)) is not None:
            await self.listener.remove(path)

    async def _accept(self, key: str | None, door: PlainDoor, observe: Observe) -> None:
        async for connection in door:
            device = connection.name if key is None else key
            if not self._links.hand_over(device, self._role, observe(device, connection)):
                await connection.close(GOING_AWAY, "too late")
