"""Health of a service: whether it is alive, and whether it is ready, by its parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from s2connect.web.observation import Observation


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the service.

    Attributes:
        name: Its stable name.
        ready: Whether it does its work.
        needed: Whether the service is not ready without it.
        sentence: What is wrong; empty otherwise.
    """

    name: str
    ready: bool
    needed: bool = True
    sentence: str = ""


def is_alive(observation: Observation) -> bool:
    """Return whether the service runs: its event loop, which calls this, and the tasks of its links."""
    return observation.bridge is None or observation.bridge.alive()


def is_ready(parts: list[Part]) -> bool:
    """Return whether all parts that are needed are ready."""
    return all(part.ready for part in parts if part.needed)


def parts_of(observation: Observation) -> Iterator[Part]:
    """Iterate over the parts of a service."""
    endpoint, bridge = observation.endpoint, observation.bridge
    yield _part("endpoint", "" if endpoint.is_ready else "It does not serve requests yet, or not any more.")
    if endpoint.instance is not None:
        yield _part("database", endpoint.store_trouble)
    certificate = observation.certificate(datetime.now(UTC))
    if certificate is not None:
        yield _part("certificate", certificate.warning if certificate.left <= 0 else "")
    idle = [node for node in endpoint.nodes if not endpoint.takes_sessions(node)]
    if bridge is None:
        yield _part("sessions", "No application takes the sessions of a node." if idle else "")
    if endpoint.mqtt is not None and (client := endpoint.mqtt.client) is not None:
        yield _part("broker", "" if client.connection is not None else "There is no connection to the broker.")
    yield Part("local_network", not observation.not_found, needed=False, sentence=observation.not_found)
    if bridge is not None:
        for route in bridge.config.routes:
            yield _part(f"route {route.name}", bridge.failed.get(route.name, ""))


def _part(name: str, trouble: str) -> Part:
    return Part(name, not trouble, sentence=trouble)
