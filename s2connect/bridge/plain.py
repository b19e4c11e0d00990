"""Sides of plain S2 over WebSocket, for software with S2 JSON and without S2 Connect, as client or as server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from urllib.parse import quote, urlsplit

from s2connect import (
    Connection,
    InvalidMessage,
    Message,
    NodeId,
    PlainAcceptor,
    PlainServer,
    Role,
    connect_plain,
    for_display,
)
from s2connect.bridge.config import (
    ConfiguredDevice,
    Credentials,
    Listening,
    PathDevice,
    PlainClient,
    PlainClientDevice,
    PlainClientDevices,
    PlainClientManager,
    PlainServerDevice,
    PlainServerDevices,
    PlainServerManager,
)
from s2connect.bridge.devices import Device, read_credentials
from s2connect.bridge.nodes import representative_id
from s2connect.bridge.sides import (
    NOT_NOW,
    ConfiguredDevicesSide,
    Initiator,
    LinkSide,
    ManagerSide,
    RouteLinks,
    RouteSide,
)
from s2connect.errors import ConfigurationError, S2ConnectError
from s2connect.session import LedTo
from s2connect.transports import Proxies, ServerContext, ServerIdentity, Trust, wan_client_context

_log = logging.getLogger(__name__)


class PlainClientLinkSide(LinkSide):
    """A server of plain S2, to which the bridge connects with its credentials and trust; ``role`` is the bridge's."""

    initiator = Initiator.BRIDGE

    def __init__(
        self, settings: PlainClient, url: str, title: str, role: Role, local: NodeId, proxies: Proxies
    ) -> None:
        self.title = title
        self._settings = settings
        self._url = url
        self._role = role
        self._local = local
        self._proxies = proxies
        self._context: ssl.SSLContext | None = None

    async def open(self) -> Connection:
        settings, trust = self._settings, None
        token, login = await read_credentials(settings.token_file, settings.login_file)
        if not self._url.lower().startswith("ws:"):
            if self._context is None:
                self._context = await asyncio.to_thread(wan_client_context, settings.trust_anchors)
            trust = Trust(self._context, None, self._proxies.towards(urlsplit(self._url).hostname or ""))
        return await connect_plain(
            self._url,
            role=self._role,
            local=self._local,
            token=token,
            login=login,
            trust=trust,
            allow_unencrypted=settings.allow_unencrypted,
        )


def _describe(links: RouteLinks, known: ConfiguredDevice, side: LinkSide, details: Message) -> None:
    """Complete the description of a device from its ResourceManagerDetails."""
    with contextlib.suppress(InvalidMessage):  # the link acknowledges it
        device = known.introduced(details.body)
        links.supervisor.spawn(links.add_device(device, side), "describe", known.key[:40])


class PlainClientDevicesSide(ConfiguredDevicesSide[PlainClientDevice]):
    """Devices that are servers of plain S2; the bridge connects to them."""

    def __init__(self, bridge: NodeId, config: PlainClientDevices, proxies: Proxies) -> None:
        super().__init__(config.device)
        self._bridge = bridge
        self._proxies = proxies

    async def _add(self, device: PlainClientDevice) -> None:
        side = PlainClientLinkSide(device, device.url, device.name, Role.CEM, self._bridge, self._proxies)
        side.on_details = partial(_describe, self._links, device, side)
        await self._links.add_device(device.device(), side)


class PlainServerLinkSide(LinkSide):
    """A client of plain S2, which connects to the bridge."""

    initiator = Initiator.PEER

    def __init__(self, title: str, path: str) -> None:
        self.title = title
        self.path = path


class PlainServerSide(RouteSide):
    """Base of the sides whose peers, of one role, connect to the bridge, each at a path of its own."""

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
        await super().start(links)

    async def close(self) -> None:
        if self._server is not None:
            await self._server.close()

    async def _accept(
        self,
        path: str,
        key: str | None,
        local: NodeId,
        access: Credentials,
        known: Callable[[str], Awaitable[bool]] | None = None,
    ) -> None:
        """Accept the client of one device at a path of its own.

        Without a key, ``path`` is a template with the id of the device, and ``known`` returns whether it may connect.
        """

        async def admit(name: str) -> str | None:
            if known is not None and not await known(name):
                return NOT_NOW
            # The version that the client will choose is not known before the handshake.
            answer = await self._links.request_session(key or name, self._role, "")
            assert not isinstance(answer, LedTo), "it cannot be led"
            return answer

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
                self._links.hand_over(key or connection.name, self._role, connection)

        assert self._server is not None
        self._server.add(path, acceptor)
        if key is not None:
            self._paths[key] = path
        self._links.supervisor.keep(accept, "accept", key[:40] if key is not None else "by path")

    async def _remove(self, key: str) -> None:
        if (path := self._paths.pop(key, None)) is not None and self._server is not None:
            await self._server.remove(path)


