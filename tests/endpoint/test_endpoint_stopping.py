"""A program of a maker ends in order with a signal."""

from __future__ import annotations

import asyncio
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from s2connect import until_signal
from s2connect.errors import UsageError
from tests.waits import within

PROGRAM = """
import asyncio, logging
from s2connect import Endpoint, EndpointConfig, NodeConfig, Role

async def main():
    node = NodeConfig(role=Role.RM, brand="B", type="T", model_name="M")
    config = EndpointConfig(host="localhost", bind="127.0.0.1", port=0, nodes=(node,))
    async with Endpoint.open(config=config) as endpoint:
        asyncio.get_running_loop().call_soon(print, "runs")
        number = await endpoint.run_until_stopped(log_level="DEBUG")
        print(number.name, flush=True)
    logging.getLogger("mine").info("closed")
    print("closed", flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_program_in_order(number: signal.Signals) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-u",
        "-c",
        PROGRAM,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with within(20):
            assert await process.stdout.readline() == b"runs\n"
            process.send_signal(number)
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert (process.returncode, output.decode().split()) == (0, [number.name, "closed"])
    assert b"Traceback" not in errors
    assert b" INFO mine: closed" in errors


def test_in_another_thread_the_caller_learns_why_not() -> None:
    def work() -> None:
        with pytest.raises(UsageError, match="main thread"):
            asyncio.run(until_signal())

    with ThreadPoolExecutor(1) as threads:
        threads.submit(work).result()
