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

FIRST_TABLE = (
    "CREATE TABLE IF NOT EXISTS s2connect_schema"
    " (expanded integer NOT NULL, contracted integer NOT NULL, copied_from text, moved_to text)"
)
"""Makes the table with one row: how many migrations are expanded, and how many contracted.

``copied_from`` is the home from which the state came, ``moved_to`` that to which it went, which seals the database.
"""

FIRST_ROW = "INSERT INTO s2connect_schema SELECT 0, 0 WHERE NOT EXISTS (SELECT FROM s2connect_schema)"
READ_TABLES = "SELECT expanded, contracted, copied_from, moved_to FROM s2connect_schema"
WRITE_TABLES = "UPDATE s2connect_schema SET expanded = %s, contracted = %s"

BEGIN_EPOCH = "INSERT INTO epoch VALUES (gen_random_uuid()) ON CONFLICT DO NOTHING"
READ_EPOCH = "SELECT id::text FROM epoch"
"""Name the time without a crash or failover: the table is empty after either."""

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
        # The settings of a node as in a config.json; NULL where it was removed.
        """
        CREATE TABLE node (
            sequence bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            id uuid NOT NULL UNIQUE,
            settings bytea
        )
        """,
        """
        CREATE UNLOGGED TABLE instance (
            name text PRIMARY KEY,
            incarnation uuid NOT NULL DEFAULT gen_random_uuid(),
            started timestamptz NOT NULL,
            seen timestamptz NOT NULL,
            version text NOT NULL,
            schema integer NOT NULL,
            address text NOT NULL DEFAULT '',
            sessions integer NOT NULL DEFAULT 0,
            draining boolean NOT NULL DEFAULT false
        ) WITH (fillfactor = 50)
        """,
    ),
)

_SHARED = Migration(
    expand=(
        # State of requests under way, which all instances share. Times are seconds since the epoch of this database.
        # `codes`: the tokens of a node, sealed; NULL until it has any. `free_at`: of the next turn (PAIR-02).
        """
        CREATE UNLOGGED TABLE pairing_node (
            node uuid PRIMARY KEY,
            codes bytea,
            free_at double precision
        ) WITH (fillfactor = 50)
        """,
        # Requests that wait for their turn; sources by `place`, those of one source by `ready_at`. A request that is
        # not `seen` any more has nobody who waits for its answer.
        """
        CREATE UNLOGGED TABLE pairing_turn (
            id text PRIMARY KEY,
            node uuid NOT NULL,
            source text NOT NULL,
            place bigint NOT NULL,
            ready_at double precision NOT NULL,
            seen double precision NOT NULL
        ) WITH (fillfactor = 50)
        """,
        "CREATE INDEX pairing_turn_node ON pairing_turn (node)",
        """
        CREATE UNLOGGED TABLE pairing_source (
            node uuid NOT NULL,
            source text NOT NULL,
            served double precision,
            failures integer NOT NULL DEFAULT 0,
            failed double precision NOT NULL DEFAULT 0,
            not_before double precision NOT NULL DEFAULT 0,
            PRIMARY KEY (node, source)
        ) WITH (fillfactor = 80)
        """,
        # `id` and `request` are digests; `content` is sealed.
        """
        CREATE UNLOGGED TABLE pairing_attempt (
            id bytea PRIMARY KEY,
            request bytea NOT NULL,
            node uuid NOT NULL,
            source text NOT NULL,
            ended boolean NOT NULL,
            expires double precision NOT NULL,
            content bytea NOT NULL
        ) WITH (fillfactor = 50)
        """,
        "CREATE INDEX pairing_attempt_request ON pairing_attempt (request)",
        "CREATE INDEX pairing_attempt_expires ON pairing_attempt (expires, ended, source)",
        "CREATE INDEX pairing_attempt_node ON pairing_attempt (node)",
        # Digests of the proofs that live attempts accept (HMAC-05).
        "CREATE UNLOGGED TABLE pairing_proof (digest bytea PRIMARY KEY, expires double precision NOT NULL)",
        "CREATE INDEX pairing_proof_expires ON pairing_proof (expires)",
        # Digests of pending access tokens (SES-02), and of the tokens of connections that are offered (SES-04).
        """
        CREATE UNLOGGED TABLE pending_token (
            digest bytea PRIMARY KEY,
            local uuid NOT NULL,
            remote uuid NOT NULL,
            paired_at double precision NOT NULL,
            protocol text NOT NULL,
            s2_version text NOT NULL,
            expires double precision NOT NULL
        )
        """,
        "CREATE INDEX pending_token_pair ON pending_token (local, remote)",
        "CREATE INDEX pending_token_expires ON pending_token (expires)",
        """
        CREATE UNLOGGED TABLE offer (
            digest bytea PRIMARY KEY,
            local uuid NOT NULL,
            remote uuid NOT NULL,
            paired_at double precision NOT NULL,
            s2_version text NOT NULL,
            address text NOT NULL,
            owner text NOT NULL DEFAULT '',
            expires double precision NOT NULL
        )
        """,
        "CREATE INDEX offer_pair ON offer (local, remote)",
        "CREATE INDEX offer_expires ON offer (expires)",
    ),
)

