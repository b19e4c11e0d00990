"""Report of the long run of faults, which a later run goes on with, and its table."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from benchmarks.harness import percentile

FOUND: Final = ("lost", "duplicated", "reordered", "two sessions", "locked out", "late")
"""Names of what is counted, in the order of the table."""

GROUPS: Final = {
    "an instance": ("instance",),
    "the database or its standby": ("database", "standby"),
    "the balancer": ("balancer",),
    "a broker node": ("broker",),
}
"""Groups of the faults of the whole site, by the first words of their kinds."""


@dataclass
class Report:
    """Result of all runs so far.

    Attributes:
        seed: Of all faults: that of fault N is ``SEED:N``.
        instances: Number of instances.
        devices: Number of devices.
        over_mqtt: How many of them use MQTT, over a cluster of two brokers.
        kinds: Kinds of faults that are injected.
        runs: Runs: revision of the program, when it began, and number of the first fault.
        messages: Acknowledged messages, in both directions.
        found: By :data:`FOUND`, how often.
        examples: Some of them.
        errors: Errors that processes have logged with a traceback, and how often.
        faults: All faults: number, kind, device if it is that of one connection, when it began by the machine's
            monotonic clock, seconds that it lasted and until it had healed, and whether one of the whole site was
            beside it.
    """

    seed: int
    instances: int
    devices: int
    over_mqtt: int = 0
    kinds: list[str] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    messages: int = 0
    found: dict[str, int] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    faults: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read a report."""
        return cls(**json.loads(file.read_text("utf-8")))

    def write(self, file: Path) -> None:
        """Write the report, a fault a line; whole, or not at all."""
        value = asdict(self)
        faults = ",\n".join(map(json.dumps, value.pop("faults")))
        head = json.dumps(value, indent=1).removesuffix("\n}")
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as written:
            written.write(f'{head},\n "faults": [\n{faults}\n]\n}}\n')
        Path(written.name).replace(file)

    @property
    def next_number(self) -> int:
        """Number of the next fault. Those that were under way when a run ended are missing."""
        return max((fault["number"] for fault in self.faults), default=-1) + 1

    def lines(self) -> list[str]:
        """Return the report in Markdown."""
        over = f", {self.over_mqtt} of them over MQTT" if self.over_mqtt else ""
        found = ", ".join(f"{self.found.get(name, 0)} {name}" for name in FOUND)
        of_one = [fault for fault in self.faults if "device" in fault]
        of_site = [fault for fault in self.faults if "device" not in fault]
        rows = [
            f"{len(self.faults):,} faults, seed {self.seed}; {self.messages:,} messages of {self.devices} devices{over}"
            f" and {self.instances} instances were acknowledged: {found}.",
            "",
            *_HEAD,
            *_row("one connection", of_one),
        ]
        for group, kinds in GROUPS.items():
            rows += _row(group, [fault for fault in of_site if fault["kind"].split()[0] in kinds])
        rows += [*_row("all", self.faults), "", *_HEAD]
        for faults in (of_one, of_site):
            for kind in sorted({fault["kind"] for fault in faults}):
                rows += _row(kind, [fault for fault in faults if fault["kind"] == kind])
        return rows + ([""] if self.examples else []) + [f"{one}{self._meanwhile(one)}" for one in self.examples]

    def _meanwhile(self, example: str) -> str:
        """Return the faults that there were when an example was found: of its device, and of the whole site."""
        at, device = re.search(r" at (\d+\.\d+)", example), re.search(r" device (\d+)", example)
        if at is None or device is None:
            return ""
        kinds = [
            fault["kind"]
            for fault in self.faults
            if 0.0 <= float(at[1]) - fault["at"] <= fault["lasted"] + fault["healed"] + _LATER
            and fault.get("device", int(device[1])) == int(device[1])
        ]
        return f" (meanwhile: {', '.join(kinds)})" if kinds else ""


_LATER: Final = 4.0
"""Seconds for which a connection may still deliver what was held back after its device has healed."""

_HEAD: Final = ("| fault | number | healed, p50 | p99 | most |", "| --- | ---: | ---: | ---: | ---: |")


def _row(name: str, faults: Sequence[dict[str, Any]]) -> list[str]:
    if not faults:
        return []
    spans = [fault["healed"] for fault in faults]
    p50, p99 = percentile(spans, 0.5), percentile(spans, 0.99)
    return [f"| {name} | {len(spans):,} | {p50:.1f} s | {p99:.1f} s | {max(spans):.1f} s |"]
