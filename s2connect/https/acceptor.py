"""Acceptor: takes TCP connections for a server, bounded before anything is spent on them (SEC-03)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import resource
import socket
import ssl
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

from s2connect.https.admission import Admission, ConnectionEntry, Limits, Refusal, reserve_of
from s2connect.https.client_hello import HANDSHAKE_RECORD, RECORD_HEAD, is_served
from s2connect.https.proxy_protocol import HEAD, Balancers, Source, size_of, source_of
from s2connect.https.rate import network_of
from s2connect.model.log_limiter import LogLimiter
from s2connect.model.text import for_display
from s2connect.supervisor import process_failures

_log = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT = 5.0
"""Seconds for a client's first message; and, once its handshake has had its turn, for the rest of it."""

HEADER_TIMEOUT = 3.0
"""Seconds for the header of a balancer, which sends it with its connection."""

TURN_TIMEOUT = 10.0
"""Seconds that a handshake waits for its turn: by then most clients have given up."""

SHUTDOWN_TIMEOUT = 2.0
"""Seconds for the end of TLS on both sides."""

BACKLOG: Final = 1024
"""Connections that wait in the kernel to be accepted."""

ACCEPTS_PER_TURN: Final = 64
"""Connections that are accepted, or refused, in one turn of the event loop: some milliseconds. Fewer would leave those
that come behind a crowd in the kernel's queue for seconds."""

HANDSHAKES_PER_TURN: Final = 4
"""TLS handshakes that begin in one turn of the event loop: each holds it up for a millisecond or more."""

EXHAUSTED_PAUSE: Final = 0.25
"""Seconds without accepting after the system had no descriptor or memory for a connection."""

PORT_TRIES: Final = 32
"""Numbers tried until one is free in every address family."""

LOOK_EVERY: Final = 0.05
"""Seconds between two measurements of the loop's lag while it is not late."""

FIRST_PAUSE: Final = 0.005
"""Seconds before the first new check whether a client's first record is complete; doubled for each further check."""

MAX_RECORD: Final = RECORD_HEAD + 16384
"""RFC 8446, section 5.1."""

HANDSHAKE_FAILURE: Final = bytes((21, 3, 3, 0, 2, 2, 40))
"""RFC 8446, section 6: the alert for a client with whom we have no group in common."""

_EXHAUSTED: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_NO_SUCH_FAMILY: Final = {errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT}
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: end with a reset, which leaves nothing behind and reads as what it is: come again later."""


def raise_descriptor_limit() -> int:
    """Raise this process's soft limit on descriptors to the hard one. Returns the limit. For services."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # Some systems allow less than they say, or let no process have so many.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return descriptor_limit()


def descriptor_limit() -> int:
    """Return how many descriptors this process may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else 1 << 20


FIRST_LOOK_UP: Final = 1.0
"""Seconds until the name to listen at is looked up again after no name server has answered; then twice as long."""

MOST_LOOK_UP: Final = 16.0
"""Most seconds between two look-ups."""

LOOK_UP_TIMEOUT: Final = 60.0
"""Seconds for the look-ups; less than systemd's 90 for a start. After that the service ends, and is started again."""


async def listen(host: str | Sequence[str] | None, port: int, *, shared: bool = False) -> list[socket.socket]:
    """Return listening sockets of all address families, with one and the same port; see :meth:`Acceptor.start`."""
    addresses: dict[tuple[int, str], Any] = {}
    for name in [host] if host is None or isinstance(host, str) else host:
        found = await _looked_up(name or None, port)
        addresses.update({(family, str(where[0])): where for family, _, _, _, where in found})
    for tries_left in reversed(range(PORT_TRIES)):
        try:
            return _bound(addresses, port, shared)
        except OSError as error:
            if port or error.errno != errno.EADDRINUSE or not tries_left:
                raise
    raise AssertionError("unreachable")


async def _looked_up(name: str | None, port: int) -> list[Any]:
    """Look up a name to listen at; again where no name server answers, as at the start of a machine."""
    loop = asyncio.get_running_loop()
    delay, until = FIRST_LOOK_UP, loop.time() + LOOK_UP_TIMEOUT
    while True:
        try:
            return await loop.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except socket.gaierror as error:
            if error.errno != socket.EAI_AGAIN or loop.time() + delay > until:
                raise
        shown = for_display(name or "", 200)
        _log.warning("The name %s to listen at cannot be looked up yet; it is tried again in %.0f s", shown, delay)
        await asyncio.sleep(delay)
        delay = min(2 * delay, MOST_LOOK_UP)


