"""Build the wheel, install it where no source is, and pair two endpoints with it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = "cli,web"


def main() -> None:
    """Raise where any step fails."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        python = directory / "venv" / "bin" / "python"
        command = str(python.with_name("s2connect"))

        def run(*arguments: str, output: bool = False) -> str:
            print("+", *arguments, flush=True)
            pipe = subprocess.PIPE if output else None
            done = subprocess.run(arguments, cwd=directory, check=True, text=True, stdout=pipe, timeout=600)
            return done.stdout or ""

        shutil.rmtree(ROOT / "build", ignore_errors=True)  # of an older build, whose modules would be in the wheel
        run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(directory), str(ROOT))
        (wheel,) = directory.glob("*.whl")
        run(sys.executable, "-m", "venv", str(directory / "venv"))
        run(str(python), "-m", "pip", "install", "--quiet", str(wheel))
        run(str(python), "-c", "import s2connect; [getattr(s2connect, name) for name in s2connect.__all__]")
        run(str(python), "-m", "pip", "install", "--quiet", f"{wheel}[{EXTRAS}]")
        where = run(str(python), "-c", "import s2connect; print(s2connect.__file__)", output=True)
        assert Path(where.strip()).is_relative_to(directory.resolve()), where
        assert "pair" in run(command, "--help", output=True)
        for role in ("cem", "rm"):
            run(command, "init", "--home", role, "--role", role, "--host", "127.0.0.1", "--port", "0", "--no-advertise")
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
                url = ready["pairing_url"]
                with urllib.request.urlopen(ready["page"], timeout=60) as page:  # noqa: S310 - ours
                    assert b"Nothing is paired yet" in page.read()
                code = next(line["code"] for line in lines if line["event"] == "pairing_code")
                run(command, "pair", "--home", "rm", url, code)
                assert next(line for line in lines if line["event"] == "paired")
            finally:
                serving.terminate()
        assert len(json.loads(run(command, "pairings", "--home", "rm", "--json", output=True))["pairings"]) == 1


if __name__ == "__main__":
    main()
