"""A made-up observation in which everything that the page can show is there once, with one text at every place."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

from s2connect import NodeDescription, NodeId, Role
from s2connect.model.roles import CommunicationRole
from s2connect.web.facts import (
    CertificateFacts,
    CodeFacts,
    ConnectionFacts,
    Curve,
    EndedPairing,
    FoundFacts,
    LinkFacts,
    NodeFacts,
    PeerFacts,
    PeerState,
    Point,
    Refusal,
    RouteFacts,
    Seen,
    ServiceFacts,
    SideFacts,
    Snapshot,
    Traffic,
    Tries,
    Warned,
)
from s2connect.web.observation import Observation

NOW = datetime.now(UTC)
OWN = NodeId(UUID(int=1))


def node(text: str, number: int, role: Role) -> NodeDescription:
    return NodeDescription(
        id=NodeId(UUID(int=number)), brand=text, type=text, model_name=text, user_defined_name=text, role=role
    )


def snapshot(text: str, *, kind: Any = "bridge", peers: int = 7, links: int = 1) -> Snapshot:
    refusal = Refusal(at=NOW, by="peer", type=text, status=text, label=text)
    traffic = Traffic(
        received=12,
        sent=3,
        received_last_minute=6,
        sent_last_minute=1,
        slowest_acknowledgement=0.021,
        unacknowledged=1,
        refused_by_peer={"INVALID_CONTENT": 1},
        refusals=(refusal,),
    )
    connection = ConnectionFacts(
        protocol=text, s2_version=text, address=text, since=NOW - timedelta(hours=2), heard_ago=3.2, heartbeat=60.0
    )
    tries = Tries(
        last=NOW - timedelta(seconds=30),
        error="not_reachable",
        sentence=text,
        next=NOW + timedelta(seconds=40),
        can_try_now=True,
    )
    states = list(PeerState)
    return Snapshot(
        at=NOW,
        service=ServiceFacts(
            kind=kind,
            version="1",
            since=NOW - timedelta(days=3),
            name=text,
            deployment="LAN",
            host=text,
            pairing_url="https://hub.local:8443/pairing/",
            session_url="",
            advertised=text,
            not_found=text,
            tasks_failed=1,
        ),
        certificate=CertificateFacts(expires=NOW, left=0.0, own_ca=False, warning=text),
        nodes=(
            NodeFacts(
                id=OWN, role=Role.CEM, alias=None, description=node(text, 1, Role.CEM), code=CodeFacts(helps=text)
            ),
        ),
        peers=tuple(
            PeerFacts(
                key=f"{text}{number}",
                node=OWN,
                peer=node(text, 100 + number, Role.RM),
                endpoint_name=text,
                communication_role=CommunicationRole.CLIENT,
                paired_since=NOW,
                state=states[number % len(states)],
                since=NOW,
                missing="" if number % len(states) == 0 else text,
                helps="" if number % len(states) == 0 else text,
                connection=connection if number % len(states) == 0 else None,
                tries=tries,
                traffic=traffic,
            )
            for number in range(peers)
        ),
        routes=(
            RouteFacts(
                name=text,
                devices="s2-connect",
                manager="mqtt",
                check="rules",
                links=links,
                up=0,
                node=None,
                failed=text,
            ),
        ),
        links=tuple(
            LinkFacts(
                key=f"{text}/{number}",
                route=text,
                name=text,
                state="failed",
                since=NOW,
                reason=text,
                missing=text,
                helps=text,
                times_up=1,
                queued=2,
                tries=tries,
                device=SideFacts(
                    key=f"{text}/{number}/rm",
                    role=Role.RM,
                    title=text,
                    peer=None,
                    paired=True,
                    opens="peer",
                    connected=True,
                    connection=connection,
                    traffic=traffic,
                ),
                manager=SideFacts(
                    key=f"{text}/{number}/cem",
                    role=Role.CEM,
                    title=text,
                    peer=None,
                    paired=False,
                    opens="",
                    connected=False,
                    connection=None,
                    traffic=traffic,
                ),
            )
            for number in range(links)
        ),
        ended=(EndedPairing(node=OWN, peer=node(text, 3, Role.RM), by="peer", at=NOW, sentence=text, helps=text),),
        found=(
            FoundFacts(
                name=text,
                instance=text,
                roles=(Role.RM,),
                pairing_url="https://found.local:8443/pairing/",
                host=text,
                addresses=(text,),
                nodes=(node(text, 4, Role.RM),),
                ours=False,
                paired=False,
            ),
        ),
        waiting=(node(text, 5, Role.RM),),
        warnings=(Warned(at=NOW, kind=text, sentence=text, count=2),),
    )


class Shown:
    """Stands for an observation."""

    def __init__(self, text: str, **of: Any) -> None:
        self._snapshot = snapshot(text, **of)
        self._text = text
        self.endpoint = SimpleNamespace(node=lambda _: SimpleNamespace(valid_pairing_code=lambda: None))

    def snapshot(self) -> Snapshot:
        return self._snapshot

    async def changed(self) -> None:
        await asyncio.sleep(1)

    def messages(self, *_: Any, **__: Any) -> list[Seen]:
        text = self._text
        one = {"at": NOW, "key": "a", "title": text, "type": text, "status": text, "size": 9}
        return [
            Seen(number=1, direction="received", text=text, **one),  # type: ignore[arg-type]
            Seen(number=2, direction="sent", text='{"message_type": "PowerMeasurement"}', **one),  # type: ignore[arg-type]
        ]

    def curves(self) -> list[Curve]:
        at = NOW.timestamp()
        points = tuple(Point(at=at - 60 * ago, low=ago, high=2 * ago, last=ago) for ago in range(50, 0, -1))
        quantities = ("ELECTRIC.POWER.L1", self._text)
        return [
            Curve(key="a", title=self._text, quantity=one, unit="W", step=60.0, points=points) for one in quantities
        ]


def shown(text: str, **of: Any) -> Observation:
    return cast("Observation", Shown(text, **of))


async def no_command(_: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"ok": False, "error": {"kind": "usage", "what": "Nothing runs here."}}
