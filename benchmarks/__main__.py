"""Measure ours beside what a user would otherwise have, and compare with the budgets.

python -m benchmarks [themes]                                measure, and print one table
python -m benchmarks compare COMMIT_A [COMMIT_B] [themes]    compare two commits pair by pair
python -m benchmarks sizing --rms N                          compute on paper what a fleet needs
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import ssl
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from benchmarks.harness import Effort, peer_python
from benchmarks.table import HEAD, Row, from_json, missing, to_json

THEMES: Final = (
    "start",
    "parsing",
    "messages",
    "bridge",
    "flood",
    "initiation",
    "pairing",
    "memory",
    "growth",
    "commands",
    "page",
    "gc",
    "fleet",
    "herd",
    "instances",
)
"""One file each, in the order of the table."""

COMMANDS: Final = ("faults", "sizing")
"""Files with a command line of their own: the file's ``main``."""

PEERS: Final = {"s2python": "s2-python", "s2auth": "s2auth", "aiomqtt": "aiomqtt"}
"""Environments of peers, and their packages."""


def machine() -> str:
    """Return machine and versions of the measurement."""
    model = platform.machine()
    with open("/proc/cpuinfo") as file:
        model = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), model)
    packages = ("aiohttp", "websockets", "msgspec", "pydantic", "cryptography", "uvloop")
    lines = [
        f"{os.cpu_count()} cores of {model}, load {os.getloadavg()[0]:.1f} when it began, {platform.system()}",
        f"Python {platform.python_version()}, {ssl.OPENSSL_VERSION}, "
        + ", ".join(f"{name} {version(name)}" for name in packages),
        "Peers: " + ", ".join(f"{package} {_peer_version(name, package)}" for name, package in PEERS.items()),
    ]
    return "\n".join(lines)


def _peer_version(environment: str, package: str) -> str:
    if (python := peer_python(environment)) is None:
        return "not installed"
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def arguments_of(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    if argv[:1] == ["compare"]:
        parser = argparse.ArgumentParser(prog="python -m benchmarks compare")
        parser.add_argument("commits", metavar="COMMIT_A [COMMIT_B] [theme ...]", nargs="+")
        parser.add_argument("--rounds", type=int, default=7, help="pairs of each theme (7)")
        arguments = parser.parse_args(argv[1:])
        given = arguments.commits
        arguments.themes = [one for one in given if one in THEMES]
        arguments.commits = [one for one in given if one not in THEMES]
        if len(arguments.commits) not in (1, 2):
            parser.error("name one or two commits")
        arguments.compare = True
        return arguments
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="some minutes, smaller and less exact")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows into a file, too")
    parser.add_argument(
        "--from", dest="source", type=Path, nargs="+", metavar="FILE", help="measure nothing: read --json"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the growth curves (PNG)")
    parser.add_argument("--bars", type=Path, metavar="FILE", help="draw the budgets beside the peers (PNG)")
    parser.add_argument("themes", nargs="*", choices=[*THEMES, []], help="only these")
    arguments = parser.parse_args(argv)
    arguments.themes = arguments.themes or list(THEMES)
    arguments.compare = False
    return arguments


def run(themes: Sequence[str], effort: Effort) -> tuple[list[Row], list[Any]]:
    """Measure, and print each row when it is known. Return the rows, and the points of growth curves."""
    rows: list[Row] = []
    curves: list[Any] = []
    print(HEAD, flush=True)
    for theme in themes:
        module = importlib.import_module(f"benchmarks.{theme}")
        began, new = time.monotonic(), list[Row]()
        try:
            for row in module.measure(effort):
                new.append(row)
                print(row.as_line(), flush=True)
        except Exception:  # the other themes are measured all the same
            traceback.print_exc()
        for row in missing([theme], new):
            new.append(row)
            print(row.as_line(), flush=True)
        rows += new
        curves += getattr(module, "CURVES", [])
        print(f"{theme}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return rows, curves


def read(sources: Sequence[Path]) -> tuple[str, list[Row], list[Any]]:
    """Read earlier runs and print their rows; of a figure in several of them the last one's."""
    names, rows, curves = "", dict[tuple[str, str], Row](), list[Any]()
    for source in sources:
        names, found, points = from_json(source.read_text("utf-8"))
        rows |= {(row.figure, row.beside): row for row in found}
        curves = points or curves
    print("\n".join([names, "", HEAD, *(row.as_line() for row in rows.values())]))
    return names, list(rows.values()), curves


def main(argv: Sequence[str] | None = None) -> int:
    """Measure or compare, and print."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] and argv[0] in COMMANDS:
        found: int = importlib.import_module(f"benchmarks.{argv[0]}").main(argv[1:])
        return found
    arguments = arguments_of(argv)
    if arguments.compare:
        from benchmarks import pairwise, trees

        a, b = (*arguments.commits, "")[:2]
        try:
            for line in pairwise.compare(a, b, arguments.themes or pairwise.THEMES, arguments.rounds):
                print(line, flush=True)
        except trees.NoSuchCommit as error:
            print(error, file=sys.stderr)
            return 2
        return 0
    if arguments.source:
        names, rows, curves = read(arguments.source)
    else:
        began, names = time.monotonic(), machine()
        print(names, end="\n\n")
        rows, curves = run(arguments.themes, Effort("quick" if arguments.quick else "whole"))
        print(f"\n{time.monotonic() - began:.0f} s")
    verdicts = [row.verdict for row in rows if row.budget is not None]
    print(f"Budgets: {verdicts.count('met')} met, {verdicts.count('**missed**')} missed, of {len(verdicts)}.")
    if arguments.json:
        arguments.json.write_text(to_json(names, rows, curves), "utf-8")
    if arguments.plot or arguments.bars:
        import benchmarks.plots as plots

        if arguments.plot:
            plots.growth(curves, arguments.plot)
        if arguments.bars:
            plots.budgets(rows, arguments.bars)
    return 0


if __name__ == "__main__":
    sys.exit(main())
