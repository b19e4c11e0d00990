"""Shared state of one endpoint: its parts take settings, descriptions, store, events and supervisor from here."""

from __future__ import annotations

import ssl
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from s2connect.endpoint.config import EndpointConfig, at_instance, bracketed
from s2connect.endpoint.resolver import Resolver
from s2connect.events import EventHub, Notice, TaskFailed
from s2connect.https import SESSION_PATH, WEBSOCKET_PATH
from s2connect.model.common import NodeId
from s2connect.model.local import LocalEndpoint
from s2connect.model.proxy import Proxies
from s2connect.model.secret import AccessToken
from s2connect.model.url import PAIRING_PATH, BaseUrl, WebSocketUrl
from s2connect.pairing.code import PairingToken
from s2connect.pairing.interface import PairingServerEvent
from s2connect.pairing.server_core import PairingServer
from s2connect.pairing.shared import SharedPairing
from s2connect.session.ownership import Claim, LinkCounts, LinkRow, Meeting, SessionRow
from s2connect.session.shared import SharedOfferingSessions
from s2connect.store.base import Pairing, PairKey, Store, Vault
from s2connect.supervisor import FailureLog, Supervisor

if TYPE_CHECKING:  # psycopg is an extra
    from s2connect.store.postgresql.instances import Presence


class SharedState(Protocol):
    """State that an endpoint shares with other instances of itself, where there are any."""

    def pairing(
        self,
        core: PairingServer,
        *,
        report: Callable[[PairingServerEvent], None],
        static_token: Callable[[NodeId], Awaitable[PairingToken | None]],
        supervisor: Supervisor,
    ) -> SharedPairing:
        """Return attempts, codes, turns and proofs; ``report`` is called with what a pairing server has to report."""

    def sessions(
        self,
        websocket_url: Callable[[], WebSocketUrl],
        supervisor: Supervisor,
    ) -> SharedOfferingSessions:
        """Return pending tokens and offers; ``websocket_url`` returns where their connections come."""

    def wall_time(self) -> float:
        """Return the seconds since the epoch, by the clock that all instances have in common."""

    async def accept_token(self, pairing: Pairing, token: AccessToken) -> None:
        """As communication client: forget the tokens before one that the server has accepted; later ones stay.

        Two instances may connect to it at the same moment. Raises NotPaired, StorageError.
        """

    def owners(self) -> SharedOwners:
        """Return the owners of sessions and links."""


