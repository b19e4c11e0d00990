"""Pairing manager of an endpoint: codes of its nodes, pairing with other endpoints, devices that long-poll here."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Protocol

from s2connect.endpoint.config import EndpointConfig
from s2connect.endpoint.pairings import Pairings
from s2connect.endpoint.resolver import Resolver
from s2connect.errors import NotReachable, PairingExpired, PairingRefused, S2ConnectError, WrongPairingCode
from s2connect.events import CodeMissingAtDevice, CodeWithdrawn, EventHub, Notice, Paired, PairingFailed
from s2connect.https.client import HttpsClient
from s2connect.model.common import Deployment, EndpointDescription, NodeDescription, NodeId
from s2connect.model.local import LocalEndpoint, LocalNode
from s2connect.model.pairing import WaitForPairingAction, WaitForPairingError
from s2connect.model.proxy import Proxies
from s2connect.model.text import for_display
from s2connect.model.url import BaseUrl
from s2connect.pairing import http_client
from s2connect.pairing.code import MAX_FAILED_ATTEMPTS, AfterFailure, PairingCode, PairingToken
from s2connect.pairing.manager import AttemptFailed, PairingServerEvent, ReflectionRefused
from s2connect.pairing.server_core import PairingServer
from s2connect.store.base import Pairing, PairKey, Store, Vault
from s2connect.supervisor import Supervisor

if TYPE_CHECKING:
    from s2connect.endpoint.local_network import LocalNetwork

LONG_POLL_PATIENCE = 5.0
"""Seconds after the end of the user's patience until what was typed for a waiting device is withdrawn."""


FAILURE_GRACE = 3.0
"""Seconds after a first failed attempt in which the expected device may still succeed."""


class Owner(Protocol):
    """Interface of pairing to the endpoint."""

    @property
    def ca_fingerprint(self) -> bytes | None:
        """SHA-256 of our own CA certificate, if the endpoint is its own CA."""


