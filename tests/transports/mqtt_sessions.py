"""Sessions over MQTT without a broker, for the tests of the cores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

from s2connect.model.common import MQTT, NodeId, Role
from s2connect.transports.base import ConnectionInfo
from s2connect.transports.mqtt.admission import Admission, MqttOffer
from s2connect.transports.mqtt.channel import Channel, ClientChannel, ServerChannel
from s2connect.transports.mqtt.frames import Packet
from s2connect.transports.mqtt.parameters import (
    ChannelLimits,
    Event,
    Protection,
    SessionParameters,
    SessionToken,
    StaticSession,
)
from s2connect.transports.mqtt.topics import TopicSpace
from s2connect.transports.offers import OfferTable

SERVER = NodeId(UUID("6a5bd1b6-6d7e-4a5c-9d0e-0f5f7b1f2a31"))
CLIENT = NodeId(UUID("0d4c9a1e-3f7b-4a1e-8c55-9b9f3f0e7c12"))
MC = "gateway-7"
SID = "kS1xQ0b9V2mE7tYc4uWz8A"
BOOT = "b7Qm2Zr9"
TOKEN = SessionToken.from_bytes(bytes(range(32)))
OTHER_TOKEN = SessionToken.from_bytes(bytes(range(1, 33)))
SALT = bytes(range(64, 96))
SPACE = TopicSpace("acme")
VERSION = "v1.0.0"
MESSAGE = '{"message_type":"PowerMeasurement","message_id":"m-1","values":[]}'


def parameters(protection: Protection = Protection.SEALED, **changes: Any) -> SessionParameters:
    base = SessionParameters(
        space=SPACE,
        server=SERVER,
        client=CLIENT,
        client_role=Role.RM,
        mc=MC,
        sid=SID,
        protection=protection,
        versions=(VERSION,),
    )
    return replace(base, **changes)


def static_session(**changes: Any) -> StaticSession:
    values: dict[str, Any] = {
        "topic_prefix": "acme",
        "server": SERVER,
        "client": CLIENT,
        "mc": MC,
        "client_role": Role.RM,
        "versions": ("1.0.0", "0.0.2-beta"),
        "secret": TOKEN,
    }
    return StaticSession(**{**values, **changes})


def new_admission() -> Admission:
    """An admission without offers."""
    return Admission(SPACE, OfferTable())


def offering(offered: SessionParameters, *, now: float = 0.0) -> Admission:
    """An admission with one offer."""
    offers: OfferTable[tuple[MqttOffer, Any]] = OfferTable()
    info = ConnectionInfo(MQTT, offered.server, offered.client, VERSION)
    offers.add(offered.sid, (MqttOffer(info, offered, TOKEN), None), now=now)
    return Admission(SPACE, offers)


def new_pair(
    protection: Protection = Protection.SEALED, *, limits: ChannelLimits | None = None, now: float = 0.0
) -> tuple[ClientChannel, ServerChannel]:
    """A client that has published its ``open``, and the server that has not answered it yet."""
    admission = offering(parameters(protection, mc=""), now=now)
    client = ClientChannel(parameters(protection), token=TOKEN, boot=BOOT, limits=limits)
    client.start(now)
    (packet,) = client.packets()
    server = admission.receive(packet, now=now, salt=SALT, limits=limits)
    assert isinstance(server, ServerChannel)
    return client, server


def open_pair(
    protection: Protection = Protection.SEALED, *, limits: ChannelLimits | None = None, now: float = 0.0
) -> tuple[ClientChannel, ServerChannel]:
    """Two sides of a session that stands."""
    client, server = new_pair(protection, limits=limits, now=now)
    server.start(now)
    deliver(server, client, now)
    return client, server


def new_static_pair(
    session: StaticSession, server_session: StaticSession | None = None, *, sid: str = SID
) -> tuple[ClientChannel, ServerChannel]:
    """The same in static mode, with what each side has configured."""
    admission = new_admission()
    admission.add_static(server_session or session)
    client = ClientChannel(SessionParameters.of_static(session, sid), token=session.secret, boot=BOOT)
    client.start(0.0)
    server = admission.receive(client.packets()[0], now=0.0, salt=SALT)
    assert isinstance(server, ServerChannel)
    return client, server


def deliver(source: Channel, target: Channel, now: float = 0.0) -> list[Event]:
    """Carry everything that one side wants to publish to the other."""
    return [event for packet in source.packets() for event in target.receive(packet, now)]


def settle(one: Channel, other: Channel, now: float = 0.0) -> None:
    """Carry everything in both directions until both are silent."""
    for _ in range(10):
        waiting = [(other, one.packets()), (one, other.packets())]
        if not any(packets for _, packets in waiting):
            return
        for target, packets in waiting:
            for packet in packets:
                target.receive(packet, now)
    raise AssertionError("the two do not come to rest")


def changed(packet: Packet, **changes: Any) -> Packet:
    """A packet with other values."""
    values = {name: getattr(packet, name) for name in Packet.__struct_fields__}
    return Packet(**{**values, **changes})
