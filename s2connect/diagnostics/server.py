"""Checks of the server of an endpoint: clock, certificate, TCP port, responses at every address, name."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
import time
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from s2connect import EndpointConfig
from s2connect.certs.authority import FIRST_CLOCK, warned_from
from s2connect.certs.chain import CapturedChain, verify_pki
from s2connect.certs.tls import leaf_client_context, pinned_client_context, wan_client_context
from s2connect.diagnostics.findings import Check, Finding, Findings, Layer, Verdict, listed, milliseconds
from s2connect.diagnostics.home import ExaminedEndpoint
from s2connect.diagnostics.probes import ASK_TIMEOUT, addresses_of, fetch_version
from s2connect.endpoint.certificate import CA_FILE, LEAF_FILE, CertificateManager
from s2connect.errors import CertificateChanged, ConfigurationError, S2ConnectError, StorageUnavailable, TrustError
from s2connect.https.client import Destination, no_api
from s2connect.https.own_addresses import OwnAddress, own_addresses
from s2connect.https.server import another_port
from s2connect.model.common import Deployment
from s2connect.model.url import BaseUrl
from s2connect.service.setup import start_command
from s2connect.store.memory import MemoryVault

OWN_NAME = Check(Layer.DISCOVERY, "own_name")
CLOCK = Check(Layer.CLOCK, "clock")
CA = Check(Layer.CERTIFICATE, "ca")
LEAF = Check(Layer.CERTIFICATE, "leaf")
TRUST = Check(Layer.CERTIFICATE, "trust")
PORT = Check(Layer.SERVICE, "port")
REACHABLE = Check(Layer.SERVICE, "reachable")

_MAX_OWN = 16


async def check_certificates(endpoint: ExaminedEndpoint, found: Findings, now: datetime) -> None:
    """Check the clock, and dates, names and signature of CA and leaf."""
    own = endpoint.config.is_own_ca
    try:
        if own:
            await asyncio.to_thread(_read_certificates, endpoint)
    except S2ConnectError as error:
        found.append(CA.error(error))
    found.append(clock(now))
    if not endpoint.config.server or not endpoint.config.has_certificate:
        return
    if not own:
        found.append(await _check_operators(endpoint, now))
    elif endpoint.ca is not None:  # otherwise the check of the vault reports it
        begin, end = endpoint.ca.not_valid_before_utc, endpoint.ca.not_valid_after_utc
        found.append(validity(CA, begin, end, now, renews=False, running=endpoint.running))
        found.append(_check_leaf(endpoint, endpoint.ca, now))


def clock(now: datetime) -> Finding:
    """Check that the clock is not before :data:`FIRST_CLOCK`.

    One that is wrong by less shows in the dates of the leaf: not valid yet, or expired. The CA says nothing about it,
    because its validity begins before it is made.
    """
    if now.year < FIRST_CLOCK.year:
        cure = "Set date and time, best by NTP (timedatectl set-ntp true): certificates are refused otherwise."
        return CLOCK.fail(f"The clock says {_day(now)}, which cannot be.", cure)
    return CLOCK.ok(f"The clock says {now.astimezone():%Y-%m-%d %H:%M %Z}, which is plausible.")


def validity(
    check: Check, begin: datetime, end: datetime, now: datetime, *, renews: bool, running: bool, host: str = ""
) -> Finding:
    """Check the dates of the certificate of ``CA`` or ``LEAF``.

    ``renews`` is True if the service renews it by itself; ``host`` is the name it is made out to, if that was checked.
    """
    what = "The certificate authority" if check is CA else "The certificate"
    if now < begin:
        return check.fail(
            f"{what} is not valid before {_day(begin)}, and the clock says {_day(now)}.",
            "Set date and time; if they are right, the clock was wrong when it was made.",
        )
    if now > end:
        start = "restart" if running else "start"
        mend = f"{start} the service, which makes a new one" if renews else "the certificate has to be renewed"
        return check.fail(
            f"{what} has expired on {_day(end)}.",
            f"Check date and time, and set them if they are wrong; if they are right, {mend}.",
        )
    days = (end - now).days
    if check is not CA and now >= warned_from(begin, end):
        sentence = f"{what} expires in {_days(days)}, on {_day(end)}"
        if not renews:
            return check.warn(f"{sentence}.", "Renew it with the tool that made it, then: s2connect reload")
        if running:
            return check.warn(f"{sentence}, and the service has not renewed it.", "Its log says why.")
    if check is CA:  # its validity begins before it is made, and has no practical end
        return CA.ok(f"{what} is valid until {_day(end)}.")
    made_out = f" is made out to {host} and" if host else " is"
    return check.ok(f"{what}{made_out} valid for {_days(days)} more.")


def _day(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d")


def _days(number: int) -> str:
    return "1 day" if number == 1 else f"{number} days"


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
        return LEAF.fail(
            error.what,
            error.hint or "Correct it with: s2connect config set certificate FILE private-key FILE, or set host NAME",
        )
    endpoint.leaf = x509.load_pem_x509_certificates(shown.chain_pem)[0]
    begin, end = shown.not_valid_before, shown.not_valid_after
    return validity(LEAF, begin, end, now, renews=False, running=endpoint.running, host=config.host)


async def check_service(endpoint: ExaminedEndpoint, found: Findings) -> None:
    """Check that the port is free for the service, or that the service answers at every address."""
    config = endpoint.config
    if not config.server:
        found.append(PORT.ok("This endpoint runs no server; it connects to energy managers itself."))
        return
    if endpoint.mute:
        return
    if endpoint.status is None or endpoint.status.endpoint.pairing_url is None:
        error = await asyncio.to_thread(_port_error, config.bind, config.listens_on)
        found.append(port_free(config.listens_on, config.bind, error, start_command(endpoint.home)))
        return
    if config.balancers or config.listen_port is not None:
        found.append(await _listens(config))
        return
    base = BaseUrl(endpoint.status.endpoint.pairing_url)
    found.check = REACHABLE
    context = await asyncio.to_thread(_context, endpoint)

    async def ask(address: str) -> ServiceResponse:
        begun = time.monotonic()
        failed: S2ConnectError | None = None
        try:
            if await fetch_version(base, Destination(context, address), timeout=ASK_TIMEOUT) is None:
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
        found.check = TRUST
        found.append(await _check_trust(config, base, addresses[0]))


async def _listens(config: EndpointConfig) -> Finding:
    """Check that the service listens where balancers connect, of whose connections this machine can make none."""
    address, port = _listening_addresses(config.bind, own_addresses())[0], config.listens_on
    try:
        async with asyncio.timeout(ASK_TIMEOUT):
            _, writer = await asyncio.open_connection(address, port)
    except (OSError, TimeoutError):
        return REACHABLE.fail(f"The service does not listen on port {port} of {address}.", "Restart the service.")
    writer.close()
    return REACHABLE.ok(f"The service listens on port {port}; whether peers reach it, the balancer's own checks say.")


def port_free(port: int, bind: str | None, error: int | None, start: str = "s2connect serve") -> Finding:
    """Check that the service could listen; ``error`` is the ``errno`` of the attempt to take its port."""
    where = f"TCP port {port}" + (f" of {bind}" if bind else "")
    if error is None:
        return PORT.ok(f"{where} is free; {start} starts the service.")
    cause, cure = f"{where} cannot be used: {os.strerror(error).lower()}.", "Check port and bind."
    if error == errno.EADDRINUSE:
        cause = f"Another program has {where}."
        cure = f"Stop it (ss -tlnp 'sport = :{port}' names it), or take another port: "
        cure += f"s2connect config set port {another_port(port)}"
    elif error == errno.EADDRNOTAVAIL:
        cause = f"The service is to listen on {bind}, which is no address of this machine now."
        cure = "Listen on all: s2connect config unset bind, or on another: s2connect config set bind ADDRESS"
    elif error == socket.EAI_AGAIN:
        cause = f"The service is to listen at {bind}, a name that cannot be looked up: no name server answers."
        cure = "Check the network and the DNS of this machine, or name an address: s2connect config set bind ADDRESS"
    elif error in (errno.EACCES, errno.EPERM):
        cause = f"This user may not listen on {where}."
        cure = "Take a port from 1024 on: s2connect config set port 8443, or give the service the right to low ports."
    return PORT.fail(cause, cure)


class ServiceResponse(NamedTuple):
    """Response of our own service at one address, or why there is none."""

    address: str
    seconds: float
    error: S2ConnectError | None = None


def reachable(responses: Sequence[ServiceResponse]) -> Finding:
    """Check that our own service answers at each address of this machine: TCP, TLS, version index."""
    wrong = [(one.address, one.error) for one in responses if one.error is not None]
    if wrong:
        first = wrong[0][1]
        return REACHABLE.fail(
            f"The service does not answer at {listed([address for address, _ in wrong])}: {first.what}",
            first.hint or "Restart the service.",
        )
    slowest = max(one.seconds for one in responses)
    addresses = listed([one.address for one in responses])
    return REACHABLE.ok(f"The service answers at {addresses}, within {milliseconds(slowest)}.")


async def _check_trust(config: EndpointConfig, base: BaseUrl, address: str) -> Finding:
    """Check that a peer with the trust store of this system accepts the operator's certificate (TRUST-03)."""
    try:
        context = await asyncio.to_thread(wan_client_context, config.trust_anchors)
        await verify_pki(base.host, base.port, context, address=address, timeout=ASK_TIMEOUT)
    except TrustError as error:
        return TRUST.error(error, Verdict.WARN)
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
    versions = {None: {4, 6}, "0.0.0.0": {4}, "::": {6}}.get(bind)  # noqa: S104 - compared, not bound
    if versions is None:
        return [bind or "::"]
    found = {"127.0.0.1"}
    for address in own:
        ip = address.interface.ip
        if not ip.is_loopback and ip.version in versions:
            found.add(f"{ip}%{address.index}" if ip.version == 6 and ip.is_link_local else str(ip))
    return sorted(found, key=lambda text: (text != "127.0.0.1", ":" in text, text))[:_MAX_OWN]


