"""A made-up observation in which everything that the page can show is there once, with one text at every place."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints
from uuid import UUID

from s2connect import NodeDescription, NodeId, Role
from s2connect.events import PairingAnnounced
from s2connect.web.facts import (
    CertificateFacts,
    CodeFacts,
    Curve,
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
)
from s2connect.web.observation import Observation

OWN = NodeId(UUID(int=1))


def node(text: str, number: int, role: Role) -> NodeDescription:
    return NodeDescription(
        id=NodeId(UUID(int=number)), brand=text, type=text, model_name=text, user_defined_name=text, role=role
    )


def filled(kind: Any, text: str, at: datetime, /, **given: Any) -> Any:
    """Return a value of a type: every text in it is ``text``, every time ``at``, and every list has one element."""
    if isinstance(kind, type) and is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{name: filled(of, text, at) for name, of in hints.items() if name not in given}, **given)
    if kind is NodeDescription:
        return node(text, 7, Role.RM)
    known = {str: text, datetime: at, bool: True, int: 1, float: 3.2, NodeId: OWN, Mapping[str, int]: {"OTHER": 1}}
    if kind in known:
        return known[kind]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return next(iter(kind))
    origin, (first, *_) = get_origin(kind), get_args(kind)  # of a Literal, a tuple, or what may be None
    made = first if origin is Literal else filled(first, text, at)
    return (made,) if origin is tuple else made


def snapshot(text: str, *, kind: Any = "bridge", peers: int = 7, links: int = 1) -> Snapshot:
    at, states = datetime.now(UTC), list(PeerState)

    def of(kind: Any, /, **given: Any) -> Any:
        return filled(kind, text, at, **given)

    def side(role: Role, number: int, **given: Any) -> SideFacts:
        key = f"{text}/{number}/{role.lower()}"
        return cast("SideFacts", of(SideFacts, key=key, role=role, peer=None, **given))

    def peer(number: int) -> PeerFacts:
        state = states[number % len(states)]
        there = {"missing": "", "helps": ""} if state is PeerState.CONNECTED else {"connection": None}
        about = node(text, 100 + number, Role.RM)
        return cast("PeerFacts", of(PeerFacts, key=f"{text}{number}", peer=about, state=state, **there))

    def link(number: int) -> LinkFacts:
        device = side(Role.RM, number, opens="peer")
        manager = side(Role.CEM, number, opens="", paired=False, connected=False, connection=None)
        return cast("LinkFacts", of(LinkFacts, key=f"{text}/{number}", state="failed", device=device, manager=manager))

    own = of(NodeFacts, role=Role.CEM, alias=None, description=node(text, 1, Role.CEM), code=CodeFacts(helps=text))
    found = of(
        FoundFacts,
        pairing_url="https://found.local:8443/pairing/",
        nodes=(node(text, 4, Role.RM),),
        ours=False,
        paired=False,
    )
    made = of(
        Snapshot,
        service=of(ServiceFacts, kind=kind, pairing_url="https://hub.local:8443/pairing/", session_url=""),
        certificate=of(CertificateFacts, left=0.0, own_ca=False),
        nodes=(own,),
        peers=tuple(map(peer, range(peers))),
        links=tuple(map(link, range(links))),
        routes=(of(RouteFacts, links=links, up=0, node=None),),
        found=(found,),
        found_note="",
        waiting=(node(text, 5, Role.RM),),
        **{f"more_{name}": 0 for name in ("peers", "links", "found")},
    )
    return cast("Snapshot", made)


class Shown:
    """Stands for an observation."""

    def __init__(self, text: str, **of: Any) -> None:
        self._snapshot = snapshot(text, **of)
        self._text = text
        self._seen: list[Seen] | None = None
        self._curves: list[Curve] | None = None
        self.bridge = None
        self.leaves_out = False
        self.announced = {OWN: PairingAnnounced(node=OWN, peer=node(text, 6, Role.RM), peer_endpoint=None)}
        self.codes: dict[object, object] = {}

    async def read_codes(self) -> None:
        """There are none."""

    def snapshot(self) -> Snapshot:
        return self._snapshot

    def mark(self) -> tuple[int, int]:
        return 0, 0

    async def changed(self, mark: object = None) -> None:
        await asyncio.sleep(1)

    def messages(self, *_: Any, **__: Any) -> list[Seen]:
        if self._seen is not None:
            return self._seen
        text = self._text
        one = {"at": self._snapshot.at, "key": "a", "title": text, "type": text, "status": text, "size": 9}
        return [
            Seen(number=1, direction="received", text=text, **one),  # type: ignore[arg-type]
            Seen(number=2, direction="sent", text='{"message_type": "PowerMeasurement"}', **one),  # type: ignore[arg-type]
        ]

    def look_at(self, keys: object) -> None:
        """Take note of nothing."""

    def curves(self) -> list[Curve]:
        if self._curves is not None:
            return self._curves
        at = self._snapshot.at.timestamp()
        points = tuple(Point(at=at - 60 * ago, low=ago, high=2 * ago, last=ago) for ago in range(50, 0, -1))
        quantities = ("ELECTRIC.POWER.L1", self._text)
        return [
            Curve(key="a", title=self._text, quantity=one, unit="W", step=60.0, points=points) for one in quantities
        ]


def shown(text: str, **of: Any) -> Observation:
    return cast("Observation", Shown(text, **of))


async def no_command(_: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"ok": False, "error": {"kind": "usage", "what": "Nothing runs here."}}


def _switched_on(watts: float) -> Callable[[float], float]:
    return lambda ago: 0.0 if ago > 2500 else watts


def house(*, kind: Any = "serve") -> Observation:
    """Return a house as it may be: two devices that are there, one that is not, one more in the network."""
    made = Shown("x", kind=kind)
    base = made._snapshot
    known, now = base.peers[0], base.at
    assert known.connection is not None

    def peer(number: int, name: str, kind: str, brand: str, **of: Any) -> PeerFacts:
        about = NodeDescription(
            id=NodeId(UUID(int=number)), brand=brand, type=kind, model_name="S1", user_defined_name=name, role=Role.RM
        )
        return replace(known, key=name, peer=about, endpoint_name="", paired_since=now - timedelta(days=40), **of)

    connection = replace(known.connection, protocol="WebSocket", s2_version="v1.0.0", address="192.168.1.20")
    quiet = Traffic(received=4211, sent=182, received_last_minute=6, sent_last_minute=1, slowest_acknowledgement=0.021)
    label = "FRBC-03: the operation mode is not one of the active actuator"
    refusal = Refusal(at=now, by="us", type="FRBC.ActuatorStatus", status="INVALID_CONTENT", label=label)
    peers = (
        peer(
            3,
            "Car charger",
            "Charger",
            "Voltline",
            state=PeerState.WAITING,
            connection=None,
            since=now - timedelta(minutes=12),
            last_connected=now - timedelta(minutes=12),
            missing="The car charger has not connected for 12 minutes.",
            helps="It connects to this machine by itself. Is it on, and in this network?",
            tries=Tries(),
            traffic=replace(quiet, received_last_minute=0, sent_last_minute=0),
        ),
        peer(1, "Heat pump", "Heat pump", "Warmwell", connection=connection, traffic=quiet, missing="", helps=""),
        peer(
            2,
            "Battery in the cellar",
            "Battery",
            "Acme",
            connection=replace(connection, address="192.168.1.31", heard_ago=0.4),
            traffic=replace(quiet, refused_by_us={"INVALID_CONTENT": 1}, refusals=(refusal,)),
            missing="",
            helps="",
        ),
    )
    own = NodeDescription(id=OWN, brand="Acme", type="Energy manager", model_name="Hub", role=Role.CEM)
    solar = NodeDescription(id=NodeId(UUID(int=9)), brand="Helio", type="PV inverter", model_name="8k", role=Role.RM)
    made._snapshot = replace(
        base,
        service=replace(base.service, name="House", host="hub.local", advertised="hub", not_found="", version="1.0"),
        certificate=None,
        nodes=(NodeFacts(id=OWN, role=Role.CEM, alias=None, description=own, code=CodeFacts()),),
        peers=peers,
        routes=(),
        links=(),
        ended=(),
        found=(
            replace(
                base.found[0],
                name="Solar roof",
                instance="solar",
                pairing_url="https://solar-roof.local:8443/pairing/",
                nodes=(solar,),
            ),
        ),
        waiting=(),
        warnings=(),
    )
    at = now.timestamp()

    def points(value: Callable[[float], float]) -> tuple[Point, ...]:
        values = [(at - 20.0 * ago, value(20.0 * ago)) for ago in range(180, 0, -1)]
        return tuple(Point(at=when, low=watts, high=watts, last=watts) for when, watts in values)

    def measured(key: str, quantity: str, value: Callable[[float], float]) -> Curve:
        return Curve(key=key, title=key, quantity=quantity, unit="W", step=20.0, points=points(value))

    made.announced = {}
    made._curves = [
        measured("Battery in the cellar", "ELECTRIC.POWER.L1", lambda ago: round(2400 * math.sin(ago / 500))),
        *(measured("Heat pump", f"ELECTRIC.POWER.L{phase}", _switched_on(700.0 + 90 * phase)) for phase in (1, 2, 3)),
    ]
    text = '{"message_type": "PowerMeasurement", "message_id": "1c7a", "values": []}'
    one = Seen(
        number=1,
        at=now,
        key="a",
        title="Heat pump",
        direction="received",
        type="PowerMeasurement",
        status="",
        size=len(text),
        text=text,
    )
    made._seen = [
        replace(one, direction="sent", title="Battery in the cellar", type="FRBC.Instruction"),
        replace(one, number=2, title="Battery in the cellar", type="FRBC.StorageStatus"),
        replace(one, number=3),
    ]
    return cast("Observation", made)
