"""Page of errors, refusals and warnings, made from their explanations."""

from __future__ import annotations

import re

HEAD = """# Errors and what helps

Every error has a code, its `kind`, which does not change. Programs read it in `error.kind` of `--json` and of the
sidecar's results, and in `kind` of an exception. `s2connect explain CODE` prints what is here, and the last line of an
error names that command. It also explains [the message rules](../message-rules.md), such as `FRBC-03`.
"""


def page() -> str:
    """Return the page."""
    from s2connect.diagnostics.explanations import GROUPS

    parts = [HEAD]
    for group in GROUPS:
        parts += [f"## {group.title}", "", group.about, "", "| code | meaning | what helps |", "| --- | --- | --- |"]
        for each in group.explanations:
            cures = "<br>".join(_cell(cure) for cure in each.cures)
            parts.append(f'| <span id="{each.code}">`{each.code}`</span> | {_cell(each.meaning)} | {cures} |')
        parts.append("")
    return "\n".join(parts)


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")
