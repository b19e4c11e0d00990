"""Ports of plain S2 over WebSocket: software that knows S2 JSON and not S2 Connect, as client or as server."""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlsplit

from s2connect.bridge.devices import ConfiguredDevice, read_secret
from s2connect.bridge.link import NOT_NOW, Side, Way
from s2connect.bridge.nodes import representative_id
from s2connect.bridge.recording import ObservedConnection
from s2connect.bridge.sides import ConfiguredDevicePort, Device, ManagerPort, Switchboard
from s2connect.certs.authority import ServerIdentity
from s2connect.certs.tls import ServerContext, wan_client_context
from s2connect.errors import ConfigurationError, S2ConnectError, UsageError
from s2connect.https.server import HttpsServer
from s2connect.messages.envelope import InvalidMessage, Message
from s2connect.model.common import NodeId, Role
from s2connect.model.proxy import Proxies
from s2connect.model.secret import Secret
from s2connect.model.text import for_display
from s2connect.session.session import Direction
from s2connect.transports.base import GOING_AWAY, Connection, Trust
from s2connect.transports.legacy import EAVESDROPPING, PlainDoor, connect_plain, is_this_machine

if TYPE_CHECKING:
    from aiohttp import web

_log = logging.getLogger(__name__)

MAX_DOORS: Final = 10_000
"""Paths of one server, one for each device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainTarget:
    """Address and credentials of a plain S2 server.

    Attributes:
        url: ``wss://…`` or ``ws://…``. Towards an energy manager ``{name}`` and ``{id}`` stand for those of the device.
        token_file: File with the bearer token, which only its owner may read; read again for every connection.
        login_file: Likewise, with ``user:password`` for Basic authentication.
        trust_anchors: PEM file with CAs to trust beside those of the system.
        allow_unencrypted: Let ``ws://`` lead to another machine.
        proxies: For ``wss://`` towards the internet.
    """

    url: str
    token_file: Path | None = None
    login_file: Path | None = None
    trust_anchors: Path | None = None
    allow_unencrypted: bool = False
    proxies: Proxies = field(default_factory=Proxies)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainAccess:
    """Credentials required of a plain S2 client; without any, all clients are accepted.

    Attributes:
        token_file: File with a bearer token, which only its owner may read.
        login_file: Likewise, with ``user:password`` for Basic authentication. Of the two either will do.
    """

    token_file: Path | None = None
    login_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainTemplate:
    """Path template for devices that the configuration does not name.

    Attributes:
        path: With ``{id}``, which stands for the id of the device.
        access: What they all have to show.
        max_devices: Ids that are taken; further ones are refused, unless one of these never became anything.
    """

    path: str
    access: PlainAccess
    max_devices: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainListen:
    """Listener for clients of plain S2.

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
        target = self._target
        token, login = await _secrets(target.token_file, target.login_file)
        if self._context is None and not self._url.lower().startswith("ws:"):
            self._context = await asyncio.to_thread(wan_client_context, target.trust_anchors)
        return await connect_plain(
            self._url,
            role=self._role,
            local=self._local,
            token=token,
            login=login,
            trust=self._trust(),
            allow_unencrypted=target.allow_unencrypted,
        )

    def _trust(self) -> Trust | None:
        if self._context is None:
            return None
        return Trust(self._context, None, self._target.proxies.towards(urlsplit(self._url).hostname or ""))


class PlainDeviceSide(PlainTargetSide):
    """A device that is a server of plain S2.

    Attributes:
        on_open: Given every connection, returns the one to use.
    """

    on_open: Callable[[Connection], Connection]

    async def open(self) -> Connection:
        """See :meth:`Side.open`."""
        return self.on_open(await super().open())


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
        self._template: tuple[re.Pattern[str], PlainDoor] | None = None

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

    def open_to_ids(self, path: str, door: PlainDoor) -> None:
        """Accept clients at the paths of a template, after those of :meth:`open`; their ids identify them."""
        before, _, after = path.partition("{id}")
        self._template = re.compile(f"{re.escape(before)}([^/]+){re.escape(after)}"), door

    async def shut(self, path: str) -> None:
        """Let nobody in there any more; connections of the door end."""
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
        if door is None and self._template is not None and (fits := self._template[0].fullmatch(request.path)):
            door, name = self._template[1], fits[1]
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


async def _secrets(token_file: Path | None, login_file: Path | None) -> tuple[Secret | None, Secret | None]:
    """Read the token and the login from their files, if configured."""
    return await _secret(token_file, "a token"), await _secret(login_file, "user:password")


async def _secret(file: Path | None, what: str) -> Secret | None:
    if file is None:
        return None
    try:
        return Secret(await read_secret(file, what))
    except ValueError:
        raise ConfigurationError(f"{file} does not hold {what} in ASCII.") from None


def _introduced(switchboard: Switchboard, known: ConfiguredDevice, side: Side, connection: Connection) -> Connection:
    """Complete the description of a device from its ResourceManagerDetails, once a session."""

    def watch(direction: Direction, message: Message) -> None:
        if message.type != "ResourceManagerDetails" or direction != "received":
            return
        observed.stop()
        try:
            device = known.introduced(message.body)
        except InvalidMessage:
            return  # the link acknowledges it
        switchboard.supervisor.spawn(switchboard.found(device, side), "describe", known.key[:40])

    observed = ObservedConnection(connection, watch, lambda _: None)
    return observed


_Observe = Callable[[str, Connection], Connection]


