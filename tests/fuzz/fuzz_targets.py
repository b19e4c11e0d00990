"""Fuzz targets: each gives one input to a part that a stranger or a peer reaches, and checks what comes back."""

from __future__ import annotations

import base64
import contextlib
import json
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning

from s2connect.certs.authority import CertificateAuthority
from s2connect.certs.chain import CapturedChain
from s2connect.certs.fingerprint import parse_fingerprint_map
from s2connect.discovery.endpoint_table import EndpointTable
from s2connect.discovery.txt import Txt, TxtRefused, decode_txt, encode_txt
from s2connect.errors import CertificateRefused, InvalidPairingCode, InvalidUrl
from s2connect.https.server import MAX_BODY_BYTES
from s2connect.messages.catalogue import BETA, V1
from s2connect.messages.conversation import Conversation
from s2connect.messages.envelope import HANDSHAKES, InvalidMessage, read_message
from s2connect.messages.handshake import PlainHandshake
from s2connect.model import pairing, registry, session_init
from s2connect.model.common import MalformedMessage, NodeDescription, Role, Wire, read_list
from s2connect.model.reply import Reply
from s2connect.model.secret import AccessToken, PairingAttemptId
from s2connect.model.session_init import InitiateSession, Unpair
from s2connect.model.url import BaseUrl, WebSocketUrl
from s2connect.pairing.code import PairingCode
from s2connect.pairing.lan_core import LanOperations
from s2connect.pairing.long_poll_core import LongPollServer
from s2connect.session.server_core import key_of, read_request
from s2connect.transports.base import MAX_MESSAGE_BYTES
from s2connect.transports.mqtt.parameters import Protection
from s2connect.transports.mqtt.publish import (
    MalformedPublish,
    UnusablePublish,
    read_head,
    read_puback,
    read_publish,
    write_publish,
)
from tests.messages import rule_examples
from tests.pairing import pairing_fixtures as fixtures
from tests.transports import mqtt_sessions

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
STATUSES = frozenset({200, 204, 400, 401, 403, 429, 503})
"""HTTP statuses that a stranger's request may be answered with by the cores."""


class Target(NamedTuple):
    """One part under test.

    Attributes:
        run: Takes one input. Whatever it raises is a finding.
        max_bytes: Longest input that reaches this part.
        seeds: Valid inputs to begin with.
        variants: First bytes that select what the rest is given to; empty where there is nothing to select.
    """

    run: Callable[[bytes], None]
    max_bytes: int
    seeds: Callable[[], Iterator[bytes]]
    variants: bytes = b""


# Requests of strangers to the HTTPS server


def _check(reply: object) -> None:
    assert not isinstance(reply, Reply) or reply.status in STATUSES


def pairing_requests(data: bytes) -> None:
    """The four operations of pairing; the first byte selects one, at an attempt that has begun."""
    setup = fixtures.PairingSetup()
    body = data[1:]
    match data[:1]:
        case b"d":
            _check(setup.begin(role="RM").request_details(body=body))
        case b"p":
            server = fixtures.PairingSetup(fixtures.endpoint(Role.RM))
            _check(server.begin(role="CEM").post_details(body=body))
        case b"f":
            attempt = setup.begin()
            attempt.request_details()
            attempt.finalize(body)
        case _:
            queued = setup.queue(body)
            _check(queued)
            if not isinstance(queued, Reply):
                _check(setup.answer(queued))


def pairing_seeds() -> Iterator[bytes]:
    yield b"r" + fixtures.dump(fixtures.request())
    yield b"r" + fixtures.dump(fixtures.request(nodeId=str(fixtures.SERVER_ID), forcePairing=True))
    attempt = fixtures.PairingSetup().begin()
    yield b"d" + fixtures.dump({"serverHmacChallengeResponse": attempt.proof()})
    yield b"p" + fixtures.PairingSetup(fixtures.endpoint(Role.RM)).begin(role="CEM").post_body()
    yield b'f{"success":true}'


def session_requests(data: bytes) -> None:
    """``initiateSession`` and ``unpair``, and bearers."""
    for understood in (read_request(InitiateSession, data), read_request(Unpair, data)):
        if isinstance(understood, Reply):
            assert understood.status == 400
        else:
            key_of(understood)
    text = data[:4096].decode("latin-1")
    for bearer in (AccessToken, PairingAttemptId):
        with contextlib.suppress(ValueError):
            bearer(text)


def session_seeds() -> Iterator[bytes]:
    ids = {"clientNodeId": str(fixtures.CLIENT_ID), "serverNodeId": str(fixtures.SERVER_ID)}
    yield fixtures.dump(ids)
    lists = {"supportedCommunicationProtocols": ["WebSocket"], "supportedS2MessageVersions": ["v1.0.0"]}
    yield fixtures.dump({**ids, **lists})


