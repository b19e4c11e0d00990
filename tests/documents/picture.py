"""Picture of README: two terminals in which an energy manager and a device are paired, drawn from what they write.

``python -m tests.documents.picture`` runs the commands of docs/tutorial/first-pairing.md and draws the picture anew.
The long tests hold its lines against what the commands write.
"""

from __future__ import annotations

import re
import tempfile
import textwrap
import time
from collections.abc import Iterator, Sequence
from html import escape, unescape
from pathlib import Path

from tests.documents.blocks import ROOT, blocks
from tests.documents.output import plain
from tests.documents.page import COLUMNS, Page
from tests.waits import Deadline

PICTURE = ROOT / "docs" / "images" / "pairing.svg"
PAGE = ROOT / "docs" / "tutorial" / "first-pairing.md"

WIDTH, HEIGHT, MARGIN = 7.5, 18, 14  # of a character, a line, and a border, in pixels

_QR = "█▀▄"
_HEAD = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img"'
    ' shape-rendering="crispEdges" aria-label="{label}">\n'
    "  <style>text {{ font: 12.4px ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace;"
    " white-space: pre; fill: #d7dae0 }} .command {{ fill: #8bd5a0; font-weight: bold }}</style>\n"
)


def draw(terminals: Sequence[tuple[str, str]], label: str) -> str:
    """Return terminals below each other as SVG: each a command, and what it has written."""
    y, drawn = 0.0, []
    for command, output in terminals:
        typed = textwrap.wrap(f"$ {command}", COLUMNS - 2, subsequent_indent="    ", break_on_hyphens=False)
        lines = plain(output).rstrip().splitlines()
        height = (len(typed) + len(lines)) * HEIGHT + 2 * MARGIN
        drawn.append(f'<rect y="{y:.0f}" width="100%" height="{height:.0f}" rx="8" fill="#1e2127"/>')
        at = y + MARGIN
        for kind, line in [*(("command", each) for each in typed), *(("output", each) for each in lines)]:
            drawn += [*_modules(line, at)] if set(line) & set(_QR) else [_text(kind, line, at)] if line else []
            at += HEIGHT
        y += height + MARGIN
    width = COLUMNS * WIDTH + 2 * MARGIN
    head = _HEAD.format(width=width, height=y - MARGIN, label=escape(label))
    return head + "".join(f"  {each}\n" for each in drawn) + "</svg>\n"


def lines_of(picture: str) -> str:
    """Return the lines that a picture has of the output of commands, without those that have a path."""
    found = map(unescape, re.findall(r'class="output"[^>]*>([^<]*)<', picture))
    return "".join(f"{line}\n" for line in found if "~/" not in line)


def _text(kind: str, line: str, y: float) -> str:
    return f'<text class="{kind}" x="{MARGIN}" y="{y + 0.72 * HEIGHT:.1f}">{escape(line)}</text>'


def _modules(line: str, y: float) -> Iterator[str]:
    """Yield a line of a QR code, half a line high each, as wide as they are high."""
    side = HEIGHT / 2
    for upper, at in ((True, y), (False, y + side)):
        lit = "".join("x" if each == "█" or (each != " " and (each == "▀") == upper) else " " for each in line)
        for found in re.finditer("x+", lit):
            x, wide = MARGIN + found.start() * side, len(found[0]) * side
            yield f'<rect x="{x:.0f}" y="{at:.0f}" width="{wide:.0f}" height="{side + 0.3:.1f}" fill="#fff"/>'


def make() -> str:
    """Return the picture of a pairing that takes place now."""
    with tempfile.TemporaryDirectory() as directory:
        page, terminals = Page(Path(directory)), []
        try:
            for block in blocks(PAGE):
                if "--home ems" in block.code or "--simulate" in block.code:
                    page.perform(block)
                if "s2connect serve" in block.code or "--simulate" in block.code:
                    terminals.append(block.code)
                if "--simulate" in block.code:
                    break
            serving, deadline = page.running[0], Deadline(10)
            while "opened" not in serving.output and deadline.left():
                time.sleep(0.05)
            until_opened = serving.output[: serving.output.index("\n", serving.output.index("opened"))]
            outputs = (each.replace(directory, "~") for each in (until_opened, page.commands[-1].output))
            label = "An energy manager shows a code, and a device pairs with it"
            return draw([*zip(terminals, outputs, strict=True)], label)
        finally:
            page.end()


if __name__ == "__main__":
    PICTURE.write_text(make(), "utf-8")
