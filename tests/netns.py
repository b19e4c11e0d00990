"""Networks of their own for a test: namespaces, a bridge, hosts with addresses, and a router to a second network.

Everything is made in namespaces, nothing is sent elsewhere, and everything is gone afterwards. The names are unique,
so that tests may run side by side. Debian's iproute2 makes them; root (or CAP_SYS_ADMIN) is needed.

::

    with Lan(hosts=3) as lan:
        lan.hosts[0].run("ip", "addr")
        process = lan.hosts[1].start_python("print('hello')")
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from tests.waits import Deadline, patience

ROOT = Path(__file__).resolve().parent.parent

_numbers = itertools.count(1)


def require_netns() -> None:
    """Skip the test, with the reason, where no network namespaces can be made; in CI fail instead."""
    reason = _missing()
    if reason is None:
        return
    if os.environ.get("CI"):
        pytest.fail(f"network namespaces are needed in CI: {reason}")
    pytest.skip(f"needs network namespaces: {reason}")


@functools.cache
def _missing() -> str | None:
    if shutil.which("ip") is None:
        return "there is no `ip` command (Debian: iproute2)"
    name = f"s2probe{secrets.token_hex(3)}"
    try:
        made = _ip("netns", "add", name, check=False)
        if made.returncode != 0:
            return f"`ip netns add` is not allowed ({made.stderr.strip()})"
        pair = _ip("-n", name, "link", "add", "probe0", "type", "veth", "peer", "name", "probe1", check=False)
        bridge = _ip("-n", name, "link", "add", "probe2", "type", "bridge", check=False)
        for result in (pair, bridge):
            if result.returncode != 0:
                return f"the kernel makes no veth or bridge ({result.stderr.strip()})"
        return None
    finally:
        _ip("netns", "delete", name, check=False)


def _ip(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=patience(20), check=False)
    if check and result.returncode != 0:
        raise RuntimeError(f"ip {' '.join(arguments)}: {result.stderr.strip()}")
    return result


class Host:
    """One machine: a namespace with an interface ``eth0``.

    Attributes:
        name: Name of the namespace.
        addresses: Its addresses with prefix lengths, as they were given.
    """

    def __init__(self, name: str, lan: Lan) -> None:
        self.name = name
        self.addresses: list[str] = []
        self._lan = lan

    def ip(self, *arguments: str) -> str:
        """Run ``ip`` in this host."""
        return _ip("-n", self.name, *arguments).stdout

    def run(self, *command: str, timeout: float = 30, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; with ``check`` a failure raises with what it said."""
        result = subprocess.run(
            ["ip", "netns", "exec", self.name, *command],
            capture_output=True,
            text=True,
            timeout=patience(timeout),
            check=False,
            cwd=ROOT,
            env=_environment(),
        )
        if check and result.returncode != 0:
            raise RuntimeError(f"{command[0]} failed ({result.returncode}):\n{result.stdout}\n{result.stderr}")
        return result

    def python(self, code: str, *arguments: str, timeout: float = 30) -> str:
        """Run Python source to its end and return what it printed."""
        return self.run(sys.executable, "-W", "error", "-c", textwrap.dedent(code), *arguments, timeout=timeout).stdout

    def start(self, *command: str, **options: Any) -> Process:
        """Start a command in the background; it is ended with the network at the latest."""
        process = Process(["ip", "netns", "exec", self.name, *command], options)
        self._lan.ending.callback(process.stop)
        return process

    def start_python(self, code: str, *arguments: str) -> Process:
        """Start Python source in the background."""
        return self.start(sys.executable, "-u", "-W", "error", "-c", textwrap.dedent(code), *arguments)

    def add_address(self, address: str) -> None:
        """Give ``eth0`` an address such as ``10.0.0.5/24``; IPv6 is usable at once."""
        self.ip("addr", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))
        self.addresses.append(address)

    def remove_address(self, address: str) -> None:
        """Take an address away."""
        self.ip("addr", "delete", address, "dev", "eth0")
        self.addresses.remove(address)

    def change_address(self, old: str, new: str) -> None:
        """Replace an address, as a new lease does."""
        self.remove_address(old)
        self.add_address(new)

    def unplug(self) -> None:
        """Pull the cable: the carrier goes, the addresses stay."""
        _ip("-n", self._lan.switch, "link", "set", self._port, "down")

    def plug(self) -> None:
        """Put the cable back."""
        _ip("-n", self._lan.switch, "link", "set", self._port, "up")

    @property
    def _port(self) -> str:
        return f"p{self.name.rpartition('-')[2]}"


class Process:
    """A command in the background whose output is read line by line."""

    def __init__(self, command: list[str], options: dict[str, Any]) -> None:
        environment = _environment() | options.pop("env", {})
        # A file and no pipe: whoever writes much must not wait until the test reads.
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # closed by stop()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=environment,
            start_new_session=True,
            **options,
        )
        self._offset = 0
        self._buffer = b""
        self._position = 0
        self.lines: list[str] = []

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def wait_for(self, wanted: str | Callable[[str], bool], timeout: float = 20) -> str:
        """Wait for a line that contains a text, or for which a function is true, after those returned before."""
        found = wanted if callable(wanted) else lambda line: wanted in line
        deadline = Deadline(timeout)
        while True:
            ended = self._process.poll() is not None
            self._read()
            while self._position < len(self.lines):
                line = self.lines[self._position]
                self._position += 1
                if found(line):
                    return line
            if ended:
                raise AssertionError(
                    f"ended ({self._process.returncode}) without {wanted!r}:\n" + "\n".join(self.lines)
                )
            if deadline.passed():
                raise AssertionError(f"not within {timeout} s: {wanted!r}:\n" + "\n".join(self.lines))
            time.sleep(0.02)

    def say(self, line: str) -> None:
        """Write a line to its input."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()

    def end_input(self, timeout: float = 10) -> None:
        """Close its input and wait until it has ended by itself."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(patience(timeout))
        self._read()

    def kill(self) -> None:
        """End it at once, as a power cut does."""
        self._process.kill()
        self.stop()

    def stop(self) -> None:
        """End it; idempotent."""
        if self._output.closed:
            return
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(patience(5))
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(patience(5))
        self._read()
        self._output.close()

    def _read(self) -> None:
        while not self._output.closed and (data := os.pread(self._output.fileno(), 1 << 20, self._offset)):
            self._offset += len(data)
            self._buffer += data
        *whole, self._buffer = self._buffer.split(b"\n")
        self.lines += [line.decode("utf-8", "replace") for line in whole]


