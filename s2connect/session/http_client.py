"""HTTPS around the communication client: from a pairing to a connection, and unpairing."""

from __future__ import annotations

import asyncio
import hmac
import logging
import random
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from s2connect._lazy import load_in_thread
from s2connect.certs.connect import KeptConnection
from s2connect.certs.tls import pinned_client_context
from s2connect.errors import (
    AccessRefused,
    CertificateRefused,
    NotReachable,
    PeerBusy,
    ProtocolViolation,
    SessionRefused,
    StorageError,
    stumbled_over_protocol,
)
from s2connect.https.client import Destination, HttpsClient
from s2connect.model.common import WEBSOCKET, MalformedMessage
from s2connect.model.local import LocalEndpoint, LocalNode
from s2connect.model.proxy import Proxies
from s2connect.model.reply import succeeded
from s2connect.model.secret import AccessToken
from s2connect.model.session_init import (
    CommunicationDetails,
    InitiateSession,
    InitiateSessionResponse,
    Unpair,
    WebSocketCommunicationDetails,
)
from s2connect.model.text import for_display
from s2connect.model.url import BaseUrl
from s2connect.session.client_core import KnownVersions, VersionGone, read_confirm_answer, read_initiate_answer
from s2connect.store.base import Pairing, PairKey, Pin, Store
from s2connect.transports.base import Connection, ConnectionInfo, Transport, Trust

_log = logging.getLogger(__name__)

CONNECT_TIMEOUT = 10.0
"""Seconds for the handshake that completes a pin."""

INITIATE_TIMEOUT = 30.0
"""Seconds for ``initiateSession``; a gateway opens its far side meanwhile."""

CONFIRM_TIMEOUT = 10.0

MAX_CONTEXTS = 256
"""TLS contexts kept, one for each CA."""

MAX_TOKENS = 1024
"""Access tokens kept in memory beside the vault."""

UPGRADE_TRIES = 8
UPGRADE_PAUSE = 1.0
"""Attempts at an offered connection that the server cuts, and the mean pause between them in seconds."""


