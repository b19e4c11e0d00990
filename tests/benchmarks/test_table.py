"""The table of the benchmarks: arguments, formatting, verdicts, budgets, pictures."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from benchmarks.__main__ import THEMES, arguments_of, main
from benchmarks.budgets import BUDGETS, S2PYTHON, Budget
from benchmarks.harness import Effort
from benchmarks.table import Row, from_json, missing, number, row, to_json

PARSED = next(one for one in BUDGETS if one.figure == "envelope and schema, 332 B")


def test_all_themes_are_measured_unless_some_are_named() -> None:
    assert arguments_of([]).themes == list(THEMES)
    arguments = arguments_of(["parsing", "gc", "--quick", "--json", "out.json"])
    assert (arguments.themes, arguments.quick, arguments.json) == (["parsing", "gc"], True, Path("out.json"))


def test_a_comparison_takes_one_or_two_commits_and_themes() -> None:
    arguments = arguments_of(["compare", "HEAD~3", "HEAD", "parsing", "--rounds", "3"])
    assert (arguments.commits, arguments.themes, arguments.rounds) == (["HEAD~3", "HEAD"], ["parsing"], 3)
    assert arguments_of(["compare", "d9753cd"]).commits == ["d9753cd"]


@pytest.mark.parametrize("argv", [["lunch"], ["compare"], ["compare", "parsing"], ["compare", "a", "b", "c"]])
def test_a_wrong_command_line_is_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        arguments_of(argv)
    assert ended.value.code == 2
    assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (0, "0"), (0.123, "0.12"), (9.876, "9.88"), (12.34, "12.3"), (1234.5, "1,234")],
)
def test_numbers_have_three_digits(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("ours", "peer", "verdict"),
    [(1.0, 10.0, "met"), (9.0, 10.0, "**missed**"), (1.0, None, "no peer"), (None, 10.0, "not measured")],
)
def test_a_ratio_is_held_against_its_budget(ours: float | None, peer: float | None, verdict: str) -> None:
    assert Row(PARSED.figure, "µs", ours, S2PYTHON, peer).verdict == verdict


def test_a_line_shows_ours_the_peer_the_ratio_the_budget_and_the_verdict() -> None:
    assert Row(PARSED.figure, "µs", 2.0, S2PYTHON, 10.0).as_line() == (
        "| envelope and schema, 332 B | µs | 2.00 | s2-python | 10.0 | 0.20 | ≤ 0.30 of peer | met |"
    )
    assert "| s2-python | not installed | |" in Row(PARSED.figure, "µs", 2.0, S2PYTHON).as_line().replace("  ", " ")
    assert Row("anything", "ms", 5.0).as_line() == "| anything | ms | 5.00 |  |  |  |  |  |"


def test_a_run_of_another_size_neither_meets_nor_misses_a_budget() -> None:
    figure = next(one.figure for one in BUDGETS if one.theme == "fleet")
    assert Row(figure, "ms", 1.0, smaller="20, 3 s").verdict == "only 20, 3 s"


@pytest.mark.parametrize(("value", "met"), [(1.6, True), (1.4, False)])
def test_a_lower_limit_is_met_from_above(value: float, *, met: bool) -> None:
    budget = Budget(theme="x", figure="x", unit="1/s", limit=1.5, peer="other", at_least=True)
    assert str(budget) == "≥ 1.50 of peer"
    assert budget.met(value * 100, 100.0) is met


def test_values_are_turned_into_the_unit_of_the_row() -> None:
    assert row("x", "µs", "p50", {"p50": 2e-6}, "peer", {"p50": 4e-6}).ratio == 0.5
    assert row("x", "KB", "bytes", {"bytes": 4000.0}).ours == 4.0


def test_what_a_theme_has_not_measured_is_named() -> None:
    rows = list(missing(["parsing"], [Row(PARSED.figure, "µs", 1.0, S2PYTHON, 2.0)]))
    assert len(rows) == sum(one.theme == "parsing" for one in BUDGETS) - 1
    assert {one.verdict for one in rows} == {"not measured"}


def test_a_run_can_be_written_and_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row(PARSED.figure, "µs", 2.0, S2PYTHON, 10.0), Row("anything", "ms", None)]
    file = tmp_path / "run.json"
    file.write_text(to_json("a machine", rows, [{"size": 1}]), "utf-8")
    assert from_json(file.read_text("utf-8")) == ("a machine", rows, [{"size": 1}])
    assert json.loads(file.read_text("utf-8"))["rows"][0]["verdict"] == "met"
    assert main(["--from", str(file)]) == 0
    printed = capsys.readouterr().out
    assert rows[0].as_line() in printed
    assert "1 met, 0 missed, of 1" in printed


def test_every_budget_is_in_one_row_of_one_theme_that_can_be_measured() -> None:
    assert len({(one.figure, one.peer) for one in BUDGETS}) == len(BUDGETS)
    assert {one.theme for one in BUDGETS} <= set(THEMES)
    for theme in THEMES:
        assert callable(importlib.import_module(f"benchmarks.{theme}").measure)


def test_growth_and_budgets_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is in the extra bench")
    import benchmarks.plots as plots

    curves = [
        {"subject": "store", "operation": "open", "size": size, "seconds": 1e-3, "may_grow": False} for size in (1, 10)
    ]
    plots.growth(curves, tmp_path / "growth.png")
    plots.budgets([Row(PARSED.figure, "µs", 2.0, S2PYTHON, 10.0)], tmp_path / "bars.png")
    for name in ("growth.png", "bars.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("theme", sorted({one.theme for one in BUDGETS}))
def test_a_short_piece_of_every_theme_measures_all_of_its_budgets(theme: str) -> None:
    from benchmarks.bridge import MOSQUITTO

    rows = list(importlib.import_module(f"benchmarks.{theme}").measure(Effort("piece")))
    left = [one.figure for one in missing([theme], rows)]
    assert [figure for figure in left if MOSQUITTO or "MQTT" not in figure] == []
    assert all(one.ours is not None and one.ours >= 0 for one in rows if one.budget)
