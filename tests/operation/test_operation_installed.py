"""The built wheel installs where no source is: commands of README and tutorials as printed, and no extra unasked."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.documents.blocks import ROOT, blocks
from tests.documents.page import Page
from tests.netns import require_netns
from tests.waits import patience

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

SOURCE = ("s2connect", "pyproject.toml", "README.md", "LICENSE")
EXTRAS = "cli,mqtt,web"
PUBLIC = ("s2connect", "s2connect.messages", "s2connect.session", "s2connect.errors", "s2connect.events")
OF_EXTRAS = ("rich", "typer", "segno", "jinja2", "paho", "keyring", "prometheus_client", "s2python", "uvloop")
TUTORIALS = ("first-pairing", "resource-manager", "energy-manager", "bridge", "cloud")


def run(*command: str | Path, cwd: Path, code: int = 0, environment: dict[str, str] | None = None) -> str:
    lacking = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [str(each) for each in command],
        cwd=cwd,
        env={**lacking, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == code, f"{command}: {done.returncode}, {done.stdout}"
    return done.stdout


def copy_of_the_source(place: Path) -> Path:
    """Return a directory with what is built, and nothing of an older build."""
    place.mkdir()
    for name in SOURCE:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, place / name)
    return place


Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Once:
    """Return what makes a directory once for all workers of pytest-xdist: the others wait for the first."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent

    def make_once(name: str, make: Callable[[Path], object]) -> Path:
        place, made = shared / name, shared / f"{name}.made"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                shutil.rmtree(place, ignore_errors=True)  # of a worker that failed
                place.mkdir()
                make(place)
                made.touch()
        return place

    return make_once


@pytest.fixture(scope="session")
def wheel(once: Once) -> Path:
    def make(place: Path) -> None:
        source = copy_of_the_source(place / "source")
        run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", place, source, cwd=place)

    (found,) = once("wheel", make).glob("*.whl")
    return found


def environment(place: Path, package: str) -> Path:
    """Return the directory of programs of a new environment with one package and what it needs."""
    run(sys.executable, "-m", "venv", place / "venv", cwd=place)
    programs = place / "venv" / "bin"
    run(programs / "python", "-m", "pip", "install", "--quiet", package, cwd=place)
    return programs


@pytest.fixture(scope="session")
def installed(wheel: Path, once: Once) -> Path:
    return once("installed", lambda place: environment(place, f"{wheel}[{EXTRAS}]")) / "venv" / "bin"


def test_the_library_alone_imports_no_extra(wheel: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    programs = environment(tmp_path, str(wheel))
    took = time.monotonic() - began
    program = f"import importlib.util as u; print([n for n in {OF_EXTRAS!r} if u.find_spec(n)])"
    assert run(programs / "python", "-c", program, cwd=tmp_path).strip() == "[]"
    for module in PUBLIC:
        program = f"import {module} as m; [getattr(m, n) for n in m.__all__]; print(m.__file__)"
        assert str(tmp_path) in run(programs / "python", "-c", program, cwd=tmp_path)
    said = run(programs / "s2connect", "--version", cwd=tmp_path, code=1)
    assert "pip install 's2connect[cli]'" in said
    size = sum(file.stat().st_size for file in (tmp_path / "venv").rglob("*.*") if file.is_file()) / 1e6
    readme = " ".join((ROOT / "README.md").read_text("utf-8").split())
    stated = re.search(r"takes some (\d+) MB, the environment included, and some (\d+) seconds", readme)
    assert stated is not None
    assert size == pytest.approx(int(stated[1]), rel=0.2), "say the size in README.md"
    assert int(stated[2]) / 3 < took < patience(int(stated[2])), "say the time in README.md"


def test_the_commands_of_install_work_as_printed(tmp_path: Path) -> None:
    source = copy_of_the_source(tmp_path / "clone")
    by_pipx, by_venv = (
        block for block in blocks(ROOT / "README.md") if "installed.py" in block.marks.get("not run", "")
    )
    printed = by_pipx.code.splitlines()[0]
    pipx, _, comment = printed.partition("#")
    tools = {"pipx": pipx, "uv": comment.removeprefix(" or: ")}
    bin_directory = tmp_path / "bin"
    places = {
        "HOME": str(tmp_path),
        "PIPX_HOME": str(tmp_path / "pipx"),
        "PIPX_BIN_DIR": str(bin_directory),
        "UV_TOOL_DIR": str(tmp_path / "uv"),
        "UV_TOOL_BIN_DIR": str(bin_directory),
    }
    if shutil.which("uv") and not shutil.which("pipx"):  # pipx as uv brings it, so that both lines run
        tools["pipx"] = tools["pipx"].replace("pipx", "uv tool run pipx", 1)
        found = tools
    else:
        found = {tool: line for tool, line in tools.items() if shutil.which(tool)}
    for line in found.values():
        run("bash", "-c", line, cwd=source, environment=places)
        assert "s2connect 0" in run(bin_directory / "s2connect", "--version", cwd=tmp_path)
        (bin_directory / "s2connect").unlink()
    for line in by_venv.code.splitlines():
        run("bash", "-c", line, cwd=source)
    assert run(source / "venv" / "bin" / "python", "-c", "import s2connect", cwd=tmp_path) == ""
    assert "s2connect 0" in run(source / "venv" / "bin" / "s2connect", "--version", cwd=tmp_path)
    if not found:
        pytest.skip("neither pipx nor uv is on this machine; the virtual environment was tried")


@pytest.mark.parametrize("document", ["README.md", *(f"docs/tutorial/{name}.md" for name in TUTORIALS)])
async def test_the_commands_of_a_page_run_from_the_wheel(document: str, installed: Path, tmp_path: Path) -> None:
    require_netns()
    page = Page(tmp_path, installed)
    assert shutil.which("s2connect", path=page.environment["PATH"]) == str(installed / "s2connect")
    program = ["python", "-c", "import s2connect; print(s2connect.__file__)"]
    imported = subprocess.check_output(program, cwd=page.directory, env=page.environment, text=True)
    assert Path(imported.strip()).is_relative_to(installed.parent)
    try:
        for block in blocks(ROOT / document):
            if block.is_performed:
                await asyncio.to_thread(page.perform, block)
    finally:
        await asyncio.to_thread(page.end)
