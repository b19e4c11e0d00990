"""Control socket: commands reach the running service of a state directory by lines of the sidecar contract."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from s2connect.errors import StorageUnavailable
from s2connect.service.commands import Command
from s2connect.service.events import Result
from s2connect.service.failures import Failure, no_service
from s2connect.service.lines import MAX_LINE_BYTES, converse
from s2connect.service.objects import to_value
from s2connect.store.home import Home
from s2connect.supervisor import Supervisor, process_failures

_log = logging.getLogger(__name__)

SOCKET = "control.sock"  # with a database: control-INSTANCE.sock, because several instances may have one home
_POINTER = ".path"  # end of the file that names the socket where the path of the state directory is too long for one
MAX_CLIENTS = 16  # commands that may be connected at a time
MAX_PATH_BYTES = 100  # longest path of a socket; systems allow 104 to 108 bytes with the end
MAX_ANSWER_BYTES = 64 * 1024 * 1024  # longest answer of our own service that is read
DISCONNECT_GRACE = 0.5  # seconds that commands of a client that has gone may still take

_PREFIX = "s2connect-"

_Result = TypeVar("_Result")

Answer = Callable[[bytes | None], Awaitable[Result]]  # executes the command of a line; None is one that is too long


@contextlib.asynccontextmanager
async def control_socket(home: Home, answer: Answer, instance: str | None = None) -> AsyncIterator[None]:
    """Serve the control socket of a home, or of the instance of that name on it: one that is there is stale.

    The home must be locked by this process, or the name of the instance be taken by it. ``StorageUnavailable`` is
    raised where the socket cannot be made.
    """
    name = SOCKET if instance is None else _socket_of(instance)
    try:
        path, listening = await asyncio.to_thread(_listen, home, name)
    except OSError as error:
        raise StorageUnavailable(f"Cannot make the control socket of {home.path}: {error.strerror}.") from error
    try:
        async with Supervisor("s2connect-cli-control", process_failures) as clients:

            def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                if clients.running < MAX_CLIENTS:
                    clients.spawn(_client(reader, writer, answer), "client")
                else:
                    writer.close()

            server = await asyncio.start_unix_server(accept, sock=listening)
            try:
                yield
            finally:
                server.close()
    finally:
        await asyncio.to_thread(_remove, home, name, path)


async def _client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer) -> None:
    writing = asyncio.Lock()

    async def handle(line: bytes | None) -> None:
        result = await answer(line)
        written = await asyncio.to_thread(lambda: as_line(result.to_object()))  # it may list many pairings
        async with writing:
            writer.write(written + b"\n")
            await writer.drain()

    async def chunks() -> AsyncIterator[bytes]:
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(65_536):
                yield chunk

    try:
        await converse(chunks(), handle, name="s2connect-cli-control", grace=DISCONNECT_GRACE)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def as_line(value: dict[str, Any]) -> bytes:
    """Return one line in ASCII, which cannot harm a terminal; ``ValueError`` if JSON has no form for a number in it."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False, default=to_value).encode("ascii")


class Control:
    """A connection to the service of a state directory, for one command at a time."""

    def __init__(self, home: Home, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._home = home
        self._reader = reader
        self._writer = writer
        self._asked = 0

    async def ask(self, command: Command[_Result]) -> _Result:
        """Have the service execute a command; raise ``Failure`` if it failed, or the service stopped.

        Cancelled, the command may go on there; its answer is skipped.
        """
        self._asked += 1
        line = as_line({**command.to_object(), "id": self._asked})
        if len(line) > MAX_LINE_BYTES:
            raise Failure("usage", "The command is too long.")
        result: dict[str, Any] = {"id": 0}
        try:
            self._writer.write(line + b"\n")
            await self._writer.drain()
            while result.get("id") not in (self._asked, None):
                result = json.loads(await self._reader.readline())
        except (ConnectionError, ValueError):  # what is not a whole line is no JSON
            start = await asyncio.to_thread(_start_command, self._home)
            raise no_service("The service ended before it answered.", start) from None
        if result.get("ok") is not True:
            raise Failure.from_object(result.get("error"))
        return command.read_result(result)


@contextlib.asynccontextmanager
async def connect(home: Home, instance: str = "") -> AsyncIterator[Control | None]:
    """Connect to the service of a home; None where none is running.

    Where several instances of an endpoint run on it, it is that which the environment names, or else ``instance``, or
    else that of this machine's name; ``Failure`` lists them if it is none of these.
    """
    async with contextlib.AsyncExitStack() as stack:
        found: dict[str, Control] = {}
        for name, path in (await asyncio.to_thread(_sockets, home)).items():
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_unix_connection(path, limit=MAX_ANSWER_BYTES)
                stack.push_async_callback(_hang_up, writer)
                found[name] = Control(home, reader, writer)
        yield _one_of(found, instance)


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


def _one_of(found: Mapping[str, Control], instance: str) -> Control | None:
    if len(found) < 2:
        return next(iter(found.values()), None)
    from s2connect.endpoint.instances import INSTANCE_VARIABLE, machine_name

    if (control := found.get(instance or machine_name())) is not None:
        return control
    raise Failure(
        "usage",
        f"Several instances of this endpoint run here: {', '.join(sorted(found))}.",
        f"Say which one: {INSTANCE_VARIABLE}={min(found)} s2connect …",
    )


def _start_command(home: Home) -> str:
    from s2connect.service.setup import start_command  # loads the server

    return start_command(home)


def _sockets(home: Home) -> dict[str, Path]:
    """Return the sockets of a home by the name of their instance; only one's where the environment names it."""
    files = [path for end in (".sock", _POINTER) for path in home.path.glob(f"control-*{end}")]
    found = {path.name.removesuffix(path.suffix).removeprefix("control-") for path in files}
    if found:
        from s2connect.endpoint.instances import INSTANCE_VARIABLE  # loads the protocols

        if wanted := os.environ.get(INSTANCE_VARIABLE):
            found &= {wanted}
    return {"": _find(home, SOCKET), **{one: _find(home, _socket_of(one)) for one in sorted(found)}}


def _socket_of(instance: str) -> str:
    return f"control-{instance}.sock"


def _pointer(name: str) -> str:
    return name.removesuffix(".sock") + _POINTER


def _find(home: Home, name: str) -> Path:
    pointer = home.read(_pointer(name))
    return Path(os.fsdecode(pointer)) if pointer is not None else home.path / name


def _listen(home: Home, name: str) -> tuple[Path, socket.socket]:
    _remove(home, name, _find(home, name))
    path = home.path / name
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_runtime_directory())) / SOCKET
        home.write_private(_pointer(name), os.fsencode(path))
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(str(path))
        path.chmod(0o600)  # before anybody can connect; the directory is 0700 as well
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return path, listening


def _runtime_directory() -> Path:
    """Return a directory for short paths; what is made in it is 0700."""
    named = os.environ.get("XDG_RUNTIME_DIR")
    if named and len(named) < MAX_PATH_BYTES // 2 and Path(named).is_dir():
        return Path(named)
    return Path("/tmp")  # noqa: S108 - mkdtemp makes a directory of its own in it, 0700


def _remove(home: Home, name: str, path: Path) -> None:
    path.unlink(missing_ok=True)
    if path.parent != home.path:
        if path.parent.name.startswith(_PREFIX):
            shutil.rmtree(path.parent, ignore_errors=True)
        (home.path / _pointer(name)).unlink(missing_ok=True)
