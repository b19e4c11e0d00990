"""TLS contexts: TLS 1.3 only, both as client and as server (TRUST-08, VER-05).

Each function here builds a context, which takes up to 15 ms and reads or writes files: call it in a thread, build once,
share among connections. No context accepts a certificate unseen; the only exception is the capturing handshake of
:mod:`s2connect.certs.chain`.
"""

from __future__ import annotations

import secrets
import ssl
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from s2connect.errors import (
    CertificateChanged,
    CertificateRefused,
    ConfigurationError,
    ProtocolViolation,
    StorageUnavailable,
)
from s2connect.model.text import for_display

if TYPE_CHECKING:
    from s2connect.certs.authority import ServerIdentity

ALPN_PROTOCOLS = ("http/1.1",)
"""VER-05: HTTP/1.1 is what both sides speak."""

_Context = TypeVar("_Context", bound=ssl.SSLContext)

GROUPS = "X25519:P-256:P-384"
"""Key exchanges of the modern profile. Our servers check them before OpenSSL does (`s2connect.https.client_hello`)."""


def harden(context: ssl.SSLContext) -> None:
    """Set what all our contexts have in common (TRUST-08)."""
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(list(ALPN_PROTOCOLS))
    # Says nothing about TLS 1.3 suites; the level keeps weak keys and SHA-1 signatures out of chains (TRUST-06).
    context.set_ciphers("DEFAULT:@SECLEVEL=2")
    if hasattr(context, "set_groups"):  # Python 3.15
        context.set_groups(GROUPS)


# --- server


class _LeafContext(ssl.SSLContext):
    """Holds one certificate, and what it is."""

    leaf_fingerprint: bytes


class ServerContext:
    """The TLS side of a listening server, whose certificate can be replaced while it runs (TRUST-01).

    Every new handshake takes the identity of that moment, and its connection remembers it: the response to a pairing
    challenge is bound to the leaf of its own connection, however old (HMAC-02, TRUST-05).

    Attributes:
        context: To be passed to ``create_server``; stays the same for the life of the server.
        identity: Identity of new handshakes.
    """

    def __init__(self, identity: ServerIdentity) -> None:
        """Build the contexts. Blocks: call it in a thread. Raises the errors of :meth:`replace`."""
        self.replace(identity)
        self.context = _server_context(ssl.SSLContext)
        self.context.sni_callback = self._choose

    def replace(self, identity: ServerIdentity) -> None:
        """Show another certificate from the next handshake on; connections that exist stay as they are.

        Blocks: call it in a thread. On an error the old certificate remains.

        Raises:
            ConfigurationError: OpenSSL does not accept certificate or key.
            StorageUnavailable: There is no temporary directory to hand them to OpenSSL.
        """
        self._current = _leaf_context(identity)
        self.identity = identity

    def _choose(self, ssl_object: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _context: ssl.SSLContext) -> None:
        # OpenSSL calls this in every handshake, with or without a server name. The outer context has no certificate of
        # its own, so that a handshake past this callback fails.
        ssl_object.context = self._current


def leaf_fingerprint_of(ssl_object: ssl.SSLObject) -> bytes:
    """Return the SHA-256 of the leaf that this connection of a :class:`ServerContext` was answered with, 32 bytes.

    Raises:
        TypeError: The connection does not belong to a :class:`ServerContext`.
    """
    context = ssl_object.context
    if not isinstance(context, _LeafContext):
        raise TypeError("not a connection of a ServerContext")
    return context.leaf_fingerprint


def _server_context(kind: type[_Context]) -> _Context:
    context = kind(ssl.PROTOCOL_TLS_SERVER)
    harden(context)
    # A resumed connection shows no certificate: after a replacement the two sides would disagree about the leaf.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    return context


