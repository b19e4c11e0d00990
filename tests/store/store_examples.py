"""Pairings and tokens for tests of stores, and what two of them hold to compare them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from uuid import UUID

from s2connect.model.common import Deployment, EndpointDescription, NodeDescription, NodeId, Role
from s2connect.model.roles import CommunicationRole
from s2connect.model.secret import AccessToken
from s2connect.model.url import BaseUrl
from s2connect.store.base import Pairing, PairKey, Pin, Store

CLIENT, SERVER = CommunicationRole.CLIENT, CommunicationRole.SERVER
LOCAL = NodeId(UUID("b3f9a9a8-9d0b-4f0e-8a3c-0d7d3f0f8c11"))


def key(remote: int, local: NodeId = LOCAL) -> PairKey:
    return PairKey(local, NodeId(UUID(int=0x6D2C0000000040008000000000000000 + remote)))


def token(name: str) -> AccessToken:
    return AccessToken.from_bytes(hashlib.sha256(name.encode()).digest())


def pairing(remote: int = 1, role: CommunicationRole = CLIENT, *, confirmed: bool = True) -> Pairing:
    """A pairing; the unconfirmed one of a pair is made later than the confirmed one."""
    pair = key(remote)
    node = NodeDescription(
        id=pair.remote,
        brand="Grünstrom",
        type="HEMS",
        model_name="Model “7”",
        user_defined_name=f"Cellar {remote} ⚡",
        role=Role.CEM,
    )
    client = role is CLIENT
    return Pairing(
        key=pair,
        communication_role=role,
        peer=node,
        peer_endpoint=EndpointDescription(name="ems.local", deployment=Deployment.LAN),
        initiate_session_url=BaseUrl(f"https://ems-{remote}.local:8443/session/") if client else None,
        pin=Pin(bytes(range(32))) if client else None,
        paired_at=1_700_000_000.25 + remote + (0 if confirmed else 1000),
        confirmed=confirmed,
    )


def stands(unconfirmed: Pairing) -> Pairing:
    """An unconfirmed pairing as it is once it has been confirmed."""
    return replace(unconfirmed, confirmed=True)


async def active_digest(store: Store, pairing: Pairing) -> bytes | None:
    """Digest of the active token of exactly this pairing."""
    record = await store.record(pairing.key)
    entries = (record.confirmed, record.unconfirmed)
    return next((entry[1] for entry in entries if entry is not None and entry[0].is_same(pairing)), None)


async def was_unpaired(store: Store, key: PairKey) -> bool:
    return (await store.record(key)).unpaired


async def contents(store: Store, keys: Iterable[PairKey]) -> object:
    """Everything a store tells, in a form that can be compared."""
    found = [
        (
            known,
            await store.record(known.key),
            await store.candidate_tokens(known) if known.communication_role is CLIENT else [],
        )
        for known in await store.pairings()
    ]
    return found, [await was_unpaired(store, pair) for pair in keys]
