"""An MQTT broker for the demonstration: Mosquitto where this machine has it, otherwise rumqttd out of a package."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import importlib.util
import json
import os
import shutil
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final, Self

from s2connect.certs.authority import ServerIdentity
from s2connect.demo.program import end, start
from s2connect.https.server import free_port
from s2connect.service.failures import Failure
from s2connect.store.files import write_private

HOST: Final = "localhost"
PREFIX: Final = "s2"
START_TIMEOUT: Final = 10.0
"""Seconds until it listens."""

_PATH: Final = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
_EMBEDDED: Final = "iotcore"
_MISSING: Final = "Install Mosquitto (Debian: apt-get install mosquitto), or the extra: pip install 's2connect[demo]'."


@dataclass(frozen=True, slots=True, repr=False)
class Account:
    """An account, and the node ids whose sessions it serves; its user name is the MQTT client id as well."""

    password: str
    nodes: tuple[str, ...] = ()


@dataclass(eq=False, repr=False)
class Broker:
    """A broker of its own process on loopback: MQTT 5 over TLS, a password for each account, nothing kept on disk.

    Mosquitto also has the access list of the binding (MQ-03). Use it with ``async with``: the process never survives
    the block.

    Raises:
        Failure: There is neither of the two.
    """

    directory: Path
    """Directory for its files, which only its owner can read."""
    accounts: Mapping[str, Account]
    """By user name."""
    identity: ServerIdentity
    """Certificate for :data:`HOST`."""
    log: Path
    embedded: bool = False
    """Take rumqttd even where there is a Mosquitto."""

    def __post_init__(self) -> None:
        self._port = free_port("127.0.0.1")
        self.url = f"mqtts://{HOST}:{self._port}"
        self._mosquitto = None if self.embedded else mosquitto()
        if self._mosquitto is None and importlib.util.find_spec(_EMBEDDED) is None:
            raise Failure("no_broker", "There is no MQTT broker on this machine.", _MISSING)
        self.title = "a real Mosquitto, that of this machine, with TLS 1.3, passwords and an access list"
        if self._mosquitto is None:
            self.title = f"the embedded rumqttd of {_EMBEDDED} {version(_EMBEDDED)}, with TLS 1.3 and passwords"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start it, on the same port each time, and wait until it listens; a Failure if it does not."""
        self._process = await start(await asyncio.to_thread(self._prepare), self.log)
        try:
            async with asyncio.timeout(START_TIMEOUT):
                while True:
                    with contextlib.suppress(OSError):
                        _, writer = await asyncio.open_connection("127.0.0.1", self._port)
                        writer.close()
                        return
                    if self._process.returncode is not None:
                        raise Failure("broker_ended", "The MQTT broker ended at once.", "See its log: --log-dir DIR")
                    await asyncio.sleep(0.05)
        except BaseException as error:
            await self.stop()
            if isinstance(error, TimeoutError):
                raise Failure("broker_ended", "The MQTT broker does not listen.") from None
            raise

    async def stop(self) -> None:
        """Kill it."""
        await end(self._process, signal.SIGKILL)

    def _prepare(self) -> list[str]:
        """Write its files; returns the command line."""
        write_private(self.directory / "chain.pem", self.identity.chain_pem)
        write_private(self.directory / "key.pem", self.identity.key_pem)
        if self._mosquitto is not None:
            return self._prepare_mosquitto(*self._mosquitto)
        config = self.directory / "rumqttd.toml"
        write_private(config, self._rumqttd().encode())
        return [sys.executable, "-m", _EMBEDDED, "--config", str(config)]

    def _prepare_mosquitto(self, executable: str, passwd: str) -> list[str]:
        import subprocess  # in a thread, before anything runs

        passwords, acl, config = (self.directory / name for name in ("passwords", "acl", "mosquitto.conf"))
        lines = (f"{name}:{account.password}\n" for name, account in self.accounts.items())
        write_private(passwords, "".join(lines).encode())
        subprocess.run([passwd, "-U", str(passwords)], check=True, capture_output=True)  # noqa: S603
        write_private(acl, _access_list(self.accounts).encode())
        settings = f"""\
listener {self._port} 127.0.0.1
certfile {self.directory / "chain.pem"}
keyfile {self.directory / "key.pem"}
tls_version tlsv1.3
user {getpass.getuser()}
allow_anonymous false
password_file {passwords}
acl_file {acl}
persistence false
set_tcp_nodelay true
"""
        write_private(config, settings.encode())
        return [executable, "-c", str(config)]

    def _rumqttd(self) -> str:
        """Return the configuration of rumqttd, which has no access list; its sessions end with connections."""
        users = "".join(f"{json.dumps(name)} = {json.dumps(a.password)}\n" for name, a in self.accounts.items())
        return (
            "id = 0\n"
            "[router]\nid = 0\nmax_connections = 1000\nmax_outgoing_packet_count = 200\n"
            "max_segment_size = 16777216\nmax_segment_count = 4\n"
            f'[v5.1]\nname = "v5-1"\nlisten = "127.0.0.1:{self._port}"\nnext_connection_delay_ms = 1\n'
            f"[v5.1.tls]\ncertpath = {json.dumps(str(self.directory / 'chain.pem'))}\n"
            f"keypath = {json.dumps(str(self.directory / 'key.pem'))}\n"
            "[v5.1.connections]\nconnection_timeout_ms = 10000\nmax_payload_size = 4194304\nmax_inflight_count = 100\n"
            f"[v5.1.connections.auth]\n{users}"
        )


def mosquitto() -> tuple[str, str] | None:
    """Mosquitto and its program for passwords, where this machine has both."""
    executable, passwd = (shutil.which(name, path=_PATH) for name in ("mosquitto", "mosquitto_passwd"))
    return None if executable is None or passwd is None else (executable, passwd)


def _access_list(accounts: Mapping[str, Account]) -> str:
    """Return the access list: servers have the topics of their nodes, clients what the binding gives them (MQ-03)."""
    lines = []
    for name, account in accounts.items():
        if account.nodes:
            lines += [f"user {name}", *(f"topic readwrite {PREFIX}/s2/0/{node}/#" for node in account.nodes)]
            lines.append(f"topic read {PREFIX}/s2/0/presence/+")
    lines += [
        f"pattern write {PREFIX}/s2/0/+/open",
        f"pattern readwrite {PREFIX}/s2/0/+/%u/#",
        f"pattern write {PREFIX}/s2/0/presence/%u",
    ]
    return "\n".join(lines) + "\n"
