"""A minute of fuzzing that is guided by coverage: nothing but documented errors, and nothing slow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.fuzz_targets import TARGETS
from tests.fuzz.test_fuzz_corpus import CORPUS, MAX_SECONDS, _cost

pytest.importorskip("atheris", reason="atheris has no wheel for this Python: pip install atheris")

SECONDS = max(1, 60 // len(TARGETS))
"""For each target: a minute in all."""


@pytest.mark.long
@pytest.mark.rule("SEC-03", "SEC-04")
@pytest.mark.timeout(SECONDS + 120)
@pytest.mark.parametrize("name", TARGETS)
def test_guided_fuzzing_finds_nothing(name: str, tmp_path: Path) -> None:
    corpus = [str(CORPUS / name)] if (CORPUS / name).is_dir() else []
    found = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.fuzz_run", name, str(SECONDS), str(tmp_path / "new"), *corpus],
        capture_output=True,
        text=True,
        timeout=SECONDS + 100,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-4000:]
    assert "stat::number_of_executed_units" in found.stderr
    slow = {path.name: _cost(TARGETS[name], path.read_bytes()) for path in (tmp_path / "new").glob("slow-*")}
    assert slow
    assert not {what: cost for what, cost in slow.items() if cost > MAX_SECONDS}
