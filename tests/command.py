"""Runs the command for real: in this process, and as processes whose lines are read."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import queue
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from s2connect.cli import main
from tests.waits import Deadline, patience

Object = dict[str, Any]
WAIT = 20.0


def make_home(path: Path, role: str, *settings: str) -> Path:
    local = ["--host", "127.0.0.1", "--bind", "127.0.0.1", "--port", "0", "--vault", "files"]
    assert main(["init", "--home", str(path), "--role", role, *local, *settings]) == 0
    return path


def run(
    *arguments: str, stdin: str = "", env: dict[str, str] | None = None, timeout: float = 40
) -> subprocess.CompletedProcess[str]:
    """Run the command as a process to its end."""
    return subprocess.run(
        [sys.executable, "-m", "s2connect", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=patience(timeout),
        check=False,
        env={**os.environ, **(env or {})},
    )


_STYLING = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def in_terminal(columns: int, *arguments: str, timeout: float = 40) -> str:
    """Run the command to its end in a terminal of so many columns; return what it shows, without colours."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    command = [sys.executable, "-m", "s2connect", *arguments]
    with subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env={**env, "TERM": "xterm"}, start_new_session=True
    ) as process:
        os.close(slave)
        shown, deadline = b"", Deadline(timeout)
        while select.select([master], [], [], deadline.left())[0]:
            try:
                data = os.read(master, 65_536)
            except OSError:  # nobody has the other end any more
                break
            if not data:
                break
            shown += data
        else:
            process.kill()
    os.close(master)
    return _STYLING.sub("", shown.decode()).replace("\r\n", "\n")


class Running:
    """A running ``s2connect serve``, or another command; with ``--json`` its events can be waited for."""

    def __init__(
        self,
        home: Path,
        *arguments: str,
        as_json: bool = True,
        stdout: int | None = None,
        command: tuple[str, ...] | None = None,
        env: dict[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        self.home = home
        self.lines: list[str] = []
        self._unclaimed: list[str] = []
        self._news: queue.Queue[str | None] = queue.Queue()
        self.process = subprocess.Popen(
            [
                *(*prefix, sys.executable, "-m", "s2connect"),
                *(command or ("serve", "--home", str(home))),
                *arguments,
                *(["--json"] * as_json),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if stdout is None else stdout,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, **(env or {})},
        )
        self._ids = 0
        self._threads = [threading.Thread(target=self._read_errors, daemon=True)]
        self.errors = ""
        if stdout is None:
            self._threads.append(threading.Thread(target=self._read, daemon=True))
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._news.put(line)
        self._news.put(None)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self.errors = self.process.stderr.read()

    def line(self, wanted: Callable[[str], bool]) -> str:
        """Take the first such line that nobody has taken yet, or wait for it; ``lines`` has all."""
        for line in self._unclaimed:
            if wanted(line):
                self._unclaimed.remove(line)
                return line
        deadline = Deadline(WAIT)
        while True:
            try:
                news = self._news.get(timeout=deadline.left())
            except queue.Empty:
                raise AssertionError(f"not among {self.lines}") from None
            assert news is not None, f"ended after {self.lines}, {self.errors}"
            self.lines.append(news)
            if wanted(news):
                return news
            self._unclaimed.append(news)

    def so_far(self) -> list[str]:
        """Return all lines that have come, also those that nobody has waited for."""
        while not self._news.empty():
            line = self._news.get()
            if line is not None:
                self.lines.append(line)
                self._unclaimed.append(line)
        return list(self.lines)

    def event(self, name: str, **fields: object) -> Object:
        """Wait for an event."""

        def fits(line: str) -> bool:
            event = json.loads(line)
            return event.get("event") == name and all(event.get(k) == v for k, v in fields.items())

        found: Object = json.loads(self.line(fits))
        return found

    @property
    def events(self) -> list[Object]:
        return [json.loads(line) for line in self.lines]

    def write(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def begin(self, command: str, **fields: object) -> int:
        """Send a command and return its id."""
        self._ids += 1
        self.write(json.dumps({"command": command, "id": self._ids, **fields}) + "\n")
        return self._ids

    def command(self, command: str, **fields: object) -> Object:
        """Send a command and wait for its result."""
        return self.event("result", id=self.begin(command, **fields))

    def ready(self) -> tuple[str, str]:
        """Wait until it is up; pairing URL and code."""
        ready = self.event("ready")
        return ready["pairing_url"], self.event("pairing_code")["code"]

    def end_input(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def ended(self, timeout: float = 8.0) -> int:
        """Wait for the end; the exit code."""
        code = self.process.wait(patience(timeout))
        for thread in self._threads:
            thread.join(patience(timeout))
        while not self._news.empty():
            line = self._news.get()
            if line is not None:
                self.lines.append(line)
        return code

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        for thread in self._threads:
            thread.join(5)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


class SilentServer:
    """Server that accepts connections and never sends anything."""

    def __init__(self, server: socket.socket) -> None:
        self._server = server
        self.url = f"https://127.0.0.1:{server.getsockname()[1]}/pairing/"

    def wait_for_a_client(self) -> None:
        """Wait until a client has connected."""
        readable, _, _ = select.select([self._server], [], [], patience(20))
        assert readable, "nobody connected"


def pair(cem: Running, rm: Running) -> tuple[str, str]:
    """Pair two running sidecars; the names of the session at both."""
    url, code = cem.ready()
    rm.ready()
    result = rm.command("pair", url=url, code=code)
    assert result["ok"], result
    return cem.event("session_opened")["session"], rm.event("session_opened")["session"]


@pytest.fixture
def cem(tmp_path: Path) -> Path:
    return make_home(tmp_path / "cem", "cem", "--name", "House manager")


@pytest.fixture
def rm(tmp_path: Path) -> Path:
    return make_home(tmp_path / "rm", "rm", "--name", "Battery")


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    """Start ``s2connect serve`` on a home; all are ended with the test."""
    running: list[Running] = []

    def begin(home: Path, *arguments: str, **options: object) -> Running:
        running.append(Running(home, *arguments, **options))  # type: ignore[arg-type]  # passed on
        return running[-1]

    yield begin
    for one in running:
        one.kill()


@pytest.fixture
def silent_server() -> Iterator[SilentServer]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield SilentServer(server)
