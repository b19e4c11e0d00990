"""The HTTPS client: bounded answers, no redirects, no cookies, errors in our own words."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import aiohttp
from aiohttp import abc, hdrs
from aiohttp.resolver import ThreadedResolver

from s2connect.certs.tls import describe_tls_error
from s2connect.errors import (
    IncompatibleApiVersion,
    NetworkError,
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

MAX_API_VERSIONS = 32
"""Longest version index that is read."""


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


class _Resolver(ThreadedResolver):
    """Resolves through the operating system, or to a given address."""

    def __init__(self, address: str | None) -> None:
        super().__init__()
        self._address = address

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[abc.ResolveResult]:
        found = await super().resolve(self._address or host, port, family)
        return [{**result, "hostname": host} for result in found]


class HttpsClient:
    """Requests to one server over kept-alive connections; use it with ``async with``.

    All requests of one procedure go through one instance, so that they share trust, address and connection.

    Attributes:
        without_index: Whether the server was found to have no version index (VER-08).
    """

    def __init__(self, destination: Destination) -> None:
        self._proxy = destination.proxy
        self.without_index = False
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=destination.context,
                resolver=_Resolver(destination.address if destination.proxy is None else None),
                use_dns_cache=False,
                limit=4,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={hdrs.USER_AGENT: "s2connect", hdrs.ACCEPT_ENCODING: "identity"},
        )

    async def __aenter__(self) -> HttpsClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

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
        headers = {}
        if body is not None:
            headers[hdrs.CONTENT_TYPE] = "application/json"
        if bearer is not None:
            headers[hdrs.AUTHORIZATION] = f"Bearer {bearer.reveal()}"
        try:
            async with (
                asyncio.timeout(timeout),
                self._session.request(
                    method,
                    url,
                    data=body,
                    headers=headers,
                    allow_redirects=False,
                    proxy=self._proxy.reveal_url() if self._proxy is not None else None,
                    timeout=aiohttp.ClientTimeout(total=None),
                ) as response,
            ):
                content = await _read_bounded(response.content, max_bytes)
                status, retry_after = response.status, retry_after_of(response.headers.get(hdrs.RETRY_AFTER))
                if status == 429 or status >= 500:
                    what = f"{for_display(base.host)} cannot do it now (HTTP {status})."
                    raise PeerBusy(what, status=status, retry_after=retry_after)
                return HttpReply(status, content)
        except S2ConnectError:
            raise
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise self._mapped(error, base) from error

    def _mapped(self, error: BaseException, base: BaseUrl) -> S2ConnectError:
        if self._proxy is not None and isinstance(error, aiohttp.ClientHttpProxyError):
            where = f"{for_display(base.host, 100)}:{base.port}"
            return NotReachable(
                f"The proxy {for_display(self._proxy.address)} does not connect to {where} (HTTP {error.status})."
            )
        if self._proxy is not None and isinstance(error, aiohttp.ClientProxyConnectionError):
            return NotReachable(f"The proxy {for_display(self._proxy.address)} cannot be reached.")
        return network_error(error, base.host, base.port)


def no_api(base: BaseUrl, because: str = "") -> ProtocolViolation:
    """Return the error for a URL at which there is no S2 Connect."""
    return ProtocolViolation(
        f"There is no S2 Connect at {for_display(str(base), 200)}{because}.",
        hint="Check the URL; it usually ends with /pairing/.",
    )


async def _read_bounded(stream: aiohttp.StreamReader, max_bytes: int) -> bytes:
    chunks, size = [], 0
    async for chunk in stream.iter_any():
        size += len(chunk)
        if size > max_bytes:
            raise ProtocolViolation(f"The other side's answer is longer than {max_bytes} bytes.")
        chunks.append(chunk)
    return b"".join(chunks)


def network_error(error: BaseException, host: str, port: int) -> S2ConnectError:
    """Return the error for a failed request, in our own words."""
    where = f"{for_display(host, 100)}:{port}"
    trust = describe_tls_error(error, host)
    if trust is not None:
        return trust
    if isinstance(error, TimeoutError):
        return PeerTimeout(f"{where} did not answer in time.")
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return NotReachable(f"{where} closed the connection.")
    if isinstance(error, aiohttp.ClientConnectorError | OSError):
        return NotReachable.because(for_display(host, 100), port, error)
    if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ClientResponseError):
        return ProtocolViolation(f"{where} did not answer in proper HTTP.")
    return NetworkError(f"The request to {where} failed.")
