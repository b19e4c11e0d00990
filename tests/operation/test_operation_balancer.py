"""Two instances of one endpoint behind HAProxy, with the files of examples/balancer as they are in the repository."""

from __future__ import annotations

import base64
import contextlib
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

pytest.importorskip("psycopg")

from s2connect import EndpointConfig, NodeConfig, Role, create_home
from s2connect.https.server import free_port
from s2connect.store.postgresql.sealing import KEY_VARIABLE
from tests.command import Running, make_home
from tests.haproxy import EXAMPLES, HAProxy, need_haproxy
from tests.postgresql import STORE_KEYS
from tests.service.test_service_record import MEASUREMENT
from tests.waits import Deadline, patience

BALANCER = EXAMPLES / "balancer"
HOST = "localhost"
PIPELINED = 50


class Site:
    """Two instances behind HAProxy, and devices that come to it.

    Attributes:
        instances: The two, by name.
    """

    def __init__(self, directory: Path, store: str, stack: contextlib.ExitStack, *, tls: str) -> None:
        self.directory = directory
        self.port = free_port()
        ca = trustme.CA()
        leaf = ca.issue_cert(HOST, "a.i.localhost", "b.i.localhost")
        self.anchors, chain, key, both = (directory / name for name in ("ca.pem", "chain.pem", "key.pem", "both.pem"))
        ca.cert_pem.write_to_path(self.anchors)
        chain.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        key.write_bytes(leaf.private_key_pem.bytes())
        both.write_bytes(leaf.private_key_and_cert_chain_pem.bytes())
        self.context = ssl.create_default_context(cafile=self.anchors)
        node = NodeConfig(role=Role.CEM)
        self.instances: dict[str, Running] = {}
        self.ports: dict[str, tuple[int, int]] = {}
        self._stack = stack
        for name in ("a", "b"):
            self.ports[name] = free_port(), free_port()
            listens, metrics = self.ports[name]
            settings: dict[str, Any] = {
                "deployment": "WAN",
                "host": HOST,
                "port": self.port,
                "bind": "127.0.0.1",
                "listen_port": listens,
                "balancers": ["127.0.0.1"],
                "nodes": [node.model_dump(mode="json")],
                "store": store,
                "instance": name,
                "metrics": {"port": metrics, "bind": "127.0.0.1"},
                "vault": "files",
            }
            settings |= (
                {"certificate": str(chain), "private_key": str(key), "balancers_only": True}
                if tls == "own"
                else {"tls": tls}
            )
            create_home(directory / name, EndpointConfig.model_validate(settings))
            self.start(name)
        replaced = {
            f"192.0.2.1{number}:8443": f"127.0.0.1:{self.ports[name][0]}" for number, name in ((1, "a"), (2, "b"))
        }
        self._replaced = replaced | {"0.0.0.0:443": f"127.0.0.1:{self.port}", "s2.example.com": HOST}
        self._both = both

    def start(self, name: str) -> None:
        running = Running(self.directory / name, "--no-code")
        self._stack.callback(running.kill)
        self.instances[name] = running

    def balance(self, file: Path) -> HAProxy:
        """Start HAProxy, and wait until it has both instances."""
        for running in self.instances.values():
            running.event("ready")
        text = file.read_text("utf-8")
        replaced = {before: after for before, after in self._replaced.items() if before in text}
        # The checks of both go to a port of one number, on machines that differ; here they are one machine.
        for number, name in ((1, "a"), (2, "b")):
            where = replaced[f"192.0.2.1{number}:8443"]
            replaced[f"192.0.2.1{number}:8443\n"] = f"{where} port {self.ports[name][1]}\n"
        if "/etc/haproxy/s2.pem" in text:
            replaced["/etc/haproxy/s2.pem"] = str(self._both)
        ordered = dict(sorted(replaced.items(), key=lambda item: -len(item[0])))
        self.proxy = HAProxy(file, self.directory, ordered)
        self._stack.callback(self.proxy.close)
        return self.proxy

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.port}/pairing/"

    def ask(self, source: str, request: bytes, *, name: str = HOST, times: int = 1) -> list[int]:
        """Send a request from an address, again and again on one connection; return the statuses."""
        found = []
        # Wrapped before it connects: Python leaves a socket open that is reset between connecting and wrapping.
        with self.context.wrap_socket(socket.socket(), server_hostname=name) as tls:
            tls.settimeout(patience(10))
            tls.bind((source, 0))
            tls.connect(("127.0.0.1", self.port))
            with tls.makefile("rb") as reader:
                for number in range(times):
                    if number % PIPELINED == 0:
                        tls.sendall(request * min(PIPELINED, times - number))
                    found.append(int(reader.readline().split()[1]))
                    while reader.readline().strip():
                        pass
        return found

    def until_served(self) -> None:
        """Wait until a request is answered."""
        deadline = Deadline(20)
        while True:
            with contextlib.suppress(OSError, IndexError):
                if self.ask("127.0.0.4", GET) == [200]:
                    return
            assert self.proxy.process.poll() is None, self.proxy.log.read_text()
            assert not deadline.passed(), self.proxy.log.read_text()
            time.sleep(0.1)

    def serving(self) -> Running:
        """Wait until an instance has a session, and return it."""
        deadline = Deadline(20)
        while True:
            for running in self.instances.values():
                running.command("status")  # and whatever it has written before
                if any('"session_opened"' in line for line in running.lines):
                    return running
            assert not deadline.passed()

    def device(self, name: str) -> Running:
        """Start a device."""
        home = make_home(self.directory / name, "rm", "--trust-anchors", str(self.anchors))
        running = Running(home, "--no-code")
        self._stack.callback(running.kill)
        running.event("ready")
        return running


