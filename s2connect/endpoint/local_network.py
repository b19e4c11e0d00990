"""Local network of an endpoint: advertisement, LAN-only operations, and devices without a server (LAN, DISC, LP)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from zeroconf.asyncio import AsyncZeroconf

from s2connect.discovery.advertise import Advertiser, claim_name, published_addresses
from s2connect.discovery.browse import Browser, Vanished
from s2connect.discovery.network import NetworkMonitor
from s2connect.discovery.resolve import is_local_name
from s2connect.discovery.txt import Advertisement, FoundEndpoint
from s2connect.endpoint.connections import ConnectionManager
from s2connect.endpoint.pairing import PairingManager
from s2connect.endpoint.state import EndpointState
from s2connect.errors import (
    ConfigurationError,
    NameConflict,
    NotReachable,
    PairingExpired,
    PairingRefused,
    S2ConnectError,
    WrongPairingCode,
)
from s2connect.events import (
    Advertised,
    CodeMissingAtDevice,
    DeviceGone,
    DeviceWaits,
    Paired,
    PairingAnnounced,
    PairingAnnouncementCancelled,
    PairingFailed,
)
from s2connect.https.own_addresses import own_addresses
from s2connect.https.server import HttpsServer
from s2connect.model.common import NodeId, Role
from s2connect.model.local import LocalNode
from s2connect.model.pairing import WaitForPairingAction, WaitForPairingError
from s2connect.model.text import for_display
from s2connect.model.url import BaseUrl
from s2connect.pairing import lan_core
from s2connect.pairing.code import PairingCode, PairingToken
from s2connect.pairing.lan_core import LanEvent, LanOperations
from s2connect.pairing.lan_http import LanService
from s2connect.pairing.long_poll_client import AfterPoll, wait_for_pairing
from s2connect.pairing.long_poll_core import LongPollEvent, LongPollServer, NodeGone, NodeWaits, NoTokenOnClient
from s2connect.pairing.long_poll_http import LongPollService
from s2connect.pairing.neighbourhood import Neighbourhood
from s2connect.store.base import Pairing, PairKey

_log = logging.getLogger(__name__)

LONG_POLL_PATIENCE = 5.0
"""Seconds after the time-out of a pairing until the code typed for a waiting device is withdrawn."""

FAILURE_GRACE = 3.0
"""Seconds after a first failed attempt in which the expected device may still succeed."""

RECOGNISE_TIMEOUT = 5.0
"""Seconds to look at the certificate of another device with our name."""

NO_MDNS_RETRY = 60.0
"""Seconds before the next try where mDNS could not be used, or another device has our name; a change of this machine's
addresses retries earlier."""

CONFLICT_ROUNDS = 3
"""Retries of a copy of this endpoint, each of which it announces, after which it counts as gone when none has come."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    url: BaseUrl
    address: str | None
    task: asyncio.Task[None]