class SessionClient:
    """Opens sessions of one endpoint's communication clients; TLS contexts are kept, because making one costs much.

    Args:
        store: Pairings and their tokens.
        transports: Transports by protocol.
        pki: TLS context for normal PKI validation.
        proxies: The HTTP proxy towards the internet.
        addresses_of: Returns the addresses of a host.
        accept_token: Called with a token that the server has accepted instead of :meth:`Store.keep_token`, where other
            instances change the tokens, too.

    Attributes:
        alone: Whether nobody else changes tokens in the store. A server to which an instance came with the token that
            another one has replaced would report a second copy of our state.
    """

    def __init__(
        self,
        store: Store,
        transports: Mapping[str, Transport],
        pki: ssl.SSLContext,
        *,
        proxies: Proxies | None = None,
        addresses_of: Callable[[str], Awaitable[list[str]]] | None = None,
        accept_token: Callable[[Pairing, AccessToken], Awaitable[None]] | None = None,
    ) -> None:
        self._keep = accept_token or store.keep_token
        self.alone = accept_token is None
        self._proxies = proxies or Proxies()
        self._addresses_of = addresses_of
        self._store = store
        self._transports = transports
        self._pki = pki
        self._contexts: dict[bytes, ssl.SSLContext] = {}
        self._standard_only: set[PairKey] = set()
        self._versions = KnownVersions()
        # The only token that the store has for a pairing: the next session is initiated without reading it again.
        self._tokens: dict[tuple[PairKey, float], AccessToken] = {}

    def trust(self, pki: ssl.SSLContext) -> None:
        """Use another context for normal PKI validation from the next request on."""
        self._pki = pki

    async def destination(self, pairing: Pairing, url: BaseUrl, address: str | None) -> Destination:
        """Return the destination of requests to the server of a pairing (TRUST-06, TRUST-07).

        Where only the fingerprint of its CA is known yet, the chain is fetched once, compared and stored.
        """
        pin = pairing.pin
        if pin is None:
            return Destination(self._pki, address, self._proxies.towards(url.host) if address is None else None)
        if pin.ca_der is None:
            pin = await self._complete(pairing, pin, url, address)
        assert pin.ca_der is not None
        context = self._contexts.get(pin.ca_fingerprint)
        if context is None:
            if len(self._contexts) >= MAX_CONTEXTS:
                self._contexts.pop(next(iter(self._contexts)))
            context = self._contexts[pin.ca_fingerprint] = pinned_client_context(pin.ca_der)
        return Destination(context, address)

    async def _complete(self, pairing: Pairing, pin: Pin, url: BaseUrl, address: str | None) -> Pin:
        await load_in_thread("s2connect.certs.chain")
        from s2connect.certs.chain import capture_chain

        chain = await capture_chain(url.host, url.port, address=address, timeout=CONNECT_TIMEOUT)
        name = for_display(url.host, 100)
        agreed = pin.ca_fingerprint
        if chain.ca_fingerprint is None or not hmac.compare_digest(chain.ca_fingerprint, agreed):
            if chain.ca_fingerprint is None or not hmac.compare_digest(chain.leaf_fingerprint, agreed):
                raise CertificateRefused(
                    f"{name} shows another certificate authority than the one that was agreed on when pairing.",
                    reason="pin",
                    hint="If that device was set up anew, pair it again; otherwise somebody sits in between.",
                )
            # Only the holder of that leaf's key can show its root, as in a pairing with a server (TRUST-06).
            _log.warning(
                "%s gave the fingerprint of its certificate when pairing, not that of its certificate authority; the "
                "authority that it shows with that certificate is pinned",
                name,
            )
        completed = Pin(chain.ca_fingerprint, chain.ca_der)
        await self._store.set_pin(pairing, completed)
        return completed

    async def open(
        self, endpoint: LocalEndpoint, node: LocalNode, pairing: Pairing, *, address: str | None = None
    ) -> tuple[Connection, InitiateSessionResponse]:
        """Go through session initiation once and connect (SESC). Returns the server's answer, too.

        The new access token is durable before it is confirmed, and the old one is kept until the server has answered.

        Raises:
            NoLongerPaired: The peer has removed the pairing; do not retry.
            AccessRefused: It accepts none of our tokens; retry after hours.
            NotPaired: The pairing was removed or replaced meanwhile.
            SessionRefused, NetworkError, TrustError, PeerError, StorageError: Retry later.
        """
        url = pairing.initiate_session_url
        assert url is not None, "only a communication client opens sessions"
        destination = await self.destination(pairing, url, address)
        names = tuple(name for name in node.communication_protocols if name in self._transports)
        if names != node.communication_protocols:
            node = replace(node, communication_protocols=names)
        async with HttpsClient(destination) as http:
            ca = None if pairing.pin is None else pairing.pin.ca_fingerprint
            now = asyncio.get_running_loop().time()
            known = self._versions.get(url, ca, now=now)
            version = known or await http.api_version(url)
            try:
                accepted = await self._accepted(http, url, version, endpoint, node, pairing)
            except ProtocolViolation as error:
                self._versions.forget(url, ca)
                if known is None or not isinstance(error, VersionGone):
                    raise
                known, version = None, await http.api_version(url)
                accepted = await self._accepted(http, url, version, endpoint, node, pairing)
            if known is None and not http.without_index:
                self._versions.remember(url, ca, version, now=now)
            token = accepted.access_token
            await self._store.add_pending_token(pairing, token)
            reply = await http.post(url, version, "confirmAccessToken", bearer=token, timeout=CONFIRM_TIMEOUT)
            details = read_confirm_answer(reply.status, reply.body, protocol=accepted.selected_communication_protocol)
            if details.communication_protocol == WEBSOCKET:
                details = _for_websocket(details)
            try:
                await self._keep(pairing, token)
                if self.alone:
                    while len(self._tokens) >= MAX_TOKENS:
                        del self._tokens[next(iter(self._tokens))]
                    self._tokens[pairing.key, pairing.paired_at] = token
            except StorageError as error:
                # Both tokens stay; the next initiation tries them in turn (SESC-03).
                _log.warning("the old access token could not be removed: %s", error.kind)
            kept = http.release()
        protocol, s2_version = accepted.selected_communication_protocol, accepted.selected_s2_message_version
        info = ConnectionInfo(protocol, pairing.key.local, pairing.key.remote, s2_version, f"{url.host}:{url.port}")
        try:
            trust = await self._trust(url, destination, details, kept)
            return await _connected(lambda: self._transports[protocol].connect(info, details, trust), kept), accepted
        finally:
            if kept is not None:
                kept.close()

    async def _trust(
        self, url: BaseUrl, destination: Destination, details: CommunicationDetails, kept: KeptConnection | None
    ) -> Trust:
        """Return the trust for the WebSocket, which may be on another host, with its own address or proxy."""
        host = details.websocket_url.host if isinstance(details, WebSocketCommunicationDetails) else None
        if host is None or host == url.host:
            return Trust(destination.context, destination.address, destination.proxy, kept)
        addresses = await self._addresses_of(host) if self._addresses_of is not None else []
        if addresses:
            return Trust(destination.context, addresses[0], None)
        return Trust(
            destination.context, None, self._proxies.towards(host) if destination.context is self._pki else None
        )

    async def _accepted(
        self, http: HttpsClient, url: BaseUrl, version: str, endpoint: LocalEndpoint, node: LocalNode, pairing: Pairing
    ) -> InitiateSessionResponse:
        """Initiate with all protocols of ours, or the standard's alone where the server knows no other name (MQ-01)."""
        plain = node.standard_only()
        node = plain if pairing.key in self._standard_only else node
        try:
            return await self._initiate(http, url, version, endpoint, node, pairing)
        except (SessionRefused, PeerBusy, ProtocolViolation) as error:
            if plain == node or isinstance(error, VersionGone) or not stumbled_over_protocol(error):
                raise
        accepted = await self._initiate(http, url, version, endpoint, plain, pairing)
        _log.info("%s does not support every protocol name of ours", pairing.key.remote)
        self._standard_only.add(pairing.key)
        return accepted

    async def _initiate(
        self, http: HttpsClient, url: BaseUrl, version: str, endpoint: LocalEndpoint, node: LocalNode, pairing: Pairing
    ) -> InitiateSessionResponse:
        request = InitiateSession(
            client_node_id=pairing.key.local,
            server_node_id=pairing.key.remote,
            supported_s2_message_versions=node.s2_versions,
            supported_communication_protocols=node.communication_protocols,
            client_node_description=node.description,
            client_endpoint_description=endpoint.description,
        )

        async def ask(token: AccessToken) -> InitiateSessionResponse | None:
            reply = await http.post(url, version, "initiateSession", request, bearer=token, timeout=INITIATE_TIMEOUT)
            protocols, versions = node.communication_protocols, node.s2_versions
            return read_initiate_answer(
                reply.status, reply.body, offered_protocols=protocols, offered_versions=versions
            )

        kept = self._tokens.pop((pairing.key, pairing.paired_at), None)
        if kept is not None and (accepted := await ask(kept)) is not None:
            return accepted
        candidates = await self._store.candidate_tokens(pairing)
        for token in candidates:
            if (accepted := await ask(token)) is not None:
                if len(candidates) > 1:
                    await self._keep(pairing, token)
                return accepted
        raise AccessRefused(f"{for_display(pairing.peer.title)} does not accept our access.")

    async def unpair(self, pairing: Pairing, tokens: list[AccessToken], *, address: str | None = None) -> None:
        """End the pairing at the communication server (UNP-01). Returns also when there was none on that side."""
        url = pairing.initiate_session_url
        assert url is not None, "only a communication client calls unpair"
        destination = await self.destination(pairing, url, address)
        body = Unpair(client_node_id=pairing.key.local, server_node_id=pairing.key.remote)
        async with HttpsClient(destination) as http:
            version = await http.api_version(url)
            for token in tokens:
                reply = await http.post(url, version, "unpair", body, bearer=token)
                if succeeded(reply.status):
                    return
                if reply.status != 401:
                    raise ProtocolViolation(f"The other side answered the unpairing with HTTP {reply.status}.")


