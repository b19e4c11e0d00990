"""Core of the LAN-only operations: responses and notices for the user, without I/O (LAN-01 to LAN-04)."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from s2connect.https.rate import AddressLimiter
from s2connect.model.common import EndpointDescription, MalformedMessage, NodeDescription, NodeId
from s2connect.model.local import LocalEndpoint
from s2connect.model.pairing import CancelPreparePairing, PreparePairing
from s2connect.model.reply import Reply
from s2connect.pairing.refusals import malformed, unfit

_log = logging.getLogger(__name__)

REPEAT_AFTER = 1.0
"""Seconds after which the same client may call for the user's attention at the same node again (SEC-03)."""

PREPARED_LIFETIME = 300.0
"""Seconds after which an announced pairing is forgotten; a dynamic code lives as long (TOK-02)."""

MAX_PREPARED = 32
"""Announced pairings that are remembered, and so pop-ups a peer can open; the oldest is cancelled (SEC-03)."""

ADDRESS_BURST = 10.0
"""Announcements of one address that reach the user at once (SEC-03)."""

ADDRESS_REFILL = 0.5
"""Further announcements of one address a second (SEC-03)."""


@dataclass(frozen=True, slots=True)
class PairingAnnounced:
    """A user is about to pair with ``node`` from ``peer``, and needs its code (LAN-03). The texts are a stranger's."""

    node: NodeId
    peer: NodeDescription
    peer_endpoint: EndpointDescription


@dataclass(frozen=True, slots=True)
class AnnouncementCancelled:
    """The pairing that ``peer`` announced at ``node`` will not come, or was announced too long ago (LAN-04)."""

    node: NodeId
    peer: NodeId


LanEvent = PairingAnnounced | AnnouncementCancelled

_NO_CONTENT = Reply(204)


class LanOperations:
    """The announcements at the nodes of one endpoint.

    Attributes:
        endpoint: Gives the endpoint as it is now.
        events: News for the user since it was last emptied; the endpoint takes and clears it.
    """

    def __init__(self, endpoint: Callable[[], LocalEndpoint]) -> None:
        """Serve the nodes of ``endpoint``, which gives it as it is now."""
        self.endpoint = endpoint
        self._prepared: OrderedDict[tuple[NodeId, NodeId], float] = OrderedDict()  # (server, client), oldest first
        self._limiter = AddressLimiter(burst=ADDRESS_BURST, refill=ADDRESS_REFILL)
        self.events: list[LanEvent] = []

    def prepare_pairing(self, body: bytes, *, address: str, ready: bool, now: float) -> Reply:
        """Answer ``preparePairing`` (LAN-03)."""
        self.expire(now=now)
        try:
            request = PreparePairing.from_json(body)
        except MalformedMessage as error:
            _log.info("preparePairing refused: %s", error)
            return malformed(error)
        node = self.endpoint().nodes.get(request.server_node_id)
        if node is None:
            return _NO_CONTENT
        peer = request.client_node_description
        if (refused := unfit(node, peer.role, ready=ready)) is not None:
            return refused
        key = (node.id, peer.id)
        last = self._prepared.get(key)
        if (last is not None and now - last < REPEAT_AFTER) or not self._limiter.allows(address, now=now):
            return _NO_CONTENT  # received, but not worth another pop-up
        self._limiter.charge(address, 1.0, now=now)
        self._prepared[key] = now
        self._prepared.move_to_end(key)
        if len(self._prepared) > MAX_PREPARED:
            self._cancel(next(iter(self._prepared)))
        self.events.append(PairingAnnounced(node.id, peer, request.client_endpoint_description))
        return _NO_CONTENT

    def cancel_prepare_pairing(self, body: bytes, *, now: float) -> Reply:
        """Answer ``cancelPreparePairing`` (LAN-04); only what had been announced is passed on."""
        self.expire(now=now)
        try:
            request = CancelPreparePairing.from_json(body)
        except MalformedMessage as error:
            _log.info("cancelPreparePairing refused: %s", error)
            return malformed(error)
        key = (request.server_node_id, request.client_node_id)
        if key in self._prepared:
            self._cancel(key)
        return _NO_CONTENT

    def expire(self, *, now: float) -> None:
        """Cancel what was announced too long ago."""
        while self._prepared:
            key, then = next(iter(self._prepared.items()))
            if now < then + PREPARED_LIFETIME:
                return
            self._cancel(key)

    def next_deadline(self) -> float | None:
        """Return the time at which :meth:`expire` has something to do; None for never."""
        return next((then + PREPARED_LIFETIME for then in self._prepared.values()), None)

    def _cancel(self, key: tuple[NodeId, NodeId]) -> None:
        del self._prepared[key]
        self.events.append(AnnouncementCancelled(*key))