def _leaf_context(identity: ServerIdentity) -> _LeafContext:
    from cryptography.hazmat.primitives import serialization  # a device that only connects does without

    context = _server_context(_LeafContext)
    context.leaf_fingerprint = identity.leaf_fingerprint
    # The ssl module reads certificates from files only. The key gets a pass phrase of this moment, so that it is never
    # on a disk in the clear.
    pass_phrase = secrets.token_hex(32).encode("ascii")
    try:
        key = serialization.load_pem_private_key(identity.key_pem, password=None).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(pass_phrase),
        )
        with tempfile.TemporaryDirectory(prefix="s2connect-") as directory:
            file = Path(directory) / "server.pem"
            file.write_bytes(identity.chain_pem + key)
            context.load_cert_chain(file, password=pass_phrase)
    except ssl.SSLError as error:
        raise ConfigurationError(
            f"The server certificate cannot be used for TLS ({error.reason or 'no reason given'})."
        ) from None
    except OSError as error:
        raise StorageUnavailable(
            f"No temporary file can be written ({error.strerror}).",
            hint="Make room for some in /tmp, or where TMPDIR says; a read-only container has that by --tmpfs /tmp.",
        ) from None
    return context


# --- client


def wan_client_context(trust_anchors: Path | None = None) -> ssl.SSLContext:
    """Normal PKI validation: chain, name and dates, with the trust store of the system (TRUST-03).

    Takes 15 ms: build it once.

    Args:
        trust_anchors: PEM file with CAs to be trusted beside those of the system, e.g. the CA of a company.

    Raises:
        ConfigurationError: That file cannot be read or holds no certificate.
    """
    context = ssl.create_default_context()
    if trust_anchors is not None:
        try:
            context.load_verify_locations(cafile=trust_anchors)
        except OSError as error:  # ssl.SSLError is one
            why = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror or "it is no file"
            raise ConfigurationError(
                f"The file with trust anchors, {trust_anchors}, cannot be used: {why}.",
                hint="It has to hold at least one CA certificate as PEM text. Another one: s2connect config set "
                "trust-anchors FILE; none: config unset trust-anchors.",
            ) from None
    return _client(context)


def pinned_client_context(ca_der: bytes) -> ssl.SSLContext:
    """Accept only servers with a chain to exactly this root, a matching name or address, and valid dates (TRUST-06).

    Raises:
        ConfigurationError: It is no certificate.
    """
    return _anchored(ca_der, "ca")


def leaf_client_context(leaf_der: bytes) -> ssl.SSLContext:
    """Accept only servers that show exactly this leaf, while name and dates are still checked (TRUST-05).

    For the requests of one pairing attempt. A renewed certificate of the same server is refused as well.

    Raises:
        ConfigurationError: It is no certificate.
    """
    context = _anchored(leaf_der, "leaf")
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


class _AnchoredContext(ssl.SSLContext):
    """Trusts one certificate and nothing else."""

    anchor_der: bytes
    anchor: Literal["ca", "leaf"]


class _AnchoredObject(ssl.SSLObject):
    """TLS connection that names the anchor in its errors, and accepts only the exact leaf where that is the anchor."""

    def do_handshake(self) -> None:
        context = self.context
        assert isinstance(context, _AnchoredContext)
        try:
            super().do_handshake()
        except ssl.SSLCertVerificationError as error:
            raise _NotTheAnchor(error.verify_code, context, *error.args) from None
        # OpenSSL also accepts what the expected leaf has signed.
        if context.anchor == "leaf" and self.getpeercert(binary_form=True) != context.anchor_der:
            raise _NotTheAnchor(_UNTRUSTED_LEAF, context, ssl.SSL_ERROR_SSL, "another certificate than expected")


class _NotTheAnchor(ssl.SSLCertVerificationError):
    """A certificate was refused by a context that trusts one certificate only."""

    def __init__(self, verify_code: int, context: _AnchoredContext, *arguments: object) -> None:
        super().__init__(*arguments)
        self.verify_code = verify_code
        self.anchor = context.anchor


def _anchored(der: bytes, anchor: Literal["ca", "leaf"]) -> _AnchoredContext:
    context = _AnchoredContext(ssl.PROTOCOL_TLS_CLIENT)
    context.anchor_der = der
    context.anchor = anchor
    context.sslobject_class = _AnchoredObject
    try:
        context.load_verify_locations(cadata=der)
        count = context.cert_store_stats()["x509"]  # it takes several in a row
    except (ValueError, ssl.SSLError):
        count = 0
    if count != 1:
        raise ConfigurationError("The pinned certificate cannot be read.", hint="Pair the two again.")
    return _client(context)


def _client(context: _Context) -> _Context:
    harden(context)
    context.hostname_checks_common_name = False
    return context


# --- errors

_UNTRUSTED_LEAF = 21

