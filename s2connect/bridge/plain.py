"""Ports of plain S2 over WebSocket: software that knows S2 JSON and not S2 Connect, as client or as server."""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlsplit

from s2connect.bridge.devices import ConfiguredDevice, read_secret
from s2connect.bridge.link import Side, Way
from s2connect.bridge.nodes import representative_id
from s2connect.bridge.ports import ConfiguredDevicePort, Device, ManagerPort, Switchboard
from s2connect.certs.authority import ServerIdentity
from s2connect.certs.tls import ServerContext, wan_client_context
from s2connect.errors import ConfigurationError, UsageError
from s2connect.model.common import NodeId, Role
from s2connect.model.proxy import Proxies
from s2connect.model.secret import Secret
from s2connect.model.text import for_display
from s2connect.rest.server import HttpsServer
from s2connect.transports.base import GOING_AWAY, Connection, Trust
from s2connect.transports.legacy import EAVESDROPPING, PlainDoor, connect_plain, is_this_machine

if TYPE_CHECKING:
    from aiohttp import web

_log = logging.getLogger(__name__)

MAX_DOORS: Final = 10_000
"""Paths of one server, one for each device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainTarget:
    """A server of plain S2.

    Attributes:
        url: ``wss://…`` or ``ws://…``. Towards an energy manager ``{name}`` and ``{id}`` stand for those of the device.
        token_file: File with the bearer token, which only its owner may read; read again for every connection.
        trust_anchors: PEM file with CAs to trust beside those of the system.
        allow_unencrypted: Let ``ws://`` lead to another machine.
        proxies: For ``wss://`` towards the internet.
    """

    url: str
    token_file: Path | None = None
    trust_anchors: Path | None = None
    allow_unencrypted: bool = False
    proxies: Proxies = field(default_factory=Proxies)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainListen:
    """Where clients of plain S2 come in.

    Attributes:
        host: Address to listen on; None for all.
        port: TCP port, 0 for any.
        certificate: PEM file with the certificate chain; None for no TLS.
        private_key: PEM file with its key.
        allow_unencrypted: Without TLS, let other machines in.
    """

    host: str | None = "127.0.0.1"
    port: int = 0
    certificate: Path | None = None
    private_key: Path | None = None
    allow_unencrypted: bool = False


class PlainTargetSide(Side):
    """A server of plain S2, to which the bridge connects."""

    def __init__(self, target: PlainTarget, url: str, title: str, role: Role, local: NodeId) -> None:
        self.title = title
        self._target = target
        self._url = url
        self._role = role
        self._local = local
        self._context: ssl.SSLContext | None = None

    @property
    def way(self) -> Way | None:
        """See :attr:`Side.way`."""
        return Way.OPEN

    async def open(self) -> Connection:
        """See :meth:`Side.open`."""
        target, token = self._target, None
        if target.token_file is not None:
            token = Secret(await read_secret(target.token_file, "a token"))
        if self._context is None and not self._url.lower().startswith("ws:"):
            self._context = await asyncio.to_thread(wan_client_context, target.trust_anchors)
        return await connect_plain(
            self._url,
            role=self._role,
            local=self._local,
            token=token,
            trust=self._trust(),
            allow_unencrypted=target.allow_unencrypted,
        )

    def _trust(self) -> Trust | None:
        if self._context is None:
            return None
        return Trust(self._context, None, self._target.proxies.towards(urlsplit(self._url).hostname or ""))


class PlainDoorSide(Side):
    """A client of plain S2, which connects to the bridge."""

    def __init__(self, title: str, path: str) -> None:
        self.title = title
        self.path = path

    @property
    def way(self) -> Way | None:
        """See :attr:`Side.way`."""
        return Way.ACCEPT

    async def open(self) -> Connection:
        """See :meth:`Side.open`; there is nothing to connect to."""
        raise UsageError(f"{self.title} connects to the bridge.")


class PlainListener:
    """One server with a door for every device, each at a path of its own, that can come and go.

    Args:
        settings: Where it listens.

    Attributes:
        port: The port it listens on, once started.
    """

    def __init__(self, settings: PlainListen) -> None:
        self.port = settings.port
        self._settings = settings
        self._server: HttpsServer | None = None
        self._doors: dict[str, PlainDoor] = {}

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigurationError: The address or port, or a file, cannot be used; or other machines could come in without
                TLS, and that is not allowed.
        """
        settings, tls = self._settings, None
        if settings.certificate is not None and settings.private_key is not None:
            tls = await asyncio.to_thread(_server_context, settings.certificate, settings.private_key)
        elif settings.host is None or not is_this_machine(settings.host):
            if not settings.allow_unencrypted:
                raise ConfigurationError(
                    "Other machines could come in without TLS.",
                    hint=f"Give certificate and private_key, or set allow_unencrypted. {EAVESDROPPING}",
                )
            _log.warning("Listening for other machines without TLS. %s", EAVESDROPPING)
        self._server = HttpsServer(tls, host=settings.host, port=settings.port)
        self._server.add_get("/{path:.*}", self._handle)
        await self._server.start()
        self.port = self._server.port

    def open(self, path: str, door: PlainDoor) -> None:
        """Let clients in at a path.

        Raises:
            ConfigurationError: The path is taken, or there are too many.
        """
        if path in self._doors or len(self._doors) >= MAX_DOORS:
            raise ConfigurationError(f"The path {for_display(path, 200)} is that of another device already.")
        self._doors[path] = door

    async def shut(self, path: str) -> None:
        """Let nobody in there any more; connections of the door end."""
        if (door := self._doors.pop(path, None)) is not None:
            await door.close()

    async def close(self) -> None:
        """End everything; idempotent."""
        await asyncio.gather(*(door.close() for door in self._doors.values()))
        self._doors.clear()
        if self._server is not None:
            await self._server.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        door = self._doors.get(request.path)
        if door is None:
            raise web.HTTPNotFound
        assert self._server is not None
        return await door.handler(request, accepted=functools.partial(self._server.release, request))


