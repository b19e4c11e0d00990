"""This endpoint as one of several instances on the same database."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from s2connect.endpoint.config import INSTANCE_NAME, EndpointConfig
from s2connect.endpoint.state import EndpointState
from s2connect.errors import UsageError

if TYPE_CHECKING:  # psycopg is an extra
    from s2connect.store.postgresql.cluster import Cluster

INSTANCE_VARIABLE: Final = "S2CONNECT_INSTANCE"
"""Environment variable with the name of this instance, before that of the settings."""

_log = logging.getLogger(__name__)

INSTANCES_DIFFER: Final = "instances_differ"
"""Kind of the notice that the settings of other instances differ where they must not."""

INSTANCE_LOST: Final = "instance_lost"
"""Kind of the notice that another process has become this instance, so that this one has to end."""


PORT_VARIABLE: Final = "S2CONNECT_SHARED_PORT"
"""Environment variable with the port at which several processes of this machine listen, instead of the setting."""


def shared_port() -> int | None:
    """Return the port at which other processes of this machine listen, too; None for one of our own."""
    named = os.environ.get(PORT_VARIABLE, "")
    return int(named) if named.isdecimal() else None


def instance_name(config: EndpointConfig) -> str:
    """Return the name of this instance: that of the environment, of the settings, or of the machine."""
    named = os.environ.get(INSTANCE_VARIABLE)
    return checked_name(named) if named else config.instance or machine_name()


def mqtt_instance(config: EndpointConfig) -> str:
    """Return the name of this instance for its MQTT client id; empty where no database is shared with others."""
    return "" if config.store is None else instance_name(config)


def checked_name(name: str) -> str:
    """Return the name of an instance; UsageError if it cannot be one."""
    if not re.fullmatch(INSTANCE_NAME, name):
        raise UsageError(
            "The name of an instance has up to 40 letters, digits, dots, hyphens and underscores, and begins with a "
            "letter or digit."
        )
    return name


def machine_name() -> str:
    """Return the name of an instance that no setting names: the machine's."""
    name = re.sub("[^A-Za-z0-9._-]+", "-", socket.gethostname()).strip("._-")
    return name[-40:].lstrip("._-") or "instance"  # the end differs, as in names of pods


async def join(state: EndpointState, sessions: Callable[[], int]) -> None:
    """Become the instance of this endpoint's name; does nothing without a database.

    Raises:
        InstanceRuns: Another process is it.
        StorageUnavailable: The database cannot be reached.
    """
    presence = state.presence
    if presence is None:
        return
    presence.address = f"{socket.gethostname()}:{state.config.listens_on}"
    presence.host = state.config.host
    presence.sessions = sessions
    presence.on_lost = lambda error: state.notice(INSTANCE_LOST, error.what)
    await presence.claim()
    state.supervisor.keep(presence.keep, "presence")
    if others := await presence.others_known_as():
        report_difference(
            state,
            f"The host of this instance is {presence.host}, and that of others {', '.join(others)}: a pairing that "
            "begins at one fails at another. Give all instances the same host.",
        )


def report_difference(state: EndpointState, sentence: str) -> None:
    """Log a difference to other instances, and publish the notice about it."""
    _log.error("%s", sentence)
    state.notice(INSTANCES_DIFFER, sentence)


async def cluster(state: EndpointState) -> Cluster | None:
    """Return the status of all instances on the database; None without one. Raises StorageUnavailable."""
    if state.presence is None:
        return None
    from s2connect.store.postgresql.cluster import cluster_of

    return await state.presence.read(partial(cluster_of, with_owned=False))
