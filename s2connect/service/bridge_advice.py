"""Advice for the home of a bridge: its settings stand in its file, and ``bridge pair`` pairs it."""

from __future__ import annotations

import re
from typing import Final

_SET: Final = re.compile(
    r"(?:s2connect config )?\b(?P<verb>set|unset) (?P<pairs>[a-z][a-z._-]*(?: (?!or\b)[^\s,;)`]*[^\s,;)`.])?"
    r"(?: private-key FILE)?)(?: \(or --[a-z]+\))?"
)
_BOTH: Final = re.compile(r"[Ss]how a (?:new )?code with s2connect code, or type that of another: s2connect pair\b")
_COMMAND: Final = re.compile(r"\bs2connect (code|pair|serve)\b(?: --static)?")


def in_bridge(text: str, file: str = "FILE") -> str:
    """Return a text whose advice for an endpoint is that for a bridge with this file."""
    if "s2connect " not in text:
        return text
    if "s2connect config " in text:
        text = _SET.sub(lambda found: _setting(found["verb"], found["pairs"].split(), file), text)
    text = _BOTH.sub(f"run: s2connect bridge pair {file}", text)
    return _COMMAND.sub(lambda found: f"s2connect bridge {'run' if found[1] == 'serve' else 'pair'} {file}", text)


def _setting(verb: str, words: list[str], file: str) -> str:
    names, values = words[::2], words[1::2]
    section, _, member = names[0].rpartition(".")
    if names[0].startswith("proxy"):
        section, names = "proxy", ["url" if names[0] == "proxy" else "exceptions"]
    elif section:
        names = [member]
    place = f"[{section or 'endpoint'}] of {_shown(file)}"
    names = [name.replace("-", "_") for name in names]
    if verb == "unset":
        return f"without {names[0]} in {place}"
    if not values:
        return f"{names[0]} in {place}"
    return f"{' and '.join(f'{n} = {_value(v)}' for n, v in zip(names, values, strict=False))} in {place}"


def _shown(file: str) -> str:
    return "the file of the bridge" if file == "FILE" else file


def _value(text: str) -> str:
    truth = {"on": "true", "off": "false"}
    return truth.get(text, text if text.isdecimal() else f'"{text}"')
