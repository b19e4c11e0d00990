"""Pairing manager of an endpoint: codes of its nodes, and pairing with other endpoints."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from s2connect._lazy import load_in_thread
from s2connect.endpoint.pairings import Pairings
from s2connect.endpoint.state import EndpointState
from s2connect.errors import UsageError, WrongPairingCode
from s2connect.events import CodeWithdrawn, EventStream, PairingAnnounced, PairingAnnouncementCancelled, PairingFailed
from s2connect.https.client import HttpsClient
from s2connect.model.common import Deployment, NodeId
from s2connect.model.local import LocalNode
from s2connect.model.pairing import CancelPreparePairing, PreparePairing, WaitForPairingAction, WaitForPairingOrder
from s2connect.model.text import for_display
from s2connect.model.url import BaseUrl
from s2connect.pairing.code import (
    MAX_FAILED_ATTEMPTS,
    AfterFailure,
    PairingCode,
    PairingToken,
    TokenState,
    TokenTable,
)
from s2connect.pairing.interface import AttemptFailed, NoValidCode, PairingServerEvent, ReflectionRefused
from s2connect.pairing.server_core import PairingServer
from s2connect.pairing.shared import MemoryPairing, SharedPairing
from s2connect.store.base import Pairing

if TYPE_CHECKING:
    from s2connect.endpoint.certificate import CertificateManager

_HTTP_CLIENT = "s2connect.pairing.http_client"
"""Module loaded by pairing clients only: they look at certificates, for which a large library is needed."""


_WHY: Final[Mapping[TokenState, str]] = {
    "used": "the last one is spent, because a pairing was made with it",
    "expired": "the last one has expired",
    "withdrawn": "the last one was withdrawn",
}


LOOK_EVERY: Final = 5.0
"""Seconds between two looks at a code that is shown, where other instances may end it."""


@dataclass(frozen=True, slots=True)
class CodeStatus:
    """Pairing code of a node at one moment.

    Attributes:
        state: ``valid``, ``static``, ``none``, or how the last one ended: ``used``, ``expired`` or ``withdrawn``.
        static: Whether the node has a static code, also while a dynamic one counts instead.
        code: The code that is valid, if any.
    """

    state: TokenState
    static: bool
    code: PairingCode | None


class PairingManager:
    """Pairing codes of an endpoint's nodes, and pairing attempts, as initiator and as responder.

    Attributes:
        server: State of the attempts in which others pair with us.
        shared: The same, as it is shared with other instances where there are any.
    """

    def __init__(self, state: EndpointState, pairings: Pairings, certificates: CertificateManager) -> None:
        self.server = PairingServer(
            lambda: state.local, session_url=state.session_url, wan_clients_only=state.config.wan_pairing_server
        )
        self.shared: SharedPairing = MemoryPairing(self.server)
        if state.shared is not None:
            self.shared = state.shared.pairing(
                self.server,
                report=self.attempt_failed,
                static_token=self.kept_static_token,
                supervisor=state.supervisor,
            )
        self._state = state
        self._pairings = pairings
        self._certificates = certificates
        self.first_readings: dict[tuple[NodeId, NodeId], EventStream] = {}
        """Node, and device that waits at it, with the first of two readings of a code: where its failure goes."""

    @property
    def ca_fingerprint(self) -> bytes | None:
        """Fingerprint of our own CA, None where we have none."""
        return self._certificates.ca_fingerprint

    # Codes

    def issue_code(self, local: LocalNode, token: PairingToken, lifetime: float | None = None) -> PairingCode:
        """Issue a dynamic code; a static one without ``lifetime``. Only where one process has all codes."""
        self.own_tokens(local.id, "new_pairing_code()").issue(token, now=_now(), lifetime=lifetime)
        return PairingCode(token, local.alias, lifetime)

    async def new_code(self, local: LocalNode, token: PairingToken, lifetime: float | None = None) -> PairingCode:
        """Issue a dynamic code; a static one without ``lifetime``."""
        async with self.shared.codes(local.id) as (tokens, now):
            tokens.issue(token, now=now, lifetime=lifetime)
        return PairingCode(token, local.alias, lifetime)

    async def code_to_show(self, local: LocalNode, lifetime: float) -> PairingCode:
        """Return a new dynamic code, or the one that another instance has issued and that counts."""
        if self._state.shared is None:
            return await self.new_code(local, PairingToken.generate(), lifetime)
        return await self.current_or_new_code(local, lifetime, static=False)

    async def current_or_new_code(
        self, local: LocalNode, lifetime: float, *, left: float = 0.0, static: bool = True
    ) -> PairingCode:
        """Return the code that counts, or a new dynamic one where there is none with so many seconds ``left``.

        It is one step: whoever else asks at the same moment, at any instance, gets the same code. Without ``static``
        the dynamic one takes the place of a static one.
        """
        async with self.shared.codes(local.id) as (tokens, now):
            found = _valid(local, tokens, now)
            if found is None or (not static if found.expires_in is None else found.expires_in < left):
                issued = tokens.issue(PairingToken.generate(), now=now, lifetime=lifetime)
                found = PairingCode(issued.token, local.alias, lifetime)
        return found

    def look_again(self, shown: PairingCode | None) -> float | None:
        """Return the seconds until a code that is shown may count no more; None for never, unless an event says so."""
        left = None if shown is None else shown.expires_in
        if self._state.shared is None:
            return left
        return LOOK_EVERY if left is None else min(left, LOOK_EVERY)  # others tell nobody here

    def own_tokens(self, node: NodeId, instead: str) -> TokenTable:
        """Return the tokens of a node where they are in this process; UsageError otherwise, which names ``instead``."""
        if not isinstance(self.shared, MemoryPairing):
            raise UsageError(
                "The pairing codes of this endpoint are in a database that it shares with other instances.",
                hint=f"Use: await node.{instead}",
            )
        return self.server.tokens(node)

    async def set_static_code(self, local: LocalNode, token: str | None) -> PairingCode:
        """Give a node a static code, which survives restarts."""
        chosen = token_of(token)
        code = await self.new_code(local, chosen)
        await asyncio.to_thread(self._state.vault.put, static_name(local.id), chosen.reveal().encode("ascii"))
        return code

    async def restore_static_code(self, local: LocalNode) -> None:
        """Issue the static code of a node again after a start, if it has one; StorageError if it cannot be read."""
        if (token := await self.kept_static_token(local.id)) is not None:
            async with self.shared.codes(local.id) as (tokens, now):
                if not tokens.has_static:  # others, which run already, may have issued it
                    tokens.issue(token, now=now, lifetime=None)

    async def kept_static_token(self, node: NodeId) -> PairingToken | None:
        """Return the token of a node's static code as it is kept; StorageError if it cannot be read."""
        token = await asyncio.to_thread(self._state.vault.get, static_name(node))
        return None if token is None else PairingToken(token.decode("ascii"))

    async def forget(self, node: NodeId) -> None:
        """Withdraw the codes of a node that is removed, and end the attempts on it."""
        await self.shared.forget(node)
        await asyncio.to_thread(self._state.vault.delete, static_name(node))

    async def code_statuses(self, nodes: Collection[LocalNode]) -> dict[NodeId, CodeStatus]:
        """Return the states of the pairing codes of nodes, and the codes."""
        tables, now = await self.shared.tables([local.id for local in nodes])
        return {local.id: _status(local, tables[local.id], now) for local in nodes}

    async def withdraw_code(self, local: LocalNode) -> None:
        """Withdraw the dynamic code."""
        async with self.shared.codes(local.id) as (tokens, _):
            tokens.withdraw()

    def valid_code(self, local: LocalNode) -> PairingCode | None:
        """Return the code that is valid now: the dynamic one, otherwise the static one."""
        return _valid(local, self.own_tokens(local.id, "current_pairing_code()"), _now())

    def has_static_code(self, local: LocalNode) -> bool:
        """Return whether a node has a static code."""
        return self.own_tokens(local.id, "code_status()").has_static

    def code_state(self, local: LocalNode) -> TokenState:
        """Return the state of the node's pairing code."""
        return self.own_tokens(local.id, "code_status()").state(now=_now())

    def attempt_failed(self, event: PairingServerEvent) -> None:
        """Publish a failed pairing attempt on one of our nodes."""
        match event:
            case AttemptFailed():
                failed = PairingFailed(node=event.node, peer=event.peer, reason=event.reason)
                first = self.first_readings.get((event.node, event.peer.id))
                (first or self._state.events).publish(failed)
                self._code_after(event.node, event.code_after)
            case NoValidCode():
                name = self._name(event.node)
                times = f" ({event.count} times)" if event.count > 1 else ""
                why = _WHY.get(event.state, "none was made")
                self._state.notice(
                    "no_valid_code",
                    f"Somebody wanted to pair with {name}{times}, which has no valid code: {why}. Make a new one with: "
                    "s2connect code",
                )
            case ReflectionRefused():
                self._state.notice(
                    "pairing_attack",
                    f"Somebody at {for_display(event.address, 60)} tries to pair with {self._name(event.node)} without "
                    f"its code, by sending our own challenges back; refused ({event.count} times).",
                )

    def _name(self, node: NodeId) -> str:
        known = self._state.local.nodes.get(node)
        return for_display(known.description.title, 60) if known is not None else str(node)

    def _code_after(self, node: NodeId, after: AfterFailure) -> None:
        if after is AfterFailure.WITHDRAWN:
            self._state.events.publish(CodeWithdrawn(node=node))
        elif after is AfterFailure.TELL:
            self._state.notice(
                "code_attacked",
                f"{MAX_FAILED_ATTEMPTS} attempts to pair with {self._name(node)} have failed; its code still counts. "
                "If nobody here has mistyped it, somebody in the network is trying codes.",
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
        """Pair a node as initiator and pairing client; arguments and errors as of ``Node.pair``."""
        if address is not None:
            self._state.resolver.add(url.host, address)
        await load_in_thread(_HTTP_CLIENT)
        from s2connect.pairing import http_client

        lan = self._state.config.deployment is Deployment.LAN
        return await http_client.pair(
            self._state.local,
            local,
            url,
            code,
            pairings=self._pairings,
            pki=self._state.pki,
            session_url=self._state.session_url() if self._state.port and self._state.config.server else None,
            ca_fingerprint=self._certificates.ca_fingerprint if lan else None,
            addresses=await self._state.resolver.resolve(url.host),
            self_signed=not self._state.config.connects_to_internet_only,
            proxy=self._state.proxies.towards(url.host),
            server_node=server_node,
            force=force,
            wall_time=self._state.wall_time,
        )

    async def announce(
        self, local: LocalNode, url: BaseUrl, server_node: NodeId, *, address: str | None, cancel: bool
    ) -> None:
        """Announce a pairing to a LAN endpoint, or cancel the announcement (LAN-03, LAN-04)."""
        from s2connect.pairing import lan_http

        async with self.unpaired(url, address) as http:
            if cancel:
                await lan_http.announce(
                    http, url, CancelPreparePairing(client_node_id=local.id, server_node_id=server_node)
                )
                return
            message = PreparePairing(
                client_node_description=local.description,
                client_endpoint_description=self._state.local.description,
                server_node_id=server_node,
            )
            await lan_http.announce(http, url, message)

    @contextlib.asynccontextmanager
    async def unpaired(self, url: BaseUrl, address: str | None) -> AsyncIterator[HttpsClient]:
        """Connect to a server before pairing: nothing secret may be sent to it."""
        await load_in_thread(_HTTP_CLIENT)
        from s2connect.pairing import http_client

        local = not self._state.config.connects_to_internet_only
        addresses = [address] if address is not None and local else await self._state.resolver.resolve(url.host)
        _, destination = await http_client.authenticate(url, self._state.pki, addresses=addresses, self_signed=local)
        async with HttpsClient(destination) as http:
            yield http

    # A device of ours that waits at an energy manager

    def follow_order(self, order: WaitForPairingOrder, url: BaseUrl) -> None:
        """Follow the order of an energy manager at which a device of ours waits (LP-04)."""
        node = order.client_node_id
        match order.action:
            case WaitForPairingAction.PREPARE_PAIRING:
                self._state.events.publish(PairingAnnounced(node=node, peer=None, peer_endpoint=None, url=url))
            case WaitForPairingAction.CANCEL_PREPARE_PAIRING:
                self._state.events.publish(PairingAnnouncementCancelled(node=node, peer=None, url=url))
            case WaitForPairingAction.REQUEST_PAIRING:
                pairing = self._pair_as_responder(self._state.local.nodes[node], url)
                self._state.supervisor.spawn(pairing, "long-poll-pairing")

    def has_valid_token(self, node: NodeId) -> bool:
        return self.server.tokens(node).valid(now=_now()) is not None

    async def _pair_as_responder(self, local: LocalNode, url: BaseUrl) -> None:
        """Pair a node as responder and pairing client, with the code it has issued itself (LP-05, ROLE-03 b)."""
        issued = self.server.tokens(local.id).valid(now=_now())
        if issued is None:
            return
        try:
            await self.pair(local, url, PairingCode(issued.token))
        except WrongPairingCode:
            self._code_after(local.id, self.server.tokens(local.id).failed(issued))
            raise
        self.server.tokens(local.id).spend(issued)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _status(local: LocalNode, tokens: TokenTable, now: float) -> CodeStatus:
    return CodeStatus(tokens.state(now=now), tokens.has_static, _valid(local, tokens, now))


def _valid(local: LocalNode, tokens: TokenTable, now: float) -> PairingCode | None:
    issued = tokens.valid(now=now)
    if issued is None:
        return None
    left = issued.expires_at - now if issued.expires_at is not None else None
    return PairingCode(issued.token, local.alias, left)


def token_of(text: str | None) -> PairingToken:
    """Return the token that a user has chosen, or a new one; errors as of ``PairingCode.parse``."""
    return PairingToken.generate() if text is None else PairingCode.chosen(text)


def static_name(node: NodeId) -> str:
    """Return the name of the vault's entry with the static code of a node."""
    return f"static-code-{node}"
