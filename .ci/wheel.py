"""Build wheel and source archive, install the wheel where no source is, pair two endpoints with it, and test it there.

The tests of some rooms run against what was installed: it lacks no file, and nothing imports the source by accident.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = "cli,web"
TESTS = ("model", "pairing", "session", "store", "web")


def run(*arguments: str | Path, directory: Path, output: bool = False, **environment: str) -> str:
    """Run a program, and return what it wrote where that is asked for. Raise where it fails."""
    print("+", *arguments, flush=True)
    done = subprocess.run(
        [str(each) for each in arguments],
        cwd=directory,
        check=True,
        text=True,
        stdout=subprocess.PIPE if output else None,
        timeout=600,
        env={**os.environ, **environment},
    )
    return done.stdout or ""


def new_environment(place: Path, *packages: str | Path) -> Path:
    """Return the Python of a new virtual environment with these packages."""
    python = place / "bin" / "python"
    if uv := shutil.which("uv"):
        run(uv, "venv", "--quiet", "--python", sys.executable, place, directory=place.parent)
        installs = [uv, "pip", "install", "--quiet", "--python", str(python)]
    else:
        run(sys.executable, "-m", "venv", place, directory=place.parent)
        installs = [str(python), "-m", "pip", "install", "--quiet"]
    run(*installs, *packages, directory=place.parent)
    return python


def copy_of_the_source(place: Path) -> Path:
    """Return a directory with the files of this repository, and with nothing that was built before."""
    names = run("git", "ls-files", "-z", directory=ROOT, output=True).split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place / name)
    return place


def build(source: Path, directory: Path) -> Path:
    """Return the wheel. The one that is built from the source archive has the same files."""
    python = new_environment(directory / "build", "build")
    run(python, "-m", "build", "--outdir", directory / "sdist", "--sdist", source, directory=directory)
    (archive,) = (directory / "sdist").glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(directory / "unpacked", filter="data")
    (unpacked,) = (directory / "unpacked").iterdir()
    files = []
    for place in (source, unpacked):
        built = directory / f"wheel-of-{place.name}"
        run(python, "-m", "build", "--outdir", built, "--wheel", place, directory=directory)
        (wheel,) = built.glob("*.whl")
        with zipfile.ZipFile(wheel) as packed_wheel:
            files.append({info.filename: info.CRC for info in packed_wheel.infolist()})
    different = sorted(name for name, _ in files[0].items() ^ files[1].items())
    assert not different, f"the wheels of the clone and of the source archive differ in {different}"
    return next((directory / f"wheel-of-{source.name}").glob("*.whl"))


def pair(command: str, directory: Path) -> None:
    """Pair two endpoints on this machine, and ask for the page."""
    assert "pair" in run(command, "--help", directory=directory, output=True)
    for role in ("cem", "rm"):
        local = ["--host", "127.0.0.1", "--port", "0", "--no-advertise"]
        run(command, "init", "--home", role, "--role", role, *local, directory=directory)
    with subprocess.Popen(
        [command, "serve", "--home", "cem", "--json", "--page", "--page-port", "0"],
        cwd=directory,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as serving:
        try:
            assert serving.stdout is not None
            lines = (json.loads(line) for line in serving.stdout)
            ready = next(line for line in lines if line["event"] == "ready")
            with urllib.request.urlopen(ready["page"], timeout=60) as page:  # noqa: S310 - ours
                assert b"Nothing is paired yet" in page.read()
            code = next(line["code"] for line in lines if line["event"] == "pairing_code")
            run(command, "pair", "--home", "rm", ready["pairing_url"], code, directory=directory)
            assert next(line for line in lines if line["event"] == "paired")
        finally:
            serving.terminate()
    shown = run(command, "pairings", "--home", "rm", "--json", directory=directory, output=True)
    assert len(json.loads(shown)["pairings"]) == 1


def assert_installed(python: Path, directory: Path) -> None:
    """Raise where a program in this directory imports anything but what is installed beside this Python."""
    program = "import s2connect; [getattr(s2connect, name) for name in s2connect.__all__]; print(s2connect.__file__)"
    where = Path(run(python, "-c", program, directory=directory, output=True).strip())
    assert where.is_relative_to(python.parents[1].resolve()), where
    assert "site-packages" in where.parts, where


def test(wheel: Path, source: Path, directory: Path) -> None:
    """Run tests against the wheel, in a copy of the repository that lacks the package itself."""
    python = new_environment(directory / "tests", f"{wheel}[dev]")
    for name in ("s2connect", "s2connect.egg-info", "build"):
        shutil.rmtree(source / name, ignore_errors=True)
    assert_installed(python, source)
    options = ["-q", "-n", str(2 * (os.cpu_count() or 1)), "--dist", "worksteal", "-m", "not long"]
    shared = os.environ.get("S2CONNECT_SHARED") or str(ROOT.parent / "shared")
    rooms = [f"tests/{room}" for room in TESTS]
    run(python, "-m", "pytest", *options, *rooms, directory=source, S2CONNECT_SHARED=shared)


def main() -> None:
    """Raise where any step fails."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        source = copy_of_the_source(directory / "source")
        wheel = build(source, directory)
        assert_installed(new_environment(directory / "library", wheel), directory)
        python = new_environment(directory / "command", f"{wheel}[{EXTRAS}]")
        pair(str(python.with_name("s2connect")), directory)
        test(wheel, source, directory)


if __name__ == "__main__":
    main()