class Lan:
    """A local network for the time of a ``with`` block.

    Host number n has 10.77.1.n/24 and fd77:1::n/64, and link-local addresses where there is IPv6.

    Args:
        hosts: How many machines.
        ipv4: Whether they have IPv4 addresses.
        ipv6: Whether they have IPv6 addresses; without it the kernel's IPv6 is off.
        far_hosts: How many machines in a second network behind a router (10.77.2.n, fd77:2::n); multicast does not
            get there.
    """

    def __init__(self, hosts: int = 2, *, ipv4: bool = True, ipv6: bool = True, far_hosts: int = 0) -> None:
        self._prefix = f"s2-{os.getpid()}-{next(_numbers)}-{secrets.token_hex(2)}"
        self._ipv4, self._ipv6 = ipv4, ipv6
        self._counts = (hosts, far_hosts)
        self.ending = contextlib.ExitStack()
        self.hosts: list[Host] = []
        self.far_hosts: list[Host] = []
        self.switch = f"{self._prefix}-switch"

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as building:
            building.callback(self._clean_up)
            self._build()
            building.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._clean_up()

    def _clean_up(self) -> None:
        self.ending.close()

    def _namespace(self, name: str) -> str:
        _ip("netns", "add", name)
        self.ending.callback(_delete, name)
        for setting in ("all", "default"):
            self._sysctl(name, f"net/ipv6/conf/{setting}/disable_ipv6", "0" if self._ipv6 else "1")
            # Duplicate address detection takes seconds and there are no duplicates here.
            self._sysctl(name, f"net/ipv6/conf/{setting}/accept_dad", "0")
            self._sysctl(name, f"net/ipv6/conf/{setting}/accept_ra", "0")
        _ip("-n", name, "link", "set", "lo", "up")
        return name

    def _sysctl(self, namespace: str, key: str, value: str) -> None:
        script = f"[ ! -e /proc/sys/{key} ] || echo {value} > /proc/sys/{key}"
        subprocess.run(["ip", "netns", "exec", namespace, "sh", "-c", script], check=False, capture_output=True)

    def _build(self) -> None:
        near, far = self._counts
        self._namespace(self.switch)
        self._bridge("br1")
        self.hosts = [self._host(number, 1, "br1") for number in range(1, near + 1)]
        if far:
            self._bridge("br2")
            router = self._namespace(f"{self._prefix}-router")
            for net in (1, 2):
                self._wire(router, f"eth{net}", f"r{net}", f"br{net}")
                self._address(router, f"eth{net}", net, 254)
            self._sysctl(router, "net/ipv4/ip_forward", "1")
            self._sysctl(router, "net/ipv6/conf/all/forwarding", "1")
            self.far_hosts = [self._host(near + number, 2, "br2") for number in range(1, far + 1)]
            for host in self.hosts + self.far_hosts:
                net = 1 if host in self.hosts else 2
                if self._ipv4:
                    host.ip("route", "add", "default", "via", f"10.77.{net}.254")
                if self._ipv6:
                    host.ip("-6", "route", "add", "default", "via", f"fd77:{net}::254")

    def _bridge(self, name: str) -> None:
        _ip("-n", self.switch, "link", "add", name, "type", "bridge", "mcast_snooping", "0", "stp_state", "0")
        _ip("-n", self.switch, "link", "set", name, "up")

    def _wire(self, namespace: str, interface: str, port: str, bridge: str) -> None:
        _ip("-n", self.switch, "link", "add", port, "type", "veth", "peer", "name", interface, "netns", namespace)
        _ip("-n", self.switch, "link", "set", port, "master", bridge, "up")
        _ip("-n", namespace, "link", "set", interface, "up")

    def _host(self, number: int, net: int, bridge: str) -> Host:
        host = Host(self._namespace(f"{self._prefix}-{number}"), self)
        self._wire(host.name, "eth0", f"p{number}", bridge)
        host.addresses = self._address(host.name, "eth0", net, number)
        return host

    def _address(self, namespace: str, interface: str, net: int, number: int) -> list[str]:
        addresses = []
        if self._ipv4:
            addresses.append(f"10.77.{net}.{number}/24")
        if self._ipv6:
            addresses.append(f"fd77:{net}::{number}/64")
        for address in addresses:
            nodad = ["nodad"] if ":" in address else []
            _ip("-n", namespace, "addr", "add", address, "dev", interface, *nodad)
        return addresses


def _delete(namespace: str) -> None:
    listed = _ip("netns", "pids", namespace, check=False)
    for pid in listed.stdout.split():
        with contextlib.suppress(ProcessLookupError, ValueError):
            os.kill(int(pid), 9)
    _ip("netns", "delete", namespace, check=False)


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
