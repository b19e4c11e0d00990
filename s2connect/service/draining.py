"""Ends of a service that is one of several instances: drained, or because another process has its name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from s2connect import Endpoint
from s2connect.endpoint.instances import INSTANCE_LOST, shared_port
from s2connect.errors import InstanceRuns
from s2connect.events import Notice
from s2connect.service.sidecar import Service
from s2connect.service.signals import Stop
from s2connect.service.systemd import Notifier


def is_worker(endpoint: Endpoint) -> bool:
    """Return whether this process is one of several that another one has started, and answers for."""
    return shared_port() is not None and endpoint.instance is not None


def as_instance(
    service: Service, stop: Stop, notifier: Notifier, work: Callable[[], Awaitable[object]], *, drain: bool
) -> None:
    """Have a service drain by ``work`` and end as one of several instances; does nothing where it is the only one.

    With ``drain`` the first SIGTERM does that, and the command that stops the service in any case.
    """
    endpoint = service.endpoint
    if endpoint.instance is None:
        return
    endpoint.supervisor.keep(partial(_until_replaced, endpoint, stop), "until-replaced")
    service.drain = _Drain(endpoint, stop, notifier, work)
    stop.drain = service.drain if drain else None


async def _until_replaced(endpoint: Endpoint, stop: Stop) -> None:
    """End the service where another process has become this instance, while the database was not reached from here."""
    async for event in endpoint.events():
        if isinstance(event, Notice) and event.kind == INSTANCE_LOST:
            stop.failed(InstanceRuns(event.sentence))


class _Drain:
    """Hands the sessions of an instance over to others, then ends its service; begun once, however often it is called.

    Signals count once for a worker: whoever started it passes on what it gets, and the system may signal both.
    """

    def __init__(
        self, endpoint: Endpoint, stop: Stop, notifier: Notifier, work: Callable[[], Awaitable[object]]
    ) -> None:
        self._endpoint = endpoint
        self._stop = stop
        self._notifier = notifier
        self._work = work
        self._begun = False

    def __call__(self) -> None:
        if is_worker(self._endpoint):
            self._stop.drain = self
        if not self._begun:
            self._begun = True
            self._notifier.stopping()
            self._endpoint.supervisor.spawn(self._drain(), "drain")

    async def _drain(self) -> None:
        try:
            await self._work()
        finally:
            self._stop.now()
