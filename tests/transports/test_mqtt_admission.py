from __future__ import annotations

import base64
import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2connect.errors import UsageError
from s2connect.model.common import NodeId
from s2connect.transports.mqtt import admission as admission_module
from s2connect.transports.mqtt.admission import (
    CONFIRM_SECONDS,
    MAX_UNCONFIRMED,
    REMEMBERED_SESSIONS,
    Admission,
    Ignored,
)
from s2connect.transports.mqtt.channel import ClientChannel, ServerChannel, State
from s2connect.transports.mqtt.frames import PLAIN_CONTROL, Packet
from s2connect.transports.mqtt.parameters import MAX_VERSIONS, CloseReason, Opened, Protection, SessionParameters
from s2connect.transports.mqtt.sealing import open_proof
from tests.strategies import json_values
from tests.transports.mqtt_sessions import (
    BOOT,
    CLIENT,
    MC,
    OTHER_TOKEN,
    SALT,
    SERVER,
    SID,
    SPACE,
    TOKEN,
    changed,
    deliver,
    new_admission,
    offering,
    parameters,
    static_session,
)

OTHER = NodeId(UUID(int=7))


def _open(**changes: Any) -> Packet:
    client = ClientChannel(parameters(**changes), token=TOKEN, boot=BOOT)
    client.start(0.0)
    (packet,) = client.packets()
    return packet


def _static_open(sid: str = SID, token: Any = TOKEN, **changes: Any) -> Packet:
    session = static_session(**{"secret": token, **changes})
    client = ClientChannel(SessionParameters.of_static(session, sid), token=token, boot=BOOT)
    client.start(0.0)
    return client.packets()[0]


def _with(packet: Packet, **members: Any) -> Packet:
    value = {**json.loads(packet.payload), **members}
    return changed(packet, payload=json.dumps({k: v for k, v in value.items() if v is not None}).encode())


def _offering() -> Admission:
    return offering(parameters(mc=""))


@pytest.mark.rule("MQ-11")
def test_the_client_of_an_offer_may_come_in_and_says_its_own_client_id() -> None:
    admission = _offering()
    channel = admission.receive(_open(mc="another"), now=1.0, salt=SALT)
    assert isinstance(channel, ServerChannel)
    assert channel.parameters.mc == "another"
    assert "/another/" in channel.inbound_topic
    assert channel.start(1.0) == [Opened("v1.0.0")]


@pytest.mark.rule("MQ-02", "MQ-11")
def test_an_offer_is_taken_once() -> None:
    admission = _offering()
    assert isinstance(admission.receive(_open(), now=1.0, salt=SALT), ServerChannel)
    assert admission.receive(_open(), now=1.0, salt=SALT) is Ignored.UNKNOWN


@pytest.mark.rule("MQ-02")
def test_a_token_is_void_after_30_seconds() -> None:
    admission = _offering()
    assert admission.receive(_open(), now=30.0, salt=SALT) is Ignored.UNKNOWN


@pytest.mark.rule("MQ-11")
@pytest.mark.parametrize(
    "members",
    [
        {"mc": "another"},
        {"boot": "another-boot"},
        {"client": str(OTHER)},
        {"proof": None},
        {"proof": ""},
        {"proof": "A" * 43 + "="},
        {"versions": ["1.0.0"]},
    ],
)
def test_an_open_with_a_wrong_proof_is_ignored_and_the_offer_stays(members: dict[str, Any]) -> None:
    admission = _offering()
    assert admission.receive(_with(_open(), **members), now=1.0, salt=SALT) is Ignored.PROOF
    assert isinstance(admission.receive(_open(), now=1.0, salt=SALT), ServerChannel)


@pytest.mark.rule("MQ-11")
@pytest.mark.parametrize(
    "members",
    [
        {"sid": None},
        {"sid": "short"},
        {"server": str(OTHER)},
        {"server": 7},
        {"client": "x"},
        {"mc": "a/b"},
        {"boot": "a|b"},
        {"proof": 7},
        {"proof": "=="},
        {"versions": []},
        {"versions": ["a|b"]},
        {"versions": [1]},
        {"versions": "1.0.0"},
        {"versions": ["1"] * (MAX_VERSIONS + 1)},
    ],
)
def test_an_open_that_cannot_be_read_is_ignored(members: dict[str, Any]) -> None:
    admission = _offering()
    assert admission.receive(_with(_open(), **members), now=1.0, salt=SALT) is Ignored.MALFORMED


@pytest.mark.rule("MQ-11")
def test_a_right_proof_for_another_node_of_the_server_opens_nothing() -> None:
    """The proof does not cover the nodes; the offer does."""
    admission = _offering()
    other = changed(_with(_open(), server=str(OTHER)), topic=SPACE.open(OTHER))
    assert admission.receive(other, now=1.0, salt=SALT) is Ignored.PROOF
    assert isinstance(admission.receive(_open(), now=1.0, salt=SALT), ServerChannel)


