"""Fuzz one target, guided by coverage: ``python -m tests.fuzz.fuzz_run TARGET SECONDS DIRECTORY [CORPUS...]``.

New inputs that reach new code are written to DIRECTORY. An input that raises ends the run with exit code 1 and is
written there as ``crash-…``; the slowest inputs are written as ``slow-…``, for ``test_fuzz_corpus.py`` to time without
instrumentation.
"""

from __future__ import annotations

import hashlib
import heapq
import logging
import re
import sys
import tempfile
import time
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["s2connect"]):
    from tests.fuzz.fuzz_targets import TARGETS

KEPT_SLOW = 5
"""Slowest inputs that are written at the end."""

MAX_SECONDS_PER_INPUT = 60
"""An input that takes longer is a finding, also where others use the machine; CPU is bounded elsewhere."""


def _dictionary(seeds: list[bytes]) -> str:
    """Write the words of the seeds as libFuzzer reads them: names of members and of values."""
    words = {word for seed in seeds for word in re.findall(rb"[A-Za-z0-9_.:/-]{3,40}", seed)}
    return "".join(f'"{word.decode()}"\n' for word in sorted(words))


def main(name: str, seconds: int, directory: Path, corpora: list[Path]) -> None:
    """Fuzz ``name`` for ``seconds``."""
    logging.disable()
    target = TARGETS[name]
    directory.mkdir(parents=True, exist_ok=True)
    seeds = list(target.seeds())
    for number, seed in enumerate(seeds):
        (directory / f"seed-{number}").write_bytes(seed)
    words = Path(tempfile.mkdtemp()) / "words"
    words.write_text(_dictionary(seeds), "ascii")
    slow: list[tuple[float, bytes]] = []
    kept: set[bytes] = set()

    def run(data: bytes) -> None:
        begun = time.thread_time()
        target.run(data)
        cost = time.thread_time() - begun
        key = hashlib.sha256(data).digest()
        if (len(slow) < KEPT_SLOW or cost > slow[0][0]) and key not in kept:
            kept.add(key)
            heapq.heappush(slow, (cost, data))
            if len(slow) > KEPT_SLOW:
                heapq.heappop(slow)
            for number, (_, worst) in enumerate(slow):  # libFuzzer ends the process without running what is behind it
                (directory / f"slow-{number}").write_bytes(worst)

    options = [
        f"-max_total_time={seconds}",
        f"-max_len={target.max_bytes}",
        f"-dict={words}",
        f"-timeout={MAX_SECONDS_PER_INPUT}",
        f"-artifact_prefix={directory}/",
        "-rss_limit_mb=1500",
        "-print_final_stats=1",
        "-verbosity=0",
    ]
    atheris.Setup([sys.argv[0], *options, str(directory), *map(str, corpora)], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), [Path(path) for path in sys.argv[4:]])
