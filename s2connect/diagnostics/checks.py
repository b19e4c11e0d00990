"""What ``doctor`` concludes from what it finds: facts in, sentences out, no I/O.

Sentences never hold a secret. Texts from the network or the environment are cleaned when a check is written out.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from s2connect.certs.authority import FIRST_CLOCK, RENEW_BEFORE
from s2connect.discovery.network import OwnAddress
from s2connect.errors import S2ConnectError
from s2connect.model.text import for_display

LOW_SPACE_BYTES = 50 * 1_000_000
"""Free disk space below which a warning is due; the database of a large endpoint has some megabytes."""

NO_SPACE_BYTES = 1_000_000
"""Free disk space below which no change of the database can be relied on."""

FIRST_YEAR = FIRST_CLOCK.year
"""No clock of a machine that runs this software is right about an earlier year."""

MAX_SENTENCE = 500
"""Longest sentence or hint, in characters."""

_MAX_LISTED = 4


class Result(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Layer(StrEnum):
    """What a check is about, from the wire upwards."""

    NETWORK = "network"
    DISCOVERY = "discovery"
    CLOCK = "clock"
    STORE = "store"
    CERTIFICATE = "certificate"
    SERVICE = "service"
    BROKER = "broker"
    PEER = "peer"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report.

    Attributes:
        layer: What it is about.
        name: Stable name for programs.
        result: How it ended.
        sentence: What was found.
        hint: What to do about it; empty where all is well.
        about: Whom it is about, where that stands before the sentence.
    """

    layer: Layer
    name: str
    result: Result
    sentence: str
    hint: str = ""
    about: str = ""

    def to_object(self) -> dict[str, Any]:
        """The check for programs, its texts fit for a terminal."""
        return {
            "name": self.name,
            "layer": str(self.layer),
            "result": str(self.result),
            "sentence": for_display(f"{self.about}: {self.sentence}" if self.about else self.sentence, MAX_SENTENCE),
            "hint": for_display(self.hint, MAX_SENTENCE),
        }


def ok(layer: Layer, name: str, sentence: str) -> Check:
    """A check that found nothing wrong."""
    return Check(layer, name, Result.OK, sentence)


def warn(layer: Layer, name: str, sentence: str, hint: str) -> Check:
    """A check that found what may be meant so, or will be a fault one day."""
    return Check(layer, name, Result.WARN, sentence, hint)


def fail(layer: Layer, name: str, sentence: str, hint: str) -> Check:
    """A check that found a fault."""
    return Check(layer, name, Result.FAIL, sentence, hint)


def fault(layer: Layer, name: str, error: S2ConnectError) -> Check:
    """A check that ended with an error of the library."""
    return fail(layer, name, error.what, hint_of(error))


def hint_of(error: S2ConnectError) -> str:
    """What to do about an error, also where the error itself does not know."""
    return error.hint or "Mend what is named here, then run this again."


def passes(checks: Collection[Check]) -> bool:
    """Return whether nothing failed; warnings are allowed."""
    return all(check.result is not Result.FAIL for check in checks)


def listed(items: Sequence[str], most: int = _MAX_LISTED) -> str:
    """Items in a sentence, a long list cut."""
    shown = ", ".join(items[:most])
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"


# --- this machine


