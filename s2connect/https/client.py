"""The HTTPS client: bounded answers, no redirects, no cookies, errors in our own words."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, cast
from urllib.parse import quote, urlencode

import h11

from s2connect.certs.connect import MAX_HEAD_BYTES, KeptConnection, connect_tls, farewell
from s2connect.certs.tls import describe_tls_error
from s2connect.errors import (
    IncompatibleApiVersion,
    NotReachable,
    PeerBusy,
    PeerTimeout,
    ProtocolViolation,
    S2ConnectError,
)
from s2connect.https import API_VERSIONS
from s2connect.model.common import Wire
from s2connect.model.proxy import Proxy
from s2connect.model.reply import retry_after_of, succeeded
from s2connect.model.secret import Secret
from s2connect.model.strict_json import MalformedJson, read_json
from s2connect.model.text import for_display
from s2connect.model.url import BaseUrl

_log = logging.getLogger(__name__)

MAX_REPLY_BYTES = 64 * 1024
"""Longest answer that is read."""

REQUEST_TIMEOUT = 10.0
"""Seconds for one request where nothing else is said."""

VERSION_WITHOUT_INDEX = "v1"
"""VER-08: version of a server that has no version index."""

MIN_PARTS: Final = 64
MEAN_PART_BYTES: Final = 128
"""An answer may come in :data:`MIN_PARTS`, and one more for this many bytes of the longest one."""

MAX_API_VERSIONS = 32
"""Longest version index that is read."""


_AS_IT_IS = "".join(chr(code) for code in range(0x21, 0x7F))
"""Characters of a URL that are sent as they are; all others are percent-encoded."""


@dataclass(frozen=True, slots=True)
class HttpReply:
    """Status and body of an answer. The body may hold secrets."""

    status: int
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Destination:
    """Destination of requests: trust, address and proxy of one server.

    Attributes:
        context: TLS context: the trust in the server.
        address: Where to connect to instead of the URL's host, whose name is still the one that is verified.
        proxy: Connect through it; the proxy looks the host up.
    """

    context: ssl.SSLContext
    address: str | None = None
    proxy: Proxy | None = None


class _HttpConnection(asyncio.Protocol):
    """Connection of a client: one request after the other."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._reply: _Reply | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods only

    @property
    def is_idle(self) -> bool:
        """True if a request can be made on it now."""
        return self._http.our_state is h11.IDLE and not self.transport.is_closing()

    async def request(self, head: h11.Request, body: bytes, max_bytes: int) -> _Reply:
        """Make a request. Cancelled or failed, the connection is gone.

        Raises:
            OSError: The connection is lost; :class:`_Disconnected` if the peer has closed it.
            h11.RemoteProtocolError: The answer is no HTTP.
            ProtocolViolation: It is longer than ``max_bytes``.
        """
        http, reply = self._http, _Reply(max_bytes)
        self._reply = reply
        parts = (http.send(head), http.send(h11.Data(body)) if body else b"", http.send(h11.EndOfMessage()))
        try:
            self.transport.write(b"".join(part for part in parts if part))
            await reply.whole.wait()
            if reply.error is not None:
                raise reply.error
        except BaseException:
            self.transport.abort()
            raise
        finally:
            self._reply = None
        if http.our_state is http.their_state is h11.DONE and not http.trailing_data[0]:
            http.start_next_cycle()
        else:
            farewell(self.transport)  # the other side ends it after this answer
        return reply

    def data_received(self, data: bytes) -> None:
        if self._reply is None:
            self.transport.abort()  # nothing was asked
        else:
            self._received(self._reply, data)

    def eof_received(self) -> None:
        if self._reply is not None:
            self._received(self._reply, b"")

    def connection_lost(self, exc: Exception | None) -> None:
        if self._reply is not None and not self._reply.whole.is_set():
            self._reply.error = exc or _Disconnected()
            self._reply.whole.set()

    def _received(self, reply: _Reply, data: bytes) -> None:
        if reply.whole.is_set():
            self.transport.abort()  # nothing was asked
            return
        try:
            if not data and not reply.status and b"HTTP/".startswith(self._http.trailing_data[0][:5]):
                raise _Disconnected
            self._http.receive_data(data)
            while (event := self._http.next_event()) is not h11.NEED_DATA and event is not h11.PAUSED:
                if reply.take(event):
                    reply.whole.set()
                    return
        except (OSError, h11.RemoteProtocolError, ProtocolViolation) as error:
            reply.error = error
            reply.whole.set()


