"""Pairing codes on the screen: pairing URL, code and QR code."""

from __future__ import annotations

import io
from datetime import datetime

from rich.text import Text

from s2connect.cli.terminal import clock
from s2connect.pairing.code import in_groups

QR_BORDER = 2  # modules of quiet around a QR code; scanners of phones need no more on a screen
QR_COLOURS = "#ffffff on #000000"  # of the light modules, which are drawn: right on light and dark terminals


def block(
    code: str,
    expires: datetime | None,
    pairing_url: str | None,
    *,
    page: str | None = None,
    grouped: bool = True,
    node: str = "",
) -> list[Text]:
    """Return what a person types at the other side, as lines that are not to be wrapped; ``page`` is the local page.

    Without ``grouped`` the code is as programs read it. ``node`` says which one is meant, where there are several.
    """
    to_pair = f"To pair {node}" if node else "To pair"
    lines = [Text(f"{to_pair}, type these two at the other device:"), code_line(code, expires, grouped=grouped)]
    if pairing_url is None:
        lines[0] = Text(f"{to_pair}, type this code at the energy manager:")
    else:
        lines.insert(1, Text("  Pairing URL   ").append(pairing_url, style="bold"))
    if page is not None:
        lines.append(Text("  Also on page  ").append(page))
    return lines


def code_line(code: str, expires: datetime | None, *, grouped: bool) -> Text:
    """Return a line with a code and how long it is valid."""
    valid = f"valid once, until {clock(expires)}" if expires else "stays valid"
    return Text("  Pairing code  ").append(in_groups(code) if grouped else code, style="bold").append(f"  ({valid})")


def qr_lines(url: str, width: int) -> list[Text]:
    """Return a URL as QR code for a phone, and an empty line below; nothing if the terminal has not the columns."""
    drawn = qr_code(url, width)
    return [Text(drawn, style=QR_COLOURS), Text()] if drawn is not None else []


def qr_code(text: str, width: int) -> str | None:
    """Return a QR code for a terminal; None if it has fewer columns than the code needs."""
    import segno

    code = segno.make(text, error="l", micro=False)
    if code.symbol_size(border=QR_BORDER)[0] > width:
        return None
    out = io.StringIO()
    code.terminal(out, border=QR_BORDER, compact=True)
    return out.getvalue().rstrip("\n")