class LocalNetwork:
    """Advertises an endpoint, serves the LAN-only operations, and follows the energy managers in the network."""

    def __init__(
        self,
        state: EndpointState,
        pairing: PairingManager,
        connections: Mapping[NodeId, ConnectionManager],
        zeroconf: AsyncZeroconf | None,
    ) -> None:
        self._state = state
        self._pairing = pairing
        self._connections = connections
        self._zeroconf = zeroconf
        neighbourhood = Neighbourhood()
        self._operations = LanService(
            LanOperations(lambda: state.local), neighbourhood, ready=lambda: state.ready, on_event=self._publish
        )
        self._long_polling = LongPollService(
            LongPollServer(),
            neighbourhood,
            offered=lambda: state.ready and Role.CEM in self._roles(),  # DISC-05
            on_event=self._publish,
        )
        self.ask, self.waiting = self._long_polling.ask, self._long_polling.nodes
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._other_roles = asyncio.Event()
        self._network_changed = asyncio.Event()
        self._served = False
        self._copies: set[str] = set()  # reported ones, until we are advertised again
        self._conflicting = False
        self._monitor = NetworkMonitor(self._addresses_changed)
        self._waiting: dict[str, _Waiting] = {}  # by instance; ended ones stay until their advertisement goes
        self._given_up: set[BaseUrl] = set()

    # Server

    def mount(self, server: HttpsServer, base_path: str) -> None:
        """Add the LAN-only operations (LAN-01)."""
        self._operations.mount(server, base_path)
        self._long_polling.mount(server, base_path)

    def _roles(self) -> frozenset[Role]:
        return frozenset(node.description.role for node in self._state.local.nodes.values())

    def _publish(self, event: LanEvent | LongPollEvent) -> None:
        match event:
            case lan_core.PairingAnnounced(node, peer, endpoint):
                self._state.events.publish(PairingAnnounced(node=node, peer=peer, peer_endpoint=endpoint))
            case lan_core.AnnouncementCancelled(node, peer_id):
                self._state.events.publish(PairingAnnouncementCancelled(node=node, peer=peer_id))
            case NodeWaits(peer):
                self._state.events.publish(DeviceWaits(peer=peer))
            case NodeGone(node):
                self._state.events.publish(DeviceGone(peer=node))
            case NoTokenOnClient(node):
                self._state.events.publish(CodeMissingAtDevice(peer=node))

    async def pair_waiting(self, local: LocalNode, peer: NodeId, code: PairingCode, *, timeout: float) -> Pairing:
        """Pair with a waiting device; errors as of ``Node.pair_waiting``."""
        if code.other_token is not None:
            # Here the typed token has to be known before the device proves its own (errata S2C-46).
            with contextlib.suppress(WrongPairingCode):
                return await self._pair_waiting(local, peer, code.token, timeout=timeout, is_first=True)
        return await self._pair_waiting(local, peer, code.tokens[-1], timeout=timeout)

    async def _pair_waiting(
        self, local: LocalNode, peer: NodeId, token: PairingToken, *, timeout: float, is_first: bool = False
    ) -> Pairing:
        """Pair with one reading of a code; that the first of two fails is no outcome of the pairing."""
        server, events = self._pairing.server, self._state.events
        server.tokens(local.id).expect(peer, token, now=_now(), lifetime=timeout + LONG_POLL_PATIENCE)
        stream = events.follow()
        if is_first:
            self._pairing.first_readings[local.id, peer] = stream
        failure: S2ConnectError | None = None
        try:
            self.ask(peer, WaitForPairingAction.REQUEST_PAIRING)
            async with asyncio.timeout(timeout) as patience:
                async for event in stream:
                    match event:
                        case Paired() if event.node == local.id and event.peer.id == peer:
                            return (await self._state.store.pairings_of(PairKey(local.id, peer)))[0]
                        case PairingFailed() if event.node == local.id and event.peer.id == peer:
                            failed: S2ConnectError = WrongPairingCode("The code is not the one of the device.")
                        case CodeMissingAtDevice() if event.peer == peer:
                            failed = PairingRefused(
                                "The device has no valid pairing code now.",
                                reason=WaitForPairingError.NO_VALID_TOKEN_ON_PAIRING_CLIENT.value,
                                hint="Ask for a new code at the device.",
                            )
                        case _:
                            continue
                    # Anyone in the network can fail in the device's name; the device itself may still succeed.
                    if failure is None:
                        failure = failed
                        patience.reschedule(min(patience.when() or 0.0, _now() + FAILURE_GRACE))
        except TimeoutError as error:
            if failure is not None:
                raise failure from None
            raise PairingExpired("The device did not come to be paired in time.") from error
        finally:
            self._pairing.first_readings.pop((local.id, peer), None)
            events.leave(stream)
            server.tokens(local.id).withdraw_expected(peer)
        raise NotReachable("This endpoint is stopping.")

    # Advertisement

    def _advertisement(self) -> Advertisement:
        """Return the content of the DNS-SD records (DISC-01, DISC-03, DISC-05); ConfigurationError if none fits."""
        config, url, roles = self._state.config, self._state.pairing_url(), self._roles()
        return Advertisement(
            host=config.host,
            port=self._state.port,
            roles=roles,
            name=config.name or "",
            logo_url=config.logo_url,
            pairing_url=url,
            longpolling_url=url if Role.CEM in roles else None,
        )

    def start(self, *, served: bool) -> None:
        """Advertise from now on, and follow the network. An endpoint that is not served waits at servers (LP-01)."""
        self._served = served
        self._monitor.start()
        self.nodes_changed()

    def nodes_changed(self) -> None:
        """Advertise the roles of the nodes hosted now, and look for the peers that they need."""
        local, roles = is_local_name(self._state.config.host), self._roles()
        self._other_roles.set()
        if self._served and self._state.config.advertise and local and roles:
            self._begin("advertise", "not_advertised", self._advertise)
        if Role.RM in roles and (local or not self._served):
            self._begin("neighbours", "not_found", lambda: self._follow_managers(wait=not self._served))

    def _begin(self, name: str, trouble: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._state.supervisor.keep(lambda: self._over_mdns(trouble, work), name)

    async def _over_mdns(self, trouble: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run an action over mDNS; if the machine cannot use mDNS now, report that once, and run it later."""
        reported = False
        while True:
            self._network_changed.clear()
            try:
                return await work()
            except NotReachable as error:
                if not reported:
                    self._state.notice(trouble, str(error))
                reported = True
            except NameConflict as error:
                self._conflict(error, claim=True)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(NO_MDNS_RETRY):
                    await self._network_changed.wait()

    def _addresses_changed(self, _: bool) -> None:
        self._network_changed.set()
        own = {str(address.interface.ip) for address in own_addresses()}
        for connections in self._connections.values():
            connections.addresses_changed(own)

    async def _advertise(self) -> None:
        """Advertise until cancelled. A failure is no error: the endpoint is still reached by a typed URL."""
        try:
            shown = self._advertisement()
            self._other_roles.clear()
            async with Advertiser(
                shown, zeroconf=self._zeroconf, on_conflict=self._conflict, failures=self._state.supervisor.failures
            ) as advertiser:
                self._found_as(shown)
                while True:
                    try:
                        async with asyncio.timeout(CONFLICT_ROUNDS * NO_MDNS_RETRY if self._conflicting else None):
                            await self._other_roles.wait()
                    except TimeoutError:
                        if not await advertiser.is_contested():
                            self._found_as(shown)
                        continue
                    self._other_roles.clear()
                    if (now := self._advertisement()).roles != shown.roles:
                        shown = now
                        await advertiser.update(shown)
        except NameConflict:
            raise
        except ConfigurationError as error:
            self._state.notice("not_advertised", str(error))

    def _found_as(self, shown: Advertisement) -> None:
        """Report that this endpoint is found by its name, and no other device has that."""
        _log.info("advertised in the local network as %s", shown.instance)
        self._conflicting = False
        self._copies.clear()
        self._state.events.publish(Advertised(name=shown.instance))

    def _conflict(self, error: NameConflict, *, claim: bool = False) -> None:
        """Report another device with our name, once, and look at it; with ``claim`` it does not know of us yet."""
        if not self._conflicting:
            self._conflicting = True
            self._state.notice(error.kind, str(error))
            self._other_roles.set()  # the task that waits for them looks whether the conflict is over
        if error.address or error.port is not None:
            self._state.supervisor.spawn(self._recognise(error, claim=claim), "recognise")

    async def _recognise(self, conflict: NameConflict, *, claim: bool) -> None:
        """Report where the other device with our name has our own keys: it is a copy of this endpoint."""
        from s2connect.certs.chain import capture_chain

        config, own, here = self._state.config, self._pairing.ca_fingerprint, published_addresses()
        address, port = conflict.address or here[0], conflict.port or self._state.port
        try:
            chain = await capture_chain(config.host, port, address=address, timeout=RECOGNISE_TIMEOUT)
        except S2ConnectError as error:
            _log.debug("the other device with our name does not show its certificate: %s", error)
            return
        if own is None or chain.ca_fingerprint != own:
            return
        if claim:
            with contextlib.suppress(NotReachable):  # the network has just gone
                await claim_name(self._advertisement(), self._zeroconf)
        where = f"at {address}" if address not in here else f"on this machine, port {port}"
        if where not in self._copies:
            self._copies.add(where)
            self._state.notice(
                "copy_of_this_endpoint",
                f"A copy of this endpoint runs {where}: it has the same name and the same keys. Stop one of them: "
                "tokens change with every session, so they take each other's pairings.",
            )

    async def withdraw(self) -> None:
        """Withdraw the advertisement and stop waiting at servers; answer the open long-polls of others."""
        self._monitor.close()
        await self._state.supervisor.end(self._tasks.values())
        self._operations.close()
        self._long_polling.close()

    # Energy managers in the network

    async def _follow_managers(self, *, wait: bool) -> None:
        """Watch for energy managers: reconnect when one comes back, and wait at each that lets devices wait (LP-01)."""
        try:
            self._given_up |= set(await self._state.store.refused_servers())
            async with Browser(Role.CEM, zeroconf=self._zeroconf) as browser:
                async for event in browser:
                    found = event.endpoint
                    if isinstance(event, Vanished):
                        await self._stop_waiting(found.instance)
                        continue
                    host, addresses = found.host.rstrip(".").lower(), [a.partition("%")[0] for a in found.addresses]
                    for connections in self._connections.values():
                        connections.seen(host, addresses)
                    if wait:
                        await self._wait_at(found)
        finally:
            for instance in list(self._waiting):
                await self._stop_waiting(instance)

    async def _wait_at(self, found: FoundEndpoint) -> None:
        """Wait at an energy manager, unless that is under way, or over until it is advertised anew (LP-06)."""
        known = self._waiting.get(found.instance)
        if known is not None and known.url == found.longpolling_url:
            over = known.task.done()
            if over or known.address is None or not found.addresses or known.address in found.addresses:
                return
        await self._stop_waiting(found.instance)
        url = found.longpolling_url
        if url is None or url in self._given_up:
            return
        address = found.addresses[0] if found.addresses and is_local_name(url.host) else None
        task = self._state.supervisor.keep(
            lambda: self._wait(url, address), "long-polling", for_display(found.instance, 63)
        )
        self._waiting[found.instance] = _Waiting(url, address, task)

    async def _wait(self, url: BaseUrl, address: str | None) -> None:
        if url not in self._given_up:
            after = await wait_for_pairing(
                url,
                lambda: self._state.local,
                has_valid_token=self._pairing.has_valid_token,
                on_order=self._pairing.follow_order,
                pki=self._state.pki,
                address=address,
            )
            if after is not AfterPoll.STOP_FOR_GOOD:
                return
            self._given_up.add(url)
        await self._state.store.refuse_server(url)  # after an error this alone is tried again (LP-06)

    async def _stop_waiting(self, instance: str) -> None:
        known = self._waiting.pop(instance, None)
        if known is not None:
            await self._state.supervisor.end([known.task])


def _now() -> float:
    return asyncio.get_running_loop().time()
