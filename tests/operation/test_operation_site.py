"""The Compose file of a site, run by a container engine: it outlives an instance, and the primary of its database."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from tests.command import Running, make_home
from tests.documents.blocks import SHELL, TEXT, blocks
from tests.engine import Engine
from tests.operation.test_operation_engine import (
    CONTAINERS,
    MOSQUITTO,
    PYTHON,
    PYTHON_PACKAGES,
    ROOT,
    engine,
    source,
)
from tests.postgresql import _programs, need_postgresql
from tests.service.test_service_record import MEASUREMENT
from tests.waits import Deadline

__all__ = ["engine", "source"]

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

HOST = "localhost"
HAPROXY = "docker.io/library/haproxy:2.8"
POSTGRESQL = "docker.io/library/postgres:17"
SITE = ROOT / "examples" / "cluster"
STORE = "postgresql://s2@postgresql-a,postgresql-b/s2"
NODE = "5b8ae1a5-5a9c-4f3a-8a53-0f5a6e6f6c11"


class Site:
    """The site as its document makes it, with a device in the network of the engine."""

    def __init__(self, engine: Engine, source: Path, place: Path) -> None:
        self.engine = engine
        self.place = place
        self._files()
        found = [block.code for block in blocks(ROOT / "docs" / "howto" / "balancer.md") if block.language == SHELL]
        self.secrets, steps = (next(code for code in found if word in code) for word in ("s2connect.env", "store mig"))
        self.steps = [line for line in steps.replace("docker compose", "podman-compose").splitlines() if line]
        self.promote = next(code for code in found if "pg_promote" in code).replace("docker compose", "podman-compose")
        self.run("sh", "-ec", self.secrets)
        proxy = place / "haproxy.cfg"
        proxy.write_text(proxy.read_text("utf-8").replace("s2.example.com", HOST))
        self._bases(source)

    def _bases(self, source: Path) -> None:
        programs = _programs()
        assert programs is not None
        version = programs.parent.name
        self.engine.base(PYTHON, PYTHON_PACKAGES)
        self.engine.build("localhost/s2connect", source, CONTAINERS / "Dockerfile")
        path = f"ENV PATH={programs}:/usr/sbin:/usr/bin:/sbin:/bin"
        self.engine.base("localhost/postgresql", [f"postgresql-{version}", f"postgresql-client-{version}"], path)
        (source / "Dockerfile").write_text(
            "FROM localhost/postgresql\n"
            "RUN echo postgres:x:999:999::/:/bin/sh >>/etc/passwd && echo postgres:x:999: >>/etc/group \\\n"
            " && install -d -o 999 -g 999 -m 700 /var/lib/postgresql/data\n"
        )
        self.engine.build(POSTGRESQL, source, source / "Dockerfile")
        haproxy = 'CMD ["/usr/sbin/haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]'
        self.engine.base(HAPROXY, ["haproxy"], haproxy)
        mosquitto = 'CMD ["/usr/sbin/mosquitto", "-c", "/mosquitto/config/mosquitto.conf"]'
        self.engine.base(MOSQUITTO, ["mosquitto"], mosquitto)

    def _files(self) -> None:
        """Make the files that the document asks for."""
        for name in ("s2connect", "mosquitto"):
            (self.place / name).mkdir()
        compose: dict[str, Any] = yaml.safe_load((SITE / "compose.yaml").read_text("utf-8"))
        del compose["services"]["s2connect-a"]["build"]  # it was built already
        (self.place / "compose.yaml").write_text(yaml.safe_dump(compose))
        shutil.copy(SITE / "node.sh", self.place)
        shutil.copytree(ROOT / "examples" / "balancer", self.place.parent / "balancer")
        ca = trustme.CA()
        leaf = ca.issue_cert(HOST)
        ca.cert_pem.write_to_path(self.place / "ca.pem")
        settings = self.place / "s2connect"
        (settings / "chain.pem").write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
        leaf.private_key_pem.write_to_path(settings / "key.pem")
        (settings / "key.pem").chmod(0o600)
        found = list(blocks(ROOT / "docs" / "howto" / "mosquitto.md"))
        certificate, passwords, *_ = (block.code for block in found if block.language == SHELL)
        access_list, configuration = (block.code for block in found if block.language == TEXT)
        broker = self.place / "mosquitto"
        passwords = passwords.replace("house energy-cloud", "cloud-a cloud-b").replace(
            "openssl rand -hex 24", "echo pw"
        )
        for commands in (certificate.replace("broker.local", "mosquitto"), passwords):
            self.run("sh", "-ec", commands.replace("/etc/mosquitto/s2", str(broker)))
        lines = "".join(f"user cloud-{name}\ntopic readwrite s2/s2/0/{NODE}/#\n" for name in "ab")
        (broker / "acl").write_text(access_list.partition("# each server")[0] + lines)
        (broker / "s2.conf").write_text(configuration)
        for file in ("ca.pem", "cloud-a.password"):  # the passwords of both are alike
            shutil.copy(broker / file, settings / f"broker.{file}")
        (settings / "config.json").write_text(
            json.dumps(
                {
                    "deployment": "WAN",
                    "host": HOST,
                    "port": 443,
                    "listen_port": 8443,
                    "balancers": ["192.0.2.10"],
                    "metrics": {"port": 9464, "bind": "*"},
                    "page": {"enabled": False},
                    "certificate": "/etc/s2connect/chain.pem",
                    "private_key": "/etc/s2connect/key.pem",
                    "nodes": [{"id": NODE, "role": "CEM", "communication_protocols": ["WebSocket", "X-MQTT5-0"]}],
                    "store": STORE,
                    "mqtt": {
                        "url": "mqtts://mosquitto:8883",
                        "client_id": "cloud-{instance}",
                        "username": "cloud-{instance}",
                        "password_file": "/etc/s2connect/broker.cloud-a.password",
                        "ca_file": "/etc/s2connect/broker.ca.pem",
                    },
                }
            )
        )

    def run(self, *command: str, check: bool = True, timeout: float = 120) -> str:
        return self.engine.run(*command, check=check, cwd=self.place, timeout=timeout)

    def name(self, service: str) -> str:
        """Return the name of the container of a service."""
        names = self.engine.podman("ps", "--all", "--format", "{{.Names}}").split()
        return next(name for name in names if name.endswith((f"_{service}_1", f"-{service}-1")))

    def crash(self, service: str) -> None:
        """End the program of a container, which is started again."""
        os.kill(int(self.engine.podman("inspect", "--format", "{{.State.Pid}}", self.name(service))), signal.SIGKILL)

    def lose_primary(self) -> None:
        """End the first node of the database as a power cut does, for good, and make the other one the primary."""
        self.engine.podman("stop", "--time", "0", self.name("postgresql-a"))
        self.run("sh", "-ec", self.promote)

    def renew_node(self) -> None:
        """Start the first node anew without its data, and wait until the other one commits with it."""
        volume = next(name for name in self.engine.podman("volume", "ls", "-q").split() if name.endswith("_a"))
        mounted = self.engine.podman("volume", "inspect", "--format", "{{.Mountpoint}}", volume).strip()
        shutil.rmtree(Path(mounted) / "node")
        self.engine.podman("start", self.name("postgresql-a"))
        ask = "psql -h /tmp -U postgres -Atqc 'SELECT sync_state FROM pg_stat_replication'"
        self.engine.wait(f"podman exec {self.name('postgresql-b')} {ask} 2>&1", until="quorum", timeout=60)

    def start(self) -> None:
        """Do the steps of the document; where people wait, until each is done."""
        _, database, migrate, everything, code = self.steps
        self.run("sh", "-ec", database)
        self.engine.wait(f"cd {self.place} && {migrate} && echo migrated", until="migrated", timeout=90)
        self.run("sh", "-ec", everything)
        self.until_ready("s2connect-a", "s2connect-b")
        for service in ("s2connect-a", "s2connect-b"):
            self.engine.podman("healthcheck", "run", self.name(service))
        self.show_code = code

    def until_ready(self, *services: str) -> None:
        """Wait until instances answer their checks."""
        ask = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9464/readyz', timeout=4).status)"
        for service in services:
            self.engine.wait(f'podman exec {self.name(service)} python -c "{ask}" 2>&1', until="200", timeout=60)

    def owner(self) -> str:
        """Return the instance that has the session of the device, once there is one."""
        command = ["s2connect", "cluster", "status", "--json", "--store", STORE]
        deadline = Deadline(40)
        while not (owned := json.loads(self.run("podman", "exec", self.name("s2connect-a"), *command))["owned"]):
            assert not deadline.passed()
            time.sleep(0.5)
        (owner,) = owned
        return str(owner)

    def down(self) -> None:
        self.run("podman-compose", "down", "--volumes", "--timeout", "2", check=False)


@pytest.fixture
def site(engine: Engine, source: Path, tmp_path: Path) -> Iterator[Site]:
    need_postgresql()
    place = tmp_path / "site" / "cluster"
    place.mkdir(parents=True)
    made = Site(engine, source, place)
    try:
        made.start()
        yield made
    finally:
        made.down()


def sends(device: Running) -> None:
    """Send until it is acknowledged, in whatever session there is."""
    deadline = Deadline(60)
    while True:
        device.command("status")  # and whatever it has written before
        opened = [event for event in device.events if event["event"] == "session_opened"]
        if opened:
            sent = device.command("send", session=opened[-1]["session"], message=MEASUREMENT)
            if sent["ok"]:
                return
        assert not deadline.passed(), device.lines[-10:]
        time.sleep(0.5)


def test_a_site_outlives_an_instance_and_the_primary_of_its_database(site: Site, tmp_path: Path) -> None:
    home = make_home(tmp_path / "device", "rm", "--trust-anchors", str(site.place / "ca.pem"))
    device = Running(home, "--no-code", prefix=site.engine.enter)
    try:
        device.event("ready")
        shown = re.search("([0-9A-Z]{4} ){2}[0-9A-Z]{4}", site.run("sh", "-ec", site.show_code))
        assert shown is not None
        code = shown[0].replace(" ", "")
        paired = device.command("pair", url=f"https://{HOST}/pairing/", code=code)
        assert paired["ok"], str(paired)
        sends(device)
        site.crash(f"s2connect-{site.owner()}")
        sends(device)
        site.until_ready("s2connect-a", "s2connect-b")
        site.lose_primary()
        sends(device)  # the session goes on
        site.renew_node()
        site.until_ready("s2connect-a", "s2connect-b")
        site.crash(f"s2connect-{site.owner()}")
        sends(device)
    finally:
        device.kill()
