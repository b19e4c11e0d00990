"""Templates of the page: every text that they show is cleaned first, then escaped."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from s2connect.errors import ConfigurationError
from s2connect.model.text import for_display, span

if TYPE_CHECKING:
    from jinja2 import Environment

MAX_TEXT: Final = 600
"""Longest text that a template shows without naming a limit of its own, in characters."""

STATIC: Final = {"page.css": "text/css", "page.js": "text/javascript", "login.js": "text/javascript"}
"""Files that the page loads, with their types."""


def render(name: str, /, **values: Any) -> str:
    """Write a template of ``templates`` as HTML.

    Raises:
        ConfigurationError: The extra ``web`` is not installed.
    """
    return _environment().get_template(name).render(values)


def static_file(name: str) -> bytes:
    """Return the content of one of the :data:`STATIC` files."""
    return (resources.files("s2connect.web") / "static" / name).read_bytes()


@cache
def _environment() -> Environment:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError:
        raise ConfigurationError("The page needs the package Jinja2.", hint="pip install 's2connect[web]'") from None
    environment = Environment(
        autoescape=True,
        auto_reload=False,
        finalize=_clean,
        loader=PackageLoader("s2connect.web"),
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"shown": for_display, "span": span}
    return environment


def _clean(value: Any) -> Any:
    """Clean what an expression of a template shows: texts may be anybody's. HTML of our own stays as it is."""
    return for_display(value, MAX_TEXT) if type(value) is str else value
