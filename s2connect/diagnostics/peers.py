"""Checks of the route to each paired peer, step by step, up to the first that fails."""

from __future__ import annotations

import asyncio
import ssl
import time
from datetime import UTC, datetime
from pathlib import Path

from s2connect.certs.chain import CapturedChain, capture_chain, verify_pki
from s2connect.certs.tls import pinned_client_context, refusal, wan_client_context
from s2connect.diagnostics.findings import Check, Finding, Findings, Layer, milliseconds
from s2connect.diagnostics.probes import ASK_TIMEOUT, addresses_of, connect, fetch_version
from s2connect.errors import NotReachable, S2ConnectError, TrustError
from s2connect.https.client import Destination
from s2connect.model.proxy import Proxies
from s2connect.model.url import BaseUrl
from s2connect.service.objects import Trouble, name_of
from s2connect.store.base import Pairing, Pin

CONNECT_SECONDS = 3.0
"""Seconds for all addresses of a peer together."""

_TRY_SECONDS = 1.5


def step_of(pairing: Pairing, step: str) -> Check:
    """Return the check of one step of the route to a peer."""
    return Check(Layer.PEER, f"peer.{pairing.key.remote}.{step}", name_of(pairing.peer))


async def check_peer(
    pairing: Pairing,
    connected: bool | None,
    trust_anchors: Path | None,
    proxies: Proxies,
    trouble: Trouble | None,
    found: Findings,
) -> None:
    """Check the route to one peer; ``connected`` is True if there is a session now, None if no service runs.

    ``trouble`` is what the service says of the access of the pairing.
    """

    def begin(step: str) -> Check:
        found.check = step_of(pairing, step)
        return found.check

    begin("session")
    if trouble is not None and not connected:
        found.append(access(found.check, trouble))
        return
    url = pairing.initiate_session_url
    if url is None:
        if connected is False:
            cure = "Check that it is on, and the lines about port and name above; it tries again by itself."
            found.append(found.check.warn("It connects to us, and is not connected now.", cure))
        else:
            found.append(found.check.ok("It connects to us; connected." if connected else "It connects to us."))
        return
    proxy = proxies.towards(url.host) if pairing.pin is None else None  # a pinned one is in the local network
    address = None
    if proxy is None:
        begin("name")
        addresses = await addresses_of(url.host)
        told = f"{url.host} is {addresses[0]}." if addresses != [url.host] else f"Address {url.host}."
        found.append(found.check.ok(told))
        begin("tcp")
        address, seconds = await _first_reachable(url, addresses)
        found.append(found.check.ok(f"TCP port {url.port} answers, in {milliseconds(seconds)}."))
    tls, begun = begin("tls"), time.monotonic()
    if pairing.pin is not None:
        chain = await capture_chain(url.host, url.port, address=address, timeout=ASK_TIMEOUT)
        found.append(tls.ok(f"TLS 1.3, in {milliseconds(time.monotonic() - begun)}."))
        begin("pin")
        context = await _compare(url, pairing.pin, chain)
        found.append(found.check.ok("The certificate comes from the CA it was paired with."))
    else:
        context = await asyncio.to_thread(wan_client_context, trust_anchors)
        try:
            await verify_pki(url.host, url.port, context, address=address, proxy=proxy, timeout=ASK_TIMEOUT)
        except TrustError:
            begin("pin")
            raise
        through = f" through the proxy {proxy.address}" if proxy is not None else ""
        found.append(tls.ok(f"TLS 1.3{through}, in {milliseconds(time.monotonic() - begun)}."))
        found.append(begin("pin").ok("The certificate comes from a CA that this system trusts."))
    version_check, begun = begin("version"), time.monotonic()
    version = await fetch_version(url, Destination(context, address, proxy), timeout=ASK_TIMEOUT)
    if version is not None:
        found.append(version_check.ok(f"S2 Connect {version}, in {milliseconds(time.monotonic() - begun)}."))
    else:
        what = "It has no version index, which the standard demands, or the pairing leads to a wrong URL."
        found.append(version_check.warn(what, "If there are sessions, tell its maker; otherwise pair the two again."))
    begin("session")
    if connected:
        found.append(found.check.ok("Connected."))
    elif connected is False:
        cure = "The service tries again by itself and says why it fails; one of the two may have been set up anew."
        found.append(found.check.warn("It can be reached, but there is no session now.", cure))


def access(check: Check, trouble: Trouble) -> Finding:
    """Check the access of a pairing, which one of the two sides does not accept."""
    cure = "Put the newest state back and stop all copies; or pair the two again: s2connect pair."
    return check.fail(f"{trouble.text}", cure)


async def _compare(url: BaseUrl, pin: Pin, chain: CapturedChain) -> ssl.SSLContext:
    """Check the certificate as a session does (TRUST-06, TRUST-07)."""
    known = {chain.ca_fingerprint, chain.leaf_fingerprint} if pin.ca_der is None else {chain.ca_fingerprint}
    if chain.ca_der is None or pin.ca_fingerprint not in known:
        raise refusal(url.host, "pin")
    chain.check_self_signed(url.host, datetime.now(UTC))
    return await asyncio.to_thread(pinned_client_context, chain.ca_der)


async def _first_reachable(url: BaseUrl, addresses: list[str]) -> tuple[str, float]:
    """Return the first address that takes a connection, and the seconds that it took. Raises the error of the first."""
    first: S2ConnectError | None = None
    until = time.monotonic() + CONNECT_SECONDS
    for address in addresses:
        try:
            return address, await connect(address, url.port, timeout=min(until - time.monotonic(), _TRY_SECONDS))
        except S2ConnectError as error:
            first = first or error
    raise first or NotReachable(f"{url.host} has no address.")
