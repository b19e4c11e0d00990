"""Server that knows the users of this machine: none of them silences it for the others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from s2connect import Endpoint, Role
from s2connect.https import rate
from s2connect.web.local_server import LocalServer
from s2connect.web.metrics import Metrics
from s2connect.web.observation import Observation
from tests.waits import within
from tests.web.another_user import another_user, as_another_user, linux
from tests.web.serving_page import serving
from tests.web.test_web_observation import config


@asynccontextmanager
async def page() -> AsyncIterator[LocalServer]:
    async with serving() as served:
        yield served.server


@asynccontextmanager
async def page_in_the_network() -> AsyncIterator[LocalServer]:
    async with serving(network=True) as served:
        yield served.server


@asynccontextmanager
async def metrics() -> AsyncIterator[LocalServer]:
    async with Endpoint.open(config=config(Role.CEM)) as endpoint, Metrics(Observation(endpoint), 0) as served:
        yield served._server


@linux
@another_user
@pytest.mark.parametrize(("server", "tls"), [(page, False), (metrics, False), (page_in_the_network, True)])
async def test_a_user_of_this_machine_who_floods_silences_nobody_else(
    server: Callable[[], AbstractAsyncContextManager[LocalServer]], tls: bool
) -> None:
    async with within(30), server() as served:
        served._limiter = rate.AddressLimiter(burst=20.0, refill=0.001)
        served._user_limiter = rate.AddressLimiter(burst=20.0, refill=0.001)
        flood = [("GET", "/nowhere", None, dict[str, str]())] * 60
        assert (await as_another_user(served.port, *flood, tls=tls))[-1] == ["429", ""]
        asked = [("GET", path, None, dict[str, str]()) for path in ("/healthz", "/metrics")]
        assert await as_another_user(served.port, *asked, tls=tls, user=4712) == [["200", ""]] * 2
        assert (await as_another_user(served.port, *asked, tls=tls))[0] == ["429", ""]
