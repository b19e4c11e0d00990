"""Client of a WAN endpoint registry: which energy managers and devices are on the internet (REG)."""

from __future__ import annotations

import contextlib
import logging
import re
import ssl
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from uuid import UUID

from s2connect.errors import NotReachable, PeerTimeout, ProtocolViolation, UsageError
from s2connect.https.client import Destination, HttpReply, HttpsClient
from s2connect.model.common import MalformedMessage, Role
from s2connect.model.proxy import Proxy
from s2connect.model.registry import EndpointRecord, RegistryStatus
from s2connect.model.reply import reading, succeeded
from s2connect.model.strict_json import MalformedJson, read_json
from s2connect.model.text import for_display
from s2connect.model.url import BaseUrl

_log = logging.getLogger(__name__)

PAGE_RECORDS = 100
"""REG-03: records asked for at a time."""

MAX_PAGES = 200
"""Pages that are read."""

MAX_RECORDS = 10_000
"""Records that are read."""

MAX_LEFT_OUT = 100
"""Invalid records that are kept for the user."""

MAX_PAGE_BYTES = 1024 * 1024
"""Longest page that is read."""

PAGE_TIMEOUT = 20.0
"""Seconds for one page."""

_COUNTRY = re.compile(r"[A-Z]{2}", re.ASCII)


@dataclass(frozen=True, slots=True)
class LeftOutRecord:
    """A record that a registry gave and that is not as the standard says (REG-02).

    Attributes:
        number: Its place in the answers, from 1.
        name: Its name, cleaned, where it has one.
        reason: Which member is wrong, and why.
    """

    number: int
    name: str
    reason: str


class RegistryClient:
    """Asks one registry. Every call fetches the version index first (VER-02) and may be cancelled at any time.

    Attributes:
        left_out: Invalid records of the last :meth:`endpoints`, at most :data:`MAX_LEFT_OUT`.
    """

    def __init__(
        self, url: BaseUrl, context: ssl.SSLContext, *, address: str | None = None, proxy: Proxy | None = None
    ) -> None:
        """Ask the registry at ``url``.

        Args:
            url: Its base URL.
            context: Whom to trust; from :func:`~s2connect.certs.tls.wan_client_context`.
            address: Connect here instead of resolving the URL's host.
            proxy: Connect through it, where there is no address.
        """
        self.left_out: list[LeftOutRecord] = []
        self._url = url
        self._destination = Destination(context, address, proxy if address is None else None)

    async def endpoints(
        self,
        *,
        region: Iterable[str] = (),
        role: Role | None = None,
        status: RegistryStatus = RegistryStatus.PUBLIC,
    ) -> list[EndpointRecord]:
        """Return the endpoints of the registry, all pages together (REG-03). Their texts are a stranger's.

        An invalid record is left out with a warning (REG-02), and is in :attr:`left_out`.

        Args:
            region: ISO 3166-1 alpha-2 codes; endpoints that are active in any of them.
            role: Only endpoints that host nodes of this role.
            status: Public ones, or those for testing.

        Raises:
            UsageError: A region is no country code.
            ProtocolViolation: It is no registry, or does not follow the standard.
            NetworkError: Not reachable, too slow or busy.
            TrustError: The certificate is refused.
        """
        query = {"status": status.value}
        regions = [_country(code) for code in region]
        if regions:
            query["region"] = ",".join(regions)
        if role is not None:
            query[role.value.lower()] = "true"
        self.left_out = []
        found: dict[UUID, EndpointRecord] = {}
        offset, previous = 0, b""
        async with self._asking() as (http, version):
            for _ in range(MAX_PAGES):
                page = query | {"limit": str(PAGE_RECORDS), "offset": str(offset)}
                reply = await self._get(http, version, "endpoint", page)
                values = self._list(reply)
                # A registry may give fewer than asked for, so only an empty page is the end; or the same once more,
                # from one without offsets.
                if not values or reply.body == previous:
                    break
                previous = reply.body
                for number, value in enumerate(values, offset + 1):
                    try:
                        record = EndpointRecord.from_value(value)
                    except MalformedMessage as error:
                        _log.warning("record %d of the registry is left out: %s", number, error)
                        if len(self.left_out) < MAX_LEFT_OUT:
                            self.left_out.append(LeftOutRecord(number, name_of_record(value), str(error)))
                    else:
                        found.setdefault(record.id, record)
                offset += len(values)
                if offset >= MAX_RECORDS:
                    _log.warning("the registry has more than %d records; the rest is left out", MAX_RECORDS)
                    break
        return list(found.values())[:MAX_RECORDS]

    async def endpoint(self, record_id: UUID) -> EndpointRecord | None:
        """Return an endpoint by its id in the registry; None where there is none.

        Raises:
            ProtocolViolation, NetworkError, TrustError: As with :meth:`endpoints`.
        """
        async with self._asking() as (http, version):
            reply = await self._get(http, version, f"endpoint/{record_id}", {})
        if reply.status == 404:
            return None
        if not succeeded(reply.status):
            raise ProtocolViolation(f"The registry answered the question for a record with HTTP {reply.status}.")
        with reading("The registry's record"):
            return EndpointRecord.from_json(reply.body)

    @contextlib.asynccontextmanager
    async def _asking(self) -> AsyncIterator[tuple[HttpsClient, str]]:
        """Connect to the registry; give the connection, and the version of its API."""
        try:
            async with HttpsClient(self._destination) as http:
                yield http, await http.api_version(self._url)
        except (NotReachable, PeerTimeout) as error:
            error.hint = "Check the URL of the registry, and this machine's connection to the internet."
            raise

    async def _get(self, http: HttpsClient, version: str, operation: str, query: dict[str, str]) -> HttpReply:
        return await http.get(
            self._url, version, operation, query=query, timeout=PAGE_TIMEOUT, max_bytes=MAX_PAGE_BYTES
        )

    def _list(self, reply: HttpReply) -> list[object]:
        try:
            values = read_json(reply.body) if succeeded(reply.status) else None
        except MalformedJson:
            values = None
        if not isinstance(values, list):
            raise ProtocolViolation(
                f"{for_display(self._url.host, 100)} did not answer as a registry does (HTTP {reply.status}).",
                hint="Check the URL of the registry.",
            )
        return values


def name_of_record(value: object) -> str:
    """Return the name that an invalid record has, fit for a terminal; empty where it has none."""
    name = value.get("name") if isinstance(value, dict) else None
    return for_display(name, 50) if isinstance(name, str) else ""


def _country(code: str) -> str:
    upper = code.strip().upper()
    if not _COUNTRY.fullmatch(upper):
        raise UsageError(
            f"{for_display(code, 20)!r} is no country code.", hint="Country codes have two letters, e.g. NL."
        )
    return upper
