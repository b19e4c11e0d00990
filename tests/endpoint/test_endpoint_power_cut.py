"""The power fails, or the disk fills, at every change of the disk in a pairing and in a rotation of tokens."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from tests.endpoint.power_cut_program import both, build, build_paired, session
from tests.power_cut import Outcome, full_disk_points, kill_points

SCRIPT = str(Path(__file__).with_name("power_cut_program.py"))
ROOT = str(Path(__file__).parents[2])

# Each starts hundreds of processes. Power cuts of the store alone are in the default suite.
pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def command(what: str) -> list[str]:
    run = f"import sys, runpy; sys.path.insert(0, {ROOT!r}); runpy.run_path({SCRIPT!r}, run_name='__main__')"
    return [sys.executable, "-c", run, what, "{home}"]


async def come_back(home: Path) -> tuple[bool, int, int]:
    """Start both again: whether they talk, and how many confirmed pairings each has then."""
    async with both(home) as (cem, rm):
        had = bool(await rm.pairings())
        connected = await session(cem, rm) if had else False
        confirmed = [sum(p.confirmed for p in await endpoint.pairings()) for endpoint in (cem, rm)]
        return connected, confirmed[0], confirmed[1]


def agree(outcome: Outcome) -> None:
    """Both believe in one pairing and talk, or neither believes in any."""
    connected, manager, device = asyncio.run(come_back(outcome.home))
    assert (connected, manager, device) in ((True, 1, 1), (False, 0, 0)), outcome.change


def connected(outcome: Outcome) -> None:
    """A pairing that stood still stands."""
    assert asyncio.run(come_back(outcome.home)) == (True, 1, 1), outcome.change


@pytest.mark.rule("PAIR-10", "PAIRC-06")
@pytest.mark.parametrize("initiator", ["device pairs", "manager pairs"])
def test_after_a_power_cut_in_a_pairing_both_sides_agree(tmp_path: Path, initiator: str) -> None:
    assert kill_points(command(initiator), tmp_path, build, agree, thorough=True) > 10


@pytest.mark.rule("SESC-02", "SESC-03", "SESC-06", "SES-03")
def test_after_a_power_cut_in_a_rotation_the_pairing_still_stands(tmp_path: Path) -> None:
    assert kill_points(command("session"), tmp_path, build_paired, connected, thorough=True) > 5


@pytest.mark.rule("PAIR-10", "SESC-02", "SES-03")
@pytest.mark.parametrize("what", ["session", "device pairs"])
def test_a_full_disk_at_any_moment_costs_no_pairing(tmp_path: Path, what: str) -> None:
    paired = what == "session"
    prepare, check = (build_paired, connected) if paired else (build, agree)
    assert full_disk_points(command(what), tmp_path, prepare, check, stays_full=False, thorough=True) > 5
