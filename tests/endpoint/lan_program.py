"""One endpoint on a host of a test network. It prints JSON lines and takes orders: JSON arrays, one a line."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
import time
from pathlib import Path
from typing import Any
from uuid import UUID

from s2connect import Endpoint, EndpointConfig, Node, NodeConfig, NodeId, Role, Session, create_home, events
from s2connect.endpoint import local_network
from s2connect.errors import S2ConnectError

PAGE = Path(__file__).parents[2] / "docs" / "library.md"


def tell(**what: object) -> None:
    print(json.dumps(what), flush=True)


async def follow(endpoint: Endpoint) -> None:
    async for event in endpoint.events():
        match event:
            case events.DeviceWaits():
                tell(event="DeviceWaits", peer=str(event.peer.id), name=event.peer.title)
            case events.PairingAnnounced():
                tell(event="PairingAnnounced", peer=event.peer.title if event.peer else None, url=event.url)
            case events.Notice():
                tell(event="Notice", kind=event.kind, sentence=event.sentence)
            case _:
                tell(event=type(event).__name__)


async def take(node: Node) -> None:
    kept: list[Session] = []
    async for session in node.sessions():
        kept.append(session)
        tell(event="session", address=session._connection.remote_address)


async def obey(endpoint: Endpoint, order: list[Any]) -> object:
    node = endpoint.node()
    match order:
        case ["code"]:
            return str(node.issue_pairing_code())
        case ["sticker", token]:
            return str(await node.set_static_code(token))
        case ["pair", url, code, address]:
            return str((await node.pair(url, code, address=address)).key.remote)
        case ["look", url, address]:
            described, nodes = await endpoint.look_at(endpoint.pairing_url.from_user(url), address=address)
            return [described.name, [n.title for n in nodes], str(nodes[0].id)]
        case ["guided pair", name, code]:
            names: dict[str, Any] = {}
            blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
            exec(next(block for block in blocks if "def pair(" in block), names)
            return str((await names["pair"](endpoint, name, lambda title: asyncio.sleep(0, code))).key.remote)
        case ["announce", url, peer]:
            await node.announce_pairing(url, NodeId(UUID(peer)))
            return None
        case ["announce waiting", peer]:
            endpoint.announce_waiting(NodeId(UUID(peer)))
            return None
        case ["polling"]:
            assert endpoint._lan is not None
            return [str(w.url) for w in endpoint._lan._waiting.values() if not w.task.done()]
        case ["pair waiting", peer, code]:
            started = time.monotonic()
            await node.pair_waiting(NodeId(UUID(peer)), code)
            return time.monotonic() - started
    raise ValueError(order)


async def main(home: Path, settings: dict[str, Any]) -> None:
    local_network.NO_MDNS_RETRY = settings.pop("retry", local_network.NO_MDNS_RETRY)
    role = Role(settings.pop("role"))
    node = NodeConfig(role=role, user_defined_name=settings.pop("title", role))
    config = EndpointConfig(port=8443, vault="files", nodes=(node,), name=f"House of {role}", **settings)
    if not (home / "config.json").exists():  # it may be a copy of another one
        await asyncio.to_thread(create_home, home, config)
    async with Endpoint.open(home) as endpoint:
        tasks = [asyncio.create_task(follow(endpoint)), asyncio.create_task(take(endpoint.node()))]
        tell(event="ready", url=endpoint.pairing_url, id=str(endpoint.node().id))
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            try:
                tell(result=await obey(endpoint, json.loads(line)))
            except S2ConnectError as error:
                tell(error=error.kind, sentence=str(error))
    for task in tasks:
        task.cancel()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    asyncio.run(main(Path(sys.argv[1]), json.loads(sys.argv[2])))
