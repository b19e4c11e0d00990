"""Observation of a running service: makes the facts of the page and of the metrics from endpoint and bridge."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from s2connect import Endpoint, Pairing, PairKey, Role, __version__
from s2connect.bridge.bridge import Bridge
from s2connect.bridge.link_state import LinkState, LinkStatus
from s2connect.endpoint.connections import LiveConnection
from s2connect.errors import UsageError
from s2connect.model.roles import CommunicationRole
from s2connect.transports.base import ConnectionInfo
from s2connect.web.facts import (
    MAX_PEERS,
    CertificateFacts,
    CodeFacts,
    CodeState,
    ConnectionFacts,
    Curve,
    LinkFacts,
    NodeFacts,
    PeerFacts,
    PeerState,
    RouteFacts,
    Seen,
    ServiceFacts,
    SideFacts,
    Snapshot,
    Traffic,
    Tries,
)

CHANGES_PER_SECOND: Final = 3.0
"""Most results of :meth:`Observation.changed` a second."""


class Observation:
    """Observes an endpoint, and the bridge on it if there is one.

    Begin with :meth:`run` as a background task; all other methods are called in the same event loop, and do not wait.

    Args:
        endpoint: The endpoint.
        bridge: The bridge that has it.
    """

    def __init__(self, endpoint: Endpoint, bridge: Bridge | None = None) -> None:
        self.endpoint = endpoint
        self.bridge = bridge
        self._loop = asyncio.get_running_loop()
        self._began = datetime.now(UTC)
        self._events = endpoint.events()
        self._pairings: dict[PairKey, Pairing] = {}
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Follow the events of the endpoint until it closes. Able to begin anew after an error."""
        await self._read_pairings()
        async for _ in self._events:
            await self._read_pairings()
            self._news.set()

    async def _read_pairings(self) -> None:
        self._pairings = {pairing.key: pairing for pairing in await self.endpoint.pairings()}

    async def changed(self) -> None:
        """Wait until something may have changed; returns at most :data:`CHANGES_PER_SECOND` times a second."""
        await asyncio.sleep(1 / CHANGES_PER_SECOND)
        try:
            async with asyncio.timeout(1.0):
                await self._news.wait()
        except TimeoutError:
            return
        self._news.clear()

    def messages(self, after: int = 0, *, key: str = "", kind: str = "", limit: int = 200) -> list[Seen]:
        """Return the last messages, oldest first.

        Args:
            after: Only messages with a greater number.
            key: Only those of this peer, or side of a link.
            kind: Only those of this message type.
            limit: At most so many, the newest.
        """
        return []

    def curves(self) -> list[Curve]:
        """Return the power of every device over the last hour."""
        return []

    def try_now(self, key: str) -> None:
        """Begin the next attempt to connect at once.

        Args:
            key: Of a peer or a link of the snapshot.

        Raises:
            UsageError: There is none of that name, or it is not we who connect.
        """
        raise UsageError("There is nothing to be tried now.")

    def snapshot(self) -> Snapshot:
        """Return the facts of now."""
        now = datetime.now(UTC)
        peers, links = list(self._peers(now)), list(self._links(now))
        return Snapshot(
            at=now,
            service=self._service(),
            certificate=self._certificate(now),
            nodes=tuple(self._nodes(now)),
            peers=tuple(sorted(peers, key=lambda peer: peer.state is PeerState.CONNECTED)[:MAX_PEERS]),
            more_peers=max(0, len(peers) - MAX_PEERS),
            routes=tuple(self._routes()),
            links=tuple(sorted(links, key=lambda link: link.state == LinkState.UP)[:MAX_PEERS]),
            more_links=max(0, len(links) - MAX_PEERS),
            waiting=tuple(self.endpoint.waiting()),
        )

    def _service(self) -> ServiceFacts:
        endpoint, config = self.endpoint, self.endpoint.config
        return ServiceFacts(
            kind="serve" if self.bridge is None else "bridge",
            version=__version__,
            since=self._began,
            name=config.name or "",
            deployment=str(config.deployment),
            host=config.host,
            pairing_url=str(endpoint.pairing_url) if config.server else "",
            session_url=str(endpoint.session_url) if config.server else "",
            advertised="",
            not_found="",
            tasks_failed=sum(endpoint.supervisor.failures.counts.values()),
        )

    def _certificate(self, now: datetime) -> CertificateFacts | None:
        if not self.endpoint.config.server:
            return None
        expires = self.endpoint.certificate_expires
        return CertificateFacts(
            expires=expires, left=(expires - now).total_seconds(), own_ca=self.endpoint.config.is_own_ca, warning=""
        )

    def _nodes(self, now: datetime) -> Iterator[NodeFacts]:
        for node in self.endpoint.nodes.values():
            valid, code = node.valid_pairing_code(), CodeFacts()
            if valid is not None and valid.expires_in is None:
                code = CodeFacts(state=CodeState.STATIC)
            elif valid is not None and valid.expires_in is not None:
                code = CodeFacts(state=CodeState.VALID, expires=now + timedelta(seconds=valid.expires_in))
            yield NodeFacts(id=node.id, role=node.role, alias=node.alias, description=node.description, code=code)

    def _peers(self, now: datetime) -> Iterator[PeerFacts]:
        connected = self.endpoint.connected()
        for key, pairing in self._pairings.items():
            live = connected.get(key)
            server = pairing.communication_role is CommunicationRole.SERVER
            state = PeerState.CONNECTED if live else PeerState.WAITING if server else PeerState.TRYING
            yield PeerFacts(
                key=f"{key.local}/{key.remote}",
                node=key.local,
                peer=pairing.peer,
                endpoint_name=pairing.peer_endpoint.name or "",
                communication_role=pairing.communication_role,
                paired_since=datetime.fromtimestamp(pairing.paired_at, UTC),
                state=state,
                since=live.connection.info.since if live else self._began,
                missing="" if live else "The other side is not connected.",
                helps="",
                session="",
                connection=_connection(live),
                tries=Tries(),
                traffic=Traffic(),
            )

    def _routes(self) -> Iterator[RouteFacts]:
        if self.bridge is None:
            return
        for route in self.bridge.config.routes:
            running = self.bridge.routes.get(route.name)
            states = [link.state for link in running.status()] if running is not None else []
            yield RouteFacts(
                name=route.name,
                devices=route.devices.type,
                manager=route.manager.type,
                check=str(route.check),
                links=len(states),
                up=states.count(LinkState.UP),
                node=None,
                failed=self.bridge.failed.get(route.name, ""),
            )

    def _links(self, now: datetime) -> Iterator[LinkFacts]:
        for name, route in self.bridge.routes.items() if self.bridge is not None else ():
            for device, link in route.links.items():
                status, key = link.status(), f"{name}/{device}"
                retry = None if status.retry_in is None else now + timedelta(seconds=status.retry_in)
                yield LinkFacts(
                    key=key,
                    route=name,
                    name=status.name,
                    state=str(status.state),
                    since=now - timedelta(seconds=status.for_seconds),
                    reason=status.reason,
                    missing="" if status.state is LinkState.UP else "A side is not connected.",
                    helps="",
                    times_up=status.times_up,
                    queued=sum(status.queued.values()),
                    tries=Tries(next=retry),
                    device=_side(key, Role.RM, status),
                    manager=_side(key, Role.CEM, status),
                )


def _side(link: str, role: Role, status: LinkStatus) -> SideFacts:
    side, counts = status.sides[role], status.counts[role]
    return SideFacts(
        key=f"{link}/{role.lower()}",
        role=role,
        title=side.title,
        peer=None,
        paired=True,
        opens="",
        connected=side.connected,
        connection=None,
        traffic=Traffic(received=counts.get("forwarded", 0)),
    )


def _connection(live: LiveConnection | None) -> ConnectionFacts | None:
    if live is None:
        return None
    info: ConnectionInfo = live.connection.info
    return ConnectionFacts(
        protocol=info.protocol,
        s2_version=info.s2_version,
        address=info.peer_address,
        since=info.since,
        heard_ago=None,
        heartbeat=None,
    )
