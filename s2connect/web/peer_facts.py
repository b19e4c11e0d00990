"""Facts of pairings and their sessions."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from s2connect import Connection, Pairing
from s2connect.endpoint.connections import LiveConnection, PeerHistory
from s2connect.model.roles import CommunicationRole
from s2connect.web import advice
from s2connect.web.facts import (
    ConnectionFacts,
    PeerFacts,
    PeerState,
    Refusal,
    Traffic,
    Tries,
)

if TYPE_CHECKING:
    from s2connect.web.meter import Meter


def state_of(
    *,
    connected: bool,
    elsewhere: bool,
    silent: bool,
    confirmed: bool,
    client: bool,
    taken: bool,
    refused: bool,
) -> PeerState:
    """Return the state of a pairing.

    Args:
        connected: There is a connection.
        elsewhere: There is one at another instance.
        silent: Nothing was heard on it for longer than the heartbeat.
        confirmed: The pairing is.
        client: We are the communication client.
        taken: An application takes sessions.
        refused: One of the two does not know the token of the other.
    """
    if connected:
        return PeerState.SILENT if silent else PeerState.CONNECTED
    if elsewhere:
        return PeerState.ELSEWHERE
    if not confirmed:
        return PeerState.UNCONFIRMED
    if not taken:
        return PeerState.IDLE
    if refused:
        return PeerState.REFUSED
    return PeerState.TRYING if client else PeerState.WAITING


def connection_facts(connection: Connection) -> ConnectionFacts:
    """Return the facts of an open connection."""
    info = connection.info
    return ConnectionFacts(
        protocol=info.protocol,
        s2_version=info.s2_version,
        address=info.peer_address,
        since=info.since,
        heard_ago=connection.silence(),
        heartbeat=connection.heartbeat,
    )


def is_silent(connection: Connection) -> bool:
    """Return whether a connection was silent for longer than its heartbeat."""
    silence, heartbeat = connection.silence(), connection.heartbeat
    return silence is not None and heartbeat is not None and silence > heartbeat


def peer_facts(
    pairing: Pairing,
    live: LiveConnection | None,
    history: PeerHistory,
    meter: Meter | None,
    *,
    elsewhere: str,
    taken: bool,
    began: datetime,
    wall: Callable[[float], datetime],
    now: float,
) -> PeerFacts:
    """Return the facts of one pairing.

    Args:
        pairing: The pairing.
        live: Its open connection, if any.
        history: Its connections so far.
        meter: Its messages, if any passed.
        elsewhere: Name of the other instance that has its session; empty for none.
        taken: An application takes the sessions of the node.
        began: When the service began.
        wall: From seconds of the event loop to the time of day.
        now: Seconds of the event loop.
    """
    key, client = pairing.key, pairing.communication_role is CommunicationRole.CLIENT
    state = state_of(
        connected=live is not None,
        elsewhere=bool(elsewhere),
        silent=live is not None and is_silent(live.connection),
        confirmed=pairing.confirmed,
        client=client,
        taken=taken,
        refused=history.trouble is not None,
    )
    silent_for = live.connection.silence() if live is not None else None
    error, sentence = history.error, history.sentence
    if state is PeerState.REFUSED and history.trouble is not None:
        error, _, sentence = history.trouble
    missing, helps = advice.of_peer(state, pairing.peer.role, error, sentence, silent_for)
    if state is PeerState.ELSEWHERE:
        missing = f"Its session is at the instance {elsewhere}, with its messages."
    paired = datetime.fromtimestamp(pairing.paired_at, UTC)
    return PeerFacts(
        key=f"{key.local}/{key.remote}",
        node=key.local,
        peer=pairing.peer,
        endpoint_name=pairing.peer_endpoint.name or "",
        communication_role=pairing.communication_role,
        paired_since=paired,
        state=state,
        since=live.connection.info.since if live is not None else history.ended or max(began, paired),
        last_connected=history.ended if live is None else None,
        missing=missing,
        helps=helps,
        connection=connection_facts(live.connection) if live is not None else None,
        tries=Tries(
            last=history.tried,
            error=history.error,
            sentence=history.sentence,
            next=None if history.next_try is None else wall(history.next_try),
            can_try_now=history.next_try is not None,
        ),
        traffic=traffic_of(meter, wall, now) if meter is not None else Traffic(),
    )


def traffic_of(meter: Meter, wall: Callable[[float], datetime], now: float) -> Traffic:
    """Return the numbers of a meter."""
    return Traffic(
        received=meter.received.total,
        sent=meter.sent.total,
        received_last_minute=meter.received.last_minute(now),
        sent_last_minute=meter.sent.last_minute(now),
        slowest_acknowledgement=meter.latencies.slowest(now),
        unacknowledged=meter.latencies.overdue,
        refused_by_us=dict(meter.refused_by_us),
        refused_by_peer=dict(meter.refused_by_peer),
        refusals=tuple(
            Refusal(at=wall(one.at), by=one.by, type=one.type, status=one.status, label=one.label)
            for one in reversed(meter.refusals)
        ),
    )
