"""Long-polling client: RMs without a server wait at an energy manager to be paired (LP, ROLE-03 b)."""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

from s2connect.errors import IncompatibleApiVersion, S2ConnectError
from s2connect.https.client import HttpsClient
from s2connect.model.common import MalformedMessage, NodeId, Role
from s2connect.model.local import LocalEndpoint
from s2connect.model.pairing import WaitForPairingAction, WaitForPairingError, WaitForPairingItem, WaitForPairingOrder
from s2connect.model.reply import WireList
from s2connect.model.strict_json import MalformedJson, read_json
from s2connect.model.url import BaseUrl
from s2connect.pairing.http_client import authenticate

_log = logging.getLogger(__name__)

POLL_TIMEOUT = 35.0
"""LP-03: seconds the client waits for an answer; at least 30."""

FIRST_WAIT = 2.0
"""Seconds to wait after a first failure; doubled with each that follows."""

LONGEST_WAIT = 60.0
"""Seconds to wait between two tries at most."""

QUICK_ANSWER = 1.0
"""Seconds: an answer before that is a quick one."""

MAX_QUICK_ANSWERS = 20
"""Quick answers in a row after which the client waits before it asks again, lest a server makes it spin."""

MAX_DESCRIBED_BYTES = 48 * 1024
"""Descriptions in one request; servers read 64 KiB. Those that do not fit go with the next one."""


class AfterPoll(StrEnum):
    """Next step after a response (LP-03, LP-06)."""

    AGAIN = "again"  # at once
    WAIT = "wait"  # and ask again
    STOP = "stop"  # until long-polling is advertised anew
    STOP_FOR_GOOD = "stop_for_good"


class PollResult(NamedTuple):
    """Meaning of a response: what follows, and before that the orders to prepare, cancel, or start a pairing."""

    then: AfterPoll
    actions: tuple[WaitForPairingOrder, ...] = ()


class LongPollClient:
    """The requests of one client at one server, without I/O."""

    def __init__(self, endpoint: Callable[[], LocalEndpoint], has_valid_token: Callable[[NodeId], bool]) -> None:
        """Wait for the nodes of ``endpoint``, which gives it as it is now; ``has_valid_token`` decides LP-05."""
        self._endpoint = endpoint
        self._has_valid_token = has_valid_token
        self._describe: dict[NodeId, None] = {}
        self._described: list[NodeId] = []  # by the request under way
        self._without_token: dict[NodeId, None] = {}
        self._quick = 0
        self._failures = 0

    def body(self) -> WireList | None:
        """Return the next request (LP-02); None while the endpoint has no node (LP-01)."""
        endpoint = self._endpoint()
        items, room = [], MAX_DESCRIBED_BYTES
        self._described.clear()
        for node in endpoint.nodes.values():
            missing = WaitForPairingError.NO_VALID_TOKEN_ON_PAIRING_CLIENT if node.id in self._without_token else None
            item = WaitForPairingItem(client_node_id=node.id, error_message=missing)
            if node.id in self._describe:
                described = WaitForPairingItem(
                    client_node_id=node.id,
                    client_node_description=node.description,
                    client_endpoint_description=endpoint.description,
                    error_message=missing,
                )
                size = len(described.to_json())
                if size <= room:
                    room -= size
                    item = described
                    self._described.append(node.id)
            items.append(item)
        return WireList(items=tuple(items)) if items else None

    def on_answer(self, status: int, body: bytes, *, lasted: float) -> PollResult:
        """Read an answer that came after ``lasted`` seconds."""
        if status == 200:
            return self._on_orders(body, lasted=lasted)
        if status == 204:
            self._accepted()
            return PollResult(self._not_too_often(lasted))
        if status == 401:
            return PollResult(AfterPoll.STOP_FOR_GOOD)  # LP-06
        # A 4xx but 429 says that asking again is in vain; the rest may pass.
        return PollResult(AfterPoll.STOP if 400 <= status < 500 and status != 429 else AfterPoll.WAIT)

    def delay(self, chance: float) -> float:
        """Return the seconds to wait after :attr:`AfterPoll.WAIT` or an error; ``chance`` is random, 0 to 1."""
        longest = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(self._failures, 10))
        self._failures += 1
        return longest * (0.5 + chance / 2)

    def _on_orders(self, body: bytes, *, lasted: float) -> PollResult:
        orders = _read_orders(body)
        if orders is None:
            return PollResult(AfterPoll.WAIT)
        self._accepted()
        actions = []
        mine = self._endpoint().nodes
        for node, action in orders.items():
            if node not in mine:
                continue
            if action is WaitForPairingAction.SEND_NODE_DESCRIPTION:
                self._describe[node] = None
            elif action is WaitForPairingAction.REQUEST_PAIRING and not self._has_valid_token(node):
                self._without_token[node] = None
            else:
                actions.append(WaitForPairingOrder(client_node_id=node, action=action))
        return PollResult(self._not_too_often(lasted), tuple(actions))

    def _accepted(self) -> None:
        """Mark the content of the last request as received by the server, so that it is not sent again."""
        for node in self._described:
            self._describe.pop(node, None)
        self._described.clear()
        self._without_token.clear()

    def _not_too_often(self, lasted: float) -> AfterPoll:
        self._quick = self._quick + 1 if lasted < QUICK_ANSWER else 0
        if self._quick > MAX_QUICK_ANSWERS:
            return AfterPoll.WAIT
        self._failures = 0
        return AfterPoll.AGAIN


