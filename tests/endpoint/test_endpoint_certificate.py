"""A clock that is wrong by years: at the first start, at a later one, and while an endpoint runs."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from s2connect import Endpoint, EndpointConfig, Role, create_home, events
from s2connect.certs.authority import CertificateAuthority
from s2connect.endpoint.certificate import CA_FILE, CA_KEY, LEAF_FILE, CertificateManager
from s2connect.endpoint.offline import new_certificate_authority
from s2connect.errors import ConfigurationError
from s2connect.store.home import Home
from s2connect.store.restoring import SECRETS
from s2connect.store.vault import FileVault
from tests.certs.example_certificates import make_root
from tests.endpoint.conftest import OpenEndpoint, lan_config
from tests.waits import until

EPOCH = datetime(1970, 1, 1, 0, 1, tzinfo=UTC)
FUTURE = datetime(2150, 1, 1, tzinfo=UTC)


async def home_of(path: Path, clock: datetime) -> EndpointConfig:
    """A state directory whose CA and leaf were made by a clock."""
    config = await asyncio.to_thread(create_home, path, lan_config(Role.CEM, vault="files"))
    manager = CertificateManager(config, Home(path), FileVault(path / SECRETS), clock=lambda: clock)
    await asyncio.to_thread(manager.create_ca)
    await asyncio.to_thread(manager.load)
    return config


@pytest.mark.rule("TRUST-01")
@pytest.mark.parametrize("wrong", [EPOCH, FUTURE], ids=["1970", "2150"])
async def test_a_home_that_was_made_by_a_wrong_clock_can_be_used_once_it_is_right(
    tmp_path: Path, rm: Endpoint, open_endpoint: OpenEndpoint, wrong: datetime
) -> None:
    home = tmp_path / "home"
    config = await home_of(home, wrong)
    ca = (home / CA_FILE).read_bytes()
    cem = await open_endpoint(config, home)
    await rm.node().pair(cem.pairing_url, cem.node().issue_pairing_code())
    assert len(await cem.pairings()) == 1
    assert (home / CA_FILE).read_bytes() == ca, "peers may have pinned it"


@pytest.mark.rule("TRUST-01", "TRUST-06")
async def test_an_endpoint_that_learns_the_time_while_it_runs_shows_a_new_leaf_at_once(
    tmp_path: Path, rm: Endpoint, open_endpoint: OpenEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s2connect.endpoint.certificate.RENEWAL_CHECK", 0.05)
    cem = await open_endpoint(lan_config(Role.CEM))
    assert cem._tls is not None
    assert cem._certificates._ca is not None
    old = await asyncio.to_thread(cem._certificates._ca.issue, cem._certificates.names(), now=EPOCH)
    cem._tls.replace(old)
    await until(lambda: cem._tls is not None and cem._tls.identity is not old)
    await rm.node().pair(cem.pairing_url, cem.node().issue_pairing_code())


def test_a_wrong_clock_at_a_later_start_keeps_the_leaf_that_peers_accept(tmp_path: Path) -> None:
    config = create_home(tmp_path / "home", lan_config(Role.CEM, vault="files"))
    home, vault = Home(tmp_path / "home"), FileVault(tmp_path / "home" / SECRETS)
    first = CertificateManager(config, home, vault).load()
    wrong = CertificateManager(config, home, vault, clock=lambda: EPOCH)
    assert wrong.load().leaf_fingerprint == first.leaf_fingerprint
    assert "The clock of this machine says 1970-01-01" in str(wrong.doubt())
    assert CertificateManager(config, home, vault).doubt() is None


async def with_ca(path: Path, start: timedelta, end: timedelta) -> EndpointConfig:
    """A state directory with a CA of earlier versions, whose dates came from the clock."""
    config = await asyncio.to_thread(create_home, path, lan_config(Role.CEM, vault="files"))
    root = make_root(start=start, end=end)
    authority = CertificateAuthority.load(root.pem, root.key_pem)
    (path / CA_FILE).write_bytes(authority.to_pem())
    FileVault(path / SECRETS).put(CA_KEY, authority.key_pem())
    (path / LEAF_FILE).unlink(missing_ok=True)
    return config


@pytest.mark.rule("TRUST-09")
async def test_a_ca_of_the_wrong_century_is_named_and_can_be_replaced(tmp_path: Path) -> None:
    home = tmp_path / "home"
    await with_ca(home, timedelta(days=-20_000), timedelta(days=-11_000))
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"made while the clock was wrong.*--new-ca"):
            async with Endpoint.open(home):
                pass
    assert await new_certificate_authority(home) == 0
    async with Endpoint.open(home) as endpoint:
        assert endpoint._certificates.doubt() is None


async def test_a_ca_that_begins_in_the_future_is_told(tmp_path: Path) -> None:
    home = tmp_path / "home"
    config = await with_ca(home, timedelta(days=30_000), timedelta(days=39_000))
    async with Endpoint.open(home, config=config) as endpoint:
        doubt = endpoint._certificates.doubt()
    assert doubt is not None
    assert "--new-ca" in doubt


async def test_a_clock_that_cannot_be_right_is_told_at_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    doubts = "The clock of this machine says 1970-01-01, which cannot be."
    monkeypatch.setattr(CertificateManager, "doubt", lambda _: doubts)
    async with Endpoint.open(config=lan_config(Role.CEM)):
        pass
    assert doubts in caplog.text
    assert events.Notice(kind="clock", sentence=doubts).kind == "clock"