def interfaces(own: Collection[OwnAddress], names: Mapping[int, str], unlinked: Collection[str] = ()) -> Check:
    """Whether there is a network at all.

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
        what = "This machine has no network address but loopback: only programs on it can reach each other."
        return warn(Layer.NETWORK, "interfaces", what, connect)
    if set(by_interface) <= set(unlinked):
        what = f"No cable or WLAN is connected to {listed(list(by_interface))}."
        return warn(Layer.NETWORK, "interfaces", what, connect)
    texts = [
        f"{name} ({'not connected' if name in unlinked else listed(found)})"
        for name, found in sorted(by_interface.items(), key=lambda item: item[0] in unlinked)
    ]
    return ok(Layer.NETWORK, "interfaces", f"Network: {listed(texts)}.")


def ipv6(own: Collection[OwnAddress], names: Mapping[int, str], *, disabled: bool) -> Check:
    """Whether IPv6 is there, with the link-local addresses and zones that mDNS needs.

    Args:
        own: Addresses of this machine.
        names: Interface names by number.
        disabled: Whether the system has switched IPv6 off everywhere.
    """
    found = [a for a in _in_order(own) if a.interface.version == 6 and not a.interface.is_loopback]
    zones = [f"{a.interface.ip}%{_interface(a, names)}" for a in found if a.interface.is_link_local]
    without = {_interface(a, names) for a in found} - {zone.partition("%")[2] for zone in zones}
    if without:
        return warn(
            Layer.NETWORK,
            "ipv6",
            f"There is an IPv6 address but no link-local one on {listed(sorted(without))}, so mDNS does not use IPv6.",
            "Check the settings of that interface: link-local addresses belong to every interface with IPv6.",
        )
    if zones:
        return ok(Layer.NETWORK, "ipv6", f"IPv6 with zone: {listed(zones)}.")
    if disabled:
        return ok(Layer.NETWORK, "ipv6", "IPv6 is switched off on this machine; IPv4 is enough for most networks.")
    if any(not a.interface.is_loopback for a in own):
        return warn(
            Layer.NETWORK,
            "ipv6",
            "No interface has an IPv6 address: a device that only speaks IPv6 cannot be reached.",
            "Nothing needs to be done where all devices have IPv4; otherwise allow IPv6 on the interface.",
        )
    return ok(Layer.NETWORK, "ipv6", "No network interface, hence no IPv6 zone.")


def container(*, inside: bool, bridged: bool) -> Check:
    """Whether multicast can leave a container.

    Args:
        inside: There are signs of a container.
        bridged: Its interfaces are virtual ones behind a bridge, or it has an address of a container bridge.
    """
    if bridged:
        where = "This machine is a container behind a bridge" if inside else "The only address is one of a container"
        return warn(
            Layer.NETWORK,
            "container",
            f"{where}: multicast usually does not leave it, so devices do not see each other by name.",
            "Give it the network of the host (docker run --network host), or macvlan; typed URLs work without.",
        )
    if inside:
        return ok(Layer.NETWORK, "container", "A container with the network of its host, or one of its own.")
    return ok(Layer.NETWORK, "container", "Not in a container.")


# --- discovery


@dataclass(frozen=True, slots=True)
class Heard:
    """What came of a question by multicast on one interface.

    Attributes:
        interface: Its name.
        version: IP version, 4 or 6.
        itself: Whether the own question was heard.
        others: Addresses of other hosts that answered it.
        error: ``errno`` of what the system refused, otherwise None.
    """

    interface: str
    version: int
    itself: bool = False
    others: frozenset[str] = frozenset()
    error: int | None = None


def multicast(heard: Sequence[Heard]) -> Check:
    """Whether multicast leaves and arrives."""
    if not heard:
        return warn(
            Layer.DISCOVERY,
            "multicast",
            "There is no interface on which devices could be looked for.",
            "Connect the network; a typed URL works where the other side can be reached.",
        )
    if all(one.error == errno.EADDRINUSE for one in heard):
        return fail(
            Layer.DISCOVERY,
            "multicast",
            "Another program keeps UDP port 5353 to itself, so devices cannot be looked for.",
            "Let it share the port; for Avahi: disallow-other-stacks=no in avahi-daemon.conf.",
        )
    deaf = [one for one in heard if not one.itself]
    where = listed([f"{one.interface} (IPv{one.version})" for one in deaf])
    if deaf:
        refused = next((one.error for one in deaf if one.error is not None), None)
        reason = f": {os.strerror(refused).lower()}" if refused is not None else ""
        result = fail if len(deaf) == len(heard) else warn
        return result(
            Layer.DISCOVERY,
            "multicast",
            f"Multicast sent on {where} does not come back{reason}.",
            "Allow UDP port 5353 in and out in the firewall, to 224.0.0.251 and ff02::fb; in a container use the "
            "network of the host. Typed URLs work without.",
        )
    versions: dict[str, list[str]] = {}
    for one in heard:
        versions.setdefault(one.interface, []).append(f"IPv{one.version}")
    own = listed([f"{name} ({', '.join(found)})" for name, found in versions.items()])
    # A host answers over IPv4 and over IPv6, and is counted once.
    others = max(len(set().union(*(one.others for one in heard if one.version == version))) for version in (4, 6))
    if others:
        answer = f"{others} other {'host answers' if others == 1 else 'hosts answer'}"
    else:
        answer = "no other host answers: there is none, or the network keeps multicast back"
    return ok(Layer.DISCOVERY, "multicast", f"This machine hears its own multicast on {own}; {answer}.")


@dataclass(frozen=True, slots=True)
class Holder:
    """Who else has a socket on UDP port 5353.

    Attributes:
        program: Its name, empty where the system does not tell.
        ours: Whether it is the service of this endpoint.
    """

    program: str
    ours: bool = False


def responders(holders: Sequence[Holder], *, answers: bool) -> Check:
    """Who speaks mDNS beside us.

    Args:
        holders: Who has a socket on the port.
        answers: Whether an address of this machine answered a question.
    """
    others = sorted(
        {holder.program or "a program that the system does not name" for holder in holders if not holder.ours}
    )
    if others:
        return ok(Layer.DISCOVERY, "responders", f"Shares UDP port 5353 with {listed(others)}; that works.")
    if any(holder.ours for holder in holders):
        return ok(Layer.DISCOVERY, "responders", "The service of this endpoint has UDP port 5353, and nobody else.")
    if answers:
        return ok(Layer.DISCOVERY, "responders", "Another program on this machine answers by mDNS; that works.")
    return ok(Layer.DISCOVERY, "responders", "No other program uses UDP port 5353; none is needed.")


def own_name(
    host: str, found: Collection[str] | None, own: Collection[str], *, running: bool, advertises: bool = True
) -> Check:
    """Whether the name of the endpoint leads to this machine.

    Args:
        host: The configured name or address.
        found: Addresses it leads to, without zones; None where nobody knows it.
        own: Addresses of this machine.
        running: Whether the service runs, which is who answers to a ``.local`` name.
        advertises: Whether it is to answer.
    """
    name = "own_name"
    if found and set(found) & set(own):
        strange = sorted(set(found) - set(own))
        if strange:
            return warn(
                Layer.DISCOVERY,
                name,
                f"{host} leads to this machine, and also to {listed(strange)}.",
                "If that is another device with the same name, give one of the two another host in config.json.",
            )
        return ok(Layer.DISCOVERY, name, f"{host} leads to this machine.")
    if found:
        return fail(
            Layer.DISCOVERY,
            name,
            f"{host} leads to another machine ({listed(sorted(found))}).",
            "If that is another device with the same name, give this one another host in config.json.",
        )
    if not host.lower().endswith(".local"):
        return warn(
            Layer.DISCOVERY,
            name,
            f"This machine does not know the name {host}, which others are to reach it by.",
            "Make it known in the DNS, or set another host in config.json.",
        )
    if not running:
        return ok(Layer.DISCOVERY, name, f"{host} is free; the service answers to it when it runs.")
    if not advertises:
        return warn(
            Layer.DISCOVERY,
            name,
            f"Nobody answers to {host}: advertising is switched off.",
            "Set advertise to true in config.json, or have another program publish the name.",
        )
    return warn(
        Layer.DISCOVERY,
        name,
        f"The service runs, but nobody answers to {host}.",
        "See what the service says, and the line about multicast; until then others reach it by its address only.",
    )


# --- clock and certificate


def clock(now: datetime, set_up: datetime | None) -> Check:
    """Whether the clock can be right.

    Args:
        now: Wall-clock time, with time zone.
        set_up: From when on the CA of this endpoint is valid, if it has one.
    """
    hint = "Set date and time, best by NTP (timedatectl set-ntp true): certificates are refused otherwise."
    if now.year < FIRST_YEAR:
        return fail(Layer.CLOCK, "clock", f"The clock says {_day(now)}, which cannot be.", hint)
    if set_up is not None and now < set_up:
        return fail(
            Layer.CLOCK, "clock", f"The clock says {_day(now)}, but this endpoint was set up on {_day(set_up)}.", hint
        )
    return ok(Layer.CLOCK, "clock", f"The clock says {now.astimezone():%Y-%m-%d %H:%M %Z}, which is plausible.")


def validity(
    what: str, name: str, begin: datetime, end: datetime, now: datetime, *, renews: bool, running: bool, host: str = ""
) -> Check:
    """Whether a certificate is in its time.

    Args:
        what: What it is, as the beginning of a sentence.
        name: Name of the check.
        begin: From when on it is valid.
        end: Until when.
        now: Wall-clock time, with time zone.
        renews: Whether the service renews it by itself.
        running: Whether the service runs.
        host: Name it is made out to, if that has been checked.
    """
    if now < begin:
        return fail(
            Layer.CERTIFICATE,
            name,
            f"{what} is not valid before {_day(begin)}, and the clock says {_day(now)}.",
            "Set date and time; if they are right, the clock was wrong when it was made.",
        )
    if now > end:
        start = "restart" if running else "start"
        mend = f"{start} the service, which makes a new one" if renews else "the certificate has to be renewed"
        return fail(
            Layer.CERTIFICATE,
            name,
            f"{what} has expired on {_day(end)}.",
            f"Check date and time, and set them if they are wrong; if they are right, {mend}.",
        )
    days, age = (end - now).days, (now - begin).days
    if end - now < min(RENEW_BEFORE, (end - begin) / 3) and not renews:
        return warn(
            Layer.CERTIFICATE,
            name,
            f"{what} expires in {_days(days)}, on {_day(end)}.",
            "Renew it with the tool that made it, then restart the service.",
        )
    made_out = f" is made out to {host}," if host else " is"
    return ok(Layer.CERTIFICATE, name, f"{what}{made_out} {_days(age)} old and valid for {_days(days)} more.")


# --- store


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or directory of the state directory.

    Attributes:
        path: Where it is.
        mode: Its permissions.
        owner: Number of the user it belongs to.
    """

    path: str
    mode: int
    owner: int


