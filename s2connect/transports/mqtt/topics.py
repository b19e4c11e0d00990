"""Topics of S2 over MQTT (MQ-03), built from checked parts. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from s2connect.model.common import NodeId, Role

MAX_TOPIC_BYTES = 256
"""Longest topic of this binding, the tightest limit of the big brokers. With the bounds below none can be longer."""

MAX_PREFIX_CHARACTERS = 64
_is_prefix = re.compile(r"(?!\$)[!-\"$-*,-.0-~]+(?:/[!-\"$-*,-.0-~]+)*").fullmatch
_is_client_id = re.compile(r"[A-Za-z0-9._:@-]{1,64}").fullmatch
_is_session_id = re.compile(r"[A-Za-z0-9_-]{16,36}").fullmatch
_is_group = re.compile(r"[A-Za-z0-9._-]{1,64}").fullmatch

_OPEN = "open"


class InvalidTopic(ValueError):
    """A topic, or a part of one, is not of this binding. The text never repeats it."""


class Direction(StrEnum):
    """Direction of the frames on a session's topic."""

    RM2CEM = "rm2cem"
    CEM2RM = "cem2rm"

    @classmethod
    def sent_by(cls, role: Role) -> Direction:
        """Return the direction in which a node of a role sends."""
        return cls.RM2CEM if role is Role.RM else cls.CEM2RM

    @property
    def other(self) -> Direction:
        return Direction.CEM2RM if self is Direction.RM2CEM else Direction.RM2CEM


def check_client_id(mc: str) -> str:
    """Return an MQTT client id that can be a level of a topic.

    One to 64 letters, digits and ``. _ : @ -``, and not ``open``: a rule of an access list for ``…/{mc}/#`` would then
    give its owner the ``open`` of every server (MQ-03).

    Raises:
        InvalidTopic: It is another.
    """
    if not _is_client_id(mc) or mc == _OPEN:
        raise InvalidTopic("an MQTT client id has 1 to 64 letters, digits, '.', '_', ':', '@', '-', and is not 'open'")
    return mc


def check_session_id(sid: str) -> str:
    """Return a session id of 16 to 36 letters, digits, ``_`` and ``-``. Raises InvalidTopic if it is another."""
    if not _is_session_id(sid):
        raise InvalidTopic("not a session id")
    return sid


def check_prefix(prefix: str) -> str:
    """Return a topic prefix: one or more levels of printable ASCII without space, ``+`` and ``#``; no ``$`` in front.

    Raises:
        InvalidTopic: It is another, or longer than 64 characters.
    """
    if len(prefix) > MAX_PREFIX_CHARACTERS or not _is_prefix(prefix):
        raise InvalidTopic(
            f"a topic prefix has 1 to {MAX_PREFIX_CHARACTERS} printable ASCII characters without spaces, '+' and '#', "
            "no slash at either end, no empty level and no '$' in front"
        )
    return prefix


def check_group(group: str) -> str:
    """Return the name of a shared subscription. Raises InvalidTopic if it cannot be a level of a topic."""
    if not _is_group(group):
        raise InvalidTopic("the name of a shared subscription has 1 to 64 letters, digits, '.', '_', '-'")
    return group


def read_node_id(text: str) -> NodeId:
    """Read a node id in its one spelling, lower case with dashes. Raises InvalidTopic if it is none."""
    try:
        value = UUID(text)
    except ValueError:
        value = None
    if value is None or str(value) != text:
        raise InvalidTopic("not a node id")
    return NodeId(value)


@dataclass(frozen=True, slots=True)
class TopicSpace:
    """The topics under one prefix, see :func:`check_prefix`. Raises InvalidTopic if the prefix cannot be used."""

    prefix: str

    def __post_init__(self) -> None:
        check_prefix(self.prefix)

    @property
    def _root(self) -> str:
        return f"{self.prefix}/s2/0/"

    def open(self, server: NodeId) -> str:
        """Return the topic of the ``open`` frames for a server."""
        return f"{self._root}{server}/{_OPEN}"

    def shared_open(self, server: NodeId, group: str) -> str:
        """Return the subscription that several instances of one server share (MQ-11)."""
        return f"$share/{check_group(group)}/{self.open(server)}"

    def session(self, server: NodeId, mc: str, client: NodeId, sid: str, direction: Direction) -> str:
        """Return the topic of one direction of a session. Raises InvalidTopic if ``mc`` or ``sid`` is no level."""
        return f"{self._root}{server}/{check_client_id(mc)}/{client}/{check_session_id(sid)}/{direction}"

    def devices(self, server: NodeId, mc: str) -> str:
        """Return the topic of the list of a gateway's devices for a server (MQ-19)."""
        return f"{self._root}{server}/{check_client_id(mc)}/devices"

    def presence(self, mc: str) -> str:
        """Return the topic of the presence of a client (MQ-12). Raises InvalidTopic if ``mc`` is no level."""
        return f"{self._root}presence/{check_client_id(mc)}"

    def inbound(self, mc: str, direction: Direction) -> str:
        """Return the subscription of a communication client for every session of every node behind it."""
        return f"{self._root}+/{check_client_id(mc)}/+/+/{direction}"

    def read_open(self, topic: str) -> NodeId:
        """Return the server of an ``open`` topic. Raises InvalidTopic if it is another topic."""
        server, slash, rest = topic.removeprefix(self._root).partition("/")
        if not topic.startswith(self._root) or not slash or rest != _OPEN:
            raise InvalidTopic("not an open topic")
        return read_node_id(server)
