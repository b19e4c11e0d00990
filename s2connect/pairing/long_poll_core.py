"""Core of the long-polling server: hanging requests, their nodes and actions; without I/O (LP).

A client, an endpoint of RMs without a server of its own (ROLE-04), names its nodes and hangs. Nothing here is
authenticated: whoever is in the network may name any node. So an action goes to every request that hangs for its
node, nobody can take another's place, and a description stays as it is until its node has gone.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from itertools import islice, takewhile

from s2connect.errors import NotReachable
from s2connect.https.rate import network_of
from s2connect.model.common import MalformedMessage, NodeDescription, NodeId, Role, read_list
from s2connect.model.pairing import WaitForPairingAction, WaitForPairingItem, WaitForPairingOrder
from s2connect.model.reply import BUSY, Reply, WireList

_log = logging.getLogger(__name__)

ANSWER_WITHIN = 25.0
"""LP-03: seconds within which the server answers."""

TRAVEL_TIME = 1.0
"""Seconds of those that are left for the answer to arrive."""

GONE_AFTER = 35.0
"""Seconds without a hanging request after which a node is gone; clients come back at once (LP-03)."""

ASK_AGAIN_AFTER = 30.0
"""Seconds before a node that did not describe itself is asked again; otherwise the two would spin."""

MAX_HANGING = 1000
"""LP-07: hanging requests in all."""

MAX_HANGING_PER_ADDRESS = 512
"""LP-07: hanging requests of one address; many clients may be behind one."""

MAX_NODES_PER_REQUEST = 256
"""Nodes of one client (SEC-03)."""

MAX_NODES = 4096
"""Nodes that are known at a time (SEC-03)."""

MAX_NODES_PER_ADDRESS = 1024
"""Nodes known of one address (SEC-03)."""

MAX_DESCRIPTION_BYTES = 4096
"""Longest description of a node with its endpoint that is kept (SEC-03)."""

MAX_DESCRIPTIONS_AT_ONCE = 32
"""Descriptions asked for in one answer, so that they fit into one request."""


@dataclass(eq=False, slots=True)
class Waiter:
    """One hanging request: for which nodes, from where, as it is counted, and when it is answered in any case."""

    nodes: tuple[NodeId, ...]
    network: str
    deadline: float


@dataclass(frozen=True, slots=True)
class NodeWaits:
    """A node came and described itself. The texts are a stranger's."""

    peer: NodeDescription