def _unobserved(key: str, connection: Connection) -> Connection:
    return connection


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

    async def admit(
        self, key: str, path: str, local: NodeId, access: PlainAccess, observe: _Observe = _unobserved
    ) -> None:
        async def gate(_: str) -> str | None:
            # Which version the client will choose is not known before the handshake.
            return await self._switchboard.ask(key, self._role, "")

        door = await self._door(local, access, gate, by_path=False)
        self.listener.open(path, door)
        self._paths[key] = path
        self._switchboard.supervisor.keep(lambda: self._accept(key, door, observe), "accept", key[:40])

    async def admit_by_path(
        self,
        template: PlainTemplate,
        local: NodeId,
        known: Callable[[str], Awaitable[bool]],
        observe: _Observe,
    ) -> None:
        async def gate(name: str) -> str | None:
            return await self._switchboard.ask(name, self._role, "") if await known(name) else NOT_NOW

        door = await self._door(local, template.access, gate, by_path=True)
        self.listener.open_to_ids(template.path, door)
        self._switchboard.supervisor.keep(lambda: self._accept(None, door, observe), "accept", "by path")

    async def _door(
        self, local: NodeId, access: PlainAccess, gate: Callable[[str], Awaitable[str | None]], *, by_path: bool
    ) -> PlainDoor:
        token, login = await _secrets(access.token_file, access.login_file)
        return PlainDoor(
            role=self._role.other,
            local=local,
            tokens={"client": token} if token is not None else None,
            logins={"client": login} if login is not None else None,
            by_path=by_path,
            gate=gate,
            allow_unencrypted=self._allow_unencrypted,
        )

    async def shut(self, key: str) -> None:
        if (path := self._paths.pop(key, None)) is not None:
            await self.listener.shut(path)

    async def _accept(self, key: str | None, door: PlainDoor, observe: _Observe) -> None:
        async for connection in door:
            device = connection.name if key is None else key
            if not self._switchboard.arrived(device, self._role, observe(device, connection)):
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
        side = PlainDeviceSide(target, target.url, known.name, Role.CEM, self._bridge)
        side.on_open = lambda connection: _introduced(self._switchboard, known, side, connection)
        await self._switchboard.found(known.device(), side)


PlainServerEntry = tuple[ConfiguredDevice, str, PlainAccess]


class PlainServerDevicePort(ConfiguredDevicePort[PlainServerEntry]):
    """Devices that are clients of plain S2: each connects to a path of its own, as configured or with its id in it.

    Args:
        bridge: Id that stands for the bridge.
        listen: Where they come in.
        devices: The devices, each with its path and what it has to show.
        template: Where further devices come in.
    """

    def __init__(
        self,
        bridge: NodeId,
        listen: PlainListen,
        devices: Sequence[PlainServerEntry],
        template: PlainTemplate | None = None,
    ) -> None:
        super().__init__({entry[0].key: entry for entry in devices})
        self._bridge = bridge
        self._keeper = _Doorkeeper(listen, Role.RM)
        self._template = template
        self._by_path: dict[str, tuple[ConfiguredDevice, PlainDoorSide]] = {}

    @property
    def port(self) -> int:
        """The port it listens on, once started."""
        return self._keeper.listener.port

    async def start(self, switchboard: Switchboard) -> None:
        """See :meth:`Port.start`."""
        await self._keeper.start(switchboard)
        await super().start(switchboard)
        if self._template is not None:
            await self._keeper.admit_by_path(self._template, self._bridge, self._comes, self._observe_by_path)

    async def close(self) -> None:
        """See :meth:`Port.close`."""
        await self._keeper.close()

    def _device(self, entry: PlainServerEntry) -> Device:
        return entry[0].device()

    async def _add(self, key: str, entry: PlainServerEntry) -> None:
        known, path, access = entry
        side = PlainDoorSide(known.name, path)
        await self._switchboard.found(known.device(), side)

        def observe(_: str, connection: Connection) -> Connection:
            return _introduced(self._switchboard, known, side, connection)

        await self._keeper.admit(key, path, self._bridge, access, observe)

    async def _remove(self, key: str) -> None:
        await self._keeper.shut(key)

    async def _comes(self, key: str) -> bool:
        """Return whether a device may connect under the id in its path."""
        template = self._template
        assert template is not None
        if key in self._entries:
            return False  # it has a path of its own, and perhaps a token
        if key not in self._by_path:
            if len(self._by_path) >= template.max_devices and not await self._make_room():
                _log.warning("%s is one device more than max_devices = %d", for_display(key), template.max_devices)
                return False
            known = ConfiguredDevice(key=key, name=key, named=False)
            side = PlainDoorSide(key, template.path.replace("{id}", key))
            self._by_path[key] = known, side
            try:
                await self._switchboard.found(known.device(), side)
            except S2ConnectError as error:
                del self._by_path[key]
                _log.error("the device %s is not taken: %s", for_display(key), error)
                return False
            except BaseException:
                del self._by_path[key]
                raise
        return True

    async def _make_room(self) -> bool:
        """Forget the oldest id that never became a link, since strangers can invent ids."""
        for key in self._by_path:
            if self._switchboard.gives_way(key):
                del self._by_path[key]
                await self._switchboard.gone(key)
                return True
        return False

    def _observe_by_path(self, key: str, connection: Connection) -> Connection:
        known, side = self._by_path[key]
        return _introduced(self._switchboard, known, side, connection)


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
        access: What it has to show.
    """

    def __init__(self, bridge: NodeId, listen: PlainListen, path: str, access: PlainAccess) -> None:
        self._bridge = bridge
        self._path = path
        self._access = access
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
                await self._keeper.admit(device.key, side.path, local, self._access)
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