def _server_context(certificate: Path, private_key: Path) -> ssl.SSLContext:
    try:
        chain, key = certificate.read_bytes(), private_key.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{error.filename} cannot be read ({error.strerror}).") from None
    return ServerContext(ServerIdentity.load(chain, key)).context


class PlainServerDevicesSide(PlainServerSide, ConfiguredDevicesSide[PlainServerDevice]):
    """Devices that are clients of plain S2: each connects to a path of its own, as configured or with its id in it."""

    def __init__(self, bridge: NodeId, config: PlainServerDevices) -> None:
        PlainServerSide.__init__(self, config, Role.RM)
        ConfiguredDevicesSide.__init__(self, config.device)
        self._bridge = bridge
        self._config = config
        self._by_path: dict[str, PlainServerLinkSide] = {}

    async def start(self, links: RouteLinks) -> None:
        await super().start(links)
        if (path := self._config.path) is not None:
            await self._accept(path, None, self._bridge, self._config, partial(self._admit_by_path, path))

    async def _add(self, device: PlainServerDevice) -> None:
        side = PlainServerLinkSide(device.name, device.at)
        side.on_details = partial(_describe, self._links, device, side)
        await self._links.add_device(device.device(), side)
        await self._accept(device.at, device.key, self._bridge, device)

    async def _admit_by_path(self, path: str, key: str) -> bool:
        """Return whether a device may connect under the id in its path."""
        if key in self._devices:
            return False  # it has a path of its own, and perhaps a token
        if key not in self._by_path:
            if len(self._by_path) >= self._config.max_devices and not await self._make_room():
                _log.warning("%s is one device more than max_devices = %d", for_display(key), self._config.max_devices)
                return False
            known = PathDevice(name=key)
            side = PlainServerLinkSide(key, path.replace("{id}", key))
            side.on_details = partial(_describe, self._links, known, side)
            self._by_path[key] = side
            try:
                await self._links.add_device(known.device(), side)
            except BaseException as error:
                del self._by_path[key]
                if not isinstance(error, S2ConnectError):
                    raise
                _log.error("the device %s is not taken: %s", for_display(key), error)
                return False
        return True

    async def _make_room(self) -> bool:
        """Forget the oldest id that never became a link, since strangers can invent ids."""
        for key in self._by_path:
            if self._links.can_forget(key):
                del self._by_path[key]
                await self._links.remove_device(key)
                return True
        return False


class PlainClientManagerSide(ManagerSide):
    """An energy manager that is a server of plain S2: the bridge connects to it once for every device."""

    def __init__(self, bridge: NodeId, config: PlainClientManager, proxies: Proxies) -> None:
        self._bridge = bridge
        self._config = config
        self._proxies = proxies

    async def represent(self, device: Device) -> LinkSide:
        url = _filled(self._config.url, device)
        local = representative_id(self._bridge, device.key)
        return PlainClientLinkSide(self._config, url, "the energy manager", Role.RM, local, self._proxies)


class PlainServerManagerSide(PlainServerSide, ManagerSide):
    """An energy manager that is a client of plain S2: it connects to the path of every device."""

    def __init__(self, bridge: NodeId, config: PlainServerManager) -> None:
        super().__init__(config, Role.CEM)
        self._bridge = bridge
        self._config = config
        self._sides: dict[str, PlainServerLinkSide] = {}

    async def represent(self, device: Device) -> LinkSide:
        """Represent a device. It keeps its path, also when its name changes.

        The second of two devices whose paths would be the same gets the beginning of its representative's id added.
        """
        side = self._sides.get(device.key)
        if side is None:
            path, local = _filled(self._config.path, device, quoted=False), representative_id(self._bridge, device.key)
            if any(known.path == path for known in self._sides.values()):
                path += f"-{local.hex[:12]}"
            side = self._sides[device.key] = PlainServerLinkSide("the energy manager", path)
            try:
                await self._accept(path, device.key, local, self._config)
            except BaseException:
                del self._sides[device.key]
                raise
        return side

    async def dismiss(self, key: str) -> None:
        if self._sides.pop(key, None) is not None:
            await self._remove(key)


def _filled(template: str, device: Device, *, quoted: bool = True) -> str:
    """Fill the name or id of a device into a URL or path, so that nothing in them becomes a part of its own."""
    values = {"name": device.name, "id": device.key}

    def fill(match: re.Match[str]) -> str:
        value = values[match[1]]
        return quote(value, safe="") if quoted else re.sub(r"[^\w.-]+", "-", value).strip("-.") or "device"

    return re.sub(r"\{(name|id)\}", fill, template)
