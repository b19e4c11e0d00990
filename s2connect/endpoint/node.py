"""Node: one energy manager or one device of an endpoint."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from s2connect.endpoint.connections import AdmissionHook, Arrivals, PreparingHook
from s2connect.endpoint.connector import Connector
from s2connect.endpoint.pairing import CodeStatus, PairingManager, token_of
from s2connect.endpoint.pairings import Pairings
from s2connect.endpoint.state import EndpointState
from s2connect.errors import NotReachable, UsageError
from s2connect.events import CodeWithdrawn, Paired, Unpaired
from s2connect.messages.enums import Check
from s2connect.model.common import NodeDescription, NodeId, Role
from s2connect.model.local import LocalNode
from s2connect.model.url import BaseUrl
from s2connect.pairing.code import DYNAMIC_LIFETIME, PairingCode, TokenState
from s2connect.session.observers import Observer
from s2connect.session.session import Answerer, Session, SessionEnd
from s2connect.store.base import Pairing, PairKey
from s2connect.transports.base import Connection

if TYPE_CHECKING:
    from s2connect.endpoint.local_network import LocalNetwork  # loads zeroconf
    from s2connect.session.handlers import Handlers  # loads messages


class Node:
    """Node of an endpoint. Get it from :meth:`Endpoint.node <s2connect.endpoint.endpoint.Endpoint.node>`.

    Attributes:
        id: Its UUID.
    """

    def __init__(
        self,
        state: EndpointState,
        pairing: PairingManager,
        pairings: Pairings,
        connector: Connector,
        lan: LocalNetwork | None,
    ) -> None:
        self.id = connector.connections.node
        self._state = state
        self._pairing = pairing
        self._pairings = pairings
        self._connector = connector
        self._connections = connector.connections
        self._lan = lan

    @property
    def role(self) -> Role:
        """Its role: energy manager or device."""
        return self._local.description.role

    @property
    def description(self) -> NodeDescription:
        """Its description for peers."""
        return self._local.description

    @property
    def alias(self) -> str | None:
        """Its short name in the pairing code."""
        return self._local.alias

    @property
    def _local(self) -> LocalNode:
        local = self._state.local.nodes.get(self.id)
        if local is None:
            raise UsageError("This node has been removed.")
        return local

    # Pairing

    def issue_pairing_code(self, *, lifetime: float = DYNAMIC_LIFETIME, token: str | None = None) -> PairingCode:
        """Issue a dynamic code for the user to enter at the other side; it replaces an earlier one (TOK-02).

        A pairing that is under way with the one before goes on.

        Args:
            lifetime: Seconds until it expires.
            token: A token of your own instead of a random one of 60 bits; short ones can be guessed (TOK-05).

        Returns:
            The code; ``str()`` shows it.

        Raises:
            InvalidPairingCode: ``token`` breaks TOK-01.
            UsageError: Several instances share the codes; use :meth:`new_pairing_code`.
        """
        return self._pairing.issue_code(self._local, token_of(token), lifetime)

    async def new_pairing_code(self, *, lifetime: float = DYNAMIC_LIFETIME, token: str | None = None) -> PairingCode:
        """Issue a dynamic code as :meth:`issue_pairing_code`, on any store; it counts at every instance.

        Raises:
            InvalidPairingCode: ``token`` breaks TOK-01.
            StorageError: The database that the instances share is not there.
        """
        return await self._pairing.new_code(self._local, token_of(token), lifetime)

    async def current_or_new_pairing_code(
        self, *, left: float = 0.0, lifetime: float = DYNAMIC_LIFETIME
    ) -> PairingCode:
        """Return the valid code, static or dynamic, or issue a dynamic one where none lives ``left`` seconds longer.

        It is one step, on any store: instances that call it at the same moment show the same code. StorageError as
        above.
        """
        return await self._pairing.current_or_new_code(self._local, lifetime, left=left)

    async def current_pairing_code(self) -> PairingCode | None:
        """Return the valid code as :meth:`valid_pairing_code`, on any store. StorageError as above."""
        return (await self.code_status()).code

    async def code_status(self) -> CodeStatus:
        """Return the state of the pairing code and the code, of one moment, on any store. StorageError as above."""
        return (await self._pairing.code_statuses([self._local]))[self.id]

    async def withdraw_code(self) -> None:
        """Withdraw the dynamic code, on any store. StorageError as above."""
        await self._pairing.withdraw_code(self._local)

    def show_codes(
        self, show: Callable[[PairingCode], object], *, always: bool = False, lifetime: float = DYNAMIC_LIFETIME
    ) -> asyncio.Task[None]:
        """Issue dynamic codes in the background while the node is not paired, or ``always``, and show each to the user.

        A code that has expired, was used or is withdrawn is followed by the next one.

        Args:
            show: Called with every code.
            always: Go on when the node is paired: for an energy manager, which pairs with many devices.
            lifetime: Seconds until a code expires.
        """
        news = self._state.events.follow()

        async def work() -> None:
            shown: PairingCode | None = None
            while True:
                needed = always or not await self.pairings()
                if self.id not in self._state.local.nodes:
                    return  # removed
                if needed:
                    code = await self._pairing.code_to_show(self._local, lifetime)
                    if shown is None or code.token != shown.token:
                        show(code)
                    shown = code
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._pairing.look_again(shown if needed else None)):
                        async for event in news:
                            if isinstance(event, Paired | Unpaired | CodeWithdrawn) and event.node == self.id:
                                break
                        else:
                            return

        return self._state.supervisor.keep(work, "codes", self.id)

    async def set_static_code(self, token: str | None = None) -> PairingCode:
        """Give the node a static code, as printed on a sticker; it survives restarts and never expires (TOK-02).

        Raises:
            InvalidPairingCode: ``token`` has less than six characters or others than letters and digits.
            StorageError: It could not be kept.
        """
        return await self._pairing.set_static_code(self._local, token)

    def valid_pairing_code(self) -> PairingCode | None:
        """Return the valid code: the dynamic one until it expires, otherwise the static one (errata S2C-06).

        Raises:
            UsageError: Several instances share the codes; use :meth:`current_pairing_code`.
        """
        return self._pairing.valid_code(self._local)

    @property
    def has_static_code(self) -> bool:
        """True if it has a static code, also while a dynamic one counts instead; else as :attr:`code_state`."""
        return self._pairing.has_static_code(self._local)

    @property
    def code_state(self) -> TokenState:
        """State of the pairing code: ``valid``, ``static``, ``none``, or how the last one ended.

        That is ``used`` (by a pairing), ``expired`` or ``withdrawn`` (after failed attempts, or by a command). Where
        several instances share the codes it raises UsageError; use :meth:`code_status`.
        """
        return self._pairing.code_state(self._local)

    def withdraw_pairing_code(self) -> None:
        """Withdraw the dynamic code. Raises UsageError where instances share the codes; use :meth:`withdraw_code`."""
        self._pairing.own_tokens(self.id, "withdraw_code()").withdraw()

    async def pair(
        self,
        url: BaseUrl | str,
        code: PairingCode | str,
        *,
        address: str | None = None,
        server_node: NodeId | None = None,
        force: bool = False,
    ) -> Pairing:
        """Pair with the node whose code the user typed, as initiator and pairing client.

        Args:
            url: The other side's pairing URL.
            code: The code.
            address: Connect here instead of resolving the URL's host; the host is still what is verified.
            server_node: The other node's id, where it is known.
            force: Pair although the two have no common version or protocol now.

        Returns:
            The pairing; it is durable.

        Raises:
            InvalidUrl, InvalidPairingCode: The input is none.
            NetworkError: Not reachable, too slow or busy; try again.
            TrustError: The certificate is refused, or changed in mid-attempt.
            PeerError: The other side does not follow the standard.
            WrongPairingCode, PairingRefused, PairingExpired: Nothing was changed.
            PairingUnconfirmed: The last answer was lost; the pairing settles itself with the first session.
            StorageError: It could not be stored; nothing was changed.

        Cancelled, nothing is kept unless the last step was under way; then it is as with PairingUnconfirmed.
        """
        target = _url(url)
        typed = code if isinstance(code, PairingCode) else PairingCode.parse(code)
        return await self._pairing.pair(
            self._local, target, typed, address=address, server_node=server_node, force=force
        )

    async def announce_pairing(self, url: BaseUrl | str, server_node: NodeId, *, address: str | None = None) -> None:
        """Announce a pairing with the node ``server_node`` of a LAN endpoint, so that it shows its code.

        Send it when there is a distinct moment between choosing the other node and typing its code (LAN-05).

        Raises:
            InvalidUrl: The input is none.
            PairingRefused: It will not pair with this node.
            NetworkError, TrustError, PeerError: It got no announcement; pairing may work all the same.
        """
        await self._pairing.announce(self._local, _url(url), server_node, address=address, cancel=False)

    async def cancel_announcement(self, url: BaseUrl | str, server_node: NodeId, *, address: str | None = None) -> None:
        """Cancel an announcement (LAN-04). The errors are the same."""
        await self._pairing.announce(self._local, _url(url), server_node, address=address, cancel=True)

    async def pair_waiting(self, peer: NodeId, code: PairingCode | str, *, timeout: float = 30.0) -> Pairing:
        """Pair with a device without a server that waits here, with the code from its sticker or screen (LP-05).

        Args:
            peer: One of :meth:`Endpoint.waiting`.
            code: As typed by the user.
            timeout: Seconds to wait for the device.

        Raises:
            InvalidPairingCode: The input is none.
            NotReachable: The device does not wait here any more.
            WrongPairingCode: The device's code is another one.
            PairingRefused: The device has no valid code (``NoValidTokenOnPairingClient``).
            PairingExpired: The device did not come in time.
        """
        typed = code if isinstance(code, PairingCode) else PairingCode.parse(code)
        if self._lan is None:
            raise NotReachable("The device does not wait here.")
        return await self._lan.pair_waiting(self._local, peer, typed, timeout=timeout)

    async def pairings(self, peer: NodeId | None = None) -> list[Pairing]:
        """Return the pairings of this node, or those with one peer; unconfirmed ones have ``confirmed`` False."""
        if peer is not None:
            return await self._state.store.pairings_of(PairKey(self.id, peer))
        return await self._state.store.pairings(self.id)

    async def unpair(self, peer: NodeId, *, forget: bool = False) -> Pairing:
        """End a pairing (UNP-01, UNP-02).

        Args:
            peer: The other node.
            forget: Remove it here even if the other side cannot be reached.

        Returns:
            The pairing that was.

        Raises:
            NotPaired: There is none.
            NetworkError, TrustError, PeerError: The communication server was not reached; nothing was changed. With
                ``forget`` that does not happen.
            StorageError: It could not be removed.
        """
        return await self._pairings.unpair(self.id, peer, forget=forget)

    # A vendor's WAN pairing server and its devices

    async def export_pairing(self, peer: NodeId) -> bytes:
        """On a vendor's WAN pairing server: return a pairing for the device it was made for; send it there in secret.

        It stays here until :meth:`discard_pairing`, so that nothing is lost on the way.

        Raises:
            NotPaired: There is none.
            UsageError: Its server is not in the WAN.
        """
        return await self._pairings.export_pairing(self.id, peer)

    async def discard_pairing(self, peer: NodeId) -> None:
        """On a vendor's WAN pairing server: remove a pairing that the device has, without unpairing at the peer."""
        await self._pairings.discard_pairing(self.id, peer)

    async def import_pairing(self, data: bytes) -> Pairing:
        """On the device: take over a pairing that the vendor's server has made for this node; it is durable then.

        Raises:
            UsageError: It is for another node, or no pairing.
            StorageError: It could not be stored.
        """
        return await self._pairings.import_pairing(self.id, data)

    # Sessions

    def sessions(
        self, *, on_message: Observer | None = None, check: Check = Check.RULES, answer: Answerer | None = None
    ) -> Arrivals[Session]:
        """Iterate over the sessions of this node as they open, without end: a communication client reconnects (REC).

        Sessions are opened and accepted from the first step of the iteration on, until the endpoint closes. Several may
        be open at a time (an energy manager has one per device): hand each to a task of its own.

        Args:
            on_message: Sees every message of every session, e.g. for a log.
            check: How far each message is validated, in both directions, before it is delivered or sent. Where the
                two sides agreed on an S2 JSON version that is unknown here, it is the envelope only.
            answer: Called with the session and each valid message before it is answered. Returns None for ``OK``, or
                raises :class:`~s2connect.session.answers.RefuseMessage`; see :class:`Session` for what takes longer.
        """
        return Arrivals(lambda: self._connections.next_session(on_message, check, answer))

    def handle(
        self, handlers: Handlers, *, on_message: Observer | None = None, check: Check = Check.RULES
    ) -> asyncio.Task[None]:
        """Handle the sessions of this node in the background, each in a task of its own, until the endpoint closes.

        It takes the place of :meth:`sessions`, whose arguments these are. Failures of handlers are those of tasks of
        the endpoint's supervisor: logged, counted and published as :class:`~s2connect.events.TaskFailed`.

        Returns:
            The task; cancelled, it closes the sessions.
        """
        supervisor = self._state.supervisor

        async def follow() -> None:
            running: set[asyncio.Task[SessionEnd]] = set()
            try:
                async for session in self.sessions(on_message=on_message, check=check):
                    work = handlers.run(session, failures=supervisor.failures)
                    running.add(task := supervisor.spawn(work, "handled", session.peer.id))
                    task.add_done_callback(running.discard)
            finally:
                await supervisor.end(running)

        return supervisor.keep(follow, "handlers", self.id)

    def connections(self, *, connect: bool = True) -> Arrivals[tuple[Connection, Pairing]]:
        """Iterate over connections without sessions: nothing is acknowledged on them; for relays. See :meth:`sessions`.

        Args:
            connect: Whether the node connects by itself where it is the communication client. Without it only those
                connections come that peers open; :meth:`open` opens the others.
        """
        return Arrivals(lambda: self._connections.next_connection(connect=connect))

    async def open(self, peer: NodeId, *, take: bool = False) -> Connection:
        """As communication client: connect to a paired node once, now, and return the connection; for relays.

        It is not opened again when it ends. It replaces an open connection with the same peer (WS-06). Cancel-safe.

        Args:
            peer: The paired node.
            take: Where several instances share a database: connect also while another one has a connection, which ends
                then. The caller sees to it that they do not take it from each other, by a :class:`LinkHold`.

        Raises:
            NotPaired: There is no pairing in which this node is the communication client.
            NoLongerPaired: The peer has removed the pairing; it is removed here, too.
            AccessRefused: The peer accepts none of our tokens; pair again.
            SessionRefused, NetworkError, TrustError, PeerError, StorageError: Retry later.
        """
        return await self._connector.open(peer, take=take)

    def set_admission_hook(self, hook: AdmissionHook | None) -> None:
        """Set the hook that decides, as communication server, whether a session may be opened now.

        ``hook(pairing, s2_version)`` is awaited within ``initiateSession``; it returns None, or a sentence for the
        peer's user, which is sent with ``Other``; the peer retries later. None as the hook lets everybody in.
        """
        self._connections.admission_hook, self._connections.preparing_hook = hook, None

    def set_preparing_hook(self, hook: PreparingHook) -> None:
        """Set the same, where the hook makes something ready that is at this instance alone, where there are several.

        The connection then comes here, if ``instance_url`` is set; where it comes to another instance, the hook is
        called there, too, before the connection is taken.

        ``hook(pairing, s2_version, may_lead)`` may return ``LedTo(instance)`` of ``s2connect.session``, too, if
        ``may_lead`` is True: the connection is led to that instance, where the hook is called when it comes.
        """
        self._connections.admission_hook, self._connections.preparing_hook = None, hook


def _url(url: BaseUrl | str) -> BaseUrl:
    return url if isinstance(url, BaseUrl) else BaseUrl.of_pairing(url)