@dataclass(frozen=True, slots=True)
class NodeGone:
    """A node that had described itself does not come any more."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class NoTokenOnClient:
    """A node that was asked to pair has no valid token (LP-05): its code has expired or it never had one."""

    node: NodeId


LongPollEvent = NodeWaits | NodeGone | NoTokenOnClient

_NOTHING = Reply(204)
_REFUSED = Reply(400)


@dataclass(slots=True)
class _Node:
    network: str
    described: NodeDescription | None = None
    waiters: dict[Waiter, None] = field(default_factory=dict)
    queued: WaitForPairingAction | None = None
    pairing_requested: bool = False
    describe_after: float = float("-inf")


class LongPollServer:
    """All hanging requests of one endpoint.

    Attributes:
        events: What happened since it was last emptied; the endpoint takes and clears it.
    """

    def __init__(self) -> None:
        self._nodes: dict[NodeId, _Node] = {}
        self._absent: OrderedDict[NodeId, float] = OrderedDict()  # since when nothing hangs, oldest first
        self._waiters: dict[Waiter, None] = {}  # in the order of their deadlines
        self._hanging: Counter[str] = Counter()  # of each address
        self._known: Counter[str] = Counter()  # nodes, by the address that named them first
        self.events: list[LongPollEvent] = []

    # Requests

    def wait(self, body: bytes, *, address: str, offered: bool, now: float) -> Waiter | Reply:
        """Take a ``waitForPairing``: it hangs, or is answered at once; with 400 if not ``offered`` now (LP-06)."""
        if not offered:
            return _REFUSED
        try:
            items: list[WaitForPairingItem] = read_list(body, WaitForPairingItem)
        except MalformedMessage as error:
            _log.info("waitForPairing refused: %s", error)
            return _REFUSED
        ids = tuple(item.client_node_id for item in items)
        if not 0 < len(ids) <= MAX_NODES_PER_REQUEST or len(set(ids)) != len(ids):
            return _REFUSED
        network = network_of(address)
        new = sum(node not in self._nodes for node in ids)
        if (
            len(self._waiters) >= MAX_HANGING
            or self._hanging[network] >= MAX_HANGING_PER_ADDRESS
            or len(self._nodes) + new > MAX_NODES
            or self._known[network] + new > MAX_NODES_PER_ADDRESS
        ):
            return BUSY
        for item in items:
            self._take(item, network, now=now)
        orders = self._orders(ids, now=now)
        if orders:
            return Reply(200, WireList(items=orders))
        waiter = Waiter(ids, network, now + ANSWER_WITHIN - TRAVEL_TIME)
        self._waiters[waiter] = None
        self._hanging[network] += 1
        for node in ids:
            self._nodes[node].waiters[waiter] = None
            self._absent.pop(node, None)
        return waiter

    def release(self, waiter: Waiter, *, now: float) -> None:
        """Remove a hanging request without an answer: its client vanished, or this server stops. Idempotent."""
        if waiter not in self._waiters:
            return
        del self._waiters[waiter]
        _less(self._hanging, waiter.network)
        for node in waiter.nodes:
            waiters = self._nodes[node].waiters
            del waiters[waiter]
            if not waiters:
                self._absent[node] = now

    def expire(self, *, now: float) -> list[tuple[Waiter, Reply]]:
        """Answer what has hung long enough (LP-03), and forget nodes that have not come back."""
        due = list(takewhile(lambda waiter: waiter.deadline <= now, self._waiters))
        for waiter in due:
            self.release(waiter, now=now)
        while self._absent:
            node, since = next(iter(self._absent.items()))
            if now < since + GONE_AFTER:
                break
            del self._absent[node]
            gone = self._nodes.pop(node)
            _less(self._known, gone.network)
            if gone.described is not None:
                self.events.append(NodeGone(node))
        return [(waiter, _NOTHING) for waiter in due]

    def next_deadline(self) -> float | None:
        """Return the time at which :meth:`expire` has something to do; None for never."""
        deadlines = [waiter.deadline for waiter in islice(self._waiters, 1)]
        deadlines += [since + GONE_AFTER for since in islice(self._absent.values(), 1)]
        return min(deadlines, default=None)

    # The user

    def nodes(self) -> dict[NodeId, NodeDescription | None]:
        """Return the nodes that wait, in the order of their coming; None where one has not described itself yet."""
        return {node: known.described for node, known in self._nodes.items()}

    def ask(self, node: NodeId, action: WaitForPairingAction, *, now: float) -> list[tuple[Waiter, Reply]]:
        """Ask a node for an action; it replaces one that has not been sent yet.

        Returns the hanging requests to answer at once (LP-07), none where the client is just between two.

        Raises:
            NotReachable: The node does not wait here (any more).
        """
        known = self._nodes.get(node)
        if known is None:
            raise NotReachable(
                "The device does not wait here for pairing any more.",
                hint="Check that it is on and in the same network; it comes back by itself.",
            )
        known.queued = action
        if not known.waiters:
            return []
        self._sent(known)
        answer = Reply(200, WireList(items=(WaitForPairingOrder(client_node_id=node, action=action),)))
        answers = [(waiter, answer) for waiter in known.waiters]
        for waiter, _ in answers:
            self.release(waiter, now=now)
        return answers

    # Common

    def _take(self, item: WaitForPairingItem, network: str, *, now: float) -> None:
        """Update one of the nodes of a client from its request."""
        node = item.client_node_id
        known = self._nodes.get(node)
        if known is None:
            known = self._nodes[node] = _Node(network)
            self._known[network] += 1
            self._absent[node] = now
        elif node in self._absent:
            self._absent[node] = now
            self._absent.move_to_end(node)
        if item.error_message is not None and known.pairing_requested:
            known.pairing_requested = False
            self.events.append(NoTokenOnClient(node))
        description = item.client_node_description
        if description is None or known.described is not None:
            return
        if description.id != node or description.role is not Role.RM:
            _log.info("a long-polling client describes node %s with another id or role", node)
            return
        endpoint = item.client_endpoint_description
        size = len(description.to_json()) + (len(endpoint.to_json()) if endpoint is not None else 0)
        if size > MAX_DESCRIPTION_BYTES:
            _log.info("the description of node %s is longer than %d bytes", node, MAX_DESCRIPTION_BYTES)
            return
        known.described = description
        self.events.append(NodeWaits(description))

    def _orders(self, nodes: tuple[NodeId, ...], *, now: float) -> tuple[WaitForPairingOrder, ...]:
        """Return the actions due at the nodes of a request, at most one for each (LP-04)."""
        orders = []
        requested = 0
        for node in nodes:
            known = self._nodes[node]
            if known.queued is not None:
                orders.append(WaitForPairingOrder(client_node_id=node, action=known.queued))
                self._sent(known)
            elif known.described is None and known.describe_after <= now and requested < MAX_DESCRIPTIONS_AT_ONCE:
                requested += 1
                known.describe_after = now + ASK_AGAIN_AFTER
                action = WaitForPairingAction.SEND_NODE_DESCRIPTION
                orders.append(WaitForPairingOrder(client_node_id=node, action=action))
        return tuple(orders)

    @staticmethod
    def _sent(known: _Node) -> None:
        known.pairing_requested = known.queued is WaitForPairingAction.REQUEST_PAIRING
        known.queued = None


def _less(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
