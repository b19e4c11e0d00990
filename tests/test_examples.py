"""The examples do what they say, as programs of their own."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from s2connect import EndpointConfig, NodeConfig, Role, create_home
from s2connect.rest.server import free_port

EXAMPLES = Path(__file__).parents[1] / "examples"


def make_home(path: Path, role: Role) -> None:
    node = NodeConfig(role=role, user_defined_name="Cellar battery" if role is Role.RM else "House")
    port = free_port("127.0.0.1")
    create_home(path, EndpointConfig(host="127.0.0.1", bind="127.0.0.1", port=port, vault="files", nodes=(node,)))


async def start(name: str, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-u",
        str(EXAMPLES / name),
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def read_until(process: asyncio.subprocess.Process, text: str) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(20):
        while True:
            line = (await process.stdout.readline()).decode()
            assert line, f"ended before it said {text!r}"
            if text in line:
                return line


@pytest.mark.parametrize("script", ["battery.py", "s2python_battery.py"])
async def test_the_battery_and_the_energy_manager_pair_and_talk(tmp_path: Path, script: str) -> None:
    if script == "s2python_battery.py":
        pytest.importorskip("s2python", reason="s2-python is not installed; the extra s2python brings it")
    await asyncio.to_thread(make_home, tmp_path / "ems", Role.CEM)
    await asyncio.to_thread(make_home, tmp_path / "battery", Role.RM)
    manager = await start("energy_manager.py", str(tmp_path / "ems"))
    try:
        words = (await read_until(manager, "Pair at")).split()
        battery = await start(script, str(tmp_path / "battery"), words[2])
        try:
            assert battery.stdin is not None
            battery.stdin.write(f"{words[-1]}\n".encode())
            await battery.stdin.drain()
            await read_until(battery, "in session with House")
            await read_until(manager, "Cellar battery FRBC.StorageStatus")
        finally:
            battery.terminate()
            await battery.communicate()
        await read_until(manager, "Cellar battery has left")
    finally:
        manager.terminate()
        await manager.communicate()
