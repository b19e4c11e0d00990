"""``s2connect registry serve``: a registry of endpoints as a service, and its certificate."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from s2connect.certs.authority import CertificateAuthority, ServerIdentity, name_or_address
from s2connect.certs.tls import ServerContext
from s2connect.discovery.registry_server import RegistryServer, load_records
from s2connect.endpoint.certificate import read_operator_file
from s2connect.endpoint.config import bracketed
from s2connect.errors import ConfigurationError, UsageError
from s2connect.https.server import HttpsServer
from s2connect.model.url import BaseUrl, host_as_ascii
from s2connect.service.failures import ExitCode
from s2connect.service.signals import Stop
from s2connect.store.files import make_private_directory, write_private

BASE_PATH = "/registry/"
CA_FILE, CA_KEY_FILE = "ca.pem", "ca.key"


async def run_registry(
    file: Path,
    ready: Callable[[BaseUrl, int, str | None], None],
    *,
    host: str,
    bind: str | None,
    port: int,
    certificate: Path | None,
    private_key: Path | None,
    ca_dir: Path | None,
) -> ExitCode:
    """Serve the records of a JSON file until SIGINT or SIGTERM; call ``ready`` once when it serves.

    It listens on the address ``bind``; without one on ``host`` if that is an address, otherwise everywhere. Without a
    certificate it has a CA of its own, kept in ``ca_dir``; without one, it makes a new CA every time. What cannot be
    used raises ``UsageError``.
    """
    if (certificate is None) != (private_key is None):
        raise UsageError("--certificate and --private-key belong together.")
    host = host_as_ascii(host.strip("[]"))
    records = await asyncio.to_thread(load_records, file)
    with contextlib.ExitStack() as stack:
        ca_file: Path | None = None
        if certificate is not None and private_key is not None:
            chain, key = [await asyncio.to_thread(read_operator_file, path) for path in (certificate, private_key)]
            identity = ServerIdentity.load(chain, key)
        else:
            ca, ca_file = await asyncio.to_thread(_own_ca, ca_dir, stack)
            identity = ca.issue([host], now=datetime.now(UTC))
        context = await asyncio.to_thread(ServerContext, identity)
        address = bind or (None if isinstance(name_or_address(host), str) else host)
        server = HttpsServer(context.context, host=address, port=port)
        RegistryServer(records).mount(server, BASE_PATH)
        stop = Stop()
        stack.enter_context(stop.on_signals())
        try:
            await server.start()
        except ConfigurationError as error:
            raise ConfigurationError(error.what, hint="Another one is named with --bind and --port.") from None
        try:
            url = BaseUrl(f"https://{bracketed(host)}:{server.port}{BASE_PATH}")
            ready(url, len(records), None if ca_file is None else str(ca_file))
            await stop.wait()
        finally:
            await server.close()
    return stop.code


def _own_ca(directory: Path | None, stack: contextlib.ExitStack) -> tuple[CertificateAuthority, Path]:
    """Return the CA of a directory, or a new one, and the file with its certificate. Blocks."""
    if directory is not None and (directory / CA_FILE).exists():
        certificate, key = (read_operator_file(directory / name) for name in (CA_FILE, CA_KEY_FILE))
        return CertificateAuthority.load(certificate, key), directory.absolute() / CA_FILE
    ca = CertificateAuthority.create("registry", now=datetime.now(UTC))
    if directory is not None:
        make_private_directory(directory.absolute())
        write_private(directory.absolute() / CA_KEY_FILE, ca.key_pem())
    else:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="s2connect-registry-")))
    write_private(directory.absolute() / CA_FILE, ca.to_pem())
    return ca, directory.absolute() / CA_FILE