def _server_context(certificate: Path, private_key: Path) -> ssl.SSLContext:
    try:
        chain, key = certificate.read_bytes(), private_key.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{error.filename} cannot be read ({error.strerror}).") from None
    return ServerContext(ServerIdentity.load(chain, key)).context


class _Doorkeeper:
    """Lets clients in only while the other side of their link can be opened, and hands their connections to the route.

    Args:
        listen: Where they come in.
        role: Role of the clients.
    """

    def __init__(self, listen: PlainListen, role: Role) -> None:
        self.listener = PlainListener(listen)
        self._allow_unencrypted = listen.allow_unencrypted
        self._role = role
        self._paths: dict[str, str] = {}

    async def start(self, switchboard: Switchboard) -> None:
        self._switchboard = switchboard
        await self.listener.start()

    async def admit(self, key: str, path: str, local: NodeId, token_file: Path | None) -> None:
        tokens = None
        if token_file is not None:
            tokens = {key: Secret(await read_secret(token_file, "a token"))}

        async def gate(_: str) -> str | None:
            # Which version the client will choose is not known before the handshake.
            return await self._switchboard.ask(key, self._role, "")

        door = PlainDoor(
            role=self._role.other,
            local=local,
            tokens=tokens,
            gate=gate,
            allow_unencrypted=self._allow_unencrypted,
        )
        self.listener.open(path, door)
        self._paths[key] = path
        self._switchboard.supervisor.keep(lambda: self._accept(key, door), "accept", key[:40])

    async def shut(self, key: str) -> None:
        if (path := self._paths.pop(key, None)) is not None:
            await self.listener.shut(path)

    async def _accept(self, key: str, door: PlainDoor) -> None:
        async for connection in door:
            if not self._switchboard.arrived(key, self._role, connection):
                await connection.close(GOING_AWAY, "too late")

    async def close(self) -> None:
        await self.listener.close()


class PlainClientDevicePort(ConfiguredDevicePort[tuple[ConfiguredDevice, PlainTarget]]):
    """Devices that are servers of plain S2; the bridge connects to them.

    Args:
        bridge: Id that stands for the bridge.
        devices: The devices, and where each is.
    """

    def __init__(self, bridge: NodeId, devices: Sequence[tuple[ConfiguredDevice, PlainTarget]]) -> None:
        super().__init__({entry[0].key: entry for entry in devices})
        self._bridge = bridge

    async def close(self) -> None:
        """See :meth:`Port.close`."""

    def _device(self, entry: tuple[ConfiguredDevice, PlainTarget]) -> Device:
        return entry[0].device()

    async def _add(self, key: str, entry: tuple[ConfiguredDevice, PlainTarget]) -> None:
        known, target = entry
        side = PlainTargetSide(target, target.url, known.name, Role.CEM, self._bridge)
        await self._switchboard.found(known.device(), side)