# Results of OpenSSL's verification (X509_V_ERR_…), which the ssl module gives as bare numbers.
_REASONS: dict[int, str] = {
    7: "signature",
    9: "not_yet_valid",
    10: "expired",
    24: "chain",
    25: "chain",
    26: "chain",
    62: "name",
    64: "name",
    66: "algorithm",
    67: "algorithm",
    68: "algorithm",
    79: "chain",
    **dict.fromkeys((2, 18, 19, 20, _UNTRUSTED_LEAF, 27, 28), "untrusted"),
}

_NOT_TLS_1_3 = {"TLSV1_ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "WRONG_SSL_VERSION"}
_NOT_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"}

_MAX_CAUSES = 8


def refusal(host: str, reason: str) -> CertificateRefused:
    """Return the error for a refused certificate of a host, which is cleaned here.

    ``reason`` is one of those of :class:`~s2connect.errors.CertificateRefused`.
    """
    text, hint = _TEXTS[reason]
    return CertificateRefused(text.format(host=for_display(host)), reason=reason, hint=hint)


_CLOCKS = "Check date and time on both devices"
_TEXTS = {
    "expired": (
        "The certificate of {host} has expired.",
        f"{_CLOCKS}; if they are right, the other device has to renew its certificate.",
    ),
    "not_yet_valid": ("The certificate of {host} is not valid yet.", f"{_CLOCKS}; one of the clocks is wrong."),
    "name": (
        "The certificate of {host} is made out to another name.",
        "Use the name or address that the other device shows, exactly as it stands there.",
    ),
    "untrusted": (
        "The certificate of {host} comes from no authority that this system trusts.",
        "A server on the internet needs a certificate of a public CA; a CA of your own can be added as trust anchor.",
    ),
    "pin": (
        "The certificate of {host} comes from another CA than the one it was paired with.",
        "If the other device was reset or replaced, pair the two again; otherwise somebody may be between them.",
    ),
    "signature": (
        "The certificate of {host} is not signed by the CA it names.",
        "Try again; if it happens once more, the other device has to make a new certificate.",
    ),
    "algorithm": (
        "The certificate of {host} uses a key or signature that is too weak or unknown.",
        "The other device needs a software update or a new certificate.",
    ),
    "chain": (
        "The certificate of {host} does not come with a proper chain to its CA.",
        "The other device's software may be faulty or too old; look for an update of it.",
    ),
    "other": (
        "The certificate of {host} cannot be accepted.",
        "The other device's software may be faulty or too old; look for an update of it.",
    ),
}


def describe_tls_error(
    error: BaseException, host: str
) -> CertificateRefused | CertificateChanged | ProtocolViolation | None:
    """Return the error of a TLS handshake for a person; None where it was not TLS.

    Exceptions of libraries are looked through: the cause counts. The caller raises the result ``from`` the original.
    A certificate of another origin is ``untrusted`` for :func:`wan_client_context`, ``pin`` for
    :func:`pinned_client_context` (TRUST-06), and CertificateChanged for :func:`leaf_client_context` (TRUST-05).
    """
    tls = _tls_error(error)
    if tls is None:
        return None
    shown = for_display(host)
    if isinstance(tls, ssl.SSLCertVerificationError):
        reason = _REASONS.get(tls.verify_code, "other")
        anchor = tls.anchor if isinstance(tls, _NotTheAnchor) and reason in {"untrusted", "signature"} else None
        if anchor == "leaf":
            return CertificateChanged(f"{shown} showed another certificate in the middle of the pairing.")
        if anchor == "ca":
            reason = "pin"
        return refusal(host, reason)
    if tls.reason in _NOT_TLS_1_3:
        return ProtocolViolation(f"{shown} does not speak TLS 1.3, which S2 Connect demands.")
    if tls.reason in _NOT_TLS:
        return ProtocolViolation(f"{shown} does not speak HTTPS on this port.", hint="Check the port of the URL.")
    return ProtocolViolation(f"The TLS handshake with {shown} failed ({tls.reason or 'no reason given'}).")


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    # The deepest one counts: aiohttp's errors are ssl.SSLErrors by inheritance only, without the codes.
    found = None
    for _ in range(_MAX_CAUSES):
        found = error if isinstance(error, ssl.SSLError) else found
        error = error.__cause__ if error is not None else None
    return found
