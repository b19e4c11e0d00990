"""Objects of ``s2-connect-wan-endpoint-registry.yml``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import Field, StrictBool, StringConstraints

from s2connect.model.common import Wire
from s2connect.model.url import BaseUrl

CountryCode = Annotated[str, StringConstraints(pattern=r"\A[A-Z]{2}\z")]
"""ISO 3166-1 alpha-2."""


class RegistryStatus(StrEnum):
    """Status of an endpoint: for the public, or for testing."""

    PUBLIC = "public"
    TESTING = "testing"


class EndpointRecord(Wire):
    """One endpoint of the registry (REG-02)."""

    id: UUID
    name: Annotated[str, StringConstraints(max_length=50)]
    description: Annotated[str, StringConstraints(max_length=500)]
    icon32: str
    icon128: str
    icon512: str
    pairing_url: BaseUrl
    regions: Annotated[tuple[CountryCode, ...], Field(min_length=1)]
    status: RegistryStatus
    cem: StrictBool
    rm: StrictBool
