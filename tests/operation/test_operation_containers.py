"""Dockerfile, Compose file and add-on of Home Assistant: tried as far as that goes without Podman, and with Docker."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from s2connect.https.server import free_port
from tests.command import make_home
from tests.engine import why_no_engine
from tests.waits import Deadline, patience

ROOT = Path(__file__).resolve().parents[2]
CONTAINERS = ROOT / "examples" / "containers"
ADD_ON = ROOT / "examples" / "home-assistant" / "s2connect"
DOCKERFILES = [CONTAINERS / "Dockerfile", ADD_ON / "Dockerfile"]
INSTRUCTIONS = {
    *("FROM", "ARG", "WORKDIR", "COPY", "RUN", "ENV", "USER", "VOLUME", "EXPOSE"),
    *("HEALTHCHECK", "STOPSIGNAL", "ENTRYPOINT", "CMD"),
}


def instructions(file: Path) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile with their arguments, lines joined."""
    text = re.sub(r"^#.*\n", "", file.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def last(file: Path, word: str) -> str:
    return [rest for name, rest in instructions(file) if name == word][-1]


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.parent.name)
def test_a_dockerfile_has_instructions_that_there_are_and_lists_that_are_json(file: Path) -> None:
    found = instructions(file)
    assert {word for word, _ in found} <= INSTRUCTIONS
    assert found[0][0] in ("FROM", "ARG")
    for word, rest in found:
        if word in ("ENTRYPOINT", "VOLUME") or rest.startswith("["):
            assert isinstance(json.loads(rest), list), rest  # the form with a shell does not pass signals on
        if word == "FROM":
            assert ":" in rest, "a tag"
            assert not rest.startswith("latest")
        if word == "COPY" and "--from" not in rest:
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists() or (file.parent / source).exists(), source


def test_the_image_has_stages_no_root_and_a_health_check() -> None:
    file = CONTAINERS / "Dockerfile"
    assert sum(word == "FROM" for word, _ in instructions(file)) == 2
    assert int(last(file, "USER")) >= 10_000
    assert "/healthz" in last(file, "HEALTHCHECK")
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert ignored[0] == "*", "no key and no home of a developer gets into an image"


