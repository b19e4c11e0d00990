"""The Compose file of a site: its parts go together, and its two PostgreSQL nodes confirm each other's commits."""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from s2connect.https.server import free_port
from s2connect.store.postgresql.sealing import KEY_VARIABLE
from tests.command import run
from tests.haproxy import EXAMPLES
from tests.postgresql import STORE_KEYS, USER, _programs, need_postgresql
from tests.waits import Deadline, patience

CLUSTER = EXAMPLES / "cluster"
COMPOSE: dict[str, Any] = yaml.safe_load((CLUSTER / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def test_no_service_has_more_than_it_needs() -> None:
    for name, service in SERVICES.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "ports" not in service or name in ("haproxy", "mosquitto"), name


def test_addresses_are_those_of_the_file_of_haproxy() -> None:
    text = (EXAMPLES / "balancer" / "haproxy-passthrough.cfg").read_text("utf-8")
    addresses = [service["networks"]["s2"]["ipv4_address"] for service in SERVICES.values()]
    assert len(set(addresses)) == len(SERVICES), "one without is given one that another is to have"
    for name in ("a", "b"):
        address = SERVICES[f"s2connect-{name}"]["networks"]["s2"]["ipv4_address"]
        assert f"server {name} {address}:8443" in text
        assert SERVICES[f"s2connect-{name}"]["environment"] == {"S2CONNECT_INSTANCE": name}


def test_files_that_are_mounted_and_are_of_the_repository_are_there() -> None:
    for service in SERVICES.values():
        for mount in service.get("volumes", ()):
            place = mount.partition(":")[0]
            if place.endswith(".sh"):
                assert (CLUSTER / place).is_file()
        if "build" in service:
            assert (CLUSTER / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


def test_podman_compose_takes_the_file(tmp_path: Path) -> None:
    program = shutil.which(
        "podman-compose", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    )
    if program is None or shutil.which("podman") is None:
        pytest.skip("podman-compose is not installed")
    copy = tmp_path / "compose.yaml"
    copy.write_text((CLUSTER / "compose.yaml").read_text("utf-8"))
    for name in ("s2connect.env", "postgresql.env"):
        (tmp_path / name).touch()
    done = subprocess.run(
        [program, "-f", str(copy), "config"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert set(yaml.safe_load(done.stdout)["services"]) == set(SERVICES)


class Node:
    """A PostgreSQL node, started by node.sh as its container does it."""

    def __init__(self, directory: Path, address: str, other: str, port: int, *, first: bool = False) -> None:
        self.directory = directory
        self.address = address
        self.data = directory / "node"
        directory.mkdir(mode=0o755)
        shutil.copy(CLUSTER / "node.sh", directory / "node.sh")
        (directory / "node.sh").chmod(0o644)
        programs = _programs()
        assert programs is not None
        self._env = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PGDATA": str(self.data),
            "PGPORT": str(port),
            "PGPASSWORD": "pw-of-s2",
            "STANDBY_PASSWORD": "pw-of-standby",
            "NODE": address,
            "OTHER": other,
            "LISTEN": address,
            "SOCKETS": str(directory),
            **({"FIRST": "yes"} if first else {}),
        }
        self.as_user: list[str] = []
        if os.geteuid() == 0:
            shutil.chown(directory, USER, USER)
            self.as_user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups"]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.as_user, "sh", str(self.directory / "node.sh")],
                env=self._env,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def sql(self, statement: str) -> str:
        done = subprocess.run(
            ["psql", "-h", str(self.directory), "-U", "postgres", "-Atqc", statement],
            env=self._env,
            capture_output=True,
            text=True,
            timeout=patience(10),
            check=False,
        )
        return done.stdout.strip() if done.returncode == 0 else f"failed: {done.stderr}"

    def until(self, statement: str, answer: str, *others: Node) -> None:
        """Wait until a query has this answer; start nodes again that have ended, as their containers are."""
        deadline = Deadline(30)
        while (found := self.sql(statement)) != answer:
            assert not deadline.passed(), (found, self.log(), *(other.log() for other in others))
            for node in (self, *others):
                if node.process is not None and node.process.poll() is not None:
                    node.start()
            time.sleep(0.2)

    def log(self) -> str:
        return (self.directory / "log").read_text("utf-8", "replace")

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture
def nodes() -> Iterator[tuple[Node, Node, int]]:
    need_postgresql()
    directory, port = Path(tempfile.mkdtemp(prefix="s2nodes")), free_port()
    directory.chmod(0o755)
    a = Node(directory / "a", "127.0.0.2", "127.0.0.3", port, first=True)
    b = Node(directory / "b", "127.0.0.3", "127.0.0.2", port)
    try:
        yield a, b, port
    finally:
        for node in (a, b):
            with contextlib.suppress(ProcessLookupError):
                node.kill()
        shutil.rmtree(directory, ignore_errors=True)


STANDBYS = "SELECT string_agg(application_name || ' ' || sync_state, ',') FROM pg_stat_replication"


@pytest.mark.long
def test_the_nodes_confirm_each_other_and_change_places(nodes: tuple[Node, Node, int]) -> None:
    a, b, port = nodes
    a.start()
    b.start()
    a.until(STANDBYS, "127.0.0.3 quorum", b)
    url = f"postgresql://s2@{a.address},{b.address}:{port}/s2".replace(",", f":{port},", 1)
    env = {"PGPASSWORD": "pw-of-s2", KEY_VARIABLE: base64.b64encode(STORE_KEYS[0]).decode()}
    migrated = run("store", "migrate", "--store", url, env=env)
    assert migrated.returncode == 0, migrated.stderr

    a.kill()
    assert b.sql("SELECT pg_promote()") == "t"
    b.until("SELECT pg_is_in_recovery()", "f")
    assert a.process is not None
    a.start()  # with what it had
    assert a.process.wait(patience(20)) == 1
    assert "127.0.0.3 is the primary now" in a.log()

    shutil.rmtree(a.data)
    a.start()
    b.until(STANDBYS, "127.0.0.2 quorum", a)
    migrated = run("store", "migrate", "--store", url, env=env)
    assert migrated.returncode == 0, migrated.stderr
    a.until("SELECT pg_is_in_recovery()", "t")
