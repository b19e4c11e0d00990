"""HTTPS around the pairing client's core: from a URL and a code to a pairing."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

from s2connect.certs.chain import CapturedChain, capture_chain, verify_pki
from s2connect.certs.tls import leaf_client_context
from s2connect.errors import (
    CertificateRefused,
    NetworkError,
    NotPublic,
    NotReachable,
    PairingError,
    PairingExpired,
    PairingRefused,
    PairingReplaced,
    PairingUnconfirmed,
    PeerBusy,
    ProtocolViolation,
    S2ConnectError,
    StorageError,
    stumbled_over_protocol,
)
from s2connect.https.client import Destination, HttpReply, HttpsClient
from s2connect.model.common import NodeId
from s2connect.model.local import LocalEndpoint, LocalNode
from s2connect.model.proxy import Proxy
from s2connect.model.reply import succeeded
from s2connect.model.text import for_display
from s2connect.model.url import BaseUrl, address_of
from s2connect.pairing.challenge import lan_binding, wan_binding
from s2connect.pairing.client_core import (
    CLIENT_ENTROPY,
    Agreed,
    PairingClientAttempt,
    ServerProof,
    Step,
    refused,
)
from s2connect.pairing.code import PairingCode
from s2connect.pairing.interface import DurablePairings
from s2connect.store.base import Pairing, Pin

_log = logging.getLogger(__name__)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class PairingTimings:
    """Timeouts of the pairing client, in seconds. Only the 15 s of the attempt are the standard's (PAIRC-03).

    A busy server is asked again ``busy_retries`` times at any step but the last (PAIRC-04). Once there is an attempt
    id, a busy server is asked again, and ``finalizePairing`` sent again, as long as its 15 seconds last.
    """

    connect: float = 10.0  # for the handshake that captures the certificate
    request_pairing: float = 20.0  # which waits for its turn at the server
    busy_retries: int = 3
    busy_delay: float = 2.0  # before each of those
    step: float = 10.0  # for every other request
    finalize_tries: int = 40
    finalize: float = 5.0  # for one; identical repeats are harmless (PAIR-07)
    finalize_delay: float = 0.5  # between two of them
    refusal: float = 3.0  # for telling a server that we have given up (PAIRC-02)


DEFAULT_TIMINGS = PairingTimings()


async def authenticate(
    url: BaseUrl,
    pki: ssl.SSLContext,
    *,
    addresses: Sequence[str] = (),
    proxy: Proxy | None = None,
    self_signed: bool = True,
    timeout: float = DEFAULT_TIMINGS.connect,
) -> tuple[ServerProof, Destination]:
    """Determine how a pairing server can be authenticated before pairing (TRUST-03, TRUST-04).

    A server whose certificate a public CA vouches for and whose name is not ``.local`` counts by its name (D); a
    self-signed one by its leaf certificate (F), at whatever address. What the peer says of itself plays no part.
    The destination accepts exactly the leaf that was seen (TRUST-05), at the address where it was seen.
    Without ``self_signed`` the latter is refused: a WAN endpoint has no local network of its own (ROLE-03 a).
    ``addresses`` are tried in turn instead of resolving the URL's host; ``proxy`` is used where there are none.

    Raises:
        NetworkError: Not reachable.
        TrustError: Neither holds.
    """
    for one in addresses[:-1]:
        try:
            return await authenticate(url, pki, addresses=[one], self_signed=self_signed, timeout=timeout)
        except NetworkError as error:
            _log.info("%s", error)
    address, proxy = (addresses[-1], None) if addresses else (None, proxy)
    untrusted: CertificateRefused | None = None
    if not url.host.endswith(".local") and address_of(url.host) is None:
        try:
            chain = await verify_pki(url.host, url.port, pki, address=address, proxy=proxy, timeout=timeout)
        except CertificateRefused as error:
            if error.reason != "untrusted":
                raise
            untrusted = error
        else:
            destination = (
                _only_this(chain) if proxy is None else Destination(leaf_client_context(chain.leaf_der), None, proxy)
            )
            return ServerProof(wan_binding(url.host), None), destination
    if not self_signed:
        raise untrusted or NotPublic(f"{for_display(url.host, 100)} is no name of a server on the internet.")
    # A certificate of its own counts where the server is reached directly, at whatever address (errata S2C-31).
    try:
        chain = await capture_chain(url.host, url.port, address=address, timeout=timeout)
    except NetworkError as error:
        if proxy is None or untrusted is None:
            raise
        raise untrusted from error
    chain.check_self_signed(url.host, datetime.now(UTC))
    assert chain.ca_der is not None
    assert chain.ca_fingerprint is not None
    return ServerProof(lan_binding(chain.leaf_fingerprint), Pin(chain.ca_fingerprint, chain.ca_der)), _only_this(chain)


def _only_this(chain: CapturedChain) -> Destination:
    return Destination(leaf_client_context(chain.leaf_der), chain.address)


async def pair(
    endpoint: LocalEndpoint,
    node: LocalNode,
    url: BaseUrl,
    code: PairingCode,
    *,
    pairings: DurablePairings,
    pki: ssl.SSLContext,
    session_url: BaseUrl | None,
    ca_fingerprint: bytes | None,
    addresses: Sequence[str] = (),
    proxy: Proxy | None = None,
    self_signed: bool = True,
    server_node: NodeId | None = None,
    force: bool = False,
    timings: PairingTimings = DEFAULT_TIMINGS,
    wall_time: Callable[[], float] = time.time,
) -> Pairing:
    """Pair one of our nodes as pairing client with the server at ``url``; return the pairing, which is durable then.

    The arguments are those of :func:`authenticate` and of ``PairingClientAttempt``. Cancelled, the attempt fails at the
    server by its own deadline; before the last step nothing is kept here. ``wall_time`` gives the seconds since the
    epoch.

    Raises:
        NetworkError: Not reachable, too slow, busy.
        TrustError: The certificate is refused or changed.
        PeerError: The server does not follow the standard.
        PairingError: Refused, wrong code, too slow, replaced meanwhile, or unconfirmed (then it is kept and settles
            itself).
        StorageError: It could not be stored; the attempt was given up at the server.
    """
    proof, destination = await _patiently(
        lambda: authenticate(
            url, pki, addresses=addresses, proxy=proxy, self_signed=self_signed, timeout=timings.connect
        ),
        timings,
    )

    entropy = os.urandom(CLIENT_ENTROPY)
    attempt = PairingClientAttempt(
        endpoint, node, code, proof, entropy, session_url, ca_fingerprint, server_node, force
    )
    try:
        return await _pair(attempt, url, destination, pairings, timings, wall_time)
    except (PairingRefused, PeerBusy, ProtocolViolation) as error:
        plain = node.standard_only()
        if plain == node or not stumbled_over_protocol(error):
            raise
        _log.info("%s may not support every protocol name of ours; asking with the standard's alone", url.host)
    again = replace(attempt, node=plain, entropy=os.urandom(CLIENT_ENTROPY))
    return await _pair(again, url, destination, pairings, timings, wall_time)


async def _pair(
    attempt: PairingClientAttempt,
    url: BaseUrl,
    destination: Destination,
    pairings: DurablePairings,
    timings: PairingTimings,
    wall_time: Callable[[], float],
) -> Pairing:
    async with HttpsClient(destination) as http:
        run = _Run(attempt, http, url, timings, wall_time)
        try:
            agreed = await run.agree()
            await pairings.hold(agreed.pairing, agreed.token)
        except S2ConnectError:
            await run.refuse()
            raise
        try:
            await _finish(run, agreed, pairings)
        finally:
            pairings.leave(agreed.pairing)  # does nothing where it was confirmed or dropped
    return replace(agreed.pairing, confirmed=True)


async def _finish(run: _Run, agreed: Agreed, pairings: DurablePairings) -> None:
    """Send the last request; confirm or drop the held pairing by its response."""
    try:
        await run.finalize(agreed, gives_way=lambda: pairings.gives_way(agreed.pairing))
    except PairingUnconfirmed:
        raise
    except S2ConnectError:
        await run.refuse()
        await pairings.drop(agreed.pairing)
        raise
    try:
        await pairings.confirm(agreed.pairing)
    except StorageError as error:
        raise PairingUnconfirmed(
            f"The other device has the pairing, but here it could not be stored for good: {error.what}",
            hint=f"{error.hint} It is settled by the next session; if none comes about, pair again.".lstrip(),
        ) from error


async def _patiently(ask: Callable[[], Awaitable[_T]], timings: PairingTimings, *, until: float | None = None) -> _T:
    """Send a request, and repeat it later while the server is busy, which is no failure (PAIRC-04).

    A server that is too busy for HTTP cuts connections. A few times; one that only says that it is busy (429, 503) also
    ``until`` there is no time left.
    """
    tries = 0
    while True:
        try:
            return await ask()
        except NotReachable as error:
            says_so = False
            if not error.cut:
                raise
            last: S2ConnectError = error
        except PeerBusy as error:
            says_so = error.status in (429, 503)
            last = error
        tries += 1
        in_time = until is not None and asyncio.get_running_loop().time() + timings.busy_delay < until
        if tries > timings.busy_retries and not (says_so and in_time):
            raise last
        await asyncio.sleep(timings.busy_delay)


@dataclass
class _Run:
    """The requests of one attempt."""

    _attempt: PairingClientAttempt
    _http: HttpsClient
    _url: BaseUrl
    _timings: PairingTimings
    _wall_time: Callable[[], float]
    _version: str = ""

    async def agree(self) -> Agreed:
        """Go all steps but the last."""
        self._version = await _patiently(lambda: self._http.api_version(self._url), self._timings)
        loop = asyncio.get_running_loop()
        request = self._attempt.request()
        reply = await _patiently(lambda: self._post(request, self._timings.request_pairing), self._timings)
        if reply.status == 400:
            raise refused(reply.body)
        if not succeeded(reply.status):
            raise ProtocolViolation(f"The other device answered the pairing request with HTTP {reply.status}.")
        step = self._attempt.on_answer(reply.body, now=loop.time())
        try:
            async with asyncio.timeout_at(self._attempt.deadline):
                ask = partial(self._post, step, self._timings.step)
                reply = await _patiently(ask, self._timings, until=self._attempt.deadline)
        except TimeoutError as error:
            if isinstance(error, S2ConnectError):
                raise
            raise PairingExpired("The pairing attempt took longer than 15 seconds.") from error
        return self._attempt.on_details(reply.status, reply.body, now=loop.time(), wall_time=self._wall_time())

    async def finalize(self, agreed: Agreed, *, gives_way: Callable[[], bool]) -> None:
        """Go the last step, and repeat it while its answer is lost and there is time."""
        loop = asyncio.get_running_loop()
        deadline = self._attempt.deadline or loop.time()
        sent = False  # whether the server may have received it
        for _ in range(self._timings.finalize_tries):
            try:
                reply = await self._post(agreed.finalize, self._timings.finalize)
            except PeerBusy as error:
                sent = sent or error.status not in (429, 500, 503)
                last: S2ConnectError = error
                if not sent and gives_way():
                    raise PairingReplaced("The other device is pairing with this one from its side.") from error
            except NetworkError as error:
                sent = True
                last = error
            except S2ConnectError as error:
                if not sent:
                    raise
                last = error
            else:
                self._attempt.on_finalized(reply.status)
                return
            if loop.time() + self._timings.finalize_delay >= deadline or not isinstance(last, NetworkError):
                break
            await asyncio.sleep(self._timings.finalize_delay)
        if sent:
            self._attempt.ended()
            raise PairingUnconfirmed("The other device did not confirm the end of pairing.") from last
        raise PairingError("The other device could not store the pairing.", hint="Try again.") from last

    async def refuse(self) -> None:
        """Tell the server that the attempt is over, if it does not know; as well as it goes (PAIRC-02)."""
        if not self._attempt.owes_refusal:
            return
        self._attempt.ended()
        try:
            await self._post(self._attempt.refusal, self._timings.refusal)
        except S2ConnectError as error:
            _log.info("the attempt could not be given up at the server: %s", error.kind)

    async def _post(self, step: Step, timeout: float) -> HttpReply:
        return await self._http.post(
            self._url, self._version, step.operation, step.body, bearer=self._attempt.attempt_id, timeout=timeout
        )
