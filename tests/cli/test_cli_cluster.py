"""``s2connect cluster status``: the instances on one database, on terminals, in pipes and for programs."""

from __future__ import annotations

import json
from functools import partial
from uuid import uuid4

import pytest

pytest.importorskip("psycopg")

from s2connect.store.postgresql.cluster import cluster_of
from s2connect.store.postgresql.database import Database
from s2connect.store.postgresql.schema import MIGRATIONS
from tests.command import in_terminal, run
from tests.postgresql import Cluster

INSTANCES = """
    INSERT INTO instance (name, started, seen, version, schema, address, host, sessions, draining) VALUES
        ('a-1', clock_timestamp(), now() + interval '1 h', '0.1', 1, 'machine-a.example:8443', 's2.example', 12, false),
        ('a-2', clock_timestamp(), now() + interval '1 h', '0.2', 1, 'machine-a.example:8443', 's3.example', 3, true),
        ('b', clock_timestamp(), clock_timestamp() - interval '5 minutes', '0.1', 1, 'machine-b.example:8443', 'old', 7,
            false)
"""


@pytest.fixture
def cloud(postgresql: str, postgresql_cluster: Cluster) -> str:
    """A database with two living instances, and what a dead one has left."""
    name = postgresql.partition("@/")[2].partition("?")[0]
    postgresql_cluster.sql(INSTANCES, name)
    for owner in ("'a-1'", "'b'", "'b'", "NULL"):
        postgresql_cluster.sql(
            "INSERT INTO pairing (local, remote, confirmed, communication_role, peer, peer_endpoint, paired_at, owner)"
            f" VALUES ('{uuid4()}', '{uuid4()}', true, 'server', '', '', 0, {owner})",
            name,
        )
    for owner, until in (("a-1", "+ interval '20 seconds'"), ("b", "- interval '1 minute'")):
        postgresql_cluster.sql(
            f"INSERT INTO link VALUES ('{uuid4()}', '{uuid4()}', '{owner}', clock_timestamp() {until})", name
        )
    return postgresql


async def test_what_is_asked_often_counts_only_what_is_orphaned(cloud: str) -> None:
    database = await Database.open(cloud)
    found = await database.read("read", partial(cluster_of, with_owned=False))
    assert (found.orphaned, found.owned, found.pairings) == ({"b": 2}, {}, 4)
    assert found.troubles == (await database.read("read", cluster_of)).troubles
    await database.close()


def test_programs_get_all_of_it(cloud: str) -> None:
    done = run("cluster", "status", "--store", cloud, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    shown = [(one["name"], one["alive"], one["draining"], one["sessions"]) for one in found["instances"]]
    assert shown == [("a-1", True, False, 12), ("a-2", True, True, 3), ("b", False, False, 7)]
    assert 299 < found["instances"][2]["age"] < 400
    assert (found["pairings"], found["owned"], found["orphaned"]) == (4, {"a-1": 1}, {"b": 2})
    assert (found["links"], found["leases_over"]) == ({"a-1": 1}, 1)
    assert found["schema"] == {"known": len(MIGRATIONS), "expanded": len(MIGRATIONS), "contracted": len(MIGRATIONS)}
    replication = found["replication"]
    assert replication["synchronous"] is False
    assert replication["standbys"] == []
    troubles = " ".join(found["troubles"])
    for part in (
        "b was not seen for",
        "different versions",
        "is dead (b): 2",
        "run out: 1",
        "standby_names is empty",
        "different hosts: s2.example, s3.example.",
    ):
        assert part in troubles


def test_in_an_upgrade_it_names_those_that_are_behind_the_tables(cloud: str, postgresql_cluster: Cluster) -> None:
    name = cloud.partition("@/")[2].partition("?")[0]
    postgresql_cluster.sql("UPDATE instance SET version = 'same', schema = 1", name)

    def troubles() -> str:
        return " ".join(json.loads(run("cluster", "status", "--store", cloud, "--json").stdout)["troubles"])

    assert "Of an earlier version than the tables: a-1, a-2. Update all, then: s2connect store migrate" in troubles()
    postgresql_cluster.sql(f"UPDATE instance SET schema = {len(MIGRATIONS)}", name)
    assert "--contract" not in troubles()


def test_it_fits_a_narrow_terminal_and_a_pipe(cloud: str) -> None:
    shown = in_terminal(60, "cluster", "status", "--store", cloud)
    assert max(map(len, shown.splitlines()[1:])) <= 60, "but for the URL, which is not broken in two"
    assert "  address: machine-a.example:8443" in shown
    assert "  state: draining" in shown
    piped = run("cluster", "status", "--store", cloud).stdout.splitlines()
    assert "a-1  alive  12  1  0.1  machine-a.example:8443" in piped
    assert "Replication: not synchronous" in piped
    wide = in_terminal(120, "cluster", "status", "--store", cloud)
    assert any(line.split() == ["b", "dead", "0", "0", "0.1", "machine-b.example:8443"] for line in wide.splitlines())


def test_it_says_when_the_role_may_not_see_the_standbys(cloud: str, postgresql_cluster: Cluster) -> None:
    name = cloud.partition("@/")[2].partition("?")[0]
    postgresql_cluster.sql("DROP ROLE IF EXISTS plain")
    postgresql_cluster.sql("CREATE ROLE plain LOGIN")
    postgresql_cluster.sql("GRANT SELECT ON ALL TABLES IN SCHEMA public TO plain", name)
    postgresql_cluster.sql(f"ALTER DATABASE {name} SET synchronous_commit = on")
    try:
        postgresql_cluster.sql("ALTER SYSTEM SET synchronous_standby_names = 'elsewhere'")
        postgresql_cluster.sql("SELECT pg_reload_conf()")
        done = run("cluster", "status", "--store", cloud.replace("postgres@", "plain@"))
        assert done.returncode == 0, done.stderr
        assert "Replication: not known to this role" in done.stdout
        assert "GRANT pg_monitor TO plain" in done.stdout
        found = json.loads(run("cluster", "status", "--store", cloud, "--json").stdout)
        assert "No synchronous standby is connected" in " ".join(found["troubles"])
    finally:
        postgresql_cluster.sql("ALTER SYSTEM RESET synchronous_standby_names")
        postgresql_cluster.sql("SELECT pg_reload_conf()")
        postgresql_cluster.sql("REVOKE ALL ON ALL TABLES IN SCHEMA public FROM plain", name)
        postgresql_cluster.sql("DROP ROLE plain")


def test_without_a_database_it_says_how_to_name_one() -> None:
    done = run("cluster", "status", "--home", "/nonexistent", env={"S2CONNECT_STORE": ""})
    assert done.returncode == 2
    assert "--store postgresql://user@host/name" in " ".join(done.stderr.split())
