"""s2-python's parser on the same texts. Runs in its environment."""

import importlib.util
import json
import sys
import time
from pathlib import Path

from s2python.s2_parser import S2Parser

spec = importlib.util.spec_from_file_location("samples", Path(__file__).parent.parent / "samples.py")
assert spec is not None
assert spec.loader is not None
samples = importlib.util.module_from_spec(spec)
spec.loader.exec_module(samples)

texts = {name: json.dumps(sample, separators=(",", ":")) for name, sample in samples.READ.items()}
parser = S2Parser()
print("{}", flush=True)
for line in sys.stdin:
    question = json.loads(line)
    text, count, best = texts[question["sample"]], question["count"], float("inf")
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(count):
            parser.parse_as_any_message(text)
        best = min(best, (time.perf_counter() - began) / count)
    print(json.dumps({"parse": best}), flush=True)
