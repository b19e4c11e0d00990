"""Capture and check of an unknown server's certificates by the pairing client, before any trust (TRUST-04)."""

from __future__ import annotations

import _ssl
import asyncio
import hashlib
import ssl
import sys
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from s2connect.certs.authority import extension_of, is_ca, name_or_address, subject_names
from s2connect.certs.connect import connect_tls, farewell
from s2connect.certs.tls import describe_tls_error, harden, refusal
from s2connect.errors import CertificateRefused, NotReachable, PeerTimeout
from s2connect.model.proxy import Proxy
from s2connect.model.text import for_display
from s2connect.model.url import address_of

MAX_CHAIN_CERTIFICATES = 10
"""Longest chain that is read; public ones have two to four certificates. OpenSSL bounds the bytes, to 100 KB."""

MIN_RSA_BITS = 2048
"""TRUST-04, algorithms: smallest RSA key that is accepted."""

_UNREADABLE = (
    ValueError,
    TypeError,
    KeyError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, slots=True)
class CapturedChain:
    """Certificates that a server presented in one handshake.

    ``ca_der`` is the self-signed certificate at the end of what the server sent, or None; it is the leaf itself where
    there is one single self-signed certificate. ``address`` is the IP address the server answered from, with a zone
    where one is needed to reach it (``fe80::1%2``).
    """

    leaf_der: bytes
    ca_der: bytes | None
    address: str

    @property
    def leaf_fingerprint(self) -> bytes:
        """SHA-256 of the *leaf*, 32 bytes (HMAC-02)."""
        return hashlib.sha256(self.leaf_der).digest()

    @property
    def ca_fingerprint(self) -> bytes | None:
        """SHA-256 of the *CA*, 32 bytes (TRUST-06); None where the server did not send it."""
        return None if self.ca_der is None else hashlib.sha256(self.ca_der).digest()

    def check_self_signed(self, host: str, now: datetime) -> None:
        """Check everything but authenticity: name, dates, algorithms, and that the root signed the leaf (TRUST-04).

        Says nothing about who the server is. Its address plays no part. ``host`` is the name or address in the URL.

        Raises:
            CertificateRefused: With the reason ``chain``, ``name``, ``expired``, ``not_yet_valid``, ``algorithm``,
                ``signature`` or ``other`` (cannot be read).
        """
        if self.ca_der is None:
            raise CertificateRefused(
                f"{for_display(host)} sent its certificate without the root it was signed by.",
                reason="chain",
                hint="The other device has to send its CA certificate along; look for an update of its software.",
            )
        try:
            leaf = x509.load_der_x509_certificate(self.leaf_der)
            root = x509.load_der_x509_certificate(self.ca_der)
            reason = _find_fault(leaf, root, host, now)
        except _UNREADABLE:
            reason = "other"
        if reason is not None:
            raise refusal(host, reason)


async def capture_chain(host: str, port: int, *, address: str | None = None, timeout: float) -> CapturedChain:
    """Make one TLS 1.3 handshake and note what the server shows; no application data is sent (TRUST-04, TRUST-08).

    The certificate is not verified: the caller checks the result. May be cancelled at any time; the connection is
    closed. ``host`` is the name or address in the URL; ``address`` is where to connect to instead of looking it up.

    Raises:
        NotReachable: No connection.
        PeerTimeout: The time is over.
        ProtocolViolation: It is no TLS 1.3 server.
        CertificateRefused: The chain is absurdly long (``chain``).
    """
    # The one context without verification: for this handshake, nothing is sent or believed on its connection.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    harden(context)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return await _handshake(host, port, context, address=address, timeout=timeout)


async def verify_pki(
    host: str,
    port: int,
    context: ssl.SSLContext,
    *,
    address: str | None = None,
    proxy: Proxy | None = None,
    timeout: float,
) -> CapturedChain:
    """As :func:`capture_chain`, but with normal PKI validation by a context that verifies (TRUST-03).

    Behind a proxy the ``address`` of the result is that of the proxy.

    Raises:
        ValueError: The context does not verify.
        CertificateRefused: The certificate is not valid for the host, with the reason.
    """
    if context.verify_mode != ssl.CERT_REQUIRED or not context.check_hostname:
        raise ValueError("the TLS context does not verify certificates")
    return await _handshake(host, port, context, address=address, proxy=proxy, timeout=timeout)


