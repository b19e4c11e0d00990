"""A certificate for a cloud that is tried out on this machine, of an authority that is made for it.

    python examples/uses/certificate.py DIRECTORY

It writes ``cloud.pem`` and ``cloud-key.pem`` for the cloud, and ``ca.pem``, which whoever connects to it has to trust.
On the internet a public authority (Let's Encrypt, for example) gives a cloud its certificate, and everybody trusts it.
"""

import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def unsigned(subject: str, issuer: str, key: ec.EllipticCurvePrivateKey, *, is_ca: bool) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(named(subject))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def write_certificate(place: Path, host: str = "localhost") -> None:
    """Write the three files into a directory."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = unsigned("CA to try with", "CA to try with", ca_key, is_ca=True).sign(ca_key, hashes.SHA256())
    leaf = (
        unsigned(host, "CA to try with", key, is_ca=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    (place / "ca.pem").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    (place / "cloud.pem").write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    with os.fdopen(os.open(place / "cloud-key.pem", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as file:
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        file.write(key.private_bytes(encoding, form, serialization.NoEncryption()))


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit("python examples/uses/certificate.py DIRECTORY")
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    write_certificate(directory)
    print("wrote", ", ".join(str(directory / name) for name in ("ca.pem", "cloud.pem", "cloud-key.pem")))
