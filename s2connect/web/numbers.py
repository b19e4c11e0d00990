"""Numbers of a service for Prometheus; ``docs/metrics.md`` has their table. No label takes unbounded values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from s2connect import __version__
from s2connect.bridge.link_state import LinkState
from s2connect.model.common import Role
from s2connect.session.latencies import BOUNDS, Latencies
from s2connect.web.facts import PeerState
from s2connect.web.observation import Observation

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from s2connect.bridge.bridge import Bridge

MAX_LABELLED: Final = 1000
"""Links of a route that have a line of their own; sums are over all."""


class Numbers:
    """Collector for prometheus-client: of the endpoint, and of its sessions or of the bridge on it."""

    def __init__(self, observation: Observation) -> None:
        self._observation = observation

    def collect(self) -> Iterable[Metric]:
        """Return the present metrics."""
        observation = self._observation
        yield from _endpoint(observation)
        if (name := observation.endpoint.instance) is not None:
            yield from _cluster(name, observation)
        if observation.bridge is None:
            yield from _sessions(observation)
        else:
            yield from _bridge(observation.bridge)


def _endpoint(observation: Observation) -> Iterator[Metric]:
    endpoint, totals = observation.endpoint, observation.totals
    info = _gauge("info", "1, of this program.", "version", "kind")
    info.add_metric([__version__, "serve" if observation.bridge is None else "bridge"], 1)
    yield info
    if (certificate := observation.certificate(datetime.now(UTC))) is not None:
        left = _gauge("certificate_expires_seconds", "Seconds until the certificate expires that is served.")
        left.add_metric([], certificate.left)
        yield left
        text = "Seconds until the certificate is late to be renewed, and is warned of; negative from then on."
        due = _gauge("certificate_due_seconds", text)
        due.add_metric([], certificate.due)
        yield due
    if endpoint.mqtt is not None and (client := endpoint.mqtt.client) is not None:
        broker = _gauge("broker_connected", "1 while there is a connection to the MQTT broker, otherwise 0.")
        broker.add_metric([], client.connection is not None)
        yield broker
    pairings = _gauge("pairings", "Pairings by the role of our node and their state.", "role", "state")
    by_role: Counter[tuple[Role, PeerState]] = Counter()
    for key, known in observation.states().items():
        if key.local in endpoint.nodes:
            by_role[endpoint.nodes[key.local].role, known] += 1
    for role in sorted({node.role for node in endpoint.nodes.values()}):
        for state in PeerState:
            pairings.add_metric([role, state], by_role[role, state])
    yield pairings
    made = _counter("pairings_made", "Pairings that were made.")
    made.add_metric([], totals["paired",])
    yield made
    yield _counted("unpaired", "Pairings that have ended, by the side that ended them.", "by", totals, "unpaired")
    what = "Attempts to pair with us that failed, and codes that were withdrawn for it, by reason."
    yield _counted("pairing_attempts_refused", what, "reason", totals, "refused")
    what = "Attempts of ours to connect that failed, by kind of error."
    yield _counted("connect_failures", what, "kind", totals, "failed")
    again = _counter("reconnects", "Connections with a peer that had one before.")
    again.add_metric([], endpoint.reconnects)
    yield again
    tasks = _counter("task_failures", "Background tasks that failed, by what they do.", "task")
    for task, number in endpoint.supervisor.failures.counts.items():
        tasks.add_metric([task], number)
    yield tasks


def _cluster(name: str, observation: Observation) -> Iterator[Metric]:
    me = _gauge("instance_info", "1, of this instance on the database.", "name")
    me.add_metric([name], 1)
    yield me
    found = observation.cluster
    seen = _gauge("database_reached", "1 while the database was reached when it was asked last, otherwise 0.")
    seen.add_metric([], found is not None)
    yield seen
    text = "1 while the database confirms what this instance writes, otherwise 0."
    confirms = _gauge("database_confirms", text)
    confirms.add_metric([], not observation.endpoint.store_trouble)
    yield confirms
    if found is None:
        return
    states = Counter("dead" if not one.alive else "draining" if one.draining else "alive" for one in found.instances)
    instances = _gauge("instances", "Instances on the database that have not ended in order.", "state")
    for state in ("alive", "draining", "dead"):
        instances.add_metric([state], states[state])
    yield instances
    stored = _gauge("database_pairings", "Pairings in the database.")
    stored.add_metric([], found.pairings)
    yield stored
    links = _gauge("links_held", "Connections of which we are the client, by the lease of this instance.")
    links.add_metric([], found.links.get(name, 0))
    yield links
    orphaned = _gauge("orphaned_pairings", "Pairings whose session was at an instance that is dead.")
    orphaned.add_metric([], sum(found.orphaned.values()))
    yield orphaned
    over = _gauge("leases_over", "Leases of links that have run out, and that nobody has taken yet.")
    over.add_metric([], found.leases_over)
    yield over
    if (replication := found.replication) is None or replication.synchronous is None:
        return
    waits = _gauge("replication_synchronous", "1 while commits wait for a standby that is there, otherwise 0.")
    waits.add_metric([], replication.synchronous)
    yield waits
    lag = _gauge("standby_lag_seconds", "Seconds by which a standby of the database is behind.", "standby")
    for one in replication.standbys:
        lag.add_metric([one.name], one.lag_seconds or 0.0)
    yield lag


def _sessions(observation: Observation) -> Iterator[Metric]:
    endpoint, connected = observation.endpoint, observation.endpoint.connected()
    sessions = _gauge("sessions", "Connections by the role of our node.", "role")
    for role in sorted({node.role for node in endpoint.nodes.values()}):
        number = sum(key.local in endpoint.nodes and endpoint.nodes[key.local].role is role for key in connected)
        sessions.add_metric([role], number)
    yield sessions
    fates: Counter[str] = Counter()
    refusals: Counter[tuple[str, str]] = Counter()
    characters, latencies = 0, Latencies()
    for meter in observation.meters():
        by_us, by_peer = meter.refused_by_us, meter.refused_by_peer
        fates["received"] += meter.received.total
        fates["sent"] += meter.sent.total
        fates["acknowledged"] += sum(meter.latencies.counts)
        fates["unacknowledged"] += meter.latencies.overdue
        fates["refused_by_us"] += by_us.total()
        fates["refused_by_peer"] += by_peer.total()
        refusals.update({("us", status): number for status, number in by_us.items()})
        refusals.update({("peer", status): number for status, number in by_peer.items()})
        characters += meter.received_characters
        latencies.absorb(meter.latencies)
    messages = _counter("messages", "Messages by what became of them.", "fate")
    for fate, number in fates.items():
        messages.add_metric([fate], number)
    yield messages
    what = "Messages whose ReceptionStatus is not OK, by the side that refused them."
    refused = _counter("refusals", what, "by", "status")
    for (by, status), number in refusals.items():
        refused.add_metric([by, status], number)
    yield refused
    texts = _counter("received_characters", "Characters of all texts that were received.")
    texts.add_metric([], characters)
    yield texts
    what = "Seconds until peers acknowledged our messages."
    histogram = HistogramMetricFamily("s2connect_acknowledgement_seconds", what, labels=())
    _add_histogram(histogram, [], latencies)
    yield histogram


def _bridge(bridge: Bridge) -> Iterator[Metric]:
    states = _gauge("bridge_links", "Links by state.", "route", "state")
    what = "1 where both sides are there, heard within the heartbeat; links that another instance has are left out."
    up = _gauge("bridge_link_up", what, "link")
    sides = _gauge("bridge_sides_connected", "Peers that are there, by role.", "route", "role")
    what = "Messages that wait to be sent, by role of the receiver."
    queued = _gauge("bridge_queued_messages", what, "route", "role")
    for name, route in bridge.routes.items():
        links = route.status()
        for state in LinkState:
            states.add_metric([name, state], sum(link.state is state for link in links))
        here = [link for link in links if link.state is not LinkState.ELSEWHERE]
        for link in here[:MAX_LABELLED]:
            up.add_metric([link.name], link.state is LinkState.UP)
        for role in (Role.RM, Role.CEM):
            sides.add_metric([name, role], sum(link.sides[role].connected for link in links))
            queued.add_metric([name, role], sum(link.queued.get(role, 0) for link in links))
    yield from (states, up, sides, queued)
    messages = _counter("bridge_messages", "Messages by what became of them.", "route", "sender", "fate")
    texts = _counter("bridge_received_bytes", "Bytes of the messages that were received.", "route", "sender")
    slowed = _counter("bridge_slowed", "Pauses of reading from a peer that sent too much.", "route", "sender")
    what = "Messages whose ReceptionStatus is not OK, by the side that refused them."
    refusals = _counter("bridge_refusals", what, "route", "sender", "by", "status")
    for name, totals in bridge.totals().items():
        for key, number in totals.items():
            match key:
                case sender, "bytes":
                    texts.add_metric([name, sender], number)
                case sender, "slowed":
                    slowed.add_metric([name, sender], number)
                case _, _:
                    messages.add_metric([name, *key], number)
                case _:
                    refusals.add_metric([name, *key], number)
    yield from (messages, texts, slowed, refusals)
    what = "Seconds until the other side acknowledged, by route and role of the sender."
    histogram = HistogramMetricFamily("s2connect_bridge_acknowledgement_seconds", what, labels=("route", "sender"))
    for (name, role), latencies in bridge.latencies().items():
        _add_histogram(histogram, [name, role], latencies)
    yield histogram
    failed = _gauge("bridge_routes_failed", "Routes of the file that do not run.")
    failed.add_metric([], len(bridge.failed))
    yield failed


def _gauge(name: str, what: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"s2connect_{name}", what, labels=labels)


def _counter(name: str, what: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"s2connect_{name}", what, labels=labels)


def _counted(name: str, what: str, label: str, totals: Counter[tuple[str, ...]], kind: str) -> CounterMetricFamily:
    found = _counter(name, what, label)
    for key, number in totals.items():
        if key[0] == kind:
            found.add_metric([key[1]], number)
    return found


def _add_histogram(family: HistogramMetricFamily, labels: Sequence[str], latencies: Latencies) -> None:
    buckets, total = list[tuple[str, float]](), 0
    for bound, number in zip((*map(str, BOUNDS), "+Inf"), latencies.counts, strict=True):
        total += number
        buckets.append((bound, total))
    family.add_metric(labels, buckets, latencies.total)
