"""Pages of the public names: one for each public module; mkdocstrings fills them from the docstrings."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator

from docs.hooks import classes

MODULES = {
    "s2connect": "Endpoints, nodes and sessions",
    "s2connect.messages": "S2 messages",
    "s2connect.session": "Parts of a session",
    "s2connect.transports": "Transports and connections",
    "s2connect.discovery": "Discovery",
    "s2connect.bridge": "The bridge as a library",
    "s2connect.diagnostics": "Diagnostics",
    "s2connect.errors": "Errors",
    "s2connect.events": "Events",
}
"""The public modules, with the titles of their pages."""


def pages() -> Iterator[tuple[str, str]]:
    """Return name and content of each page."""
    yield "message-classes", classes.page()
    shown: set[str] = set()
    for module, title in MODULES.items():
        yield module.rpartition(".")[2], _page(module, title, shown)


def _page(module: str, title: str, shown: set[str]) -> str:
    loaded = importlib.import_module(module)
    lines = [f"# {title}", "", f"`import {module}`. [What may change](../../library.md#what-may-change).", ""]
    elsewhere, values = [], []
    for name in sorted(loaded.__all__, key=str.lower):
        value = getattr(loaded, name)
        path = f"{value.__module__}.{value.__qualname__}" if _has_docstring(value) else ""
        if inspect.ismodule(value):
            elsewhere.append(f"`{name}`")
        elif not path:
            values.append(f"`{name}`")
        elif path in shown:
            elsewhere.append(f"[`{name}`][{path}]")
        else:
            shown.add(path)
            lines += [f"::: {path}", ""]
    if values:
        lines += ["## Constants and other names", "", ", ".join(values) + ".", ""]
    if elsewhere:
        lines += ["## Described elsewhere", "", ", ".join(elsewhere) + ".", ""]
    return "\n".join(lines)


def _has_docstring(value: object) -> bool:
    return inspect.isclass(value) or inspect.isfunction(value)
