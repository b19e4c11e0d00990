"""Files that a running endpoint reads again: what a person has changed in them counts then, without a restart."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from s2connect.certs.tls import ServerContext, wan_client_context
from s2connect.endpoint.config import EndpointConfig
from s2connect.endpoint.instances import mqtt_instance
from s2connect.endpoint.state import EndpointState
from s2connect.errors import S2ConnectError
from s2connect.session.http_client import SessionClient
from s2connect.store.base import Vault
from s2connect.store.home import Home

if TYPE_CHECKING:  # they take long to load
    from s2connect.endpoint.certificate import CertificateManager
    from s2connect.transports.mqtt.transport import MqttTransport

MAX_BYTES = 1_048_576
"""Bytes of a file that are looked at."""


@dataclass(frozen=True, slots=True)
class Reread:
    """Result of reading changed files again.

    Attributes:
        changed: Settings in force anew: ``certificate``, ``trust_anchors``, ``mqtt`` (password, CA or certificate).
        failed: Those that could not be used, with the reason; what was in force stays so.
    """

    changed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


class FileReader:
    """Reads the files of an endpoint again that have changed since the last time."""

    def __init__(
        self, state: EndpointState, certificates: CertificateManager, tls: ServerContext, client: SessionClient
    ) -> None:
        self._state = state
        self._certificates = certificates
        self._tls = tls
        self._client = client
        self._known: dict[Path, bytes | None] = {}

    async def start(self) -> None:
        """Note what is in the files now."""
        self._known = await asyncio.to_thread(digests, self._state.config)

    async def reread(self, mqtt: MqttTransport | None) -> Reread:
        """Use what is new in the files. A file that cannot be used is reported, and tried again the next time.

        Sessions over the broker begin anew where its password, CA or certificate has changed; all others stay.
        """
        config, found = self._state.config, Reread()
        now = await asyncio.to_thread(digests, config)
        for what, files in files_of(config).items():
            if all(now[file] == self._known.get(file) for file in files):
                continue
            try:
                await self._use(what, config, mqtt)
            except S2ConnectError as error:
                found.failed[what] = str(error)
                continue
            found.changed.append(what)
            self._known |= {file: now[file] for file in files}
        return found

    async def _use(self, what: str, config: EndpointConfig, mqtt: MqttTransport | None) -> None:
        match what:
            case "certificate":
                identity = await asyncio.to_thread(self._certificates.renew)
                await asyncio.to_thread(self._tls.replace, identity)
            case "trust_anchors":
                self._state.pki = await asyncio.to_thread(wan_client_context, config.trust_anchors)
                self._client.trust(self._state.pki)
                if mqtt is not None:
                    mqtt.forget_contexts()
            case "mqtt" if mqtt is not None and config.mqtt is not None:
                settings = await asyncio.to_thread(config.mqtt.complete, config.host, mqtt_instance(config))
                await mqtt.renew(settings)


def digests(config: EndpointConfig) -> dict[Path, bytes | None]:
    """Return the digests of all files that settings name. Blocks."""
    return {path: _digest(path) for paths in files_of(config).values() for path in paths}


def files_of(config: EndpointConfig) -> dict[str, list[Path]]:
    """Return the files that settings name, by what they are for."""
    mqtt = config.mqtt
    named: dict[str, list[Path | None]] = {
        "certificate": [config.certificate, config.private_key],
        "trust_anchors": [config.trust_anchors],
        "mqtt": [] if mqtt is None else [mqtt.password_file, mqtt.ca_file, mqtt.certificate_file, mqtt.key_file],
    }
    return {what: [path for path in paths if path is not None] for what, paths in named.items()}


def _digest(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return hashlib.sha256(file.read(MAX_BYTES)).digest()
    except OSError:
        return None


def certificates_of(config: EndpointConfig, home: Home | None, vault: Vault) -> CertificateManager:
    """Return the certificates of an endpoint."""
    from s2connect.endpoint.certificate import CertificateManager  # loads the library for X.509

    return CertificateManager(config, home, vault)


def load_certificate(
    config: EndpointConfig, home: Home | None, vault: Vault
) -> tuple[CertificateManager, ServerContext]:
    """Return the certificates of an endpoint, and that which it serves. Blocks."""
    certificates = certificates_of(config, home, vault)
    return certificates, ServerContext(certificates.load())