def permissions(entries: Sequence[Entry], user: int) -> Check:
    """Whether nobody else has rights on the state (SEC-02).

    Args:
        entries: The state directory first, then what is in it.
        user: Number of the user who runs this.
    """
    home = entries[0].path
    strange = [entry for entry in entries if entry.owner != user]
    if strange:
        one = strange[0]
        return fail(
            Layer.STORE,
            "permissions",
            f"{one.path} belongs to the user with id {one.owner}, not to the one running this ({user}).",
            f"Run as that user, or hand it over: chown -R {user} '{home}'",
        )
    open_ones = [entry for entry in entries if entry.mode & 0o077]
    if open_ones:
        one = open_ones[0]
        more = f", and to {len(open_ones) - 1} more" if len(open_ones) > 1 else ""
        return fail(
            Layer.STORE,
            "permissions",
            f"Other users have access to {one.path} (mode {one.mode:o}){more}.",
            f"Take it from them: chmod -R go-rwx '{home}'",
        )
    return ok(Layer.STORE, "permissions", f"{home}: only its owner has access.")


def disk(free_bytes: int) -> Check:
    """Whether there is room for changes."""
    shown = f"{free_bytes / 1e9:.1f} GB" if free_bytes >= 1e9 else f"{free_bytes // 1_000_000} MB"
    hint = "Free some space: without it pairings and access tokens cannot be kept."
    if free_bytes < NO_SPACE_BYTES:
        return fail(Layer.STORE, "disk", "There is no free disk space for the state directory.", hint)
    if free_bytes < LOW_SPACE_BYTES:
        return warn(Layer.STORE, "disk", f"Only {shown} of disk space are free for the state directory.", hint)
    return ok(Layer.STORE, "disk", f"{shown} of disk space are free.")


