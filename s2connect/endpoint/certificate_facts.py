"""Facts of the certificates of an endpoint."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from s2connect.certs.authority import fingerprint
from s2connect.endpoint.certificate import CA_FILE, LEAF_FILE, read_operator_file
from s2connect.endpoint.config import EndpointConfig
from s2connect.errors import StorageUnavailable
from s2connect.store.home import Home


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """Fingerprint and dates of a certificate."""

    fingerprint_sha256: str
    not_before: str
    not_after: str
    expired: bool


@dataclass(frozen=True, slots=True)
class Certificates:
    """Certificates of an endpoint; None where there is none yet."""

    own_ca: bool
    ca: CertificateFacts | None
    leaf: CertificateFacts | None


def read_certificates(home: Home, config: EndpointConfig) -> Certificates:
    """Return the facts of the certificates of a state directory, also while its service runs. Blocks.

    Raises:
        ConfigurationError: The operator's file is no certificate.
        StorageError: A file cannot be read.
    """
    if config.is_own_ca:
        ca, leaf = home.read(CA_FILE), home.read(LEAF_FILE)
    else:
        assert config.certificate is not None
        ca, leaf = None, read_operator_file(config.certificate)
    return Certificates(
        config.is_own_ca,
        _facts(ca, home.path / CA_FILE) if ca else None,
        _facts(leaf, config.certificate or home.path / LEAF_FILE) if leaf else None,
    )


def _facts(pem: bytes, path: Path) -> CertificateFacts:
    try:
        certificate = x509.load_pem_x509_certificates(pem)[0]
    except ValueError:
        raise StorageUnavailable(f"{path} is no certificate.") from None
    begin, until = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return CertificateFacts(
        fingerprint(certificate).hex(":").upper(),
        begin.isoformat().replace("+00:00", "Z"),
        until.isoformat().replace("+00:00", "Z"),
        until < datetime.now(UTC),
    )
