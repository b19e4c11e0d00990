"""Identity of a bridge in its home: its id, and the routes that it had, so that a renamed one is noticed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID, uuid4

from s2connect import Home, NodeId, for_display
from s2connect.bridge.config import BridgeConfig, RouteConfig
from s2connect.errors import ConfigurationError

MAX_NAME: Final = 60
"""Longest name of a route that is shown, in characters."""

MAX_NAMED: Final = 10
"""Most routes of one kind that a difference names."""


@dataclass(frozen=True, slots=True)
class KnownRoute:
    """A route that ran, with the types of its sides."""

    id: NodeId
    devices: str
    manager: str


@dataclass(frozen=True, slots=True)
class BridgeIdentity:
    """Id of a bridge, from which those of its routes and representatives are derived, and its routes by name."""

    id: NodeId
    routes: Mapping[str, KnownRoute] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """Return it as it is kept."""
        routes = [
            {"name": name, "id": str(known.id), "devices": known.devices, "manager": known.manager}
            for name, known in self.routes.items()
        ]
        value: dict[str, Any] = {"id": str(self.id), **({"routes": routes} if routes else {})}
        return json.dumps(value).encode("ascii") + b"\n"

    def with_routes(self, routes: Sequence[RouteConfig]) -> BridgeIdentity:
        """Return it with other routes."""
        known = {r.name: KnownRoute(r.id_in(self.id), r.devices.type, r.manager.type) for r in routes}
        return BridgeIdentity(self.id, known)

    def difference(self, routes: Sequence[RouteConfig]) -> str:
        """Return how routes differ from those that were known; empty if they do not, or none were known."""
        now = self.with_routes(routes).routes
        if not self.routes or now == self.routes:
            return ""

        def named(what: str, names: Sequence[str]) -> list[str]:
            shown = [for_display(name, MAX_NAME) for name in sorted(names)[:MAX_NAMED]]
            return [f"{what} {', '.join(shown)}"] if shown else []

        return "; ".join(
            [
                *named("missing here", [name for name in self.routes if name not in now]),
                *named("missing there", [name for name in now if name not in self.routes]),
                *named("other", [name for name in now if self.routes.get(name, now[name]) != now[name]]),
            ]
        )

    def renamed(self, routes: Sequence[RouteConfig]) -> dict[str, str]:
        """Return the routes that seem to be known ones under another name and have no ``id``, with what to do.

        Their ids, and with them all pairings, would be other ones.
        """
        ids = {route.id_in(self.id) for route in routes}
        gone = [(name, known) for name, known in self.routes.items() if known.id not in ids]
        known_ids = {known.id for known in self.routes.values()}
        found: dict[str, str] = {}
        for route in routes:
            own = route.id_in(self.id)
            if route.id is not None or own in known_ids:
                continue
            types = route.devices.type, route.manager.type
            was = next((one for one in gone if (one[1].devices, one[1].manager) == types), None)
            if was is None:
                continue
            gone.remove(was)
            name = for_display(was[0], MAX_NAME)
            found[route.name] = (
                f'name: the route "{name}" is gone, and pairings belong to its id. If this is the same route, add the '
                f'line: id = "{was[1].id}"; if it is another one: id = "{own}"'
            )
        return found


def check_names(config: BridgeConfig, identity: BridgeIdentity) -> None:
    """Refuse routes that were renamed without keeping their ids. Raises ConfigurationError."""
    for name, what in identity.renamed(config.routes).items():
        raise ConfigurationError(f"{config.file}: route {for_display(name, MAX_NAME)}: {what}.")


def made_identity() -> BridgeIdentity:
    """Return a new identity."""
    return BridgeIdentity(NodeId(uuid4()))


def identity_of(content: bytes, place: str) -> BridgeIdentity:
    """Return the identity that was written in a place. Raises ConfigurationError if it is damaged."""
    try:
        value = json.loads(content)
        routes = {
            str(one["name"]): KnownRoute(NodeId(UUID(one["id"])), str(one["devices"]), str(one["manager"]))
            for one in value.get("routes", ())  # homes made before have none
        }
        return BridgeIdentity(NodeId(UUID(value["id"])), routes)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigurationError(f"{place} does not hold the id of the bridge.") from None


def read_identity(home: Home) -> BridgeIdentity | None:
    """Return the identity in a home; None where it has none yet. Blocks.

    Raises:
        ConfigurationError: It is damaged.
        StorageError: It cannot be read.
    """
    content = home.read(Home.BRIDGE_FILE)
    return None if content is None else identity_of(content, str(home.path / Home.BRIDGE_FILE))


def provide_identity(home: Home) -> BridgeIdentity:
    """Return the identity in a home, and make it where there is none. Blocks. The errors are those of reading."""
    found = read_identity(home)
    if found is None:
        write_identity(home, found := made_identity())
    return found


def write_identity(home: Home, identity: BridgeIdentity) -> None:
    """Write the identity, durably. Blocks. Raises StorageError."""
    home.write_private(Home.BRIDGE_FILE, identity.to_json())
