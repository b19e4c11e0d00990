"""Certificates of a server: the certificate authority of a LAN endpoint, its leaves, and an operator's certificate.

All functions block (key generation, signatures): call them in a thread. None reads a clock or a file.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Self, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from s2connect.errors import ConfigurationError
from s2connect.model.text import for_display
from s2connect.model.url import address_of, host_as_ascii

FIRST_CLOCK = datetime(2025, 1, 1, tzinfo=UTC)
"""A clock that shows an earlier moment than this is wrong."""

CA_NOT_AFTER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""TRUST-01, long validity: no end (RFC 5280, 4.1.2.5). A new CA voids every pairing (TRUST-09), so the dates of this
one must not depend on a clock that may be wrong by years when a device is set up."""

LEAF_VALIDITY = timedelta(days=180)
"""TRUST-01: at most six months, of which the shortest have 181 days."""

RENEW_BEFORE = timedelta(days=60)
"""TRUST-01, renewed before expiry: a device may be switched off for two months and still show a valid certificate."""

WARN_SHARE = 0.5
"""Part of the time for renewal that may pass before a warning: whoever renews has had a chance to until then."""

BACK_DATED = timedelta(days=1)
"""Certificates are valid from a day ago, because clocks of devices are slow or in the wrong time zone."""

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)

_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")

_MAX_COMMON_NAME = 64
"""Upper bound of X.520 for a common name; ``cryptography`` counts bytes of UTF-8."""


def fingerprint(certificate: x509.Certificate) -> bytes:
    """Return the SHA-256 of the DER of a certificate, 32 bytes."""
    return certificate.fingerprint(hashes.SHA256())


def renewal_time(begin: datetime, end: datetime) -> timedelta:
    """Return how long before its end a certificate is to be renewed: :data:`RENEW_BEFORE`, or a third of its life."""
    return min(RENEW_BEFORE, (end - begin) / 3)


def warned_from(begin: datetime, end: datetime) -> datetime:
    """Return from when on everything that shows a certificate warns of its end: it ought to be renewed by then.

    With 90 days of life that is 15 days before the end, from 180 days on 30.
    """
    return end - WARN_SHARE * renewal_time(begin, end)


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """Certificate chain that a server presents in the TLS handshake, and its key.

    Attributes:
        chain_pem: The leaf first, then the certificates above it; for a LAN endpoint the root (TRUST-01).
        key_pem: Private key of the leaf, PKCS#8 without encryption; secret.
        leaf_fingerprint: SHA-256 of the DER of the *leaf*, 32 bytes (HMAC-02).
        ca_fingerprint: SHA-256 of the DER of the *CA*, 32 bytes (TRUST-07); None where normal PKI validation applies.
        not_valid_before: First instant at which the leaf is valid, with time zone.
        not_valid_after: Last instant at which the leaf is valid, with time zone.
        names: DNS names and IP addresses the leaf is valid for.
    """

    chain_pem: bytes = field(repr=False)
    key_pem: bytes = field(repr=False)
    leaf_fingerprint: bytes
    ca_fingerprint: bytes | None
    not_valid_before: datetime
    not_valid_after: datetime
    names: tuple[str, ...]

    def needs_renewal(self, now: datetime) -> bool:
        """Return whether the leaf is in the last :data:`RENEW_BEFORE` of its life, or the last third of a shorter one.

        So is one that is not valid yet: the clock was wrong when it was made. A clock that is certainly wrong now
        (:data:`FIRST_CLOCK`) says nothing about a leaf that was made by a better one, which peers may accept.
        """
        if now < FIRST_CLOCK <= self.not_valid_after:
            return False
        ahead = renewal_time(self.not_valid_before, self.not_valid_after)
        return not self.not_valid_before <= now < self.not_valid_after - ahead

    @property
    def warned_from(self) -> datetime:
        """From when on the end of the leaf is warned of."""
        return warned_from(self.not_valid_before, self.not_valid_after)

    @classmethod
    def load(cls, chain_pem: bytes, key_pem: bytes) -> Self:
        """Take over the certificate that the operator of a WAN endpoint got from a public or company CA (TRUST-03).

        Raises:
            ConfigurationError: One of the two cannot be read, the key does not belong to the first certificate, or that
                certificate names no host. The message says which; it never repeats the key.
        """
        try:
            chain = x509.load_pem_x509_certificates(chain_pem)
        except ValueError:
            raise ConfigurationError(
                "The certificate chain holds no certificate that can be read.",
                hint="It has to be PEM text: -----BEGIN CERTIFICATE-----, the server's own certificate first.",
            ) from None
        key = _load_key(key_pem)
        leaf = chain[0]
        if not _belongs(key, leaf):
            if any(_belongs(key, other) for other in chain[1:]):
                raise ConfigurationError(
                    "The server's own certificate is not the first in the certificate chain.",
                    hint="Put it first, then the certificates of the CAs above it.",
                )
            raise ConfigurationError(
                "The private key does not belong to the first certificate of the chain.",
                hint="Check that both files come from the same order and that the server's own certificate is first.",
            )
        if not subject_names(leaf):
            raise ConfigurationError(
                "The certificate names no host (subject alternative name), so no client can accept it.",
                hint="Order a certificate with the host name of the endpoint in it.",
            )
        return cls._of(chain, key, None)

    @classmethod
    def _of(cls, chain: Sequence[x509.Certificate], key: PrivateKeyTypes, ca_fingerprint: bytes | None) -> Self:
        leaf = chain[0]
        return cls(
            chain_pem=b"".join(c.public_bytes(serialization.Encoding.PEM) for c in chain),
            key_pem=_key_as_pem(key),
            leaf_fingerprint=fingerprint(leaf),
            ca_fingerprint=ca_fingerprint,
            not_valid_before=leaf.not_valid_before_utc,
            not_valid_after=leaf.not_valid_after_utc,
            names=subject_names(leaf),
        )