@pytest.fixture
def site(tmp_path: Path, postgresql: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Site]]:
    monkeypatch.setenv(KEY_VARIABLE, base64.b64encode(STORE_KEYS[0]).decode())
    with contextlib.ExitStack() as stack:
        yield lambda **more: Site(tmp_path, postgresql, stack, **more)


@pytest.mark.parametrize("file", sorted(BALANCER.glob("*.cfg")), ids=lambda file: file.stem)
def test_haproxy_takes_the_files(file: Path, tmp_path: Path) -> None:
    pem = tmp_path / "s2.pem"
    trustme.CA().issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(pem)
    copy = tmp_path / file.name
    copy.write_text(file.read_text("utf-8").replace("/etc/haproxy/s2.pem", str(pem)), "utf-8")
    checked = subprocess.run([need_haproxy(), "-c", "-f", str(copy)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert "WARNING" not in checked.stderr


GET = b"GET /pairing/ HTTP/1.1\r\nHost: x\r\n\r\n"
REFUSED = b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
OLD = b"POST /pairing/requestPairing HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.long
@pytest.mark.parametrize(
    ("file", "tls"), [("haproxy-passthrough.cfg", "own"), ("haproxy-tls.cfg", "balancer")], ids=["own", "balancer"]
)
def test_a_device_pairs_and_keeps_its_session_while_instances_come_and_go(
    site: Callable[..., Site], file: str, tls: str
) -> None:
    here = site(tls=tls)
    here.balance(BALANCER / file)
    here.until_served()
    a, b = here.instances.values()
    for source, name in (("127.0.0.5", "a.i.localhost"), ("127.0.0.6", "b.i.localhost")):
        assert here.ask(source, OLD, name=name) == [400]

    device = here.device("device")
    code = b.command("code")["code"]
    paired = device.command("pair", url=here.url, code=code)
    assert paired["ok"], paired
    serving = here.serving()
    exchange(device, serving)

    serving.kill()  # nobody is told: what it had is cut
    other = b if serving is a else a
    exchange(device, other)

    name = next(name for name, running in here.instances.items() if running is serving)
    before = here.proxy.wait_for(f"instances/{name} is DOWN")
    here.start(name)
    here.instances[name].event("ready")
    here.proxy.wait_for(f"instances/{name} is UP", after=before)
    other.process.send_signal(signal.SIGTERM)  # it drains: it gets nothing new, then the device is asked to come anew
    here.proxy.wait_for(f"instances/{'b' if name == 'a' else 'a'} is DOWN")
    assert other.process.poll() is None
    exchange(device, here.instances[name])
    assert other.ended(60) == 0
    device.kill()
    for running, source in ((a, "127.0.0.5"), (b, "127.0.0.6")):
        assert f"{source} asks for /pairing/requestPairing without" in running.errors


def exchange(device: Running, serving: Running) -> None:
    """Wait until both have the session, and send a message each way."""
    at_instance = serving.event("session_opened")["session"]
    at_device = device.event("session_opened")["session"]
    sent = device.command("send", session=at_device, message=MEASUREMENT)
    assert sent["ok"], sent
    serving.event("message", session=at_instance)


@pytest.mark.long
@pytest.mark.parametrize(
    ("file", "tls"), [("haproxy-passthrough.cfg", "own"), ("haproxy-tls.cfg", "balancer")], ids=["own", "balancer"]
)
def test_limits_count_by_the_address_of_the_client(site: Callable[..., Site], file: str, tls: str) -> None:
    here = site(tls=tls)
    here.balance(BALANCER / file)
    here.until_served()
    flooding = here.ask("127.0.0.7", REFUSED, name="a.i.localhost", times=1500)
    assert flooding[:100] == [404] * 100
    assert 429 in flooding, "not necessarily the last: what an address may do grows meanwhile"
    assert here.ask("127.0.0.8", GET, name="a.i.localhost") == [200]
    assert here.ask("127.0.0.7", GET, name="b.i.localhost") == [200], "each instance has limits of its own"

    def connects() -> bool:
        try:
            return here.ask("127.0.0.9", GET) == [200]
        except (OSError, IndexError):
            return False

    assert connects()
    for _ in range(3000):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", here.port), patience(10), ("127.0.0.9", 0)).close()
    assert not connects(), "that of HAProxy counts for all instances"
    assert here.ask("127.0.0.10", GET) == [200]
