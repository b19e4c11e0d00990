"""Programs that run on the hosts of a test network: advertise, browse, resolve, flood. They print JSON lines."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import logging
import resource
import socket
import sys
import time

from s2connect.discovery.advertise import Advertiser
from s2connect.discovery.browse import Browser, find
from s2connect.discovery.dns import (
    CLASS_IN,
    PTR,
    SRV,
    TXT,
    A,
    DNSAddress,
    DNSPointer,
    DNSService,
    DNSText,
    response,
)
from s2connect.discovery.resolve import resolve
from s2connect.discovery.txt import SERVICE_TYPE, FoundEndpoint, encode_txt
from s2connect.errors import NameConflict, S2ConnectError
from s2connect.model.common import Role
from tests.discovery.advertisements import advertisement


def tell(**what: object) -> None:
    print(json.dumps(what), flush=True)


def plain(endpoint: FoundEndpoint) -> dict[str, object]:
    return dataclasses.asdict(endpoint) | {"roles": sorted(endpoint.roles), "title": endpoint.title}


async def lines() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def advertise(arguments: argparse.Namespace) -> None:
    roles = frozenset(Role(role) for role in arguments.roles.split(","))
    made = advertisement(arguments.host, roles=roles, name=arguments.name, port=arguments.port)

    def conflict(error: NameConflict) -> None:
        tell(conflict=str(error))

    orders = await lines()
    started = time.monotonic()
    try:
        async with Advertiser(made, on_conflict=conflict) as advertiser:
            tell(up=arguments.host, seconds=time.monotonic() - started)
            while line := await orders.readline():
                made = dataclasses.replace(made, **json.loads(line))
                await advertiser.update(made)
                tell(updated=True)
        tell(down=True)
    except NameConflict as error:
        tell(refused=str(error), kind=error.kind)
        await orders.readline()


async def browse(arguments: argparse.Namespace) -> None:
    async with Browser(Role(arguments.role) if arguments.role else None) as browser:
        tell(browsing=True)

        async def obey() -> None:
            orders = await lines()
            while order := (await orders.readline()).decode().strip():
                if order == "reconfirm":
                    browser.reconfirm()
                tell(
                    found=len(browser.found()),
                    names=sorted(e.instance for e in browser.found())[:20],
                    overflow=browser.overflow,
                    refused=browser.refused,
                    memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
                    cpu=time.process_time(),
                )

        obedient = asyncio.create_task(obey())
        try:
            async for event in browser:
                tell(event=type(event).__name__, **plain(event.endpoint))
        finally:
            obedient.cancel()


async def ask(arguments: argparse.Namespace) -> None:
    started = time.monotonic()
    try:
        tell(addresses=await resolve(arguments.host), seconds=time.monotonic() - started)
    except S2ConnectError as error:
        tell(error=str(error), kind=error.kind, seconds=time.monotonic() - started)


async def seek(arguments: argparse.Namespace) -> None:
    try:
        tell(**plain(await find(arguments.name, timeout=3)))
    except S2ConnectError as error:
        tell(error=str(error), kind=error.kind)


async def serve(arguments: argparse.Namespace) -> None:
    """A plain TCP server that says hello in HTTP; the TLS of the real one is proved elsewhere."""

    async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(hello, None, arguments.port)
    tell(serving=True)
    async with server:
        await server.serve_forever()


async def get(arguments: argparse.Namespace) -> None:
    best, *_ = await resolve(arguments.host)
    reader, writer = await asyncio.open_connection(best, arguments.port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    tell(body=(await reader.read()).rpartition(b"\r\n\r\n")[2].decode())
    writer.close()


async def flood(arguments: argparse.Namespace) -> None:
    """A hostile host: thousands of services, each complete and of its own name, or one that is odd."""
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(arguments.address))
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
    sender.bind((arguments.address, 5353))
    with sender:
        for number in range(arguments.count):
            message = response()
            instance = arguments.instance.encode().decode("unicode_escape") if arguments.instance else f"evil-{number}"
            name, host = f"{instance}.{SERVICE_TYPE}", f"evil-{number}.local."
            txt = bytes.fromhex(arguments.txt) or encode_txt(advertisement(f"evil-{number}.local"))
            message.add_answer_at_time(DNSPointer(SERVICE_TYPE, PTR, CLASS_IN, 4500, name), 0)
            message.add_answer_at_time(DNSService(name, SRV, CLASS_IN, 4500, 0, 0, 1, host), 0)
            message.add_answer_at_time(DNSText(name, TXT, CLASS_IN, 4500, txt), 0)
            message.add_answer_at_time(DNSAddress(host, A, CLASS_IN, 4500, number.to_bytes(4, "big")), 0)
            for packet in message.packets():
                sender.sendto(packet, ("224.0.0.251", 5353))
            if number % 4 == 3:
                await asyncio.sleep(0.001)
    tell(flooded=arguments.count)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what")
    parser.add_argument("--host", default="ems-1.local")
    parser.add_argument("--name", default="My EMS")
    parser.add_argument("--roles", default="CEM")
    parser.add_argument("--role", default="")
    parser.add_argument("--port", type=int, default=8443)
    parser.add_argument("--address", default="10.77.1.2")
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--instance", default="")
    parser.add_argument("--txt", default="")
    arguments = parser.parse_args()
    programs = {
        "advertise": advertise,
        "browse": browse,
        "resolve": ask,
        "find": seek,
        "serve": serve,
        "get": get,
        "flood": flood,
    }
    await programs[arguments.what](arguments)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    with asyncio.Runner() as runner:
        runner.run(main())
