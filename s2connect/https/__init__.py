"""HTTPS, common to pairing and session initiation: the server on its one port, the client, the bounds of strangers."""

API_VERSIONS = ("v1",)
"""Major versions of the APIs that we serve and speak, best first (VER-01, VER-02)."""

SESSION_PATH = "/session/"
WEBSOCKET_PATH = "/session/websocket"
"""Paths of our APIs; peers learn them from our URLs."""
