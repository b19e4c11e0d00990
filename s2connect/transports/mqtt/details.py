"""What is agreed before a session over MQTT: the answer to ``confirmAccessToken`` (MQ-02) and static mode (MQ-19)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, field_validator

from s2connect.errors import ConfigurationError
from s2connect.model.common import MQTT as MQTT
from s2connect.model.common import NodeId, Role
from s2connect.model.secret import TOKEN_BYTES, Base64Secret, Secret
from s2connect.model.session_init import CommunicationDetails
from s2connect.model.url import MqttUrl
from s2connect.transports.mqtt.topics import InvalidTopic, check_client_id, check_prefix, check_session_id

MAX_VERSIONS = 16
"""Longest list of S2 versions in an ``open``."""

_is_version = re.compile(r"[A-Za-z0-9._-]{1,32}").fullmatch


class Protection(StrEnum):
    """True if the broker can read and change what it carries (MQ-07)."""

    SEALED = "sealed"
    PLAIN = "plain"


class SessionToken(Base64Secret):
    """Secret of one session over MQTT, or the configured one of static mode; the broker never sees it (MQ-02)."""

    __slots__ = ()
    min_bytes = TOKEN_BYTES


class MqttPassword(Secret):
    """Password at a broker."""

    __slots__ = ()


def _sealed_for_null(value: Any) -> Any:
    return Protection.SEALED if value is None else value


class MqttCommunicationDetails(CommunicationDetails):
    """Answer to ``confirmAccessToken`` for MQTT (MQ-02).

    Attributes:
        mqtt_url: The broker.
        topic_prefix: One or more levels in front of every topic.
        session_id: Fresh for each session.
        session_token: Counts for this session only, for 30 seconds until ``open``.
        username: For the broker, where it wants one.
        password: Likewise.
        protection: ``sealed`` where it is missing.
    """

    mqtt_url: MqttUrl
    topic_prefix: Annotated[str, AfterValidator(check_prefix)]
    session_id: Annotated[str, AfterValidator(check_session_id)]
    session_token: SessionToken
    username: str | None = None
    password: MqttPassword | None = None
    protection: Annotated[Protection, BeforeValidator(_sealed_for_null)] = Protection.SEALED

    @field_validator("username")
    @classmethod
    def _check_username(cls, value: str | None) -> str | None:
        if value is not None and (not 0 < len(value) <= 256 or not value.isprintable()):
            raise ValueError("not a user name")
        return value


def check_version(version: str) -> str:
    """Return an S2 version that can stand in a frame: 1 to 32 letters, digits and ``. _ -``.

    Raises:
        ValueError: It is another.
    """
    if not _is_version(version):
        raise ValueError("not an S2 version")
    return version


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticSession:
    """A session over MQTT without S2 Connect: both sides are configured with the same values (MQ-19).

    Attributes:
        topic_prefix: One or more levels in front of every topic.
        server: Node id of the communication server: it waits for ``open``.
        client: Node id of the communication client: it sends ``open``.
        mc: MQTT client id of the communication client.
        client_role: Role of the client's node; the server's is the other.
        versions: S2 versions that this side speaks, the preferred one first.
        secret: At least 32 random bytes in Base64; both sides prove that they know it. None only with ``plain``.
        protection: ``sealed`` by default. ``plain`` shows every message to the broker, and without a secret whoever may
            publish on the topics is the peer.

    Raises:
        ConfigurationError: A value cannot be used; the message names it.
    """

    topic_prefix: str
    server: NodeId
    client: NodeId
    mc: str
    client_role: Role
    versions: tuple[str, ...]
    secret: SessionToken | None = None
    protection: Protection = Protection.SEALED

    def __post_init__(self) -> None:
        try:
            check_prefix(self.topic_prefix)
            check_client_id(self.mc)
        except InvalidTopic as error:
            raise ConfigurationError(
                f"The session over MQTT cannot be used: {error}.",
                hint="Both sides have the same values in their settings.",
            ) from None
        if self.server == self.client:
            raise ConfigurationError("The ids of server and client are the same.", hint="Each node has its own.")
        try:
            usable = 0 < len([check_version(version) for version in self.versions]) <= MAX_VERSIONS
        except ValueError:
            usable = False
        if not usable:
            raise ConfigurationError(
                "The S2 versions cannot be used.", hint=f"Name one to {MAX_VERSIONS}, such as 1.0.0."
            )
        if self.protection is Protection.SEALED and self.secret is None:
            raise ConfigurationError(
                "A sealed session needs a secret.",
                hint='Give both sides the same 32 random bytes in Base64, or say protection = "plain".',
            )
