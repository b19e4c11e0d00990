"""Fixtures of the tests that run the command."""

from tests.command import cem, rm, start

__all__ = ["cem", "rm", "start"]
