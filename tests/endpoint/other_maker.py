"""An energy manager of another maker, in plain JSON over HTTPS, written without the product's own models.

It conforms to the standard, but not as we do; a test says how it differs.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import aiohttp
from aiohttp import web

from s2connect import Endpoint
from s2connect.certs.authority import CertificateAuthority
from s2connect.certs.tls import ServerContext

CODE = "5hK7ZzTokenOfTheOther"
JWT = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJybSJ9.c2lnbmF0dXJl-_"


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


ORDINARY = b64(bytes(range(32)))
"""A token as we issue it."""


class OtherMaker:
    """A CEM in the LAN: pairing server, pairing client and communication server.

    Attributes:
        seen: Operations in the order of their arrival.
        bearers: What came with them.
        answers: Status and body to answer an operation with, in place of its own; both may be None for its own.
        busy: How often an operation answers 503 first.
        first: Statuses with which an operation answers its first requests.
        lacks: Operations (``index``) that it has not.
        closes: Operations after which it ends the connection.
        new_for_websocket: Whether it ends a connection on which requests were made, instead of opening a WebSocket.
        connections: The connection of each operation, by a number.
        token: What it issues as token, of whatever kind.
        versions: How it spells the version that it selects.
    """

    def __init__(self) -> None:
        now = datetime.now(UTC)
        self.authority = CertificateAuthority.create("Other Maker", now=now)
        self.identity = self.authority.issue(["127.0.0.1"], now=now)
        self.id = str(uuid4())
        self.seen: list[str] = []
        self.bearers: dict[str, str] = {}
        self.bodies: dict[str, Any] = {}
        self.answers: dict[str, tuple[int | None, Any]] = {}
        self.busy: Counter[str] = Counter()
        self.first: dict[str, list[int]] = {}
        self.closes: set[str] = set()
        self.new_for_websocket = False
        self.connections: dict[str, int] = {}
        self._known: list[asyncio.BaseTransport | None] = []
        self.lacks: set[str] = set()
        self.token = ORDINARY
        self.version: str | None = None
        self.slash = "/"
        self.websockets = 0
        self.port = 0

    @property
    def pairing_url(self) -> str:
        return f"https://127.0.0.1:{self.port}/pair/"

    @property
    def details(self) -> dict[str, Any]:
        return {"initiateSessionUrl": f"https://127.0.0.1:{self.port}/s2/start{self.slash}", "accessToken": self.token}

    @property
    def node(self) -> dict[str, Any]:
        return {"id": self.id, "brand": "Other", "type": "EMS", "modelName": "One", "role": "CEM"}

    def issued(self, number: int) -> str:
        """The second and the third token of a session, of the kind of the first."""
        return b64(bytes([number]) * 32) if self.token == ORDINARY else f"{self.token}{number}"

    def proof(self, challenge: str, leaf: bytes) -> str:
        return b64(hmac.new(base64.b64decode(challenge), CODE.encode() + leaf, hashlib.sha256).digest())

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[OtherMaker]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._serve)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=ServerContext(self.identity).context)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        operation = request.path.rsplit("/", 1)[-1] or "index"
        self.seen.append(operation)
        self.bearers[operation] = request.headers.get("Authorization", "").removeprefix("Bearer ")
        used = request.transport in self._known
        if not used:
            self._known.append(request.transport)
        self.connections[operation] = self._known.index(request.transport)
        if operation == "websocket" and used and self.new_for_websocket:
            assert request.transport is not None
            request.transport.abort()
        if operation == "websocket":
            return await self._websocket(request)
        raw = await request.read()
        self.bodies[operation] = body = json.loads(raw) if raw else None
        if self.busy[operation] > 0:
            self.busy[operation] -= 1
            return web.Response(status=503)
        if self.first.get(operation):
            return web.Response(status=self.first[operation].pop(0))
        if operation in self.lacks:
            return web.Response(status=404)
        status, own = self._own(operation, body)
        other, spoilt = self.answers.get(operation, (None, None))
        value = own if spoilt is None else spoilt
        response = web.Response(
            status=other or status, body=None if value is None else json.dumps(value), content_type="application/json"
        )
        if operation in self.closes:
            response.force_close()
        return response

    def _own(self, operation: str, body: Any) -> tuple[int, Any]:
        match operation:
            case "index":
                return 200, ["v1"]
            case "requestPairing":
                return 200, {
                    "pairingAttemptId": "attempt-" + "7" * 32,
                    "serverNodeDescription": self.node,
                    "serverEndpointDescription": {"deployment": "LAN"},
                    "selectedHmacHashingAlgorithm": "SHA256",
                    "clientHmacChallengeResponse": self.proof(
                        body["clientHmacChallenge"], self.identity.leaf_fingerprint
                    ),
                    "serverHmacChallenge": b64(hashlib.sha256(b"challenge").digest()),
                }
            case "requestConnectionDetails":
                return 200, self.details
            case "finalizePairing" | "unpair":
                return 204, None
            case "initiateSession":
                offered = body["supportedS2MessageVersions"]
                return 200, {
                    "selectedCommunicationProtocol": "WebSocket",
                    "selectedS2MessageVersion": self.version or offered[0],
                    "accessToken": self.issued(2),
                }
            case "confirmAccessToken":
                return 200, {
                    "communicationProtocol": "WebSocket",
                    "websocketToken": self.issued(3),
                    "websocketUrl": f"wss://127.0.0.1:{self.port}/s2/websocket",
                }
        return 404, None

    async def _websocket(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.websockets += 1
        async for _ in socket:
            pass
        return socket

    async def pair_with(
        self, target: Endpoint, *, again: bool = False, request: dict[str, Any] | None = None, **details: Any
    ) -> list[tuple[int, dict[str, Any]]]:
        """Pair as client with an RM of ours whose code is ``CODE``; what each step is answered.

        Args:
            target: Endpoint of the RM.
            again: Repeat each step at once, with other white space and its members the other way round.
            request: More members of ``requestPairing``.
            details: Members of the connection details, in place of its own; None leaves one out.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # the code protects, and the fingerprint
        _, writer = await asyncio.open_connection("127.0.0.1", target.pairing_url.port, ssl=context)
        leaf = hashlib.sha256(writer.get_extra_info("ssl_object").getpeercert(binary_form=True)).digest()
        writer.close()
        replies: list[tuple[int, dict[str, Any]]] = []
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as http:

            async def post(operation: str, body: Any, bearer: str = "") -> dict[str, Any]:
                url = f"https://127.0.0.1:{target.pairing_url.port}/pairing/v1/{operation}"
                headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
                texts = [json.dumps(body)]
                if again:
                    texts.append(json.dumps(_reversed(body), indent=3))
                for text in texts:
                    async with http.post(url, data=text, headers=headers) as response:
                        raw = await response.read()
                        replies.append((response.status, json.loads(raw) if raw else {}))
                return replies[-1][1]

            answered = await post(
                "requestPairing",
                {
                    "clientNodeDescription": self.node,
                    "clientEndpointDescription": {"deployment": "LAN"},
                    "supportedCommunicationProtocols": ["WebSocket"],
                    "supportedS2MessageVersions": ["v1.0.0"],
                    "supportedHmacHashingAlgorithms": ["SHA256"],
                    "clientHmacChallenge": b64(hashlib.sha256(self.id.encode()).digest()),
                    **(request or {}),
                },
            )
            if "pairingAttemptId" not in answered:
                return replies
            fingerprint = {"certificateFingerprint": {"SHA256": self.authority.fingerprint.hex()}}
            given = {**self.details, **fingerprint, **details}
            bearer = answered["pairingAttemptId"]
            await post(
                "postConnectionDetails",
                {
                    "serverHmacChallengeResponse": self.proof(answered["serverHmacChallenge"], leaf),
                    "connectionDetails": {name: value for name, value in given.items() if value is not None},
                },
                bearer,
            )
            await post("finalizePairing", {"success": True}, bearer)
        return replies


def _reversed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _reversed(value[name]) for name in reversed(value)}
    return value
