"""Checks of this machine and its network: interfaces, IPv6, container, multicast."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import ipaddress
import os
import secrets
import socket
import struct
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from s2connect.diagnostics.findings import Check, Finding, Findings, Layer, listed
from s2connect.discovery.dns import PTR, A, query
from s2connect.https.own_addresses import Links, OwnAddress, links, own_addresses

INTERFACES = Check(Layer.NETWORK, "interfaces")
IPV6 = Check(Layer.NETWORK, "ipv6")
CONTAINER = Check(Layer.NETWORK, "container")
MULTICAST = Check(Layer.DISCOVERY, "multicast")
RESPONDERS = Check(Layer.DISCOVERY, "responders")

NO_LINK_IS_DOWN = Links()

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
_UNNAMED = "a program that the system does not name"
_PROC = Path("/proc")
_INTERFACES = Path("/sys/class/net")


async def check_network(found: Findings) -> None:
    """Check interfaces, IPv6 and whether this is a container."""
    own, names = own_addresses(), dict(socket.if_nameindex())
    found.append(interfaces(own, names, await asyncio.to_thread(links)))
    found.append(ipv6(own, names, disabled=await asyncio.to_thread(_is_ipv6_off)))
    inside = await asyncio.to_thread(_is_container)
    bridged = await asyncio.to_thread(_is_bridged, own, names, inside)
    found.append(container(inside=inside, bridged=bridged))


async def check_multicast(service: int | None, found: Findings) -> None:
    """Check multicast on every interface, and name the programs that use its port.

    ``service`` is the process of the running service of this endpoint, if there is one.
    """
    others, ours = await asyncio.to_thread(_mdns_users, service)
    own, names = own_addresses(), dict(socket.if_nameindex())
    down = (await asyncio.to_thread(links)).down
    usable = [a for a in own if not a.interface.is_loopback and names.get(a.index) not in down]
    tried = sorted({(a.index, a.interface.version): a for a in usable}.items(), key=lambda item: item[0])[:MAX_TRIED]
    mine = {str(a.interface.ip) for a in own}
    results = await asyncio.gather(*(_probe(a, _interface(a, names), mine) for _, a in tried))
    found.append(multicast(results))
    found.append(responders(others, ours=ours, answers=any(one.answered_here for one in results)))


def interfaces(own: Collection[OwnAddress], names: Mapping[int, str], state: Links = NO_LINK_IS_DOWN) -> Finding:
    """Check that there is a network."""
    by_interface: dict[str, list[str]] = {}
    for address in _in_order(own):
        if not address.interface.is_loopback:
            by_interface.setdefault(_interface(address, names), []).append(str(address.interface))
    connect = "Connect its network cable or WLAN, and see that it gets an address."
    if not by_interface:
        return INTERFACES.warn(
            "This machine has no network address but loopback: only programs on it can reach each other.", connect
        )
    if state.down.issuperset(by_interface):
        unplugged, off = (sorted(down.intersection(by_interface)) for down in (state.unplugged, state.off))
        said = [f"No cable or WLAN is connected to {listed(unplugged)}."] if unplugged else []
        said += [f"Switched off: {listed(off)}."] if off else []
        return INTERFACES.warn(" ".join(said), connect if unplugged else f"Switch it on: sudo ip link set {off[0]} up")
    texts = [
        f"{name} ({_state(name, state) or listed(found)})"
        for name, found in sorted(by_interface.items(), key=lambda item: item[0] in state.down)
    ]
    return INTERFACES.ok(f"Network: {listed(texts)}.")


def _state(name: str, state: Links) -> str:
    return "switched off" if name in state.off else "not connected" if name in state.unplugged else ""


def ipv6(own: Collection[OwnAddress], names: Mapping[int, str], *, disabled: bool) -> Finding:
    """Check for IPv6, with the link-local addresses and zones that mDNS needs."""
    found = [a for a in _in_order(own) if a.interface.version == 6 and not a.interface.is_loopback]
    zones = [f"{a.interface.ip}%{_interface(a, names)}" for a in found if a.interface.is_link_local]
    without = {_interface(a, names) for a in found} - {zone.partition("%")[2] for zone in zones}
    if without:
        return IPV6.warn(
            f"There is an IPv6 address but no link-local one on {listed(sorted(without))}, so mDNS does not use IPv6.",
            "Check the settings of that interface: link-local addresses belong to every interface with IPv6.",
        )
    if zones:
        return IPV6.ok(f"IPv6 with zone: {listed(zones)}.")
    if disabled:
        return IPV6.ok("IPv6 is switched off on this machine; IPv4 is enough for most networks.")
    if any(not a.interface.is_loopback for a in own):
        return IPV6.warn(
            "No interface has an IPv6 address: a device that only speaks IPv6 cannot be reached.",
            "Nothing needs to be done where all devices have IPv4; otherwise allow IPv6 on the interface.",
        )
    return IPV6.ok("No network interface, hence no IPv6 zone.")


def container(*, inside: bool, bridged: bool) -> Finding:
    """Check that multicast can leave a container."""
    if bridged:
        where = "This machine is a container behind a bridge" if inside else "The only address is one of a container"
        return CONTAINER.warn(
            f"{where}: multicast usually does not leave it, so devices do not see each other by name.",
            "Give it the network of the host (docker run --network host), or macvlan; typed URLs work without.",
        )
    return CONTAINER.ok(
        "A container with the network of its host, or one of its own." if inside else "Not in a container."
    )


class MulticastResult(NamedTuple):
    """Result of a question by multicast on one interface, with one IP version."""

    interface: str
    version: int
    returned: bool = False  # the own question came back
    others: frozenset[str] = frozenset()  # addresses of other hosts that answered it
    answered_here: bool = False  # another program of this machine answered it
    error: int | None = None  # `errno` of what the system refused


def multicast(results: Sequence[MulticastResult]) -> Finding:
    """Check that multicast leaves and arrives."""
    if not results:
        return MULTICAST.warn(
            "There is no interface on which devices could be looked for.",
            "Connect the network; a typed URL works where the other side can be reached.",
        )
    if all(one.error == errno.EADDRINUSE for one in results):
        return MULTICAST.fail(
            "Another program keeps UDP port 5353 to itself, so devices cannot be looked for.",
            "Let it share the port; for Avahi: disallow-other-stacks=no in avahi-daemon.conf.",
        )
    if lost := [one for one in results if not one.returned]:
        where = listed([f"{one.interface} (IPv{one.version})" for one in lost])
        refused = next((one.error for one in lost if one.error is not None), None)
        reason = f": {os.strerror(refused).lower()}" if refused is not None else ""
        result = MULTICAST.fail if len(lost) == len(results) else MULTICAST.warn
        return result(
            f"Multicast sent on {where} does not come back{reason}.",
            "Allow UDP port 5353 in and out in the firewall, to 224.0.0.251 and ff02::fb; in a container use the "
            "network of the host. Typed URLs work without.",
        )
    versions: dict[str, list[str]] = {}
    for one in results:
        versions.setdefault(one.interface, []).append(f"IPv{one.version}")
    own = listed([f"{name} ({', '.join(found)})" for name, found in versions.items()])
    # A host answers over IPv4 and over IPv6, and is counted once.
    others = max(len(set().union(*(one.others for one in results if one.version == version))) for version in (4, 6))
    if others:
        answer = f"{others} other {'host answers' if others == 1 else 'hosts answer'}"
    else:
        answer = "no other host answers: there is none, or the network keeps multicast back"
    return MULTICAST.ok(f"This machine receives its own multicast on {own}; {answer}.")


def responders(others: Collection[str], *, ours: bool, answers: bool) -> Finding:
    """Name the other programs with a socket on UDP port 5353, beside our own service."""
    if others:
        return RESPONDERS.ok(f"Shares UDP port 5353 with {listed(sorted(others))}; that works.")
    if ours:
        return RESPONDERS.ok("The service of this endpoint has UDP port 5353, and nobody else.")
    if answers:
        return RESPONDERS.ok("Another program on this machine answers by mDNS; that works.")
    return RESPONDERS.ok("No other program uses UDP port 5353; none is needed.")


def _in_order(own: Collection[OwnAddress]) -> list[OwnAddress]:
    return sorted(own, key=lambda a: (a.index, a.interface.version, a.interface.is_link_local, int(a.interface.ip)))


def _interface(address: OwnAddress, names: Mapping[int, str]) -> str:
    return names.get(address.index, str(address.index))


async def _probe(own: OwnAddress, name: str, mine: Collection[str]) -> MulticastResult:
    """Send a question by multicast on the interface of an address and listen for it."""
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
            return MulticastResult(name, version, error=error.errno)
        await asyncio.sleep(LISTEN_SECONDS)
    return MulticastResult(name, version, returned.is_set(), frozenset(seen - set(mine)), bool(seen & set(mine)))


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
    """Have a socket send by multicast on one interface; that it comes back to this machine is the system's default."""
    if own.interface.version == 4:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, own.interface.ip.packed)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        sender.bind(("", 0))
    else:
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, own.index)
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        sender.bind(("::", 0))


def _mdns_users(service: int | None) -> tuple[set[str], bool]:
    """Return the other programs with a socket on the port of mDNS, and whether our service has one. Linux only."""
    inodes = udp_inodes(_text(_PROC / "net/udp"), MDNS_PORT) | udp_inodes(_text(_PROC / "net/udp6"), MDNS_PORT)
    inodes -= _sockets(_PROC / "self")  # the check of the name may have one already
    others, ours = set[str](), False
    for process in (p for p in _entries(_PROC) if p.name.isdigit()) if inodes else ():
        held = _sockets(process) & inodes
        inodes -= held
        if held and process.name == str(service):
            ours = True
        elif held:
            others.add(_text(process / "comm").strip() or _UNNAMED)
    return others | ({_UNNAMED} if inodes else set()), ours


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
