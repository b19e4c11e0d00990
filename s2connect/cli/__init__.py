"""The ``s2connect`` command. Uses only what a user of the library can use."""

from __future__ import annotations

import importlib.util
import sys

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Run the command with arguments, or with those of the process; return its exit code, see ``docs/command.md``."""
    if any(importlib.util.find_spec(name) is None for name in ("typer", "rich", "segno")):
        print(
            "The command needs more packages than the library. Install them: pip install 's2connect[cli]'",
            file=sys.stderr,
        )
        return 1
    from s2connect.cli.app import run

    return run(sys.argv[1:] if argv is None else argv)
