"""Runs in the environment of s2auth: performs operations of its PairingClient and prints what came of each as JSON.

Standard input holds ``{"settings": {...}, "operations": ["pair", {"store": {...}}, "connect", "unpair"]}``.
"""

import asyncio
import json
import sys

import httpx
from s2auth.client import ClientSettings, PairingClient


async def perform(client, operation):
    settings = client.settings
    if isinstance(operation, dict):
        client.storage.store_connection_details(settings.pairing_s2_node_id, operation["store"])
        return {"success": True}
    try:
        result = await getattr(client, operation)()
    except httpx.HTTPStatusError as error:
        return {
            "error": "HTTPStatusError",
            "status": error.response.status_code,
            "url": str(error.request.url),
            "answer": error.response.text,
        }
    except Exception as error:
        cause = error.__cause__
        http = cause if isinstance(cause, httpx.HTTPStatusError) else None
        return {
            "error": type(error).__name__,
            "text": str(error),
            "status": http.response.status_code if http else None,
            "answer": http.response.text if http else None,
        }
    details = getattr(result, "connection_details", None)
    return {"success": result.success, "details": details}


async def main():
    task = json.load(sys.stdin)
    client = PairingClient(ClientSettings(**task["settings"]))
    print(json.dumps([await perform(client, operation) for operation in task["operations"]]))


asyncio.run(main())
