"""A real cluster of two Apache ActiveMQ Artemis nodes for tests, made by ``examples/broker-cluster/make-node``.

MQTT 5 over TLS 1.3 on loopback, with certificates of the test, and 200 MB of memory for each node. It takes some ten
seconds to start, so a cluster serves a whole module.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trustme

from s2connect.errors import S2ConnectError
from s2connect.https.server import free_port
from s2connect.model.url import MqttUrl
from s2connect.transports.mqtt.broker import BrokerConnection
from s2connect.transports.mqtt.frames import PLAIN_CONTROL, Packet
from s2connect.transports.mqtt.parameters import MqttPassword
from s2connect.transports.mqtt.receiver import TopicHandler
from s2connect.transports.mqtt.settings import MqttSettings
from s2connect.transports.mqtt.transport import MqttTransport
from tests.waits import Deadline, at_most, patience, within

HOST = "localhost"
MAKE_NODE = Path(__file__).parent.parent / "examples" / "broker-cluster" / "make-node"
PROBES = ("probe-0", "probe-1")
"""Users that look whether messages cross the nodes."""

_MAVEN = Path.home() / ".m2" / "repository" / "org" / "apache" / "activemq" / "apache-artemis"
_FETCH = "mvn dependency:get -Dartifact=org.apache.activemq:apache-artemis:2.40.0:zip:bin -Dtransitive=false"
_OLDEST_JAVA = 17
_HEAP_MB = 200


def need_artemis() -> Path:
    """Return the archive of Artemis; skip the test where it, or a Java that runs it, is missing."""
    if sys.platform != "linux":
        pytest.skip("the script that makes a node is for Linux")
    if shutil.which("java") is None:
        pytest.skip("Java is not installed (Debian: apt-get install default-jre-headless)")
    told = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', told)
    if version is None or int(version[1]) < _OLDEST_JAVA:
        pytest.skip(f"Artemis needs Java {_OLDEST_JAVA}")
    archives = sorted(_MAVEN.glob("2.40.*/apache-artemis-*-bin.zip"))
    if not archives:
        pytest.skip(f"Artemis is not on this machine ({_FETCH})")
    return archives[-1]


def password(user: str) -> MqttPassword:
    """Return the password of a user of the cluster."""
    return MqttPassword(f"password-of-{user}")


def _noting(arrived: asyncio.Event) -> TopicHandler:
    def note(_: Packet) -> None:
        arrived.set()

    return TopicHandler(note)


class Link:
    """Way to the cluster's port of one node, on a port of its own.

    Attributes:
        port: Its port.
        is_open: While it is not set nothing passes in either direction, and nothing is closed, as on a network that
            drops all.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self.is_open = threading.Event()
        self.is_open.set()
        self._sockets = [self._server]
        self._begin(self._accept)

    def _begin(self, work: Callable[..., None], *arguments: socket.socket) -> None:
        threading.Thread(target=work, args=arguments, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._target), timeout=10)
                except OSError:  # the node does not run
                    near.close()
                    continue
                far.settimeout(None)
                self._sockets += (near, far)
                self._begin(self._pass, near, far)
                self._begin(self._pass, far, near)

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.is_open.wait()
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End all connections."""
        self.is_open.set()
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


class ArtemisCluster:
    """Two nodes, on ports that stay the same over restarts.

    Args:
        directory: For its files.
        users: Who may come in; a user's name is its MQTT client id as well.
        with_links: Lead the connections between the nodes over links, which can be cut.

    Attributes:
        links: Links to the nodes.
    """

    def __init__(self, directory: Path, users: Sequence[str], *, with_links: bool = False) -> None:
        archive = need_artemis()
        self._directory = directory
        self._users = (*users, *PROBES)
        self._processes: list[subprocess.Popen[bytes] | None] = [None, None]
        self.ca = trustme.CA()
        self.ca_file = directory / "ca.pem"
        self.ca.cert_pem.write_to_path(self.ca_file)
        self.ports = [free_port(), free_port()]
        self._cluster_ports = [free_port(), free_port()]
        self.links = [Link(port) for port in self._cluster_ports if with_links]
        with zipfile.ZipFile(archive) as content:
            needed = [name for name in content.namelist() if re.search(r"^[^/]+/(bin|lib|etc|schema)/", name)]
            content.extractall(directory, needed)
        (self._program,) = directory.glob("apache-artemis-*/")
        (self._program / "bin" / "artemis").chmod(0o755)
        with ThreadPoolExecutor() as threads:
            list(threads.map(self._make, range(2)))

    def _make(self, number: int) -> None:
        secrets = self._directory / f"secrets-{number}"
        secrets.mkdir()
        self.ca.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(secrets / "node.pem")
        self.ca.cert_pem.write_to_path(secrets / "ca.pem")
        (secrets / "cluster.password").write_text("password-of-the-cluster\n")
        lines = (f"{user} = {password(user).reveal()}\n" for user in self._users)
        (secrets / "users").write_text("".join(lines))
        environment = {
            "ARTEMIS": str(self._program),
            "PORT": str(self.ports[number]),
            "CLUSTER_PORT": str(self._cluster_ports[number]),
            "BIND": "127.0.0.1",
            "HEAP_MB": str(_HEAP_MB),
        }
        other = f"{HOST}:{self._cluster_ports[1 - number]}"
        made = subprocess.run(
            [str(MAKE_NODE), str(self._place(number)), f"node-{number}", HOST, str(secrets), other],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=patience(60),
        )
        assert made.returncode == 0, made.stderr + made.stdout
        file = self._place(number) / "etc" / "broker.xml"
        text = file.read_text()
        for port, link in zip(self._cluster_ports, self.links, strict=False):  # what a node says of itself, too
            text = text.replace(f"tcp://{HOST}:{port}", f"tcp://{HOST}:{link.port}")
        file.write_text(text)

    def _place(self, number: int) -> Path:
        return self._directory / f"node-{number}"

    def log(self, number: int) -> str:
        """Return the log of a node."""
        return (self._place(number) / "log" / "artemis.log").read_text()

    def url(self, number: int) -> MqttUrl:
        """Return the URL of a node."""
        return MqttUrl(f"mqtts://{HOST}:{self.ports[number]}")

    def number(self, url: MqttUrl) -> int:
        """Return the number of the node of a URL."""
        return self.ports.index(url.port)

    def at(self, transport: MqttTransport) -> int:
        """Return the number of the node that a transport is connected to."""
        assert transport.client is not None
        return self.number(transport.client.nodes.current)

    def settings(self, user: str, *order: int, **changes: Any) -> MqttSettings:
        """Return the settings of a user, whose name is its MQTT client id as well, for these nodes; else for both."""
        urls = tuple(self.url(number) for number in order or (0, 1))
        values = {"url": urls[0], "urls": urls, "client_id": user, "username": user, "ca_file": self.ca_file}
        return MqttSettings(**{**values, **changes}).with_password(password(user))

    def start(self) -> None:
        """Start what does not run, at once; wait until it listens."""
        numbers = [number for number, process in enumerate(self._processes) if process is None]
        for number in numbers:
            self._processes[number] = subprocess.Popen(
                [str(self._place(number) / "bin" / "artemis"), "run"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        deadline = Deadline(40)
        for number in numbers:
            while True:
                process = self._processes[number]
                assert process is not None
                assert process.poll() is None, f"node {number} ended: {self.log(number)}"
                assert not deadline.passed(), f"node {number} does not listen: {self.log(number)}"
                try:
                    socket.create_connection(("127.0.0.1", self.ports[number]), timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.1)

    def kill(self, number: int) -> None:
        """End a node as a power cut would; nothing where it does not run."""
        process, self._processes[number] = self._processes[number], None
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait(patience(10))

    def signal(self, number: int, which: signal.Signals) -> None:
        """Send a signal to the Java process of a node: SIGSTOP makes it silent."""
        process = self._processes[number]
        assert process is not None
        process.send_signal(which)

    def freeze(self, number: int) -> None:
        """Let a node stand still."""
        process = self._processes[number]
        assert process is not None
        process.send_signal(signal.SIGSTOP)

    def thaw(self, number: int) -> None:
        """Let a node go on."""
        process = self._processes[number]
        assert process is not None
        process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End both nodes, and remove the program; the logs stay."""
        for number in (0, 1):
            self.kill(number)
        for link in self.links:
            link.close()
        shutil.rmtree(self._program)

    async def formed(self) -> None:
        """Wait until messages cross the nodes in both directions."""
        async with within(40), contextlib.AsyncExitStack() as stack:
            probes = [await stack.enter_async_context(self.connect(user, n)) for n, user in enumerate(PROBES)]
            for here, there in (probes, reversed(probes)):
                arrived = asyncio.Event()
                topic = f"s2/s2/0/probe/{os.urandom(4).hex()}"
                there.set_handler(topic, _noting(arrived))
                await there.subscribe(topic)
                while not arrived.is_set():
                    await here.publish(Packet(topic, b"{}", PLAIN_CONTROL))
                    async with at_most(0.1):
                        await arrived.wait()

    @contextlib.asynccontextmanager
    async def connect(self, user: str, number: int) -> AsyncIterator[BrokerConnection]:
        """Connect to one node, as soon as it takes connections."""
        settings = self.settings(user, number)
        while True:
            connection = BrokerConnection(settings, settings.context())
            with contextlib.suppress(S2ConnectError):
                await connection.open()
                break
            await asyncio.sleep(0.1)
        try:
            yield connection
        finally:
            await connection.close()