async def _handshake(
    host: str, port: int, context: ssl.SSLContext, *, address: str | None, proxy: Proxy | None = None, timeout: float
) -> CapturedChain:
    where = f"{for_display(host)}:{port}"
    try:
        server_name = str(name_or_address(host))
    except ValueError as error:
        raise NotReachable(f"{for_display(host)!r} is neither a host name nor an address.") from error
    try:
        async with asyncio.timeout(timeout):
            to = server_name if address_of(host) is None else host  # with its zone
            transport, _ = await connect_tls(asyncio.Protocol, to, port, context, address=address, proxy=proxy)
    except TimeoutError as error:
        raise PeerTimeout(f"{where} did not answer within {timeout:g} seconds.") from error
    except (OSError, ValueError) as error:
        described = describe_tls_error(error, host)
        if described is not None:
            raise described from error
        if isinstance(error, ConnectionResetError | ConnectionAbortedError):
            hint = "It may be busy: try again. Check the port, too; S2 Connect demands TLS 1.3, for which the other"
            broken = NotReachable(f"{where} broke the TLS handshake off.", hint=f"{hint} device may be too old.")
            broken.cut = True
            raise broken from error
        raise NotReachable.because(for_display(host), port, error) from error
    try:
        chain = _chain_sent(transport.get_extra_info("ssl_object"))
        peer = transport.get_extra_info("peername")
    finally:
        farewell(transport)
    if not 1 <= len(chain) <= MAX_CHAIN_CERTIFICATES:
        raise refusal(host, "chain")
    return CapturedChain(chain[0], _root_of(chain), _address_of(*peer))


def _chain_sent(ssl_object: ssl.SSLObject) -> list[bytes]:
    """DER of the certificates that the server sent, in its order."""
    if sys.version_info >= (3, 13):
        return ssl_object.get_unverified_chain()
    chain = ssl_object._sslobj.get_unverified_chain()  # type: ignore[attr-defined]  # public from Python 3.13 only
    return [certificate.public_bytes(_ssl.ENCODING_DER) for certificate in chain or ()]


def _root_of(chain: list[bytes]) -> bytes | None:
    try:
        last = x509.load_der_x509_certificate(chain[-1])
        return chain[-1] if last.subject == last.issuer else None
    except _UNREADABLE:
        return None


def _address_of(host: str, _port: int, _flow: int = 0, zone: int = 0) -> str:
    return f"{host}%{zone}" if zone and "%" not in host else host


# --- checks


def _find_fault(leaf: x509.Certificate, root: x509.Certificate, host: str, now: datetime) -> str | None:
    if not _is_named(leaf, host):
        return "name"
    for certificate in (leaf, root):
        if now < certificate.not_valid_before_utc:
            return "not_yet_valid"
        if now > certificate.not_valid_after_utc:
            return "expired"
        if not _is_strong(certificate):
            return "algorithm"
    if leaf != root and not is_ca(root):
        return "chain"
    if not _is_for_servers(leaf) or leaf.issuer != root.subject:
        return "chain"
    try:
        root.verify_directly_issued_by(root)
        leaf.verify_directly_issued_by(root)
    except InvalidSignature:
        return "signature"
    return None


def _is_named(leaf: x509.Certificate, host: str) -> bool:
    try:
        wanted = str(name_or_address(host))
    except ValueError:
        return False
    return wanted in subject_names(leaf)


def _is_strong(certificate: x509.Certificate) -> bool:
    try:
        key = certificate.public_key()
        signed_with = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return False
    if isinstance(key, rsa.RSAPublicKey):
        strong = key.key_size >= MIN_RSA_BITS
    elif isinstance(key, ec.EllipticCurvePublicKey):
        strong = isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1 | ec.SECP521R1)
    else:
        strong = isinstance(key, ed25519.Ed25519PublicKey)
    # Ed25519 has no separate hash.
    return strong and (signed_with is None or isinstance(signed_with, hashes.SHA256 | hashes.SHA384 | hashes.SHA512))


def _is_for_servers(leaf: x509.Certificate) -> bool:
    usage = extension_of(leaf, x509.ExtendedKeyUsage)
    wanted = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
    return usage is None or not wanted.isdisjoint(usage)
