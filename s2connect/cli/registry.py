"""Questions to a registry of endpoints: ``registry list`` and ``discover --registry``."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from s2connect.certs.tls import wan_client_context
from s2connect.cli.show import records_block
from s2connect.cli.terminal import Options, ask_person, run_work, tell
from s2connect.discovery.registry import RegistryClient
from s2connect.model.common import Role
from s2connect.model.proxy import Proxies
from s2connect.model.registry import EndpointRecord, RegistryStatus
from s2connect.model.url import BaseUrl


def show_registry(
    options: Options,
    url: str,
    *,
    region: str = "",
    role: Role | None = None,
    status: str = "public",
    trust_anchors: Path | None = None,
    connect_to: str | None = None,
    numbered: bool = False,
) -> list[EndpointRecord]:
    """Ask a registry, print its endpoints and which records are left out and why, and return the endpoints."""
    target = BaseUrl.from_user(url)
    proxy = Proxies.of(None, (), os.environ).towards(target.host)
    client = RegistryClient(target, wan_client_context(trust_anchors), address=connect_to, proxy=proxy)
    regions = [code for code in region.split(",") if code.strip()]
    found = run_work(client.endpoints(region=regions, role=role, status=RegistryStatus(status)))
    records: list[dict[str, Any]] = [record.model_dump(mode="json", by_alias=False) for record in found]
    if numbered:
        records = [{**one, "name": f"{number} {one['name']}"} for number, one in enumerate(records, 1)]
    left_out = [asdict(one) for one in client.left_out]
    options.show({"endpoints": records, "left_out": left_out}, lambda width: [records_block(records, width)])
    if not options.as_json:
        for one in client.left_out:
            called = f" ({one.name})" if one.name else ""
            tell(f"Record {one.number}{called} of the registry is left out: {one.reason}.")
    return found


async def pick(found: list[EndpointRecord]) -> EndpointRecord | None:
    """Let the person at the terminal pick an endpoint; None for none."""
    while answer := await ask_person("Number to pair with (Enter: none): "):
        if answer.isdecimal() and 1 <= int(answer[:9]) <= len(found):
            return found[int(answer[:9]) - 1]
        tell(f"There is no number {answer[:20]!r}: they go from 1 to {len(found)}.")
    return None
