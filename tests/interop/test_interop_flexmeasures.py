"""The energy manager of FlexMeasures' client, which speaks plain S2 only, with our device."""

from __future__ import annotations

import pytest

from s2connect.errors import SessionRefused
from s2connect.model.common import Role
from s2connect.transports.plain import connect_plain
from tests.interop.peer_processes import HERE
from tests.interop.plain_fixtures import OURS, be_device, peer_process, session


@pytest.mark.rule("MSG-02", "MSG-03")
async def test_our_device_is_controlled_by_flexmeasures_again_and_again() -> None:
    async with peer_process("flexmeasures", HERE / "flexmeasures_cem.py") as peer:
        url = f"ws://127.0.0.1:{(await peer.until('listening'))['port']}/"
        for _ in range(2):
            connection = await connect_plain(url, role=Role.RM, local=OURS)
            assert connection.info.s2_version == "0.0.2-beta"
            async with session(connection, Role.RM) as ours:
                instruction = await be_device(ours, "FRBC")
                assert instruction.body["operation_mode_factor"] == 0.5
            await peer.until("stopped")
        assert peer.all("storage", "level") == [10.0, 10.0]
        assert peer.all("actuator", "factor") == [0.0, 0.5] * 2


async def test_flexmeasures_chokes_on_a_leading_v_which_is_why_a_device_offers_none_by_default() -> None:
    async with peer_process("flexmeasures", HERE / "flexmeasures_cem.py") as peer:
        url = f"ws://127.0.0.1:{(await peer.until('listening'))['port']}/"
        with pytest.raises(SessionRefused, match="INVALID_DATA"):
            await connect_plain(url, role=Role.RM, local=OURS, versions=["0.0.2-beta", "v1.0.0"])
