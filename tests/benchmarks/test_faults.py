"""A short run of injected faults, with real instances and a real database."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("psycopg")

from benchmarks import faults
from benchmarks.faults import KINDS, Report, Site
from tests.postgresql import need_postgresql


def test_every_kind_of_fault_can_be_named() -> None:
    assert sorted(KINDS) == sorted(Site.kinds.fget(Site.__new__(Site)))  # type: ignore[attr-defined]


def test_a_report_says_what_was_found_and_how_long_it_took() -> None:
    report = Report(7, 2, 3, 1234, {"lost": 2}, ["lost: message 5 of device 1"])
    report.faults = [{"number": n, "kind": "balancer cut", "lasted": 0.0, "healed": float(n)} for n in range(100)]
    text = "\n".join(report.lines())
    assert "100 faults, seed 7: 1,234 messages of 3 devices" in text
    assert "2 lost, 0 duplicated, 0 reordered" in text
    assert "| balancer cut | 100 | 50.00 s | 99.00 s | 99.00 s |" in text
    assert "lost: message 5 of device 1" in text


@pytest.mark.long
@pytest.mark.timeout(400)
def test_faults_lose_double_and_reorder_nothing_and_the_run_goes_on_where_it_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    need_postgresql()
    file = tmp_path / "report.json"
    arguments = ["--seed", "3", "--devices", "4", "--report", str(file)]
    assert faults.main([*arguments, "--faults", "6"]) == 0
    assert faults.main([*arguments, "--faults", "8"]) == 0
    report = Report(**json.loads(file.read_text("utf-8")))
    assert [fault["number"] for fault in report.faults] == list(range(8))
    assert report.messages > 100
    assert report.found == {}
    assert "0 lost, 0 duplicated, 0 reordered, 0 two sessions, 0 locked out" in capsys.readouterr().out
