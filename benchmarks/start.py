"""Start of a device's process: import, memory, and an endpoint that is a client only.

Names of s2connect are loaded when they are first used, so what is measured is the import of ``Endpoint``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.budgets import S2AUTH
from benchmarks.harness import Effort, in_turns, run_program
from benchmarks.table import Row, row

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
    result: dict[str, float] = json.loads(run_program([python, "-c", code]).splitlines()[-1])
    return result


def measure(effort: Effort) -> Iterator[Row]:
    """The rows of this theme."""
    python = effort.python("s2auth")
    imported = RESIDENT + IMPORT + "size = resident()" + REPORT
    opened = RESIDENT + IMPORT.format(statement=OURS) + ENDPOINT + REPORT
    ours, theirs, endpoint = in_turns(
        effort.pick(15, 5, 2),
        lambda: _run(sys.executable, imported.replace("{statement}", OURS)),
        (lambda: _run(python, imported.replace("{statement}", THEIRS))) if python else None,
        lambda: _run(sys.executable, opened),
    )
    yield row("import of the client path", "ms", "seconds", ours, S2AUTH, theirs)
    yield row("memory after the import of the client path", "MB", "bytes", ours, S2AUTH, theirs)
    yield row("opening an endpoint with serve=False", "ms", "seconds", endpoint)
    yield row("memory with it open", "MB", "bytes", endpoint)
