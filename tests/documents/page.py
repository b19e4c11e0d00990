"""Runs the commands of one page, in their order, as a reader would: in a directory and a network of their own."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import secrets
import shlex
import signal
import struct
import subprocess
import sysconfig
import termios
import threading
import time
from pathlib import Path

from tests.documents.blocks import ROOT, SHELL, TOML, Block
from tests.documents.output import CODE, lacking, plain
from tests.waits import Deadline, patience

COLUMNS = 80
"""As a terminal has them when it opens."""


class Command:
    """A command of a page, at a terminal: it is read from there, and what is typed comes through a pipe."""

    def __init__(self, command: str, page: Page) -> None:
        self.output = ""
        self.command = command
        self._master, terminal = os.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
        self._process = subprocess.Popen(
            [*page.within, "bash", "-c", command],
            cwd=page.directory,
            env=page.environment,
            stdin=subprocess.PIPE,
            stdout=terminal,
            stderr=terminal,
            text=True,
            start_new_session=True,
        )
        os.close(terminal)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        with contextlib.suppress(OSError):  # nobody has the other end any more
            while data := os.read(self._master, 65_536):
                self.output += decoder.decode(data)

    def type(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None and not self._reader.is_alive()

    def wait(self) -> int:
        """Wait until it ends by itself, with nothing more to type."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        code = self._process.wait(patience(60))
        self._reader.join(patience(10))
        return code

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(patience(10))
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._reader.join(patience(10))
        os.close(self._master)
        with contextlib.suppress(BrokenPipeError):
            assert self._process.stdin is not None
            self._process.stdin.close()


class Page:
    """A page of commands and files that are used in their order."""

    def __init__(self, place: Path, installed: Path | None = None) -> None:
        """Make a page whose commands are those of this source, or of an environment in which s2connect is installed."""
        self.place = self.directory = place
        self.shown = ""  # by the commands until now
        self.running: list[Command] = []
        self.commands: list[Command] = []  # of the block that was performed last
        # A network of its own, so that all ports are free.
        self._network = f"page{secrets.token_hex(4)}"
        self.within = ["ip", "netns", "exec", self._network]
        subprocess.run(["ip", "netns", "add", self._network], check=True)
        subprocess.run([*self.within, "ip", "link", "set", "lo", "up"], check=True)
        (place / "examples").symlink_to(ROOT / "examples")
        for program in ("battery.py", "energy_manager.py"):
            (place / program).symlink_to(ROOT / "examples" / program)
        self.environment = {
            "PATH": os.pathsep.join([str(installed or sysconfig.get_path("scripts")), os.environ["PATH"]]),
            "HOME": str(place),
            "XDG_STATE_HOME": str(place / "state"),
            "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",  # that of whoever runs the tests is left alone
            "PYTHONUNBUFFERED": "1",
            **({} if installed else {"PYTHONPATH": str(ROOT)}),
            "LANG": "C.UTF-8",
            "COLUMNS": str(COLUMNS),
            "TERM": "xterm",
            **{name: os.environ[name] for name in ("GOCACHE", "S2CONNECT_TEST_SLOWNESS") if name in os.environ},
        }

    @property
    def written(self) -> str:
        """All that the commands have written which still run, and then all that the others have."""
        return "".join(each.output for each in self.running) + self.shown

    def end(self) -> None:
        for each in reversed(self.running):
            each.end()
        subprocess.run(["ip", "netns", "delete", self._network], check=True)

    def perform(self, block: Block) -> None:
        """Write the file or run the commands of a block, or compare it with what these have written."""
        if block.is_output:
            self._compare(block)
        elif (name := block.marks.get("file")) is not None:
            (self.place / name).parent.mkdir(parents=True, exist_ok=True)
            (self.place / name).write_text(block.code)
            (self.place / name).chmod(0o600)
        elif block.language == SHELL:
            commands = [
                line for line in block.code.replace("\\\n", " ").splitlines() if shlex.split(line, comments=True)
            ]
            self.commands = []
            for command in commands[:-1]:
                self._run(command)
            if not self._go(commands[-1]):
                self._last(commands[-1], block.marks)
        else:
            assert block.language != TOML, f"{block}: give it a name, <!-- test: file NAME -->"

    def _go(self, command: str) -> bool:
        """Change the directory, if that is what the command does."""
        if command.startswith("cd "):
            self.directory /= command.removeprefix("cd ").strip()
            return True
        return False

    def _last(self, command: str, marks: dict[str, str]) -> None:
        if "instead" in marks:
            self.running.pop().end()
        typed = self._code() if "code typed" in marks else ""
        if (text := marks.get("until")) is None:
            self._run(command, typed=typed, code=int(marks.get("exit", 0)))
            return
        before = [len(each.output) for each in self.running]
        running = Command(f"exec {command.partition('  #')[0]}", self)
        self.running.append(running)
        self.commands.append(running)
        if typed:
            running.type(typed)
        self._until(text, before, running)

    def _until(self, text: str, before: list[int], started: Command) -> None:
        """Wait until any running command has written a text, since another was started."""
        deadline = Deadline(30)
        while not any(text in plain(each.output[past:]) for each, past in zip(self.running, [*before, 0], strict=True)):
            assert not started.ended, f"{started.command} has ended before {text!r}: {started.output}"
            assert deadline.left(), f"{started.command} did not lead to {text!r}: {started.output}"
            time.sleep(0.05)
        # A traceback repeats the line that failed, with the text in it.
        assert "Traceback (most recent call last)" not in started.output, started.output

    def _run(self, command: str, *, typed: str = "", code: int = 0) -> None:
        run = Command(command, self)
        self.commands.append(run)
        if typed:
            run.type(typed)
        try:
            ended = run.wait()
        finally:
            run.end()
        assert ended == code, f"{command}: {ended}, {run.output}"
        self.shown += run.output

    def _compare(self, block: Block) -> None:
        """Hold an output that the page shows against that of the commands above it."""
        assert self.commands, f"{block} stands below no command; say why in a mark, <!-- test: not output: REASON -->"
        deadline = Deadline(10)
        while True:
            over = deadline.passed() or all(each.ended for each in self.commands)
            written = "".join(each.output for each in self.commands)
            if (line := lacking(block.code, written)) is None:
                return
            if over and "again" in block.marks and not deadline.passed():
                self._run(self.commands.pop().command)
                continue
            assert not over, f"{block}: no such line, or not there: {line!r}. It is:\n{plain(written)}"
            time.sleep(0.1)

    def _code(self) -> str:
        """Return the pairing code that was shown last."""
        shown = self.shown + "".join(each.output for each in self.running)
        found = CODE.findall(plain(shown))
        assert found, f"no code in {shown}"
        return str(found[-1]).strip()
