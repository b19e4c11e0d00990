"""Text for a person: cleans names from the network for terminals and logs, and formats lengths of time."""

from __future__ import annotations

import unicodedata

_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def for_display(text: str, limit: int = 80) -> str:
    """Return the text without control, format and unassigned characters, cut to ``limit`` characters.

    Use it on every name that came from a peer before a person or a log sees it; compare the raw value where it decides.
    """
    if len(text) <= limit and text.isascii() and text.isprintable():
        return " ".join(text.split())
    shown = "".join(" " if unicodedata.category(c) in _INVISIBLE else c for c in text[: limit * 4])
    shown = " ".join(shown.split())
    return shown if len(shown) <= limit and len(text) <= limit * 4 else shown[: limit - 1] + "…"


def until(seconds: float) -> str:
    """Return when something comes that comes after some seconds: ``now``, or ``in 6 h``."""
    return "now" if seconds < 0.5 else f"in {span(seconds)}"


def span(seconds: float) -> str:
    """Return a rounded length of time, e.g. ``6 h``."""
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
