"""Tables in PostgreSQL, as numbered migrations that expand first and contract later.

An upgrade of several instances goes one instance after the other, so for a while those of two versions work beside each
other in one database. Each migration therefore has two halves: ``expand`` only adds, and those of the version before do
not notice it; ``contract`` removes what only they need. A program that knows the migrations up to ``V`` works with
every database in which at least ``V`` are expanded and at most ``V`` contracted.

Tables that only help while instances run (attempts, codes, who is alive) are UNLOGGED: empty after a crash, which
fails closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

FIRST_TABLE = "CREATE TABLE IF NOT EXISTS s2connect_schema (expanded integer NOT NULL, contracted integer NOT NULL)"
"""Makes the table with one row: how many migrations are expanded, and how many contracted."""

READ_TABLES = "SELECT expanded, contracted FROM s2connect_schema"
FORGET_TABLES = "DELETE FROM s2connect_schema"
WRITE_TABLES = "INSERT INTO s2connect_schema VALUES (%s, %s)"

MIGRATION_LOCK = 0x5332_434F_4E4E_4543
"""Advisory lock: exclusive for a migration, shared while an instance checks whether it may use the database."""

APPLICATION = "s2connect"
"""Begins the ``application_name`` of every connection: ``s2connect/<known migrations>[ <instance>]``."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the tables, whose number is its place in :data:`MIGRATIONS`, from 1 on.

    Attributes:
        expand: Statements that add: after them the programs of the version before still work.
        contract: Statements that remove what only programs of the versions before need.
    """

    expand: tuple[str, ...]
    contract: tuple[str, ...] = ()


_STORE = Migration(
    expand=(
        # `tokens` are those of the communication client, sealed; `active_digest` is that of the communication server.
        # `generation` and `owner` say which instance holds the session.
        """
        CREATE TABLE pairing (
            sequence bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            local uuid NOT NULL,
            remote uuid NOT NULL,
            confirmed boolean NOT NULL,
            communication_role text NOT NULL,
            peer bytea NOT NULL,
            peer_endpoint bytea NOT NULL,
            initiate_session_url text,
            ca_fingerprint bytea,
            ca_der bytea,
            paired_at double precision NOT NULL,
            tokens bytea,
            active_digest bytea,
            token_issued_at double precision,
            generation bigint NOT NULL DEFAULT 0,
            owner text,
            UNIQUE (local, remote, confirmed)
        ) WITH (fillfactor = 80)
        """,
        "CREATE INDEX pairing_owner ON pairing (owner) WHERE owner IS NOT NULL",
        """
        CREATE TABLE tombstone (
            sequence bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            local uuid NOT NULL,
            remote uuid NOT NULL,
            UNIQUE (local, remote)
        )
        """,
        """
        CREATE TABLE refused_server (
            sequence bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            url text NOT NULL UNIQUE
        )
        """,
        "CREATE TABLE secret (name text PRIMARY KEY, sealed bytea NOT NULL)",
        # The settings of a node, as in a config.json.
        """
        CREATE TABLE node (
            sequence bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            id uuid NOT NULL UNIQUE,
            settings bytea NOT NULL
        )
        """,
        """
        CREATE UNLOGGED TABLE instance (
            name text PRIMARY KEY,
            started timestamptz NOT NULL,
            seen timestamptz NOT NULL,
            version text NOT NULL,
            schema integer NOT NULL,
            address text NOT NULL DEFAULT '',
            sessions integer NOT NULL DEFAULT 0
        )
        """,
    ),
)

MIGRATIONS: Sequence[Migration] = (_STORE,)
"""All migrations of this program, oldest first. What has been released is never changed."""
