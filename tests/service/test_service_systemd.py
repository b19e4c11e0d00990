"""Notifications to systemd."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from s2connect.service.systemd import Notifier


async def test_no_sign_of_life_is_given_while_a_link_is_dead(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "n"))
        systemd.setblocking(False)
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "30000"})
        alive = False
        task = asyncio.create_task(notifier.keep_alive(lambda: alive))
        await asyncio.sleep(0.05)
        with pytest.raises(BlockingIOError):
            systemd.recv(100)
        alive = True
        assert await asyncio.get_running_loop().sock_recv(systemd, 100) == b"WATCHDOG=1"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_without_systemd_nothing_is_sent() -> None:
    assert Notifier({}).watchdog is None
    Notifier({}).ready()
    assert Notifier({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}).watchdog is None
    Notifier({"NOTIFY_SOCKET": "@nobody-listens-here"}).stopping()