class PlainServerDevicePort(ConfiguredDevicePort[tuple[ConfiguredDevice, str, Path | None]]):
    """Devices that are clients of plain S2; each connects to a path of its own.

    Args:
        bridge: Id that stands for the bridge.
        listen: Where they come in.
        devices: The devices, each with its path and the file with its token, None for no token.
    """

    def __init__(
        self, bridge: NodeId, listen: PlainListen, devices: Sequence[tuple[ConfiguredDevice, str, Path | None]]
    ) -> None:
        super().__init__({entry[0].key: entry for entry in devices})
        self._bridge = bridge
        self._keeper = _Doorkeeper(listen, Role.RM)

    @property
    def port(self) -> int:
        """The port it listens on, once started."""
        return self._keeper.listener.port

    async def start(self, switchboard: Switchboard) -> None:
        """See :meth:`Port.start`."""
        await self._keeper.start(switchboard)
        await super().start(switchboard)

    async def close(self) -> None:
        """See :meth:`Port.close`."""
        await self._keeper.close()

    def _device(self, entry: tuple[ConfiguredDevice, str, Path | None]) -> Device:
        return entry[0].device()

    async def _add(self, key: str, entry: tuple[ConfiguredDevice, str, Path | None]) -> None:
        known, path, token_file = entry
        await self._switchboard.found(known.device(), PlainDoorSide(known.name, path))
        await self._keeper.admit(key, path, self._bridge, token_file)

    async def _remove(self, key: str) -> None:
        await self._keeper.shut(key)


class PlainClientManagerPort(ManagerPort):
    """An energy manager that is a server of plain S2: the bridge connects to it once for every device.

    Args:
        bridge: What the ids of the representatives are derived from.
        target: Where it is.
    """

    def __init__(self, bridge: NodeId, target: PlainTarget) -> None:
        self._bridge = bridge
        self._target = target

    async def start(self, switchboard: Switchboard) -> None:
        """See :meth:`Port.start`."""

    async def close(self) -> None:
        """See :meth:`Port.close`."""

    async def represent(self, device: Device) -> Side:
        """See :meth:`ManagerPort.represent`."""
        url = _filled(self._target.url, device)
        local = representative_id(self._bridge, device.key)
        return PlainTargetSide(self._target, url, "the energy manager", Role.RM, local)

    async def dismiss(self, key: str) -> None:
        """See :meth:`ManagerPort.dismiss`."""


class PlainServerManagerPort(ManagerPort):
    """An energy manager that is a client of plain S2: it connects to the path of every device.

    Args:
        bridge: What the ids of the representatives are derived from.
        listen: Where it comes in.
        path: Of a device, with ``{name}`` or ``{id}`` for those of the device.
        token_file: File with the token that it has to know, None for none.
    """

    def __init__(self, bridge: NodeId, listen: PlainListen, path: str, token_file: Path | None) -> None:
        self._bridge = bridge
        self._path = path
        self._token_file = token_file
        self._keeper = _Doorkeeper(listen, Role.CEM)
        self._sides: dict[str, PlainDoorSide] = {}

    @property
    def port(self) -> int:
        """The port it listens on, once started."""
        return self._keeper.listener.port

    async def start(self, switchboard: Switchboard) -> None:
        """See :meth:`Port.start`."""
        await self._keeper.start(switchboard)

    async def close(self) -> None:
        """See :meth:`Port.close`."""
        await self._keeper.close()

    def path_of(self, key: str) -> str | None:
        """The path of a device; None where it is not represented."""
        side = self._sides.get(key)
        return side.path if side is not None else None

    async def represent(self, device: Device) -> Side:
        """See :meth:`ManagerPort.represent`. A device keeps its path, also when its name changes.

        The second of two devices whose paths would be the same gets the beginning of its representative's id added.

        Raises:
            ConfigurationError: The token cannot be read.
            StorageError: Others can read the token.
        """
        side = self._sides.get(device.key)
        if side is None:
            path = _filled(self._path, device, quoted=False)
            if any(known.path == path for known in self._sides.values()):
                path += f"-{representative_id(self._bridge, device.key).hex[:12]}"
            side = PlainDoorSide("the energy manager", path)
            local = representative_id(self._bridge, device.key)
            self._sides[device.key] = side
            try:
                await self._keeper.admit(device.key, side.path, local, self._token_file)
            except BaseException:
                del self._sides[device.key]
                raise
        return side

    async def dismiss(self, key: str) -> None:
        """See :meth:`ManagerPort.dismiss`."""
        if self._sides.pop(key, None) is not None:
            await self._keeper.shut(key)


def _filled(template: str, device: Device, *, quoted: bool = True) -> str:
    """A URL or path with the name or id of a device, of which nothing can become a part of its own."""
    values = {"name": device.name, "id": device.key}

    def fill(found: re.Match[str]) -> str:
        value = values[found[1]]
        return quote(value, safe="") if quoted else re.sub(r"[^\w.-]+", "-", value).strip("-.") or "device"

    return re.sub(r"\{(name|id)\}", fill, template)
