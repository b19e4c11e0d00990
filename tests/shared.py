"""Where the standard's own files are, if they are at hand: they are not part of this repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("S2CONNECT_SHARED") or Path(__file__).resolve().parents[2] / "shared")
"""The folder ``shared`` beside the repository."""

SPEC = SHARED / "spec"

needs_files = pytest.mark.skipif(
    not SPEC.is_dir(), reason="the files of the standard are not in ../shared (or S2CONNECT_SHARED)"
)
