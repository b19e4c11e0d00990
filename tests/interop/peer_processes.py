"""Processes of peers, each in its own environment, and certificates for both sides."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from s2connect.certs.authority import CertificateAuthority
from tests.waits import within

ROOT = Path(__file__).parent.parent.parent
HERE = Path(__file__).parent
START_TIMEOUT = 30


def peer_python(name: str) -> Path:
    """The interpreter of a peer's environment; skips where it is missing, and fails in CI."""
    python = ROOT / ".peers" / name / "bin" / "python"
    if not (python.parent.parent / ".installed").exists():
        reason = f"{name} is not installed; tests/peers.sh installs it"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return python


@dataclass(frozen=True)
class Files:
    """A certificate chain with its key, and the CA that signed it, as PEM files."""

    chain: Path
    key: Path
    ca: Path


def issue(directory: Path, *names: str) -> Files:
    """Make a CA and a server certificate of it."""
    now = datetime.now(UTC)
    authority = CertificateAuthority.create("CA of a test", now=now)
    identity = authority.issue(names, now=now)
    files = Files(directory / "chain.pem", directory / "key.pem", directory / "ca.pem")
    files.chain.write_bytes(identity.chain_pem)
    files.key.write_bytes(identity.key_pem)
    files.ca.write_bytes(authority.to_pem())
    return files


@dataclass
class S2authClient:
    """s2auth's PairingClient. Its storage is a file in ``directory``, so operations may be spread over calls."""

    python: Path
    directory: Path
    settings: dict[str, Any]

    async def run(self, *operations: str | dict[str, Any]) -> list[dict[str, Any]]:
        """Perform operations in one process and return what came of each."""
        process = await asyncio.create_subprocess_exec(
            self.python,
            HERE / "s2auth_client.py",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=self.directory,
        )
        try:
            task = json.dumps({"settings": self.settings, "operations": operations})
            output, _ = await process.communicate(task.encode())
        except BaseException:
            process.kill()
            await process.wait()
            raise
        assert process.returncode == 0
        results: list[dict[str, Any]] = json.loads(output.splitlines()[-1])
        return results


@dataclass(frozen=True)
class S2authServer:
    """s2auth's reference server."""

    port: int
    node: str
    token: str


@contextlib.asynccontextmanager
async def s2auth_server(
    python: Path, directory: Path, files: Files, *, domain: str, deployment: str
) -> AsyncIterator[S2authServer]:
    """Run s2auth's reference server on a free port of 127.0.0.1."""
    node, token = str(uuid4()), "s2authToken9"
    environment = os.environ | {
        "PAIRING_NODE_ID": "interop001",
        "SERVER_S2_NODE_ID": node,
        "CEM_S2_NODE_ID": node,
        "CEM_TYPE": "Energy manager",
        "CEM_MODEL_NAME": "Reference",
        "CEM_BRAND": "s2auth",
        "CEM_DEPLOYMENT_TYPE": deployment,
        "DEFAULT_PAIRING_TOKEN": token,
        "SSL_CERTFILE": str(files.chain),
        "SSL_KEYFILE": str(files.key),
        "DOMAIN_NAME": domain,
        "SUPPORTED_S2_VERSIONS": '["v1.0.0"]',
        "PYTHONUNBUFFERED": "1",
    }
    process = await asyncio.create_subprocess_exec(
        *(python, "-m", "uvicorn", "s2auth.reference.server.main:app", "--host", "127.0.0.1", "--port", "0"),
        *("--ssl-certfile", files.chain, "--ssl-keyfile", files.key),
        stdin=asyncio.subprocess.PIPE,  # it watches its keyboard, and would spin on a closed one
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=directory,
        env=environment,
    )
    output = None
    try:
        assert process.stdout is not None
        async with within(START_TIMEOUT):
            port = await _port_of(process.stdout)
        output = asyncio.create_task(_show(process.stdout), name="s2auth-output")
        yield S2authServer(port, node, token)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        if output is not None:
            await output
        await process.communicate()


async def _port_of(output: asyncio.StreamReader) -> int:
    async for line in output:
        sys.stdout.write(line.decode())
        if found := re.search(rb"running on https://127\.0\.0\.1:(\d+)", line):
            return int(found[1])
    raise AssertionError("the server did not start")


async def _show(output: asyncio.StreamReader) -> None:
    """Pass on what the server says: pytest shows it with a failed test."""
    async for line in output:
        sys.stdout.write(line.decode())