_LINKS = Migration(
    expand=(
        # Which instance connects to the server of a pairing. Logged: an empty table would let a second one connect
        # while the first still does.
        """
        CREATE TABLE link (
            local uuid NOT NULL,
            remote uuid NOT NULL,
            owner text NOT NULL,
            until timestamptz NOT NULL,
            PRIMARY KEY (local, remote)
        ) WITH (fillfactor = 50)
        """,
        "CREATE INDEX pairing_client ON pairing (local) WHERE communication_role = 'client'",
    ),
)

_HOLDERS = Migration(
    expand=(
        # The instance that has prepared the session of a pending token, and its WebSocket URL; empty where any takes
        # the connection. `offer.owner` is the same.
        "ALTER TABLE pending_token ADD COLUMN owner text NOT NULL DEFAULT '', ADD COLUMN url text NOT NULL DEFAULT ''",
    ),
)

_HOSTS = Migration(
    # Host of the URLs of an instance, which is that of all; empty where it runs an earlier version.
    expand=("ALTER TABLE instance ADD COLUMN host text NOT NULL DEFAULT ''",),
)

_KEY_CHECK = Migration(
    # One row, sealed with the key of the database, by which an instance with another one is known.
    expand=("CREATE TABLE key_check (single boolean PRIMARY KEY DEFAULT true CHECK (single), sealed bytea NOT NULL)",),
)

_BRIDGES = Migration(
    expand=(
        # Small files of an application that all instances share, such as the identity of a bridge.
        "CREATE TABLE document (name text PRIMARY KEY, content bytea NOT NULL)",
        # Each takeover raises it: whoever is not owner and generation of the row has lost the link.
        "ALTER TABLE link ADD COLUMN generation bigint NOT NULL DEFAULT 0",
    ),
)

_UNCONFIRMED = Migration(
    # Each instance looks for them again and again; there are few.
    expand=("CREATE INDEX pairing_unconfirmed ON pairing (sequence) WHERE NOT confirmed",),
)

_EPOCH = Migration(
    # One row. UNLOGGED, so that it is gone where PostgreSQL may give numbers of transactions again.
    expand=("CREATE UNLOGGED TABLE epoch (id uuid NOT NULL, single boolean PRIMARY KEY DEFAULT true CHECK (single))",),
)

_MANY = Migration(
    expand=(
        # The links that nobody holds, found without reading a pairing.
        "CREATE INDEX pairing_client_pair ON pairing (local, remote) INCLUDE (confirmed, paired_at)"
        " WHERE communication_role = 'client'",
        # A pairing by the id of its peer, or by the first characters of that.
        "CREATE INDEX pairing_remote ON pairing (remote)",
    ),
    contract=("DROP INDEX pairing_client",),
)

_MEETINGS = Migration(
    # The party of a link that its owner waits for, and until when; empty once it was led there.
    expand=(
        "ALTER TABLE link ADD COLUMN awaits text NOT NULL DEFAULT '',"
        " ADD COLUMN awaits_until timestamptz NOT NULL DEFAULT '-infinity'",
    ),
)

MIGRATIONS: Sequence[Migration] = (
    _STORE,
    _SHARED,
    _LINKS,
    _HOLDERS,
    _HOSTS,
    _KEY_CHECK,
    _BRIDGES,
    _UNCONFIRMED,
    _EPOCH,
    _MANY,
    _MEETINGS,
)
"""All migrations of this program, oldest first. What has been released is never changed."""
