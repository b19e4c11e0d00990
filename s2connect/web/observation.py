"""Observation of a running service: makes the facts of the page and of the metrics from endpoint and bridge."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from s2connect import (
    CodeStatus,
    CommunicationRole,
    Deployment,
    Endpoint,
    NodeId,
    Pairing,
    PairKey,
    Role,
    Session,
    __version__,
    events,
)
from s2connect.bridge.bridge import Bridge
from s2connect.bridge.link import Link
from s2connect.discovery.resolve import is_local_name
from s2connect.endpoint.connections import PeerHistory
from s2connect.errors import StorageError, UsageError
from s2connect.web import advice
from s2connect.web.codes import CODES
from s2connect.web.facts import (
    MAX_PEERS,
    CertificateFacts,
    CodeFacts,
    CodeState,
    Curve,
    EndedPairing,
    NodeFacts,
    PeerFacts,
    PeerState,
    Point,
    Seen,
    ServiceFacts,
    Snapshot,
)
from s2connect.web.link_facts import links_of, routes_of
from s2connect.web.meter import Meter
from s2connect.web.neighbours import Neighbours
from s2connect.web.peer_facts import is_silent, peer_facts, state_of
from s2connect.web.power import STEP, unit_of
from s2connect.web.warnings import Warnings
from s2connect.web.watches import Journal, LinkWatch, SessionWatch

CHANGES_PER_SECOND: Final = 3.0
"""Most results of :meth:`Observation.changed` a second, for each caller."""

CLOCK_SET: Final = timedelta(seconds=0.5)
"""Difference to the clock of this machine from which on it counts anew: a time that is shown stays the same."""

QUIET: Final = 5.0
"""Seconds after which :meth:`Observation.changed` returns without news: ages grow."""

if TYPE_CHECKING:  # psycopg is an extra
    from s2connect.store.postgresql.cluster import Cluster

PAUSE: Final = 0.5
"""Seconds between two readings of the pairings from the store."""

CLUSTER_EVERY: Final = 30.0
"""Seconds between two readings of the status of all instances: the database counts pairings for it."""

MAX_READ: Final = 2000
"""Pairings that are read from a database that several instances share: it may have a million of them, and each instance
reads them again whenever there are others."""

CLUSTER_PAUSE: Final = 5.0
"""Seconds between two readings while somebody looks at the page."""

MAX_SHOWN_CURVES: Final = 48
"""Curves that are returned at once."""

Totals = Counter[tuple[str, ...]]
"""Numbers that never decrease, by what they count."""


class Observation:
    """Observes an endpoint, and the bridge on it if there is one, from its construction to the end of the endpoint.

    Begin with :meth:`run` as a background task, and :meth:`follow_network` as another where the page is; all other
    methods are called in the same event loop, and do not wait.

    Args:
        endpoint: The endpoint.
        bridge: The bridge that has it.

    Attributes:
        neighbours: Endpoints in the local network.
        warnings: Warnings of the service.
        announced: By node of ours, the pairing for which somebody is about to type its code.
        totals: Events so far: ``("paired",)``, ``("unpaired", by)``, ``("refused", reason)`` for attempts to pair, and
            ``("failed", kind)`` for attempts to connect.
        pairings: All pairings, oldest first; of more than :data:`MAX_READ` in a database that instances share the
            newest, and those that are connected here.
        journal: Messages and measured values.
        began: When it began.
        cluster: Status of all instances on the database; None without one, or while it is away.
        elsewhere: Pairs whose session is at another instance, with its name.
        not_found: Why others do not find this endpoint in the local network; empty if they do, or need not.
    """

    def __init__(self, endpoint: Endpoint, bridge: Bridge | None = None) -> None:
        self.endpoint = endpoint
        self.bridge = bridge
        self.began = datetime.now(UTC)
        self.neighbours = Neighbours(endpoint)
        self.warnings = Warnings()
        self.totals: Totals = Counter()
        self.announced: dict[NodeId, events.PairingAnnounced] = {}
        self.pairings: OrderedDict[PairKey, Pairing] = OrderedDict()
        self.codes: Mapping[NodeId, CodeStatus] = {}
        self.journal = Journal()
        self._loop = asyncio.get_running_loop()
        self._events = endpoint.events()
        self._stale = True
        self._read_at = -PAUSE
        self._meters: dict[PairKey, Meter] = {}
        self._past = Meter("", "")  # of peers that are not paired any more
        self._code_ends: dict[object, datetime] = {}
        self._counted = 0  # pairings in the shared database
        self.cluster: Cluster | None = None
        self.elsewhere: Mapping[PairKey, str] = {}
        self._looked_at = asyncio.Event()
        self.not_found = ""
        self._changes = 0
        self._zero = self.began - timedelta(seconds=self._loop.time())
        self._shown: tuple[int, int] = (-1, -1)
        endpoint.watch_sessions(self._session_opened)
        for live in endpoint.connected().values():
            if live.session is not None:
                self._session_opened(live.session)
        if bridge is not None:
            bridge.watch_links(self._link_made, self._news)

    # Hooks

    def _session_opened(self, session: Session) -> None:
        meter = self.meter(PairKey(session.info.local, session.info.remote), session.peer.title)
        measurements: Final = "sent" if session.role is Role.RM else "received"
        session.observe(SessionWatch(meter, self.journal, measurements, self._loop.time).note, meter.latencies)
        self._news()

    def _link_made(self, route: str, device: str, link: Link) -> None:
        key = f"{route}/{device}"
        link.watch = LinkWatch(key, lambda role: link.sides[role].title, self.journal)
        link.counters.measure()
        self._news()

    def meter(self, key: PairKey, title: str) -> Meter:
        """Return the meter of a peer."""
        found = self._meters.get(key)
        if found is None:
            found = self._meters[key] = Meter(f"{key.local}/{key.remote}", title)
        found.title = title
        return found

    def meters(self) -> list[Meter]:
        """Return all meters, those of the past as one."""
        return [*self._meters.values(), self._past]

    def _news(self) -> None:
        self._changes += 1
        self.journal.wake()

    # Tasks

    async def run(self) -> None:
        """Follow the events of the endpoint until it closes. Able to begin anew after an error."""
        while True:
            if self._stale and self._loop.time() >= self._read_at + PAUSE:
                self._stale, self._read_at = False, self._loop.time()
                try:
                    await self._read_pairings()
                except BaseException:
                    self._stale = True
                    raise
            try:
                async with asyncio.timeout(PAUSE if self._stale else None):
                    event = await anext(self._events)
            except TimeoutError:
                continue
            except StopAsyncIteration:
                return
            self._note(event)

    async def follow_cluster(self) -> None:
        """Read the status of all instances on the database again and again, until cancelled."""
        while True:
            try:
                self.cluster, before = await self.endpoint.cluster(), self.elsewhere
                self.elsewhere = await self.endpoint.elsewhere()
                with_session = self.elsewhere.keys() | self.endpoint.connected().keys()
                known = 0 if self.cluster is None else self.cluster.pairings
                unknown = known <= MAX_READ and with_session - self.pairings.keys()
                if known != self._counted or unknown:  # paired at another instance
                    self._counted = known
                    await self._read_pairings()
                elif self.elsewhere != before:
                    self._news()
            except StorageError:
                self.cluster = None
            self._looked_at.clear()
            await asyncio.sleep(CLUSTER_PAUSE)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLUSTER_EVERY - CLUSTER_PAUSE):
                    await self._looked_at.wait()

    async def follow_network(self) -> None:
        """Look for endpoints in the local network until cancelled."""
        await self.neighbours.run()

    async def read_codes(self) -> None:
        """Read the pairing codes anew, for :meth:`snapshot`; StorageError where they are in a database."""
        self.codes = await self.endpoint.code_statuses()

    async def _read_pairings(self) -> None:
        most = None if self.endpoint.instance is None else MAX_READ
        found = {pairing.key: pairing for pairing in await self.endpoint.pairings(newest=most)}
        connected = {} if most is None else {key: live.pairing for key, live in self.endpoint.connected().items()}
        self.pairings = OrderedDict(connected | found)
        for key in self._meters.keys() - self.pairings.keys() - self.endpoint.connected().keys():
            gone = self._meters.pop(key)
            self._past.absorb(gone)
            self.journal.curves.remove(gone.key)
        self._news()

    def _note(self, event: events.Event) -> None:
        match event:
            case events.PairingAnnounced():
                self.announced[event.node] = event
            case events.PairingAnnouncementCancelled():
                self.announced.pop(event.node, None)
            case events.Paired():
                self.announced.pop(event.node, None)
                self.totals["paired",] += 1
                self._stale = True
                self._code_ends[event.node] = event.at
            case events.Unpaired():
                self.totals["unpaired", str(event.by)] += 1
                if event.by is not events.UnpairedBy.REPLACED:  # then there may be another one of the same two
                    self.pairings.pop(PairKey(event.node, event.peer.id), None)
                self._stale = True
            case events.PairingFailed():
                self.totals["refused", event.reason] += 1
                what = f"An attempt to pair with {self._name(event.node)} failed: {event.reason.replace('_', ' ')}."
                self.warnings.add("pairing_failed", what, event.at)
            case events.CodeWithdrawn():
                self.totals["refused", "code_withdrawn"] += 1
                self._code_ends[event.node] = event.at
                what = f"The code of {self._name(event.node)} was withdrawn after failed attempts."
                self.warnings.add("code_withdrawn", f"{what} Make a new one with: s2connect code", event.at)
            case events.TokenUnknown():
                self.warnings.add("token_unknown", event.sentence, event.at)
            case events.SessionFailed():
                self.totals["failed", event.kind] += 1
            case events.Advertised():
                self.not_found = ""
                self.warnings.remove("name_conflict")
                self.warnings.remove("not_advertised")
                self.warnings.remove("copy_of_this_endpoint")
            case events.Notice():
                if event.kind in ("name_conflict", "not_advertised", "copy_of_this_endpoint"):
                    self.not_found = event.sentence
                self.warnings.add(event.kind, event.sentence, event.at)
            case events.TaskFailed():
                self.warnings.add("task_failed", event.sentence, event.at)
        self._news()

    def _name(self, node: object) -> str:
        known = {one.id: one.alias or f"the {one.role}" for one in self.endpoint.nodes.values()}
        return known.get(node, "a node")  # type: ignore[call-overload, no-any-return]

    # For the page

    def mark(self) -> tuple[int, int]:
        """Return a mark of what there is now, for :meth:`changed`."""
        return self.journal.ring.count, self._changes

    async def changed(self, mark: tuple[int, int] | None = None) -> None:
        """Wait for news since a mark, by default that of the last :meth:`snapshot`, or :data:`QUIET` seconds.

        Returns at most :data:`CHANGES_PER_SECOND` times a second.
        """
        await asyncio.sleep(1 / CHANGES_PER_SECOND)
        if (mark or self._shown) != self.mark():
            return
        news = asyncio.Event()
        self.journal.sleepers.append(news.set)
        try:
            async with asyncio.timeout(QUIET):
                await news.wait()
        except TimeoutError:
            return
        finally:
            if news.set in self.journal.sleepers:
                self.journal.sleepers.remove(news.set)

    def note_change(self) -> None:
        """Wake those who wait for news: something was done of which no event tells."""
        self._news()

    @property
    def leaves_out(self) -> bool:
        """True while more messages pass than are kept: :meth:`messages` has some of them."""
        return self.journal.ring.leaves_out(self._loop.time())

    def messages(self, after: int = 0, *, key: str = "", kind: str = "", limit: int = 200) -> list[Seen]:
        """Return the last messages, oldest first.

        Args:
            after: Only messages with a greater number.
            key: Only those of this peer, link or side of a link.
            kind: Only those of this message type.
            limit: At most so many, the newest.
        """
        wall, found = self.wall(), list[Seen]()
        for one in self.journal.ring.newest_first(after):
            if len(found) >= limit:
                break
            if (key and one.key != key and not one.key.startswith(f"{key}/")) or (kind and one.type != kind):
                continue
            found.append(
                Seen(
                    number=one.number,
                    at=wall(one.at),
                    key=one.key,
                    title=one.title,
                    direction=one.direction,
                    type=one.type,
                    status=one.status,
                    size=one.size,
                    text=one.text,
                )
            )
        found.reverse()
        return found

    def curves(self, *, key: str = "", limit: int = MAX_SHOWN_CURVES) -> list[Curve]:
        """Return measured values of the last hour.

        Args:
            key: Only those of this peer, or side of a link.
            limit: At most so many curves.
        """
        now, epoch = self._loop.time(), self.wall()(0.0).timestamp()
        found: list[Curve] = []
        for device, title, curves in self.journal.curves.devices():
            if key and device != key:
                continue
            for quantity, curve in curves.items():
                if len(found) >= limit:
                    return found
                points = tuple(
                    Point(at=epoch + at, low=low, high=high, last=last) for at, low, high, last in curve.points(now)
                )
                unit = unit_of(quantity)
                found.append(
                    Curve(key=device, title=title, quantity=str(quantity), unit=unit, step=STEP, points=points)
                )
        return found

    def look_at(self, keys: Iterable[str]) -> None:
        """Note that the curves of these devices are shown: for a minute, each measurement of them is read."""
        self.journal.curves.look(keys, self._loop.time())

    def try_now(self, key: str) -> None:
        """Begin the next attempt to connect at once.

        Args:
            key: Of a peer or a link of the snapshot.

        Raises:
            UsageError: There is none of that name; or no attempt is to be made now, because one is under way, the two
                are connected, or the other side has to connect.
        """
        for pair in self.pairings:
            if f"{pair.local}/{pair.remote}" == key and self.endpoint.try_now(pair):
                self._news()
                return
        if self.bridge is not None:
            route, _, device = key.partition("/")
            running = self.bridge.routes.get(route)
            link = running.links.get(device) if running is not None else None
            if link is not None and link.try_now():
                return
        raise UsageError("Nothing can be tried now: an attempt is under way, or the other side has to connect.")

    def wall(self) -> Callable[[float], datetime]:
        """Return a function from seconds of the event loop to the time of day: the same, until the clock is set."""
        zero = datetime.now(UTC) - timedelta(seconds=self._loop.time())
        if abs(zero - self._zero) > CLOCK_SET:
            self._zero = zero
        zero = self._zero
        return lambda at: zero + timedelta(seconds=at)

    def snapshot(self) -> Snapshot:
        """Return the facts of now."""
        self._looked_at.set()
        self._shown = self.mark()
        now, bridge, history = datetime.now(UTC), self.bridge, self.endpoint.history()
        peers = self._peers()
        found, more_found = self.neighbours.found({key.remote for key in self.pairings})
        links, more_links = links_of(bridge, history, self.wall(), now) if bridge is not None else ((), 0)
        return Snapshot(
            at=now,
            service=self._service(),
            certificate=self.certificate(now),
            nodes=tuple(self._nodes(now)),
            peers=peers,
            more_peers=max(0, (self._counted if self._counted > MAX_READ else len(self.pairings)) - len(peers)),
            routes=tuple(routes_of(bridge)) if bridge is not None else (),
            links=links,
            more_links=more_links,
            ended=tuple(self._ended()),
            found=found,
            more_found=more_found,
            found_note=self.neighbours.note,
            waiting=tuple(self.endpoint.waiting()),
            warnings=tuple(self.warnings.newest_first()),
        )

    def states(self) -> dict[PairKey, PeerState]:
        """Return the states of all pairings."""
        endpoint, connected, histories = self.endpoint, self.endpoint.connected(), self.endpoint.history()
        taken = {node: endpoint.takes_sessions(node) for node in endpoint.nodes}
        return {
            key: state_of(
                connected=(live := connected.get(key)) is not None,
                elsewhere=key in self.elsewhere,
                silent=live is not None and is_silent(live.connection),
                confirmed=pairing.confirmed,
                client=pairing.communication_role is CommunicationRole.CLIENT,
                taken=taken.get(key.local, False),
                refused=key in histories and histories[key].trouble is not None,
            )
            for key, pairing in self.pairings.items()
        }

    def _peers(self) -> tuple[PeerFacts, ...]:
        endpoint, connected, histories = self.endpoint, self.endpoint.connected(), self.endpoint.history()
        taken = {node: endpoint.takes_sessions(node) for node in endpoint.nodes}
        keys = list(self.pairings)
        if len(keys) > MAX_PEERS:
            keys.sort(key=lambda key: key in connected or key in self.elsewhere)
        wall, now = self.wall(), self._loop.time()
        facts = [
            peer_facts(
                self.pairings[key],
                connected.get(key),
                histories.get(key, PeerHistory()),
                self._meters.get(key),
                elsewhere=self.elsewhere.get(key, ""),
                taken=taken.get(key.local, False),
                began=self.began,
                wall=wall,
                now=now,
            )
            for key in keys[:MAX_PEERS]
        ]
        return tuple(sorted(facts, key=lambda peer: peer.state in (PeerState.CONNECTED, PeerState.ELSEWHERE)))

    def _service(self) -> ServiceFacts:
        endpoint, config = self.endpoint, self.endpoint.config
        local = config.deployment is Deployment.LAN and is_local_name(config.host)
        advertised = endpoint.has_server and config.advertise and local and not self.not_found
        return ServiceFacts(
            kind="serve" if self.bridge is None else "bridge",
            version=__version__,
            since=self.began,
            name=config.name or "",
            deployment=str(config.deployment),
            host=config.host,
            pairing_url=str(endpoint.pairing_url) if endpoint.has_server else "",
            session_url=str(endpoint.session_url) if endpoint.has_server else "",
            advertised=config.host.partition(".")[0] if advertised else "",
            not_found=self.not_found,
            tasks_failed=sum(endpoint.supervisor.failures.counts.values()),
        )

    def certificate(self, now: datetime) -> CertificateFacts | None:
        """Return the facts of the certificate that is served; None without a server, or where a balancer has it."""
        if not self.endpoint.has_server or not self.endpoint.config.has_certificate:
            return None
        expires, own_ca = self.endpoint.certificate_expires, self.endpoint.config.is_own_ca
        left = (expires - now).total_seconds()
        due = (self.endpoint.certificate_warned_from - now).total_seconds()
        warning = advice.of_certificate(left, late=due <= 0, own_ca=own_ca)
        return CertificateFacts(expires=expires, left=left, due=due, own_ca=own_ca, warning=warning)

    def _nodes(self, now: datetime) -> Iterator[NodeFacts]:
        for node in self.endpoint.nodes.values():
            known = self.codes.get(node.id)
            state = CodeState(known.state) if known is not None else CodeState.NONE
            left = known.code.expires_in if known is not None and known.code is not None else None
            code = CodeFacts(
                state=state,
                since=self._code_ends.get(node.id) if state in (CodeState.USED, CodeState.WITHDRAWN) else None,
                expires=None if left is None else now + timedelta(seconds=left),
                helps=CODES[state],
            )
            yield NodeFacts(id=node.id, role=node.role, alias=node.alias, description=node.description, code=code)

    def _ended(self) -> Iterator[EndedPairing]:
        pair = "s2connect pair" if self.bridge is None else f"s2connect bridge pair {self.bridge.config.file}"
        for event in self.endpoint.ended_pairings():
            again = self.pairings.get(PairKey(event.node, event.peer.id))
            if again is not None and again.paired_at > event.at.timestamp():
                continue
            helps = f"{'If that was not meant' if event.by == 'peer' else 'To pair again'}: {pair}"
            yield EndedPairing(
                node=event.node, peer=event.peer, by=str(event.by), at=event.at, sentence=event.sentence, helps=helps
            )
