"""What a person wants to know of the certificates of an endpoint."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509

from s2connect import EndpointConfig
from s2connect.certs.authority import fingerprint
from s2connect.endpoint.certificate import CA_FILE, LEAF_FILE
from s2connect.errors import ConfigurationError, StorageUnavailable
from s2connect.store.home import Home


def describe(home: Home, config: EndpointConfig) -> dict[str, Any]:
    """Facts of the certificates of a state directory. Blocks: call it in a thread.

    Returns:
        ``own_ca``, ``ca`` and ``leaf``, each with fingerprint and dates or None where there is none yet.

    Raises:
        ConfigurationError: The operator's file is no certificate.
        StorageError: A file cannot be read.
    """
    if config.is_own_ca:
        ca, leaf = home.read(CA_FILE), home.read(LEAF_FILE)
    else:
        assert config.certificate is not None
        ca, leaf = None, _operators(config.certificate)
    return {
        "own_ca": config.is_own_ca,
        "ca": _facts(ca, home.path / CA_FILE) if ca else None,
        "leaf": _facts(leaf, config.certificate or home.path / LEAF_FILE) if leaf else None,
    }


def _operators(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"Cannot read {path}: {error.strerror}.") from error


def _facts(pem: bytes, path: Path) -> dict[str, Any]:
    try:
        certificate = x509.load_pem_x509_certificates(pem)[0]
    except ValueError:
        raise StorageUnavailable(f"{path} is no certificate.") from None
    until = certificate.not_valid_after_utc
    return {
        "fingerprint_sha256": fingerprint(certificate).hex(":").upper(),
        "not_before": certificate.not_valid_before_utc.isoformat().replace("+00:00", "Z"),
        "not_after": until.isoformat().replace("+00:00", "Z"),
        "expired": until < datetime.now(UTC),
    }
