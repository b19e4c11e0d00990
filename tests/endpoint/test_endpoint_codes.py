"""Codes that are shown while a node needs one."""

from __future__ import annotations

import asyncio

import pytest

from s2connect import Endpoint, PairingCode
from tests.waits import within


@pytest.mark.rule("TOK-02")
async def test_a_device_shows_codes_while_it_is_not_paired(cem: Endpoint, rm: Endpoint) -> None:
    shown = asyncio.Queue[PairingCode]()
    cem._pairing.server.delay = rm._pairing.server.delay = 0.0
    task = rm.node().show_codes(shown.put_nowait, lifetime=0.05)
    async with within(20):
        first, second = await shown.get(), await shown.get()
        assert str(first) != str(second), "the first has expired"
        task.cancel()
        await asyncio.wait({task})
        shown = asyncio.Queue()
        rm.node().show_codes(shown.put_nowait)
        await cem.node().pair(rm.pairing_url, await shown.get())
        assert shown.empty()
        await rm.node().unpair(cem.node().id, forget=True)
        assert await shown.get(), "it can be paired again"


async def test_an_energy_manager_shows_the_next_code_after_each_pairing(cem: Endpoint, rm: Endpoint) -> None:
    shown = asyncio.Queue[PairingCode]()
    cem._pairing.server.delay = 0.0
    cem.node().show_codes(shown.put_nowait, always=True)
    async with within(20):
        code = await shown.get()
        await rm.node().pair(cem.pairing_url, code)
        assert str(await shown.get()) != str(code)
