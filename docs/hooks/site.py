"""Hook of mkdocs: adds the pages that are made from the code, and files of the repository from outside ``docs``.

Links stay those of the repository, so that they lead somewhere on the forge, too; here they become links of the site.
At the end no page may load anything from elsewhere.
"""

from __future__ import annotations

import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # mkdocs loads a hook by its path

from docs.hooks import api, commands, limits, problems, settings  # noqa: E402

COPIED = {
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "CODE_OF_CONDUCT.md": "project/conduct.md",
    "benchmarks/README.md": "project/benchmarks.md",
    "README.md": "project/readme.md",
}
"""Files of the repository that are pages of the site as well."""

LANGUAGES = {".py": "python", ".toml": "toml", ".js": "js", ".go": "go", ".service": "ini", ".mjs": "js"}
LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)#\s]+)(#[^)]*)?(\))")
ELSEWHERE = r"((?:https?:)?//[^\"'\s>)]+)"
LOADED = re.compile(rf"<(?:script|img|link|iframe|source)\b[^>]*\b(?:src|href)=[\"']?{ELSEWHERE}[^>]*>", re.I)
LOADED_BY_STYLE = re.compile(rf"url\(\s*[\"']?{ELSEWHERE}")
MAY_BE_NAMED = re.compile(r"<link\b[^>]*rel=[\"']?(?:canonical|prev|next)", re.I)


def examples() -> Iterator[Path]:
    """Return the files of the examples."""
    for file in sorted((ROOT / "examples").rglob("*")):
        if file.is_file() and file.suffix in LANGUAGES and "__pycache__" not in file.parts:
            yield file


def generated() -> dict[str, tuple[str, str]]:
    """Return the added pages: where they are in the site, to where in the repository they belong, and their content."""
    pages = {
        "reference/commands.md": ("docs/reference/commands.md", commands.page()),
        "reference/configuration.md": ("docs/reference/configuration.md", settings.page()),
        "reference/limits.md": ("docs/reference/limits.md", limits.page()),
        "reference/errors.md": ("docs/reference/errors.md", problems.page()),
    }
    for name, content in api.pages():
        pages[f"reference/api/{name}.md"] = (f"docs/reference/api/{name}.md", content)
    for source, target in COPIED.items():
        pages[target] = (source, (ROOT / source).read_text("utf-8"))
    for file in examples():
        path = file.relative_to(ROOT).as_posix()
        text = file.read_text("utf-8")
        pages[f"{path}.md"] = (path, f"# {file.name}\n\n`{path}`\n\n```{LANGUAGES[file.suffix]}\n{text}\n```\n")
    return pages


_pages: dict[str, tuple[str, str]] = {}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    _pages.update(generated())
    for target, (_, content) in _pages.items():
        inclusion = InclusionLevel.UNDEFINED if target.startswith("reference/") else InclusionLevel.NOT_IN_NAV
        files.append(File.generated(config, target, content=content, inclusion=inclusion))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turn links of the repository into links of the site."""
    here = page.file.src_uri
    return relinked(markdown, here, _pages[here][0] if here in _pages else f"docs/{here}")


def relinked(markdown: str, here: str, source: str) -> str:
    """Return a text whose links, written for ``source`` in the repository, lead to pages of the site from ``here``."""
    of_site = {origin: target for target, (origin, _) in _pages.items()}

    def turn(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[2]))
        if path == "examples":
            path = "docs/tutorial/five-uses.md"
        target = of_site.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else "")
        if not target or (here, source) == (target, path):
            return link[0]
        if (ROOT / "docs" / target).is_dir():
            target = f"{target}/README.md"
        return f"{link[1]}{posixpath.relpath(target, posixpath.dirname(here) or '.')}{link[3] or ''}{link[4]}"

    return LINK.sub(turn, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Leave out the roles of Sphinx, which docstrings have around names, and backslashes before ``|`` in tables."""
    html = re.sub(r":(?:class|meth|func|data|attr|exc|mod):(<code>)~?", r"\1", html)
    return re.sub(r"<td>.*?</td>", lambda cell: cell[0].replace("\\|", "|"), html, flags=re.DOTALL)


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a site that loads anything from elsewhere."""
    for file in Path(config.site_dir).rglob("*.html"):
        for found in LOADED.finditer(file.read_text("utf-8")):
            if not MAY_BE_NAMED.match(found[0]):
                raise PluginError(f"{file.relative_to(config.site_dir)} loads {found[1]}")
    for file in Path(config.site_dir).rglob("*.css"):
        for found in LOADED_BY_STYLE.finditer(file.read_text("utf-8")):
            raise PluginError(f"{file.relative_to(config.site_dir)} loads {found[1]}")
