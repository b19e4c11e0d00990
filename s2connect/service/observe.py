"""The one observation of a service, for its page and its metrics."""

from __future__ import annotations

from s2connect.bridge.bridge import Bridge
from s2connect.service.sidecar import Service
from s2connect.web.observation import Observation


def observation_of(service: Service, bridge: Bridge | None = None) -> Observation:
    """Return the observation of a service; it begins with the first call."""
    if service.observation is None:
        observation = service.observation = Observation(service.endpoint, bridge)
        service.endpoint.supervisor.keep(observation.run, "observation")
        if service.endpoint.instance is not None:
            service.endpoint.supervisor.keep(observation.follow_cluster, "cluster")
    return service.observation