def _bound(addresses: dict[tuple[int, str], Any], port: int, shared: bool) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for (family, _), where in addresses.items():
            try:
                made = socket.create_server(
                    (where[0], port, *where[2:]), family=family, backlog=BACKLOG, reuse_port=shared
                )
            except OSError as error:
                missing = OSError(error.errno, os.strerror(error.errno or 0))  # create_server adds words of its own
                is_off = error.errno == errno.EADDRNOTAVAIL and where[0] == "::"
                if is_off or error.errno in _NO_SUCH_FAMILY:
                    continue
                raise missing from error
            sockets.append(made)
            made.setblocking(False)
            port = made.getsockname()[1]
    except BaseException:
        for made in sockets:
            made.close()
        raise
    if not sockets:
        raise missing or OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    return sockets


class Acceptor:
    """Accepts connections as its :class:`~s2connect.https.admission.Admission` decides, and does their TLS handshakes.

    A connection that is refused is closed at once, without cryptography; nothing is spent on TLS before the first
    record of a client has come. The log says once a minute how many were refused.

    Args:
        make_protocol: Makes the protocol of a connection that is taken in. It sets ``evict`` of the entry, and says to
            :attr:`admission` how the connection comes on, and when it has ended.
        context: TLS server context; None for no TLS.
        balancers: Load balancers, whose connections begin with a header of PROXY protocol 2 that names the client; that
            address counts for the admission. Their connections without one are refused; nobody else's is believed.
    """

    def __init__(
        self,
        make_protocol: Callable[[ConnectionEntry], asyncio.Protocol],
        context: ssl.SSLContext | None,
        balancers: Balancers | None = None,
    ) -> None:
        self._make_protocol = make_protocol
        self._context = context
        self._balancers = balancers
        self._headers: set[asyncio.Task[None]] = set()
        self.admission = Admission(Limits())
        self.port = 0
        self._listening: list[socket.socket] = []
        self._arriving: dict[ConnectionEntry, asyncio.Task[None]] = {}
        self._ours: dict[ConnectionEntry, socket.socket] = {}  # until asyncio has them
        self._turns: dict[ConnectionEntry, asyncio.Future[None]] = {}
        self._turn: asyncio.Handle | None = None
        self._pause: asyncio.TimerHandle | None = None
        self._closed = False
        self._lag: LagProbe | None = None
        self._first_scarce = descriptor_limit()
        self._reports = LogLimiter()

    async def start(self, host: str | Sequence[str] | None, port: int, *, shared: bool = False) -> None:
        """Listen at an address or addresses, None for all; at port 0 on any, the same in all address families.

        At a ``shared`` port other processes of this user listen, too, and the kernel spreads the connections.

        Raises:
            OSError: The address or port cannot be used.
        """
        self._loop = asyncio.get_running_loop()
        limit = descriptor_limit()
        self._first_scarce = limit - reserve_of(limit)
        self.admission.limits = Limits.for_descriptors(limit)
        self._listening = await listen(host, port, shared=shared)
        self._lag = LagProbe(self.admission.overload.look)
        self.port = self._listening[0].getsockname()[1]
        self._resume()

    def stop_listening(self) -> None:
        """Take what the kernel has accepted already, and listen no more; connections go on. Idempotent."""
        for listening in self._listening:
            if self._pause is None:
                self._accept(listening)
        self._stop()
        if self._pause is not None:
            self._pause.cancel()
        while self._listening:
            self._listening.pop().close()

    async def close(self) -> None:
        """Stop accepting, and end the connections whose handshake is not done. Idempotent."""
        self._closed = True
        self._stop()
        if self._lag is not None:
            self._lag.close()
        for handle in (self._turn, self._pause):
            if handle is not None:
                handle.cancel()
        while self._listening:
            self._listening.pop().close()
        arriving = [*self._headers, *self._arriving.values()]
        for task in arriving:
            task.cancel()
        await asyncio.gather(*arriving, return_exceptions=True)

    # Accepting

    def _resume(self) -> None:
        self._pause = None
        for listening in self._listening:
            self._loop.add_reader(listening.fileno(), self._accept, listening)

    def _stop(self) -> None:
        for listening in self._listening:
            self._loop.remove_reader(listening.fileno())

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                connection, address = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._note("not accepted for lack of descriptors or memory", "")
                    self._stop()
                    self._pause = self._loop.call_later(EXHAUSTED_PAUSE, self._resume)
                    return
                continue  # ended before it was accepted
            try:
                self._accepted(connection, str(address[0]))
            except BaseException:
                connection.close()
                raise

    def _accepted(self, connection: socket.socket, address: str) -> None:
        """Find out whose connection it is, and take it in; or refuse it."""
        balancers = self._balancers
        if balancers is None:
            self._arrive(connection, network_of(address))
        elif balancers.has(address):
            self._await_header(connection, address)
        elif balancers.only:
            self._refuse(connection, "not of a balancer", network_of(address))
        else:
            self._arrive(connection, network_of(address))

    def _await_header(self, connection: socket.socket, address: str) -> None:
        if len(self._headers) >= self.admission.limits.per_network:
            self._refuse(connection, "of balancers, too many without the header of PROXY protocol 2", address)
            return
        connection.setblocking(False)
        task = self._loop.create_task(self._header(connection, address), name=f"s2connect-balancer-{address}")
        self._headers.add(task)
        # As for arrivals: a task that is cancelled before its first step runs no line of its own.
        task.add_done_callback(lambda task: self._header_done(task, connection))

    def _header_done(self, task: asyncio.Task[None], connection: socket.socket) -> None:
        self._headers.discard(task)
        if task.cancelled():
            _reset(connection)

    async def _header(self, connection: socket.socket, address: str) -> None:
        """Read the header of a balancer, and nothing beyond it; then take the connection in as its client's."""
        try:
            async with asyncio.timeout(HEADER_TIMEOUT):
                head = await self._exactly(connection, HEAD)
                source = source_of(head + await self._exactly(connection, size_of(head) - HEAD))
        except (TimeoutError, OSError, ValueError):
            self._refuse(connection, "of balancers, without a right header of PROXY protocol 2", address)
            return
        try:
            self._arrive(connection, network_of(source[0] if source is not None else address), source)
        except BaseException as error:
            connection.close()
            process_failures.failed("arrival", error)

    async def _exactly(self, connection: socket.socket, size: int) -> bytes:
        found = b""
        while len(found) < size:
            more = await self._loop.sock_recv(connection, size - len(found))
            if not more:
                raise ConnectionResetError
            found += more
        return found

    def _refuse(self, connection: socket.socket, why: str, network: str) -> None:
        self._note(why, network)
        _reset(connection)

    def _arrive(self, connection: socket.socket, network: str, source: Source | None = None) -> None:
        """Take a connection in, or refuse it; a balancer has named its client, the ``source``."""
        # The kernel gives the lowest free number, so that all below this one are in use.
        scarce = connection.fileno() >= self._first_scarce
        entry, victim = self.admission.admit(network, now=self._loop.time(), scarce=scarce)
        self._evict(victim)
        if isinstance(entry, Refusal):
            self._refuse(connection, entry.value, network)
            return
        entry.source = source
        connection.setblocking(False)
        task = self._loop.create_task(self._take_in(connection, entry), name=f"s2connect-arrival-{network}")
        entry.evict = task.cancel
        self._arriving[entry], self._ours[entry] = task, connection
        # A callback, because a task that is cancelled before its first step runs no line of its own.
        task.add_done_callback(lambda task: self._arrived(entry, task))

    def _arrived(self, entry: ConnectionEntry, task: asyncio.Task[None]) -> None:
        self._arriving.pop(entry, None)
        if task.cancelled():
            self.admission.leave(entry)
        connection = self._ours.pop(entry, None)
        if connection is not None:
            _reset(connection)

    def _evict(self, victim: ConnectionEntry | None) -> None:
        if victim is not None:
            self._note("idle while others came", victim.network)
            if victim.evict is not None:
                victim.evict()

    # From TCP to the protocol

    async def _take_in(self, connection: socket.socket, entry: ConnectionEntry) -> None:
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT) as deadline:
                with contextlib.suppress(OSError):  # it has ended already
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._context is not None:
                    await self._client_hello(connection)
                    deadline.reschedule(self._loop.time() + TURN_TIMEOUT)
                    await self._its_turn(entry)
                    deadline.reschedule(self._loop.time() + HANDSHAKE_TIMEOUT)
                del self._ours[entry]
                await self._loop.connect_accepted_socket(
                    lambda: self._make_protocol(entry),
                    connection,
                    ssl=self._context,
                    ssl_handshake_timeout=2 * HANDSHAKE_TIMEOUT if self._context else None,  # ours ends first
                    ssl_shutdown_timeout=SHUTDOWN_TIMEOUT if self._context else None,
                )
        except (TimeoutError, OSError):
            self.admission.leave(entry)  # neither silence nor a failed handshake is worth a line
        except Exception as error:
            self.admission.leave(entry)
            process_failures.failed("arrival", error)

    async def _client_hello(self, connection: socket.socket) -> None:
        """Wait for the whole first record of a client, so that nothing is spent on one that sends a byte of it."""
        try:
            record = _whole_record(connection)  # usually it has come already
        except BlockingIOError:
            await self._readable(connection)
            record = _whole_record(connection)
        pause = FIRST_PAUSE
        while record is None:
            await asyncio.sleep(pause)  # the descriptor stays readable, and does not tell when more has come
            pause *= 2
            record = _whole_record(connection)
        if not is_served(record):
            connection.recv(len(record))  # what is unread would turn the end into a reset, and the alert would be lost
            connection.send(HANDSHAKE_FAILURE)
            connection.shutdown(socket.SHUT_WR)
            connection.close()
            raise ConnectionResetError

    async def _readable(self, connection: socket.socket) -> None:
        arrived, descriptor = asyncio.Event(), connection.fileno()
        self._loop.add_reader(descriptor, arrived.set)
        try:
            await arrived.wait()
        finally:
            self._loop.remove_reader(descriptor)

    async def _its_turn(self, entry: ConnectionEntry) -> None:
        turn = self._turns[entry] = self._loop.create_future()
        may_wait, victim = self.admission.ready(entry, now=self._loop.time())
        self._evict(victim)
        self._next_turn()
        try:
            if not may_wait:
                self._note(Refusal.BUSY.value, entry.network)
                raise ConnectionRefusedError
            await turn
        finally:
            del self._turns[entry]

    def _next_turn(self) -> None:
        if self._turn is None and not self._closed:
            self._turn = self._loop.call_soon(self._give_turns)

    def _give_turns(self) -> None:
        self._turn = None
        for _ in range(HANDSHAKES_PER_TURN):
            entry, victim = self.admission.next_handshake(now=self._loop.time())
            self._evict(victim)
            if entry is None:
                break
            turn = self._turns.get(entry)
            if turn is not None and not turn.done():
                turn.set_result(None)
        if self.admission.waiting:
            delay = 0.0 if entry is not None else 0.01  # else none ends before others get on
            self._turn = self._loop.call_later(delay, self._give_turns)

    # Logging

    def _note(self, why: str, network: str) -> None:
        if count := self._reports.count(why, self._loop.time()):
            last = f"; the last from {network}" if network else ""
            _log.warning("Connections closed at once on port %d: %d %s%s", self.port, count, why, last)


