"""Events of a pairing server: attempts that ended without a pairing, and attacks."""

from __future__ import annotations

from dataclasses import dataclass

from s2connect.model.common import NodeDescription, NodeId
from s2connect.pairing.code import AfterFailure


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """A pairing attempt on one of our nodes failed.

    ``reason`` is ``wrong_code``, ``refused_by_client``, ``expired``, ``out_of_order``, ``malformed``, or
    ``not_stored``: the fault is ours, e.g. the disk is full, and no code suffers from it. ``code_after`` says what
    becomes of the node's code (TOK-05).
    """

    node: NodeId
    peer: NodeDescription
    address: str
    reason: str
    code_after: AfterFailure


@dataclass(frozen=True, slots=True)
class ReflectionRefused:
    """A client reflected a challenge of ours to have it answered (HMAC-05), which is always an attack.

    Attributes:
        node: The node at which the last one was refused.
        address: Where that came from.
        count: How many were refused since this was told last; it is told at most once a minute.
    """

    node: NodeId
    address: str
    count: int


PairingServerEvent = AttemptFailed | ReflectionRefused
