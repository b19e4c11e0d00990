"""The tables of facts against the files that they were made from."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.facts import generate, table
from tests.shared import needs_files


@needs_files
def test_the_tables_say_what_the_files_of_the_standard_say() -> None:
    for path, facts in generate.tables().items():
        assert json.loads(path.read_text("utf-8")) == facts, f"{path.name}: python -m tests.facts.generate"


@pytest.mark.parametrize("version", table.JSON_VERSIONS)
def test_a_schema_made_from_the_table_makes_the_table_again(version: str) -> None:
    def reference(name: str) -> dict[str, Any]:
        assert name in table.json_facts(version)["schemas"]
        return {"$ref": f"../schemas/{name}.schema.json"}

    for kind in table.json_facts(version).values():
        for name, facts in kind.items():
            assert table.condensed(table.expanded(facts, reference)) == facts, name
