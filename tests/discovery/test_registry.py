"""The registry of WAN endpoints: the client, and the small server, over real HTTPS."""

from __future__ import annotations

import contextlib
import json
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import pytest
from aiohttp import web

from s2connect.certs.authority import CertificateAuthority
from s2connect.certs.tls import ServerContext, pinned_client_context
from s2connect.discovery import registry, registry_server
from s2connect.discovery.registry import RegistryClient
from s2connect.discovery.registry_server import RegistryServer, load_records
from s2connect.errors import (
    CertificateRefused,
    ConfigurationError,
    IncompatibleApiVersion,
    NotReachable,
    ProtocolViolation,
    UsageError,
)
from s2connect.https.server import HttpsServer, free_port
from s2connect.model.common import Role
from s2connect.model.registry import EndpointRecord, RegistryStatus
from s2connect.model.url import BaseUrl

CA = CertificateAuthority.create("registry", now=datetime.now(UTC))
PATH = "/registry/"


def record(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": str(UUID(int=number)),
        "name": f"Cloud {number}",
        "description": "An energy manager in the cloud",
        "icon32": "https://cloud.example/32.png",
        "icon128": "https://cloud.example/128.png",
        "icon512": "https://cloud.example/512.png",
        "pairingUrl": "https://cloud.example/pairing/",
        "regions": ["NL"],
        "status": "public",
        "cem": True,
        "rm": False,
        **changes,
    }


RECORDS = [
    record(1),
    record(2, regions=["BE", "LU"]),
    record(3, cem=False, rm=True),
    record(4, status="testing", regions=["DE"]),
    record(5, rm=True, regions=["NL", "DE"]),
]


def trusting() -> ssl.SSLContext:
    return pinned_client_context(ssl.PEM_cert_to_DER_cert(CA.to_pem().decode()))


@contextlib.asynccontextmanager
async def serving(mount: Callable[[HttpsServer], None]) -> AsyncIterator[BaseUrl]:
    server = HttpsServer(
        ServerContext(CA.issue(["127.0.0.1"], now=datetime.now(UTC))).context, host="127.0.0.1", port=0
    )
    mount(server)
    await server.start()
    try:
        yield BaseUrl(f"https://127.0.0.1:{server.port}{PATH}")
    finally:
        await server.close()


def registry_of(*records: dict[str, Any]) -> Callable[[HttpsServer], None]:
    made = RegistryServer([EndpointRecord.from_value(r) for r in records])
    return lambda server: made.mount(server, PATH)


