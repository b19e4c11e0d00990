"""Certificate of an endpoint: from its own CA in the LAN, from an operator's files in the WAN (TRUST-01, TRUST-03)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from s2connect.certs.authority import FIRST_CLOCK, CertificateAuthority, ServerIdentity, fingerprint, warned_from
from s2connect.certs.tls import ServerContext
from s2connect.endpoint.config import EndpointConfig, at_instance
from s2connect.endpoint.instances import instance_name
from s2connect.errors import ConfigurationError, NotInitialised, StorageError, StorageUnavailable
from s2connect.model.text import span
from s2connect.store.base import Vault
from s2connect.store.home import Home

CA_FILE = "ca.pem"
CA_KEY = "ca-key"
LEAF_FILE = "leaf.pem"
LEAF_KEY = "leaf-key"

RENEWAL_CHECK = 30.0
"""Seconds between two checks of the leaf certificate's age (TRUST-01): many devices set their clock late."""

RENEWAL_PAUSE = 6 * 3600.0
"""Seconds before renewal is retried after an attempt that gave no better leaf."""

_log = logging.getLogger(__name__)


class CertificateManager:
    """Loads, issues and renews the certificate of an endpoint's server.

    Methods that are no coroutines block: call them in a thread. Without a home the CA lives as long as the object.
    """

    def __init__(
        self,
        config: EndpointConfig,
        home: Home | None,
        vault: Vault,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._clock = clock
        self._config = config
        self._home = home
        self._vault = vault
        self._ca: CertificateAuthority | None = None

    def create_ca(self) -> CertificateAuthority:
        """Make a new CA. Every pairing that pinned the old one is void then (TRUST-09)."""
        self._ca = CertificateAuthority.create(self._config.name or self._config.host, now=self._clock())
        self._vault.put(CA_KEY, self._ca.key_pem())
        if self._home is not None:
            self._home.write_private(CA_FILE, self._ca.to_pem())
        self._vault.delete(LEAF_KEY)
        return self._ca

    def load(self) -> ServerIdentity:
        """Return the stored certificate, or a new one if none is stored that fits; NotInitialised without a CA."""
        if not self._config.is_own_ca:
            return self.renew()
        if self._ca is None:
            self._ca = load_ca(self._home, self._vault.get(CA_KEY)) if self._home is not None else self.create_ca()
        return self._stored_leaf() or self.renew()

    def renew(self) -> ServerIdentity:
        """Issue a new leaf of the same CA, or read the operator's files again; no pairing is touched (TRUST-01)."""
        if self._config.certificate is not None:
            return self._of_operator()
        if not self._config.has_certificate:  # nobody sees it, but for users of the page beyond this machine
            own = CertificateAuthority.create(self._config.host, now=self._clock())
            return own.issue(self.names(), now=self._clock())
        assert self._ca is not None, "load comes before renew"
        identity = self._ca.issue(self.names(), now=self._clock())
        # Key first: a leaf without its key is useless, a key without its leaf is overwritten by the next renewal.
        self._vault.put(LEAF_KEY, identity.key_pem)
        if self._home is not None:
            self._home.write_private(LEAF_FILE, identity.chain_pem)
        return identity

    async def renew_served(self, tls: ServerContext) -> None:
        """Have a server use a new leaf from now on. Raises as :meth:`renew`; the old one stays then."""
        identity = await asyncio.to_thread(self.renew)
        tls.replace(identity)
        _log.info("a new leaf certificate is in use until %s", identity.not_valid_after)

    async def renew_in_time(self, tls: ServerContext, notice: Callable[[str, str], None]) -> None:
        """Renew the leaf of a server whenever it is due; ``notice`` is called with kind and sentence of what fails."""
        while True:
            await asyncio.sleep(RENEWAL_CHECK)
            if not tls.identity.needs_renewal(datetime.now(UTC)):
                continue
            try:
                await self.renew_served(tls)
            except (StorageError, ConfigurationError) as error:
                notice("certificate_not_renewed", str(error))
            if tls.identity.needs_renewal(datetime.now(UTC)):
                if (sentence := self.expiring(tls.identity)) is not None:
                    _log.warning("%s", sentence)
                    notice("certificate_expires", sentence)
                await asyncio.sleep(RENEWAL_PAUSE)

    def doubt(self) -> str | None:
        """Return a sentence about a fault of the clock that certificates reveal, or None."""
        now = self._clock()
        if now < FIRST_CLOCK:
            return (
                f"The clock of this machine says {now:%Y-%m-%d}, which cannot be. Peers refuse certificates that are "
                "made by it; a new one is made once the clock is right."
            )
        begin = self._ca.certificate.not_valid_before_utc if self._ca is not None else now
        if now < begin:
            return (
                f"The certificate authority of this endpoint is valid from {begin:%Y-%m-%d} on, and the clock of this "
                f"machine says {now:%Y-%m-%d}. Set the clock if it is wrong; otherwise it was wrong at the making, "
                "and `s2connect certificate --new-ca` makes a new one: every pairing has to be made again then."
            )
        return None

    def expiring(self, served: ServerIdentity) -> str | None:
        """Return a sentence about the end of a certificate that its operator has to renew, or None."""
        if self._config.certificate is None or self._clock() < served.warned_from:
            return None
        left = (served.not_valid_after - self._clock()).total_seconds()
        when = f"expires in {span(left)}, on" if left > 0 else "has expired on"
        return f"The certificate {when} {served.not_valid_after:%Y-%m-%d}: renew its files, then `s2connect reload`."

    def names(self) -> Sequence[str]:
        """Return the names in the leaf: the host, and the loopback names for programs on the same machine."""
        return list(dict.fromkeys([self._config.host, "localhost", "127.0.0.1", "::1"]))

    @property
    def ca_fingerprint(self) -> bytes | None:
        """SHA-256 of our own CA certificate (TRUST-07), if we are our own CA."""
        return self._ca.fingerprint if self._ca is not None else None

    def _stored_leaf(self) -> ServerIdentity | None:
        """Return the stored leaf, unless it is missing, of another CA, of other names, or due for renewal."""
        chain = self._home.read(LEAF_FILE) if self._home is not None else None
        key = self._vault.get(LEAF_KEY) if chain is not None else None
        if chain is None or key is None or self._ca is None or not chain.endswith(self._ca.to_pem()):
            return None
        try:
            identity = ServerIdentity.load(chain, key)
        except ConfigurationError:
            return None  # a crash between key and leaf in a renewal
        if set(identity.names) != set(self.names()) or identity.needs_renewal(self._clock()):
            return None
        return identity

    def _of_operator(self) -> ServerIdentity:
        assert self._config.certificate is not None
        assert self._config.private_key is not None
        identity = ServerIdentity.load(
            read_operator_file(self._config.certificate), read_operator_file(self._config.private_key)
        )
        if not is_for(identity, self._config.host):
            raise ConfigurationError(f"The certificate is not for {self._config.host} but for {identity.names[0]}.")
        if self._config.instance_url is not None:
            own = at_instance(self._config.instance_url, instance_name(self._config)).host
            if not is_for(identity, own):
                raise ConfigurationError(
                    f"instance_url: the certificate is not for {own} but for {', '.join(identity.names[:5])}.",
                    hint=f"Have it made for *.{own.partition('.')[2]}, too.",
                )
        return identity


def is_for(identity: ServerIdentity, host: str) -> bool:
    """Return whether a certificate is for a host: by its name, or a wildcard in place of the first label."""
    return host in identity.names or f"*.{host.partition('.')[2]}" in identity.names


def load_ca(home: Home, key: bytes | None) -> CertificateAuthority:
    """Load the CA of a home with its key; NotInitialised if one of the two is missing."""
    certificate = home.read(CA_FILE)
    if certificate is None or key is None:
        raise NotInitialised(
            "The certificate authority of this endpoint is missing.",
            hint="Restore state directory and keyring, or make a new CA with `s2connect certificate --new-ca`.",
        )
    return CertificateAuthority.load(certificate, key)


def read_operator_file(path: Path) -> bytes:
    """Read a file of the operator, such as a certificate; ConfigurationError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"Cannot read {path}: {error.strerror}.") from error


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """Fingerprint and dates of a certificate; ``late`` where its end is warned of."""

    fingerprint_sha256: str
    not_before: str
    not_after: str
    expired: bool
    late: bool = False


@dataclass(frozen=True, slots=True)
class Certificates:
    """Certificates of an endpoint; None where there is none yet."""

    own_ca: bool
    ca: CertificateFacts | None
    leaf: CertificateFacts | None


def read_certificates(home: Home, config: EndpointConfig) -> Certificates:
    """Return the facts of the certificates of a state directory, also while its service runs. Blocks."""
    if not config.has_certificate:
        return Certificates(False, None, None)
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


def served(certificates: Certificates, identity: ServerIdentity) -> Certificates:
    """Return the certificates of an endpoint with the leaf that its server shows, whatever the files hold meanwhile."""
    return replace(certificates, leaf=_facts(identity.chain_pem, Path(LEAF_FILE)))


def _facts(pem: bytes, path: Path) -> CertificateFacts:
    try:
        certificate = x509.load_pem_x509_certificates(pem)[0]
    except ValueError:
        raise StorageUnavailable(f"{path} is no certificate.") from None
    begin, until = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    now = datetime.now(UTC)
    return CertificateFacts(
        fingerprint(certificate).hex(":").upper(),
        begin.isoformat().replace("+00:00", "Z"),
        until.isoformat().replace("+00:00", "Z"),
        until < now,
        warned_from(begin, until) <= now,
    )
