"""Set-up of a state directory, and what is asked before it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s2connect import Deployment, EndpointConfig, NodeConfig, create_home
from s2connect.endpoint.config import checked, default_host
from s2connect.endpoint.settings import read_config
from s2connect.errors import ConfigurationError, NotInitialised, UsageError
from s2connect.https.server import check_bind, free_port, is_loopback
from s2connect.model.alphabet import as_label
from s2connect.model.text import for_display
from s2connect.model.url import PAIRING_PORT
from s2connect.store.home import Home

LOCALHOST = "localhost"  # name of an endpoint that no other machine reaches
MAX_LABEL = 63  # characters of the longest label of a host name


def existing(path: Path) -> EndpointConfig | None:
    """Return the settings of a directory that is set up, otherwise None. Blocks."""
    try:
        return read_config(Home.open(path))
    except NotInitialised:
        return None


def start_command(home: Home) -> str:
    """Return the command that runs the service of a state directory: the service that its errors advise. Blocks."""
    return "s2connect bridge run FILE" if home.is_of_bridge else "s2connect serve"


def refuse_bridge(home: Home) -> None:
    """Raise ``UsageError`` for the state directory of a bridge, which no other service may run. Blocks."""
    if home.is_of_bridge:
        raise UsageError(
            f"{home.path} is the state directory of a bridge.",
            hint="The bridge runs it: s2connect bridge run FILE; it is paired with: s2connect bridge pair FILE. "
            "For an endpoint of its own name another directory with --home.",
        )


def usual_port(bind: str | None) -> int:
    """Return the usual port for a new endpoint; 0, for any that is free, if another one has it already. Blocks."""
    with contextlib.closing(socket.socket(socket.AF_INET6 if bind and ":" in bind else socket.AF_INET)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((bind or "", PAIRING_PORT))
        except OSError:
            return 0
    return PAIRING_PORT


def make(path: Path, node: Mapping[str, object], settings: Mapping[str, Any]) -> EndpointConfig:
    """Set up a state directory. Blocks.

    Members of ``node``, a :class:`NodeConfig`, that are None take their default; ``host`` and ``port`` of ``settings``,
    an :class:`EndpointConfig`, are chosen then. ``UsageError`` says that it is set up already, or what cannot be used.
    """
    if (found := existing(path)) is not None:
        known = ", ".join(f"{one.role} {one.id}" for one in found.nodes) or "no node"
        raise UsageError(
            f"{path} is set up already: {found.deployment} endpoint {found.host}:{found.port} with {known}.",
            hint="Nothing was changed. To change settings: s2connect config set NAME VALUE; "
            "another directory is named with --home.",
        )
    if settings["bind"] is not None:
        check_bind(settings["bind"])
    given = {name: value for name, value in node.items() if value is not None}
    try:
        nodes = (checked(lambda: NodeConfig.model_validate(given), "the node"),)
    except ConfigurationError as error:  # in the words of the options
        what = error.what.replace("user_defined_name", "name").replace("model_name", "model")
        raise ConfigurationError(what, hint=error.hint) from None
    in_lan = settings["deployment"] is Deployment.LAN
    own_host = default_host if in_lan else socket.getfqdn
    host = settings["host"] or (LOCALHOST if in_lan and is_loopback(settings["bind"] or "") else own_host())
    chosen = {name: value.absolute() if isinstance(value, Path) else value for name, value in settings.items()} | {
        "nodes": nodes,
        "host": host_to_keep(host),
        "port": settings["port"] or free_port(settings["bind"]),
    }
    return create_home(path, checked(lambda: EndpointConfig.model_validate(chosen), "the settings"))


def host_to_keep(host: str) -> str:
    """Return a host as a new state directory keeps it: a name of the local network is spelled in ASCII, for mDNS."""
    label, dot, domain = host.partition(".")
    if host.isascii() or domain.lower().rstrip(".") != "local":
        return host  # a name of the internet has a spelling of its own (IDNA)
    spelled = as_label(label, longest=MAX_LABEL)
    if not spelled:
        raise UsageError(f"{for_display(host)} has no spelling in ASCII, which a name in the local network needs.")
    return f"{spelled}{dot}local"
