"""The WebSocket URL that names an instance: its setting, and the certificate that has to be for it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from s2connect.endpoint.certificate import CertificateManager
from s2connect.endpoint.config import EndpointConfig, at_instance
from s2connect.errors import ConfigurationError
from s2connect.store.memory import MemoryVault

WAN: dict[str, Any] = {
    "deployment": "WAN",
    "host": "s2.example.com",
    "port": 443,
    "store": "postgresql://s2@db.example/s2",
    "certificate": "chain.pem",
    "private_key": "key.pem",
}


@pytest.mark.parametrize(
    ("template", "url"),
    [
        ("wss://{instance}.i.s2.example.com", "wss://pod-1.i.s2.example.com:443/session/websocket"),
        ("wss://{instance}.i.s2.example.com:8443/", "wss://pod-1.i.s2.example.com:8443/session/websocket"),
        ("wss://one.example.com", "wss://one.example.com:443/session/websocket"),
    ],
)
def test_the_url_has_the_name_of_the_instance(template: str, url: str) -> None:
    config = EndpointConfig.model_validate({**WAN, "instance_url": template})
    assert at_instance(str(config.instance_url), "Pod-1") == url


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"instance_url": "https://{instance}.i.s2.example.com"}, "instance_url: .*start with wss"),
        ({"instance_url": "wss://{name}.i.s2.example.com"}, "instance_url: .*only .instance. is replaced"),
        ({"instance_url": "wss://{instance}.i.s2.example.com/session"}, "instance_url: .*without a path"),
        ({"instance_url": "wss://{instance}.i.s2.example.com", "store": None}, "instance_url needs store"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        EndpointConfig.from_json(json.dumps({**WAN, **settings}).encode())


def _certificate(*names: str) -> tuple[bytes, bytes]:
    """Return the certificate of an operator, signed by itself, and its key."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .sign(key, hashes.SHA256())
    )
    form, sealed = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    return certificate.public_bytes(pem), key.private_bytes(pem, form, sealed)


@pytest.mark.parametrize(("name", "fits"), [("*.i.s2.example.com", True), ("a.i.s2.example.com", True), ("*.x", False)])
def test_the_certificate_has_to_be_for_the_instance(tmp_path: Path, name: str, fits: bool) -> None:
    chain, key = _certificate("s2.example.com", name)
    (tmp_path / "chain.pem").write_bytes(chain)
    (tmp_path / "key.pem").write_bytes(key)
    files = {"certificate": tmp_path / "chain.pem", "private_key": tmp_path / "key.pem", "instance": "a"}
    config = EndpointConfig.model_validate({**WAN, **files, "instance_url": "wss://{instance}.i.s2.example.com"})
    certificates = CertificateManager(config, None, MemoryVault())
    if fits:
        assert name in certificates.load().names
        return
    with pytest.raises(ConfigurationError, match=r"not for a\.i\.s2\.example\.com") as caught:
        certificates.load()
    assert "*.i.s2.example.com" in str(caught.value.hint)
