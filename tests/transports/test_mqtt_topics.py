from __future__ import annotations

import contextlib
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2connect.model.common import NodeId, Role
from s2connect.transports.mqtt.topics import (
    MAX_TOPIC_BYTES,
    Direction,
    InvalidTopic,
    TopicSpace,
    check_client_id,
    check_prefix,
    check_session_id,
    read_node_id,
)
from tests.transports.mqtt_sessions import CLIENT, MC, SERVER, SID, SPACE

node_ids = st.uuids().map(NodeId)
client_ids = st.from_regex(r"[A-Za-z0-9._:@-]{1,64}", fullmatch=True).filter(lambda mc: mc != "open")
session_ids = st.from_regex(r"[A-Za-z0-9_-]{16,36}", fullmatch=True)
prefixes = st.from_regex(r"[A-Za-z0-9._-]{1,20}(/[a-z0-9$]{1,20}){0,2}", fullmatch=True)


@pytest.mark.rule("MQ-03", "MQ-04")
@given(prefixes, node_ids, client_ids, node_ids, session_ids, st.sampled_from(Direction))
def test_session_topics_have_their_parts_as_levels(
    prefix: str, server: NodeId, mc: str, client: NodeId, sid: str, direction: Direction
) -> None:
    space = TopicSpace(prefix)
    topic = space.session(server, mc, client, sid, direction)
    assert topic == f"{prefix}/s2/0/{server}/{mc}/{client}/{sid}/{direction}"
    assert space.read_open(space.open(server)) == server
    with pytest.raises(InvalidTopic):
        space.read_open(topic)
    assert len(topic) <= MAX_TOPIC_BYTES


@pytest.mark.rule("MQ-03")
def test_a_prefix_of_one_level_gives_seven_slashes() -> None:
    assert SPACE.session(SERVER, MC, CLIENT, SID, Direction.RM2CEM).count("/") == 7


@pytest.mark.rule("MQ-03")
def test_the_longest_parts_give_a_topic_that_every_broker_takes() -> None:
    space = TopicSpace("p" * 64)
    assert len(space.session(SERVER, "m" * 64, CLIENT, "s" * 36, Direction.RM2CEM)) <= MAX_TOPIC_BYTES


@pytest.mark.rule("MQ-03")
@given(st.text(max_size=300))
def test_any_open_topic_is_read_or_refused(text: str) -> None:
    for topic in (text, f"acme/s2/0/{text}"):
        with contextlib.suppress(InvalidTopic):
            SPACE.read_open(topic)


@pytest.mark.parametrize(
    "topic",
    [
        f"acme/s2/1/{SERVER}/open",
        f"other/s2/0/{SERVER}/open",
        f"acme/s2/0/{SERVER}/open/",
        f"acme/s2/0/{str(SERVER).upper()}/open",
        f"acme/s2/0/{SERVER.hex}/open",
        "acme/s2/0/presence/open",
        "acme/s2/0/open",
        f"acme/s2/0/{SERVER}/{MC}/{CLIENT}/{SID}/rm2cem",
    ],
)
@pytest.mark.rule("MQ-03")
def test_a_topic_that_is_almost_right_is_refused(topic: str) -> None:
    with pytest.raises(InvalidTopic):
        SPACE.read_open(topic)


@pytest.mark.rule("MQ-03")
@pytest.mark.parametrize("prefix", ["a", "acme", "a/b/c", "site-7/s2", "x$y", "p" * 64])
def test_usable_prefixes(prefix: str) -> None:
    assert check_prefix(prefix) == prefix


@pytest.mark.rule("MQ-03")
@pytest.mark.parametrize(
    "prefix", ["", "/", "/a", "a/", "a//b", "a+", "#", "$SYS", "a b", "a\0b", "é", "p" * 65, "a\n"]
)
def test_prefixes_that_cannot_be_used(prefix: str) -> None:
    with pytest.raises(InvalidTopic):
        check_prefix(prefix)


@pytest.mark.rule("MQ-03")
@pytest.mark.parametrize("mc", ["", "open", "a/b", "+", "#", "a#", "a|b", "a b", "a\0", "ü", "m" * 65, "a\n"])
def test_client_ids_that_cannot_be_levels(mc: str) -> None:
    """``open`` would open the door to every ``…/open`` for a rule ``+/{mc}/#`` of an access list."""
    with pytest.raises(InvalidTopic):
        check_client_id(mc)
    with pytest.raises(InvalidTopic):
        SPACE.presence(mc)


@pytest.mark.rule("MQ-03")
@pytest.mark.parametrize("sid", ["", "s" * 15, "s" * 37, "s" * 15 + "|", "s" * 15 + "/", "s" * 16 + "\n"])
def test_session_ids_that_cannot_be_levels(sid: str) -> None:
    with pytest.raises(InvalidTopic):
        check_session_id(sid)


@pytest.mark.rule("MQ-03")
def test_one_subscription_serves_every_node_behind_a_gateway() -> None:
    wanted = SPACE.inbound(MC, Direction.CEM2RM).split("/")
    for client in (CLIENT, NodeId(UUID(int=7))):
        topic = SPACE.session(SERVER, MC, client, SID, Direction.CEM2RM).split("/")
        assert len(topic) == len(wanted)
        assert all(want in ("+", level) for want, level in zip(wanted, topic, strict=True))
    others = SPACE.session(SERVER, "gateway-8", CLIENT, SID, Direction.CEM2RM).split("/")
    assert not all(want in ("+", level) for want, level in zip(wanted, others, strict=True))


@pytest.mark.rule("MQ-11")
def test_instances_share_the_subscription_to_open() -> None:
    assert SPACE.shared_open(SERVER, "blue") == f"$share/blue/acme/s2/0/{SERVER}/open"
    with pytest.raises(InvalidTopic):
        SPACE.shared_open(SERVER, "a/b")


def test_directions_follow_from_roles() -> None:
    assert Direction.sent_by(Role.RM) is Direction.RM2CEM
    assert Direction.sent_by(Role.CEM) is Direction.CEM2RM
    assert Direction.RM2CEM.other is Direction.CEM2RM
    assert Direction.CEM2RM.other is Direction.RM2CEM


def test_spaces_of_one_prefix_are_equal() -> None:
    assert TopicSpace("a") == TopicSpace("a")
    assert len({TopicSpace("a"), TopicSpace("a"), TopicSpace("b")}) == 2
    assert "'a'" in repr(TopicSpace("a"))


@given(st.text(max_size=40))
def test_node_ids_have_one_spelling(text: str) -> None:
    with pytest.raises(InvalidTopic):
        read_node_id(text + "x")