def pages_of(*pages: bytes) -> tuple[Callable[[HttpsServer], None], list[str]]:
    """A registry that answers with what the test says, and what it was asked."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.query_string)
        body = pages[min(len(asked), len(pages)) - 1]
        return web.Response(body=body, content_type="application/json")

    def mount(server: HttpsServer) -> None:
        server.add_index(PATH)
        server.add_get(f"{PATH}v1/endpoint", answer)
        server.add_get(f"{PATH}v1/endpoint/{{id}}", answer)

    return mount, asked


def numbers(found: list[EndpointRecord]) -> list[int]:
    return [r.id.int for r in found]


# The server


@pytest.mark.rule("REG-01")
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", [1, 2, 3, 5]),
        ("status=public", [1, 2, 3, 5]),
        ("status=testing", [4]),
        ("region=NL", [1, 3, 5]),
        ("region=BE,DE", [2, 5]),
        ("region=FR", []),
        ("cem=true", [1, 2, 5]),
        ("cem=false", [3]),
        ("rm=true", [3, 5]),
        ("cem=true&rm=true", [5]),
        ("limit=2", [1, 2]),
        ("limit=2&offset=1", [2, 3]),
        ("offset=3", [5]),
        ("offset=4", []),
        ("region=NL&limit=1&offset=1", [3]),
        ("something=else", [1, 2, 3, 5]),
        ("limit=0", 400),
        ("limit=-1", 400),
        ("limit=x", 400),
        ("limit=", 400),
        ("offset=-1", 400),
        ("offset=1.5", 400),
        ("offset=99999999999999999999", 400),
        ("status=secret", 400),
        ("cem=yes", 400),
        ("rm=1", 400),
        ("region=nl", 400),
        ("region=NLD", 400),
        ("region=", 400),
        ("region=NL,", 400),
        ("region=NL&region=BE", 400),
    ],
)
async def test_the_server_filters_and_refuses_bad_parameters(query: str, expected: Any) -> None:
    async with serving(registry_of(*RECORDS)) as url, aiohttp.ClientSession() as session:
        async with session.get(f"{url}v1/endpoint?{query}", ssl=trusting()) as response:
            if expected == 400:
                assert response.status == 400
                return
            found = await response.json()
        assert [UUID(r["id"]).int for r in found] == expected
        assert all(r == RECORDS[UUID(r["id"]).int - 1] for r in found)


@pytest.mark.rule("REG-01", "VER-01")
async def test_the_server_gives_one_record_by_its_id() -> None:
    async with serving(registry_of(*RECORDS)) as url, aiohttp.ClientSession() as session:
        for path, status, body in (
            ("", 200, ["v1"]),
            (f"v1/endpoint/{UUID(int=4)}", 200, RECORDS[3]),
            (f"v1/endpoint/{UUID(int=9)}", 404, None),
            ("v1/endpoint/none", 404, None),
        ):
            async with session.get(f"{url}{path}", ssl=trusting()) as response:
                assert response.status == status
                assert body is None or await response.json() == body


@pytest.mark.rule("SEC-03")
async def test_one_answer_is_bounded_whatever_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_server, "MAX_PAGE_RECORDS", 3)
    async with serving(registry_of(*(record(n) for n in range(1, 9)))) as url:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{url}v1/endpoint?limit=1000", ssl=trusting()) as response,
        ):
            assert len(await response.json()) == 3
        assert numbers(await RegistryClient(url, trusting()).endpoints()) == list(range(1, 9))


# The file


def test_a_file_of_records_is_loaded(tmp_path: Path) -> None:
    file = tmp_path / "registry.json"
    file.write_text(json.dumps(RECORDS))
    assert numbers(load_records(file)) == [1, 2, 3, 4, 5]


@pytest.mark.rule("REG-02")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{", "not JSON"),
        ("{}", "not a JSON array"),
        ([1], "record 1: it is not an object"),
        ([record(1), record(2, name="N" * 51)], r"record 2 \(N+…\): name"),
        ([record(1, description="D" * 501)], r"record 1 \(Cloud 1\): description"),
        ([record(1, regions=[])], "regions"),
        ([record(1, regions=["nl"])], r"regions\[0\]"),
        ([record(1, pairingUrl="http://cloud.example/pairing/")], "pairingUrl"),
        ([record(1, cem="yes")], "cem"),
        ([record(1, status="secret")], "status"),
        ([record(1), record(2), record(1)], r"record 3 \(Cloud 1\): its id is that of record 1"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_naming_record_and_member(
    tmp_path: Path, content: Any, message: str
) -> None:
    file = tmp_path / "registry.json"
    if content is not None:
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ConfigurationError, match=message):
        load_records(file)


# The client


@pytest.mark.rule("REG-01", "REG-03", "VER-02")
async def test_the_client_pages_through_and_filters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "PAGE_RECORDS", 2)
    async with serving(registry_of(*RECORDS)) as url:
        client = RegistryClient(url, trusting())
        assert numbers(await client.endpoints()) == [1, 2, 3, 5]
        assert numbers(await client.endpoints(region=["be", "DE"])) == [2, 5]
        assert numbers(await client.endpoints(role=Role.RM)) == [3, 5]
        assert numbers(await client.endpoints(role=Role.CEM, region=["NL"])) == [1, 5]
        assert numbers(await client.endpoints(status=RegistryStatus.TESTING)) == [4]
        found = await client.endpoint(UUID(int=3))
        assert found is not None
        assert found.name == "Cloud 3"
        assert await client.endpoint(UUID(int=33)) is None


@pytest.mark.rule("REG-02")
async def test_an_invalid_record_is_left_out_with_a_warning_and_hides_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    page = [record(1), record(2, pairingUrl="http://x/"), 7, record(3, regions=[]), record(4)]
    mount, _ = pages_of(json.dumps(page).encode(), b"[]")
    with caplog.at_level(logging.WARNING):
        async with serving(mount) as url:
            client = RegistryClient(url, trusting())
            assert numbers(await client.endpoints()) == [1, 4]
    assert [r.getMessage().split(" is left out")[0] for r in caplog.records] == [
        f"record {n} of the registry" for n in (2, 3, 4)
    ]
    assert [(one.number, one.name, one.reason) for one in client.left_out] == [
        (2, "Cloud 2", "pairingUrl cannot be used: The URL does not start with https://"),
        (3, "", "it is not an object"),
        (4, "Cloud 3", "regions is empty"),
    ]


@pytest.mark.rule("REG-03", "SEC-03")
async def test_a_registry_without_an_end_and_one_without_offset_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "MAX_PAGES", 4)
    endless, asked = pages_of(*(json.dumps([record(n)]).encode() for n in range(1, 50)))
    async with serving(endless) as url:
        assert numbers(await RegistryClient(url, trusting()).endpoints()) == [1, 2, 3, 4]
    assert [q.rpartition("=")[2] for q in asked] == ["0", "1", "2", "3"]
    same, asked = pages_of(json.dumps([record(1), record(2)]).encode())
    async with serving(same) as url:
        assert numbers(await RegistryClient(url, trusting()).endpoints()) == [1, 2]
    assert len(asked) == 2
    monkeypatch.setattr(registry, "MAX_RECORDS", 3)
    large, asked = pages_of(json.dumps([record(n) for n in range(1, 9)]).encode())
    async with serving(large) as url:
        assert numbers(await RegistryClient(url, trusting()).endpoints()) == [1, 2, 3]
    assert len(asked) == 1


@pytest.mark.parametrize("body", [b"{}", b"<html>", b"7"])
async def test_what_does_not_answer_as_a_registry_is_an_error(body: bytes) -> None:
    mount, _ = pages_of(body)
    async with serving(mount) as url:
        client = RegistryClient(url, trusting())
        with pytest.raises(ProtocolViolation, match="registry"):
            await client.endpoints()
        with pytest.raises(ProtocolViolation, match="registry"):
            await client.endpoint(UUID(int=1))


@pytest.mark.rule("SEC-03")
async def test_a_page_that_is_too_long_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MAX_PAGE_BYTES", 1000)
    async with serving(registry_of(*RECORDS)) as url:
        with pytest.raises(ProtocolViolation, match="longer than 1000"):
            await RegistryClient(url, trusting()).endpoints()


@pytest.mark.rule("VER-02", "TRUST-03")
async def test_the_client_asks_for_the_version_first_and_trusts_no_strange_certificate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mount, asked = pages_of(b"[]")
    async with serving(mount) as url:
        with pytest.raises(CertificateRefused):
            await RegistryClient(url, ssl.create_default_context()).endpoints()
        monkeypatch.setattr("s2connect.https.server.API_VERSIONS", ("v2",))
        with pytest.raises(IncompatibleApiVersion):
            await RegistryClient(url, trusting()).endpoints()
    assert asked == []


@pytest.mark.parametrize("region", ["", "N", "NLD", "N1", "Ñ1"])
async def test_a_region_that_is_no_country_code_is_the_callers_error(region: str) -> None:
    with pytest.raises(UsageError, match="country code"):
        await RegistryClient(BaseUrl("https://127.0.0.1:1/"), trusting()).endpoints(region=[region])


async def test_a_registry_that_is_not_reached_is_not_called_a_device() -> None:
    client = RegistryClient(BaseUrl(f"https://127.0.0.1:{free_port()}{PATH}"), ssl.create_default_context())
    with pytest.raises(NotReachable) as refused:
        await client.endpoints()
    assert "registry" in refused.value.hint
