"""Container engine for tests: Podman with a storage of its own, in a network of its own, and base images made here.

A base image holds the files of Debian packages that this machine has, so that no registry is asked. It stands in for
the image whose name it gets. Root is needed.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.waits import Deadline, patience

PROGRAMS = ("podman", "runc", "iptables")
PACKAGES = ("base-files", "base-passwd", "ca-certificates", "coreutils", "dash", "libc-bin", "login", "passwd")
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
_PATH = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"))  # podman-compose
LONGEST_RUN = 1800.0
"""Seconds for which the network stays where whoever made it is killed."""
_NOT_NEEDED = ("/usr/share/doc/", "/usr/share/man/", "/usr/share/locale/")

_SETTINGS = {
    # Podman asks for the largest limits that there are, which not every root may set.
    "containers.conf": '[containers]\ndefault_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]\n'
    '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\nlock_type = "file"\n'
    'tmp_dir = "DIRECTORY/tmp"\n[network]\nnetwork_backend = "netavark"\nnetwork_config_dir = "DIRECTORY/networks"\n',
    "storage.conf": '[storage]\ndriver = "overlay"\ngraphroot = "DIRECTORY/graph"\nrunroot = "DIRECTORY/run"\n',
    "registries.conf": 'unqualified-search-registries = ["docker.io"]\n'
    '[[registry]]\nlocation = "docker.io"\nblocked = true\n',
}


def require_engine() -> None:
    """Skip the test, with the reason, where no container runs."""
    reason = why_no_engine()
    if reason is not None:
        pytest.skip(f"needs a container engine: {reason}")


@functools.cache
def why_no_engine() -> str | None:
    """Return what is missing for an engine; None if nothing is."""
    lacks = [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]
    if lacks or not Path("/usr/lib/podman/netavark").exists():
        return f"apt-get install {' '.join(PROGRAMS)} netavark"
    if os.geteuid() != 0:
        return "only root may make the networks and base images"
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"unshare is refused ({tried.stderr.strip()})"
    return None if _closure(["python3-venv", "python3-pip"]) else "apt-get install python3-venv python3-pip"


def _closure(packages: Iterable[str]) -> set[str]:
    """Return installed Debian packages with all that they depend on; nothing if one of the packages is not there."""
    shown = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${Package}\t${Provides}\t${Pre-Depends}, ${Depends}\n"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    needs, providers = dict[str, list[str]](), dict[str, str]()
    for name, provides, depends in (line.split("\t") for line in shown.splitlines()):
        needs[name] = re.findall(r"(?:^|[,|])\s*([a-z0-9][a-z0-9.+-]+)", depends)
        for virtual in re.findall(r"(?:^|,)\s*([a-z0-9][a-z0-9.+-]+)", provides):
            providers.setdefault(virtual, name)
    wanted, found = list(packages), set[str]()
    if not set(wanted) <= needs.keys():
        return set()
    while wanted:
        name = wanted.pop()
        name = name if name in needs else providers.get(name, "")
        if name and name not in found:
            found.add(name)
            wanted += needs[name]
    return found


def _pack(file: Path, packages: Iterable[str]) -> None:
    """Write the files of packages to an archive, with what makes them a root directory."""
    listed = subprocess.run(
        ["dpkg", "--listfiles", *_closure([*PACKAGES, *packages])], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    paths = {path for path in listed if path.startswith("/") and not path.startswith(_NOT_NEEDED)}
    paths = {path for path in paths if not path.endswith("/EXTERNALLY-MANAGED")}  # official images let pip install
    paths |= {"/bin", "/lib", "/lib64", "/sbin", "/etc/ld.so.cache", "/tmp", CERTIFICATES}
    # Packages still name /bin/sh, where /bin is a link.
    paths = {os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path)) for path in paths}
    with tarfile.open(file, "w") as tar:
        for path in sorted(path for path in paths if os.path.lexists(path)):
            tar.add(path, recursive=False)
        for name in ("passwd", "group"):
            master = Path(f"/usr/share/base-passwd/{name}.master").read_bytes()
            entry = tarfile.TarInfo(f"etc/{name}")
            entry.size, entry.mode = len(master), 0o644
            tar.addfile(entry, BytesIO(master))
        link = tarfile.TarInfo("usr/local/bin/python")
        link.type, link.linkname = tarfile.SYMTYPE, "/usr/bin/python3"
        tar.addfile(link)


class Engine:
    """Podman; use it with ``with``. Nothing of it stays on the machine."""

    def __init__(self) -> None:
        with contextlib.ExitStack() as stack:
            self.directory = Path(tempfile.mkdtemp(prefix="s2engine-"))
            stack.callback(self.directory.rmdir)
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6g,mode=700", "tmpfs", self.directory], check=True)
            stack.callback(self._unmount)
            for name, text in _SETTINGS.items():
                (self.directory / name).write_text(text.replace("DIRECTORY", str(self.directory)))
            script = f"ip link set lo up && echo up && exec sleep {LONGEST_RUN:.0f}"
            self._network = subprocess.Popen(
                ["unshare", "--net", "sh", "-c", script], stdout=subprocess.PIPE, text=True
            )
            stack.callback(self._network.communicate)
            stack.callback(self._network.kill)
            assert self._network.stdout is not None
            assert self._network.stdout.readline() == "up\n", "ip of iproute2 is needed"
            self._resources = stack.pop_all()
        self._env = {
            "PATH": _PATH,
            "HOME": str(self.directory),
            "CONTAINERS_CONF": str(self.directory / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(self.directory / "storage.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(self.directory / "registries.conf"),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._resources:
            self.podman("rm", "--all", "--force", "--time", "1", check=False)

    @property
    def enter(self) -> list[str]:
        """Return the words before a command that run it in the engine's own network."""
        return ["nsenter", f"--net=/proc/{self._network.pid}/ns/net", "--"]

    def _unmount(self) -> None:
        for mounted in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            if (place := mounted.split()[1]) == str(self.directory) or place.startswith(f"{self.directory}/"):
                subprocess.run(["umount", "--lazy", place], check=False)

    def run(
        self,
        *command: str | Path,
        check: bool = True,
        inside: bool = True,
        timeout: float = 60,
        cwd: Path | None = None,
    ) -> str:
        """Run a command on the machine, with this Podman; return what it writes to its output.

        Args:
            command: Program and arguments.
            check: Fail where the command does.
            inside: In the engine's own network, where containers have it; otherwise in that of the machine.
            timeout: In seconds.
            cwd: Its working directory.
        """
        enter = self.enter if inside else []
        words = [str(word) for word in command]
        done = subprocess.run(
            [*enter, *words],
            env=self._env,
            cwd=cwd or self.directory,
            capture_output=True,
            text=True,
            timeout=patience(timeout),
            check=False,
        )
        output = f"{shlex.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert not check or done.returncode == 0, output
        return done.stdout

    def podman(self, *arguments: str | Path, check: bool = True, inside: bool = True, timeout: float = 60) -> str:
        """Run Podman with these arguments, as :meth:`run` does."""
        return self.run("podman", *arguments, check=check, inside=inside, timeout=timeout)

    def wait(self, script: str, *, until: str, timeout: float = 40) -> str:
        """Run a script of the shell until it writes a text; return all that it writes."""
        deadline = Deadline(timeout)
        while until not in (shown := self.run("sh", "-c", script, check=False)):
            assert not deadline.passed(), shown
            time.sleep(0.2)
        return shown

    def base(self, name: str, packages: Iterable[str], *settings: str) -> None:
        """Make a base image of Debian packages of this machine, with settings as instructions of a Dockerfile."""
        archive = self.directory / "base.tar"
        _pack(archive, packages)
        changes = [f"--change={setting}" for setting in (f"ENV PIP_CERT={CERTIFICATES}", *settings)]
        self.podman("import", *changes, archive, name)
        archive.unlink()

    def build(self, tag: str, context: Path, dockerfile: Path, *options: str) -> None:
        """Build an image as ``docker build`` does; what it installs comes over the machine's network."""
        given = ["--format", "docker", "--network", "host", "--pull=never", "--layers=false"]
        self.podman("build", *given, "--tag", tag, "--file", dockerfile, *options, context, inside=False, timeout=300)

    def layers(self, image: str, base: str) -> list[Path]:
        """Return archives of the layers of an image above those of its base."""
        below = len(json.loads(self.podman("image", "inspect", base))[0]["RootFS"]["Layers"])
        place = self.directory / "saved"
        self.podman("save", "--format", "docker-dir", "--output", place, image)
        listed = json.loads((place / "manifest.json").read_text())["layers"]
        return [place / layer["digest"].partition(":")[2] for layer in listed[below:]]
