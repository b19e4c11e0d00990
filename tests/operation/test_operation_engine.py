"""Dockerfile, Compose file and add-on of Home Assistant, built and run by a container engine as their documents say."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.documents.blocks import SHELL, TEXT, blocks
from tests.engine import Engine, require_engine
from tests.waits import patience

ROOT = Path(__file__).resolve().parents[2]
CONTAINERS = ROOT / "examples" / "containers"
ADD_ON = ROOT / "examples" / "home-assistant" / "s2connect"
PYTHON = "docker.io/library/python:3.13-slim"
PYTHON_PACKAGES = ["python3-venv", "python3-pip"]
MOSQUITTO = "docker.io/library/eclipse-mosquitto:2"
USER = 10001
IMAGE = "localhost/s2connect"
HOME = "/var/lib/s2connect"
CONFINED = ["--network", "host", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"]
STOPPED_WITHIN = 8.0  # seconds; after ten, docker stop kills
SECRET = "-----BEGIN PRIVATE KEY----- of a developer"

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture
def engine() -> Iterator[Engine]:
    require_engine()
    with Engine() as engine:
        yield engine


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a copy of what the image is built from, among secrets of the person who builds it."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", ".dockerignore"):
        shutil.copy(ROOT / name, source / name)
    shutil.copytree(ROOT / "s2connect", source / "s2connect", ignore=shutil.ignore_patterns("__pycache__"))
    for place in (".env", "home/secrets/ca-key", "s2connect/home/secrets/ca-key", "s2connect/.env", "mosquitto/ca.key"):
        (source / place).parent.mkdir(parents=True, exist_ok=True)
        (source / place).write_text(SECRET)
    return source


def stop(engine: Engine, container: str) -> None:
    """Stop a container with SIGTERM, and hold that it ends well and promptly."""
    began = time.monotonic()
    engine.podman("stop", "--time", "60", container)
    took = time.monotonic() - began
    state = json.loads(engine.podman("inspect", container))[0]["State"]
    assert state["ExitCode"] == 0, engine.podman("logs", container)
    assert took < patience(STOPPED_WITHIN)


def logged(engine: Engine, container: str, text: str) -> None:
    """Wait until a container has written a text."""
    engine.wait(f"podman logs {container} 2>&1", until=text)


def healthy(engine: Engine, container: str) -> None:
    """Wait until the health check of a container succeeds."""
    engine.wait(f"podman healthcheck run {container} && echo passed || podman logs {container} 2>&1", until="passed")


def test_the_image_holds_no_secret_runs_confined_and_works_with_the_broker(
    engine: Engine, source: Path, tmp_path: Path
) -> None:
    """One test, because the workers of pytest-xdist would build the image once each."""
    engine.base(PYTHON, PYTHON_PACKAGES)
    engine.build(IMAGE, source, CONTAINERS / "Dockerfile")
    check_layers(engine)
    check_confined_run(engine)
    check_compose(engine, tmp_path / "compose")


def check_layers(engine: Engine) -> None:
    """Hold that no layer has a secret, or a program that the user of the image may change."""
    names = set[str]()
    for file in engine.layers(IMAGE, PYTHON):
        with tarfile.open(file) as layer:
            for entry in layer:
                names.add(entry.name)
                owned = entry.uid == 0 and (entry.issym() or not entry.mode & 0o022)
                assert owned or not entry.name.startswith("opt/"), entry.name
                content = layer.extractfile(entry) if entry.isfile() else None
                assert content is None or SECRET.encode() not in content.read(), entry.name
    assert "opt/s2connect/bin/s2connect" in names
    assert not [name for name in names if name.startswith(("src", "root", "tmp/"))], "of the building"
    assert engine.podman("image", "inspect", "--format", "{{.User}}", IMAGE).strip() == str(USER)


def check_confined_run(engine: Engine) -> None:
    """Hold that it runs without rights, with its home in a volume of its user, and ends with SIGTERM."""
    volume = f"s2home:{HOME}"
    engine.podman(
        "run", "--rm", "-v", volume, "--network", "none", IMAGE, *["init", "--role", "rm", "--host", "localhost"]
    )
    home = Path(engine.podman("volume", "inspect", "--format", "{{.Mountpoint}}", "s2home").strip())
    for path in [home, *home.rglob("*")]:
        found = path.stat()
        assert (found.st_uid, found.st_gid) == (USER, USER), path
        assert not found.st_mode & 0o077, path
    engine.podman("run", "-d", "--name", "s2connect", *CONFINED, "-v", volume, IMAGE)
    healthy(engine, "s2connect")
    assert re.fullmatch(r"[0-9A-Z]{12}", engine.podman("exec", "s2connect", "s2connect", "code").strip().split()[-1])
    status = engine.podman("exec", "s2connect", "cat", "/proc/1/status")
    assert re.search(rf"^Uid:(\s+{USER}){{4}}$", status, re.MULTILINE), status
    assert re.search(r"^Cap(Eff|Bnd):\s+0+$", status, re.MULTILINE), status
    for place in ("/etc", "/opt/s2connect", "/usr/local/bin"):
        assert not engine.podman("exec", "s2connect", "sh", "-c", f"touch {place}/x && echo made", check=False)
    engine.podman("kill", "--signal", "HUP", "s2connect")
    logged(engine, "s2connect", "Read the file again")
    stop(engine, "s2connect")
    engine.podman("rm", "s2connect")
    engine.podman("run", "-d", "--name", "s2connect", *CONFINED, "-v", volume, IMAGE)
    healthy(engine, "s2connect")
    stop(engine, "s2connect")
    engine.podman("rm", "s2connect")


def check_compose(engine: Engine, place: Path) -> None:
    """Hold that the Compose file runs an endpoint, and the broker as its recipe is printed."""
    place.mkdir()
    engine.base(MOSQUITTO, ["mosquitto"], 'CMD ["/usr/sbin/mosquitto", "-c", "/mosquitto/config/mosquitto.conf"]')
    compose = yaml.safe_load((CONTAINERS / "compose.yaml").read_text())
    del compose["services"]["s2connect"]["build"]  # it was built already
    (place / "compose.yaml").write_text(yaml.safe_dump(compose))
    found = list(blocks(ROOT / "docs" / "howto" / "mosquitto.md"))
    certificate, passwords, *_ = (block.code for block in found if block.language == SHELL)
    access_list, configuration = (block.code for block in found if block.language == TEXT)
    mosquitto = place / "mosquitto"
    (place / "client").mkdir()
    for commands in (certificate, passwords):
        engine.run("sh", "-ec", commands.replace("/etc/mosquitto/s2", str(mosquitto)))
    (mosquitto / "acl").write_text(access_list)
    (mosquitto / "s2.conf").write_text(configuration)
    steps = (block.code for block in blocks(ROOT / "docs" / "howto" / "containers.md") if "compose" in block.code)
    owners = next(block.code for block in blocks(ROOT / "docs" / "howto" / "containers.md") if "chown" in block.code)
    engine.run("sh", "-ec", owners, cwd=place)
    script = next(steps).replace("docker compose", "podman-compose").replace("your-machine.local", "localhost")
    *start, doctor = script.replace("\\\n", "").strip().splitlines()
    try:
        engine.run("sh", "-ec", "\n".join(start), cwd=place, timeout=120)
        names = engine.podman("ps", "--format", "{{.Names}}").split()
        assert len(names) == 2, engine.podman("ps", "--all")
        endpoint = next(name for name in names if "s2connect" in name.partition("_")[2])
        healthy(engine, endpoint)
        shown = engine.run("sh", "-c", f"{doctor} --json", check=False, cwd=place)
        checks = json.loads(shown[shown.index("{") :])["checks"]
        assert {check["result"] for check in checks if check["layer"] == "broker"} == {"ok"}, checks
        for name in names:
            stop(engine, name)
    finally:
        engine.run("podman-compose", "down", "--volumes", check=False, cwd=place)


def test_an_engine_that_cannot_begin_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    require_engine()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("tests.engine._SETTINGS", {"no/such/place": ""})
    with pytest.raises(FileNotFoundError):
        Engine()
    assert not list(tmp_path.iterdir())
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()


def test_the_add_on_is_built_and_sets_itself_up_in_its_data(engine: Engine, source: Path, tmp_path: Path) -> None:
    wheels, data = tmp_path / "wheels", tmp_path / "data"
    data.mkdir()
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", wheels, source], check=True
    )
    engine.base(PYTHON, PYTHON_PACKAGES, "ENV PIP_FIND_LINKS=/wheels")  # elsewhere it installs the released package
    engine.build("add-on", ADD_ON, ADD_ON / "Dockerfile", "--volume", f"{wheels}:/wheels:ro")
    options = yaml.safe_load((ADD_ON / "config.yaml").read_text())["options"] | {"host": "localhost"}
    (data / "options.json").write_text(json.dumps(options))
    engine.podman("run", "-d", "--name", "add-on", "--network", "host", "-v", f"{data}:/data", "add-on")
    healthy(engine, "add-on")
    logged(engine, "add-on", "https://localhost:8443/pairing/")
    assert (data / "home").stat().st_mode & 0o777 == 0o700
    stop(engine, "add-on")
