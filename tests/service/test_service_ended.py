"""Pairings that have ended and codes that are spent: status, log and screen say which side, and what is next."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from s2connect import Endpoint, Role, create_home
from s2connect.bridge.bridge import Bridge
from s2connect.bridge.config_file import load
from s2connect.bridge.link_state import LinkState
from s2connect.cli.bridge_show import bridge_blocks
from s2connect.cli.show import status_blocks
from s2connect.errors import PairingRefused
from s2connect.https.server import free_port
from s2connect.service import commands
from s2connect.service.sidecar import Service
from s2connect.web.observation import Observation
from tests.bridge.bridge_fixtures import introduce
from tests.waits import until, within
from tests.web.test_web_observation import config


def screen(blocks: list[RenderableType]) -> str:
    out = Console(file=StringIO(), width=200)
    for block in blocks:
        out.print(block)
    assert isinstance(out.file, StringIO)
    return out.file.getvalue()


@pytest.mark.long
async def test_a_pairing_that_the_other_side_has_ended_is_in_status_until_it_is_made_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with within(20), Endpoint.open(config=config(Role.CEM)) as cem, Endpoint.open(config=config(Role.RM)) as rm:
        rm_id, cem_id = rm.node().id, cem.node().id
        await introduce(rm, rm_id, cem, cem_id, rm_id)
        await rm.node().unpair(cem_id)
        await until(cem.ended_pairings)
        (event,) = cem.ended_pairings()
        assert (event.peer.id, str(event.by)) == (rm_id, "peer")
        assert event.sentence == "The device has ended the pairing."
        (record,) = (r for r in caplog.records if "ended by peer" in r.getMessage())
        assert record.levelname == "WARNING"
        assert "paired again" in record.getMessage()
        code = cem.node().issue_pairing_code()
        await rm.node().pair(str(cem.pairing_url), code)
        assert cem.ended_pairings() == []
        assert cem.node().code_state == "used"
        await cem.node().unpair(rm_id, forget=True)
        assert [str(one.by) for one in cem.ended_pairings()] == ["us"]


async def test_the_screen_of_status_names_what_has_ended_and_a_code_that_is_spent(tmp_path: Path) -> None:
    home = tmp_path / "home"
    create_home(home, config(Role.CEM).model_copy(update={"port": free_port()}))
    async with within(20), Endpoint.open(home) as cem, Endpoint.open(config=config(Role.RM)) as rm:
        service = Service(cem, home, stop=lambda: None)
        rm_id, tokens = rm.node().id, cem._pairing.server.tokens(cem.node().id)
        await introduce(rm, rm_id, cem, cem.node().id, rm_id)
        await rm.node().unpair(cem.node().id)
        cem.node().issue_pairing_code()
        issued = tokens.valid(now=0.0)
        assert issued is not None
        tokens.spend(issued)
        await until(cem.ended_pairings)
        status = await service.ask(commands.Status())
        assert [(one.by, one.peer.id) for one in status.ended] == [("peer", rm.node().id)]
        assert [node.code_state for node in status.nodes] == ["used"]
        text = screen(status_blocks(status, 200))
        assert "The device has ended the pairing. If that was not meant, pair again: s2connect pair" in text
        assert "The code is spent" in text


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "bridge.toml"
    path.write_text(
        f'home = "home"\n[endpoint]\nhost = "127.0.0.1"\nport = {free_port()}\nadvertise = false\n'
        f'[[route]]\nname = "house"\n[route.devices]\ntype = "plain-server"\nport = {free_port()}\n'
        '[[route.devices.device]]\nname = "battery"\n[route.manager]\ntype = "s2-connect"\n'
    )
    return path


async def test_a_link_says_which_side_is_not_paired_and_the_next_step(file: Path) -> None:
    async with within(20), Bridge.open(load(file)[0]) as bridge:
        status: Any = bridge.status()
        (link,) = status["routes"][0]["links"]
        assert link["state"] == "unpaired"
        assert link["reason"] == "the energy manager is not paired; pair it with: s2connect bridge pair FILE"
        assert "the energy manager is not paired" in screen(bridge_blocks(status, 200))


@pytest.mark.long
async def test_a_bridge_says_which_pairing_has_ended_by_whom_and_the_next_step(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "s2connect.bridge")
    async with within(20), Bridge.open(load(file)[0]) as bridge, Endpoint.open(config=config(Role.CEM)) as cem:
        (node,) = bridge.endpoint.nodes.values()
        await node.pair(str(cem.pairing_url), cem.node().issue_pairing_code())
        (running,) = bridge.routes["house"].links.values()
        await until(lambda: running.state is not LinkState.UNPAIRED)
        await node.unpair(cem.node().id)
        await until(lambda: bridge.status()["ended"])
        (ended,) = bridge.status()["ended"]
        assert (ended["by"], ended["role"], ended["text"]) == (
            "us",
            "CEM",
            "The pairing with the energy manager was ended on this side.",
        )
        assert "s2connect bridge pair FILE" in screen(bridge_blocks(bridge.status(), 200))
        await until(lambda: running.state is LinkState.UNPAIRED)
        assert "link house/battery: unpaired (the energy manager is not paired; pair it with:" in caplog.text


async def test_somebody_who_comes_with_a_spent_code_is_told_of_here_with_the_next_step(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with within(20), Endpoint.open(config=config(Role.CEM)) as cem, Endpoint.open(config=config(Role.RM)) as rm:
        observation = Observation(cem)
        cem.supervisor.keep(observation.run, "observation")
        code = cem.node().issue_pairing_code()
        cem.node().withdraw_pairing_code()
        with pytest.raises(PairingRefused):
            await rm.node().pair(str(cem.pairing_url), code)
        await until(lambda: observation.snapshot().warnings)
        (warning,) = observation.snapshot().warnings
        assert warning.kind == "no_valid_code"
        assert "no valid code: the last one was withdrawn. Make a new one with: s2connect code" in warning.sentence
        assert warning.sentence in caplog.text
