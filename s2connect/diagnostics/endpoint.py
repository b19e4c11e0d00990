"""What ``doctor`` finds out about the endpoint of a state directory. It writes nothing and locks nothing."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import shutil
import socket
import ssl
import stat
import tempfile
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from s2connect import EndpointConfig
from s2connect.certs.authority import CertificateAuthority
from s2connect.certs.chain import CapturedChain, verify_pki
from s2connect.certs.tls import leaf_client_context, pinned_client_context, wan_client_context
from s2connect.diagnostics.checks import (
    Answered,
    Check,
    Entry,
    Layer,
    clock,
    disk,
    fail,
    fault,
    hint_of,
    ok,
    own_name,
    passes,
    permissions,
    port_free,
    reachable,
    validity,
    warn,
)
from s2connect.diagnostics.machine import apart
from s2connect.discovery.network import OwnAddress, own_addresses
from s2connect.discovery.resolve import is_local_name, resolve
from s2connect.endpoint.certificate import CA_FILE, CA_KEY, LEAF_FILE, CertificateManager
from s2connect.endpoint.endpoint import DATABASE, SECRETS, read_config
from s2connect.errors import (
    CertificateChanged,
    ConfigurationError,
    InsecurePermissions,
    NotInitialised,
    NotReachable,
    PeerTimeout,
    S2ConnectError,
    StorageUnavailable,
    TrustError,
)
from s2connect.https.client import HttpsClient, Route, no_api
from s2connect.model.common import Deployment
from s2connect.model.url import BaseUrl
from s2connect.service.control import connect
from s2connect.service.failures import Failure
from s2connect.service.sidecar import Object
from s2connect.store.base import MAX_VAULT_BYTES, Pairing
from s2connect.store.files import check_private_directory, open_private, read_private, unavailable
from s2connect.store.home import Home
from s2connect.store.memory import MemoryVault
from s2connect.store.sqlite import SqliteStore
from s2connect.store.vault import KeyringVault

CONTROL_TIMEOUT = 3.0
"""Seconds for the service to tell its state."""

ASK_TIMEOUT = 4.0
"""Seconds for one request to a server, or for one name of the DNS."""

KEYRING_TIMEOUT = 5.0
"""Seconds for the keyring, which may ask its user for a password."""

MAX_ENTRIES = 10_000
"""Most files of a state directory whose permissions are looked at."""

_MAX_OWN = 16
_COPIES = 5
_LOG_OF_WRITES = "-wal"


@dataclass(slots=True)
class Found:
    """What is known of the endpoint.

    Attributes:
        home: Its state directory.
        config: Its settings.
        status: What its service tells; None where none runs.
        mute: Whether a service is there that does not tell.
        ca: Its own CA; None for a certificate of the operator, or where it cannot be read.
        leaf: What its server shows; None where there is none yet.
    """

    home: Home
    config: EndpointConfig
    status: Object | None = None
    mute: bool = False
    ca: x509.Certificate | None = None
    leaf: x509.Certificate | None = None

    @property
    def running(self) -> bool:
        """True if its service runs."""
        return self.status is not None or self.mute


async def examine_home(path: Path, found: list[Check]) -> Found | None:
    """State directory, settings and service: what the other checks need to know. None where there is no endpoint."""
    try:
        entries = await asyncio.to_thread(_entries, path)
    except FileNotFoundError:
        found.append(_not_set_up(path))
        return None
    except OSError as error:
        found.append(fault(Layer.STORE, "permissions", unavailable("read", path, error)))
        return None
    found.append(permissions(entries, os.geteuid()))
    found.append(disk(await asyncio.to_thread(_free_bytes, path)))
    try:
        home = await asyncio.to_thread(Home.open, path)
        config = await asyncio.to_thread(read_config, home)
    except NotInitialised:
        found.append(_not_set_up(path))
        return None
    except S2ConnectError as error:
        if not isinstance(error, InsecurePermissions) or passes(found):  # has not been said
            found.append(fault(Layer.STORE, "settings", error))
        what = "The endpoint could not be checked any further."
        found.append(warn(Layer.STORE, "endpoint", what, "Mend the line above, then run this again."))
        return None
    endpoint = Found(home, config)
    await _ask_service(endpoint, found)
    return endpoint


def _not_set_up(path: Path) -> Check:
    return warn(
        Layer.STORE,
        "set_up",
        f"No endpoint is set up in {path}: only the machine was checked.",
        "Set one up with s2connect init --role rm (a device) or --role cem, or name another directory with --home.",
    )


def _entries(path: Path) -> list[Entry]:
    paths = sorted(path.iterdir())
    with contextlib.suppress(OSError):
        paths += sorted((path / SECRETS).iterdir())
    entries = [_entry(path, path.stat())]
    for one in paths[:MAX_ENTRIES]:
        with contextlib.suppress(FileNotFoundError):  # the service replaces files
            facts = one.lstat()
            if not stat.S_ISLNK(facts.st_mode):  # a link has no permissions of its own
                entries.append(_entry(one, facts))
    return entries


def _entry(path: Path, facts: os.stat_result) -> Entry:
    return Entry(str(path), stat.S_IMODE(facts.st_mode), facts.st_uid)


def _free_bytes(path: Path) -> int:
    facts = os.statvfs(path)
    if facts.f_files and not facts.f_favail:  # no room for another file
        return 0
    return facts.f_bavail * facts.f_frsize


async def _ask_service(endpoint: Found, found: list[Check]) -> None:
    try:
        async with asyncio.timeout(CONTROL_TIMEOUT), connect(endpoint.home) as control:
            if control is None:
                found.append(ok(Layer.SERVICE, "service", "The service is not running."))
                return
            endpoint.status = await control.ask({"command": "status"})
    except (TimeoutError, S2ConnectError, Failure) as error:
        endpoint.mute = True
        what = error.what if isinstance(error, S2ConnectError | Failure) else "It does not answer to commands."
        found.append(
            fail(
                Layer.SERVICE,
                "service",
                f"The service is there but cannot tell its state. {what}",
                "Stop it and start it again; if that does not help, see its log.",
            )
        )
        return
    found.append(ok(Layer.SERVICE, "service", f"The service is running, process {endpoint.status['service']['pid']}."))


# --- store


async def examine_database(endpoint: Found, found: list[Check]) -> list[Pairing]:
    """Whether the database can be read, and the pairings in it.

    The service has the database for itself, and opening it clears up after a crash: so a copy is opened, with a vault
    in which there is nothing to clear.
    """
    path = endpoint.home.path / DATABASE
    name = "database"
    try:
        directory = await asyncio.to_thread(
            lambda: tempfile.TemporaryDirectory(prefix="s2connect-doctor-", ignore_cleanup_errors=True)
        )
        copy = Path(directory.name) / DATABASE
        try:
            if not await asyncio.to_thread(_copy_database, path, copy):
                found.append(ok(Layer.STORE, name, "There is no database yet; it is made with the first use."))
                return []
            store = await SqliteStore.open(copy, MemoryVault())
            try:
                pairings = await store.pairings()
            finally:
                await store.close()
        finally:
            await asyncio.to_thread(directory.cleanup)
    except S2ConnectError as error:
        found.append(fail(Layer.STORE, name, error.what.replace(str(copy), str(path)), hint_of(error)))
        return []
    except OSError as error:
        found.append(fault(Layer.STORE, name, unavailable("make a copy of", path, error)))
        return []
    confirmed = sum(pairing.confirmed for pairing in pairings)
    held = "1 pairing" if confirmed == 1 else f"{confirmed or 'no'} pairings"
    found.append(ok(Layer.STORE, name, f"The database can be read and holds {held}."))
    return pairings


def _copy_database(path: Path, copy: Path) -> bool:
    """Copy the database and its log of writes as they were at one moment; False where there is none.

    Raises:
        StorageUnavailable: It changes all the time.
        InsecurePermissions: Others have rights on it.
        OSError: It cannot be read, or the copy not be written.
    """
    for _ in range(_COPIES):
        before = _states(path)
        if before[0] is None:
            return False
        for suffix in ("", _LOG_OF_WRITES):
            target = copy.with_name(copy.name + suffix)
            target.unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                descriptor = open_private(path.with_name(path.name + suffix), os.O_RDONLY)
                with os.fdopen(descriptor, "rb") as source, target.open("xb") as sink:
                    target.chmod(0o600)
                    shutil.copyfileobj(source, sink)
        if _states(path) == before:
            return True
    raise StorageUnavailable(f"{path} changes all the time.", hint="Try again when fewer devices are being paired.")


def _states(path: Path) -> list[tuple[int, int, int] | None]:
    states: list[tuple[int, int, int] | None] = []
    for suffix in ("", _LOG_OF_WRITES):
        try:
            facts = path.with_name(path.name + suffix).stat()
            states.append((facts.st_ino, facts.st_size, facts.st_mtime_ns))
        except FileNotFoundError:
            states.append(None)
    return states


async def examine_vault(endpoint: Found, found: list[Check]) -> None:
    """Whether the secrets can be read. What is read is dropped at once, but for the key that must fit the CA."""
    config, home = endpoint.config, endpoint.home
    keyring = config.vault == "keyring"
    work: Callable[[], tuple[str, bytes | None]] = (
        (lambda: _read_keyring(home)) if keyring else (lambda: _read_files(home))
    )
    try:
        told, ca_key = await apart(work, KEYRING_TIMEOUT)
        if config.is_own_ca:
            await asyncio.to_thread(_check_ca, home, ca_key)
    except TimeoutError:
        found.append(
            fail(Layer.STORE, "vault", "The vault does not answer.", "Unlock the keyring, then run this again.")
        )
    except S2ConnectError as error:
        found.append(fault(Layer.STORE, "vault", error))
    else:
        found.append(ok(Layer.STORE, "vault", told))


def _read_files(home: Home) -> tuple[str, bytes | None]:
    directory = home.path / SECRETS
    check_private_directory(directory)
    try:
        names = [entry.name for entry in directory.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise unavailable("read", directory, error) from error
    for name in names[:MAX_ENTRIES]:
        read_private(directory / name, MAX_VAULT_BYTES)
    entries = "1 entry" if len(names) == 1 else f"{len(names)} entries"
    return f"The vault (files) can be read: {entries}.", read_private(directory / CA_KEY, MAX_VAULT_BYTES)


def _read_keyring(home: Home) -> tuple[str, bytes | None]:
    vault = KeyringVault(f"s2connect:{(home.path / SECRETS).resolve()}")
    return "The vault (keyring) can be read.", vault.get(CA_KEY)


def _check_ca(home: Home, key: bytes | None) -> None:
    certificate = home.read(CA_FILE)
    if certificate is None or key is None:
        raise NotInitialised(
            "The certificate authority of this endpoint is missing.",
            hint="Restore state directory and keyring, or make a new CA with s2connect certificate --new-ca.",
        )
    CertificateAuthority.load(certificate, key)


# --- clock and certificate


async def examine_certificates(endpoint: Found, found: list[Check], now: datetime) -> None:
    """Clock, CA and leaf: dates, names, signature."""
    try:
        if endpoint.config.is_own_ca:
            await asyncio.to_thread(_read_certificates, endpoint)
    except S2ConnectError as error:
        found.append(fault(Layer.CERTIFICATE, "ca", error))
    found.append(clock(now, endpoint.ca.not_valid_before_utc if endpoint.ca is not None else None))
    if not endpoint.config.server:
        return
    if endpoint.config.is_own_ca:
        _check_own(endpoint, found, now)
    else:
        await _check_operators(endpoint, found, now)


def _read_certificates(endpoint: Found) -> None:
    for name in (CA_FILE, LEAF_FILE):
        content = endpoint.home.read(name)
        if content is None:
            continue
        try:
            certificate = x509.load_pem_x509_certificates(content)[0]
        except ValueError:
            raise StorageUnavailable(
                f"{endpoint.home.path / name} is no certificate.",
                hint="Restore it from a backup; a leaf can also be deleted, the service makes a new one.",
            ) from None
        if name == CA_FILE:
            endpoint.ca = certificate
        else:
            endpoint.leaf = certificate


def _check_own(endpoint: Found, found: list[Check], now: datetime) -> None:
    ca, leaf, host = endpoint.ca, endpoint.leaf, endpoint.config.host
    if ca is None:
        return  # the vault says so
    found.append(
        validity(
            "The certificate authority",
            "ca",
            ca.not_valid_before_utc,
            ca.not_valid_after_utc,
            now,
            renews=False,
            running=endpoint.running,
        )
    )
    if leaf is None:
        found.append(ok(Layer.CERTIFICATE, "leaf", "The certificate is made when the service starts."))
        return
    dates = validity(
        "The certificate",
        "leaf",
        leaf.not_valid_before_utc,
        leaf.not_valid_after_utc,
        now,
        renews=True,
        running=endpoint.running,
        host=host,
    )
    if leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
        chain = CapturedChain(leaf.public_bytes(Encoding.DER), ca.public_bytes(Encoding.DER), "")
        try:
            chain.check_self_signed(host, now)
        except S2ConnectError as error:
            hint = "Start the service again, which makes a new one."
            found.append(fail(Layer.CERTIFICATE, "leaf", error.what, hint))
            return
    found.append(dates)


async def _check_operators(endpoint: Found, found: list[Check], now: datetime) -> None:
    config = endpoint.config
    try:
        keeper = CertificateManager(config, None, MemoryVault())  # reads the operator's files and nothing else
        shown = await asyncio.to_thread(keeper.load)
    except S2ConnectError as error:
        hint = error.hint or "Correct certificate, private_key or host in config.json."
        found.append(fail(Layer.CERTIFICATE, "leaf", error.what, hint))
        return
    endpoint.leaf = x509.load_pem_x509_certificates(shown.chain_pem)[0]
    begin, end = shown.not_valid_before, shown.not_valid_after
    found.append(
        validity(
            "The certificate",
            "leaf",
            begin,
            end,
            now,
            renews=False,
            running=endpoint.running,
            host=config.host,
        )
    )


# --- service


async def examine_service(endpoint: Found, found: list[Check]) -> None:
    """Whether the port is free for the service, or the service answers at every address."""
    config = endpoint.config
    if not config.server:
        found.append(ok(Layer.SERVICE, "port", "This endpoint runs no server; it connects to energy managers itself."))
        return
    if endpoint.mute:
        return
    if endpoint.status is None:
        error = await asyncio.to_thread(_port_error, config.bind, config.port)
        found.append(port_free(config.port, config.bind, error))
        return
    base = BaseUrl(endpoint.status["endpoint"]["pairing_url"])
    try:
        context = await asyncio.to_thread(_context, endpoint)
    except S2ConnectError as failed:
        found.append(fault(Layer.SERVICE, "reachable", failed))
        return

    async def ask(address: str) -> Answered:
        begun = time.monotonic()
        try:
            async with HttpsClient(Route(context, address)) as http, asyncio.timeout(ASK_TIMEOUT):
                await http.api_version(base)
                if http.without_index:
                    raise no_api(base, " (HTTP 404)")
        except TimeoutError:
            return Answered(
                address, ASK_TIMEOUT, PeerTimeout("It did not answer in time.", hint="Restart the service.")
            )
        except CertificateChanged as failed:
            failed.what, failed.hint = "It shows another certificate than the file holds.", "Restart the service."
            return Answered(address, time.monotonic() - begun, failed)
        except S2ConnectError as failed:
            return Answered(address, time.monotonic() - begun, failed)
        return Answered(address, time.monotonic() - begun)

    addresses = _listening_addresses(config.bind, own_addresses())
    found.append(reachable(await asyncio.gather(*(ask(address) for address in addresses))))
    if not config.is_own_ca:
        await _check_trust(config, base, addresses[0], found)


async def _check_trust(config: EndpointConfig, base: BaseUrl, address: str, found: list[Check]) -> None:
    """Whether a peer with the trust store of this system accepts the operator's certificate (TRUST-03)."""
    try:
        context = await asyncio.to_thread(wan_client_context, config.trust_anchors)
        await verify_pki(base.host, base.port, context, address=address, timeout=ASK_TIMEOUT)
    except TrustError as error:
        found.append(warn(Layer.CERTIFICATE, "trust", error.what, hint_of(error)))
    except S2ConnectError as error:
        found.append(fault(Layer.CERTIFICATE, "trust", error))
    else:
        found.append(ok(Layer.CERTIFICATE, "trust", "The certificate comes from a CA that this system trusts."))


