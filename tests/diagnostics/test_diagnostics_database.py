"""The database of an endpoint, as ``doctor`` sees it."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
import trustme

pytest.importorskip("psycopg")

from s2connect import EndpointConfig, Home, create_home
from s2connect.diagnostics import home as doctor_home
from s2connect.diagnostics.findings import Findings


async def test_a_database_is_examined_as_an_instance_opens_it(
    postgresql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA().issue_cert("localhost")
    authority.cert_chain_pems[0].write_to_path(tmp_path / "chain.pem")
    authority.private_key_pem.write_to_path(tmp_path / "key.pem")
    config = EndpointConfig.model_validate(
        {
            "deployment": "WAN",
            "host": "localhost",
            "certificate": tmp_path / "chain.pem",
            "private_key": tmp_path / "key.pem",
            "store": postgresql,
            "vault": "files",
        }
    )
    create_home(tmp_path / "home", config)
    home = Home.open(tmp_path / "home")

    async def examined() -> list[tuple[str, str]]:
        found = Findings(doctor_home.DATABASE)
        endpoint = doctor_home.ExaminedEndpoint(home, config)
        found += await doctor_home.check_database(endpoint)
        await found.collect(lambda findings: doctor_home.check_vault(endpoint, findings))
        return [(str(one.verdict), f"{one.cause} {one.cure}") for one in found]

    monkeypatch.setenv("S2CONNECT_STORE_KEY", base64.b64encode(bytes(32)).decode())
    shown = await examined()
    assert [verdict for verdict, _ in shown] == ["ok", "fail", "warn", "ok"], shown
    assert "fsync is off" in shown[1][1]
    assert "synchronous_standby_names" in shown[2][1]
    monkeypatch.delenv("S2CONNECT_STORE_KEY")
    shown = await examined()
    assert [verdict for verdict, _ in shown] == ["fail", "fail"]
    assert "s2connect store key" in shown[0][1]
