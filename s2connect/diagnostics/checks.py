"""Conclusions of ``doctor``: facts in, findings out, no I/O."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median

from s2connect.certs.authority import FIRST_CLOCK, RENEW_BEFORE
from s2connect.diagnostics.findings import Check, Finding, Layer, listed, milliseconds
from s2connect.errors import S2ConnectError
from s2connect.https.own_addresses import OwnAddress
from s2connect.model.proxy import Proxies

INTERFACES = Check(Layer.NETWORK, "interfaces")
IPV6 = Check(Layer.NETWORK, "ipv6")
CONTAINER = Check(Layer.NETWORK, "container")
PROXY = Check(Layer.NETWORK, "proxy")
MULTICAST = Check(Layer.DISCOVERY, "multicast")
RESPONDERS = Check(Layer.DISCOVERY, "responders")
OWN_NAME = Check(Layer.DISCOVERY, "own_name")
CLOCK = Check(Layer.CLOCK, "clock")
CA = Check(Layer.CERTIFICATE, "ca")
LEAF = Check(Layer.CERTIFICATE, "leaf")
TRUST = Check(Layer.CERTIFICATE, "trust")
SET_UP = Check(Layer.STORE, "set_up")
PERMISSIONS = Check(Layer.STORE, "permissions")
DISK = Check(Layer.STORE, "disk")
SETTINGS = Check(Layer.STORE, "settings")
ENDPOINT = Check(Layer.STORE, "endpoint")
DATABASE = Check(Layer.STORE, "database")
VAULT = Check(Layer.STORE, "vault")
SERVICE = Check(Layer.SERVICE, "service")
PORT = Check(Layer.SERVICE, "port")
REACHABLE = Check(Layer.SERVICE, "reachable")
BROKER_SETTINGS = Check(Layer.BROKER, "broker.settings")
BROKER_TLS = Check(Layer.BROKER, "broker.tls")
BROKER_LOGIN = Check(Layer.BROKER, "broker.login")
BROKER_ROUND_TRIP = Check(Layer.BROKER, "broker.round_trip")

LOW_SPACE_BYTES = 50 * 1_000_000
"""Free disk space below which a warning is due; the database of a large endpoint has some megabytes."""

NO_SPACE_BYTES = 1_000_000
"""Free disk space below which no change of the database can be relied on."""

NAGLE_SECONDS = 0.03
"""Shortest wait for a delayed acknowledgement of TCP: 40 ms, or a little less where the clock is coarse."""


# --- this machine


def interfaces(own: Collection[OwnAddress], names: Mapping[int, str], unlinked: Collection[str] = ()) -> Finding:
    """Check that there is a network.

    Args:
        own: Addresses of this machine.
        names: Interface names by number.
        unlinked: Interfaces without a cable or WLAN, as far as is known.
    """
    by_interface: dict[str, list[str]] = {}
    for address in _in_order(own):
        if not address.interface.is_loopback:
            by_interface.setdefault(_interface(address, names), []).append(str(address.interface))
    connect = "Connect its network cable or WLAN, and see that it gets an address."
    if not by_interface:
        return INTERFACES.warn(
            "This machine has no network address but loopback: only programs on it can reach each other.", connect
        )
    if set(by_interface) <= set(unlinked):
        return INTERFACES.warn(f"No cable or WLAN is connected to {listed(list(by_interface))}.", connect)
    texts = [
        f"{name} ({'not connected' if name in unlinked else listed(found)})"
        for name, found in sorted(by_interface.items(), key=lambda item: item[0] in unlinked)
    ]
    return INTERFACES.ok(f"Network: {listed(texts)}.")


def ipv6(own: Collection[OwnAddress], names: Mapping[int, str], *, disabled: bool) -> Finding:
    """Check for IPv6, with the link-local addresses and zones that mDNS needs.

    Args:
        own: Addresses of this machine.
        names: Interface names by number.
        disabled: True if the system has switched IPv6 off everywhere.
    """
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
    """Check that multicast can leave a container.

    Args:
        inside: There are signs of a container.
        bridged: Its interfaces are virtual ones behind a bridge, or it has an address of a container bridge.
    """
    if bridged:
        where = "This machine is a container behind a bridge" if inside else "The only address is one of a container"
        return CONTAINER.warn(
            f"{where}: multicast usually does not leave it, so devices do not see each other by name.",
            "Give it the network of the host (docker run --network host), or macvlan; typed URLs work without.",
        )
    if inside:
        return CONTAINER.ok("A container with the network of its host, or one of its own.")
    return CONTAINER.ok("Not in a container.")


def proxy(proxies: Proxies, *, configured: bool, seconds: float, error: S2ConnectError | None) -> Finding:
    """Check that the proxy towards the internet answers. Its user and password are never shown.

    Args:
        proxies: The proxy, and what is reached without it.
        configured: The settings name it, and not the environment.
        seconds: Time it took to connect to it.
        error: Why it cannot be reached.
    """
    if proxies.proxy is None:
        return PROXY.ok("No proxy is set; connections are direct.")
    source = "settings" if configured else "environment"
    where = f"The proxy of the {source}, {proxies.proxy.address},"
    if error is not None:
        cure = "Check proxy in the settings." if configured else "Check HTTPS_PROXY."
        return PROXY.fail(f"{where} cannot be reached: {error.what}", cure)
    return PROXY.ok(f"{where} answers, in {milliseconds(seconds)}; the internet is reached through it.")


# --- discovery


@dataclass(frozen=True, slots=True)
class MulticastResult:
    """Result of a question by multicast on one interface.

    Attributes:
        interface: Its name.
        version: IP version, 4 or 6.
        returned: True if the own question came back.
        others: Addresses of other hosts that answered it.
        error: ``errno`` of what the system refused, otherwise None.
    """

    interface: str
    version: int
    returned: bool = False
    others: frozenset[str] = frozenset()
    error: int | None = None


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
    return MULTICAST.ok(f"This machine hears its own multicast on {own}; {answer}.")


@dataclass(frozen=True, slots=True)
class PortUser:
    """Program with a socket on UDP port 5353.

    Attributes:
        program: Its name; empty if the system does not tell.
        ours: True for the service of this endpoint.
    """

    program: str
    ours: bool = False


def responders(users: Sequence[PortUser], *, answers: bool) -> Finding:
    """Name the other programs that speak mDNS.

    Args:
        users: Programs with a socket on the port.
        answers: True if an address of this machine answered a question.
    """
    others = sorted({user.program or "a program that the system does not name" for user in users if not user.ours})
    if others:
        return RESPONDERS.ok(f"Shares UDP port 5353 with {listed(others)}; that works.")
    if users:
        return RESPONDERS.ok("The service of this endpoint has UDP port 5353, and nobody else.")
    if answers:
        return RESPONDERS.ok("Another program on this machine answers by mDNS; that works.")
    return RESPONDERS.ok("No other program uses UDP port 5353; none is needed.")


def own_name(
    host: str, found: Collection[str] | None, own: Collection[str], *, running: bool, advertises: bool = True
) -> Finding:
    """Check that the name of the endpoint leads to this machine.

    Args:
        host: The configured name or address.
        found: Addresses it leads to, without zones; None if it is unknown.
        own: Addresses of this machine.
        running: True if the service runs, which answers to a ``.local`` name.
        advertises: True if it is configured to answer.
    """
    strange = sorted(set(found or ()) - set(own))
    if found and set(found) & set(own):
        if strange:
            return OWN_NAME.warn(
                f"{host} leads to this machine, and also to {listed(strange)}.",
                "If that is another device with the same name, give one of the two another host in config.json.",
            )
        return OWN_NAME.ok(f"{host} leads to this machine.")
    if found:
        return OWN_NAME.fail(
            f"{host} leads to another machine ({listed(strange)}).",
            "If that is another device with the same name, give this one another host in config.json.",
        )
    if not host.lower().endswith(".local"):
        return OWN_NAME.warn(
            f"This machine does not know the name {host}, which others are to reach it by.",
            "Make it known in the DNS, or set another host in config.json.",
        )
    if not running:
        return OWN_NAME.ok(f"{host} is free; the service answers to it when it runs.")
    if not advertises:
        return OWN_NAME.warn(
            f"Nobody answers to {host}: advertising is switched off.",
            "Set advertise to true in config.json, or have another program publish the name.",
        )
    return OWN_NAME.warn(
        f"The service runs, but nobody answers to {host}.",
        "See what the service says, and the line about multicast; until then others reach it by its address only.",
    )


# --- clock and certificate


def clock(now: datetime, set_up: datetime | None) -> Finding:
    """Check that the clock can be right.

    Args:
        now: Wall-clock time, with time zone.
        set_up: Begin of the validity of the endpoint's CA, if it has one.
    """
    cure = "Set date and time, best by NTP (timedatectl set-ntp true): certificates are refused otherwise."
    if now.year < FIRST_CLOCK.year:
        return CLOCK.fail(f"The clock says {_day(now)}, which cannot be.", cure)
    if set_up is not None and now < set_up:
        return CLOCK.fail(f"The clock says {_day(now)}, but this endpoint was set up on {_day(set_up)}.", cure)
    return CLOCK.ok(f"The clock says {now.astimezone():%Y-%m-%d %H:%M %Z}, which is plausible.")


def validity(
    check: Check, begin: datetime, end: datetime, now: datetime, *, renews: bool, running: bool, host: str = ""
) -> Finding:
    """Check the dates of a certificate.

    Args:
        check: ``CA`` or ``LEAF``.
        begin: Begin of its validity.
        end: End of its validity.
        now: Wall-clock time, with time zone.
        renews: True if the service renews it by itself.
        running: True if the service runs.
        host: Name it is made out to, if that has been checked.
    """
    what = "The certificate authority" if check is CA else "The certificate"
    if now < begin:
        return check.fail(
            f"{what} is not valid before {_day(begin)}, and the clock says {_day(now)}.",
            "Set date and time; if they are right, the clock was wrong when it was made.",
        )
    if now > end:
        start = "restart" if running else "start"
        mend = f"{start} the service, which makes a new one" if renews else "the certificate has to be renewed"
        return check.fail(
            f"{what} has expired on {_day(end)}.",
            f"Check date and time, and set them if they are wrong; if they are right, {mend}.",
        )
    days, age = (end - now).days, (now - begin).days
    if end - now < min(RENEW_BEFORE, (end - begin) / 3) and not renews:
        return check.warn(
            f"{what} expires in {_days(days)}, on {_day(end)}.",
            "Renew it with the tool that made it, then restart the service.",
        )
    if check is CA:  # its validity begins before it is made, and has no practical end
        return CA.ok(f"{what} is valid until {_day(end)}.")
    made_out = f" is made out to {host}," if host else " is"
    return check.ok(f"{what}{made_out} {_days(age)} old and valid for {_days(days)} more.")


# --- store


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file or directory of the state directory.

    Attributes:
        path: Its path.
        mode: Its permissions.
        owner: Id of the user it belongs to.
    """

    path: str
    mode: int
    owner: int


