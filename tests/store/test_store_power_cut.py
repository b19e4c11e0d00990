"""A process is killed, or the disk is full, at each change of the disk: the state is that before or that after."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from pathlib import Path

import pytest

from s2connect.model.roles import CommunicationRole
from s2connect.store.memory import MemoryStore
from tests.power_cut import Outcome, changes, full_disk_points, kill_points, require_strace
from tests.store.power_cut_child import STEPS, before, open_store
from tests.store.store_examples import contents, key

# Each starts a hundred processes, on machines that may be busy.
pytestmark = pytest.mark.timeout(600)

CHILD = [sys.executable, "-m", "tests.store.power_cut_child", "{home}"]
KEYS = [key(number) for number in range(1, 5)]


async def expected_states() -> list[object]:
    """Content of the store after none, one, … all of the steps, by the store that has no disk."""
    store = MemoryStore()
    await before(store)
    states = [await contents(store, KEYS)]
    for step in STEPS:
        await step(store)
        states.append(await contents(store, KEYS))
    return states


@pytest.fixture(scope="module")
def states() -> list[object]:
    return asyncio.run(expected_states())


def prepare(home: Path) -> None:
    async def fill() -> None:
        store = await open_store(home)
        await before(store)
        await store.close()

    home.mkdir(mode=0o700)
    asyncio.run(fill())


def left(home: Path) -> object:
    """Return the state after the crash. No secret may be left that belongs to no pairing, and nothing half-written."""

    async def read() -> tuple[object, int]:
        store = await open_store(home)
        try:
            clients = [p for p in await store.pairings() if p.communication_role is CommunicationRole.CLIENT]
            for known in clients:
                assert await store.candidate_tokens(known), "a pairing without tokens"
            return await contents(store, KEYS), len(clients)
        finally:
            await store.close()

    found, clients = asyncio.run(read())
    files = sorted(path.name for path in (home / "vault").iterdir() if path.name != "was-paired")
    with sqlite3.connect(home / "state.db") as db:
        names = [name for (name,) in db.execute("SELECT vault_name FROM pairing WHERE vault_name IS NOT NULL")]
        assert db.execute("SELECT count(*) FROM vault_journal").fetchone() == (0,)
    db.close()
    assert files == sorted(names)
    assert len(files) == clients
    return found


def done(outcome: Outcome) -> int:
    return max((int(line) for line in outcome.output.split()), default=0)


@pytest.mark.long
@pytest.mark.rule("PAIR-10", "SES-03", "SESC-02", "SESC-03", "SESC-06", "ROLE-05", "ROLE-06")
def test_killed_at_any_change_the_state_is_that_before_or_after_the_operation(
    tmp_path: Path, states: list[object]
) -> None:
    def check(outcome: Outcome) -> None:
        step = done(outcome)
        assert left(outcome.home) in states[step : step + 2], f"killed at {outcome.change} after step {step}"

    assert kill_points([*CHILD, "stop"], tmp_path, prepare, check, thorough=True) > len(STEPS)


@pytest.mark.long
@pytest.mark.rule("SESC-06")
def test_killed_while_the_database_is_created_it_can_be_opened_again(tmp_path: Path) -> None:
    def check(outcome: Outcome) -> None:
        assert left(outcome.home) == ([], [False] * len(KEYS)), f"killed at {outcome.change}"

    assert kill_points([*CHILD, "open"], tmp_path, lambda home: home.mkdir(mode=0o700), check) > 3


@pytest.mark.rule("SESC-02", "SESC-03", "SEC-02")
def test_a_rotation_is_synced_before_it_replaces_the_old_tokens_and_before_it_is_done(tmp_path: Path) -> None:
    require_strace()
    home = tmp_path / "home"
    prepare(home)
    all_calls = changes([*CHILD, "stop"], home)
    log = [change.call for change in all_calls if "state.db-wal>" in change.arguments]
    assert "pwrite64" in log
    assert log.count("fdatasync") >= len(STEPS) - 2, "all but the two steps of a rotation are commits"
    calls = [change for change in all_calls if "/vault" in change.arguments]
    renames = [number for number, change in enumerate(calls) if change.call.startswith("rename")]
    assert len(renames) >= 2
    for number in renames:
        assert [change.call for change in calls[number - 2 : number]] == ["write", "fsync"]
        assert ".s2connect-tmp>" in calls[number - 1].arguments
        assert calls[number + 1].call == "fsync"
        assert calls[number + 1].arguments.split(">")[0].endswith("/vault")


@pytest.mark.long
@pytest.mark.rule("PAIR-10", "SES-03", "SESC-06")
def test_a_disk_that_is_full_for_a_moment_fails_the_operation_and_the_next_attempt_succeeds(
    tmp_path: Path, states: list[object]
) -> None:
    def check(outcome: Outcome) -> None:
        assert outcome.returncode == 0, f"at {outcome.change}: {outcome.errors}"
        # Only a store that could not be opened at all has done nothing.
        assert left(outcome.home) == states[-1 if done(outcome) else 0], f"full at {outcome.change}"

    assert full_disk_points([*CHILD, "retry"], tmp_path, prepare, check, stays_full=False, thorough=True)


@pytest.mark.long
@pytest.mark.rule("PAIR-10", "SES-03", "SESC-06")
def test_a_disk_that_stays_full_leaves_the_state_before_or_after_the_operation(
    tmp_path: Path, states: list[object]
) -> None:
    def check(outcome: Outcome) -> None:
        assert outcome.returncode == 0, f"at {outcome.change}: {outcome.errors}"
        step = done(outcome)
        assert left(outcome.home) in states[step : step + 2], f"full at {outcome.change} after step {step}"

    assert full_disk_points([*CHILD, "stop"], tmp_path, prepare, check, stays_full=True, thorough=True)
