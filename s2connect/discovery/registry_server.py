"""A small read-only registry from a JSON file: for private registries and for tests (REG-01)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from aiohttp import web

from s2connect.errors import ConfigurationError
from s2connect.https.server import HttpsServer, answer
from s2connect.model.common import MalformedMessage
from s2connect.model.registry import EndpointRecord, RegistryStatus
from s2connect.model.strict_json import MalformedJson, read_json
from s2connect.model.text import for_display

MAX_PAGE_RECORDS = 500
"""Records in one answer, whatever the limit that was asked for; clients page through (REG-03)."""

MAX_REGIONS = 250
"""Country codes in one query; there are not more countries."""

_COUNTRY = re.compile(r"[A-Z]{2}", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)
_BOOLEANS = {"true": True, "false": False}


class _BadQuery(ValueError):
    """A query parameter is not as the standard says."""


class RegistryServer:
    """Serves a fixed list of records."""

    def __init__(self, records: Sequence[EndpointRecord]) -> None:
        """Serve ``records`` in their order; their ids differ."""
        self._records = [(record, record.to_json()) for record in records]
        self._by_id = {record.id: text for record, text in self._records}

    def mount(self, server: HttpsServer, base_path: str) -> None:
        """Add the routes under a base path that ends with a slash (VER-01, VER-03)."""
        server.add_index(base_path)
        server.add_get(f"{base_path}v1/endpoint", self._query)
        server.add_get(f"{base_path}v1/endpoint/{{id}}", self._get)

    async def _query(self, request: web.Request) -> web.Response:
        try:
            selected = self._select(request)
        except _BadQuery:
            return answer(400)
        return web.Response(body=b"[" + b",".join(selected) + b"]", content_type="application/json")

    async def _get(self, request: web.Request) -> web.Response:
        try:
            text = self._by_id[UUID(request.match_info["id"])]
        except (KeyError, ValueError):
            return answer(404)
        return web.Response(body=text, content_type="application/json")

    def _select(self, request: web.Request) -> list[bytes]:
        regions = _regions(_parameter(request, "region"))
        status = _status(_parameter(request, "status"))
        cem = _boolean(_parameter(request, "cem"))
        rm = _boolean(_parameter(request, "rm"))
        limit = _number(_parameter(request, "limit"), default=MAX_PAGE_RECORDS, least=1)
        offset = _number(_parameter(request, "offset"), default=0, least=0)
        fitting = [
            text
            for record, text in self._records
            if record.status is status
            and (regions is None or not regions.isdisjoint(record.regions))
            and (cem is None or record.cem is cem)
            and (rm is None or record.rm is rm)
        ]
        return fitting[offset : offset + min(limit, MAX_PAGE_RECORDS)]


def _parameter(request: web.Request, name: str) -> str | None:
    values = request.query.getall(name, [])
    if len(values) > 1:
        raise _BadQuery
    return values[0] if values else None


def _regions(text: str | None) -> set[str] | None:
    if text is None:
        return None
    codes = text.split(",", MAX_REGIONS)
    if not all(_COUNTRY.fullmatch(code) for code in codes):
        raise _BadQuery
    return set(codes)


def _status(text: str | None) -> RegistryStatus:
    try:
        return RegistryStatus.PUBLIC if text is None else RegistryStatus(text)
    except ValueError:
        raise _BadQuery from None


def _boolean(text: str | None) -> bool | None:
    if text is not None and text not in _BOOLEANS:
        raise _BadQuery
    return None if text is None else _BOOLEANS[text]


def _number(text: str | None, *, default: int, least: int) -> int:
    if text is None:
        return default
    if not _NUMBER.fullmatch(text) or int(text) < least:
        raise _BadQuery
    return int(text)


def load_records(path: Path) -> list[EndpointRecord]:
    """Read the records of a registry from a JSON file, an array as ``GET v1/endpoint`` answers it (REG-02).

    Blocks: call it in a thread.

    Raises:
        ConfigurationError: The file cannot be read, or a record is invalid; record and member are named.
    """
    try:
        values = read_json(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"The registry file {path} cannot be read ({error.strerror}).") from None
    except MalformedJson as error:
        raise ConfigurationError(f"The registry file {path} cannot be used: {error}.") from None
    if not isinstance(values, list):
        raise ConfigurationError(f"The registry file {path} is not a JSON array of records.")
    found: dict[UUID, int] = {}
    records = []
    for number, value in enumerate(values, 1):
        try:
            record = EndpointRecord.from_value(value)
        except MalformedMessage as error:
            name = value.get("name") if isinstance(value, dict) else None
            called = f" ({for_display(name, 50)})" if isinstance(name, str) else ""
            raise ConfigurationError(f"The registry file {path}, record {number}{called}: {error}.") from None
        if record.id in found:
            raise ConfigurationError(
                f"The registry file {path}, record {number}: its id is that of record {found[record.id]}."
            )
        found[record.id] = number
        records.append(record)
    return records
