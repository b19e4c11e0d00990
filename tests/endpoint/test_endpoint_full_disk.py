"""The disk of one side is really full while the two pair: what each says, and that it works once there is room."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from s2connect import Endpoint, Role, create_home, events
from s2connect.errors import PairingError, StorageUnavailable
from tests.endpoint.conftest import OpenEndpoint, lan_config
from tests.waits import within


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir(mode=0o700)
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "none", place], check=False)
    if made.returncode:
        pytest.skip("a file system can be mounted by root only")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fill(place: Path) -> Path:
    """Take what is free on a disk."""
    filling = place / "filling"
    with filling.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            os.fsync(file.fileno())
    return filling


@pytest.mark.long
@pytest.mark.rule("PAIR-10", "PAIRC-07")
async def test_a_server_that_cannot_store_says_so_and_blames_nobody(
    small_disk: Path, rm: Endpoint, open_endpoint: OpenEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    home = small_disk / "home"
    config = await asyncio.to_thread(create_home, home, lan_config(Role.CEM, vault="files"))
    cem = await open_endpoint(config, home)
    cem._pairing.server.delay = 0.0
    code, news = cem.node().issue_pairing_code(), cem.events()
    filling = await asyncio.to_thread(fill, small_disk)
    with pytest.raises(PairingError, match="could not store the pairing"):
        await rm.node().pair(cem.pairing_url, code)
    async with within(20):
        event = await anext(news)
    assert isinstance(event, events.PairingFailed)
    assert event.reason == "not_stored"
    assert "the disk is full" in caplog.text
    assert await rm.pairings() == await cem.pairings() == []
    filling.unlink()
    await rm.node().pair(cem.pairing_url, code)
    assert len(await cem.pairings()) == 1


@pytest.mark.rule("PAIRC-06", "PAIRC-07")
async def test_a_client_that_cannot_store_says_so(small_disk: Path, cem: Endpoint, open_endpoint: OpenEndpoint) -> None:
    home = small_disk / "home"
    config = await asyncio.to_thread(create_home, home, lan_config(Role.RM, vault="files"))
    rm = await open_endpoint(config, home)
    cem._pairing.server.delay = 0.0
    code, news = cem.node().issue_pairing_code(), cem.events()
    filling = await asyncio.to_thread(fill, small_disk)
    with pytest.raises(StorageUnavailable, match="the disk is full") as caught:
        await rm.node().pair(cem.pairing_url, code)
    assert "Free some space" in caught.value.hint
    event = await anext(news)
    assert isinstance(event, events.PairingFailed)
    assert event.reason == "refused_by_client"
    filling.unlink()
    await rm.node().pair(cem.pairing_url, code)
    assert len(await rm.pairings()) == 1