def _context(endpoint: Found) -> ssl.SSLContext:
    if endpoint.ca is not None:
        return pinned_client_context(endpoint.ca.public_bytes(Encoding.DER))
    if endpoint.leaf is not None:
        return leaf_client_context(endpoint.leaf.public_bytes(Encoding.DER))
    raise ConfigurationError(
        "Without a certificate that can be read here the service cannot be asked.",
        hint="Mend what is said of the certificate, then run this again.",
    )


def _listening_addresses(bind: str | None, own: Collection[OwnAddress]) -> list[str]:
    """Where a server that is bound so can be reached from here, loopback first."""
    try:
        bound = ipaddress.ip_address((bind or "::").partition("%")[0])
    except ValueError:
        assert bind is not None
        return [bind]
    if not bound.is_unspecified:
        assert bind is not None
        return [bind]
    found = {"127.0.0.1"}
    for address in own:
        ip = address.interface.ip
        if not ip.is_loopback and (bind is None or ip.version == bound.version):
            found.add(f"{ip}%{address.index}" if ip.version == 6 and ip.is_link_local else str(ip))
    return sorted(found, key=lambda text: (text != "127.0.0.1", ":" in text, text))[:_MAX_OWN]


def _port_error(bind: str | None, port: int) -> int | None:
    """What keeps us from listening, tried without listening."""
    try:
        wanted = socket.getaddrinfo(bind, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return errno.EADDRNOTAVAIL
    for family, kind, protocol, _, address in wanted:
        with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind(address)
            except OSError as error:
                return error.errno
    return None


# --- name


async def examine_name(endpoint: Found, found: list[Check]) -> None:
    """Whether the host in the URLs leads to this machine."""
    config = endpoint.config
    if not config.server:
        return
    own = {str(address.interface.ip) for address in own_addresses()}
    known: list[str] | None
    try:
        ipaddress.ip_address(config.host)
        known = [config.host] if config.host in own else None
        if known is None:
            hint = "Correct host in config.json; that needs no new pairing where peers reach the new one."
            what = f"The host {config.host} is no address of this machine now."
            found.append(warn(Layer.DISCOVERY, "own_name", what, hint))
            return
    except ValueError:
        try:
            known = [a.partition("%")[0] for a in await addresses_of(config.host)]
        except (S2ConnectError, OSError):
            known = None
    advertises = config.advertise and config.deployment is Deployment.LAN
    found.append(own_name(config.host, known, own, running=endpoint.running, advertises=advertises))


async def addresses_of(host: str) -> list[str]:
    """Addresses of a host, best first.

    Raises:
        S2ConnectError: Nobody knows it.
    """
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host.partition("%")[0])
        return [host]
    if is_local_name(host):
        return await resolve(host)
    try:
        found = await apart(lambda: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM), ASK_TIMEOUT)
    except TimeoutError:
        raise PeerTimeout(f"The name server did not say in time who {host} is.", hint="Check the DNS.") from None
    except OSError as error:
        raise NotReachable.because(host, 0, error) from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def now_utc() -> datetime:
    """Wall-clock time."""
    return datetime.now(UTC)
