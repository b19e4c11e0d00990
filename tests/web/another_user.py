"""Another user of this machine, who asks a server."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys

import pytest

linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux says to which user a connection belongs")

PYTHON = shutil.which("python3", path="/usr/local/bin:/usr/bin:/bin")
"""An interpreter that every user of the machine may run."""

another_user = pytest.mark.skipif(
    os.geteuid() != 0 or PYTHON is None, reason="root alone can be another user, who needs python3"
)

ASK = """
import http.client, ssl, sys
tls = {"context": ssl._create_unverified_context()} if sys.argv[3] else {}
ask = (http.client.HTTPSConnection if tls else http.client.HTTPConnection)("127.0.0.1", int(sys.argv[1]), **tls)
for method, path, body, headers in eval(sys.argv[2]):
    ask.request(method, path, body, headers)
    answer = ask.getresponse()
    text = answer.read().decode()
    print(answer.status, answer.getheader("Set-Cookie", "").partition(";")[0])
"""


async def as_another_user(
    port: int, *asked: tuple[str, str, str | None, dict[str, str]], user: int = 4711, tls: bool = False
) -> list[list[str]]:
    """Ask a server as another user of this machine; return status and cookie of each answer."""
    assert PYTHON is not None
    done = await asyncio.to_thread(
        subprocess.run,
        [PYTHON, "-c", ASK, str(port), repr(list(asked)), "tls" if tls else ""],
        user=user,
        group=user,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    return [line.split(" ") for line in done.stdout.splitlines()]