@dataclass(frozen=True, slots=True, eq=False)
class CertificateAuthority:
    """The self-signed CA of one LAN endpoint (TRUST-01, TRUST-02) that peers pin (TRUST-06), with its key."""

    certificate: x509.Certificate
    _key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def create(cls, name: str, *, now: datetime) -> Self:
        """Make a new CA: every pairing that pins an older one is void (TRUST-09).

        ``name`` is what a person sees in it, cleaned and cut to 64 bytes. The clock may be wrong: the CA is valid from
        :data:`FIRST_CLOCK` on at least.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        # The organisation keeps issuer and subject of a leaf apart even where the CA is named like the host.
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "S2 Connect certificate authority"),
                x509.NameAttribute(NameOID.COMMON_NAME, _common_name(name) or "S2 Connect"),
            ]
        )
        begin = min(now - BACK_DATED, FIRST_CLOCK)
        builder = _builder(subject, subject, key, begin, CA_NOT_AFTER, _key_usage(key_cert_sign=True))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        return cls(builder.sign(key, hashes.SHA256()), key)

    @classmethod
    def load(cls, cert_pem: bytes, key_pem: bytes) -> Self:
        """Read back what :meth:`to_pem` and :meth:`key_pem` gave.

        Raises:
            ConfigurationError: One of the two cannot be read, they do not belong together, or it is no CA.
        """
        try:
            certificate = x509.load_pem_x509_certificate(cert_pem)
        except ValueError:
            raise ConfigurationError("The certificate of the CA cannot be read.", hint=_RESTORE) from None
        key = _load_key(key_pem)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not _belongs(key, certificate):
            raise ConfigurationError("The private key does not belong to the certificate of the CA.", hint=_RESTORE)
        if not is_ca(certificate):
            raise ConfigurationError("The certificate of the CA is not that of a CA.", hint=_RESTORE)
        return cls(certificate, key)

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the DER of the CA certificate, 32 bytes (TRUST-07)."""
        return fingerprint(self.certificate)

    def to_pem(self) -> bytes:
        """Return the certificate as PEM; public."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def key_pem(self) -> bytes:
        """Return the private key as PEM (PKCS#8, not encrypted); secret."""
        return _key_as_pem(self._key)

    def issue(self, names: Sequence[str], *, now: datetime) -> ServerIdentity:
        """Make a leaf with a key of its own, valid for :data:`LEAF_VALIDITY` or as long as the CA (TRUST-01, TRUST-02).

        ``names`` are the host names and IP addresses under which clients reach the server, the main one first (VER-04).

        Raises:
            ConfigurationError: There is no name, one of them is neither a host name nor an address, or the CA has
                expired by this clock.
        """
        if not names:
            raise ConfigurationError("A certificate needs at least one host name or address.")
        if now >= self.certificate.not_valid_after_utc:
            raise _expired(self.certificate, now)
        general_names = [_general_name(name) for name in names]
        san = x509.SubjectAlternativeName(list(dict.fromkeys(general_names)))
        key = ec.generate_private_key(ec.SECP256R1())
        main = str(general_names[0].value)
        not_before = max(now - BACK_DATED, self.certificate.not_valid_before_utc)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _common_name(main))])
        end = min(not_before + LEAF_VALIDITY, self.certificate.not_valid_after_utc)
        issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        leaf = (
            _builder(subject, self.certificate.subject, key, not_before, end, _key_usage(digital_signature=True))
            .add_extension(san, critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(issuer_key, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return ServerIdentity._of([leaf, self.certificate], key, self.fingerprint)


def _expired(certificate: x509.Certificate, now: datetime) -> ConfigurationError:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    made = " It was made while the clock was wrong." if end < FIRST_CLOCK else ""
    return ConfigurationError(
        f"The certificate authority of this endpoint was valid from {begin:%Y-%m-%d} to {end:%Y-%m-%d}, and the clock "
        f"of this machine says {now:%Y-%m-%d}.{made}",
        hint="If the clock is wrong, set it. Otherwise make a new certificate authority with "
        "`s2connect certificate --new-ca`; every pairing has to be made again then.",
    )


_RESTORE = "Restore the state directory from a backup."


def name_or_address(host: str) -> str | ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Read a host as certificates name it: a lower-case A-label name (VER-04), or an address without its zone.

    Raises:
        ValueError: It is neither.
    """
    if (address := address_of(host)) is not None:
        return address
    name = host_as_ascii(host)
    if not _HOST_NAME.fullmatch(name):
        raise ValueError("neither a host name nor an address")
    return name


def extension_of(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    """Return an extension of a certificate, or None.

    Raises:
        ValueError: The extensions of the certificate are malformed.
    """
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
    except x509.DuplicateExtension as error:
        raise ValueError("duplicate extension") from error


def subject_names(certificate: x509.Certificate) -> tuple[str, ...]:
    """DNS names (lower case) and IP addresses of the subject alternative name; the common name does not count.

    Raises:
        ValueError: The extensions of the certificate are malformed.
    """
    san = extension_of(certificate, x509.SubjectAlternativeName)
    if san is None:
        return ()
    dns: Iterable[str] = san.get_values_for_type(x509.DNSName)
    return (*(name.lower() for name in dns), *(str(address) for address in san.get_values_for_type(x509.IPAddress)))


def is_ca(certificate: x509.Certificate) -> bool:
    """Return whether a certificate may sign others: CA:TRUE, and keyCertSign where the key usage is limited (TRUST-02).

    Raises:
        ValueError: The extensions of the certificate are malformed.
    """
    basic, usage = extension_of(certificate, x509.BasicConstraints), extension_of(certificate, x509.KeyUsage)
    return basic is not None and basic.ca and (usage is None or usage.key_cert_sign)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    begin: datetime,
    end: datetime,
    usage: x509.KeyUsage,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _common_name(text: str) -> str:
    return for_display(text).encode()[:_MAX_COMMON_NAME].decode(errors="ignore")


def _general_name(text: str) -> x509.GeneralName:
    try:
        name = name_or_address(text)
    except ValueError:
        raise ConfigurationError(f"{for_display(text)!r} is neither a host name nor an address.") from None
    return x509.DNSName(name) if isinstance(name, str) else x509.IPAddress(name)


def _key_usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    # In between: content commitment, three kinds of key use; then CRLs, encipher only, decipher only.
    return x509.KeyUsage(digital_signature, False, False, False, False, key_cert_sign, False, False, False)


def _load_key(key_pem: bytes) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(key_pem, password=None)
    except TypeError:
        raise ConfigurationError(
            "The private key is protected by a pass phrase.", hint="Give it without one, in a file only we may read."
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError("The private key cannot be read.", hint="It has to be PEM text.") from None


def _key_as_pem(key: PrivateKeyTypes) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _belongs(key: PrivateKeyTypes, certificate: x509.Certificate) -> bool:
    return _public_bytes(key.public_key()) == _public_bytes(certificate.public_key())


def _public_bytes(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
