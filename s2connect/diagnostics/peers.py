"""Checks of the route to each paired peer, step by step, up to the first that fails."""

from __future__ import annotations

import asyncio
import ssl
import time
from datetime import UTC, datetime
from pathlib import Path

from s2connect.certs.chain import CapturedChain, capture_chain, verify_pki
from s2connect.certs.tls import pinned_client_context, refusal, wan_client_context
from s2connect.diagnostics.findings import Check, Finding, Layer, cure_of, milliseconds
from s2connect.diagnostics.probes import ASK_TIMEOUT, addresses_of, connect, fetch_version
from s2connect.errors import NotReachable, S2ConnectError, TrustError
from s2connect.https.client import Route
from s2connect.model.proxy import Proxies
from s2connect.model.url import BaseUrl
from s2connect.service.objects import name_of
from s2connect.store.base import Pairing, Pin

CONNECT_SECONDS = 3.0
"""Seconds for all addresses of a peer together."""

_TRY_SECONDS = 1.5


class PeerChecks:
    """Checks of the route to one peer.

    Args:
        pairing: The pairing.
        connected: True if there is a session now; None if no service runs.
        trust_anchors: CAs that the operator trusts beside those of the system.
        proxies: The proxy towards the internet; a pinned peer is in the local network and needs none.
    """

    def __init__(self, pairing: Pairing, connected: bool | None, trust_anchors: Path | None, proxies: Proxies) -> None:
        self._pairing = pairing
        self._connected = connected
        self._trust_anchors = trust_anchors
        url = pairing.initiate_session_url
        self._proxy = proxies.towards(url.host) if url is not None and pairing.pin is None else None
        self._name = name_of(pairing.peer)
        self._check = self._step("session")

    async def run(self, found: list[Finding]) -> None:
        """Check every step and add its finding."""
        url = self._pairing.initiate_session_url
        if url is None:
            found.append(self._as_server())
            return
        try:
            await self._as_client(url, found)
        except S2ConnectError as error:
            found.append(self._check.fail(error.what, cure_of(error)))
            return
        self._check = self._step("session")
        if self._connected:
            found.append(self._check.ok("Connected."))
        elif self._connected is False:
            cure = "The service tries again by itself and says why it fails; one of the two may have been set up anew."
            found.append(self._check.warn("It can be reached, but there is no session now.", cure))

    def unfinished(self) -> Finding:
        """Return the finding for the step that there was no time left for."""
        return self._check.warn("There was no time left for this step.", "Run this again when fewer things are broken.")

    def _step(self, name: str) -> Check:
        return Check(Layer.PEER, f"peer.{self._pairing.key.remote}.{name}", self._name)

    def _as_server(self) -> Finding:
        if self._connected is False:
            cure = "Check that it is on, and the lines about port and name above; it tries again by itself."
            return self._check.warn("It connects to us, and is not connected now.", cure)
        return self._check.ok("It connects to us; connected." if self._connected else "It connects to us.")

    async def _as_client(self, url: BaseUrl, found: list[Finding]) -> None:
        address = None
        if self._proxy is None:
            self._check = self._step("name")
            addresses = await addresses_of(url.host)
            told = f"{url.host} is {addresses[0]}." if addresses != [url.host] else f"Address {url.host}."
            found.append(self._check.ok(told))
            self._check = self._step("tcp")
            address, seconds = await _first_reachable(url, addresses)
            found.append(self._check.ok(f"TCP port {url.port} answers, in {milliseconds(seconds)}."))
        self._check = tls = self._step("tls")
        pin, begun = self._pairing.pin, time.monotonic()
        if pin is not None:
            chain = await capture_chain(url.host, url.port, address=address, timeout=ASK_TIMEOUT)
            found.append(tls.ok(f"TLS 1.3, in {milliseconds(time.monotonic() - begun)}."))
            self._check = self._step("pin")
            context = await _compare(url, pin, chain)
            found.append(self._check.ok("The certificate comes from the CA it was paired with."))
        else:
            context = await asyncio.to_thread(wan_client_context, self._trust_anchors)
            try:
                await verify_pki(url.host, url.port, context, address=address, proxy=self._proxy, timeout=ASK_TIMEOUT)
            except TrustError:
                self._check = self._step("pin")
                raise
            through = f" through the proxy {self._proxy.address}" if self._proxy is not None else ""
            found.append(tls.ok(f"TLS 1.3{through}, in {milliseconds(time.monotonic() - begun)}."))
            self._check = self._step("pin")
            found.append(self._check.ok("The certificate comes from a CA that this system trusts."))
        self._check = self._step("version")
        begun = time.monotonic()
        version = await fetch_version(url, Route(context, address, self._proxy), timeout=ASK_TIMEOUT)
        if version is not None:
            found.append(self._check.ok(f"S2 Connect {version}, in {milliseconds(time.monotonic() - begun)}."))
            return
        found.append(
            self._check.warn(
                "It has no version index, which the standard demands, or the pairing leads to a wrong URL.",
                "If there are sessions, tell its maker; otherwise pair the two again.",
            )
        )


async def _compare(url: BaseUrl, pin: Pin, chain: CapturedChain) -> ssl.SSLContext:
    """Check the certificate as a session does (TRUST-06, TRUST-07)."""
    known = {chain.ca_fingerprint, chain.leaf_fingerprint} if pin.ca_der is None else {chain.ca_fingerprint}
    if chain.ca_der is None or pin.ca_fingerprint not in known:
        raise refusal(url.host, "pin")
    chain.check_self_signed(url.host, datetime.now(UTC))
    return await asyncio.to_thread(pinned_client_context, chain.ca_der)


async def _first_reachable(url: BaseUrl, addresses: list[str]) -> tuple[str, float]:
    """Return the first address that takes a connection, and the seconds that it took.

    Raises:
        NetworkError: None does; the error of the first.
    """
    first: S2ConnectError | None = None
    until = time.monotonic() + CONNECT_SECONDS
    for address in addresses:
        try:
            return address, await connect(address, url.port, timeout=min(until - time.monotonic(), _TRY_SECONDS))
        except S2ConnectError as error:
            first = first or error
    raise first or NotReachable(f"{url.host} has no address.")
