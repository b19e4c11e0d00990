"""Write the tables in this folder from the files of the standard: ``python -m tests.facts.generate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.facts import openapi, table
from tests.shared import SPEC

JSON_FOLDERS = {"v1.0.0": SPEC / "s2-json-1.0.0", "0.0.2-beta": SPEC / "s2-json-0.0.2-beta"}
OPENAPI_FOLDER = SPEC / "s2-connect-openapi-1.0"


def tables() -> dict[Path, dict[str, Any]]:
    """Every table, by the path where it is kept."""
    found: dict[Path, dict[str, Any]] = {table.OPENAPI: openapi.condensed(OPENAPI_FOLDER)}
    for version, folder in JSON_FOLDERS.items():
        found[table.path_of(version)] = {
            kind: {
                path.name.removesuffix(".schema.json"): table.condensed(json.loads(path.read_text("utf-8")))
                for path in sorted((folder / kind).glob("*.schema.json"))
            }
            for kind in ("messages", "schemas")
        }
    return found


if __name__ == "__main__":
    for path, facts in tables().items():
        path.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", "utf-8")
