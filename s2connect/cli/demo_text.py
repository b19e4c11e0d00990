"""How the demonstration looks: text for people, or one JSON object a line."""

from __future__ import annotations

import json
from typing import Any

from rich.text import Text

from s2connect.cli.demo import Narrator
from s2connect.cli.show import console

_STYLES = {"code": "bold", "paired": "bold green", "session": "bold green", "unpaired": "bold"}


def narrator(*, as_json: bool) -> Narrator:
    """Who tells the steps on standard output."""
    if as_json:
        return _tell_json
    out = console()

    def tell(step: str, text: str, details: dict[str, Any]) -> None:
        line = Text(text, style=_STYLES.get(step, ""))
        if step == "message":
            line.append(f"  ({details['message']['message_type']})", style="dim")
        out.print(Text("• ").append(line) if step == "message" else line)

    return tell


def _tell_json(step: str, text: str, details: dict[str, Any]) -> None:
    print(json.dumps({"step": step, "text": text, **details}), flush=True)
