"""Log-in page: a password, or the token of a one-time link, which the script takes out of the address."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Final


@dataclass(frozen=True, slots=True)
class LogInState:
    """State of a log-in, for its page.

    Attributes:
        has_password: A password is set, so that one can be typed.
        problem: What is wrong, as a sentence; empty at first.
        retry_after: Seconds to wait before the next attempt.
    """

    has_password: bool
    problem: str = ""
    retry_after: int = 0


SCRIPT: Final = """"use strict";
// The token of a one-time link comes after the # of its address: it is in no log and no Referer.
const token = location.hash.slice(1);
if (token) {
  history.replaceState(null, "", location.pathname);
  const form = document.getElementById("link");
  form.elements.link.value = token;
  form.submit();
}
"""

LINK_HINT: Final = "A one-time link: run <code>s2connect page link</code> where the service runs."


def log_in_page(state: LogInState) -> str:
    """Write the page."""
    problem = f'<p role="alert">{escape(state.problem)}</p>\n' if state.problem else ""
    password = (
        '<form method="post" action="/log-in">\n<label for="password">Password</label>\n'
        '<input id="password" name="password" type="password" autocomplete="current-password" required autofocus>\n'
        "<button>Log in</button>\n</form>\n"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        '<title>Log in: S2 Connect</title>\n<link rel="stylesheet" href="/static/page.css">\n</head>\n<body>\n<main>\n'
        f"<h1>Log in</h1>\n{problem}{password if state.has_password else ''}<p>{LINK_HINT}</p>\n"
        '<form id="link" method="post" action="/log-in" hidden><input name="link" type="hidden"></form>\n'
        '</main>\n<script src="/log-in.js"></script>\n</body>\n</html>\n'
    )
