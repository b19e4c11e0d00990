"""Sizing on paper: it goes the right way with everything that is given, and the documents show what it says."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import sizing
from benchmarks.sizing import COSTS, Fleet, costs, from_run, size
from benchmarks.table import Row, to_json
from s2connect.session.ownership import PROBE_EVERY

ROOT = Path(__file__).parents[2]
FLEETS = st.builds(
    Fleet,
    rms=st.integers(0, 2_000_000),
    period=st.floats(1, 3600),
    lifetime=st.floats(600, 1e6),
    new_pairings=st.floats(0, 1e5),
    zones=st.integers(1, 5),
    cores_per_machine=st.integers(1, 64),
    headroom=st.floats(0, 0.8),
)


@settings(max_examples=30, deadline=None)
@given(fleet=FLEETS, more=st.integers(0, 1_000_000))
def test_more_rms_never_need_less(fleet: Fleet, more: int) -> None:
    small, large = size(fleet, costs()), size(replace(fleet, rms=fleet.rms + more), costs())
    for name in (
        "messages",
        "cores",
        "instances",
        "machines",
        "commits",
        "transactions",
        "connections",
        "broker_nodes",
    ):
        assert getattr(small, name) <= getattr(large, name), name


@settings(max_examples=30, deadline=None)
@given(fleet=FLEETS, factor=st.floats(1, 10), which=st.sampled_from([one.name for one in COSTS]))
def test_dearer_work_never_needs_less(fleet: Fleet, factor: float, which: str) -> None:
    cheap = size(fleet, costs())
    dear = size(fleet, costs(**{which: costs()[which] * factor}))
    assert cheap.instances <= dear.instances
    assert cheap.commits <= dear.commits


@settings(max_examples=30, deadline=None)
@given(fleet=FLEETS)
def test_the_remaining_zones_carry_everything_within_the_headroom(fleet: Fleet) -> None:
    found = size(fleet, costs())
    assert found.use_without_zone <= (1 - fleet.headroom) * (1 + 1e-9)
    assert found.instances % fleet.zones == 0
    assert found.machines % fleet.zones == 0
    assert found.machines * fleet.cores_per_machine >= found.instances
    assert found.sessions * found.instances >= fleet.rms * (1 - 1e-9)
    assert found.initiations <= found.by_database


def test_instances_without_rms_write_too_and_leave_the_storm_the_rest() -> None:
    found = size(Fleet(rms=0, new_pairings=0), costs())
    assert (found.instances, found.commits) == (3, pytest.approx(3 / PROBE_EVERY))
    assert size(Fleet(rms=0, commits=0.5), costs()).initiations == 0
    assert size(Fleet(rms=0, commits=100.6), costs(initiation_commits=1)).by_database == pytest.approx(100)


def test_a_run_gives_its_unit_costs() -> None:
    rows = [Row(one.figure, "", 10.0) for one in COSTS if one.figure] + [Row("anything else", "", 1.0)]
    found = from_run(to_json("", rows))
    assert found == {one.name: 10.0 * one.factor for one in COSTS if one.figure}
    assert from_run(to_json("", [Row(COSTS[0].figure, "", None)])) == {}


@pytest.mark.parametrize(
    ("name", "value"), [("period", 0), ("rms", -1), ("zones", 0), ("headroom", 1), ("commits", 0), ("storm_use", 0)]
)
def test_what_cannot_be_sized_is_refused(name: str, value: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert sizing.main([f"--{name.replace('_', '-')}", str(value)]) == 2
    assert name in capsys.readouterr().err


def test_costs_are_given_by_their_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run.json"
    run.write_text(json.dumps({"rows": [{"figure": COSTS[0].figure, "ours": 492.0}]}))
    assert sizing.main(["--from", str(run), "--cost", "initiation_commits=1", "--no-broker"]) == 0
    printed = capsys.readouterr().out
    assert "| cores busy with them | 98." in printed
    assert "| of the database | 9,9" in printed
    with pytest.raises(SystemExit):
        sizing.main(["--cost", "nothing=1"])


def test_the_documents_show_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert sizing.main(["--rms", "1000000"]) == 0
    printed = capsys.readouterr().out.strip()
    page = (ROOT / "docs" / "scale.md").read_text("utf-8")
    assert printed in page, "put the output of python -m benchmarks sizing --rms 1000000 into docs/scale.md"


def test_the_documents_name_every_unit_cost_with_its_value() -> None:
    page = (ROOT / "docs" / "scale.md").read_text("utf-8")
    for one in COSTS:
        assert f"| `{one.name}` | {sizing.shown(one)} |" in page, one.name
    assert all(f.name in (Fleet.__doc__ or "") for f in fields(Fleet))
