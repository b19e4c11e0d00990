"""HTTPS around the communication server's core."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol
from weakref import WeakValueDictionary

from aiohttp import web

from s2connect.errors import NotPaired, StorageUnavailable
from s2connect.https.server import Handler, HttpsServer, answer, bearer, bearer_proved, read_body
from s2connect.model.common import WEBSOCKET, NodeId
from s2connect.model.local import LocalEndpoint
from s2connect.model.log_context import current_peer
from s2connect.model.log_limiter import LogLimiter
from s2connect.model.reply import UNAUTHORIZED, Reply
from s2connect.model.secret import TOKEN_ENTROPY, AccessToken
from s2connect.model.session_init import (
    CommunicationDetails,
    CommunicationDetailsErrorMessage,
    InitiateSession,
    SessionErrorReason,
    Unpair,
)
from s2connect.session.ownership import Claim
from s2connect.session.server_core import (
    Accepted,
    Activation,
    Holder,
    LedTo,
    SessionServer,
    authorised,
    key_of,
    read_request,
    refusal,
    with_unknown_token,
)
from s2connect.session.shared import MemorySessions, SharedSessions, TakenOffer
from s2connect.store.base import Pairing, PairKey, Store
from s2connect.supervisor import Supervisor
from s2connect.transports.base import INTERNAL_ERROR, Connection, ConnectionInfo, Transport

_log = logging.getLogger(__name__)


PREPARED_WITHIN = 8.0
"""Seconds to prepare a session while its client waits for the WebSocket: clients wait for ten and longer."""

UNKNOWN_CHANGES = -1
"""Number of changes that is never the present one, so that the pairing is read again."""


class SessionManager(Protocol):
    """Interface of session initiation to the endpoint."""

    async def admit(self, pairing: Pairing, s2_version: str, protocol: str | None = None) -> str | LedTo | None:
        """Return None if node and application are ready for a session, otherwise a sentence for the peer's user.

        With the ``protocol`` of a session that is requested, it may be at another instance that they will be.
        """

    def holder(self, pairing: Pairing, led_to: LedTo | None) -> Holder | None:
        """Return the instance that a client is led to, or this one where what :meth:`admit` has prepared is here alone.

        None where any takes over.
        """

    def prepares(self) -> bool:
        """Return whether :meth:`admit` prepares sessions of any node."""

    def token_unknown(self, pairing: Pairing, digest: bytes | None) -> None:
        """Note that a paired client presented a token that is not that of its pairing, which has this digest."""

    def token_known(self, pairing: Pairing) -> None:
        """Note that a client presented the token of its pairing."""

    def is_full(self, node: NodeId) -> bool:
        """Return whether the queue of sessions for a node's application is full; further ones are refused early."""

    async def settle(self, pairing: Pairing) -> Pairing:
        """Confirm an unconfirmed pairing whose token was presented (PAIRC-06); NotPaired if it is gone meanwhile."""

    def changes(self, node: NodeId) -> int:
        """Return a number that is another one once a pairing of the node has ended or was replaced."""

    async def opened(self, connection: Connection, pairing: Pairing, changes: int, claim: Claim | None = None) -> None:
        """Take over the connection of a client that presented a token of a pairing, which stood at these changes.

        ``claim`` is that of this instance to the session, where it has one already.
        """

    async def unpaired_by_peer(self, pairing: Pairing) -> None:
        """Unpair for the communication client: remove the pairing with a tombstone, close the session (SES-05)."""


