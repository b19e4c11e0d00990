"""Names and modules that are loaded when they are first used, so that a small device pays only for what it uses."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package.

    Args:
        package: Its ``__name__``.
        homes: Its names, separated by spaces, by the module that defines them; the names of its own modules by "".
    """
    modules = {name: module for module, names in homes.items() for name in names.split()}

    def load(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = modules[name]
        value = getattr(import_module(module), name) if module else import_module(f"{package}.{name}")
        vars(import_module(package))[name] = value
        return value

    return load, lambda: sorted(modules)


async def load_in_thread(module: str) -> None:
    """Load a module that takes long the first time, in a thread; an import statement finds it afterwards."""
    if module not in sys.modules:
        from asyncio import to_thread

        await to_thread(import_module, module)
