"""Tables of the SQLite store, and the row of a pairing: its columns, its keys, and the way back."""

from __future__ import annotations

import functools
import sqlite3
import uuid
from typing import Any

from s2connect.model.common import NodeDescription, NodeId
from s2connect.model.roles import CommunicationRole
from s2connect.model.url import BaseUrl
from s2connect.store.base import Pairing, PairKey, Pin
from s2connect.store.columns import read_endpoint

SCHEMA_VERSION = 2
"""Version of the tables, in the database's ``user_version``."""

SCHEMA = (
    """
    CREATE TABLE pairing (
        sequence INTEGER PRIMARY KEY,
        local BLOB NOT NULL,
        remote BLOB NOT NULL,
        confirmed INTEGER NOT NULL,
        communication_role TEXT NOT NULL,
        peer BLOB NOT NULL,
        peer_endpoint BLOB NOT NULL,
        initiate_session_url TEXT,
        ca_fingerprint BLOB,
        ca_der BLOB,
        paired_at REAL NOT NULL,
        vault_name TEXT,
        active_digest BLOB,
        token_issued_at REAL,
        UNIQUE (local, remote, confirmed)
    )
    """,
    "CREATE TABLE tombstone (sequence INTEGER PRIMARY KEY, local BLOB NOT NULL, remote BLOB NOT NULL,"
    " UNIQUE (local, remote))",
    "CREATE TABLE refused_server (sequence INTEGER PRIMARY KEY, url TEXT NOT NULL UNIQUE)",
    "CREATE TABLE vault_journal (name TEXT PRIMARY KEY, attempts INTEGER NOT NULL DEFAULT 0)",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)

MIGRATIONS = {
    1: ("ALTER TABLE pairing ADD COLUMN token_issued_at REAL", f"PRAGMA user_version = {SCHEMA_VERSION}"),
}
"""Migrations of the tables from earlier versions."""

PAIR = "local = ? AND remote = ?"
"""SQL condition for a pair of nodes, with the values of :func:`pair_columns`."""

SAME = f"{PAIR} AND paired_at = ?"
"""SQL condition for one pairing, with the values of :func:`pairing_columns`."""


def pair_columns(key: PairKey) -> tuple[bytes, bytes]:
    """Return the values for :data:`PAIR`."""
    return key.local.bytes, key.remote.bytes


def pairing_columns(pairing: Pairing) -> tuple[bytes, bytes, float]:
    """Return the values for :data:`SAME`."""
    return *pair_columns(pairing.key), pairing.paired_at


def columns(pairing: Pairing) -> dict[str, Any]:
    """Return the columns of a pairing, except for those about tokens."""
    url, pin = pairing.initiate_session_url, pairing.pin
    return {
        "local": pairing.key.local.bytes,
        "remote": pairing.key.remote.bytes,
        "confirmed": pairing.confirmed,
        "communication_role": pairing.communication_role.value,
        "peer": pairing.peer.to_json(),
        "peer_endpoint": pairing.peer_endpoint.to_json(),
        "initiate_session_url": None if url is None else str(url),
        "ca_fingerprint": None if pin is None else pin.ca_fingerprint,
        "ca_der": None if pin is None else pin.ca_der,
        "paired_at": pairing.paired_at,
    }


@functools.lru_cache(maxsize=256)
def _own_node(data: bytes) -> NodeId:
    return NodeId(uuid.UUID(bytes=data))


def pairing_of(row: sqlite3.Row) -> Pairing:
    """Return the pairing of a row; ValueError, TypeError or MalformedMessage if it is none."""
    url, fingerprint = row["initiate_session_url"], row["ca_fingerprint"]
    return Pairing(
        key=PairKey(_own_node(row["local"]), NodeId(uuid.UUID(bytes=row["remote"]))),
        communication_role=CommunicationRole(row["communication_role"]),
        peer=NodeDescription.from_own_json(row["peer"]),
        peer_endpoint=read_endpoint(row["peer_endpoint"]),
        initiate_session_url=None if url is None else BaseUrl(url),
        pin=None if fingerprint is None else Pin(fingerprint, row["ca_der"]),
        paired_at=row["paired_at"],
        confirmed=bool(row["confirmed"]),
    )
