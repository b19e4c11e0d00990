"""``s2connect registry serve``: a registry of endpoints as a service, and its certificate."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from s2connect.certs.authority import CertificateAuthority, ServerIdentity
from s2connect.certs.tls import ServerContext
from s2connect.discovery.registry_server import RegistryServer, load_records
from s2connect.endpoint.config import bracketed
from s2connect.errors import ConfigurationError, UsageError
from s2connect.https.server import HttpsServer
from s2connect.model.url import BaseUrl, host_as_ascii
from s2connect.service.failures import ExitCode
from s2connect.service.signals import Stop
from s2connect.store.files import make_private_directory, write_private

BASE_PATH = "/registry/"
CA_FILE, CA_KEY_FILE = "ca.pem", "ca.key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of a registry.

    Attributes:
        file: JSON file with the records.
        host: Name or address in URL and certificate; an address is also where it listens, a name listens on all.
        port: TCP port, 0 for any.
        certificate: PEM file with the certificate chain, or None for a CA of its own.
        private_key: PEM file with its key.
        ca_dir: Where the own CA is kept; None makes a new one every time.
    """

    file: Path
    host: str
    port: int
    certificate: Path | None
    private_key: Path | None
    ca_dir: Path | None


@dataclass(frozen=True, slots=True)
class RunningRegistry:
    """A registry that serves. ``ca_file`` is what its clients have to trust; None with a certificate from a file."""

    url: BaseUrl
    endpoints: int
    ca_file: str | None


async def run_registry(settings: Settings, ready: Callable[[RunningRegistry], None]) -> ExitCode:
    """Serve until SIGINT or SIGTERM.

    Args:
        settings: Its settings.
        ready: Called once when it serves.

    Returns:
        The exit code.

    Raises:
        UsageError, ConfigurationError: A setting, the file or the port cannot be used.
    """
    host = host_as_ascii(settings.host.strip("[]"))
    records = await asyncio.to_thread(load_records, settings.file)
    with contextlib.ExitStack() as stack:
        identity, ca_file = await asyncio.to_thread(_identity, settings, host, stack)
        context = await asyncio.to_thread(ServerContext, identity)
        server = HttpsServer(context.context, host=host if _is_address(host) else None, port=settings.port)
        RegistryServer(records).mount(server, BASE_PATH)
        stop = Stop()
        stack.enter_context(stop.on_signals())
        await server.start()
        try:
            url = BaseUrl(f"https://{bracketed(host)}:{server.port}{BASE_PATH}")
            ready(RunningRegistry(url, len(records), None if ca_file is None else str(ca_file)))
            await stop.wait()
        finally:
            await server.close()
    return stop.code


def _identity(settings: Settings, host: str, stack: contextlib.ExitStack) -> tuple[ServerIdentity, Path | None]:
    """The certificate to show, and the file with the CA to trust if it is our own. Blocks."""
    if (settings.certificate is None) != (settings.private_key is None):
        raise UsageError("--certificate and --private-key belong together.")
    if settings.certificate is not None and settings.private_key is not None:
        return ServerIdentity.load(_read(settings.certificate), _read(settings.private_key)), None
    now = datetime.now(UTC)
    if settings.ca_dir is None:
        ca = CertificateAuthority.create("registry", now=now)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="s2connect-registry-")))
        (directory / CA_FILE).write_bytes(ca.to_pem())
        return ca.issue([host], now=now), directory / CA_FILE
    directory = settings.ca_dir.absolute()
    if (directory / CA_FILE).exists():
        ca = CertificateAuthority.load(_read(directory / CA_FILE), _read(directory / CA_KEY_FILE))
    else:
        ca = CertificateAuthority.create("registry", now=now)
        make_private_directory(directory)
        write_private(directory / CA_KEY_FILE, ca.key_pem())
        write_private(directory / CA_FILE, ca.to_pem())
    return ca.issue([host], now=now), directory / CA_FILE


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read ({error.strerror}).") from None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
