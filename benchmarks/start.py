"""Start of a device's process: import, memory, and an endpoint that is a client only.

Names of s2connect are loaded when they are first used, so what is measured is the import of ``Endpoint``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.harness import ROOT, Effort, Row, compare, in_turns, peer_python

OURS = "from s2connect import Endpoint, EndpointConfig, NodeConfig"
THEIRS = "import s2auth.client"

IMPORT = """
import time
began = time.perf_counter()
{statement}
took = time.perf_counter() - began
"""

ENDPOINT = """
import asyncio
async def run():
    config = EndpointConfig(host="localhost", nodes=(NodeConfig(role="RM"),))
    began = time.perf_counter()
    async with Endpoint.open(config=config, serve=False):
        globals().update(took=time.perf_counter() - began, size=resident())
asyncio.run(run())
"""

RESIDENT = """
def resident():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS:"))
"""

REPORT = """
import json
print(json.dumps({"seconds": took, "bytes": size}))
"""


def _run(python: Path | str, code: str) -> dict[str, float]:
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(effort: Effort) -> list[Row]:
    """The rows of this theme."""
    python = peer_python("s2auth")
    imported = RESIDENT + IMPORT + "size = resident()" + REPORT
    opened = RESIDENT + IMPORT.format(statement=OURS) + ENDPOINT + REPORT
    ours, theirs, endpoint = in_turns(
        effort.pick(9, 3),
        lambda: _run(sys.executable, imported.replace("{statement}", OURS)),
        (lambda: _run(python, imported.replace("{statement}", THEIRS))) if python else None,
        lambda: _run(sys.executable, opened),
    )
    peer = "s2auth.client"
    return [
        compare("import", "ms", "seconds", ours, theirs, peer, "≤ 200 ms"),
        compare("memory after import", "MB", "bytes", ours, theirs, peer, "≤ 55 MB"),
        compare("opening an endpoint with serve=False", "ms", "seconds", endpoint),
        compare("memory with it open", "MB", "bytes", endpoint, theirs, peer),
    ]
