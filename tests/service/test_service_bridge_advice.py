"""Advice for a bridge instead of that for an endpoint of its own."""

from __future__ import annotations

import pytest

from s2connect.service.bridge_advice import in_bridge


@pytest.mark.parametrize(
    ("advice", "for_bridge"),
    [
        (
            "Listen on another: s2connect config set bind ADDRESS (or --bind), or on all: s2connect config unset bind",
            'Listen on another: bind = "ADDRESS" in [endpoint] of b.toml, or on all: '
            "without bind in [endpoint] of b.toml",
        ),
        (
            "Take one from 1024 on: s2connect config set port 8443 (or --port).",
            "Take one from 1024 on: port = 8443 in [endpoint] of b.toml.",
        ),
        (
            "Correct it: s2connect config set proxy http://HOST:PORT, or unset proxy",
            'Correct it: url = "http://HOST:PORT" in [proxy] of b.toml, or without url in [proxy] of b.toml',
        ),
        (
            "Correct it with: s2connect config set certificate FILE private-key FILE, or set host NAME",
            'Correct it with: certificate = "FILE" and private_key = "FILE" in [endpoint] of b.toml, '
            'or host = "NAME" in [endpoint] of b.toml',
        ),
        (
            "Switch it on: s2connect config set advertise on, or have another program publish the name.",
            "Switch it on: advertise = true in [endpoint] of b.toml, or have another program publish the name.",
        ),
        (
            "Choose others: --page-bind, s2connect config set page.port, or [page] of a bridge.",
            "Choose others: --page-bind, port in [page] of b.toml, or [page] of a bridge.",
        ),
        ("Make a new one with: s2connect code --static", "Make a new one with: s2connect bridge pair b.toml"),
        (
            "No pairings yet. To pair, show a code with s2connect code, or type that of another: s2connect pair",
            "No pairings yet. To pair, run: s2connect bridge pair b.toml",
        ),
        ("The pairings: s2connect pairings", "The pairings: s2connect pairings"),
        ("It is set, and unset bind is no command", "It is set, and unset bind is no command"),
    ],
)
def test_a_bridge_gets_the_advice_for_its_file(advice: str, for_bridge: str) -> None:
    assert in_bridge(advice, "b.toml") == for_bridge
