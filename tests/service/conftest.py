"""Fixtures of the tests that run the command."""

from tests.command import cem, rm, silent_server, start

__all__ = ["cem", "rm", "silent_server", "start"]
