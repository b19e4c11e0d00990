"""Checks of this machine and its network: interfaces, IPv6, container, multicast."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import secrets
import socket
import struct
from collections.abc import Collection
from pathlib import Path
from typing import Any

from s2connect.diagnostics.checks import (
    MulticastResult,
    PortUser,
    container,
    interfaces,
    ipv6,
    multicast,
    responders,
)
from s2connect.diagnostics.findings import Finding
from s2connect.discovery.dns import PTR, A, query
from s2connect.https.own_addresses import OwnAddress, own_addresses

MDNS_PORT = 5353
MDNS_GROUPS = {4: "224.0.0.251", 6: "ff02::fb"}
LISTEN_SECONDS = 1.0
"""Seconds to listen for answers to a question by multicast."""

MAX_TRIED = 32
"""Most pairs of interface and IP version that are tried; machines with container bridges have many."""

_ALL_SERVICES = "_services._dns-sd._udp.local."
_MAX_DATAGRAM = 9000
_MAX_OTHERS = 1000
_CONTAINER_BRIDGE = ipaddress.ip_network("172.17.0.0/16")
_HOSTS_BRIDGE = "docker0"
_OF_CONTAINERS = ("docker", "kubepods", "containerd", "libpod", "lxc")
_NOT_BRIDGED = ("macvlan", "ipvlan", "vlan", "wlan")
_PROC = Path("/proc")
_INTERFACES = Path("/sys/class/net")


async def check_network(found: list[Finding]) -> None:
    """Check interfaces, IPv6 and whether this is a container."""
    own, names = own_addresses(), dict(socket.if_nameindex())
    found.append(interfaces(own, names, await asyncio.to_thread(_unlinked, names)))
    found.append(ipv6(own, names, disabled=await asyncio.to_thread(_is_ipv6_off)))
    inside = await asyncio.to_thread(_is_container)
    bridged = await asyncio.to_thread(_is_bridged, own, names, inside)
    found.append(container(inside=inside, bridged=bridged))


async def check_multicast(found: list[Finding], service: int | None) -> None:
    """Check multicast on every interface, and name the programs that use its port.

    Args:
        found: Receives the findings.
        service: Process of the running service of this endpoint, if there is one.
    """
    users = await asyncio.to_thread(_mdns_users, service)
    own, names = own_addresses(), dict(socket.if_nameindex())
    unlinked = await asyncio.to_thread(_unlinked, names)
    usable = [a for a in own if not a.interface.is_loopback and names.get(a.index) not in unlinked]
    tried = sorted({(a.index, a.interface.version): a for a in usable}.items(), key=lambda item: item[0])[:MAX_TRIED]
    mine = {str(a.interface.ip) for a in own}
    results = await asyncio.gather(*(_probe(a, names.get(a.index, str(a.index)), mine) for _, a in tried))
    found.append(multicast([one for one, _ in results]))
    found.append(responders(users, answers=any(answers for _, answers in results)))


async def _probe(own: OwnAddress, name: str, mine: Collection[str]) -> tuple[MulticastResult, bool]:
    """Send a question by multicast on one interface and listen for it.

    Args:
        own: An address of the interface; its version is the one that is tried.
        name: Name of the interface.
        mine: All addresses of this machine.

    Returns:
        The result, and True if another program of this machine answered.
    """
    version = own.interface.version
    mark = f"s2connect-doctor-{secrets.token_hex(6)}"
    seen: set[str] = set()
    own_ports: list[int] = []  # that of our own question, once it is bound
    returned = asyncio.Event()
    loop = asyncio.get_running_loop()

    def receive(listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            data, sender = listener.recvfrom(_MAX_DATAGRAM)
            if mark.encode("ascii") in data and sender[1] in own_ports:
                returned.set()
            elif len(data) > 2 and data[2] & 0x80 and len(seen) < _MAX_OTHERS:  # an answer
                seen.add(sender[0].partition("%")[0])

    with contextlib.ExitStack() as stack:
        try:
            family = socket.AF_INET if version == 4 else socket.AF_INET6
            listener, sender = (stack.enter_context(socket.socket(family, socket.SOCK_DGRAM)) for _ in range(2))
            _listen(listener, own)
            _send_on_interface(sender, own)
            own_ports.append(sender.getsockname()[1])
            for one in (listener, sender):
                one.setblocking(False)
                loop.add_reader(one, functools.partial(receive, one))
                stack.callback(loop.remove_reader, one)
            packets = query([(f"{mark}.local.", A), (_ALL_SERVICES, PTR)]).packets()
            group: Any = (MDNS_GROUPS[version], MDNS_PORT) if version == 4 else ("ff02::fb", MDNS_PORT, 0, own.index)
            for packet in packets:
                sender.sendto(packet, group)
        except OSError as error:
            return MulticastResult(name, version, error=error.errno), False
        await asyncio.sleep(LISTEN_SECONDS)
    return MulticastResult(name, version, returned.is_set(), frozenset(seen - set(mine))), bool(seen & set(mine))


def _listen(listener: socket.socket, own: OwnAddress) -> None:
    """Bind a socket to the port of mDNS, as a member of its group on one interface."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "SO_REUSEPORT"):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    version = own.interface.version
    group = socket.inet_pton(listener.family, MDNS_GROUPS[version])
    if version == 4:
        listener.bind(("", MDNS_PORT))
        listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group + own.interface.ip.packed)
    else:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(("::", MDNS_PORT))
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group + struct.pack("@I", own.index))


