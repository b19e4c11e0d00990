"""Metrics for Prometheus and health, on the port of the page, and on a port of their own, which needs no page."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from aiohttp import hdrs, web

from s2connect.errors import ConfigurationError
from s2connect.https.server import Handler, is_loopback
from s2connect.web.facts import write_json
from s2connect.web.health import is_alive, is_ready, parts_of
from s2connect.web.local_server import LocalServer
from s2connect.web.observation import Observation

if TYPE_CHECKING:
    from s2connect.web.server import PageServer

PATH: Final = "/metrics"
ALIVE: Final = "/healthz"
READY: Final = "/readyz"
PAGE: Final = "/"
STATUS: Final = "/status.json"

INSTALL: Final = "pip install 's2connect[metrics]'"

_HERE: Final = re.compile(r"(127\.0\.0\.1|localhost)(:\d{1,5})?", re.ASCII | re.IGNORECASE)
_ANY: Final = re.compile(r"(localhost|[0-9.]{7,15}|\[[0-9a-f:.]{2,45}\])(:\d{1,5})?", re.ASCII | re.IGNORECASE)
"""Hosts of requests that are meant for this machine, or for an address. A web page that had its own name lead here
sends that name."""


class Monitoring:
    """Answers of ``/metrics``, ``/healthz`` and ``/readyz``.

    Raises:
        ImportError: prometheus-client is not installed, when :meth:`metrics` is called.
    """

    def __init__(self, observation: Observation) -> None:
        self._observation = observation
        self._numbers: Callable[[], bytes] | None = None
        self._type = ""

    def metrics(self) -> web.Response:
        """Return the numbers as text for Prometheus."""
        if self._numbers is None:
            self._numbers = self._make()
        return web.Response(body=self._numbers(), headers={"Content-Type": self._type})

    def _make(self) -> Callable[[], bytes]:
        import prometheus_client

        from s2connect.web.numbers import Numbers

        registry = prometheus_client.CollectorRegistry(auto_describe=False)
        registry.register(Numbers(self._observation))
        prometheus_client.ProcessCollector(registry=registry)
        self._type = prometheus_client.CONTENT_TYPE_LATEST
        return lambda: prometheus_client.generate_latest(registry)

    def alive(self) -> web.Response:
        """Return 200 while the service is alive, otherwise 503."""
        alive = is_alive(self._observation)
        return web.json_response({"alive": alive}, status=200 if alive else 503)

    def ready(self) -> web.Response:
        """Return 200 while the service is ready, otherwise 503, with its parts."""
        parts = list(parts_of(self._observation))
        ready = is_ready(parts)
        body = write_json({"ready": ready, "parts": parts})
        return web.Response(text=body, content_type="application/json", status=200 if ready else 503)

    def install(self, server: PageServer) -> None:
        """Add all three to the server of the page, which says who may read them."""

        async def metrics(_: web.Request) -> web.Response:
            try:
                return self.metrics()
            except ImportError:
                return web.Response(status=501, text=f"Metrics need the package prometheus-client: {INSTALL}\n")

        async def alive(_: web.Request) -> web.Response:
            return self.alive()

        async def ready(_: web.Request) -> web.Response:
            return self.ready()

        server.add_metrics(PATH, metrics)
        server.add_open(ALIVE, alive)
        server.add_metrics(READY, ready)


async def status_of(observation: Observation) -> str:
    """Return what programs show as JSON: of a bridge its status, otherwise all facts."""
    bridge = observation.bridge
    await observation.read_codes()
    return write_json(observation.snapshot()) if bridge is None else json.dumps(bridge.status())


class Metrics:
    """Serves a service at ``http://127.0.0.1:port``; use it with ``async with``. Port 0 is any.

    With another ``bind`` other machines come in, too, by its address, and get no more than the first three.

    ``/metrics`` has the numbers, ``/healthz`` and ``/readyz`` the health, ``/status.json`` the status, and ``/`` leads
    to the page, whose URL ``page`` returns. A request that is meant for another host is refused: it comes from a web
    page that had its own name lead here.

    Raises:
        ConfigurationError: The extra ``metrics`` is not installed; or, when it starts, the port is taken.
    """

    def __init__(
        self,
        observation: Observation,
        port: int,
        page: Callable[[], str | None] = lambda: None,
        *,
        bind: str = "127.0.0.1",
    ) -> None:
        try:
            import prometheus_client  # noqa: F401
        except ImportError:
            raise ConfigurationError("Metrics need the package prometheus-client.", hint=INSTALL) from None
        self.port = port
        self._url_of_page = page
        self._observation = observation
        self._server = LocalServer(None, host=None if bind == "*" else bind, port=port)
        monitoring = Monitoring(observation)
        answers: dict[str, Callable[[], web.Response | Awaitable[web.Response]]] = {
            PATH: monitoring.metrics,
            ALIVE: monitoring.alive,
            READY: monitoring.ready,
            PAGE: self._page,
            STATUS: self._status,
        }
        is_local = is_loopback(bind)
        for path, show in answers.items():
            if is_local or path in (PATH, ALIVE, READY):
                self._server.add_get(path, _for_hosts(_HERE if is_local else _ANY, show))

    async def __aenter__(self) -> Self:
        """Listen."""
        await self._server.start()
        self.port = self._server.port
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.close()

    def _page(self) -> web.Response:
        if (url := self._url_of_page()) is not None:
            return web.Response(status=303, headers={hdrs.LOCATION: url})
        text = "This service has no page: it needs pip install 's2connect[web]', and is not switched off.\n"
        return web.Response(status=404, text=text)

    async def _status(self) -> web.Response:
        text = await status_of(self._observation)
        return web.Response(text=text, content_type="application/json", headers={"X-Content-Type-Options": "nosniff"})


def _for_hosts(host: re.Pattern[str], show: Callable[[], web.Response | Awaitable[web.Response]]) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        if not host.fullmatch(request.host):
            return web.Response(status=421)
        shown = show()
        return shown if isinstance(shown, web.Response) else await shown

    return handle
