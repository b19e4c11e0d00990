"""A real Mosquitto for tests: TLS 1.3, passwords, an access list as the binding describes, no persistence."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import trustme

from s2connect.https.server import free_port
from s2connect.model.url import MqttUrl
from s2connect.transports.mqtt.broker import OPEN_TIMEOUT, BrokerConnection
from s2connect.transports.mqtt.parameters import MqttPassword
from s2connect.transports.mqtt.settings import MqttSettings
from tests.waits import Deadline, patience

HOST = "localhost"
PREFIX = "s2"
ADMIN = "admin"
"""May read and write everything: the eavesdropper and the hostile broker."""

_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
_EXECUTABLE = shutil.which("mosquitto", path=_PATH)
_PASSWD = shutil.which("mosquitto_passwd", path=_PATH)


def need_mosquitto() -> None:
    """Skip the test where there is no Mosquitto; fail in CI, which installs it."""
    if _EXECUTABLE is None or _PASSWD is None:
        reason = "mosquitto is not installed (Debian: apt-get install mosquitto mosquitto-clients)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


def password(user: str) -> MqttPassword:
    """Return the password of a user of the broker."""
    return MqttPassword(f"password-of-{user}")


def access_list(servers: Mapping[str, Sequence[str]]) -> str:
    """Return the access list of the binding: a rule per server, and one pattern for all clients (MQ-03).

    Args:
        servers: User of each communication server, with its node ids. A user's name is its MQTT client id.
    """
    lines = [f"user {ADMIN}", "topic readwrite #"]
    for user, nodes in servers.items():
        lines += [f"user {user}", *(f"topic readwrite {PREFIX}/s2/0/{node}/#" for node in nodes)]
        lines.append(f"topic read {PREFIX}/s2/0/presence/+")
    lines += [
        f"pattern write {PREFIX}/s2/0/+/open",
        f"pattern readwrite {PREFIX}/s2/0/+/%u/#",
        f"pattern write {PREFIX}/s2/0/presence/%u",
    ]
    return "\n".join(lines) + "\n"


class Mosquitto:
    """One broker process, on a port that stays the same over restarts.

    Args:
        directory: For its files.
        users: Who may come in beside the admin; a user's name is its MQTT client id as well.
        acl: See :func:`access_list`.
        options: Further lines of the configuration.
        websockets: Whether the port speaks MQTT over WebSocket.
    """

    def __init__(
        self,
        directory: Path,
        users: Sequence[str],
        acl: str,
        *,
        options: Sequence[str] = (),
        websockets: bool = False,
    ) -> None:
        need_mosquitto()
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.ca = trustme.CA()
        self.ca_file = directory / "ca.pem"
        self.ca.cert_pem.write_to_path(self.ca_file)
        self.port = free_port()
        self.websockets = websockets
        certificate = self.ca.issue_cert(HOST)
        certificate.private_key_and_cert_chain_pem.write_to_path(directory / "server.pem")
        passwords = directory / "passwords"
        passwords.write_text("".join(f"{user}:{password(user).reveal()}\n" for user in (ADMIN, *users)))
        passwords.chmod(0o600)
        assert _PASSWD is not None
        subprocess.run([_PASSWD, "-U", str(passwords)], check=True, capture_output=True)
        (directory / "acl").write_text(acl)
        (directory / "acl").chmod(0o600)
        lines = [
            f"listener {self.port} 127.0.0.1",
            *(["protocol websockets"] if websockets else []),
            f"cafile {self.ca_file}",
            f"certfile {directory / 'server.pem'}",
            f"keyfile {directory / 'server.pem'}",
            "tls_version tlsv1.3",
            f"user {getpass.getuser()}",
            "allow_anonymous false",
            f"password_file {passwords}",
            f"acl_file {directory / 'acl'}",
            "persistence false",
            "set_tcp_nodelay true",
            f"log_dest file {self.log_file}",
            "log_type all",
            *options,
        ]
        (directory / "mosquitto.conf").write_text("\n".join(lines) + "\n")

    @property
    def log_file(self) -> Path:
        return self._directory / "log"

    @property
    def url(self) -> str:
        return f"wss://{HOST}:{self.port}/mqtt" if self.websockets else f"mqtts://{HOST}:{self.port}"

    def context(self) -> ssl.SSLContext:
        """Return a client's TLS context that trusts this broker."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        self.ca.configure_trust(context)
        return context

    def settings(self, user: str, **changes: Any) -> MqttSettings:
        """Return the settings of a user, whose name is its MQTT client id as well."""
        values = {"url": MqttUrl(self.url), "client_id": user, "prefix": PREFIX, "username": user}
        return MqttSettings(**{**values, "ca_file": self.ca_file, **changes}).with_password(password(user))

    async def connect(
        self,
        user: str,
        *,
        url: str | None = None,
        secret: MqttPassword | None = None,
        context: ssl.SSLContext | None = None,
        open_timeout: float = OPEN_TIMEOUT,
        **options: Any,
    ) -> BrokerConnection:
        """Connect as a user; the options are those of :class:`BrokerConnection`."""
        settings = self.settings(user, url=MqttUrl(url or self.url)).with_password(secret or password(user))
        return await BrokerConnection(settings, context or self.context(), **options).open(open_timeout)

    def start(self) -> Mosquitto:
        """Start it, and wait until it listens."""
        assert self._process is None
        assert _EXECUTABLE is not None
        self._process = subprocess.Popen(
            [_EXECUTABLE, "-c", str(self._directory / "mosquitto.conf")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = Deadline(10)
        while True:
            if self._process.poll() is not None:
                text = self.log_file.read_text() if self.log_file.is_file() else "no log"
                raise RuntimeError(f"mosquitto ended with {self._process.returncode}: {text}")
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                assert not deadline.passed(), "mosquitto does not listen"
                time.sleep(0.01)
            else:
                return self

    def kill(self) -> None:
        """End it as a power cut would; nothing where it does not run."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in good order."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.send_signal(signal.SIGCONT)
            process.wait(patience(10))

    def freeze(self) -> None:
        """Let it hold all connections and do nothing. It stands still when this returns."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        state = Path(f"/proc/{self._process.pid}/stat")
        while state.read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.001)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
