"""A stranger in the network with raw HTTPS: nothing of the product's own code is used to attack it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import ssl
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import aiohttp

from s2connect import Endpoint, Role

FINGERPRINT = "ab" * 32


class Stranger:
    """Speaks to the pairing API of an endpoint and does not know its code."""

    def __init__(self, client: aiohttp.ClientSession, target: Endpoint) -> None:
        self.http = client
        self.deployment = "LAN"
        self.base = f"https://127.0.0.1:{target.pairing_url.port}/pairing/v1/"
        self.node = str(uuid4())

    async def post(self, operation: str, body: Any, bearer: str | None = None) -> tuple[int, dict[str, Any]]:
        headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        async with self.http.post(self.base + operation, data=data, headers=headers) as response:
            raw = await response.read()
            return response.status, json.loads(raw) if raw else {}

    async def request(self, role: Role, challenge: bytes, **more: Any) -> tuple[int, dict[str, Any]]:
        """A requestPairing as a node of ``role``, with a challenge of the stranger's choice."""
        return await self.post("requestPairing", self.request_body(role, challenge, **more))

    def request_body(self, role: Role, challenge: bytes, **more: Any) -> dict[str, Any]:
        return {
            "clientNodeDescription": {
                "id": self.node,
                "brand": "Stranger",
                "type": "t",
                "modelName": "m",
                "role": str(role),
            },
            "clientEndpointDescription": {"name": "stranger", "deployment": self.deployment},
            "supportedCommunicationProtocols": ["WebSocket"],
            "supportedS2MessageVersions": ["v1.0.0"],
            "supportedHmacHashingAlgorithms": ["SHA256"],
            "clientHmacChallenge": base64.b64encode(challenge).decode(),
            **more,
        }

    async def finish(self, attempt: str, proof: str, **more: Any) -> list[int]:
        """The rest of the attempt with this proof, in either direction; the statuses of the two requests."""
        details = {
            "initiateSessionUrl": "https://127.0.0.1:9/session/",
            "accessToken": base64.b64encode(os.urandom(32)).decode(),
            "certificateFingerprint": {"SHA256": FINGERPRINT},
        }
        if more.get("post"):
            body = {"serverHmacChallengeResponse": proof, "connectionDetails": details}
            first, _ = await self.post("postConnectionDetails", body, attempt)
        else:
            body = {"serverHmacChallengeResponse": proof}
            first, _ = await self.post("requestConnectionDetails", body, attempt)
        last, _ = await self.post("finalizePairing", {"success": True}, attempt)
        return [first, last]


@contextlib.asynccontextmanager
async def stranger(target: Endpoint, address: str = "127.0.0.1") -> AsyncIterator[Stranger]:
    """A stranger at an address of the loopback network."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    connector = aiohttp.TCPConnector(ssl=trusting, local_addr=(address, 0), limit=0)
    async with aiohttp.ClientSession(connector=connector) as client:
        yield Stranger(client, target)
