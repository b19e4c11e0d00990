"""A real Avahi in a network namespace, with a system bus and a /run of its own."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.netns import Host, Process

_START = """
set -e
# `ip netns exec` gives each command a mount namespace of its own: this is seen by nobody else.
mount -t tmpfs tmpfs /run
mkdir -p /run/dbus /run/avahi-daemon
chown avahi:avahi /run/avahi-daemon
dbus-daemon --system --nofork --nopidfile &
while [ ! -S /run/dbus/system_bus_socket ]; do sleep 0.05; done
exec avahi-daemon --no-chroot --no-rlimits
"""


def require_avahi() -> None:
    """Skip the test, with the reason, where Avahi is not installed; in CI fail instead."""
    for command in ("avahi-daemon", "avahi-browse", "avahi-publish-service", "dbus-daemon", "nsenter"):
        if shutil.which(command) is None:
            reason = f"there is no `{command}` (Debian: avahi-daemon, avahi-utils, dbus)"
            if os.environ.get("CI"):
                pytest.fail(f"Avahi is needed in CI: {reason}")
            pytest.skip(reason)


class Avahi:
    """Avahi's daemon on a host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._daemon = host.start("sh", "-c", _START)
        self._daemon.wait_for("Server startup complete")

    @property
    def lines(self) -> list[str]:
        """Return the output of the daemon."""
        return self._daemon.lines

    def _inside(self, *command: str) -> list[str]:
        return ["nsenter", f"--target={self._daemon.pid}", "--mount", *command]

    def run(self, *command: str, timeout: float = 30) -> str:
        """Run a client of the daemon to its end."""
        return self._host.run(*self._inside(*command), timeout=timeout).stdout

    def start(self, *command: str) -> Process:
        """Start a client of the daemon in the background."""
        return self._host.start(*self._inside(*command))


def browse_lines(output: str) -> list[list[str]]:
    """Resolved services of ``avahi-browse -rp``: interface, protocol, name, type, domain, host, address, port, TXT."""
    return [line.split(";")[1:] for line in output.splitlines() if line.startswith("=;")]
