"""A small read-only registry from a JSON file: for private registries and for tests (REG-01)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self
from uuid import UUID

from aiohttp import web
from pydantic import BaseModel, BeforeValidator, Field

from s2connect.discovery.registry import name_of_record
from s2connect.errors import ConfigurationError
from s2connect.https.server import HttpsServer, answer
from s2connect.model.common import MalformedMessage
from s2connect.model.registry import CountryCode, EndpointRecord, RegistryStatus
from s2connect.model.strict_json import MalformedJson, read_json

MAX_PAGE_RECORDS = 500
"""Records in one answer, whatever the limit that was asked for; clients page through (REG-03)."""

MAX_FAULTS = 20
"""Invalid records of a file that are named."""

MAX_REGIONS = 250
"""Country codes in one query; there are not more countries."""


def _read_number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII):
        raise ValueError("no number")
    return int(text)


_Number = Annotated[int, BeforeValidator(_read_number)]
_Boolean = Literal["true", "false"]


class _Query(BaseModel):
    """Parameters of ``GET endpoint`` (REG-03)."""

    region: Annotated[
        frozenset[CountryCode] | None, BeforeValidator(lambda text: frozenset(text.split(",", MAX_REGIONS)))
    ] = None
    status: RegistryStatus = RegistryStatus.PUBLIC
    cem: _Boolean | None = None
    rm: _Boolean | None = None
    limit: Annotated[_Number, Field(ge=1)] = MAX_PAGE_RECORDS
    offset: _Number = 0

    @classmethod
    def of(cls, request: web.Request) -> Self:
        """Read the parameters of a request.

        Raises:
            ValueError: One is not as the standard says, or there twice.
        """
        known = [(name, text) for name, text in request.query.items() if name in cls.model_fields]
        if len(dict(known)) != len(known):
            raise ValueError("a parameter is there twice")
        return cls.model_validate(dict(known))

    def selects(self, record: EndpointRecord) -> bool:
        return (
            record.status is self.status
            and (self.region is None or not self.region.isdisjoint(record.regions))
            and (self.cem is None or record.cem is (self.cem == "true"))
            and (self.rm is None or record.rm is (self.rm == "true"))
        )


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
            query = _Query.of(request)
        except ValueError:
            return answer(400)
        found = [text for record, text in self._records if query.selects(record)]
        page = found[query.offset : query.offset + min(query.limit, MAX_PAGE_RECORDS)]
        return web.Response(body=b"[" + b",".join(page) + b"]", content_type="application/json")

    async def _get(self, request: web.Request) -> web.Response:
        try:
            text = self._by_id[UUID(request.match_info["id"])]
        except (KeyError, ValueError):
            return answer(404)
        return web.Response(body=text, content_type="application/json")


def load_records(path: Path) -> list[EndpointRecord]:
    """Read the records of a registry from a JSON file, an array as ``GET v1/endpoint`` answers it (REG-02).

    Blocks: call it in a thread.

    Raises:
        ConfigurationError: The file cannot be read, or records are invalid; each is named, with its member and why.
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
    records, faults = [], []
    for number, value in enumerate(values, 1):
        called = f" ({name})" if (name := name_of_record(value)) else ""
        try:
            record = EndpointRecord.from_value(value)
        except MalformedMessage as error:
            faults.append(f"record {number}{called}: {error}")
            continue
        if record.id in found:
            faults.append(f"record {number}{called}: its id is that of record {found[record.id]}")
        found.setdefault(record.id, number)
        records.append(record)
    if faults:
        more = [f"and {len(faults) - MAX_FAULTS} more"] if len(faults) > MAX_FAULTS else []
        raise ConfigurationError(  # on one line: a person's terminal shows no other control character
            f"The registry file {path} cannot be used: {' | '.join([*faults[:MAX_FAULTS], *more])}.",
            hint="Mend them; docs/command.md has a whole record under registry serve.",
        )
    return records