def _port_error(bind: str | None, port: int) -> int | None:
    """Return the ``errno`` that keeps the service from listening, tried without listening."""
    try:
        wanted = socket.getaddrinfo(bind, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        return socket.EAI_AGAIN if error.errno == socket.EAI_AGAIN else errno.EADDRNOTAVAIL
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


def own_name(
    host: str, found: Collection[str] | None, own: Collection[str], *, running: bool, advertises: bool = True
) -> Finding:
    """Check that the name of the endpoint leads to this machine.

    ``found`` are the addresses it leads to, None if that is unknown; ``running`` is True if the service runs, and
    ``advertises`` if it is configured to answer to a ``.local`` name.
    """
    strange = sorted(set(found or ()) - set(own))
    twin = "If that is another device with the same name, give {} another one: s2connect config set host NAME"
    if found and set(found) & set(own):
        if not strange:
            return OWN_NAME.ok(f"{host} leads to this machine.")
        what = f"{host} leads to this machine, and also to {listed(strange)}."
        return OWN_NAME.warn(what, twin.format("one of the two"))
    if found:
        return OWN_NAME.fail(f"{host} leads to another machine ({listed(strange)}).", twin.format("this one"))
    if not host.lower().endswith(".local"):
        return OWN_NAME.warn(
            f"This machine does not know the name {host}, which others are to reach it by.",
            "Make it known in the DNS, or give the endpoint another name: s2connect config set host NAME",
        )
    if not running:
        return OWN_NAME.ok(f"{host} is free; the service answers to it when it runs.")
    if not advertises:
        return OWN_NAME.warn(
            f"Nobody answers to {host}: advertising is switched off.",
            "Switch it on: s2connect config set advertise on, or have another program publish the name.",
        )
    return OWN_NAME.warn(
        f"The service runs, but nobody answers to {host}.",
        "See what the service says, and the line about multicast; until then others reach it by its address only.",
    )


async def check_name(endpoint: ExaminedEndpoint, found: Findings) -> None:
    """Check that the host in the URLs leads to this machine."""
    config = endpoint.config
    if not config.server:
        return
    own = {str(address.interface.ip) for address in own_addresses()}
    known: list[str] | None = None
    with contextlib.suppress(S2ConnectError, OSError):
        known = [a.partition("%")[0] for a in await addresses_of(config.host)]
    if known == [config.host] and config.host not in own:
        cure = "Correct it: s2connect config set host NAME; that needs no new pairing where peers reach the new one."
        found.append(OWN_NAME.warn(f"The host {config.host} is no address of this machine now.", cure))
        return
    advertises = config.advertise and config.deployment is Deployment.LAN
    found.append(own_name(config.host, known, own, running=endpoint.running, advertises=advertises))
