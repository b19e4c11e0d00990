"""The contract of connections, and the WebSocket's limits, on uvloop: in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = {
    "test_transport_contract.py": "(websocket and not deflate) or plain",
    "test_frame_budget.py": "put_out or slow_reader or before",
    "test_websocket_hostile.py": "",
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", TESTS)
def test_it_runs_on_uvloop_as_well(name: str) -> None:
    pytest.importorskip("uvloop", reason="uvloop is not installed")
    here = Path(__file__).parent
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.transports.on_uvloop"]
    command += ["-W", "ignore::DeprecationWarning", "-k", TESTS[name], str(here / name)]
    done = subprocess.run(command, cwd=here.parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout
