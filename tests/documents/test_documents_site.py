"""The pages of the site that are made from the code have all of it, and links lead to pages of the site."""

from __future__ import annotations

import importlib
import re
from typing import Any

import pytest
import typer.main

from docs.hooks import api, commands, limits, problems, settings
from s2connect.cli.app import app
from s2connect.diagnostics.explanations import explanations

ROOT: Any = typer.main.get_command(app)


def _paths(group: Any, *path: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        found += _paths(command, *path, name) if inner else [(" ".join((*path, name)), command)]
    return found


def test_every_command_has_its_options_on_the_page() -> None:
    sections = dict(re.findall(r"^## s2connect ([^\n]+)\n(.*?)(?=^## |\Z)", commands.page(), re.MULTILINE | re.DOTALL))
    for path, command in _paths(ROOT):
        if not command.hidden:
            for parameter in command.params:
                options = [name for name in parameter.opts if name.startswith("--")]
                assert getattr(parameter, "hidden", False) or all(each in sections[path] for each in options), path


def test_every_setting_of_both_files_is_described() -> None:
    for file, heading, _, model in settings.tables():
        meanings = settings.described(model)
        lacking = [name for name in model.model_fields if name not in meanings and name not in ("type", "device")]
        assert not lacking, f"{file}, {heading}: the docstring of {model.__name__} has no {lacking}"


def test_every_limit_on_the_page_is_that_of_the_code() -> None:
    found = list(limits.limits())
    assert len(found) > 200
    for limit in found:
        module = "s2connect." + limit.file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        value = getattr(importlib.import_module(module), limit.name)
        number, _, unit = limit.value.partition(" ")
        factor = {"KiB": 1024, "MiB": 1024 * 1024}.get(unit, 1)
        assert float(number.replace(",", "")) * factor == pytest.approx(value, rel=1e-5), limit


def test_limits_that_strangers_can_reach_are_on_the_page() -> None:
    page = limits.page()
    for name in (
        "MAX_CONNECTIONS",
        "MAX_BODY_BYTES",
        "MAX_ATTEMPTS",
        "MAX_VALUES",
        "MAX_INBOX_MESSAGES",
        "MAX_ENDPOINTS",
    ):
        assert f"`{name}`" in page


def test_every_code_is_on_the_page_of_errors() -> None:
    page = problems.page()
    assert all(f'id="{each.code}"' in page for each in explanations())


def test_every_public_name_is_on_a_page_of_the_api() -> None:
    pages = dict(api.pages())
    for module in api.MODULES:
        page = pages[module.rpartition(".")[2]]
        for name in importlib.import_module(module).__all__:
            assert re.search(rf"\b{re.escape(name)}\b", page), f"{module}.{name}"


def test_every_message_class_has_its_members_on_the_page() -> None:
    page = dict(api.pages())["message-classes"]
    assert "### frbc.StorageStatus" in page
    assert "| `present_fill_level` | `float` |" in page
    assert "| `name` | `str`, optional |" in page
    assert "`ELECTRIC_POWER_L1`" in page


def test_links_of_the_repository_become_links_of_the_site() -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed; the extra docs brings it")
    from docs.hooks import site

    site._pages.update(
        {"examples/battery.py.md": ("examples/battery.py", ""), "project/changelog.md": ("CHANGELOG.md", "")}
    )
    try:
        assert (
            site.relinked("[a](../examples/battery.py)", "bridge.md", "docs/bridge.md") == "[a](examples/battery.py.md)"
        )
        assert site.relinked("[a](docs/errata.md#x)", "project/changelog.md", "CHANGELOG.md") == "[a](../errata.md#x)"
        assert site.relinked("[a](../lan.md)", "howto/sidecar.md", "docs/howto/sidecar.md") == "[a](../lan.md)"
        assert site.relinked("[a](https://s2standard.org)", "lan.md", "docs/lan.md") == "[a](https://s2standard.org)"
    finally:
        site._pages.clear()
