"""The same on uvloop, which has a TLS of its own."""

from __future__ import annotations

import asyncio
import os

import pytest

from s2connect import Endpoint, Role
from tests.endpoint.conftest import MEASUREMENT, lan_config
from tests.waits import within

if not os.environ.get("CI"):
    pytest.importorskip("uvloop", reason="uvloop is not installed")


async def pair_and_exchange() -> None:
    async with (
        within(30),
        Endpoint.open(config=lan_config(Role.CEM)) as cem,
        Endpoint.open(config=lan_config(Role.RM)) as rm,
    ):
        await rm.node().pair(cem.pairing_url, cem.node().issue_pairing_code())
        theirs, ours = await asyncio.gather(anext(cem.node().sessions()), anext(rm.node().sessions()))
        await ours.send(MEASUREMENT)
        assert (await theirs.receive()).type == "PowerMeasurement"
        await cem.renew_certificate()
        await rm.node().pair(cem.pairing_url, cem.node().issue_pairing_code())


def test_two_endpoints_pair_and_talk_on_uvloop() -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(pair_and_exchange())
