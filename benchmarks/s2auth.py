"""s2auth's processes."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from benchmarks.harness import Worker, peer_python

TOKEN = "benchmark9"
NODE = "5b1c7e0a-93d4-4f0e-8c55-2b7f3f9f5d21"


def server_and_client(stack: ExitStack, directory: Path, *, clients: int) -> tuple[Worker, Worker] | None:
    """Its reference server and a process with its clients, which can pair at once; None where it is not installed."""
    python = peer_python("s2auth")
    if python is None:
        return None
    environment = {
        "PAIRING_NODE_ID": "benchmark",
        "SERVER_S2_NODE_ID": NODE,
        "CEM_S2_NODE_ID": NODE,
        "CEM_TYPE": "t",
        "CEM_MODEL_NAME": "m",
        "CEM_BRAND": "b",
        "CEM_DEPLOYMENT_TYPE": "LAN",
        "SSL_CERTFILE": str(directory / "chain.pem"),
        "SSL_KEYFILE": str(directory / "key.pem"),
        "DOMAIN_NAME": "localhost",
        "SUPPORTED_S2_VERSIONS": '["v1.0.0"]',
        "PAIRING_TOKEN_TTL_SECONDS": "3600",
    }
    task = {"directory": str(directory), "clients": clients, "token": TOKEN}
    server = stack.enter_context(Worker.peer(python, "s2auth_server.py", environment, **task))
    client = stack.enter_context(Worker.peer(python, "s2auth_pairing.py", {}, server=server.ready, **task))
    return server, client
