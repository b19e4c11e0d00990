"""A real PostgreSQL for tests: one cluster for each test process, and an empty database for each test.

Its fixtures ``postgresql``, ``postgresql_cluster`` and ``durable`` are those of every test.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.waits import patience

USER = "postgres"
TEMPLATE = "s2connect_template"

STORE_KEYS = [bytes(range(32))]
"""Keys that seal the secrets in databases of tests."""


PROGRAMS = "S2CONNECT_TEST_POSTGRESQL"
"""Environment variable with the directory of PostgreSQL's programs, to test another version than that installed."""


def _programs() -> Path | None:
    """Return the directory of the newest ``initdb``, or of that asked for: Debian has it outside of the path."""
    if asked := os.environ.get(PROGRAMS):
        return Path(asked)
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda place: int(place.parts[-3]))
    return places[-1].parent if places else None


def need_postgresql() -> None:
    """Skip the test where PostgreSQL or psycopg is missing; fail in CI, which installs both."""
    reason = ""
    if _programs() is None:
        reason = "PostgreSQL is not installed (Debian: apt-get install postgresql)"
    else:
        try:
            import psycopg  # noqa: F401
        except ImportError:
            reason = "psycopg is not installed (pip install 's2connect[postgresql]')"
    if reason:
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


class Cluster:
    """A PostgreSQL server on a socket in a directory of its own, for the user ``postgres`` without a password.

    Args:
        durable: Whether it flushes to disk as in operation; for tests that end it hard.
        settings: Further settings, by name.
    """

    def __init__(self, *, durable: bool = False, **settings: str) -> None:
        need_postgresql()
        programs = _programs()
        assert programs is not None
        self._programs = programs
        # Not in the test's directory: the path of a socket has at most 107 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="s2pg"))
        self._reused: str | None = None
        self._settings = {
            "listen_addresses": "''",
            "unix_socket_directories": f"'{self.directory}'",
            "shared_buffers": "32MB",
            "max_connections": "100",
            "fsync": "on" if durable else "off",
            "log_min_messages": "warning",
            **settings,
        }
        if os.geteuid() == 0:  # the server refuses to run as root
            shutil.chown(self.directory, USER, USER)
        self.directory.chmod(0o755)
        self.data = self.directory / "data"
        self._run("initdb", "-A", "trust", "-U", USER, "-E", "UTF8", "--locale=C", "-N", "-D", self.data)
        self.start()

    def _run(self, program: str, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        words = [str(self._programs / program), *map(str, arguments)]
        if os.geteuid() == 0:
            words = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups", *words]
        # Without pipes: the server would inherit them and keep them open.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                words,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=patience(60),
                env={**os.environ, "LC_ALL": "C"},
                check=False,
            )
            output.seek(0)
            text = output.read()
        assert not check or done.returncode == 0, f"{program}: {text}"
        return done

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        options = " ".join(f"-c {name}={value}" for name, value in self._settings.items())
        self._run("pg_ctl", "-w", "-D", self.data, "-l", self.directory / "log", "-o", options, "start")

    def stop(self, mode: str = "immediate") -> None:
        """Stop the server; ``immediate`` as in a crash."""
        self._run("pg_ctl", "-w", "-D", self.data, "-m", mode, "stop", check=False)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server and all of its processes: SIGSTOP makes it silent."""
        first = (self.data / "postmaster.pid").read_text("ascii").split()[0]
        children = subprocess.run(["pgrep", "-P", first], capture_output=True, text=True, check=False).stdout.split()
        for process in (first, *children):
            os.kill(int(process), number)

    def url(self, database: str) -> str:
        """Return the URL of a database."""
        port = f"&port={self._settings['port']}" if "port" in self._settings else ""
        return f"postgresql://{USER}@/{database}?host={self.directory}{port}"

    def sql(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement outside of a transaction and return its rows."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def emptied_database(self) -> str:
        """Return the URL of a database whose tables are empty and which nobody uses: that of the test before.

        A copy of the template for each test would be 7 MB each.
        """
        if self._reused is None:
            self._reused = self.new_database()
        name = self._reused.partition("@/")[2].partition("?")[0]
        self.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        tables = self.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", name)
        emptied = "; ".join(f"DELETE FROM {table}" for (table,) in tables if table != "s2connect_schema")
        self.sql(emptied, name)
        return self._reused

    def new_database(self) -> str:
        """Return the URL of a new database with the tables of this program."""
        name = f"test_{uuid.uuid4().hex}"
        self.sql(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        return self.url(name)

    def make_template(self) -> None:
        """Make the database of which :meth:`new_database` makes copies."""
        from s2connect.store.postgresql.migrating import expand

        self.sql(f"CREATE DATABASE {TEMPLATE}")
        # In a thread: a loop may run in this one.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(lambda: asyncio.run(expand(self.url(TEMPLATE)))).result()

    def standby(self) -> Cluster:
        """Return a running standby of this server, without which this one confirms no commit from now on."""
        other = object.__new__(Cluster)
        other._programs, other._reused = self._programs, None
        other.directory = Path(tempfile.mkdtemp(prefix="s2pg"))
        other._settings = {**self._settings, "unix_socket_directories": f"'{other.directory}'"}
        if os.geteuid() == 0:
            shutil.chown(other.directory, USER, USER)
        other.directory.chmod(0o755)
        other.data = other.directory / "data"
        other._run("pg_basebackup", "-R", "-c", "fast", "-h", self.directory, "-U", USER, "-D", other.data)
        other.start()
        self.sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self.sql("SELECT pg_reload_conf()")
        return other

    def promote(self) -> None:
        """Make a standby the primary."""
        self._run("pg_ctl", "-w", "-D", self.data, "promote")

    def close(self) -> None:
        """Stop the server and remove its files."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


@contextlib.contextmanager
def _cluster(*, durable: bool) -> Iterator[Cluster]:
    cluster = Cluster(durable=durable)
    try:
        cluster.make_template()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="session")
def postgresql_cluster() -> Iterator[Cluster]:
    """One server for all tests of this process, which does not flush to disk."""
    with _cluster(durable=False) as cluster:
        yield cluster


@pytest.fixture
def durable() -> Iterator[Cluster]:
    """A server of the test's own that flushes to disk."""
    with _cluster(durable=True) as cluster:
        yield cluster


@pytest.fixture
def postgresql(postgresql_cluster: Cluster) -> str:
    """URL of a database with the tables of this program, all of them empty."""
    return postgresql_cluster.emptied_database()
