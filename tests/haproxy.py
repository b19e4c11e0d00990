"""A real HAProxy for tests, with a file of the examples in which only addresses, ports and files are replaced."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.waits import Deadline

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
_PATH = os.pathsep.join((os.environ["PATH"], "/usr/sbin"))


def need_haproxy() -> str:
    """Return the program; skip the test where it is missing, and fail in CI, which installs it."""
    program = shutil.which("haproxy", path=_PATH)
    if program is None:
        reason = "HAProxy is not installed (Debian: apt-get install haproxy)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return program


class HAProxy:
    """HAProxy with a file of the examples.

    Args:
        file: The file.
        directory: Where its copy and its log are put.
        replaced: Texts of the file, and what they are here; each has to be there.
    """

    def __init__(self, file: Path, directory: Path, replaced: Mapping[str, str]) -> None:
        program, text = need_haproxy(), file.read_text("utf-8")
        for before, after in replaced.items():
            assert before in text, before
            text = text.replace(before, after)
        self.log = directory / f"{file.stem}.log"
        copy = directory / file.name
        copy.write_text(text, "utf-8")
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [program, "-db", "-f", str(copy)], stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def wait_for(self, text: str, *, after: int = 0) -> int:
        """Wait until its log has a text beyond a place; return the place behind it."""
        deadline = Deadline(20)
        while (at := self.log.read_text("utf-8", "replace").find(text, after)) < 0:
            assert self.process.poll() is None, self.log.read_text()
            assert not deadline.passed(), f"{text!r} is not in: {self.log.read_text()}"
            time.sleep(0.05)
        return at + len(text)

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
