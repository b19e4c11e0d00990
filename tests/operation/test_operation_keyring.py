"""A home in a real Secret Service: gnome-keyring in a session of D-Bus that the test makes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from s2connect.https.server import free_port
from tests.waits import patience

pytestmark = pytest.mark.long
LOCK = (
    "dbus-send --session --print-reply --dest=org.freedesktop.secrets /org/freedesktop/secrets "
    "org.freedesktop.Secret.Service.Lock array:objpath:/org/freedesktop/secrets/collection/login >&2"
)
UNLOCK = "printf pass | gnome-keyring-daemon --unlock --components=secrets >/dev/null 2>&1"
DESKTOP = ("DBUS_", "DISPLAY", "XDG_", "PYTHON_KEYRING_")  # names of variables that choose a keyring
COMMAND = f"{sys.executable} -m s2connect"


class Desktop:
    """A user with a desktop's keyring; ``run`` is a script in a session of it."""

    def __init__(self, directory: Path) -> None:
        self.home = directory / "state"
        (directory / "runtime").mkdir(mode=0o700)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(DESKTOP)}
        self.env = {**kept, "HOME": str(directory), "XDG_RUNTIME_DIR": str(directory / "runtime")}
        self.env["S2CONNECT_HOME"] = str(self.home)

    def run(self, *script: str, keyring: bool = True, code: int = 0) -> str:
        begin = ["dbus-run-session", "--"] if keyring else []
        lines = "\n".join([*([UNLOCK] if keyring else []), *script])
        done = subprocess.run(
            [*begin, "sh", "-c", lines],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=patience(60),
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def desktop(tmp_path: Path) -> Desktop:
    for tool in ("dbus-run-session", "gnome-keyring-daemon"):
        if shutil.which(tool) is None:
            if os.environ.get("CI"):
                pytest.fail(f"{tool} is needed in CI")
            pytest.skip(f"{tool} is not installed (Debian: dbus, gnome-keyring)")
    return Desktop(tmp_path)


def init(*options: str) -> str:
    return " ".join(
        [COMMAND, "init", "--role", "rm", "--host", "127.0.0.1", "--port", str(free_port()), *options, ">&2"]
    )


def test_init_takes_the_keyring_and_the_home_is_used_in_a_later_session(desktop: Desktop) -> None:
    desktop.run(init())
    assert json.loads((desktop.home / "config.json").read_text())["vault"] == "keyring"
    assert not (desktop.home / "secrets").exists()
    stopped = f"echo '{json.dumps({'command': 'stop'})}' | {COMMAND} serve --json --no-code"
    assert '"ready"' in desktop.run(stopped)
    assert "vault (keyring) can be read" in desktop.run(f"{COMMAND} doctor || true")


def test_a_locked_keyring_is_said_and_nothing_is_made_anew(desktop: Desktop) -> None:
    desktop.run(init("--vault", "keyring"))
    before = (desktop.home / "ca.pem").read_bytes()
    said = desktop.run(LOCK, f"{COMMAND} serve --no-page", code=7)
    assert "The keyring is locked" in said
    assert "Unlock it" in said
    said = desktop.run(LOCK, f"{COMMAND} doctor", code=1)
    assert "[fail] The keyring is locked" in said
    assert (desktop.home / "ca.pem").read_bytes() == before
    assert '"ready"' in desktop.run(f"echo '{json.dumps({'command': 'stop'})}' | {COMMAND} serve --json --no-code")


def test_without_a_keyring_the_user_whose_it_is_is_named_and_a_new_home_has_files(desktop: Desktop) -> None:
    desktop.run(init("--vault", "keyring"))
    for command, code in ((f"{COMMAND} serve --no-page", 7), (f"{COMMAND} doctor", 1)):
        said = " ".join(desktop.run(command, keyring=False, code=code).split())
        assert "no keyring" in said
        assert "as the user whose keyring" in said
    other = desktop.home.parent / "other"
    said = desktop.run(init("--vault", "keyring", "--home", str(other)), keyring=False, code=7)
    assert "--vault files" in said
    desktop.run(init("--home", str(other)), keyring=False)
    assert json.loads((other / "config.json").read_text())["vault"] == "files"