class SharedOwners(Protocol):
    """Owners of sessions and links, for one of several instances (see ``session/ownership.py``).

    All methods may raise :class:`~s2connect.errors.StorageUnavailable`; those that write may have written then.

    Attributes:
        instance: Name of this instance.
    """

    instance: str

    @property
    def confirms(self) -> bool:
        """True if the database confirms what is written, as far as is known; without its standby it only reads."""

    async def listen(
        self, on_hint: Callable[[str], None], on_connected: Callable[[], None], on_heard: Callable[[float], None]
    ) -> None:
        """Call ``on_hint`` with the hints of other instances until cancelled.

        ``on_connected`` is called whenever hints come from now on: those before may have been lost. Hints are
        ``pairing LOCAL REMOTE``, ``left LOCAL REMOTE GENERATION``, ``pairings LOCAL REMOTE INSTANCE``, ``crossing
        LOCAL REMOTE``, ``link LOCAL REMOTE``, ``nodes`` and ``links``. ``on_heard`` is called several times a second
        with a time of the event loop, when all hints have come of what was written before it.
        """

    async def probe(self) -> None:
        """Raise StorageUnavailable if the database does not answer."""

    async def check_confirms(self) -> None:
        """Find out whether the database confirms what is written. Raises nothing, and waits a bounded time."""

    async def claim(self, pairing: Pairing) -> Claim | None:
        """Make this instance the owner of a pairing's session; None where the pairing is no more."""

    async def hand_over(self, keys: Collection[PairKey]) -> None:
        """Hint ``left`` to the instances that have the sessions of pairs now, for this one, which has ended its."""

    async def rows(self, keys: Collection[PairKey]) -> Mapping[PairKey, Sequence[SessionRow]]:
        """Return the owners of pairs, of some hundred at most."""

    async def owned(self) -> list[Claim]:
        """Return the claims of this instance as they are stored, whether it has the sessions or not."""

    async def elsewhere(self, keys: Collection[PairKey] | None = None) -> Mapping[PairKey, str]:
        """Return the pairs whose session is at another living instance, with its name; of very many, some."""

    async def disown(self, claims: Collection[Claim]) -> None:
        """Note that the sessions of claims have ended."""

    async def claim_links(self, nodes: Collection[NodeId], wanted: Collection[PairKey], most: int) -> list[PairKey]:
        """Take links of nodes that nobody holds; unconfirmed pairings that are young only where they are ``wanted``."""

    async def claim_link(self, key: PairKey) -> bool:
        """Take one link, if nobody else holds it."""

    async def renew_links(self, keys: Collection[PairKey]) -> set[PairKey]:
        """Lengthen leases; return those that are lengthened."""

    async def release_links(self, keys: Collection[PairKey]) -> None:
        """Give links up."""

    async def count_links(self, nodes: Collection[NodeId]) -> LinkCounts:
        """Return the number of links of nodes, and how many of them each instance holds."""

    # Links of an application, which are those of no pairing, or of several

    async def take_link(self, key: PairKey, meeting: Meeting | None) -> tuple[LinkRow, str | None]:
        """Take a link, whoever holds it, and hint at that to the former owner; return its row, and that one.

        Where another living instance awaits the party of the meeting, the link stays there, and its row is returned:
        once, so that a party that does not reach that instance takes the link with its next attempt.
        """

    async def claim_free_links(self, keys: Collection[PairKey], most: int) -> list[PairKey]:
        """Take some of these links that nobody holds."""

    async def renew_taken(self, taken: Mapping[PairKey, int]) -> None:
        """Lengthen the leases of links that were taken, and are of these generations still."""

    async def links(self, keys: Collection[PairKey]) -> Mapping[PairKey, LinkRow]:
        """Return the owners of links, of some hundred at most; one that nobody holds is missing."""

    async def links_of(self, nodes: Collection[NodeId]) -> Mapping[PairKey, LinkRow]:
        """Return the owners of all links of nodes, likewise."""

    async def count_held(self, keys: Collection[PairKey]) -> LinkCounts:
        """Return the number of these links, and how many of them each instance holds."""

    # Pairings

    async def announce_pairings(self, key: PairKey) -> None:
        """Hint to the other instances that pairings of a pair have changed."""

    async def announce_crossing(self, key: PairKey) -> None:
        """Hint that the other node of a pair is pairing client here, while an instance is its pairing client."""

    async def marks_of_pairings(self) -> str:
        """Return what is another text some seconds after a pairing is made, confirmed or removed; costs little."""


@dataclass(slots=True, kw_only=True)
class EndpointState:
    """State that the parts of one endpoint share.

    Attributes:
        local: The endpoint and its nodes, as they describe themselves now.
        pki: TLS context for normal PKI validation.
        port: TCP port of the server; 0 while none is known.
        ready: Whether the endpoint serves requests now.
        draining: Whether it hands its sessions over to other instances, and is about to end.
        shared: What it shares with other instances; None where it is the only one.
        presence: This process as one of the instances; None where it is the only one.
    """

    config: EndpointConfig
    local: LocalEndpoint
    store: Store
    vault: Vault
    pki: ssl.SSLContext
    proxies: Proxies
    resolver: Resolver
    events: EventHub = field(default_factory=EventHub)
    supervisor: Supervisor = field(init=False)
    port: int = 0
    ready: bool = False
    draining: bool = False
    shared: SharedState | None = None
    presence: Presence | None = None

    def __post_init__(self) -> None:
        self.supervisor = Supervisor("s2connect", FailureLog(lambda f: self.events.publish(TaskFailed(**vars(f)))))

    def wall_time(self) -> float:
        """Return the seconds since the epoch: where there are several instances, by a clock that they share."""
        return time.time() if self.shared is None else self.shared.wall_time()

    def notice(self, kind: str, sentence: str) -> None:
        """Publish a notice for an operator."""
        self.events.publish(Notice(kind=kind, sentence=sentence))

    def pairing_url(self) -> BaseUrl:
        """Return the URL that a user types at the other side."""
        return BaseUrl(f"https://{self._authority}{PAIRING_PATH}")

    def session_url(self) -> BaseUrl:
        """Return the base URL of session initiation."""
        return BaseUrl(f"https://{self._authority}{SESSION_PATH}")

    def websocket_url(self) -> WebSocketUrl:
        """Return the URL of sessions over WebSocket."""
        return WebSocketUrl(f"wss://{self._authority}{WEBSOCKET_PATH}")

    def instance_url(self, instance: str) -> str:
        """Return the URL of sessions over WebSocket at an instance; empty where it has none of its own."""
        named = self.config.instance_url
        return "" if named is None else at_instance(named, instance)

    @property
    def _authority(self) -> str:
        return f"{bracketed(self.config.host)}:{self.port}"
