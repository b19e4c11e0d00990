"""Runs a command in a terminal of its own, as a person does."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator

from tests.waits import Deadline, patience

COMMAND = ("setsid", "--ctty", "--wait", sys.executable, "-m", "s2connect")


class Terminal:
    """A command in a terminal, at which somebody types."""

    def __init__(self, *command: str, columns: int = 80) -> None:
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        self.text = ""
        self._seen = 0

    def wait_for(self, wanted: str, timeout: float = 25) -> str:
        """Wait until a text stands there, after what was waited for before; what stands before it."""
        deadline = Deadline(timeout)
        while (at := self.text.find(wanted, self._seen)) < 0:
            left = deadline.left()
            assert left > 0, f"no {wanted!r} in:\n{self.text}"
            assert self._read(left), f"ended without {wanted!r}:\n{self.text}"
        before, self._seen = self.text[self._seen : at], at + len(wanted)
        return before

    def _read(self, timeout: float) -> bool:
        if not select.select([self._master], [], [], timeout)[0]:
            return True
        try:
            data = os.read(self._master, 65_536)
        except OSError:  # nobody has the other end any more
            return False
        self.text += data.decode()
        return bool(data)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def ended(self, timeout: float = 20) -> int:
        deadline = Deadline(timeout)
        while self._read(deadline.left()) and not deadline.passed():
            pass
        return self.process.wait(patience(5))

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)


@contextlib.contextmanager
def at_terminal(*command: str, columns: int = 80) -> Iterator[Terminal]:
    """Run a command in a terminal, and end it with the block."""
    made = Terminal(*command, columns=columns)
    try:
        yield made
    finally:
        made.close()