def permissions(files: Sequence[FileFacts], user: int) -> Finding:
    """Check that nobody else has rights on the state (SEC-02).

    Args:
        files: The state directory first, then what is in it.
        user: Id of the user who runs this.
    """
    home = files[0].path
    strange = next((file for file in files if file.owner != user), None)
    if strange is not None:
        return PERMISSIONS.fail(
            f"{strange.path} belongs to the user with id {strange.owner}, not to the one running this ({user}).",
            f"Run as that user, or hand it over: chown -R {user} '{home}'",
        )
    if open_ones := [file for file in files if file.mode & 0o077]:
        more = f", and to {len(open_ones) - 1} more" if len(open_ones) > 1 else ""
        return PERMISSIONS.fail(
            f"Other users have access to {open_ones[0].path} (mode {open_ones[0].mode:o}){more}.",
            f"Take it from them: chmod -R go-rwx '{home}'",
        )
    return PERMISSIONS.ok(f"{home}: only its owner has access.")


def disk(free_bytes: int) -> Finding:
    """Check that there is disk space for changes."""
    shown = f"{free_bytes / 1e9:.1f} GB" if free_bytes >= 1e9 else f"{free_bytes // 1_000_000} MB"
    cure = "Free some space: without it pairings and access tokens cannot be kept."
    if free_bytes < NO_SPACE_BYTES:
        return DISK.fail("There is no free disk space for the state directory.", cure)
    if free_bytes < LOW_SPACE_BYTES:
        return DISK.warn(f"Only {shown} of disk space are free for the state directory.", cure)
    return DISK.ok(f"{shown} of disk space are free.")


