"""Connector: opens the sessions of one node as communication client, again and again (SESC, REC)."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial

from s2connect.endpoint.connections import ConnectionManager, LiveConnection
from s2connect.endpoint.pairings import Pairings
from s2connect.endpoint.state import EndpointState
from s2connect.errors import (
    AccessRefused,
    NoLongerPaired,
    NotPaired,
    NotReachable,
    PeerBusy,
    S2ConnectError,
    SessionRefused,
    StorageError,
)
from s2connect.events import SessionFailed
from s2connect.model.common import NodeId
from s2connect.model.log_context import current_peer
from s2connect.model.text import for_display
from s2connect.session.client_core import refused_hint
from s2connect.session.http_client import SessionClient, with_descriptions
from s2connect.session.session import SessionEnd
from s2connect.store.base import Pairing, PairKey
from s2connect.transports.backoff import SHORT_SESSION, Backoff, after_refusal
from s2connect.transports.base import GOING_AWAY, Connection, Transport

_log = logging.getLogger(__name__)


class Connector:
    """Connects a node to the servers of its pairings."""

    def __init__(
        self, state: EndpointState, connections: ConnectionManager, pairings: Pairings, client: SessionClient
    ) -> None:
        self.connections = connections
        connections.keep_connected = self.keep_connected
        self._state = state
        self._pairings = pairings
        self._client = client

    async def keep_connected(self, key: PairKey) -> None:
        """Connect to the server of a pairing whenever there is no connection, until the pairing is over."""
        current_peer.set(key.remote)  # of this task
        backoff = Backoff()
        while self.connections.may_connect(key):
            # An unconfirmed pairing is settled first; it stands or falls with the first answer (PAIRC-06).
            changes = self._pairings.changes(key.local)
            pairing = self._next_of(await self._state.store.pairings_of(key))
            if pairing is None:
                return
            try:
                live = await self._attached(await self._open(pairing, changes, publish=True))
            except NoLongerPaired:
                return
            except AccessRefused as error:
                delay = after_refusal(random.random())  # noqa: S311 - spreads load, guards nothing
                self._publish(pairing, error, delay)
                await self.connections.pause(pairing, delay)  # seen anew it may have its right state again
                continue
            except S2ConnectError as error:
                delay = _delay(backoff, error)
                self._publish(pairing, error, delay)
                if await self.connections.pause(pairing, delay):
                    backoff.established()
                continue
            if live is None:
                continue
            self._succeeded(pairing.key.remote)
            chance = random.random()  # noqa: S311 - spreads load, guards nothing
            end = await live.ended()
            lasted = asyncio.get_running_loop().time() - live.since
            if lasted >= SHORT_SESSION or end not in (SessionEnd.RECONNECT_REQUESTED, SessionEnd.PERMANENT_ERROR):
                backoff.established()
            restart = end is SessionEnd.RECONNECT_REQUESTED
            delay = backoff.restart(lasted=lasted, chance=chance) if restart else backoff.failed(chance)
            await self.connections.pause(pairing, delay, ends_when_seen=False)

    async def open(self, remote: NodeId, *, take: bool = False) -> Connection:
        """Connect to the server of a pairing once, now; arguments and errors as of ``Node.open``."""
        key = PairKey(self.connections.node, remote)
        ownership = self._pairings.ownership
        if ownership is not None and not take and not await ownership.acquire(key):
            raise SessionRefused("Another instance of this endpoint has the session with this peer.", reason="Other")
        while True:
            changes = self._pairings.changes(key.local)
            pairing = self._next_of(await self._state.store.pairings_of(key))
            if pairing is None:
                raise NotPaired(f"There is no pairing with {remote} in which this node connects to it.")
            live = await self._attached(await self._open(pairing, changes), queue=False)
            if live is not None:
                if ownership is not None and not take:
                    live.connection.at_close(partial(ownership.let_go, key))
                self._succeeded(remote)
                return live.connection

    async def _attached(
        self, opened: tuple[Connection, Pairing] | None, *, queue: bool = True
    ) -> LiveConnection | None:
        """Register a connection, which this instance claims where there are several; None where there is none."""
        if opened is None:
            return None
        connection, pairing = opened
        ownership = self._pairings.ownership
        if ownership is None:
            return self.connections.attach(connection, pairing, queue=queue)
        try:
            claim = await ownership.claim(pairing)
        except BaseException:
            await connection.close(GOING_AWAY)
            raise
        if claim is None:
            await connection.close(GOING_AWAY)
            return None
        live = self.connections.attach(connection, pairing, queue=queue, claim=claim)
        await ownership.check(pairing.key)
        return live

    def _next_of(self, pairings: Sequence[Pairing]) -> Pairing | None:
        """Return the pairing of a pair to connect with next: an unconfirmed one first, once its attempt is over."""
        ours = [p for p in pairings if p.initiate_session_url is not None and not self._pairings.is_under_way(p)]
        return ours[-1] if ours else None

    async def _open(
        self, pairing: Pairing, changes: int, *, publish: bool = False
    ) -> tuple[Connection, Pairing] | None:
        """Connect as :meth:`_connect` does; return None if the pairing is another one or none now.

        Where the server says that the pairing is over it is removed here, too.
        """
        try:
            return await self._connect(pairing, changes)
        except NotPaired:
            return None  # removed or replaced meanwhile
        except (NoLongerPaired, AccessRefused) as error:
            if not pairing.confirmed:
                await self._pairings.drop(pairing)
                return None
            history = self.connections.history_of(pairing.key.remote)
            if isinstance(error, AccessRefused):
                error.hint = refused_hint(connected_before=history.times_connected > 0)
                history.tried, history.error, history.sentence = datetime.now(UTC), error.kind, str(error)
            if isinstance(error, NoLongerPaired):
                if publish:
                    self._publish(pairing, error, None)
                await self._pairings.ended_by_peer(pairing)
            raise

    async def _connect(self, pairing: Pairing, changes: int) -> tuple[Connection, Pairing]:
        """Connect to the server of a pairing, which stood at these changes of the node's pairings.

        Returns the pairing, confirmed, with the descriptions of the response. It stands then; a change of it comes only
        when the caller awaits something. NotPaired: It was removed or replaced meanwhile.
        """
        assert pairing.initiate_session_url is not None
        connection, response = await self._state.resolver.first_reachable(
            pairing.initiate_session_url.host,
            lambda address: self._client.open(
                self._state.local, self._state.local.nodes[pairing.key.local], pairing, address=address
            ),
        )
        try:
            if (updated := with_descriptions(pairing, response)) != pairing:
                peer, endpoint = updated.peer, updated.peer_endpoint
                try:
                    await self._state.store.update_descriptions(pairing.key, node=peer, endpoint=endpoint)
                except StorageError as error:
                    _log.warning("the peer's new description could not be stored: %s", error.kind)
            standing, has_pin = pairing, pairing.pin is None or pairing.pin.ca_der is not None
            if not (pairing.confirmed and has_pin and self._pairings.changes(pairing.key.local) == changes):
                standing = await self._pairings.settle(pairing)
        except BaseException:
            await connection.close(GOING_AWAY)
            raise
        return connection, with_descriptions(standing, response)

    def _succeeded(self, remote: NodeId) -> None:
        history = self.connections.history_of(remote)
        history.tried, history.error, history.sentence = datetime.now(UTC), "", ""

    def _publish(self, pairing: Pairing, error: S2ConnectError, retry_in: float | None) -> None:
        node, peer, sentence, title = pairing.key.local, pairing.peer, str(error), for_display(pairing.peer.title)
        if not sentence.startswith(title):
            sentence = f"{title}: {sentence}"
        history = self.connections.history_of(pairing.key.remote)
        history.tried, history.error, history.sentence = datetime.now(UTC), error.kind, str(error)
        _log.info("no session with %s", sentence)
        self._state.events.publish(
            SessionFailed(node=node, peer=peer, kind=error.kind, sentence=sentence, retry_in=retry_in)
        )


def session_client(state: EndpointState, transports: Mapping[str, Transport]) -> SessionClient:
    """Return the client that opens the sessions of an endpoint."""
    return SessionClient(
        state.store,
        transports,
        state.pki,
        proxies=state.proxies,
        addresses_of=state.resolver.resolve,
        accept_token=None if state.shared is None else state.shared.accept_token,
    )


def _delay(backoff: Backoff, error: S2ConnectError) -> float:
    """Return the seconds until the next attempt after a failed one (REC-02)."""
    chance = random.random()  # noqa: S311 - spreads load, guards nothing
    if isinstance(error, PeerBusy) and error.status in (429, 503):
        return backoff.busy(chance, retry_after=error.retry_after)
    if isinstance(error, NotReachable) and error.cut:
        return backoff.busy(chance)
    return backoff.failed(chance)