def _read_orders(body: bytes) -> dict[NodeId, WaitForPairingAction] | None:
    """Return the first action for each node (LP-04); None where the answer is no list of orders.

    Actions of a later minor version are left out (VER-07).
    """
    try:
        value = read_json(body)
    except MalformedJson:
        return None
    if not isinstance(value, list) or not value:
        return None
    orders: dict[NodeId, WaitForPairingAction] = {}
    for element in value:
        if isinstance(element, dict) and element.get("action") not in set(WaitForPairingAction):
            continue
        try:
            order = WaitForPairingOrder.from_value(element)
        except MalformedMessage as error:
            _log.warning("an answer to waitForPairing is not as the standard says: %s", error)
            return None
        orders.setdefault(order.client_node_id, order.action)
    return orders


async def wait_for_pairing(
    url: BaseUrl,
    endpoint: Callable[[], LocalEndpoint],
    *,
    has_valid_token: Callable[[NodeId], bool],
    on_order: Callable[[WaitForPairingOrder, BaseUrl], None],
    pki: ssl.SSLContext,
    address: str | None = None,
) -> AfterPoll:
    """Long-poll a server until it declines further polls; cancel when its advertisement is gone (LP-01).

    Before pairing the server's certificate is accepted as in the first step of pairing (TRUST-04), a self-signed one
    too. Nothing secret is sent. Errors of the network and of trust are waited out, and logged.

    ``endpoint`` gives this endpoint as it is now; it hosts RMs only (ROLE-04). ``has_valid_token`` returns whether a
    node has issued a token that is valid now. ``on_order`` is called with an order of the server and its URL, and must
    not block; it starts a pairing as pairing client and with the node's own token (LP-05).

    Returns ``STOP`` (start again when it is advertised anew) or ``STOP_FOR_GOOD`` (never wait at it again; LP-06).
    """
    core = LongPollClient(endpoint, has_valid_token)
    if not endpoint().nodes or any(node.description.role is not Role.RM for node in endpoint().nodes.values()):
        return AfterPoll.STOP
    while True:
        try:
            _, destination = await authenticate(url, pki, addresses=() if address is None else (address,))
            async with HttpsClient(destination) as http:
                version = await http.api_version(url)
                then = await _poll(core, http, url, version, on_order)
        except IncompatibleApiVersion as error:
            _log.warning("no long-polling at %s: %s", url.host, error)
            return AfterPoll.STOP
        except S2ConnectError as error:
            _log.info("long-polling at %s: %s", url.host, error)
            then = AfterPoll.WAIT
        if then is not AfterPoll.WAIT:
            return then
        await asyncio.sleep(core.delay(random.random()))  # noqa: S311 - spreads load, guards nothing


async def _poll(
    core: LongPollClient,
    http: HttpsClient,
    url: BaseUrl,
    version: str,
    on_order: Callable[[WaitForPairingOrder, BaseUrl], None],
) -> AfterPoll:
    loop = asyncio.get_running_loop()
    while True:
        body = core.body()
        if body is None:
            return AfterPoll.STOP
        began = loop.time()
        reply = await http.post(url, version, "waitForPairing", body, timeout=POLL_TIMEOUT)
        result = core.on_answer(reply.status, reply.body, lasted=loop.time() - began)
        for order in result.actions:
            on_order(order, url)
        if result.then is not AfterPoll.AGAIN:
            return result.then
