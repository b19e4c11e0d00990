"""Status of a link and of its two sides, for display."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from s2connect import Role
from s2connect.bridge.link_state import LinkState


@dataclass(frozen=True, slots=True)
class SideStatus:
    """Status of one side of a link.

    Attributes:
        title: Name of the peer.
        connected: The peer was heard within the heartbeat, not merely sent to.
        protocol: Communication protocol; empty while not connected, as are the next two.
        s2_version: Version of S2 JSON.
        peer_address: Address.
    """

    title: str
    connected: bool
    protocol: str = ""
    s2_version: str = ""
    peer_address: str = ""


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """Status of a link for display.

    Attributes:
        name: Its name.
        state: Its state.
        for_seconds: Seconds in this state.
        reason: Reason for people; empty where the state says it all.
        retry_in: Seconds until the bridge connects by itself, where it does.
        sides: By the role of the peer.
        counts: Messages by the role of the sender and by fate, since the bridge started.
        queued: Messages that wait to be sent, by the role of the receiver.
        times_up: Number of times it has been up.
        refusals: Refused messages since the bridge started and the last one, by the role of the sender, as JSON
            objects.
    """

    name: str
    state: LinkState
    for_seconds: float
    reason: str
    retry_in: float | None
    sides: Mapping[Role, SideStatus]
    counts: Mapping[Role, Mapping[str, int]]
    queued: Mapping[Role, int]
    times_up: int
    refusals: Mapping[Role, Mapping[str, Any]]