@dataclass(eq=False)
class SessionService:
    """The session initiation API of one endpoint."""

    _shared: SharedSessions
    _endpoint: Callable[[], LocalEndpoint]
    _store: Store
    _manager: SessionManager
    _transports: Mapping[str, Transport]
    _supervisor: Supervisor
    _wall_time: Callable[[], float] = time.time

    def mount(self, server: HttpsServer, base_path: str) -> None:
        """Add the routes under a base path that ends with a slash (VER-03)."""
        self._server = server
        self._malformed_requests = LogLimiter()
        self._offered: WeakValueDictionary[PairKey, asyncio.Future[Connection]] = WeakValueDictionary()
        server.add_index(base_path)
        for operation, handler in (
            ("initiateSession", self._initiate_session),
            ("confirmAccessToken", self._confirm_access_token),
            ("unpair", self._unpair),
        ):
            server.add_operation(base_path, operation, self._unless_storage_fails(handler))

    def _unless_storage_fails(self, handler: Handler) -> Handler:
        """Return a handler that asks clients to come again while a database that others use, too, is not there.

        What a store of this process alone cannot do is a fault of ours, a 500, for which the server is enough.
        """
        if isinstance(self._shared, MemorySessions):
            return handler

        async def served(request: web.Request) -> web.StreamResponse:
            try:
                return await handler(request)
            except StorageUnavailable as error:
                if (more := self._malformed_requests.due("storage", asyncio.get_running_loop().time())) is not None:
                    _log.error("a session request could not be answered: %s%s", error, more)
                return self._server.too_busy()

        return served

    async def _initiate_session(self, request: web.Request) -> web.Response:
        body = await read_body(request)
        message = read_request(InitiateSession, body)
        if isinstance(message, Reply):
            self._log_malformed(request, message)
            return answer(message.status, message.body)
        busy = self._server.begins_session(request)
        if busy is None and self._manager.is_full(message.server_node_id):
            busy = self._server.too_busy()
        if busy is not None:
            return busy
        endpoint = self._endpoint()
        offered = {name for name, transport in self._transports.items() if transport.can_offer()}
        while True:
            record = await self._store.record(key_of(message))
            token = bearer(request, AccessToken)
            now = self._wall_time()
            decision = SessionServer.initiate(endpoint, message, token, record, wall_time=now, offered=offered)
            if not isinstance(decision, Accepted):
                if decision is UNAUTHORIZED and (known := with_unknown_token(record, token)) is not None:
                    self._manager.token_unknown(*known)
                return answer(decision.status, decision.body)
            bearer_proved()
            self._manager.token_known(decision.pairing)
            try:
                reply = await self._accept(endpoint, decision)
            except NotPaired:
                continue  # removed or replaced meanwhile: what is there now decides
            return answer(reply.status, reply.body)

    def _log_malformed(self, request: web.Request, reply: Reply) -> None:
        said = reply.body.additional_info if isinstance(reply.body, CommunicationDetailsErrorMessage) else None
        operation = request.path.rpartition("/")[2]
        more = self._malformed_requests.due(operation, asyncio.get_running_loop().time())
        level = logging.INFO if more is None else logging.WARNING  # strangers must not fill the log
        _log.log(level, "%s of %s refused: %s%s", operation, request.remote, said, more or "")

    async def _accept(self, endpoint: LocalEndpoint, accepted: Accepted) -> Reply:
        """Process an accepted request. Raises NotPaired if its pairing was removed or replaced meanwhile."""
        pairing, message = accepted.pairing, accepted.message
        if not pairing.confirmed:
            pairing = await self._manager.settle(pairing)
        admitted = await self._manager.admit(pairing, accepted.s2_version, accepted.protocol)
        if isinstance(admitted, str):
            return refusal(SessionErrorReason.OTHER, admitted)
        node = message.client_node_description
        if node is not None and (node.id, node.role) != (pairing.peer.id, pairing.peer.role):
            node = None  # a description of another node is no update of this one
        described = message.client_endpoint_description
        if (node is not None and node != pairing.peer) or (
            described is not None and described != pairing.peer_endpoint
        ):
            await self._store.update_descriptions(pairing.key, node=node, endpoint=described)
            pairing = replace(pairing, peer=node or pairing.peer, peer_endpoint=described or pairing.peer_endpoint)
        accepted = replace(accepted, pairing=pairing)
        async with self._shared.issuing(pairing.key) as (core, now):
            holder = self._manager.holder(pairing, admitted)
            return core.issue(endpoint, accepted, now=now, entropy=os.urandom(TOKEN_ENTROPY), holder=holder)

    async def _confirm_access_token(self, request: web.Request) -> web.Response:
        await read_body(request)
        token = bearer(request, AccessToken)
        async with self._shared.confirming(token) as (core, now):
            decision = core.confirm(token, now=now)
            if isinstance(decision, Reply):
                return answer(decision.status)
            bearer_proved()
            changes = self._manager.changes(decision.pairing.key.local)
            key = decision.pairing.key
            info = ConnectionInfo(decision.protocol, key.local, key.remote, decision.s2_version, request.remote or "")
            try:
                details = await self._shared.activate(decision, info, self._wall_time())
            except NotPaired:
                return answer(UNAUTHORIZED.status)
            if details is None:
                details = self._offer_here(decision, info, changes, request)
        return answer(200, details)

    def _offer_here(
        self, activation: Activation, info: ConnectionInfo, changes: int, request: web.Request
    ) -> CommunicationDetails:
        """Offer a connection of this process, instead of an earlier one of the pair."""
        key = activation.pairing.key
        offer = self._transports[activation.protocol].offer(info)
        older = self._offered.get(key)
        if older is not None:
            older.cancel()  # a connection with it would displace the session of the newer pairing
        self._offered[key] = offer.connection
        if activation.protocol == WEBSOCKET:
            come = self._server.expect(request)
            offer.connection.add_done_callback(lambda _: come())
        self._supervisor.spawn(self._await_client(offer.connection, activation.pairing, changes), "offer", key.remote)
        return offer.details

    def prepares(self) -> bool:
        """Return whether sessions are prepared for their connections."""
        return self._manager.prepares()

    async def prepare(self, pairing: Pairing, s2_version: str) -> bool:
        """Prepare a session here whose client has come with an offer of another instance. Return whether it is ready.

        That instance may have led it here, or be gone. Where it has prepared it, it gives way, as to a new session.
        """
        if pairing.key.local not in self._endpoint().nodes:
            return False
        admitted: str | LedTo | None = "it takes too long"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PREPARED_WITHIN):
                admitted = await self._manager.admit(pairing, s2_version)
        more = "" if admitted is None else f", and cannot go on: {admitted}"
        _log.info("the session of %s begun at another instance came here%s", pairing.key.remote, more)
        return admitted is None

    def arrived(self, taken: TakenOffer, connection: Connection) -> None:
        """Hand over a connection of a shared offer, if its pairing still stands."""
        work = self._hand_over(connection, taken.pairing, UNKNOWN_CHANGES, taken.claim)
        self._supervisor.spawn(work, "offer", taken.pairing.key.remote)

    async def _await_client(self, arriving: asyncio.Future[Connection], pairing: Pairing, changes: int) -> None:
        current_peer.set(pairing.key.remote)  # of this task
        try:
            connection = await arriving
        except asyncio.CancelledError:
            if arriving.cancelled():
                return  # nobody came in time
            raise
        await self._hand_over(connection, pairing, changes)

    async def _hand_over(
        self, connection: Connection, pairing: Pairing, changes: int, claim: Claim | None = None
    ) -> None:
        current_peer.set(pairing.key.remote)  # of this task
        try:
            await self._manager.opened(connection, pairing, changes, claim)
        except BaseException:
            await connection.close(INTERNAL_ERROR)
            raise

    async def _unpair(self, request: web.Request) -> web.Response:
        body = await read_body(request)
        message = read_request(Unpair, body)
        if isinstance(message, Reply):
            self._log_malformed(request, message)
            return answer(message.status)
        key = key_of(message)
        pairing = authorised(await self._store.record(key), bearer(request, AccessToken), wall_time=self._wall_time())
        if pairing is None or key.local not in self._endpoint().nodes:
            return answer(UNAUTHORIZED.status)
        bearer_proved()
        await self._manager.unpaired_by_peer(pairing)
        return answer(204)