class LagProbe:
    """Measures several times a second how long a ready socket waits for the loop, and calls ``look(lag, now=now)``.

    A timer would measure less: a loop that handles a few sockets a turn has its timers in time, and sockets wait.
    """

    def __init__(self, look: Callable[..., None]) -> None:
        self._look = look
        self._loop = asyncio.get_running_loop()
        self._here, self._there = socket.socketpair()
        self._here.setblocking(False)
        self._there.setblocking(False)
        self._sent = 0.0
        self._loop.add_reader(self._here.fileno(), self._arrived)
        self._timer = self._loop.call_later(LOOK_EVERY, self._send)

    def close(self) -> None:
        """Measure no more. Idempotent."""
        self._timer.cancel()
        if self._here.fileno() >= 0:
            self._loop.remove_reader(self._here.fileno())
            self._here.close()
            self._there.close()

    def _send(self) -> None:
        # A turn of the loop begins with its sockets: what is sent now waits for a whole turn.
        self._sent = self._loop.time()
        self._there.send(b"x")

    def _arrived(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._here.recv(16)
        now = self._loop.time()
        self._timer = self._loop.call_later(LOOK_EVERY, self._send)
        self._look(now - self._sent, now=now)


def _whole_record(connection: socket.socket) -> bytes | None:
    head = connection.recv(RECORD_HEAD, socket.MSG_PEEK)
    if not head:
        raise ConnectionResetError
    if head[0] != HANDSHAKE_RECORD:
        return head
    if len(head) < RECORD_HEAD:
        return None
    size = min(RECORD_HEAD + int.from_bytes(head[3:]), MAX_RECORD)
    record = connection.recv(size, socket.MSG_PEEK)
    return record if len(record) == size else None


def _reset(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    connection.close()
