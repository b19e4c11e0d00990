"""Checks of the server of an endpoint: clock, certificate, TCP port, responses at every address, name."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
import ssl
import time
from collections.abc import Collection
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from s2connect import EndpointConfig
from s2connect.certs.chain import CapturedChain, verify_pki
from s2connect.certs.tls import leaf_client_context, pinned_client_context, wan_client_context
from s2connect.diagnostics.checks import (
    CA,
    LEAF,
    OWN_NAME,
    PORT,
    REACHABLE,
    TRUST,
    ServiceResponse,
    clock,
    own_name,
    port_free,
    reachable,
    validity,
)
from s2connect.diagnostics.findings import Finding, cure_of
from s2connect.diagnostics.home import ExaminedEndpoint
from s2connect.diagnostics.probes import ASK_TIMEOUT, addresses_of, fetch_version
from s2connect.endpoint.certificate import CA_FILE, LEAF_FILE, CertificateManager
from s2connect.errors import CertificateChanged, ConfigurationError, S2ConnectError, StorageUnavailable, TrustError
from s2connect.https.client import Route, no_api
from s2connect.https.own_addresses import OwnAddress, own_addresses
from s2connect.model.common import Deployment
from s2connect.model.url import BaseUrl
from s2connect.store.memory import MemoryVault

_MAX_OWN = 16


async def check_certificates(endpoint: ExaminedEndpoint, found: list[Finding], now: datetime) -> None:
    """Check the clock, and dates, names and signature of CA and leaf."""
    own = endpoint.config.is_own_ca
    try:
        if own:
            await asyncio.to_thread(_read_certificates, endpoint)
    except S2ConnectError as error:
        found.append(CA.error(error))
    found.append(clock(now, endpoint.ca.not_valid_before_utc if endpoint.ca is not None else None))
    if not endpoint.config.server:
        return
    if not own:
        found.append(await _check_operators(endpoint, now))
    elif endpoint.ca is not None:  # otherwise the check of the vault reports it
        begin, end = endpoint.ca.not_valid_before_utc, endpoint.ca.not_valid_after_utc
        found.append(validity(CA, begin, end, now, renews=False, running=endpoint.running))
        found.append(_check_leaf(endpoint, endpoint.ca, now))


def _read_certificates(endpoint: ExaminedEndpoint) -> None:
    for name in (CA_FILE, LEAF_FILE):
        content = endpoint.home.read(name)
        if content is None:
            continue
        try:
            certificate = x509.load_pem_x509_certificates(content)[0]
        except ValueError:
            raise StorageUnavailable(
                f"{endpoint.home.path / name} is no certificate.",
                hint="Restore it from a backup; a leaf can also be deleted, the service makes a new one.",
            ) from None
        if name == CA_FILE:
            endpoint.ca = certificate
        else:
            endpoint.leaf = certificate


def _check_leaf(endpoint: ExaminedEndpoint, ca: x509.Certificate, now: datetime) -> Finding:
    leaf, host = endpoint.leaf, endpoint.config.host
    if leaf is None:
        return LEAF.ok("The certificate is made when the service starts.")
    begin, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if begin <= now <= end:
        chain = CapturedChain(leaf.public_bytes(Encoding.DER), ca.public_bytes(Encoding.DER), "")
        try:
            chain.check_self_signed(host, now)
        except S2ConnectError as error:
            return LEAF.fail(error.what, "Start the service again, which makes a new one.")
    return validity(LEAF, begin, end, now, renews=True, running=endpoint.running, host=host)


async def _check_operators(endpoint: ExaminedEndpoint, now: datetime) -> Finding:
    config = endpoint.config
    try:
        manager = CertificateManager(config, None, MemoryVault())  # reads the operator's files and nothing else
        shown = await asyncio.to_thread(manager.load)
    except S2ConnectError as error:
        return LEAF.fail(error.what, error.hint or "Correct certificate, private_key or host in config.json.")
    endpoint.leaf = x509.load_pem_x509_certificates(shown.chain_pem)[0]
    begin, end = shown.not_valid_before, shown.not_valid_after
    return validity(LEAF, begin, end, now, renews=False, running=endpoint.running, host=config.host)


async def check_service(endpoint: ExaminedEndpoint, found: list[Finding]) -> None:
    """Check that the port is free for the service, or that the service answers at every address."""
    config = endpoint.config
    if not config.server:
        found.append(PORT.ok("This endpoint runs no server; it connects to energy managers itself."))
        return
    if endpoint.mute:
        return
    if endpoint.status is None or endpoint.status.endpoint.pairing_url is None:
        error = await asyncio.to_thread(_port_error, config.bind, config.port)
        found.append(port_free(config.port, config.bind, error))
        return
    base = BaseUrl(endpoint.status.endpoint.pairing_url)
    try:
        context = await asyncio.to_thread(_context, endpoint)
    except S2ConnectError as failed:
        found.append(REACHABLE.error(failed))
        return

    async def ask(address: str) -> ServiceResponse:
        begun = time.monotonic()
        failed: S2ConnectError | None = None
        try:
            if await fetch_version(base, Route(context, address), timeout=ASK_TIMEOUT) is None:
                raise no_api(base, " (HTTP 404)")
        except CertificateChanged as error:
            error.what, error.hint = "It shows another certificate than the file holds.", "Restart the service."
            failed = error
        except S2ConnectError as error:
            failed = error
        return ServiceResponse(address, time.monotonic() - begun, failed)

    addresses = _listening_addresses(config.bind, own_addresses())
    found.append(reachable(await asyncio.gather(*(ask(address) for address in addresses))))
    if not config.is_own_ca:
        found.append(await _check_trust(config, base, addresses[0]))


async def _check_trust(config: EndpointConfig, base: BaseUrl, address: str) -> Finding:
    """Check that a peer with the trust store of this system accepts the operator's certificate (TRUST-03)."""
    try:
        context = await asyncio.to_thread(wan_client_context, config.trust_anchors)
        await verify_pki(base.host, base.port, context, address=address, timeout=ASK_TIMEOUT)
    except TrustError as error:
        return TRUST.warn(error.what, cure_of(error))
    except S2ConnectError as error:
        return TRUST.error(error)
    return TRUST.ok("The certificate comes from a CA that this system trusts.")


