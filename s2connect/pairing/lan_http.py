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
    MalformedMessage,
    NodeDescription,
    NodeId,
    Wire,
    read_list,
)
from s2connect.model.pairing import CancelPreparePairing, PreparePairing
from s2connect.model.reply import succeeded
from s2connect.model.url import BaseUrl
from s2connect.pairing.client_core import refused
from s2connect.pairing.lan_core import AnnouncementCancelled, LanOperations, PairingAnnounced
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
        on_prepare: Callable[[NodeId, NodeDescription, EndpointDescription], None],
        on_cancel: Callable[[NodeId, NodeId], None],
    ) -> None:
        """Serve a core.

        Args:
            core: Decides.
            neighbourhood: Who is answered (LAN-02).
            ready: Whether the endpoint is ready for pairing.
            on_prepare: Called for an announced pairing: our node, the other node, its endpoint. Show the code now.
            on_cancel: Called when it will not come: our node, the other node.
        """
        self._core = core
        self._neighbourhood = neighbourhood
        self._ready = ready
        self._on_prepare = on_prepare
        self._on_cancel = on_cancel
        self._timer: asyncio.TimerHandle | None = None

    def mount(self, server: HttpsServer, base_path: str) -> None:
        """Add the routes under a base path that ends with a slash (VER-03)."""
        server.add_operation(base_path, "endpoint", self._local_only(self._get_endpoint), method=hdrs.METH_GET)
        server.add_operation(base_path, "nodes", self._local_only(self._get_nodes), method=hdrs.METH_GET)
        server.add_operation(base_path, "preparePairing", self._local_only(self._prepare_pairing))
        server.add_operation(base_path, "cancelPreparePairing", self._local_only(self._cancel_prepare_pairing))

    def close(self) -> None:
        """Stop the clock of the announcements."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _local_only(self, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            if not await self._neighbourhood.holds(request):
                return answer(401)
            return await handler(request)

        return guarded

    async def _get_endpoint(self, _: web.Request) -> web.Response:
        return answer(200, self._core.endpoint())

    async def _get_nodes(self, _: web.Request) -> web.Response:
        return answer_list(self._core.nodes())

    async def _prepare_pairing(self, request: web.Request) -> web.Response:
        body = await read_body(request)
        now = asyncio.get_running_loop().time()
        reply = self._core.prepare_pairing(body, address=request.remote or "", ready=self._ready(), now=now)
        self._after()
        return answer(reply.status, reply.body)

    async def _cancel_prepare_pairing(self, request: web.Request) -> web.Response:
        body = await read_body(request)
        reply = self._core.cancel_prepare_pairing(body, now=asyncio.get_running_loop().time())
        self._after()
        return answer(reply.status, reply.body)

    def _after(self) -> None:
        events, self._core.events = self._core.events, []
        for event in events:
            match event:
                case PairingAnnounced(node, peer, peer_endpoint):
                    self._on_prepare(node, peer, peer_endpoint)
                case AnnouncementCancelled(node, peer_id):
                    self._on_cancel(node, peer_id)
        deadline = self._core.next_deadline()
        if self._timer is None and deadline is not None:
            self._timer = asyncio.get_running_loop().call_at(deadline, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._core.expire(now=asyncio.get_running_loop().time())
        self._after()


def answer_list(items: list[NodeDescription]) -> web.Response:
    """Make an HTTP answer with a JSON array."""
    body = b"[" + b",".join(item.to_json() for item in items) + b"]"
    return web.Response(body=body, content_type="application/json")


# Client


async def get_endpoint(http: HttpsClient, url: BaseUrl, version: str) -> EndpointDescription:
    """Ask an endpoint in the same network for its description.

    Args:
        http: Client for that endpoint.
        url: Its pairing URL.
        version: From :meth:`~s2connect.https.client.HttpsClient.api_version`, asked before (VER-02).

    Raises:
        PairingRefused: It answers only in its own network (``NotInSameNetwork``) or not at all (``NotOffered``).
        ProtocolViolation: The answer is not as the standard says.
        NetworkError: Not reachable, too slow or busy.
        TrustError: The certificate is not what it has to be.
    """
    reply = _answered(await http.get(url, version, "endpoint"))
    try:
        return EndpointDescription.from_json(reply.body)
    except MalformedMessage as error:
        raise _malformed(error) from None


async def get_nodes(http: HttpsClient, url: BaseUrl, version: str) -> list[NodeDescription]:
    """Ask an endpoint in the same network for its nodes; arguments and errors as with :func:`get_endpoint`.

    The first :data:`MAX_NODES` are returned. Their texts are a stranger's.
    """
    reply = _answered(await http.get(url, version, "nodes", max_bytes=MAX_NODES_BYTES))
    try:
        nodes: list[NodeDescription] = read_list(reply.body, NodeDescription)
    except MalformedMessage as error:
        raise _malformed(error) from None
    return nodes[:MAX_NODES]


async def prepare_pairing(
    http: HttpsClient,
    url: BaseUrl,
    version: str,
    *,
    node: NodeDescription,
    endpoint: EndpointDescription,
    server_node: NodeId,
) -> None:
    """Announce a pairing, so that the other side can show its code (LAN-05).

    Args:
        http: Client for the other endpoint.
        url: Its pairing URL.
        version: As with :func:`get_endpoint`.
        node: Our node.
        endpoint: Our endpoint.
        server_node: The node of the other side.

    Raises:
        PairingRefused: It would refuse the pairing, and says why; or as with :func:`get_endpoint`.
        ProtocolViolation, NetworkError, TrustError: As with :func:`get_endpoint`.
    """
    body = PreparePairing(
        client_node_description=node, client_endpoint_description=endpoint, server_node_id=server_node
    )
    await _notify(http, url, version, "preparePairing", body)


async def cancel_prepare_pairing(
    http: HttpsClient, url: BaseUrl, version: str, *, node: NodeId, server_node: NodeId
) -> None:
    """Take back an announced pairing (LAN-05); arguments and errors as with :func:`prepare_pairing`."""
    body = CancelPreparePairing(client_node_id=node, server_node_id=server_node)
    await _notify(http, url, version, "cancelPreparePairing", body)


async def _notify(http: HttpsClient, url: BaseUrl, version: str, operation: str, body: Wire) -> None:
    reply = await http.post(url, version, operation, body)
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


def _malformed(error: MalformedMessage) -> ProtocolViolation:
    return ProtocolViolation(f"The other device's description of itself is not as the standard says: {error}.")