# --- service


def port_free(port: int, bind: str | None, error: int | None) -> Finding:
    """Check that the service could listen.

    Args:
        port: Its TCP port.
        bind: The address it listens on; None for all.
        error: ``errno`` of the attempt to take the port, otherwise None.
    """
    where = f"TCP port {port}" + (f" of {bind}" if bind else "")
    if error is None:
        return PORT.ok(f"{where} is free; start the service with s2connect serve.")
    if error == errno.EADDRINUSE:
        return PORT.fail(
            f"Another program has {where}.",
            f"Stop it (ss -tlnp 'sport = :{port}' names it), or set another port in config.json.",
        )
    if error == errno.EADDRNOTAVAIL:
        return PORT.fail(
            f"The service is to listen on {bind}, which is no address of this machine now.",
            "Correct bind in config.json, or remove it to listen on all addresses.",
        )
    if error in (errno.EACCES, errno.EPERM):
        return PORT.fail(
            f"This user may not listen on {where}.",
            "Choose a port from 1024 on in config.json, or give the service the right to low ports.",
        )
    return PORT.fail(f"{where} cannot be used: {os.strerror(error).lower()}.", "Check port and bind.")


@dataclass(frozen=True, slots=True)
class ServiceResponse:
    """Response of our own service at one address.

    Attributes:
        address: The address.
        seconds: Time it took.
        error: Why there is none, otherwise None.
    """

    address: str
    seconds: float
    error: S2ConnectError | None = None