class PairingManager:
    """Pairing manager of an endpoint's nodes, as initiator and as responder; pairings are stored through the book.

    Args:
        config: Settings of the endpoint, but for its nodes.
        local: The endpoint with its nodes, as it is now.
        owner: The endpoint.
        supervisor: Owns the tasks.
        server: Who answers those that pair with us.
        book: Who keeps the pairings.
        store: Where they are.
        vault: Where static codes are.
        events: Where it is told what happens.
        resolver: Who knows where other endpoints are.
        proxies: The HTTP proxy towards the internet.
        pki: Context for normal PKI validation.
        session_url: Base URL of session initiation, None where there is no server.
    """

    def __init__(
        self,
        config: EndpointConfig,
        local: Callable[[], LocalEndpoint],
        owner: Owner,
        *,
        supervisor: Supervisor,
        server: PairingServer,
        book: Pairings,
        store: Store,
        vault: Vault,
        events: EventHub,
        resolver: Resolver,
        proxies: Proxies,
        pki: ssl.SSLContext,
        session_url: Callable[[], BaseUrl | None],
    ) -> None:
        self._config = config
        self._local = local
        self._owner = owner
        self._supervisor = supervisor
        self._server = server
        self._book = book
        self._store = store
        self._vault = vault
        self._events = events
        self._resolver = resolver
        self._proxies = proxies
        self._pki = pki
        self._session_url = session_url
        self._lan: LocalNetwork | None = None

    def open_to(self, lan: LocalNetwork) -> None:
        """Devices may wait here: in this network."""
        self._lan = lan

    # Codes

    def issue_code(self, local: LocalNode, token: str | None, lifetime: float | None) -> PairingCode:
        """See :meth:`Node.issue_pairing_code`."""
        return self._issue(local, _token(token), lifetime)

    def _issue(self, local: LocalNode, token: PairingToken, lifetime: float | None) -> PairingCode:
        return self._server.issue_code(local, token, now=_now(), lifetime=lifetime)

    async def set_static_code(self, local: LocalNode, token: str | None) -> PairingCode:
        """See :meth:`Node.set_static_code`."""
        chosen = _token(token)
        code = self._issue(local, chosen, None)
        await asyncio.to_thread(self._vault.put, _static_name(local.id), chosen.reveal().encode("ascii"))
        return code

    async def restore_static_code(self, local: LocalNode) -> None:
        """Let the static code of a node count again, if it has one.

        Raises:
            StorageError: It cannot be read.
        """
        token = await asyncio.to_thread(self._vault.get, _static_name(local.id))
        if token is not None:
            self._issue(local, PairingToken(token.decode("ascii")), None)

    def valid_code(self, local: LocalNode) -> PairingCode | None:
        """See :meth:`Node.valid_pairing_code`."""
        now = _now()
        issued = self._server.own_token(local.id, now=now)
        if issued is None:
            return None
        left = issued.expires_at - now if issued.expires_at is not None else None
        return PairingCode(issued.token, local.alias, left)

    def withdraw_code(self, node: NodeId) -> None:
        """See :meth:`Node.withdraw_pairing_code`."""
        self._server.withdraw_code(node)

    def attempt_failed(self, event: PairingServerEvent) -> None:
        """Publish a failed pairing attempt on one of our nodes."""
        match event:
            case AttemptFailed():
                self._events.publish(PairingFailed(node=event.node, peer=event.peer, reason=event.reason))
                self._code_after(event.node, event.code_after)
            case ReflectionRefused():
                self._events.publish(
                    Notice(
                        kind="pairing_attack",
                        sentence=f"Somebody at {for_display(event.address, 60)} tries to pair with {event.node} "
                        f"without its code, by sending our own challenges back; refused ({event.count} times).",
                    )
                )

    def _code_after(self, node: NodeId, after: AfterFailure) -> None:
        match after:
            case AfterFailure.WITHDRAWN:
                self._events.publish(CodeWithdrawn(node=node))
            case AfterFailure.TELL:
                self._events.publish(
                    Notice(
                        kind="code_attacked",
                        sentence=f"{MAX_FAILED_ATTEMPTS} attempts to pair with {node} have failed; its code still "
                        "counts. If nobody here has mistyped it, somebody in the network is trying codes.",
                    )
                )

    # Initiator

    async def pair(
        self,
        local: LocalNode,
        url: BaseUrl,
        code: PairingCode,
        *,
        address: str | None = None,
        server_node: NodeId | None = None,
        force: bool = False,
    ) -> Pairing:
        """See :meth:`Node.pair`."""
        if address is not None:
            self._resolver.know(url.host, address)
        lan = self._config.deployment is Deployment.LAN
        return await http_client.pair(
            self._local(),
            local,
            url,
            code,
            manager=self._book,
            pki=self._pki,
            session_url=self._session_url(),
            ca_fingerprint=self._owner.ca_fingerprint if lan else None,
            addresses=await self._resolver.of(url.host),
            self_signed=not self._config.connects_to_internet_only,
            proxy=self._proxies.towards(url.host),
            server_node=server_node,
            force=force,
        )

    async def look_at(
        self, url: BaseUrl, *, address: str | None = None
    ) -> tuple[EndpointDescription, list[NodeDescription]]:
        """See :meth:`Endpoint.look_at`."""
        from s2connect.pairing.lan_http import get_endpoint, get_nodes

        async with self._stranger(url, address) as http:
            version = await http.api_version(url)
            return await get_endpoint(http, url, version), await get_nodes(http, url, version)

    async def announce(
        self, local: LocalNode, url: BaseUrl, server_node: NodeId, *, address: str | None, cancel: bool
    ) -> None:
        """See :meth:`Node.announce_pairing` and :meth:`Node.cancel_announcement`."""
        from s2connect.pairing.lan_http import cancel_prepare_pairing, prepare_pairing

        async with self._stranger(url, address) as http:
            version = await http.api_version(url)
            if cancel:
                await cancel_prepare_pairing(http, url, version, node=local.id, server_node=server_node)
            else:
                own = self._local().description
                await prepare_pairing(http, url, version, node=local.description, endpoint=own, server_node=server_node)

    @contextlib.asynccontextmanager
    async def _stranger(self, url: BaseUrl, address: str | None) -> AsyncIterator[HttpsClient]:
        """A connection to a server before pairing: nothing secret may be sent on it."""
        internet_only = self._config.connects_to_internet_only
        known = address is not None and not internet_only
        addresses = [address] if known and address is not None else await self._resolver.of(url.host)
        _, route = await http_client.authenticate(url, self._pki, addresses=addresses, self_signed=not internet_only)
        async with HttpsClient(route) as http:
            yield http

    # Devices that wait here

    def waiting(self) -> list[NodeDescription]:
        """See :meth:`Endpoint.waiting`."""
        return self._lan.waiting() if self._lan is not None else []

    def announce_waiting(self, peer: NodeId, *, cancel: bool) -> None:
        """See :meth:`Endpoint.announce_waiting`."""
        actions = WaitForPairingAction
        self._ask(peer, actions.CANCEL_PREPARE_PAIRING if cancel else actions.PREPARE_PAIRING)

    def _ask(self, peer: NodeId, action: WaitForPairingAction) -> None:
        if self._lan is None:
            raise NotReachable("The device does not wait here.")
        self._lan.ask(peer, action)

    async def pair_waiting(self, local: LocalNode, peer: NodeId, code: PairingCode, *, timeout: float) -> Pairing:
        """See :meth:`Node.pair_waiting`."""
        self._server.expect(local, peer, code.token, now=_now(), lifetime=timeout + LONG_POLL_PATIENCE)
        news = self._events.follow()
        failure: S2ConnectError | None = None
        try:
            self._ask(peer, WaitForPairingAction.REQUEST_PAIRING)
            async with asyncio.timeout(timeout) as patience:
                async for event in news:
                    match event:
                        case Paired() if event.node == local.id and event.peer.id == peer:
                            made = await self._store.pairings_of(PairKey(local.id, peer))
                            return made[0]
                        case PairingFailed() if event.node == local.id and event.peer.id == peer:
                            failed: S2ConnectError = WrongPairingCode("The code is not the one of the device.")
                        case CodeMissingAtDevice() if event.peer == peer:
                            failed = PairingRefused(
                                "The device has no valid pairing code now.",
                                reason=WaitForPairingError.NO_VALID_TOKEN_ON_PAIRING_CLIENT.value,
                                hint="Ask for a new code at the device.",
                            )
                        case _:
                            continue
                    # Anyone in the network can fail in the device's name; the device itself may still succeed.
                    if failure is None:
                        failure = failed
                        patience.reschedule(min(patience.when() or 0.0, _now() + FAILURE_GRACE))
        except TimeoutError as error:
            if failure is not None:
                raise failure from None
            raise PairingExpired("The device did not come to be paired in time.") from error
        finally:
            self._events.leave(news)
            self._server.withdraw_expected(local.id, peer)
        raise NotReachable("This endpoint is stopping.")

    # A device that waits elsewhere

    def has_valid_token(self, node: NodeId) -> bool:
        """Return whether a node of ours has issued a code that is valid now (LP-05)."""
        return self._server.own_token(node, now=_now()) is not None

    def start_pairing(self, node: NodeId, url: BaseUrl) -> None:
        """Pair a node as responder and pairing client, with the code it has issued itself (LP-05, ROLE-03 b)."""
        self._supervisor.spawn(self._pair_as_responder(self._local().nodes[node], url), "long-poll-pairing")

    async def _pair_as_responder(self, local: LocalNode, url: BaseUrl) -> None:
        issued = self._server.own_token(local.id, now=_now())
        if issued is None:
            return
        try:
            await self.pair(local, url, PairingCode(issued.token))
        except WrongPairingCode:
            self._code_after(local.id, self._server.own_token_failed(local, issued))
            raise
        self._server.own_token_spent(local, issued)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _token(text: str | None) -> PairingToken:
    if text is None:
        return PairingToken.generate()
    return PairingCode.parse(text).token


def _static_name(node: NodeId) -> str:
    return f"static-code-{node}"
