"""Page of the limits: the named constants that bound what others may send, hold or make us wait for."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "s2connect"

BOUNDS = re.compile(
    r"MAX_|MIN_|_MAX$|_TIMEOUT|TIMEOUT$|_SECONDS|_BYTES|_LIMIT|LIMIT$|LIMITS$|_BUDGET|_BURST|BURST$|_PER_|_WITHIN|^LONGEST_|_AGE$|_ROOM"
)
"""Names of constants that bound something."""

TITLES = {
    "pairing": "Pairing",
    "session": "Sessions",
    "messages": "Messages",
    "https": "HTTPS, and connections before a session",
    "transports": "WebSocket, MQTT and plain S2",
    "discovery": "Discovery and registries",
    "endpoint": "The endpoint",
    "certs": "Certificates",
    "store": "State",
    "bridge": "The bridge",
    "web": "The page and metrics",
    "service": "The service and its control socket",
    "model": "Objects on the wire",
    "events": "Events",
    "diagnostics": "Files that are read by `validate` and `replay`",
}
"""Rooms with limits, in the order of the page."""

HEAD = """# Limits in numbers

Every constant that bounds what a peer, a stranger or a file may send, hold or make us wait for. Made from the code.
[Security](../security.md) says against whom each of them stands, and what is not claimed. Times are in seconds.
"""


@dataclass(frozen=True, slots=True)
class Limit:
    """A named constant."""

    room: str
    file: str
    name: str
    value: str
    meaning: str


def page() -> str:
    """Return the page."""
    found = list(limits())
    parts = [HEAD]
    for room, title in TITLES.items():
        rows = [limit for limit in found if limit.room == room]
        if rows:
            parts += [f"## {title}", "", "| limit | value | meaning |", "| --- | --- | --- |"]
            parts += [f"| `{row.name}` | {row.value} | {row.meaning} |" for row in rows]
            parts.append("")
    return "\n".join(parts)


def limits() -> Iterator[Limit]:
    """Return the constants of all rooms that bound something and say what, in the order of the files."""
    for file in sorted(PACKAGE.rglob("*.py")):
        path = file.relative_to(PACKAGE)
        room = path.parts[0].removesuffix(".py")
        if room not in TITLES:
            continue
        text = file.read_text("utf-8")
        for name, node, meaning in constants(text):
            value = _value(node, in_bytes="BYTES" in name or "CHARACTERS" in name)
            if BOUNDS.search(name) and value and meaning:
                yield Limit(room, str(path), name, value, _sentence(meaning))


def constants(text: str) -> Iterator[tuple[str, ast.expr, str]]:
    """Return the public constants of a module: name, value, and the text below or behind it."""
    lines = text.splitlines()
    body = ast.parse(text).body
    for node, following in zip(body, [*body[1:], None], strict=True):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                pass
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                pass
            case _:
                continue
        if not name.isupper() or name.startswith("_"):
            continue
        match following:
            case ast.Expr(value=ast.Constant(value=str(meaning))):
                pass
            case _:
                meaning = lines[(node.end_lineno or node.lineno) - 1].partition("  # ")[2]
        yield name, value, " ".join(meaning.split())


def _value(node: ast.expr, *, in_bytes: bool) -> str:
    """Return the number of an expression of numbers, as a person writes it; empty for anything else."""
    try:
        value = eval(compile(ast.Expression(node), "limit", "eval"), {"__builtins__": {}})  # noqa: S307 - our own code
    except Exception:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    if not isinstance(value, int):
        return f"{value:g}"
    for unit, size in (("MiB", 1024 * 1024), ("KiB", 1024)):
        if in_bytes and value >= size and value % size == 0:
            return f"{value // size} {unit}"
    return f"{value:,}"


def _sentence(text: str) -> str:
    text = text.replace("``", "`").replace("|", "\\|").replace("<", "&lt;")
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text)
    return text[:1].upper() + text[1:]