@pytest.mark.rule("MQ-11")
def test_an_offer_has_its_version_and_an_open_with_others_does_not_fit_whatever_its_proof() -> None:
    proof = base64.b64encode(open_proof(TOKEN, SID, MC, BOOT, ("1.0.0",))).decode()
    assert _offering().receive(_with(_open(), versions=["1.0.0"], proof=proof), now=1.0, salt=SALT) is Ignored.PROOF


@pytest.mark.rule("MQ-11")
@given(st.dictionaries(st.sampled_from(["sid", "client", "server", "mc", "boot", "proof", "versions"]), json_values))
def test_any_open_is_ignored_or_opens(value: dict[str, Any]) -> None:
    packet = Packet(SPACE.open(SERVER), json.dumps(value).encode(), PLAIN_CONTROL, (("s2-frame", "open"),))
    assert isinstance(_offering().receive(packet, now=1.0, salt=SALT), Ignored)


@pytest.mark.rule("MQ-11")
def test_only_open_frames_on_an_open_topic_are_read() -> None:
    admission = _offering()
    good = _open()
    for packet in (
        changed(good, topic=SPACE.presence(MC)),
        changed(good, topic="elsewhere"),
        changed(good, content_type="application/vnd.s2-sealed"),
        changed(good, user_properties=(("s2-frame", "ping"), ("s2-seq", "1"))),
    ):
        assert admission.receive(packet, now=1.0, salt=SALT) is Ignored.MALFORMED


@pytest.mark.rule("MQ-11")
def test_an_instance_that_does_not_know_the_session_ignores_the_open() -> None:
    assert new_admission().receive(_open(), now=1.0, salt=SALT) is Ignored.UNKNOWN


# Static mode


def _static_admission() -> Admission:
    admission = new_admission()
    admission.add_static(static_session())
    return admission


def _let_in(admission: Admission, packet: Packet, now: float) -> ServerChannel:
    channel = admission.receive(packet, now=now, salt=SALT)
    assert isinstance(channel, ServerChannel)
    return channel


def _confirm(server: ServerChannel, sid: str, now: float, **changes: Any) -> ClientChannel:
    """Open a session whose ``open`` was let in, as its client does."""
    client = ClientChannel(SessionParameters.of_static(static_session(**changes), sid), token=TOKEN, boot=BOOT)
    client.start(now)
    client.packets()
    server.start(now)
    deliver(server, client, now)
    deliver(client, server, now)
    assert server.state is State.OPEN
    return client


def _sid(number: int) -> str:
    return f"session-id-{number:05}"


@pytest.mark.rule("MQ-19")
def test_a_configured_client_may_come_in_again_and_again_but_not_with_the_same_open() -> None:
    admission = _static_admission()
    _let_in(admission, _static_open(), 0.0)
    assert admission.receive(_static_open(), now=5.0, salt=SALT) is Ignored.REPEATED
    _let_in(admission, _static_open(_sid(2)), 5.0)
    admission.remove_static(static_session())
    assert admission.receive(_static_open(_sid(4)), now=50.0, salt=SALT) is Ignored.UNKNOWN


@pytest.mark.rule("MQ-19")
def test_an_open_is_remembered_when_its_session_is_over() -> None:
    admission = _static_admission()
    server = _let_in(admission, _static_open(), 0.0)
    server.start(0.0)
    server.tick(10.0)
    assert server.state is State.CLOSED
    _let_in(admission, _static_open(_sid(1)), 11.0)
    assert admission.receive(_static_open(), now=12.0, salt=SALT) is Ignored.REPEATED


@pytest.mark.rule("MQ-19")
@pytest.mark.parametrize("replayed", [6, MAX_UNCONFIRMED, 10 * MAX_UNCONFIRMED])
def test_old_opens_that_are_published_again_keep_no_honest_client_out(replayed: int) -> None:
    """A server that has started anew knows none of them, and nobody can confirm them: they lack the keys."""
    admission = _static_admission()
    for number in range(replayed):
        admission.receive(_static_open(_sid(number)), now=0.0, salt=SALT)
    server = _let_in(admission, _static_open(), CONFIRM_SECONDS)
    _confirm(server, SID, CONFIRM_SECONDS)


@pytest.mark.rule("MQ-19")
def test_sessions_that_nobody_confirms_are_bounded_and_the_newer_takes_the_place_of_the_oldest() -> None:
    admission = _static_admission()
    waiting = [_let_in(admission, _static_open(_sid(number)), number / 100) for number in range(MAX_UNCONFIRMED)]
    assert admission.receive(_static_open(), now=CONFIRM_SECONDS - 0.01, salt=SALT) is Ignored.TOO_MANY
    assert admission.displaced() == []
    newest = _let_in(admission, _static_open(), CONFIRM_SECONDS)
    assert admission.displaced() == [waiting[0]]
    assert admission.displaced() == []
    assert waiting[0].state is State.CLOSED
    assert waiting[0].packets() == []
    assert {channel.state for channel in [*waiting[1:], newest]} == {State.NEW}
    with pytest.raises(UsageError):
        waiting[0].start(CONFIRM_SECONDS)