def _send_on_interface(sender: socket.socket, own: OwnAddress) -> None:
    """Have a socket send by multicast on one interface, and receive what it sends."""
    if own.interface.version == 4:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, own.interface.ip.packed)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        sender.bind(("", 0))
    else:
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, own.index)
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)
        sender.bind(("::", 0))


def _mdns_users(service: int | None) -> list[PortUser]:
    """Return the programs with a socket on the port of mDNS, as far as the system tells. Linux only; blocks."""
    inodes = udp_inodes(_text(_PROC / "net/udp"), MDNS_PORT) | udp_inodes(_text(_PROC / "net/udp6"), MDNS_PORT)
    inodes -= _sockets(_PROC / "self")  # the check of the name may have one already
    users: dict[str, PortUser] = {}
    for process in (p for p in _entries(_PROC) if p.name.isdigit()) if inodes else ():
        held = _sockets(process) & inodes
        if held:
            inodes -= held
            users[process.name] = PortUser(_text(process / "comm").strip(), ours=process.name == str(service))
    return [*users.values(), *([PortUser("")] if inodes else [])]


def udp_inodes(table: str, port: int) -> set[str]:
    """Return the inodes of the sockets on a port, from a table as in ``/proc/net/udp``."""
    lines = (line.split() for line in table.splitlines()[1:])
    return {fields[9] for fields in lines if len(fields) > 9 and fields[1].rpartition(":")[2] == f"{port:04X}"}


def _sockets(process: Path) -> set[str]:
    found = set()
    for descriptor in _entries(process / "fd"):
        with contextlib.suppress(OSError):
            target = str(descriptor.readlink())
            if target.startswith("socket:["):
                found.add(target[8:-1])
    return found


def _unlinked(names: dict[int, str]) -> set[str]:
    """Return the interfaces without cable or WLAN. Linux only; an unused container bridge is one of them."""
    return {name for name in names.values() if _text(_INTERFACES / name / "carrier").strip() == "0"}


def _is_ipv6_off() -> bool:
    setting = _text(_PROC / "sys/net/ipv6/conf/all/disable_ipv6").strip()
    return setting == "1" or (_PROC.exists() and not (_PROC / "net/if_inet6").exists())


def _is_container() -> bool:
    if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists():
        return True
    return any(word in _text(_PROC / "1/cgroup") for word in _OF_CONTAINERS)


def _is_bridged(own: Collection[OwnAddress], names: dict[int, str], inside: bool) -> bool:
    addresses = [a for a in own if not a.interface.is_loopback]
    used = {names[a.index] for a in addresses if a.index in names}
    ipv4 = [a.interface.ip for a in addresses if a.interface.version == 4]
    if ipv4 and all(ip in _CONTAINER_BRIDGE for ip in ipv4) and _HOSTS_BRIDGE not in used:
        return True
    return inside and bool(used) and all(_has_far_end(_INTERFACES / name) for name in used)


def _has_far_end(interface: Path) -> bool:
    """Return whether it is one end of a virtual cable whose other end is in another namespace."""
    index, far = _text(interface / "ifindex").strip(), _text(interface / "iflink").strip()
    kind = _text(interface / "uevent")
    return bool(far) and index != far and not any(f"DEVTYPE={name}" in kind for name in _NOT_BRIDGED)


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def _entries(path: Path) -> list[Path]:
    try:
        return list(path.iterdir())
    except OSError:
        return []