class _Disconnected(OSError):
    """The server has closed the connection instead of answering, or within the head of its answer."""


class _Reply:
    """Answer as it comes in: complete, or failed with ``error``, when ``whole`` is set."""

    status = 0
    retry_after: str | None = None
    error: Exception | None = None

    def __init__(self, max_bytes: int) -> None:
        self.whole = asyncio.Event()
        self._chunks: list[bytes] = []
        self._size = self._parts = 0
        self._max_bytes = max_bytes

    @property
    def body(self) -> bytes:
        return b"".join(self._chunks)

    def take(self, event: object) -> bool:
        """Take a part of the answer in; True for its end."""
        match event:
            case h11.Response():
                self.status = event.status_code
                self.retry_after = next((v.decode("latin-1") for k, v in event.headers if k == b"retry-after"), None)
            case h11.Data():
                self._size += len(event.data)
                self._chunks.append(bytes(event.data))
            case h11.EndOfMessage():
                return True
        self._parts += 1
        # A body in a great many small parts costs the time of a far longer one.
        if self._size > self._max_bytes or self._parts > MIN_PARTS + self._max_bytes // MEAN_PART_BYTES:
            raise ProtocolViolation(f"The other side's answer is longer than {self._max_bytes} bytes.")
        return False


class HttpsClient:
    """Requests to one server over kept-alive connections; use it with ``async with``.

    All requests of one procedure go through one instance, so that they share trust, address and connection.

    Attributes:
        without_index: Whether the server was found to have no version index (VER-08).
    """

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self.without_index = False
        self._idle: list[tuple[str, int, _HttpConnection]] = []

    async def __aenter__(self) -> HttpsClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        for _host, _port, connection in self._idle:
            farewell(connection.transport)
        self._idle.clear()

    def release(self) -> KeptConnection | None:
        """Return a connection on which requests were answered, for a WebSocket; it is the caller's to close then."""
        while self._idle:
            host, port, connection = self._idle.pop()
            if connection.is_idle:
                return KeptConnection(host, port, connection.transport)
        return None

    async def api_version(self, base: BaseUrl) -> str:
        """Fetch the version index of an API and pick the best version that both support (VER-02).

        Where there is no index (404) it is taken for ``v1``, which the log says (VER-08). If there is nothing at the
        URL at all, the next request raises :class:`ProtocolViolation`. Other errors are those of :meth:`post`.

        Raises:
            IncompatibleApiVersion: None in common.
        """
        reply = await self._request("GET", base, str(base))
        if reply.status == 404:
            self.without_index = True
            what = "%s has no version index (HTTP 404), which the standard demands; trying %s"
            _log.warning(what, for_display(str(base), 200), VERSION_WITHOUT_INDEX)
            return VERSION_WITHOUT_INDEX
        if not succeeded(reply.status):
            raise no_api(base, f" (HTTP {reply.status})")
        try:
            versions = read_json(reply.body)
        except MalformedJson:
            versions = None
        if not isinstance(versions, list) or len(versions) > MAX_API_VERSIONS:
            raise no_api(base)
        for version in API_VERSIONS:
            if version in versions:
                return version
        offered = ", ".join(for_display(str(v), 10) for v in versions[:5]) or "none"
        raise IncompatibleApiVersion(
            f"The other side speaks version {offered} of S2 Connect, this one {', '.join(API_VERSIONS)}."
        )

    async def post(
        self,
        base: BaseUrl,
        version: str,
        operation: str,
        body: Wire | bytes | None = None,
        *,
        bearer: Secret | None = None,
        timeout: float = REQUEST_TIMEOUT,
    ) -> HttpReply:
        """Post an object or JSON text. Any status below 500 but 429 is returned, the caller knows what it means.

        Raises:
            PeerBusy: 429 or 5xx.
            NotReachable: No connection.
            PeerTimeout: No whole answer in ``timeout`` seconds.
            TrustError: The certificate is not what it has to be; nothing was sent.
            ProtocolViolation: The answer is too long or no HTTP, or there is neither index nor operation at the URL.
        """
        data = body.to_json() if isinstance(body, Wire) else body
        url = base.operation(version, operation)
        reply = await self._request("POST", base, url, data, bearer, timeout)
        if reply.status == 404 and self.without_index:
            raise no_api(base, " (HTTP 404)")
        return reply

    async def get(
        self,
        base: BaseUrl,
        version: str,
        operation: str,
        *,
        query: Mapping[str, str] | None = None,
        timeout: float = REQUEST_TIMEOUT,
        max_bytes: int = MAX_REPLY_BYTES,
    ) -> HttpReply:
        """Get what an operation answers, at most ``max_bytes``. The errors are those of :meth:`post`."""
        url = base.operation(version, operation)
        if query:
            url += "?" + urlencode(query, safe=",")
        reply = await self._request("GET", base, url, timeout=timeout, max_bytes=max_bytes)
        if reply.status == 404 and self.without_index:
            raise no_api(base, ", or it tells strangers nothing about itself (HTTP 404)")
        return reply

    async def _request(
        self,
        method: str,
        base: BaseUrl,
        url: str,
        body: bytes | None = None,
        bearer: Secret | None = None,
        timeout: float = REQUEST_TIMEOUT,
        max_bytes: int = MAX_REPLY_BYTES,
    ) -> HttpReply:
        headers = [("Host", _authority(base)), ("User-Agent", "s2connect"), ("Accept-Encoding", "identity")]
        if body is not None:
            headers.append(("Content-Type", "application/json"))
        if method == "POST":
            headers.append(("Content-Length", str(len(body or b""))))
        if bearer is not None:
            headers.append(("Authorization", f"Bearer {bearer.reveal()}"))
        target = quote(url[url.index("/", len("https://")) :], safe=_AS_IT_IS)
        try:
            async with asyncio.timeout(timeout):
                head = h11.Request(method=method, target=target, headers=headers)
                connection = await self._connection(base.host, base.port)
                reply = await connection.request(head, body or b"", max_bytes)
        except (TimeoutError, OSError, ValueError, h11.RemoteProtocolError) as error:
            raise network_error(error, base.host, base.port) from error
        if connection.is_idle:
            self._idle.append((base.host, base.port, connection))
        if reply.status == 429 or reply.status >= 500:
            what = f"{for_display(base.host)} cannot do it now (HTTP {reply.status})."
            raise PeerBusy(what, status=reply.status, retry_after=retry_after_of(reply.retry_after))
        return HttpReply(reply.status, reply.body)

    async def _connection(self, host: str, port: int) -> _HttpConnection:
        for position, (known_host, known_port, connection) in enumerate(self._idle):
            if (known_host, known_port) == (host, port):
                del self._idle[position]
                if connection.is_idle:
                    return connection
                break
        to = self._destination
        _, made = await connect_tls(_HttpConnection, host, port, to.context, address=to.address, proxy=to.proxy)
        return made


def _authority(base: BaseUrl) -> str:
    """Return the value of ``Host``."""
    host = f"[{base.host}]" if ":" in base.host else base.host
    return host if base.port == base.ports["https"] else f"{host}:{base.port}"


def no_api(base: BaseUrl, because: str = "") -> ProtocolViolation:
    """Return the error for a URL at which there is no S2 Connect."""
    return ProtocolViolation(
        f"There is no S2 Connect at {for_display(str(base), 200)}{because}.",
        hint="Check the URL; it usually ends with /pairing/.",
    )


def network_error(error: BaseException, host: str, port: int) -> S2ConnectError:
    """Return the error for a failed request, in our own words."""
    where = f"{for_display(host, 100)}:{port}"
    trust = describe_tls_error(error, host)
    if trust is not None:
        return trust
    if isinstance(error, TimeoutError):
        return PeerTimeout(f"{where} did not answer in time.")
    if isinstance(error, _Disconnected):
        return NotReachable(f"{where} closed the connection.")
    if isinstance(error, h11.RemoteProtocolError):
        return ProtocolViolation(f"{where} did not answer in proper HTTP.")
    return NotReachable.because(for_display(host, 100), port, error)