def test_the_compose_file_gives_no_service_more_than_it_needs() -> None:
    compose: dict[str, Any] = yaml.safe_load((CONTAINERS / "compose.yaml").read_text())
    assert set(compose) == {"services", "volumes"}
    for service in compose["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert int(service["user"]) > 0
    build = compose["services"]["s2connect"]["build"]
    assert (CONTAINERS / build["context"] / build["dockerfile"]).resolve() == CONTAINERS / "Dockerfile"


def test_docker_compose_takes_the_file() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker compose is not installed")
    subprocess.run([docker, "compose", "config", "--quiet"], cwd=CONTAINERS, check=True, timeout=patience(20))


@pytest.mark.long
def test_the_image_is_built_and_runs() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "info"], capture_output=True, check=False).returncode:
        pytest.skip("no container engine runs here")
    subprocess.run(
        [docker, "build", "-t", "s2connect-test", "-f", str(CONTAINERS / "Dockerfile"), str(ROOT)], check=True
    )
    shown = subprocess.run(
        [docker, "run", "--rm", "--read-only", "s2connect-test", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.startswith("s2connect ")


@pytest.mark.long
def test_the_steps_of_the_dockerfile_make_a_service_that_its_health_check_sees(tmp_path: Path) -> None:
    """The steps by hand, in a directory of their own, with this Python: what a build does, but for the base image."""
    if why_no_engine() is None:
        pytest.skip("tests/operation/test_operation_engine.py does the same with an engine")
    file, source, installed = CONTAINERS / "Dockerfile", tmp_path / "src", tmp_path / "opt"
    source.mkdir()
    steps = instructions(file)
    for word, rest in steps[: [word for word, _ in steps].index("RUN")]:
        if word == "COPY":
            *names, target = rest.split()
            for name in names:
                copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
                copy(ROOT / name, source / (target if (ROOT / name).is_dir() else name))
    install = next(rest for word, rest in steps if word == "RUN").replace("/opt/s2connect", str(installed))
    install = install.replace("python -m venv", f"{shlex.quote(sys.executable)} -m venv")
    subprocess.run(["sh", "-ec", install], cwd=source, check=True, timeout=patience(120), capture_output=True)
    home, page = tmp_path / "home", free_port()
    given = dict(each.split("=", 1) for each in shlex.split(last(file, "ENV")))
    given["PATH"] = f"{installed}/bin:{os.environ['PATH']}"
    given["S2CONNECT_HOME"] = str(make_home(home, "rm"))
    command = json.loads(last(file, "ENTRYPOINT")) + json.loads(last(file, "CMD"))
    check = json.loads(last(file, "HEALTHCHECK").partition("CMD ")[2])
    command, check = ([part.replace("8480", str(page)) for part in each] for each in (command, check))
    with service(command, given) as process:
        deadline = Deadline(30)
        while subprocess.run(check, env=given, capture_output=True, check=False).returncode:
            assert process.poll() is None, process.communicate()
            assert not deadline.passed()
        process.send_signal(getattr(signal, last(file, "STOPSIGNAL")))
        _, errors = process.communicate(timeout=patience(20))
        assert process.returncode == 0
    assert all(json.loads(line) for line in errors.splitlines())
    assert subprocess.run(check, env=given, capture_output=True, check=False).returncode


class service:  # noqa: N801 - a context manager
    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def __enter__(self) -> subprocess.Popen[str]:
        return self._process

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


def test_the_add_on_has_what_home_assistant_asks_for() -> None:
    config: dict[str, Any] = yaml.safe_load((ADD_ON / "config.yaml").read_text())
    assert {"name", "version", "slug", "description", "arch"} <= set(config)
    assert re.fullmatch(r"[a-z0-9_]+", config["slug"])
    assert config["slug"] == ADD_ON.name
    assert set(config["arch"]) <= {"aarch64", "amd64", "armv7"}
    assert config["startup"] in ("initialize", "system", "services", "application", "once")
    assert config["boot"] in ("auto", "manual")
    assert set(config["options"]) == set(config["schema"])
    for kind in config["schema"].values():
        assert re.fullmatch(r"(str|bool|int|float|email|url|port|password|list\([\w|]+\))\??", kind)
    assert isinstance(config["version"], str)
    assert os.access(ADD_ON / "run.sh", os.X_OK)
    wanted = set(re.findall(r"option (\w+)\)", (ADD_ON / "run.sh").read_text()))
    assert wanted == set(config["options"])


@pytest.mark.long
def test_the_add_on_sets_itself_up_and_comes_up_again_with_another_name(tmp_path: Path) -> None:
    config = yaml.safe_load((ADD_ON / "config.yaml").read_text())
    options = config["options"] | {"host": "127.0.0.1", "port": free_port()}
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "S2CONNECT_ADDON_DATA": str(tmp_path),
        "S2CONNECT_ADDON_PAGE_PORT": "0",
    }
    for name in ("First name", "Other name"):
        (tmp_path / "options.json").write_text(json.dumps(options | {"name": name}))
        with service([str(ADD_ON / "run.sh")], env) as process:
            assert process.stdout is not None
            shown = until(process.stdout, "Pairing code")
            assert "127.0.0.1" in shown
            process.terminate()
            _, errors = process.communicate(timeout=patience(20))
            assert process.returncode == 0, errors
        assert name in (tmp_path / "home" / "config.json").read_text()


def until(lines: Iterator[str], wanted: str) -> str:
    """Read lines until one has a text, whatever its case; return all."""
    shown = ""
    for line in lines:
        shown += line
        if wanted.lower() in line.lower():
            return shown
    raise AssertionError(shown)
