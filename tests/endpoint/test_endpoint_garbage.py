"""Sessions and connections are freed by reference counting alone, on both ends, and consist of few objects."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.endpoint.garbage_program import ENDS
from tests.waits import patience

OBJECTS = 600
"""Container objects of a session at most: of both its ends, the devices' connectors, and the tasks that read it."""


@pytest.mark.parametrize("end", ENDS)
def test_the_end_of_a_session_leaves_nothing_to_the_garbage_collector(end: str, request: pytest.FixtureRequest) -> None:
    loop = "uvloop" if request.config.getoption("--uvloop") else "asyncio"
    program = [sys.executable, "-m", "tests.endpoint.garbage_program", loop, end]
    ran = subprocess.run(program, check=True, stdout=subprocess.PIPE, text=True, timeout=patience(50))
    seen = json.loads(ran.stdout)
    assert sum(number for _, number in seen["garbage"]) <= seen["ended"] / 4, seen["garbage"]
    assert seen["objects"] <= OBJECTS