def _for_websocket(details: CommunicationDetails) -> CommunicationDetails:
    try:
        return WebSocketCommunicationDetails.from_value(details.to_value())
    except MalformedMessage:
        return details  # the transport refuses it


async def _connected(connect: Callable[[], Awaitable[Connection]], kept: KeptConnection | None) -> Connection:
    """Connect as offered; repeat where a busy server cuts the connection, because the offer stays valid.

    So it does where a server takes no WebSocket on the connection of the requests, and ends that.
    """
    if kept is not None:
        try:
            return await connect()
        except NotReachable as error:
            if not kept.taken and not error.cut:
                raise
    for _ in range(UPGRADE_TRIES - 1):
        try:
            return await connect()
        except NotReachable as error:
            if not error.cut:
                raise
        await asyncio.sleep(UPGRADE_PAUSE * (0.5 + random.random()))  # noqa: S311 - spreads load, guards nothing
    return await connect()


def with_descriptions(pairing: Pairing, answer: InitiateSessionResponse) -> Pairing:
    """Return the pairing with the server's present descriptions; one of another node changes nothing."""
    node, described = answer.server_node_description, answer.server_endpoint_description
    if node is None or (node.id, node.role) != (pairing.peer.id, pairing.peer.role):
        node = pairing.peer
    return replace(pairing, peer=node, peer_endpoint=described or pairing.peer_endpoint)
