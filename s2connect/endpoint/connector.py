"""Connector: opens the sessions of one node as communication client, again and again (SESC, REC)."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence

from s2connect.endpoint.connections import ConnectionManager
from s2connect.endpoint.pairings import Pairings
from s2connect.endpoint.state import EndpointState
from s2connect.errors import (
    AccessRefused,
    NoLongerPaired,
    NotPaired,
    NotReachable,
    PeerBusy,
    S2ConnectError,
    StorageError,
)
from s2connect.events import SessionFailed
from s2connect.model.common import NodeId
from s2connect.model.text import for_display
from s2connect.session.http_client import SessionClient, with_descriptions
from s2connect.session.session import SessionEnd
from s2connect.store.base import Pairing, PairKey
from s2connect.transports.backoff import SHORT_SESSION, Backoff, after_refusal
from s2connect.transports.base import GOING_AWAY, Connection

_log = logging.getLogger(__name__)


class Connector:
    """Connects a node to the servers of its pairings.

    Attributes:
        connections: The connections of the node.
    """

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
        backoff = Backoff()
        while True:
            # An unconfirmed pairing is settled first; it stands or falls with the first answer (PAIRC-06).
            pairing = self._next_of(await self._state.store.pairings_of(key))
            if pairing is None:
                return
            try:
                connection, updated = await self._open(pairing)
            except NotPaired:
                continue  # removed or replaced meanwhile
            except (NoLongerPaired, AccessRefused) as error:
                if not pairing.confirmed:
                    await self._pairings.drop(pairing)
                    continue
                if isinstance(error, NoLongerPaired):
                    self._publish(pairing, error, None)
                    await self._pairings.ended_by_peer(pairing)
                    return
                delay = after_refusal(random.random())  # noqa: S311 - spreads load, guards nothing
                self._publish(pairing, error, delay)
                await asyncio.sleep(delay)
                continue
            except S2ConnectError as error:
                delay = _delay(backoff, error)
                self._publish(pairing, error, delay)
                if await self.connections.pause(pairing, delay):
                    backoff.established()
                continue
            live = self.connections.attach(connection, updated)
            chance = random.random()  # noqa: S311 - spreads load, guards nothing
            end = await live.ended()
            lasted = asyncio.get_running_loop().time() - live.since
            if end is not SessionEnd.RECONNECT_REQUESTED:
                if end is not SessionEnd.PERMANENT_ERROR or lasted >= SHORT_SESSION:
                    backoff.established()
                delay = backoff.failed(chance)
            else:
                if lasted >= SHORT_SESSION:
                    backoff.established()
                delay = backoff.restart(lasted=lasted, chance=chance)
            await asyncio.sleep(delay)

    async def open(self, remote: NodeId) -> Connection:
        """Connect to the server of a pairing once, now; errors as of ``Node.open``."""
        key = PairKey(self.connections.node, remote)
        while True:
            pairing = self._next_of(await self._state.store.pairings_of(key))
            if pairing is None:
                raise NotPaired(f"There is no pairing with {remote} in which this node connects to it.")
            try:
                connection, updated = await self._open(pairing)
            except NotPaired:
                continue  # removed or replaced meanwhile
            except (NoLongerPaired, AccessRefused) as error:
                if not pairing.confirmed:
                    await self._pairings.drop(pairing)
                    continue
                if isinstance(error, NoLongerPaired):
                    await self._pairings.ended_by_peer(pairing)
                raise
            self.connections.register(connection, updated)
            return connection

    def _next_of(self, pairings: Sequence[Pairing]) -> Pairing | None:
        """Return the pairing of a pair to connect with next: an unconfirmed one first, once its attempt is over."""
        ours = [p for p in pairings if p.initiate_session_url is not None and not self._pairings.is_under_way(p)]
        return ours[-1] if ours else None

    async def _open(self, pairing: Pairing) -> tuple[Connection, Pairing]:
        """Connect to the server of a pairing. Returns the pairing, confirmed, with the descriptions of the response.

        The pairing stands then; a change of it comes only when the caller awaits something.

        Raises:
            NotPaired: It was removed or replaced meanwhile.
            S2ConnectError: There is no session, or what it changes could not be stored.
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
                await self._store_descriptions(updated)
            standing = await self._pairings.settle(pairing)
        except BaseException:
            await connection.close(GOING_AWAY)
            raise
        return connection, with_descriptions(standing, response)

    async def _store_descriptions(self, pairing: Pairing) -> None:
        try:
            await self._state.store.update_descriptions(pairing.key, node=pairing.peer, endpoint=pairing.peer_endpoint)
        except StorageError as error:
            _log.warning("the peer's new description could not be stored: %s", error.kind)

    def _publish(self, pairing: Pairing, error: S2ConnectError, retry_in: float | None) -> None:
        name = for_display(pairing.peer.title)
        _log.info("no session with %s: %s", name, error)
        self._state.events.publish(
            SessionFailed(
                node=pairing.key.local,
                peer=pairing.peer,
                kind=error.kind,
                sentence=f"{name}: {error}",
                retry_in=retry_in,
            )
        )


def _delay(backoff: Backoff, error: S2ConnectError) -> float:
    """Return the seconds until the next attempt after a failed one (REC-02)."""
    chance = random.random()  # noqa: S311 - spreads load, guards nothing
    if isinstance(error, PeerBusy) and error.status in (429, 503):
        return backoff.busy(chance, retry_after=error.retry_after)
    if isinstance(error, NotReachable) and error.cut:
        return backoff.busy(chance)
    return backoff.failed(chance)
