"""The status page of a bridge: one HTML document, without scripts and without anything from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from datetime import datetime
from html import escape
from typing import Final

from s2connect.bridge.link_state import LinkState
from s2connect.model.text import for_display, span
from s2connect.web.rows import COLUMNS, LEGEND, Object, Row, failed_sentence, no_links, sides_of

REFRESH: Final = 5
"""Seconds after which a browser loads the page again."""

MAX_ROWS: Final = 1000
"""Links of a route that are shown, those that are not up first; the heads count all."""

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #60646c; --line: #e0e1e6; --paper: #fff; --ground: #f5f6f8;
  --good: #18794e; --good-ground: #e6f6eb; --bad: #b4232a; --bad-ground: #feebec;
  --wait: #8a5a00; --wait-ground: #fff3d6; --calm-ground: #eceef1; }
@media (prefers-color-scheme: dark) { :root { --ink: #edeef0; --soft: #a8adb5; --line: #34373d; --paper: #1b1d21;
  --ground: #111214; --good: #6ee7a8; --good-ground: #12351f; --bad: #ff9a9a; --bad-ground: #46171a;
  --wait: #ffce6b; --wait-ground: #3d2c05; --calm-ground: #2a2d33; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 2rem 1.25rem; background: var(--ground); color: var(--ink);
  font: 1rem/1.45 system-ui, sans-serif; }
header { display: flex; flex-wrap: wrap; align-items: baseline; gap: .25rem 1rem; margin-bottom: 1.5rem; }
h1 { margin: 0; font-size: 1.6rem; }
h2 { margin: 0; font-size: 1.1rem; }
p { margin: 0; }
section { margin-bottom: 1.25rem; padding: 1rem 1.25rem; background: var(--paper); border: 1px solid var(--line);
  border-radius: .6rem; }
.head { display: flex; flex-wrap: wrap; align-items: baseline; gap: 0 .75rem; margin-bottom: .5rem; }
.soft, small, footer { color: var(--soft); }
small { font-size: .85rem; }
table { width: 100%; border-collapse: collapse; table-layout: fixed; }
th:nth-child(1) { width: 19%; }
th:nth-child(2) { width: 25%; }
th:nth-child(n+3) { width: 11%; }
th:nth-child(n+5) { width: 13%; }
th:nth-child(7) { width: 8%; }
th { padding: .35rem .75rem .35rem 0; color: var(--soft); font-size: .8rem; font-weight: 600; text-align: left; }
td { padding: .55rem .75rem .55rem 0; border-top: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere; }
td:first-child { font-weight: 600; }
td:nth-child(n+5) { font-variant-numeric: tabular-nums; }
.state { display: inline-block; padding: .05rem .6rem; border-radius: 1rem; background: var(--calm-ground);
  font-size: .9rem; font-weight: 600; }
.good { background: var(--good-ground); color: var(--good); }
.bad { background: var(--bad-ground); color: var(--bad); }
.wait { background: var(--wait-ground); color: var(--wait); }
.why { display: block; }
.failed { border-color: var(--bad); color: var(--bad); }
footer { font-size: .85rem; }
@media (max-width: 56rem) {
  table, tbody { display: block; }
  thead { display: none; }
  tr { display: block; padding: .6rem 0; border-top: 1px solid var(--line); }
  td { display: flex; gap: .75rem; padding: .15rem 0; border: 0; }
  td:empty { display: none; }
  td::before { content: attr(data-of); flex: 0 0 8.5rem; color: var(--soft); }
  td:first-child::before { content: none; }
}
"""

_COLOURS: Final = {
    LinkState.UP: "good",
    LinkState.FAILED: "bad",
    LinkState.REFUSED: "bad",
    LinkState.UNPAIRED: "wait",
    LinkState.PARTING: "wait",
}

_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

HEADERS: Final = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_HASH}'; img-src data:; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
"""HTTP headers of the page: nothing is loaded or run, and no other page may embed it."""


def status_page(status: Object, now: datetime) -> str:
    """Write the page from :meth:`s2connect.bridge.bridge.Bridge.status`, whose texts may be anybody's."""
    links = [link for route in status["routes"] for link in route["links"]]
    up = sum(link["state"] == LinkState.UP for link in links)
    running = f"running for {span(status['running_for'])}"
    routes = "".join(part for route in status["routes"] for part in _route(route))
    failed = "".join(
        f'<section class="failed">{_text(failed_sentence(one), 500)}</section>' for one in status["failed"]
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="refresh" content="{REFRESH}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>{up} of {len(links)} up: S2 bridge</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>{up} of {len(links)} links up</h1>"
        f'<p class="soft">S2 bridge, {running}<br>{_text(status["file"], 300)}</p></header>\n'
        f"<main>\n{failed}{routes}</main>\n"
        f"<footer><p>{LEGEND}</p><p>As of {now:%Y-%m-%d %H:%M:%S %Z}; loaded again every {REFRESH} seconds. For"
        ' programs: <a href="status.json">status.json</a>, <a href="metrics">metrics</a>.</p></footer>\n'
        "</body>\n</html>\n"
    )


def _route(route: Object) -> Iterator[str]:
    sides = sides_of(route).replace("->", "→")
    yield (
        f'<section><div class="head"><h2>{_text(route["name"], 60)}</h2><span class="soft">{_text(sides, 100)}</span>'
        "</div>\n"
    )
    links = route["links"]
    if links:
        yield f"<table><thead><tr>{''.join(f'<th>{column}</th>' for column in COLUMNS)}</tr></thead>\n<tbody>\n"
        shown = links
        if len(links) > MAX_ROWS:
            shown = sorted(links, key=lambda link: bool(link["state"] == LinkState.UP))[:MAX_ROWS]
        yield from (_row(Row.of(link)) for link in shown)
        yield "</tbody></table>\n"
        if len(links) > MAX_ROWS:
            yield f'<p class="soft">and {len(links) - MAX_ROWS} more</p>\n'
    else:
        yield f'<p class="soft">{escape(no_links(route))}</p>\n'
    yield "</section>\n"


def _row(row: Row) -> str:
    lines = [(row.reason, 200)] * bool(row.reason) + [(one, 400) for one in row.refused]
    why = "".join(f'<small class="why">{_text(text, limit)}</small>' for text, limit in lines)
    colour = _COLOURS.get(LinkState(row.state), "")
    state = f'<div><span class="state {colour}">{row.state}</span> <small>{row.since}</small>{why}</div>'
    others = (row.device, row.manager, row.from_device, row.from_manager, row.retry)
    cells = (_text(row.link, 60), state, *(_text(text, 100) for text in others))
    inner = "".join(f'<td data-of="{of}">{cell}</td>' for of, cell in zip(COLUMNS, cells, strict=True))
    return f"<tr>{inner}</tr>\n"


def _text(text: str, limit: int) -> str:
    return escape(for_display(text, limit))
