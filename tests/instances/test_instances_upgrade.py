"""Upgrade of a cloud, one instance after the other, and back again: devices send all the time."""

from __future__ import annotations

import asyncio
import io
import re
import signal
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

pytest.importorskip("psycopg")

from s2connect.store.postgresql.schema import MIGRATIONS
from tests.command import Running, run, start
from tests.endpoint.conftest import Wan, wan
from tests.instances.cloud import ENVIRONMENT, Device, begin, cloud_home, devices, reserved_port
from tests.instances.test_instances_faults import check, going_on, paired
from tests.postgresql import Cluster
from tests.waits import within

__all__ = ["start", "wan"]

Start = Callable[..., Running]

REPOSITORY = Path(__file__).resolve().parents[2]
SCHEMA = "s2connect/store/postgresql/schema.py"


def git(*words: str) -> bytes:
    done = subprocess.run(["git", "-C", str(REPOSITORY), *words], capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else b""


def migrations(commit: str) -> int:
    text = git("show", f"{commit}:{SCHEMA}").decode()
    found = re.search(r"^MIGRATIONS: .*? = \((.*?)\)", text, re.DOTALL | re.MULTILINE)
    return len(re.findall(r"\w+", found[1])) if found is not None else 0


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """Directory with the program as it was before its tables changed last; skips where the history is not here."""
    for commit in git("log", "--format=%H", "--", SCHEMA).decode().split():
        if 0 < migrations(f"{commit}^") < len(MIGRATIONS):
            archive = git("archive", f"{commit}^", "s2connect")
            with tarfile.open(fileobj=io.BytesIO(archive)) as files:
                files.extractall(tmp_path / "earlier", filter="data")
            return tmp_path / "earlier"
    pytest.skip("the history of the repository is not here")


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_instances_are_replaced_one_after_the_other_by_the_next_version_and_by_the_one_before(
    wan: Wan, postgresql_cluster: Cluster, tmp_path: Path, start: Start, earlier: Path
) -> None:
    postgresql_cluster.sql("CREATE DATABASE upgraded")
    url = postgresql_cluster.url("upgraded")
    old, new = {"PYTHONPATH": str(earlier), "PYTHONSAFEPATH": "1"}, dict[str, str]()

    def command(version: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
        return run(*words, "--store", url, env={**ENVIRONMENT, **version})

    def status(version: dict[str, str]) -> str:
        done = command(version, "cluster", "status")
        return " ".join((done.stdout + done.stderr).split())

    assert command(old, "store", "migrate").returncode == 0
    with reserved_port() as port:
        home = cloud_home(wan, tmp_path / "cloud", url, port, drain_wait=0.5)
        running: dict[str, Running] = {}
        begun: list[Running] = []

        def begin_one(name: str, version: dict[str, str]) -> Running:
            running[name] = begin(start, home, name, port, version=version)
            begun.append(running[name])
            return running[name]

        async def replace_all(version: dict[str, str], fleet: Sequence[Device]) -> None:
            for name, before in list(running.items()):
                before.process.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(before.ended, 30) == 0
                await asyncio.to_thread(begin_one(name, version).event, "ready")
                await going_on(fleet)

        async with within(150), devices(wan, 4) as fleet:
            await paired(begin_one("one", old), fleet)
            await asyncio.to_thread(begin_one("two", old).event, "ready")
            assert "older than this program" in status(new)
            assert command(new, "store", "migrate").returncode == 0
            await going_on(fleet)
            assert "earlier version than the tables: one, two" in status(new)
            await replace_all(new, fleet)
            assert "earlier version than the tables" not in status(new)

            await replace_all(old, fleet)
            assert "earlier version than the tables: one, two" in status(new)
            assert "alive" in status(old)
            refused = command(new, "store", "migrate", "--contract")
            assert (refused.returncode, "one, two" in refused.stderr) == (7, True)

            await replace_all(new, fleet)
            assert command(new, "store", "migrate", "--contract").returncode == 0
            last = begin(start, home, "three", port, version=old)
            assert await asyncio.to_thread(last.ended, 30) == 7
            assert "those of a later version" in last.errors + "".join(last.so_far())
        await check(fleet, begun)
