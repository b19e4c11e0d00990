"""Advertisements of test endpoints."""

from __future__ import annotations

from typing import Any

from s2connect.discovery.txt import Advertisement
from s2connect.model.common import Role
from s2connect.model.url import BaseUrl


def advertisement(host: str = "ems-1a2b.local", **changes: Any) -> Advertisement:
    values: dict[str, Any] = {
        "host": host,
        "port": 8443,
        "roles": frozenset([Role.CEM]),
        "name": "My EMS",
        "pairing_url": BaseUrl(f"https://{host}:8443/pairing/"),
    }
    return Advertisement(**(values | changes))
