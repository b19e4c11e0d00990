"""The public names: listed in docs/library.md, documented, and all that applications of the library import."""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import s2connect

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = Path(s2connect.__file__).resolve().parent

PACKAGES = [
    "s2connect",
    *(f"s2connect.{name}" for name in ("messages", "session", "transports", "discovery", "bridge", "diagnostics")),
]
"""Packages whose names are loaded when they are first used."""

MODULES = [*PACKAGES, "s2connect.errors", "s2connect.events"]
"""Modules whose ``__all__`` is public."""

MESSAGES = {f"s2connect.messages.{name}" for name in ("general", "frbc", "ddbc", "ombc", "pebc", "ppbc")}
"""Modules of message classes: all their classes are public."""

ADAPTERS = {"s2connect.contrib.s2python"}
"""Modules of optional adapters to other people's software, public by themselves."""

APPLICATIONS = ["bridge", "simulate", "contrib"]
"""Rooms of the package that use the library as anybody does."""

DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]

EVERYWHERE = {"s2connect._lazy"}
"""Private modules that every package of ours may import."""


def _names() -> Iterator[tuple[str, str]]:
    for module in MODULES:
        for name in importlib.import_module(module).__all__:
            yield module, name


def _imports(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """Imports from the package: line, module, name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "s2connect":
            yield from ((node.lineno, node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("s2connect."):
                    yield node.lineno, alias.name, ""


def _is_public(module: str, name: str) -> bool:
    if module in MESSAGES | ADAPTERS | EVERYWHERE:
        return True
    return module in MODULES and name in importlib.import_module(module).__all__


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_says_the_same_names_to_python_and_to_type_checkers(package: str) -> None:
    module = importlib.import_module(package)
    tree = ast.parse(inspect.getsource(module))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    checked = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    own = {"__version__"} & set(module.__all__)
    assert len(set(module.__all__)) == len(module.__all__)
    assert checked == set(dir(module)) == set(module.__all__) - own
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        module.nothing_of_this_name  # noqa: B018


@pytest.mark.parametrize("module", MODULES)
def test_the_page_on_the_library_lists_the_public_names(module: str) -> None:
    page = (REPOSITORY / "docs" / "library.md").read_text("utf-8")
    row = re.search(rf"^\| `{re.escape(module)}` \|(.*)\|$", page, re.MULTILINE)
    assert row is not None, f"docs/library.md has no row for {module}"
    names = importlib.import_module(module).__all__
    assert sorted(re.findall(r"`(\w+)`", row[1])) == sorted(names), (
        f"a new public name is a promise: put it into docs/library.md: {' '.join(f'`{n}`' for n in sorted(names))}"
    )


def _has_text_below(name: str, module: ModuleType) -> bool:
    """Return whether a string stands under the assignment of a name that cannot carry a docstring itself."""
    body = ast.parse(inspect.getsource(module)).body
    for node, after in itertools.pairwise(body):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    return False


def _home(package: str, name: str) -> ModuleType:
    tree = ast.parse(inspect.getsource(importlib.import_module(package)))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and name in {alias.name for alias in node.names}:
            return importlib.import_module(node.module)
    return importlib.import_module(package)


@pytest.mark.parametrize(("module", "name"), list(_names()))
def test_a_public_name_is_documented(module: str, name: str) -> None:
    value: Any = getattr(importlib.import_module(module), name)
    if inspect.isclass(value):
        assert value.__dict__.get("__doc__"), f"{name} has no docstring of its own"
    elif inspect.isroutine(value) or inspect.ismodule(value):
        assert value.__doc__
    else:
        assert _has_text_below(name, _home(module, name)), f"{name} has no text below its assignment"


def _classes() -> Iterator[type]:
    for info in pkgutil.walk_packages([str(PACKAGE)], "s2connect."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            if inspect.isclass(value) and value.__module__ == info.name and not name.startswith("_"):
                yield value


def test_every_method_of_a_public_class_has_a_docstring_of_its_own_or_of_its_interface() -> None:
    interfaces = [cls for cls in _classes() if getattr(cls, "_is_protocol", False)]
    described = {name for cls in interfaces for name, value in vars(cls).items() if getattr(value, "__doc__", None)}
    public = {
        cls for module, name in _names() if inspect.isclass(cls := getattr(importlib.import_module(module), name))
    }
    bare = [
        f"{cls.__module__}.{cls.__name__}.{name}"
        for cls in public
        for name, value in vars(cls).items()
        if not name.startswith("_")
        and (isinstance(value, property | staticmethod | classmethod) or inspect.isroutine(value))
        and name not in described
        and not inspect.getdoc(getattr(cls, name))
    ]
    assert not bare


def _application_files() -> list[Path]:
    rooms = [PACKAGE / room for room in APPLICATIONS]
    return sorted(file for root in [*rooms, REPOSITORY / "examples"] for file in root.rglob("*.py"))


@pytest.mark.parametrize("file", _application_files(), ids=lambda file: file.relative_to(REPOSITORY).as_posix())
def test_applications_of_the_library_import_public_names_only(file: Path) -> None:
    room = file.relative_to(PACKAGE).parts[0] if file.is_relative_to(PACKAGE) else None
    wrong = [
        f"line {line}: {module}.{name}"
        for line, module, name in _imports(ast.parse(file.read_text("utf-8")))
        if not (room and f"{module}.".startswith(f"s2connect.{room}.")) and not _is_public(module, name)
    ]
    assert not wrong, "do without, or make public what makers of devices need as well"


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_documents_import_public_names_only(page: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    imports = [found for block in blocks for found in _imports(ast.parse(block))]
    assert not [f"{module}.{name}" for _, module, name in imports if not _is_public(module, name)]
