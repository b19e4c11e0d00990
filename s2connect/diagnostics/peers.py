"""What ``doctor`` finds out about the way to each paired peer, step by step; it stops at the first that fails."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from pathlib import Path

from s2connect.certs.chain import CapturedChain, capture_chain, verify_pki
from s2connect.certs.tls import pinned_client_context, refusal, wan_client_context
from s2connect.diagnostics.checks import Check, Layer, Result, hint_of, milliseconds
from s2connect.diagnostics.endpoint import ASK_TIMEOUT, addresses_of, now_utc
from s2connect.errors import NotReachable, PeerTimeout, S2ConnectError, TrustError
from s2connect.https.client import HttpsClient, Route
from s2connect.model.proxy import Proxies, Proxy
from s2connect.model.url import BaseUrl
from s2connect.service.sidecar import Object, name_of, pairing_object
from s2connect.store.base import Pairing, Pin

CONNECT_SECONDS = 3.0
"""Seconds for all addresses of a peer together."""

_TRY_SECONDS = 1.5


class Peer:
    """The way to one peer.

    Args:
        pairing: The pairing.
        connected: Whether there is a session now; None where no service runs.
        trust_anchors: CAs that the operator trusts beside those of the system.
        proxy: The way to it leads through this one.
    """

    def __init__(
        self, pairing: Pairing, connected: bool | None, trust_anchors: Path | None, proxy: Proxy | None
    ) -> None:
        self._pairing = pairing
        self._connected = connected
        self._trust_anchors = trust_anchors
        self._proxy = proxy
        self._name = name_of(pairing_object(pairing)["peer"])
        self._step = "session"

    async def examine(self, found: list[Check]) -> None:
        """Take every step and note how it ended."""
        if self._pairing.initiate_session_url is None:
            found.append(self._as_server())
            return
        try:
            await self._walk(self._pairing.initiate_session_url, found)
        except S2ConnectError as error:
            found.append(self._check(Result.FAIL, error.what, hint_of(error)))
            return
        self._step = "session"
        if self._connected:
            found.append(self._ok("Connected."))
        elif self._connected is False:
            hint = "The service tries again by itself and says why it fails; one of the two may have been set up anew."
            found.append(self._check(Result.WARN, "It can be reached, but there is no session now.", hint))

    def unfinished(self) -> Check:
        """What is noted when there is no time left."""
        return self._check(
            Result.WARN, "There was no time left for this step.", "Run this again when fewer things are broken."
        )

    def _check(self, result: Result, sentence: str, hint: str = "") -> Check:
        return Check(
            Layer.PEER, f"peer.{self._pairing.key.remote}.{self._step}", result, sentence, hint, about=self._name
        )

    def _ok(self, sentence: str) -> Check:
        return self._check(Result.OK, sentence)

    def _as_server(self) -> Check:
        if self._connected is False:
            hint = "Check that it is on, and the lines about port and name above; it tries again by itself."
            return self._check(Result.WARN, "It connects to us, and is not connected now.", hint)
        return self._ok("It connects to us; connected." if self._connected else "It connects to us.")

    async def _walk(self, url: BaseUrl, found: list[Check]) -> None:
        address = None
        if self._proxy is None:
            self._step = "name"
            addresses = await addresses_of(url.host)
            said = f"{url.host} is {addresses[0]}." if addresses != [url.host] else f"Address {url.host}."
            found.append(self._ok(said))
            self._step = "tcp"
            address, seconds = await _connect(url, addresses)
            found.append(self._ok(f"TCP port {url.port} answers, in {milliseconds(seconds)}."))
        self._step = "tls"
        pin = self._pairing.pin
        begun = time.monotonic()
        if pin is not None:
            chain = await capture_chain(url.host, url.port, address=address, timeout=ASK_TIMEOUT)
            found.append(self._ok(f"TLS 1.3, in {milliseconds(time.monotonic() - begun)}."))
            self._step = "pin"
            context = await self._compare(url, pin, chain)
            found.append(self._ok("The certificate comes from the CA it was paired with."))
        else:
            context = await asyncio.to_thread(wan_client_context, self._trust_anchors)
            try:
                await verify_pki(url.host, url.port, context, address=address, proxy=self._proxy, timeout=ASK_TIMEOUT)
            except TrustError:
                self._step = "pin"
                raise
            through = f" through the proxy {self._proxy.place}" if self._proxy is not None else ""
            found.append(self._ok(f"TLS 1.3{through}, in {milliseconds(time.monotonic() - begun)}."))
            self._step = "pin"
            found.append(self._ok("The certificate comes from a CA that this system trusts."))
        self._step = "version"
        begun = time.monotonic()
        try:
            async with HttpsClient(Route(context, address, self._proxy)) as http, asyncio.timeout(ASK_TIMEOUT):
                version = await http.api_version(url)
        except TimeoutError as error:
            raise error if isinstance(error, S2ConnectError) else PeerTimeout("It did not answer in time.") from error
        if http.without_index:
            found.append(
                self._check(
                    Result.WARN,
                    "It has no version index, which the standard demands, or the pairing leads to a wrong URL.",
                    "If there are sessions, tell its maker; otherwise pair the two again.",
                )
            )
            return
        found.append(self._ok(f"S2 Connect {version}, in {milliseconds(time.monotonic() - begun)}."))

    async def _compare(self, url: BaseUrl, pin: Pin, chain: CapturedChain) -> ssl.SSLContext:
        """Check the certificate as a session does (TRUST-06, TRUST-07)."""
        known = {chain.ca_fingerprint, chain.leaf_fingerprint} if pin.ca_der is None else {chain.ca_fingerprint}
        if chain.ca_der is None or pin.ca_fingerprint not in known:
            raise refusal(url.host, "pin")
        chain.check_self_signed(url.host, now_utc())
        return await asyncio.to_thread(pinned_client_context, chain.ca_der)


async def _connect(url: BaseUrl, addresses: list[str]) -> tuple[str, float]:
    """Find the first address that takes a connection, and how long that took.

    Raises:
        NetworkError: None does; the first one's reason.
    """
    first: S2ConnectError | None = None
    until = asyncio.get_running_loop().time() + CONNECT_SECONDS
    for address in addresses:
        begun = time.monotonic()
        try:
            async with asyncio.timeout_at(min(until, asyncio.get_running_loop().time() + _TRY_SECONDS)):
                _, writer = await asyncio.open_connection(address, url.port)
        except TimeoutError:
            first = first or PeerTimeout(f"{address}:{url.port} did not answer in time.")
        except OSError as error:
            first = first or NotReachable.because(address, url.port, error)
        else:
            seconds = time.monotonic() - begun
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            return address, seconds
    raise first or NotReachable(f"{url.host} has no address.")


def peers_of(
    pairings: list[Pairing], status: Object | None, trust_anchors: Path | None, proxies: Proxies
) -> list[Peer]:
    """The peers of the confirmed pairings, and whether the service has a session with each."""
    sessions = {(one["node"], one["peer"]["id"]): bool(one["connected"]) for one in (status or {}).get("pairings", [])}
    return [
        Peer(
            pairing,
            sessions.get((str(pairing.key.local), str(pairing.key.remote)), False) if status is not None else None,
            trust_anchors,
            _way(pairing, proxies),
        )
        for pairing in pairings
        if pairing.confirmed
    ]


def _way(pairing: Pairing, proxies: Proxies) -> Proxy | None:
    """The proxy towards a peer: a pinned one is in the local network, where there is none."""
    url = pairing.initiate_session_url
    return proxies.towards(url.host) if url is not None and pairing.pin is None else None
