"""A machine of its own for a test: namespaces over this one's root, in which a real systemd boots.

What is written in it goes to memory, and is gone afterwards; it has a network of its own with nothing but loopback.
Root and systemd are needed. ``s2connect`` is there as ``/usr/local/bin/s2connect``, for every user.
"""

from __future__ import annotations

import functools
import os
import shlex
import signal
import site
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.waits import Deadline, patience

ROOT = Path(__file__).resolve().parent.parent
SYSTEMD = "/lib/systemd/systemd"

_BOOT = """
set -eu
exec </dev/null
R=$W/root; mkdir $W/memory $R
mount -t tmpfs tmpfs $W/memory; mkdir $W/memory/upper $W/memory/work
mount -t overlay overlay -o lowerdir=/,upperdir=$W/memory/upper,workdir=$W/memory/work $R
mount -t proc proc $R/proc
mount -t sysfs sysfs $R/sys -o ro || mount --rbind /sys $R/sys
for d in run tmp var/tmp var/log; do mount -t tmpfs tmpfs $R/$d; done; chmod 1777 $R/tmp $R/var/tmp
mount -t tmpfs tmpfs $R/dev -o mode=755
for d in null zero full random urandom tty; do touch $R/dev/$d; mount --bind /dev/$d $R/dev/$d; done
mkdir -p $R/dev/pts $R/dev/shm
mount -t devpts devpts $R/dev/pts -o newinstance,ptmxmode=0666,mode=620; ln -s pts/ptmx $R/dev/ptmx
mount -t tmpfs tmpfs $R/sys/fs/cgroup -o mode=755
mkdir -p $R/sys/fs/cgroup/systemd $R/sys/fs/cgroup/unified
mount -t cgroup cgroup $R/sys/fs/cgroup/systemd -o none,name=systemd
mount -t cgroup2 cgroup2 $R/sys/fs/cgroup/unified || true
touch $R/dev/console; : > $W/console; mount --bind $W/console $R/dev/console
rm -f $R/etc/systemd/system/*.target.wants/*
mkdir -p $R/opt/python $R/opt/packages $R/opt/s2connect
mount --bind $PYTHON $R/opt/python; mount --bind $PACKAGES $R/opt/packages; mount --bind $SOURCE $R/opt/s2connect
cat >$R/usr/local/bin/s2connect <<'END'
#!/bin/sh
export LD_LIBRARY_PATH=/opt/python/lib PYTHONPATH=/opt/s2connect:/opt/packages PYTHONDONTWRITEBYTECODE=1
exec /opt/python/bin/PROGRAM -m s2connect "$@"
END
chmod 755 $R/usr/local/bin/s2connect
ip link set lo up || true
exec chroot $R /usr/bin/env -i container=lxc PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD --unit=basic.target
"""


def require_machine() -> None:
    """Skip the test, with the reason, where no systemd boots in namespaces."""
    reason = _missing()
    if reason is not None:
        pytest.skip(f"needs a systemd of its own: {reason}")


@functools.cache
def _missing() -> str | None:
    if not Path(SYSTEMD).exists():
        return "systemd is not installed"
    if os.geteuid() != 0:
        return "only root may make the namespaces"
    tried = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--uts", "--ipc", "--net", "--cgroup", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    return None if tried.returncode == 0 else f"unshare is refused ({tried.stderr.strip()})"


class Machine:
    """A booted machine; use it with ``with``."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="s2machine-")
        script = _BOOT.replace("PROGRAM", f"python{sysconfig.get_python_version()}").replace("SYSTEMD", SYSTEMD)
        command = ["unshare", "--mount", "--pid", "--fork", "--uts", "--ipc", "--net", "--cgroup", "--kill-child"]
        self._unshare = subprocess.Popen(
            [*command, "bash", "-c", script],
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "W": self._directory.name,
                "PYTHON": sys.base_prefix,
                "PACKAGES": site.getsitepackages()[0],
                "SOURCE": str(ROOT),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )
        self._pid = 0

    def __enter__(self) -> Self:
        try:
            self._wait_for_boot()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._unshare.poll() is None:
            os.killpg(self._unshare.pid, signal.SIGKILL)  # and --kill-child ends all in its namespaces
        self._unshare.wait(patience(20))
        if self._unshare.stdout is not None:
            self._unshare.stdout.close()
        self._directory.cleanup()

    def _wait_for_boot(self) -> None:
        deadline, children = Deadline(60), Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children")
        while not (found := children.read_text().split()):
            self._pause(deadline)
        self._pid = int(found[0])
        while Path(f"/proc/{self._pid}/comm").read_text().strip() != "systemd":
            self._pause(deadline)
        while self.run("systemctl", "is-system-running", check=False).strip() not in ("running", "degraded"):
            self._pause(deadline)

    def _pause(self, deadline: Deadline) -> None:
        assert self._unshare.poll() is None, self._output()
        assert not deadline.passed(), "it did not boot in time"
        time.sleep(0.1)

    def _output(self) -> str:
        return "" if self._unshare.stdout is None else self._unshare.stdout.read()

    def run(self, *command: str, check: bool = True, stdin: str = "", timeout: float = 60) -> str:
        """Run a command in the machine, as root; return what it writes."""
        enter = ["nsenter", "--target", str(self._pid), "--all", "--root", "--wd"]
        done = subprocess.run(
            [*enter, "/usr/bin/env", "-i", "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", *command],
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=patience(timeout),
            check=False,
        )
        assert not check or done.returncode == 0, f"{shlex.join(command)}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def write(self, path: str, text: str) -> None:
        """Write a file in the machine."""
        self.run("tee", path, stdin=text)

    def wait(self, *command: str, until: str, timeout: float = 40) -> str:
        """Run a command until it writes a text; return all that it writes."""
        deadline = Deadline(timeout)
        while until not in (text := self.run(*command, check=False)):
            assert deadline.left() > 0.1, text
            time.sleep(0.2)
        return text
