"""Warning of a certificate that its operator has to renew."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from s2connect import EndpointConfig
from s2connect.certs.authority import CertificateAuthority
from s2connect.endpoint.certificate import CertificateManager
from s2connect.store.memory import MemoryVault

BEGAN = datetime(2026, 3, 1, tzinfo=UTC)


def test_a_certificate_of_the_operator_is_warned_of_in_its_last_part_and_afterwards(tmp_path: Path) -> None:
    identity = CertificateAuthority.create("x", now=BEGAN).issue(["127.0.0.1"], now=BEGAN)
    (tmp_path / "c.pem").write_bytes(identity.chain_pem)
    (tmp_path / "k.pem").write_bytes(identity.key_pem)
    ours = EndpointConfig(host="127.0.0.1")
    theirs = EndpointConfig(host="127.0.0.1", certificate=tmp_path / "c.pem", private_key=tmp_path / "k.pem")

    def said(config: EndpointConfig, at: datetime) -> str | None:
        return CertificateManager(config, None, MemoryVault(), clock=lambda: at).expiring(identity)

    soon, later = identity.not_valid_after - timedelta(days=3), identity.not_valid_after + timedelta(days=1)
    assert said(theirs, BEGAN + timedelta(days=1)) is None
    assert said(theirs, identity.not_valid_after - timedelta(days=31)) is None, "its tool has half of the time to act"
    assert "expires in 29 d" in (said(theirs, identity.not_valid_after - timedelta(days=29)) or "")
    assert "expires in 3 d, on" in (said(theirs, soon) or "")
    assert "has expired on" in (said(theirs, later) or "")
    assert said(ours, soon) is None  # the service renews it