def reachable(responses: Sequence[ServiceResponse]) -> Finding:
    """Check that our own service answers at each address of this machine: TCP, TLS, version index."""
    wrong = [(one.address, one.error) for one in responses if one.error is not None]
    if wrong:
        first = wrong[0][1]
        return REACHABLE.fail(
            f"The service does not answer at {listed([address for address, _ in wrong])}: {first.what}",
            first.hint or "Restart the service.",
        )
    slowest = max(one.seconds for one in responses)
    addresses = listed([one.address for one in responses])
    return REACHABLE.ok(f"The service answers at {addresses}, within {milliseconds(slowest)}.")


def round_trip(answers: Sequence[float], pauses: Sequence[float]) -> Finding:
    """Check that the broker passes small messages on at once.

    Args:
        answers: Seconds until each of our messages had come back, and was acknowledged.
        pauses: Seconds of these between the first and the last packet of the broker.
    """
    pause = median(pauses)
    through = f"A message goes through the broker and back in {milliseconds(median(answers))}"
    if pause < NAGLE_SECONDS:
        return BROKER_ROUND_TRIP.ok(f"{through}.")
    return BROKER_ROUND_TRIP.warn(
        f"{through}, of which it holds back a packet for {milliseconds(pause)}.",
        "Switch Nagle's algorithm off at the broker: in Mosquitto, set_tcp_nodelay true.",
    )


# --- texts


def _in_order(own: Collection[OwnAddress]) -> list[OwnAddress]:
    return sorted(own, key=lambda a: (a.index, a.interface.version, a.interface.is_link_local, int(a.interface.ip)))


def _interface(address: OwnAddress, names: Mapping[int, str]) -> str:
    return names.get(address.index, str(address.index))


def _day(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d")


def _days(number: int) -> str:
    return "1 day" if number == 1 else f"{number} days"
