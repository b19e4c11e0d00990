"""Templates of the page: every text that they show is cleaned first, then escaped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from s2connect.bridge.link_state import LinkState
from s2connect.endpoint.config import NodeConfig
from s2connect.errors import ConfigurationError
from s2connect.model.common import NodeDescription, Role
from s2connect.model.text import for_display, span
from s2connect.web.facts import ConnectionFacts, NodeFacts, PeerState, Snapshot, Traffic

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

MAX_TEXT: Final = 600
"""Longest text that a template shows without naming a limit of its own, in characters."""

MAX_LINES: Final = 400
"""Longest message that is shown, in lines."""

STATIC: Final = {"page.css": "text/css", "page.js": "text/javascript", "login.js": "text/javascript"}
"""Files that the page loads, with their types."""

ROLES: Final = {Role.CEM: "energy manager", Role.RM: "device"}

_WORDS: Final = {
    PeerState.CONNECTED: ("connected", "good"),
    PeerState.SILENT: ("silent", "bad"),
    PeerState.ELSEWHERE: ("connected elsewhere", "good"),
    PeerState.TRYING: ("trying", "wait"),
    PeerState.WAITING: ("not connected", "wait"),
    PeerState.REFUSED: ("refused", "bad"),
    PeerState.UNCONFIRMED: ("not confirmed", "wait"),
    PeerState.IDLE: ("no program", ""),
}

_LINKS: Final = {
    LinkState.UP: "good",
    LinkState.FAILED: "bad",
    LinkState.REFUSED: "bad",
    LinkState.UNPAIRED: "wait",
    LinkState.WAITING: "wait",
    LinkState.PARTING: "wait",
}


def render(name: str, /, **values: Any) -> str:
    """Write a template of ``templates`` as HTML.

    Raises:
        ConfigurationError: The extra ``web`` is not installed.
    """
    return environment().get_template(name).render(values)


def static_file(name: str) -> bytes:
    """Return the content of one of the :data:`STATIC` files."""
    return (resources.files("s2connect.web") / "static" / name).read_bytes()


@cache
def environment() -> Environment:
    """Return the environment of the templates, made once.

    Raises:
        ConfigurationError: The extra ``web`` is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError:
        raise ConfigurationError("The page needs the package Jinja2.", hint="pip install 's2connect[web]'") from None
    made = Environment(
        autoescape=True,
        auto_reload=False,
        finalize=_clean,
        loader=PackageLoader("s2connect.web"),
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    made.filters |= {
        "shown": for_display,
        "span": span,
        "clock": lambda time: f"{time.astimezone():%H:%M:%S}",
        "ident": lambda key: hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()[:16],
        "role": lambda role: ROLES[role],
        "roles": _roles,
        "what": _what,
        "word": lambda state: _WORDS[state][0],
        "colour": lambda state: _WORDS[state][1],
        "link_colour": lambda state: _LINKS.get(state, ""),
        "own": own,
        "heard": _heard,
        "sentence": lambda text: text[:1].upper() + text[1:],
        "short": _short,
        "refused": _refused,
        "pretty": _pretty,
    }
    made.globals["m"] = made.get_template("macros.html").module
    return made


def _clean(value: Any) -> Any:
    """Clean what an expression of a template shows: texts may be anybody's. HTML of our own stays as it is."""
    return for_display(value, MAX_TEXT) if type(value) is str else value


def _roles(roles: Iterable[Role]) -> str:
    return ", ".join(ROLES[role] for role in sorted(roles)) or "role not told"


def _what(node: NodeDescription) -> str:
    """Return the kind of a node: type where it says one, brand and model where they are not its name, and its role."""
    product = node.brand if node.brand == node.model_name else f"{node.brand} {node.model_name}"
    kind = product if node.user_defined_name else ""
    type_ = "" if node.type == NodeConfig.model_fields["type"].default else for_display(node.type, 60)
    texts = (type_, for_display(kind, 100), ROLES[node.role])
    return ", ".join(text for text in texts if text)


def own(node: NodeFacts, facts: Snapshot) -> str:
    """Return the name of one of our nodes; in a bridge what it is for."""
    title = for_display(node.description.title, 60)
    if facts.service.kind == "bridge":
        if node.role is Role.RM:
            return f"for the energy manager of {title}"
        route = next((one.name for one in facts.routes if one.node == node.id), "")
        return f"for devices of the route {for_display(route, 60)}" if route else "for devices"
    return f"{title}, {for_display(node.alias, 20)}" if node.alias else title


def _heard(connection: ConnectionFacts, now: datetime) -> datetime:
    """Return when the peer was heard last."""
    assert connection.heard_ago is not None
    return now - timedelta(seconds=connection.heard_ago)


def _short(seconds: float) -> str:
    """Return a short time with its unit."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s" if seconds < 10 else span(seconds)


def _refused(traffic: Traffic) -> int:
    return sum(traffic.refused_by_us.values()) + sum(traffic.refused_by_peer.values()) or len(traffic.refusals)


def _pretty(text: str) -> Markup:
    """Return a message over several lines, each of them cleaned; as it is where it is no JSON, as where it was cut."""
    from markupsafe import escape

    try:
        text = json.dumps(json.loads(text), indent=1, ensure_ascii=False)
    except (ValueError, RecursionError):
        return escape(for_display(text, len(text) + 1))
    lines = text.split("\n")
    shown = [" " * (len(line) - len(line.lstrip(" "))) + for_display(line, len(line) + 1) for line in lines[:MAX_LINES]]
    return escape("\n".join([*shown, "…"] if len(lines) > MAX_LINES else shown))