def _context(endpoint: ExaminedEndpoint) -> ssl.SSLContext:
    if endpoint.ca is not None:
        return pinned_client_context(endpoint.ca.public_bytes(Encoding.DER))
    if endpoint.leaf is not None:
        return leaf_client_context(endpoint.leaf.public_bytes(Encoding.DER))
    raise ConfigurationError(
        "Without a certificate that can be read here the service cannot be asked.",
        hint="Mend what is said of the certificate, then run this again.",
    )


def _listening_addresses(bind: str | None, own: Collection[OwnAddress]) -> list[str]:
    """Return the addresses at which a server with this ``bind`` can be reached from here, loopback first."""
    try:
        bound = ipaddress.ip_address((bind or "::").partition("%")[0])
    except ValueError:
        assert bind is not None
        return [bind]
    if not bound.is_unspecified:
        assert bind is not None
        return [bind]
    found = {"127.0.0.1"}
    for address in own:
        ip = address.interface.ip
        if not ip.is_loopback and (bind is None or ip.version == bound.version):
            found.add(f"{ip}%{address.index}" if ip.version == 6 and ip.is_link_local else str(ip))
    return sorted(found, key=lambda text: (text != "127.0.0.1", ":" in text, text))[:_MAX_OWN]


def _port_error(bind: str | None, port: int) -> int | None:
    """Return the ``errno`` that keeps the service from listening, tried without listening."""
    try:
        wanted = socket.getaddrinfo(bind, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return errno.EADDRNOTAVAIL
    for family, kind, protocol, _, address in wanted:
        with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind(address)
            except OSError as error:
                return error.errno
    return None


async def check_name(endpoint: ExaminedEndpoint, found: list[Finding]) -> None:
    """Check that the host in the URLs leads to this machine."""
    config = endpoint.config
    if not config.server:
        return
    own = {str(address.interface.ip) for address in own_addresses()}
    known: list[str] | None = None
    try:
        ipaddress.ip_address(config.host)
    except ValueError:
        with contextlib.suppress(S2ConnectError, OSError):
            known = [a.partition("%")[0] for a in await addresses_of(config.host)]
    else:
        if config.host not in own:
            cure = "Correct host in config.json; that needs no new pairing where peers reach the new one."
            found.append(OWN_NAME.warn(f"The host {config.host} is no address of this machine now.", cure))
            return
        known = [config.host]
    advertises = config.advertise and config.deployment is Deployment.LAN
    found.append(own_name(config.host, known, own, running=endpoint.running, advertises=advertises))
