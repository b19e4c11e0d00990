"""HTTPS around long-polling as the server sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from aiohttp import web

from s2connect.https.server import HttpsServer, answer, read_body
from s2connect.model.common import NodeDescription, NodeId
from s2connect.model.pairing import WaitForPairingAction
from s2connect.model.reply import BUSY, Reply
from s2connect.pairing.driver import Driver
from s2connect.pairing.long_poll_core import LongPollEvent, LongPollServer, Waiter
from s2connect.pairing.neighbourhood import Neighbourhood
from s2connect.transports.tls_buffer import set_tls_buffer

SWEEP_INTERVAL = 1.0
"""Seconds until a client that closed its connection has freed its place."""


class LongPollService:
    """``waitForPairing`` of one endpoint. An endpoint in the WAN does not mount it, and so answers 404 (LAN-01)."""

    def __init__(
        self,
        core: LongPollServer,
        neighbourhood: Neighbourhood,
        *,
        offered: Callable[[], bool],
        on_event: Callable[[LongPollEvent], None],
    ) -> None:
        """Serve a core; ``offered`` returns whether the endpoint offers long-polling now (DISC-05)."""
        self._core = core
        self._neighbourhood = neighbourhood
        self._offered = offered
        self._hanging: dict[Waiter, tuple[web.Request, asyncio.Future[Reply]]] = {}
        # aiohttp does not notify a handler when its client has gone, so this task polls.
        self._driver = Driver(core, on_event, self._sweep, every=SWEEP_INTERVAL)

    def mount(self, server: HttpsServer, base_path: str) -> None:
        """Add the route under a base path that ends with a slash (VER-03)."""
        server.add_operation(base_path, "waitForPairing", self._wait_for_pairing)

    def close(self) -> None:
        """Answer all that hangs with 503, so that they come back later; call it before the server closes."""
        self._driver.close()
        self._wake((waiter, BUSY) for waiter in list(self._hanging))

    def nodes(self) -> list[NodeDescription]:
        """Return the nodes that wait and have described themselves; the texts are a stranger's."""
        return [node for node in self._core.nodes().values() if node is not None]

    def ask(self, node: NodeId, action: WaitForPairingAction) -> None:
        """Ask a node that waits for an action; its hanging request is answered at once (LP-07).

        Whether it worked shows later: as a pairing, or as :class:`~s2connect.pairing.long_poll_core.NoTokenOnClient`.

        Raises:
            NotReachable: The node does not wait here (any more).
        """
        self._wake(self._core.ask(node, action, now=asyncio.get_running_loop().time()))
        self._driver.after()

    async def _wait_for_pairing(self, request: web.Request) -> web.Response:
        if not await self._neighbourhood.holds(request):
            return answer(401)
        body = await read_body(request)
        loop = asyncio.get_running_loop()
        if self._driver.closed:
            return answer(503)
        decision = self._core.wait(body, address=request.remote or "", offered=self._offered(), now=loop.time())
        if isinstance(decision, Waiter):
            set_tls_buffer(request.transport)  # hundreds may hang
            decision = await self._hang(decision, request)
        else:
            self._driver.after()
        return answer(decision.status, decision.body)

    async def _hang(self, waiter: Waiter, request: web.Request) -> Reply:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Reply] = loop.create_future()
        self._hanging[waiter] = request, future
        self._driver.after()
        try:
            return await future
        finally:
            self._hanging.pop(waiter, None)
            self._core.release(waiter, now=loop.time())

    def _wake(self, answers: Iterable[tuple[Waiter, Reply]]) -> None:
        for waiter, what in answers:
            _, future = self._hanging.pop(waiter)
            if not future.done():
                future.set_result(what)

    def _sweep(self, now: float) -> None:
        left = [waiter for waiter, (request, _) in self._hanging.items() if _has_left(request)]
        for waiter in left:
            self._core.release(waiter, now=now)
        self._wake((waiter, BUSY) for waiter in left)
        self._wake(self._core.expire(now=now))


def _has_left(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()
