"""``python -m benchmarks``: run all themes and print one table."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import ssl
import subprocess
import time
from importlib.metadata import version

from benchmarks.harness import Effort, Row, peer_python

THEMES = ("start", "pairing", "initiation", "messages", "parsing", "bridge", "flood", "memory")


def machine() -> str:
    """Return machine and versions of the measurement."""
    model = platform.machine()
    with open("/proc/cpuinfo") as file:
        model = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), model)
    ours = ", ".join(f"{name} {version(name)}" for name in ("aiohttp", "websockets", "pydantic", "cryptography"))
    lines = [
        f"{os.cpu_count()} cores of {model}, load {os.getloadavg()[0]:.1f} when it began, {platform.system()}",
        f"Python {platform.python_version()}, {ssl.OPENSSL_VERSION}, {ours}",
    ]
    for environment, package in (("s2auth", "s2auth"), ("s2python", "s2-python"), ("aiomqtt", "aiomqtt")):
        python = peer_python(environment)
        found = "not installed"
        if python is not None:
            code = f"import importlib.metadata as m; print(m.version({package!r}))"
            found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        lines.append(f"{package} {found}")
    return "\n".join(lines)


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def as_line(row: Row) -> str:
    """One line of a Markdown table."""
    peer = "not installed" if row.peer is None and row.beside else "" if row.peer is None else number(row.peer)
    ratio = f"{row.ours / row.peer:.2f}" if row.peer else ""
    cells = (row.what, row.unit, number(row.ours), row.beside, peer, ratio, row.budget)
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under a minute, and less exact")
    parser.add_argument("themes", nargs="*", choices=[*THEMES, []], help="only these")
    arguments = parser.parse_args()
    effort = Effort(quick=arguments.quick)
    began = time.monotonic()
    print(machine())
    print("\n| | unit | ours | beside | peer | ratio | budget |\n| --- | --- | ---: | --- | ---: | ---: | --- |")
    for theme in arguments.themes or THEMES:
        for row in importlib.import_module(f"benchmarks.{theme}").measure(effort):
            print(as_line(row), flush=True)
    print(f"\n{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
