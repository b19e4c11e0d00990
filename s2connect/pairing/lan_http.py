"""HTTPS around the LAN-only operations: the server's handlers and the client's requests (LAN-01 to LAN-05)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import hdrs, web

from s2connect.errors import PairingRefused, ProtocolViolation
from s2connect.https.client import HttpReply, HttpsClient
from s2connect.https.server import Handler, HttpsServer, answer, read_body
from s2connect.model.common import (
    EndpointDescription,
    NodeDescription,
    read_list,
)
from s2connect.model.pairing import CancelPreparePairing, PreparePairing
from s2connect.model.reply import WireList, reading, succeeded
from s2connect.model.url import BaseUrl
from s2connect.pairing.client_core import refused
from s2connect.pairing.driver import Driver
from s2connect.pairing.lan_core import LanEvent, LanOperations
from s2connect.pairing.neighbourhood import Neighbourhood

MAX_NODES = 1000
"""Nodes of one endpoint that are read."""

MAX_NODES_BYTES = 1024 * 1024
"""Longest list of nodes that is read."""


# Server


class LanService:
    """The LAN-only operations of one endpoint. One in the WAN does not mount them, and so answers 404 (LAN-01)."""

    def __init__(
        self,
        core: LanOperations,
        neighbourhood: Neighbourhood,
        *,
        ready: Callable[[], bool],
        on_event: Callable[[LanEvent], None],
    ) -> None:
        """Serve a core; ``on_event`` is called for an announced pairing, to show the code, and for its end."""
        self._core = core
        self._neighbourhood = neighbourhood
        self._ready = ready
        self._driver = Driver(core, on_event, lambda now: core.expire(now=now))

    def mount(self, server: HttpsServer, base_path: str) -> None:
        """Add the routes under a base path that ends with a slash (VER-03)."""
        server.add_operation(base_path, "endpoint", self._local_only(self._get_endpoint), method=hdrs.METH_GET)
        server.add_operation(base_path, "nodes", self._local_only(self._get_nodes), method=hdrs.METH_GET)
        server.add_operation(base_path, "preparePairing", self._local_only(self._prepare_pairing))
        server.add_operation(base_path, "cancelPreparePairing", self._local_only(self._cancel_prepare_pairing))

    def close(self) -> None:
        """Stop the clock of the announcements."""
        self._driver.close()

    def _local_only(self, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            if not await self._neighbourhood.holds(request):
                return answer(401)
            return await handler(request)

        return guarded

    async def _get_endpoint(self, _: web.Request) -> web.Response:
        return answer(200, self._core.endpoint().description)

    async def _get_nodes(self, _: web.Request) -> web.Response:
        nodes = self._core.endpoint().nodes.values()
        return answer(200, WireList(items=tuple(node.description for node in nodes)))

    async def _prepare_pairing(self, request: web.Request) -> web.Response:
        body = await read_body(request)
        now = asyncio.get_running_loop().time()
        reply = self._core.prepare_pairing(body, address=request.remote or "", ready=self._ready(), now=now)
        self._driver.after()
        return answer(reply.status, reply.body)

    async def _cancel_prepare_pairing(self, request: web.Request) -> web.Response:
        body = await read_body(request)
        reply = self._core.cancel_prepare_pairing(body, now=asyncio.get_running_loop().time())
        self._driver.after()
        return answer(reply.status, reply.body)


# Client


async def look_at(http: HttpsClient, url: BaseUrl) -> tuple[EndpointDescription, list[NodeDescription]]:
    """Ask the endpoint at a pairing URL, in the same network, for its description and its nodes.

    The first :data:`MAX_NODES` are returned. Their texts are a stranger's.

    Raises:
        PairingRefused: It answers only in its own network (``NotInSameNetwork``) or not at all (``NotOffered``).
        ProtocolViolation: The answer is not as the standard says.
        NetworkError: Not reachable, too slow or busy.
        TrustError: The certificate is not what it has to be.
    """
    version = await http.api_version(url)
    endpoint = _answered(await http.get(url, version, "endpoint"))
    nodes = _answered(await http.get(url, version, "nodes", max_bytes=MAX_NODES_BYTES))
    with reading("The other device's description of itself"):
        return EndpointDescription.from_json(endpoint.body), read_list(nodes.body, NodeDescription)[:MAX_NODES]


async def announce(http: HttpsClient, url: BaseUrl, announcement: PreparePairing | CancelPreparePairing) -> None:
    """Announce a pairing, so that the other side can show its code, or take that back (LAN-05).

    Raises:
        PairingRefused: It would refuse the pairing, and says why; or as with :func:`look_at`.
        ProtocolViolation, NetworkError, TrustError: As with :func:`look_at`.
    """
    operation = "preparePairing" if isinstance(announcement, PreparePairing) else "cancelPreparePairing"
    reply = await http.post(url, await http.api_version(url), operation, announcement)
    if reply.status == 400:
        raise refused(reply.body)
    _answered(reply)


def _answered(reply: HttpReply) -> HttpReply:
    if reply.status == 401:
        raise PairingRefused(
            "The other device answers this only to devices in its own network.",
            reason="NotInSameNetwork",
            hint="Connect both to the same network, or type the URL and the code.",
        )
    if reply.status == 404:
        raise PairingRefused(
            "The other device does not tell strangers about itself.",
            reason="NotOffered",
            hint="Type the code that it shows; nothing else is needed.",
        )
    if not succeeded(reply.status):
        raise ProtocolViolation(f"The other device answered with HTTP {reply.status}.")
    return reply
