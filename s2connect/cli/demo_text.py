"""Presentation of the demonstration: text for people, or one JSON object a line."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Final

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from s2connect.cli.show import plain_table
from s2connect.cli.terminal import console
from s2connect.demo.demonstration import Narrator

_STYLES: Final = {
    "sessions": "bold",
    "talk": "bold",
    "broker_lost": "yellow",
    "broker_back": "green",
    "messages": "bold",
}
_LISTED: Final = ("device", "link", "message")
_COUNTED: Final = {
    "forwarded": "passed on",
    "acknowledged": "answered by the other end",
    "refused": "refused by the bridge",
    "unanswered": "not answered in time",
}


def narrator(*, as_json: bool) -> Narrator:
    """Return the narrator that writes the steps to standard output."""
    if as_json:
        return _tell_json
    out = console()
    out.print(
        "Simulated: the devices and what they do; their time runs some 600 times faster. Real: every process,"
        " connection, certificate, code and message."
    )

    def tell(step: str, text: str, details: dict[str, Any]) -> None:
        line = Text(text, style=_STYLES.get(step, ""))
        if step == "message":
            line = Text(f"{datetime.fromisoformat(details['at']):%H:%M}  ", style="dim").append(line)
            if "kind" in details:
                line.append(f"  {details['kind']}", style="dim")
        out.print(Padding(line, (0, 0, 0, 2), expand=False) if step in _LISTED else line)
        if step == "messages":
            _count(out, details["messages"])

    return tell


def _count(out: Console, messages: dict[str, dict[str, dict[str, int]]]) -> None:
    rows = []
    for device, senders in messages.items():
        for sender, counts in senders.items():
            ends = (device, "cloud") if sender == "device" else ("cloud", device)
            rows.append([*ends, *(str(counts[fate]) for fate in _COUNTED)])
    out.print(plain_table(("from", "to", *_COUNTED.values()), rows))


def _tell_json(step: str, text: str, details: dict[str, Any]) -> None:
    print(json.dumps({"step": step, "text": text, **details}), flush=True)