def lan_requests(data: bytes) -> None:
    """``preparePairing``, ``cancelPreparePairing`` and ``waitForPairing``."""
    own = fixtures.endpoint()
    core = LanOperations(lambda: own)
    _check(core.prepare_pairing(data, address="127.0.0.1", ready=True, now=1.0))
    _check(core.cancel_prepare_pairing(data, now=2.0))
    LongPollServer().wait(data, address="127.0.0.1", offered=True, now=1.0)


def lan_seeds() -> Iterator[bytes]:
    request = fixtures.request()
    described = {k: request[k] for k in ("clientNodeDescription", "clientEndpointDescription")}
    yield fixtures.dump({**described, "serverNodeId": str(fixtures.SERVER_ID)})
    yield fixtures.dump({"clientNodeId": str(fixtures.CLIENT_ID), "serverNodeId": str(fixtures.SERVER_ID)})
    yield fixtures.dump([{"clientNodeId": str(fixtures.CLIENT_ID), **described}])


# Answers of servers that are not trusted yet, and what people and networks say

WIRE: tuple[type[Wire], ...] = tuple(
    kind
    for module in (pairing, registry, session_init)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, Wire) and kind is not Wire
)


def server_answers(data: bytes) -> None:
    """An object of S2 Connect, or a list of descriptions; what is read can be written and read again."""
    selected = data[0] if data else 0
    try:
        if selected >= len(WIRE):
            read_list(data[1:], NodeDescription)
            return
        kind = WIRE[selected]
        value = kind.from_json(data[1:])
    except MalformedMessage:
        return
    assert kind.from_json(value.to_json()) == value


def server_seeds() -> Iterator[bytes]:
    details = {"communicationProtocol": "WebSocket", "websocketUrl": "wss://a.local:1/x"}
    answers = [
        *(seed[1:] for seed in pairing_seeds()),
        *session_seeds(),
        *lan_seeds(),
        fixtures.dump({**details, "websocketToken": base64.b64encode(bytes(32)).decode()}),
    ]
    for selected in range(len(WIRE) + 1):
        yield from (bytes((selected,)) + answer for answer in answers)


def texts(data: bytes) -> None:
    """URLs, pairing codes and fingerprints."""
    text = data.decode("utf-8", "surrogateescape")
    for kind in (BaseUrl, WebSocketUrl, BaseUrl.from_user):
        try:
            kind(text)
        except InvalidUrl:
            continue
    with contextlib.suppress(InvalidPairingCode):
        PairingCode.parse(text)
    with contextlib.suppress(ValueError):
        parse_fingerprint_map({"SHA256": text})


def text_seeds() -> Iterator[bytes]:
    yield from (
        b"https://ems.local:8443/pairing/",
        b"wss://[fe80::1%25eth0]:8443/session/websocket",
        b"b\xc3\xbc.local",
    )
    yield from (b"1-7K4XABCDEFGHJ", b"sha256 " + b"ab:" * 31 + b"ab")


def advertisements(data: bytes) -> None:
    """TXT records, and names of services and hosts in the local network."""
    with contextlib.suppress(TxtRefused):
        decode_txt(data)
    table = EndpointTable()
    name = data[:300].decode("utf-8", "replace")
    table.pointer(name, Role.CEM, 120.0, 1.0)
    table.service(name, name, 120.0, 1.0)
    table.text(name, data, 120.0, 1.0)
    table.addresses(name, ["fe80::1%2", "10.0.0.1"], 120.0, 1.0, whole=True)
    for now in (2.0, 100.0, 200.0):
        table.tick(now)


def advertisement_seeds() -> Iterator[bytes]:
    url = BaseUrl("https://ems.local:8443/pairing/")
    yield encode_txt(Txt(name="EMS", logo_url="https://ems.local/logo", pairing_url=url, longpolling_url=url))
    yield b"ems._s2connect._tcp.local."


def certificates(data: bytes) -> None:
    """The chain that a server shows: the leaf, a length before it, and the root."""
    size = int.from_bytes(data[:2], "big")
    leaf, root = data[2 : 2 + size], data[2 + size :]
    chain = CapturedChain(leaf, root or None, "127.0.0.1")
    with contextlib.suppress(CertificateRefused), warnings.catch_warnings():
        # A serial number below one is read, for now: cryptography says that it will refuse it.
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        chain.check_self_signed("ems.local", MOMENT)


def certificate_seeds() -> Iterator[bytes]:
    authority = CertificateAuthority.create("fuzz", now=MOMENT)
    chain = x509.load_pem_x509_certificates(authority.issue(["ems.local"], now=MOMENT).chain_pem)
    leaf, root = (certificate.public_bytes(Encoding.DER) for certificate in chain)
    yield len(leaf).to_bytes(2, "big") + leaf + root


