"""HTTP port for this machine: metrics of a bridge for Prometheus, and its status page.

Labels are names of the file and of devices.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from aiohttp import web

from s2connect.bridge.bridge import Bridge
from s2connect.bridge.link_state import LinkState
from s2connect.errors import ConfigurationError
from s2connect.https.server import Handler, HttpsServer
from s2connect.model.common import Role
from s2connect.web.status_page import HEADERS, status_page

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

MAX_LABELLED: Final = 1000
"""Links of a route that have a line of their own; sums are over all."""

PATH: Final = "/metrics"
PAGE: Final = "/"
STATUS: Final = "/status.json"

_HERE: Final = re.compile(r"(127\.0\.0\.1|localhost)(:\d{1,5})?", re.ASCII | re.IGNORECASE)


class Metrics:
    """Serves at ``http://127.0.0.1:port``; use it with ``async with``. Port 0 is any.

    ``/metrics`` has the numbers, ``/`` the status page, ``/status.json`` what that is made of. A request that is meant
    for another host is refused: it comes from a web page that had its own name lead here.

    Raises:
        ConfigurationError: The extra ``metrics`` is not installed; or, when it starts, the port is taken.
    """

    def __init__(self, bridge: Bridge, port: int) -> None:
        try:
            import prometheus_client
        except ImportError:
            raise ConfigurationError(
                "[metrics] needs the package prometheus-client.", hint="pip install 's2connect[metrics]'"
            ) from None
        self.port = port
        self._bridge = bridge
        self._server = HttpsServer(None, host="127.0.0.1", port=port)
        for path, show in ((PATH, self._numbers), (PAGE, self._page), (STATUS, self._status)):
            self._server.add_get(path, _for_this_machine(show))
        self._type = prometheus_client.CONTENT_TYPE_LATEST
        self._generate = prometheus_client.generate_latest
        self._registry = prometheus_client.CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    async def __aenter__(self) -> Self:
        """Listen."""
        await self._server.start()
        self.port = self._server.port
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.close()

    def _numbers(self) -> web.Response:
        return web.Response(body=self._generate(self._registry), headers={"Content-Type": self._type})

    def _page(self) -> web.Response:
        page = status_page(self._bridge.status(), datetime.now().astimezone())
        return web.Response(text=page, content_type="text/html", headers=HEADERS)

    def _status(self) -> web.Response:
        return web.Response(text=json.dumps(self._bridge.status()), content_type="application/json", headers=HEADERS)

    def collect(self) -> Iterable[Metric]:
        """Return the present metrics, for prometheus-client."""
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

        def gauge(name: str, what: str, *labels: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"s2connect_bridge_{name}", what, labels=labels)

        def counter(name: str, what: str, *labels: str) -> CounterMetricFamily:
            return CounterMetricFamily(f"s2connect_bridge_{name}", what, labels=labels)

        states = gauge("links", "Links by state.", "route", "state")
        up = gauge("link_up", "1 where both sides are there, heard within the heartbeat.", "link")
        sides = gauge("sides_connected", "Peers that are there, by role.", "route", "role")
        queued = gauge("queued_messages", "Messages that wait to be sent, by role of the receiver.", "route", "role")
        for name, route in self._bridge.routes.items():
            links = route.status()
            for state in LinkState:
                states.add_metric([name, state], sum(link.state is state for link in links))
            for link in links[:MAX_LABELLED]:
                up.add_metric([link.name], link.state is LinkState.UP)
            for role in (Role.RM, Role.CEM):
                sides.add_metric([name, role], sum(link.sides[role].connected for link in links))
                queued.add_metric([name, role], sum(link.queued.get(role, 0) for link in links))
        messages = counter("messages", "Messages by what became of them.", "route", "sender", "fate")
        texts = counter("received_bytes", "Bytes of the messages that were received.", "route", "sender")
        slowed = counter("slowed", "Pauses of reading from a peer that sent too much.", "route", "sender")
        what = "Messages whose ReceptionStatus is not OK, by the side that refused them."
        refusals = counter("refusals", what, "route", "sender", "by", "status")
        for name, totals in self._bridge.totals().items():
            for key, number in totals.items():
                match key:
                    case sender, "bytes":
                        texts.add_metric([name, sender], number)
                    case sender, "slowed":
                        slowed.add_metric([name, sender], number)
                    case _, _:
                        messages.add_metric([name, *key], number)
                    case _:
                        refusals.add_metric([name, *key], number)
        failed = gauge("routes_failed", "Routes of the file that do not run.")
        failed.add_metric([], len(self._bridge.failed))
        tasks = counter("task_failures", "Background tasks that failed, by what they do.", "task")
        for task, number in self._bridge.endpoint.supervisor.failures.counts.items():
            tasks.add_metric([task], number)
        return [states, up, sides, queued, messages, texts, slowed, refusals, failed, tasks]


def _for_this_machine(show: Callable[[], web.Response]) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        return show() if _HERE.fullmatch(request.host) else web.Response(status=421)

    return handle
