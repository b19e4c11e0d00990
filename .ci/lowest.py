"""Print the lowest versions that pyproject.toml allows, as constraints for pip."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(\[[a-z0-9,]+\])?>=(?P<version>[0-9.]+)( *;.*)?")
FILE = Path(__file__).resolve().parents[1] / "pyproject.toml"


def constraints() -> set[str]:
    """The lower bound of every dependency and of every extra; each has one."""
    project = tomllib.loads(FILE.read_text("utf-8"))["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    found = set()
    for requirement in wanted:
        if not requirement.startswith(f"{project['name']}["):
            match = REQUIREMENT.fullmatch(requirement)
            if match is None:
                raise SystemExit(f"pyproject.toml: {requirement!r} has no lower bound")
            found.add(f"{match['name']}=={match['version']}")
    return found


if __name__ == "__main__":
    print("\n".join(sorted(constraints())))