# MQTT


def mqtt_packets(data: bytes) -> None:
    """A PUBLISH to ``open`` and to the topic of a session without sealing, which co-tenants of a broker can send."""
    with contextlib.suppress(MalformedPublish):
        read_puback(data)
    command, rest = (data[0], data[1:]) if data else (0x30, b"")
    try:
        packet = read_publish(command, rest, read_head(command, rest))
    except (MalformedPublish, UnusablePublish):
        return
    admission = mqtt_sessions.offering(mqtt_sessions.parameters(mc=""))
    admission.add_static(mqtt_sessions.static_session())
    admission.receive(packet, now=1.0, salt=mqtt_sessions.SALT)
    for protection in Protection:
        client, server = mqtt_sessions.open_pair(protection)
        for channel in (client, server):
            channel.receive(packet, 1.0)
            channel.packets()
            channel.tick(2.0)


def mqtt_seeds() -> Iterator[bytes]:
    client, server = mqtt_sessions.new_pair(Protection.PLAIN)
    server.start(0.0)
    packets = server.packets()
    for packet in packets:
        client.receive(packet, 0.0)
    client.send(mqtt_sessions.MESSAGE, 0.0)
    fresh, _ = mqtt_sessions.new_pair()
    for packet in (*packets, *client.packets(), *fresh.packets()):
        yield _without_length(write_publish(packet, 1))
    yield b"\x00\x01\x10"


def _without_length(raw: bytes) -> bytes:
    """The packet without its remaining length, as the codec is given it."""
    at = 1
    while raw[at] > 127:
        at += 1
    return raw[:1] + raw[at + 1 :]


# S2 messages: of plain S2 visitors and of paired peers


def session_messages(data: bytes) -> None:
    """A message in a session of either version."""
    try:
        message = read_message(data[1:].decode("utf-8", "replace"))
    except InvalidMessage:
        return
    conversation = Conversation(BETA if data[:1] in b"bc" else V1)
    sender = Role.CEM if data[:1] in b"cC" else Role.RM
    verdict = conversation.validate(sender, message, now=MOMENT)
    assert verdict.label is None or len(verdict.label) < 10_000
    conversation.accepted(sender, message, now=MOMENT)


def handshakes(data: bytes) -> None:
    """Two texts of a visitor in the handshake of plain S2."""
    role = Role.CEM if data[:1] == b"c" else Role.RM
    handshake = PlainHandshake(role, message_ids=("m-1", "m-2"), now=0.0)
    for text in data[1:].decode("utf-8", "replace").split("\n", 1):
        handshake.received(text)


def message_seeds() -> Iterator[bytes]:
    status = {"message_type": "ReceptionStatus", "subject_message_id": "m-1", "status": "OK"}
    for selected in (b"c", b"b", b"C", b"B"):
        yield selected + json.dumps(status).encode()
        for name in rule_examples.TEMPLATES:
            if name not in HANDSHAKES:
                yield selected + rule_examples.build(name).to_json().encode()


def handshake_seeds() -> Iterator[bytes]:
    handshake = {"message_type": "Handshake", "message_id": "m-3", "role": "RM"}
    first = json.dumps({**handshake, "supported_protocol_versions": ["0.0.2-beta"]}).encode()
    response = {"message_type": "HandshakeResponse", "message_id": "m-4", "selected_protocol_version": "0.0.2-beta"}
    status = {"message_type": "ReceptionStatus", "subject_message_id": "m-1", "status": "OK"}
    for second in (response, status, {"message_type": "SessionRequest", "message_id": "m-5", "request": "TERMINATE"}):
        yield from (selected + first + b"\n" + json.dumps(second).encode() for selected in (b"c", b"r"))


TARGETS: dict[str, Target] = {
    "pairing_requests": Target(pairing_requests, MAX_BODY_BYTES, pairing_seeds, b"rdpf"),
    "session_requests": Target(session_requests, MAX_BODY_BYTES, session_seeds),
    "lan_requests": Target(lan_requests, MAX_BODY_BYTES, lan_seeds),
    "server_answers": Target(server_answers, MAX_BODY_BYTES, server_seeds, bytes(range(len(WIRE) + 1))),
    "texts": Target(texts, 8192, text_seeds),
    "advertisements": Target(advertisements, 9000, advertisement_seeds),
    "certificates": Target(certificates, 64 * 1024, certificate_seeds),
    "mqtt_packets": Target(mqtt_packets, MAX_MESSAGE_BYTES, mqtt_seeds),
    "session_messages": Target(session_messages, MAX_MESSAGE_BYTES, message_seeds, b"cbCB"),
    "handshakes": Target(handshakes, MAX_MESSAGE_BYTES, handshake_seeds, b"cr"),
}
