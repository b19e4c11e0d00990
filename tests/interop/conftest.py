"""Software of others, each in an environment of its own (tests/peers.sh)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop.peer_processes import peer_python


@pytest.fixture(scope="session")
def s2auth() -> Path:
    return peer_python("s2auth")