# --- service


def port_free(port: int, bind: str | None, error: int | None) -> Check:
    """Whether the service could listen.

    Args:
        port: Its TCP port.
        bind: The address it listens on; None for all.
        error: ``errno`` of the attempt to take the port, otherwise None.
    """
    name = "port"
    where = f"TCP port {port}" + (f" of {bind}" if bind else "")
    if error is None:
        return ok(Layer.SERVICE, name, f"{where} is free; start the service with s2connect serve.")
    if error == errno.EADDRINUSE:
        return fail(
            Layer.SERVICE,
            name,
            f"Another program has {where}.",
            f"Stop it (ss -tlnp 'sport = :{port}' names it), or set another port in config.json.",
        )
    if error == errno.EADDRNOTAVAIL:
        return fail(
            Layer.SERVICE,
            name,
            f"The service is to listen on {bind}, which is no address of this machine now.",
            "Correct bind in config.json, or remove it to listen on all addresses.",
        )
    if error in (errno.EACCES, errno.EPERM):
        return fail(
            Layer.SERVICE,
            name,
            f"This user may not listen on {where}.",
            "Choose a port from 1024 on in config.json, or give the service the right to low ports.",
        )
    return fail(Layer.SERVICE, name, f"{where} cannot be used: {os.strerror(error).lower()}.", "Check port and bind.")


@dataclass(frozen=True, slots=True)
class Answered:
    """What came of asking our own service at one address.

    Attributes:
        address: The address.
        seconds: How long it took.
        error: What went wrong, otherwise None.
    """

    address: str
    seconds: float
    error: S2ConnectError | None = None


def reachable(answered: Sequence[Answered]) -> Check:
    """Whether our own service answers at each of this machine's addresses: TCP, TLS, version index."""
    wrong = [one for one in answered if one.error is not None]
    if wrong:
        first = wrong[0]
        assert first.error is not None
        return fail(
            Layer.SERVICE,
            "reachable",
            f"The service does not answer at {listed([one.address for one in wrong])}: {first.error.what}",
            first.error.hint or "Restart the service.",
        )
    slowest = max(one.seconds for one in answered)
    return ok(
        Layer.SERVICE,
        "reachable",
        f"The service answers at {listed([one.address for one in answered])}, within {milliseconds(slowest)}.",
    )


# --- texts


def milliseconds(seconds: float) -> str:
    """A time that was measured, for people."""
    return f"{max(1, round(seconds * 1000))} ms"


def _in_order(own: Collection[OwnAddress]) -> list[OwnAddress]:
    return sorted(own, key=lambda a: (a.index, a.interface.version, a.interface.is_link_local, int(a.interface.ip)))


def _interface(address: OwnAddress, names: Mapping[int, str]) -> str:
    return names.get(address.index, str(address.index))


def _day(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d")


def _days(number: int) -> str:
    return "1 day" if number == 1 else f"{number} days"