@pytest.mark.rule("MQ-19")
@settings(max_examples=50)
@given(st.integers(1, 2000), st.floats(0.0, 0.9))
def test_every_open_that_was_let_in_has_its_second_to_be_confirmed_however_many_come(rate: int, after: float) -> None:
    admission = _static_admission()
    for number in range(3 * MAX_UNCONFIRMED):
        admission.receive(_static_open(_sid(number)), now=number / rate, salt=SALT)
    now = 3 * MAX_UNCONFIRMED / rate + CONFIRM_SECONDS
    server = _let_in(admission, _static_open(), now)
    for number in range(100, 100 + 2 * MAX_UNCONFIRMED):
        admission.receive(_static_open(_sid(number)), now=now + after, salt=SALT)
    _confirm(server, SID, now + after)


@pytest.mark.rule("MQ-19")
def test_replays_for_one_pair_of_nodes_take_the_place_of_no_other_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission_module, "MAX_UNCONFIRMED_IN_ALL", MAX_UNCONFIRMED)
    admission = _static_admission()
    admission.add_static(static_session(client=OTHER))
    other = static_session(client=OTHER)
    honest = _let_in(admission, _static_open(client=OTHER), 0.0)
    for number in range(5 * MAX_UNCONFIRMED):
        admission.receive(_static_open(_sid(number)), now=number / 10, salt=SALT)
    assert honest not in admission.displaced()
    assert honest.state is State.NEW
    # all places are taken by the other pair: the honest one takes one of them
    later = 5 * MAX_UNCONFIRMED / 10 + CONFIRM_SECONDS
    again = _let_in(admission, _static_open(_sid(9999), client=OTHER), later)
    _confirm(again, _sid(9999), later, client=other.client)


@pytest.mark.rule("MQ-19", "MQ-10")
def test_the_open_of_a_session_that_stands_opens_nothing_however_many_came_since() -> None:
    """It would take over the topic of the session that stands, and end it with its own end."""
    admission = _static_admission()
    server = _let_in(admission, _static_open(), 0.0)
    client = _confirm(server, SID, 0.0)
    for number in range(2 * REMEMBERED_SESSIONS):
        _let_in(admission, _static_open(_sid(number)), 20.0 * (number + 1))
    assert admission.receive(_static_open(), now=1e5, salt=SALT) is Ignored.REPEATED
    client.close(CloseReason.NORMAL, 1e5)
    deliver(client, server, 1e5)
    _let_in(admission, _static_open(), 1e5 + 20)


@pytest.mark.rule("MQ-19")
@pytest.mark.parametrize(
    "changes",
    [
        {"token": OTHER_TOKEN},
        {"mc": "another"},
        {"token": None, "protection": Protection.PLAIN},
    ],
)
def test_a_client_that_is_configured_otherwise_is_ignored(changes: dict[str, Any]) -> None:
    admission = new_admission()
    admission.add_static(static_session())
    assert admission.receive(_static_open(**changes), now=0.0, salt=SALT) is Ignored.PROOF


@pytest.mark.rule("MQ-19")
def test_where_no_secret_is_configured_a_client_with_one_is_configured_otherwise() -> None:
    admission = new_admission()
    admission.add_static(static_session(protection=Protection.PLAIN, secret=None))
    assert admission.receive(_static_open(protection=Protection.PLAIN), now=0.0, salt=SALT) is Ignored.PROOF
    _let_in(admission, _static_open(token=None, protection=Protection.PLAIN), 0.0)


@pytest.mark.rule("MQ-19")
def test_nobody_takes_a_version_away_on_the_way() -> None:
    admission = new_admission()
    admission.add_static(static_session())
    weaker = _with(_static_open(), versions=["0.0.2-beta"])
    assert admission.receive(weaker, now=0.0, salt=SALT) is Ignored.PROOF


@pytest.mark.rule("MQ-19")
def test_an_open_of_s2_connect_is_none_of_static_mode() -> None:
    admission = new_admission()
    admission.add_static(static_session())
    assert admission.receive(_open(), now=0.0, salt=SALT) is Ignored.PROOF


def test_a_pair_of_nodes_is_configured_once_and_under_the_prefix() -> None:
    admission = new_admission()
    admission.add_static(static_session())
    for session in (static_session(mc="other"), static_session(topic_prefix="else", client=OTHER)):
        with pytest.raises(UsageError):
            admission.add_static(session)
    assert static_session().client == CLIENT
