"""The kits of other parts make the valid inputs that fuzzing begins with."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(TESTS / part) for part in ("messages", "pairing", "transports")]
